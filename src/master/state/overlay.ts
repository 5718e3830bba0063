/**
 * What the operation log holds that the store does not have yet, in memory: two generations of changed keys. Mutations
 * go to the active one; the committing one is being written to the store and hides what the store has until that is
 * done. A null value is a tombstone: the key is deleted, whatever lies below.
 */
import { SortedMap } from '../store/sorted-map.js';
import type { Key, KeyRange, NewValue, StoreChange } from '../store/store.js';
import { invariant } from '../../core/invariant.js';

/** A rough cost of an entry beside its bytes: the map's and the tree's slots. */
const ENTRY_OVERHEAD_BYTES = 100;

class Generation {
  private readonly values = new Map<Key, NewValue>();
  /** The keys of `values`, in order. Look-ups by key are many and go to the hash map. */
  private readonly order = new SortedMap<undefined>();
  bytes = 0;

  get size(): number {
    return this.values.size;
  }

  get(key: Key): NewValue | undefined {
    return this.values.get(key);
  }

  set(key: Key, value: NewValue): void {
    const before = this.values.get(key);
    if (before === undefined) {
      this.order.set(key, undefined);
      this.bytes += key.length + ENTRY_OVERHEAD_BYTES;
    }
    this.bytes += (value?.length ?? 0) - (before?.length ?? 0);
    this.values.set(key, value);
    invariant(this.order.size === this.values.size, 'a generation of the overlay has each of its keys in order');
  }

  *range(range: KeyRange): Generator<readonly [Key, NewValue]> {
    for (const [key] of this.order.range(range)) yield [key, this.values.get(key) ?? null];
  }

  *changes(): Generator<StoreChange> {
    for (const [key] of this.order.entries()) yield { key, value: this.values.get(key) ?? null };
  }
}

export class Overlay {
  private active = new Generation();
  private committing: Generation | undefined;

  /** undefined: the overlay knows nothing about the key. */
  get(key: Key): NewValue | undefined {
    const value = this.active.get(key);
    return value !== undefined || this.committing === undefined ? value : this.committing.get(key);
  }

  apply(changes: ReadonlyMap<Key, NewValue>): void {
    for (const [key, value] of changes) this.active.set(key, value);
  }

  /** The layers of a range, newest first. */
  layers(range: KeyRange): Iterable<readonly [Key, NewValue]>[] {
    const layers: Iterable<readonly [Key, NewValue]>[] = [];
    if (this.active.size > 0) layers.push(this.active.range(range));
    if (this.committing !== undefined) layers.push(this.committing.range(range));
    return layers;
  }

  get activeChanges(): number {
    return this.active.size;
  }

  get activeBytes(): number {
    return this.active.bytes;
  }

  /** A frozen generation is not in the store yet. */
  get isCommitting(): boolean {
    return this.committing !== undefined;
  }

  /** Freezes the active generation; returns its changes in key order. Only when none is being committed. */
  beginCommit(): Iterable<StoreChange> {
    if (this.committing !== undefined) throw new Error('the overlay is being committed already');
    this.committing = this.active;
    this.active = new Generation();
    return this.committing.changes();
  }

  /** The frozen generation is in the store: forget it. */
  endCommit(): void {
    this.committing = undefined;
  }
}

/**
 * Merges layers of entries, each in key order, the newest first: the newest value of a key counts, tombstones vanish.
 * Lazy; ends the layers' iterators when the caller stops early.
 */
export function* mergeLayers(
  layers: readonly Iterable<readonly [Key, NewValue]>[],
): Generator<readonly [Key, Uint8Array]> {
  const iterators = layers.map((layer) => layer[Symbol.iterator]());
  try {
    const heads = iterators.map((iterator) => nextEntry(iterator));
    for (;;) {
      let best: readonly [Key, NewValue] | undefined;
      for (const head of heads) {
        if (head !== undefined && (best === undefined || head[0] < best[0])) best = head;
      }
      if (best === undefined) return;
      for (const [i, head] of heads.entries()) {
        const iterator = iterators[i];
        if (iterator !== undefined && head?.[0] === best[0]) heads[i] = nextEntry(iterator);
      }
      if (best[1] !== null) yield [best[0], best[1]];
    }
  } finally {
    for (const iterator of iterators) iterator.return?.();
  }
}

function nextEntry(iterator: Iterator<readonly [Key, NewValue]>): readonly [Key, NewValue] | undefined {
  const step = iterator.next();
  return step.done === true ? undefined : step.value;
}
