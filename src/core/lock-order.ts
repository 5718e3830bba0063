/**
 * The order in which locks are taken: who holds one takes only later ones of this list, so that nobody waits in a circle. It is
 * checked where audits are on (core/invariant.ts), in one process: what another process does for it begins anew.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { isAuditing, invariant } from './invariant.js';

export const LOCK_ORDER = [
  // Of whoever uses the library, as a test does.
  'program',
  // client/data: one truncate of a file at a time, one sync, one message about its size and times.
  'client.truncate',
  'client.sync',
  'client.publish',
  // fuse/kernel/memory: the kernel is told to drop pages, one file after another.
  'mount.drop',
  // And to believe names no more, one after another.
  'mount.names',
  // master/chunks: the place in a file where a chunk is made, and the chunk (of two chunks, the one with the lower handle first).
  'master.hole',
  'master.chunk',
  // master/log: what is appended and flushed.
  'master.log',
  // chunkserver: mutations of a replica, the mending of its blocks, the file of a chunk, its blocks, the state of its directory.
  'chunkserver.replica',
  'chunkserver.mending',
  'chunkserver.chunk',
  'chunkserver.blocks',
  'chunkserver.session',
] as const;

export type LockName = (typeof LOCK_ORDER)[number];

class Hold {
  private isHeld = true;

  constructor(
    private readonly name: LockName,
    private readonly key: unknown,
    private readonly outer: Hold | undefined,
  ) {}

  demandAfter(name: LockName, key: unknown): void {
    // What was begun under a lock and goes on after it holds it no more.
    if (this.isHeld) {
      const isLater = LOCK_ORDER.indexOf(name) > LOCK_ORDER.indexOf(this.name);
      const isNext = name === this.name && typeof key === 'number' && typeof this.key === 'number' && key > this.key;
      invariant(isLater || isNext, `${name} is not taken by who holds ${this.name} (core/lock-order.ts)`);
    }
    this.outer?.demandAfter(name, key);
  }

  run<T>(section: () => T): T {
    return holds.run(this, section);
  }

  end(): void {
    this.isHeld = false;
  }
}

const holds = new AsyncLocalStorage<Hold | undefined>();

/** Before a lock is waited for. Returns what runs its section and is ended after it; undefined where audits are off. */
export function takeInOrder(name: LockName, key?: unknown): Hold | undefined {
  if (!isAuditing()) return undefined;
  const outer = holds.getStore();
  outer?.demandAfter(name, key);
  return new Hold(name, key, outer);
}

/** Runs what nobody who holds a lock waits for, or what a process does for another one. */
export function outsideLocks<T>(work: () => T): T {
  return isAuditing() ? holds.run(undefined, work) : work();
}
