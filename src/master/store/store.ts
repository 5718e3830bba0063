/**
 * What the master needs of a database: an ordered map from binary keys to binary values, one writer, batches that are
 * all or nothing. `LmdbStore` (lmdb-store.ts) in production, `MemoryStore` (memory-store.ts) in the simulator; one
 * conformance suite runs over both.
 *
 * Keys are strings of Latin-1 characters, one a byte: they compare as their bytes do, and a Map can hold them.
 */
export type Key = string;

export interface KeyRange {
  /** First key, inclusive. */
  readonly start: Key;
  /** End, exclusive. */
  readonly end: Key;
}

/** What becomes of a key; null: it is deleted. */
export type NewValue = Uint8Array | null;

export interface StoreChange {
  readonly key: Key;
  readonly value: NewValue;
}

export interface Store {
  get(key: Key): Uint8Array | undefined;
  /** Entries in the order of their keys, read lazily. Must not be held across an `await`. */
  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]>;
  /** Applies `changes` in one transaction; visible to reads once it resolves, and durable (survives power loss). */
  commit(changes: Iterable<StoreChange>): Promise<void>;
  /** Bytes of the disk that are its own and not in use: it takes them before it asks the disk for more. */
  reusableBytes?(): number;
  close(): Promise<void>;
}
