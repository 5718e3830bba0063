/** Small building blocks for asynchronous code: mutual exclusion, bounded permits, a promise to settle later. */
import { CairnError } from './errors.js';
import { takeInOrder, type LockName } from './lock-order.js';
import type { Logger } from './logging/logger.js';

/**
 * For a promise that is awaited later: that it rejects before does not end the process. Whoever awaits it gets the
 * rejection all the same.
 */
export function watched<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

/** For work that nobody waits for and that handles its own failures: one that it did not handle is a fault, and is logged. */
export function unawaited(work: Promise<unknown>, logger: Logger, what: string): void {
  work.catch((error: unknown) => logger.error({ what, err: error }, 'background work failed by a fault in CairnFS'));
}

export interface Deferred<T> {
  /** May reject before anybody awaits it. */
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(error: unknown): void;
}

export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((res, rej) => {
    resolve = res;
    reject = rej;
  });
  return { promise: watched(promise), resolve, reject };
}

/** Counted permits, given in the order asked. At most `maxWaiters` wait; one more gets BUSY. */
export class Semaphore {
  private available: number;
  private readonly waiters: { count: number; wake: () => void }[] = [];

  constructor(
    private readonly permits: number,
    private readonly maxWaiters = Infinity,
  ) {
    this.available = permits;
  }

  /** Waits for `count` permits (capped at all of them) and returns the function that gives them back, once. */
  async acquire(count = 1): Promise<() => void> {
    const wanted = Math.min(count, this.permits);
    if (this.waiters.length > 0 || this.available < wanted) {
      if (this.waiters.length >= this.maxWaiters) {
        throw new CairnError('BUSY', `${this.waiters.length} operations wait already: slow down and try again`);
      }
      await new Promise<void>((wake) => this.waiters.push({ count: wanted, wake }));
    } else {
      this.available -= wanted;
    }
    let released = false;
    return () => {
      if (released) return;
      released = true;
      this.available += wanted;
      this.wakeWaiters();
    };
  }

  private wakeWaiters(): void {
    for (let first = this.waiters[0]; first !== undefined && first.count <= this.available; first = this.waiters[0]) {
      this.available -= first.count;
      this.waiters.shift();
      first.wake();
    }
  }

  get idle(): boolean {
    return this.available === this.permits && this.waiters.length === 0;
  }
}

/** Runs asynchronous sections one after another, in the order asked. */
export class Mutex {
  private readonly semaphore = new Semaphore(1);

  /** `key`: of several locks of that name. */
  constructor(
    private readonly name: LockName,
    private readonly key?: unknown,
  ) {}

  async run<T>(section: () => Promise<T> | T): Promise<T> {
    const hold = takeInOrder(this.name, this.key);
    const release = await this.semaphore.acquire();
    try {
      return await (hold === undefined ? section() : hold.run(section));
    } finally {
      hold?.end();
      release();
    }
  }

  get idle(): boolean {
    return this.semaphore.idle;
  }
}

/** A mutex a key, kept only while it is in use. */
export class KeyedMutex<K> {
  private readonly mutexes = new Map<K, Mutex>();

  constructor(private readonly name: LockName) {}

  isBusy(key: K): boolean {
    return this.mutexes.has(key);
  }

  async run<T>(key: K, section: () => Promise<T> | T): Promise<T> {
    let mutex = this.mutexes.get(key);
    if (mutex === undefined) {
      mutex = new Mutex(this.name, key);
      this.mutexes.set(key, mutex);
    }
    try {
      return await mutex.run(section);
    } finally {
      if (mutex.idle) this.mutexes.delete(key);
    }
  }
}
