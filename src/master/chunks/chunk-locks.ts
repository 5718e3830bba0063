/**
 * The lock of each chunk: held by all that changes the lease, the members or the replicas of a chunk.
 *
 * The lock of a hole (chunks/allocation.ts) comes before that of the chunk that fills it; nobody who holds the lock of one chunk
 * waits for that of another, but for a lost chunk and the new one that takes its place (core/lock-order.ts).
 */
import type { ChunkHandle } from '../../core/ids.js';
import { KeyedMutex } from '../../core/sync.js';

export class ChunkLocks {
  private readonly mutexes = new KeyedMutex<ChunkHandle>('master.chunk');
  private readonly watches = new Map<ChunkHandle, { granted: boolean }>();

  run<T>(handle: ChunkHandle, section: () => Promise<T> | T): Promise<T> {
    return this.mutexes.run(handle, section);
  }

  /** Tells whether a lease of the chunk was granted since, for work that does not hold its lock; one watch a chunk at a time. */
  watchGrants(handle: ChunkHandle): { readonly granted: boolean; end(): void } {
    const watch = { granted: false, end: () => this.watches.delete(handle) };
    this.watches.set(handle, watch);
    return watch;
  }

  /** A lease of the chunk is about to be granted. */
  noteGrant(handle: ChunkHandle): void {
    const watch = this.watches.get(handle);
    if (watch !== undefined) watch.granted = true;
  }
}
