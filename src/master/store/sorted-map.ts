/** A map in the order of its keys. The only importer of sorted-btree. */
import sortedBtree from 'sorted-btree';
import type { Key, KeyRange } from './store.js';

const compareKeys = (a: Key, b: Key): number => (a < b ? -1 : a > b ? 1 : 0);

export class SortedMap<V> {
  private readonly tree = new sortedBtree.default<Key, V>(undefined, compareKeys);

  get size(): number {
    return this.tree.size;
  }

  get(key: Key): V | undefined {
    return this.tree.get(key);
  }

  set(key: Key, value: V): void {
    this.tree.set(key, value);
  }

  delete(key: Key): void {
    this.tree.delete(key);
  }

  /** Entries in order. Each step seeks anew, so the map may change during the iteration. */
  *range(range: KeyRange): Generator<readonly [Key, V]> {
    let pair = this.tree.getPairOrNextHigher(range.start);
    while (pair !== undefined && pair[0] < range.end) {
      const key = pair[0];
      yield [key, pair[1]];
      pair = this.tree.nextHigherPair(key);
    }
  }

  *entries(): Generator<readonly [Key, V]> {
    yield* this.tree.entries();
  }
}
