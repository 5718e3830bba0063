/**
 * Which replicas were begun since a moment. What is asked to be deleted is what was there at that moment, or under way: not a
 * newer one that was made since, which looks the same.
 */
import type { ChunkHandle } from '../../core/ids.js';

export interface BegunSince {
  has(handle: ChunkHandle): boolean;
  end(): void;
}

export class Making {
  private readonly watches = new Set<Set<ChunkHandle>>();

  /** A replica of the chunk is being made from now on. */
  begins(handle: ChunkHandle): void {
    for (const watch of this.watches) watch.add(handle);
  }

  /** To be ended, as it remembers all that is made meanwhile. */
  watch(): BegunSince {
    const begun = new Set<ChunkHandle>();
    this.watches.add(begun);
    return { has: (handle) => begun.has(handle), end: () => this.watches.delete(begun) };
  }
}
