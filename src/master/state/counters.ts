/** Numbers of the cluster under their own keys ('M' table): the next ids, and how many there are of things. */
import { VERSION_JUMP } from '../../core/limits.js';
import { keys, packed, unpacked } from './keys.js';
import type { MetaName } from './keys.js';
import type { Mutation, StateReader } from './state.js';

export function readCounter(reader: Pick<StateReader, 'get'>, name: MetaName, initial: number): number {
  const value = reader.get(keys.meta(name));
  return value === undefined ? initial : unpacked(value);
}

export function addToCounter(m: Mutation, name: MetaName, by: number): void {
  m.put(keys.meta(name), packed(readCounter(m, name, 0) + by));
}

/** Versions between which no state was put back. */
export const isSameTimeline = (one: number, other: number): boolean =>
  Math.floor(one / VERSION_JUMP) === Math.floor(other / VERSION_JUMP);

/**
 * The version that follows `last`: above all that a state gave which was put back to this one. So a replica of that past is
 * never taken for one of this.
 */
export function nextVersion(reader: StateReader, last: number): number {
  return Math.max(last + 1, readCounter(reader, 'version-floor', 0));
}

/** No state that was put back to this one gave such a version, or a higher one. */
export function isAbovePutBack(reader: StateReader, version: number): boolean {
  return version >= readCounter(reader, 'version-floor', 0);
}
