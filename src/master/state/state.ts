/**
 * The master's state as its logic sees it: a store plus what the operation log holds that the store does not yet.
 * Decisions are synchronous: a function reads the current state and says what changes; the change is one record of
 * the log, all or nothing.
 */
import type { Key, KeyRange, NewValue } from '../store/store.js';

export interface StateReader {
  get(key: Key): Uint8Array | undefined;
  /** In key order, lazily; must not be held across an `await`. */
  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]>;
}

/** Reads see the writes made through it. */
export interface Mutation extends StateReader {
  /** Those that were made so far. */
  readonly changes: ReadonlyMap<Key, NewValue>;
  put(key: Key, value: Uint8Array): void;
  delete(key: Key): void;
}

export interface State extends StateReader {
  /**
   * Runs `decide` at once. When it throws, nothing has changed and the error goes on. Otherwise its changes are one
   * record, written to the operation log (survives kill -9, P10) and visible to reads when this returns. ENOSPC, and
   * nothing has changed, when the disk is full: what grows the namespace is refused first.
   */
  mutate<T>(decide: (mutation: Mutation) => T): T;
  /** As `mutate`, for what may as well be left undone while there is no room for it: false then. Never waits. */
  mutateIfRoom(decide: (mutation: Mutation) => void): boolean;
  /** Resolves when every mutation made before is flushed to disk (survives power loss, P1). Waiters share a flush. */
  durable(): Promise<void>;
  /**
   * Resolves when there is room for another mutation: at once, unless the store lags behind the log by the bound.
   * Request handlers that mutate wait for it first.
   */
  ready(): Promise<void> | undefined;
}
