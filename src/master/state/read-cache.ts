/**
 * Values that were read from the store lately: a look-up there costs some 2 us, a path walk reads the same directories
 * again and again. Two generations: entries that are not asked for while the young one fills up are forgotten.
 *
 * INVARIANT: holds no key that the overlay or the log changed after it was read. Whoever changes a key drops it here
 * first; while the overlay has the key, nobody reads it from the store.
 */
import { READ_CACHE_ENTRIES, READ_CACHE_VALUE_BYTES } from '../../core/limits.js';
import type { Key, Store } from '../store/store.js';

export class ReadCache {
  private young = new Map<Key, Uint8Array>();
  private old = new Map<Key, Uint8Array>();

  constructor(private readonly store: Pick<Store, 'get'>) {}

  get(key: Key): Uint8Array | undefined {
    const young = this.young.get(key);
    if (young !== undefined) return young;
    const value = this.old.get(key) ?? this.store.get(key);
    if (value !== undefined && value.length <= READ_CACHE_VALUE_BYTES) {
      if (this.young.size >= READ_CACHE_ENTRIES / 2) {
        this.old = this.young;
        this.young = new Map();
      }
      this.young.set(key, value);
    }
    return value;
  }

  drop(key: Key): void {
    this.young.delete(key);
    this.old.delete(key);
  }
}
