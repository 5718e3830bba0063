/**
 * Values that were read from the store lately: a look-up there costs some 2 us, a path walk reads the same directories
 * again and again. Two generations: entries that are not asked for while the young one fills up are forgotten.
 *
 * It holds no key that the overlay or the log changed after it was read: whoever changes a key drops it here first, and
 * while the overlay has the key, nobody reads it from the store.
 */
import { READ_CACHE_ENTRIES, READ_CACHE_VALUE_BYTES } from '../../core/limits.js';
import type { Key, Store } from '../store/store.js';
import { audited } from '../../core/invariant.js';

export class ReadCache {
  private young = new Map<Key, Uint8Array>();
  private old = new Map<Key, Uint8Array>();

  constructor(private readonly store: Pick<Store, 'get'>) {}

  get(key: Key): Uint8Array | undefined {
    const young = this.young.get(key);
    if (young !== undefined) {
      this.auditCurrent(key, young);
      return young;
    }
    const value = this.old.get(key) ?? this.store.get(key);
    if (value !== undefined) this.auditCurrent(key, value);
    if (value !== undefined && value.length <= READ_CACHE_VALUE_BYTES) {
      if (this.young.size >= READ_CACHE_ENTRIES / 2) {
        this.old = this.young;
        this.young = new Map();
      }
      this.young.set(key, value);
    }
    return value;
  }

  private auditCurrent(key: Key, value: Uint8Array): void {
    const stored = (): Uint8Array => this.store.get(key) ?? new Uint8Array();
    audited(() => Buffer.compare(stored(), value) === 0, 'what was read from the store is what it has');
  }

  drop(key: Key): void {
    this.young.delete(key);
    this.old.delete(key);
  }
}
