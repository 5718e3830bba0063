/** Which mutations make the namespace larger: those are refused while the master's disk is full, all others go on. */
import { KIB } from '../../core/limits.js';
import type { StateReader } from './state.js';
import type { Key, NewValue } from '../store/store.js';

/** Tables of what users keep: inodes, names and their order, xattrs, chunks. The others are bounded, or pass. */
const TABLES = new Set('IDCXFK');
/** What records that are there may grow by in one mutation: a longer name, another time. */
const TOLERATED_BYTES = 4 * KIB;

/** Whether `changes` leave more in those tables than `before` has there. */
export function growsNamespace(changes: ReadonlyMap<Key, NewValue>, before: StateReader): boolean {
  let records = 0;
  let bytes = 0;
  for (const [key, value] of changes) {
    if (!TABLES.has(key.charAt(0))) continue;
    const old = before.get(key);
    records += (value === null ? 0 : 1) - (old === undefined ? 0 : 1);
    bytes += (value?.length ?? 0) - (old?.length ?? 0);
  }
  return records > 0 || bytes > TOLERATED_BYTES;
}
