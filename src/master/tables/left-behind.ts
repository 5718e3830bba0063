/**
 * Files that are open for writing for longer than their leases stand. A client may have written under such a lease and be gone
 * without having told of it; that it may is known by the opens, which are in memory only, and by the leases. So when the record
 * of a lease goes, 'B' of its file takes its place, until nobody writes the file any more and what may lie behind its end
 * is cut: after a restart the master does for such files what it does for those with leases.
 */
import type { ChunkHandle, InodeId } from '../../core/ids.js';
import { inodeId } from '../../core/ids.js';
import { keys, prefixRange, unpackNumber } from '../state/keys.js';
import type { Mutation, State, StateReader } from '../state/state.js';
import { deleteLease, getLease } from './lease-records.js';

export class LeftBehind {
  /** `mayBeOwed`: some client may still tell of what it wrote to the file, or be gone without that. */
  constructor(
    private readonly state: State,
    private readonly mayBeOwed: (inode: InodeId) => boolean,
  ) {}

  /** The lease of the chunk is over. */
  leaseEnded(m: Mutation, handle: ChunkHandle): void {
    const lease = getLease(m, handle);
    if (lease === undefined) return;
    deleteLease(m, handle);
    const inode = inodeId(lease.inode);
    const isNoted = m.get(keys.behind(inode)) !== undefined;
    if (!isNoted && m.get(keys.inode(inode)) !== undefined && this.mayBeOwed(inode)) m.put(keys.behind(inode), EMPTY);
  }

  /** All that wrote the file have closed it, and told what they wrote. */
  unwritten(inode: InodeId): void {
    if (this.state.get(keys.behind(inode)) !== undefined) this.state.mutateIfRoom((m) => forgetBehind(m, inode));
  }
}

const EMPTY = Buffer.alloc(0);

export function forgetBehind(m: Mutation, inode: InodeId): void {
  if (m.get(keys.behind(inode)) !== undefined) m.delete(keys.behind(inode));
}

export function* filesBehind(state: StateReader): Generator<InodeId> {
  for (const [key] of state.range(prefixRange('B'))) yield inodeId(unpackNumber(key, 1));
}
