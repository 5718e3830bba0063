/** Locks of the model: what each owner holds, as fcntl(2) and flock(2) say, and who waits. */
import { CairnError } from '../../../src/core/errors.js';
import type { LockHolder, LockKind, LockRequest } from '../../../src/filesystem/filesystem.js';
import { fail } from './model-state.js';

interface Held {
  readonly owner: string;
  readonly client: object;
  readonly type: 'read' | 'write';
  readonly start: number;
  readonly end: number;
  readonly pid: number;
}

interface Waiting {
  readonly request: LockRequest & { readonly type: 'read' | 'write' };
  readonly client: object;
  grant(): void;
}

const conflicts = (
  one: { readonly type: string; readonly start: number; readonly end: number },
  two: { readonly type: string; readonly start: number; readonly end: number },
): boolean => (one.type === 'write' || two.type === 'write') && one.start <= two.end && two.start <= one.end;

/** The locks of one kind on one inode. */
class ModelLocks {
  held: Held[] = [];
  waiting: Waiting[] = [];

  inTheWay(client: object, request: LockRequest): Held | undefined {
    return this.held
      .filter((held) => (held.owner !== request.owner || held.client !== client) && conflicts(held, request))
      .sort((a, b) => a.start - b.start)[0];
  }

  /** Takes the bytes out of what the owner holds, then adds them with the new type. */
  put(client: object, request: LockRequest): void {
    const { owner, type, start, end, pid } = request;
    const left: Held[] = [];
    for (const held of this.held) {
      if (held.owner !== owner || held.client !== client || held.end < start || held.start > end) left.push(held);
      else {
        if (held.start < start) left.push({ ...held, end: start - 1 });
        if (held.end > end) left.push({ ...held, start: end + 1 });
      }
    }
    if (type !== 'unlock') left.push({ owner, client, type, start, end, pid });
    this.held = left;
  }

  wake(): void {
    for (const waiting of [...this.waiting]) {
      if (this.inTheWay(waiting.client, waiting.request) !== undefined) continue;
      this.waiting = this.waiting.filter((other) => other !== waiting);
      this.put(waiting.client, waiting.request);
      waiting.grant();
    }
  }
}

/** All locks of a model cluster. A client is told apart by its object. */
export class ModelLockTable {
  private readonly files = new Map<string, ModelLocks>();

  private of(inode: number, kind: LockKind): ModelLocks {
    const key = `${inode}/${kind}`;
    const locks = this.files.get(key) ?? new ModelLocks();
    this.files.set(key, locks);
    return locks;
  }

  get(client: object, inode: number, request: LockRequest): LockHolder | undefined {
    const found = this.of(inode, request.kind).inTheWay(client, request);
    if (found === undefined) return undefined;
    const { type, start, end, pid } = found;
    return { type, start, end, pid: found.client === client ? pid : 0 };
  }

  async set(
    client: object,
    inode: number,
    request: LockRequest,
    options: { readonly wait: boolean; readonly signal?: AbortSignal },
  ): Promise<void> {
    const locks = this.of(inode, request.kind);
    const { type } = request;
    if (request.start > request.end || request.start < 0) fail('EINVAL', 'no such range');
    if (type === 'unlock' || locks.inTheWay(client, request) === undefined) {
      locks.put(client, request);
      locks.wake();
      return;
    }
    // flock(2): "the existing lock is first removed, and then a new lock is established".
    if (request.kind === 'flock') {
      locks.put(client, { ...request, type: 'unlock' });
      locks.wake();
    }
    if (!options.wait) fail('EAGAIN', 'locked by another');
    if (request.kind === 'posix' && this.wouldDeadlock(client, request, locks, new Set())) fail('EDEADLK', 'a circle');
    if (options.signal?.aborted === true) fail('EINTR', 'interrupted');
    await new Promise<void>((resolve, reject) => {
      const waiting: Waiting = { request: { ...request, type }, client, grant: resolve };
      locks.waiting.push(waiting);
      options.signal?.addEventListener('abort', () => {
        if (!locks.waiting.includes(waiting)) return;
        locks.waiting = locks.waiting.filter((other) => other !== waiting);
        reject(new CairnError('EINTR', 'model: interrupted'));
      });
    });
  }

  release(client: object, inode: number, kind: LockKind, owner: string): void {
    const locks = this.of(inode, kind);
    locks.held = locks.held.filter((held) => held.owner !== owner || held.client !== client);
    locks.wake();
  }

  private wouldDeadlock(client: object, request: LockRequest, locks: ModelLocks, seen: Set<Held>): boolean {
    for (const held of locks.held) {
      if ((held.owner === request.owner && held.client === client) || !conflicts(held, request)) continue;
      if (this.leadsTo(held, client, request.owner, seen)) return true;
    }
    return false;
  }

  /** Whether the owner of `held` waits, over any number of others, for `owner` of `client`. */
  private leadsTo(held: Held, client: object, owner: string, seen: Set<Held>): boolean {
    if (seen.has(held)) return false;
    seen.add(held);
    for (const locks of this.files.values()) {
      for (const waiting of locks.waiting) {
        if (waiting.request.kind !== 'posix') continue;
        if (waiting.request.owner !== held.owner || waiting.client !== held.client) continue;
        for (const next of locks.held) {
          if (!conflicts(next, waiting.request)) continue;
          if (next.owner === owner && next.client === client) return true;
          if (this.leadsTo(next, client, owner, seen)) return true;
        }
      }
    }
    return false;
  }
}
