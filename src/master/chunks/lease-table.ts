/** The leases that stand, in memory, by chunk and by file, in the order in which they lapse. */
import { CairnError } from '../../core/errors.js';
import type { ChunkHandle, ChunkIndex, InodeId, LeaseId, ServerId } from '../../core/ids.js';
import type { LeaseRecordInit } from '../../protocol/generated/messages.js';

export interface Lease {
  readonly handle: ChunkHandle;
  readonly inode: InodeId;
  readonly index: ChunkIndex;
  readonly id: LeaseId;
  readonly version: number;
  readonly primary: ServerId;
  /** The primary first, as the chain goes. Empty when of an earlier master. */
  readonly members: readonly ServerId[];
  /**
   * pending: being granted; no client has it yet. active: clients write under it. void: its primary may still take
   * writes, but it is not given out any more; only recovery ends it (or a clean answer of the primary). Those of an
   * earlier master are void.
   */
  state: 'pending' | 'active' | 'void';
  expiresMs: number;
  /** Writers that named it as failed while its members were all in order. */
  complaints: number;
}

export function primaryOf(members: readonly ServerId[]): ServerId {
  const [primary] = members;
  if (primary === undefined) throw new CairnError('UNAVAILABLE', 'a chunk without a replica cannot be leased');
  return primary;
}

/** What is written down of it. */
export function recordOf({ id, primary, inode, index }: Lease): LeaseRecordInit {
  return { leaseId: id, primary, inode, index };
}

export class LeaseTable {
  /** All leases last equally long, so the order of insertion is that of expiry, within the age of a spare chunk. */
  private readonly byHandle = new Map<ChunkHandle, Lease>();
  private readonly byInode = new Map<InodeId, Set<ChunkHandle>>();
  private voids = 0;

  /** Those that clients have, or are about to get. Void ones may stay for as long as their servers are away. */
  get inUse(): number {
    return this.byHandle.size - this.voids;
  }

  get(handle: ChunkHandle): Lease | undefined {
    return this.byHandle.get(handle);
  }

  put(lease: Lease): void {
    this.delete(lease.handle);
    this.byHandle.set(lease.handle, lease);
    if (lease.state === 'void') this.voids++;
    const handles = this.byInode.get(lease.inode);
    if (handles === undefined) this.byInode.set(lease.inode, new Set([lease.handle]));
    else handles.add(lease.handle);
  }

  delete(handle: ChunkHandle): void {
    const lease = this.byHandle.get(handle);
    if (lease === undefined) return;
    this.byHandle.delete(handle);
    if (lease.state === 'void') this.voids--;
    const handles = this.byInode.get(lease.inode);
    handles?.delete(handle);
    if (handles?.size === 0) this.byInode.delete(lease.inode);
  }

  /** Moves a renewed lease to the end of the order. */
  renew(lease: Lease, expiresMs: number): void {
    if (this.byHandle.get(lease.handle) !== lease) return;
    lease.expiresMs = expiresMs;
    this.byHandle.delete(lease.handle);
    this.byHandle.set(lease.handle, lease);
  }

  /** Clients may have it from now on. */
  activate(lease: Lease, expiresMs: number): void {
    this.setState(lease, 'active');
    this.renew(lease, expiresMs);
  }

  /** No client gets it any more. */
  void(lease: Lease): void {
    this.setState(lease, 'void');
  }

  private setState(lease: Lease, state: Lease['state']): void {
    if (this.byHandle.get(lease.handle) === lease)
      this.voids += Number(state === 'void') - Number(lease.state === 'void');
    lease.state = state;
  }

  hasInode(inode: InodeId): boolean {
    return this.byInode.has(inode);
  }

  ofInode(inode: InodeId): ChunkHandle[] {
    return [...(this.byInode.get(inode) ?? [])];
  }

  /**
   * The first to lapse, at most `limit`, of those that lapsed before `nowMs`: active ones, and void ones of chunks that are gone, which
   * nobody recovers.
   */
  lapsed(nowMs: number, limit: number, isGone: (handle: ChunkHandle) => boolean): Lease[] {
    const found: Lease[] = [];
    for (const lease of this.byHandle.values()) {
      if (found.length >= limit || (lease.state === 'active' && lease.expiresMs > nowMs)) break;
      const isOver = lease.state === 'void' && lease.expiresMs <= nowMs && isGone(lease.handle);
      if (lease.state === 'active' || isOver) found.push(lease);
    }
    return found;
  }

  /** Those that have `server` among their members. */
  withMember(server: ServerId): Lease[] {
    return [...this.byHandle.values()].filter((lease) => lease.members.includes(server));
  }

  voided(): Lease[] {
    return [...this.byHandle.values()].filter((lease) => lease.state === 'void');
  }
}
