/** A mutation that is being decided: its changes, over the state. */
import type { Key, KeyRange, NewValue } from '../store/store.js';
import { mergeLayers } from './overlay.js';
import type { Mutation, StateReader } from './state.js';

export class PendingMutation implements Mutation {
  readonly changes = new Map<Key, NewValue>();

  constructor(private readonly base: StateReader) {}

  get(key: Key): Uint8Array | undefined {
    const value = this.changes.get(key);
    return value === undefined ? this.base.get(key) : (value ?? undefined);
  }

  /** Shows the mutation's own changes as they are when the iteration begins: it may change what it iterates over. */
  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]> {
    const own: (readonly [Key, NewValue])[] = [];
    for (const entry of this.changes) if (entry[0] >= range.start && entry[0] < range.end) own.push(entry);
    if (own.length === 0) return this.base.range(range);
    own.sort((a, b) => (a[0] < b[0] ? -1 : 1));
    return mergeLayers([own, this.base.range(range)]);
  }

  put(key: Key, value: Uint8Array): void {
    this.changes.set(key, value);
  }

  delete(key: Key): void {
    this.changes.set(key, null);
  }
}
