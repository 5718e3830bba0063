/**
 * What a truncate does to the leases of its file, before it is answered: afterwards no writer can put bytes where it cut
 * (they would be cut off later) or into a chunk that it dropped. The cut itself is durable in the chunk's record
 * (valid_bytes) before, so whatever fails here, nothing old shows (P5).
 */
import { asCairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle, InodeId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES, CHUNKSERVER_DEAD_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { lookupChunk } from '../tables/chunk-map.js';
import { getChunk } from '../tables/chunk-records.js';
import { readInode } from '../tables/inodes.js';
import type { Lease } from './lease-table.js';
import type { ChunkLeases } from './leases.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { State } from '../state/state.js';

export class LeaseCuts {
  constructor(
    private readonly deps: {
      readonly state: State;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly leases: ChunkLeases;
    },
  ) {}

  /**
   * To be awaited before a truncate of `inode` is answered: afterwards no writer can put bytes where the truncate cut
   * (they would be cut off later) or into a chunk that it dropped. undefined: there is nothing to wait for.
   */
  afterTruncate(inode: InodeId): Promise<void> | undefined {
    if (!this.deps.leases.table.hasInode(inode)) return undefined;
    const settle = this.deps.leases.table
      .ofInode(inode)
      .map((handle) => this.deps.leases.locks.run(handle, () => this.applyCut(handle)));
    return Promise.all(settle).then(() => undefined);
  }

  /** Ends the leases of the file. */
  endLeases(inode: InodeId): Promise<void> {
    return this.deps.leases.endAll(inode);
  }

  /** False: whoever writes the file next needs a lease that is granted later, and what is to be cut is cut before that. */
  isLeased(inode: InodeId): boolean {
    return this.deps.leases.table.hasInode(inode);
  }

  private async applyCut(handle: ChunkHandle): Promise<void> {
    const { state, servers, logger } = this.deps;
    const lease = this.deps.leases.table.get(handle);
    if (lease === undefined) return;
    if (this.deps.leases.isGone(handle) || !this.isMapped(lease)) return this.stopWritesToDropped(lease);
    const record = getChunk(state, handle);
    if (record === undefined || record.validBytes >= CHUNK_SIZE_BYTES) return;
    const { id, version } = lease;
    const length = record.validBytes;
    try {
      if (this.deps.leases.isSound(lease)) {
        await servers.calls.truncate(lease.primary, { handle, version, leaseId: id, length });
        this.deps.leases.clearValidBytes(lease, length);
        return;
      }
    } catch (error) {
      logger.warn(
        { chunk: handle, error: asCairnError(error).message },
        'primary could not cut a chunk: recovering it',
      );
    }
    await this.untilDone(lease, () => this.recover(handle));
  }

  /** False when it cannot be recovered now: the cut stands in the record, and is made before the next lease. */
  private async recover(handle: ChunkHandle): Promise<boolean> {
    try {
      await this.deps.leases.recoverLocked(handle);
      return true;
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE', 'ENOENT', 'ENOSPC')) throw error;
      // Who dropped the chunk meanwhile ends its lease.
      return hasCode(error, 'ENOENT');
    }
  }

  /** A writer with a cached lease must not go on writing into a chunk that is no part of the file any more. */
  private async stopWritesToDropped(lease: Lease): Promise<void> {
    if (!(await this.deps.leases.endCleanly(lease))) await this.untilDone(lease, () => this.deleteSome(lease));
    this.deps.leases.forget(lease);
  }

  /** Without its replica no member acknowledges, and an acknowledgement needs them all. */
  private async deleteSome({ handle, version: leased }: Lease): Promise<boolean> {
    const { servers } = this.deps;
    const record = getChunk(this.deps.state, handle);
    const others = (record?.servers ?? []).filter((id) => servers.isUp(id));
    const version = record?.lastVersion ?? leased;
    const deleted = await Promise.allSettled(others.map((id) => servers.calls.deleteChunks(id, [{ handle, version }])));
    return deleted.some((outcome) => outcome.status === 'fulfilled');
  }

  /**
   * Does `work`, again when a member has come back that was away, as all are after a restart of the master. Otherwise the old
   * primary must be past serving when this returns.
   */
  private async untilDone({ handle, primary }: Lease, work: () => Promise<boolean>): Promise<void> {
    const { servers, state } = this.deps;
    const members = getChunk(state, handle)?.servers ?? [];
    const registrations = (): string => members.map((id) => servers.get(id)?.registrations ?? 0).join();
    const untilFencedOr = async (isEnough: () => boolean): Promise<void> => {
      const waitMs = Math.max(0, CHUNKSERVER_DEAD_MS - servers.silentMs(primary));
      await servers.waitUntil(() => isEnough() || servers.liveness(primary) === 'dead', waitMs);
    };
    for (const _ of [primary, ...members]) {
      const before = registrations();
      if (await work()) return;
      const isBack = (): boolean => registrations() !== before;
      await untilFencedOr(isBack);
      if (!isBack()) return;
    }
    await untilFencedOr(() => false);
  }

  private isMapped(lease: Lease): boolean {
    const record = readInode(this.deps.state, lease.inode);
    return record !== undefined && lookupChunk(this.deps.state, lease.inode, record, lease.index) === lease.handle;
  }
}
