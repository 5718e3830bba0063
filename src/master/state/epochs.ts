/**
 * What a power loss of the master costs: the operations that were answered and never flushed (P10). A client that lives
 * through it goes on with what it believes to have done, so the start after it makes sure that
 *
 * - no inode number and no change attribute that was told to a client before is given to something else after it: what
 *   a client has cached, or has open, would pass for it;
 * - clients learn of it when they come back (`lossEpoch`), and tell the next fsync (P1).
 *
 * Whether power failed is told by the boot id of the machine: a process that is killed loses nothing that it wrote. A disk that
 * failed may have lost records without a boot (failure-notes.ts), which is the same to clients.
 */
import { ROOT_INODE } from '../../core/ids.js';
import { LOST_INODES_BOUND } from '../../core/limits.js';
import { readCounter } from './counters.js';
import { keys, packed } from './keys.js';
import type { Mutation, StateReader } from './state.js';

/** The first that is given to a file: the root has its own. */
export const FIRST_INODE = ROOT_INODE + 1;
/** Changes of one inode between two power losses; with as many epochs it stays a safe integer. */
const CHANGES_PER_EPOCH = 2 ** 32;

/**
 * Begins an epoch; it must be durable before anything is served. `hasLost`: records are known to be missing. Returns the last one
 * that began after a loss, or 0.
 */
export function beginEpoch(m: Mutation, epoch: number, bootId: string, hasLost: boolean): number {
  const previous = readCounter(m, 'epoch', 0);
  const boot = Buffer.from(bootId, 'utf8');
  const known = m.get(keys.meta('boot'));
  const isSameBoot = known !== undefined && boot.equals(known);
  const hasLostPower = !isSameBoot && readCounter(m, 'stopped-epoch', 0) !== previous;
  const isLossPossible = previous > 0 && (hasLost || hasLostPower);
  m.put(keys.meta('boot'), boot);
  if (!isLossPossible) {
    m.put(keys.meta('epoch'), packed(epoch));
    return readCounter(m, 'loss-epoch', 0);
  }
  beginLossEpoch(m, epoch);
  m.put(keys.meta('next-inode'), packed(readCounter(m, 'next-inode', FIRST_INODE) + LOST_INODES_BOUND));
  return epoch;
}

/** Begins an epoch of which clients learn that operations were lost before it. */
export function beginLossEpoch(m: Mutation, epoch: number): void {
  m.put(keys.meta('epoch'), packed(epoch));
  m.put(keys.meta('loss-epoch'), packed(epoch));
}

/** Everything of the epoch will be durable when the process ends. */
export function endEpoch(m: Mutation, epoch: number): void {
  m.put(keys.meta('stopped-epoch'), packed(epoch));
}

/**
 * The change attribute of an inode with the stored one `change`. After a loss it is above all that were told before, also when
 * the inode is not changed: the content, which is not kept here, may be newer than what came with `change`.
 */
export function currentChange(reader: StateReader, change: number): number {
  return Math.max(change, readCounter(reader, 'loss-epoch', 0) * CHANGES_PER_EPOCH);
}
