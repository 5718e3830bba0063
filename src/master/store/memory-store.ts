/** A `Store` in memory, for the simulator and for tests. What was committed is what a simulated machine has on disk. */
import { SortedMap } from './sorted-map.js';
import type { Key, KeyRange, Store, StoreChange } from './store.js';

export class MemoryStore implements Store {
  private readonly entries = new SortedMap<Uint8Array>();

  get(key: Key): Uint8Array | undefined {
    return this.entries.get(key);
  }

  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]> {
    return this.entries.range(range);
  }

  async commit(changes: Iterable<StoreChange>): Promise<void> {
    // Later values win, and the caller may reuse its list: taken over before the first await, as a database does.
    const taken = [...changes];
    await Promise.resolve();
    for (const { key, value } of taken) {
      if (value === null) this.entries.delete(key);
      else this.entries.set(key, value);
    }
  }

  /** Keeps its content: the next user of the object finds it, as after a restart. */
  close(): Promise<void> {
    return Promise.resolve();
  }
}
