/**
 * What a truncate does to the leases of its file, before it is answered: afterwards no writer can put bytes where it cut
 * (they would be cut off later) or into a chunk that it dropped. The cut itself is durable in the chunk's record
 * (valid_bytes) before, so whatever fails here, nothing old shows (P5).
 */
import { asCairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle, InodeId, ServerId } from '../../core/ids.js';
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
      .map((handle) => this.deps.leases.locks.run(handle, () => this.settleCut(handle)));
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

  private async settleCut(handle: ChunkHandle): Promise<void> {
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
    try {
      await this.deps.leases.recoverLocked(handle);
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE', 'ENOENT', 'ENOSPC')) throw error;
      // The cut stands in the record; it is made before the next lease. The old primary must be past serving.
      await this.untilFenced(lease.primary);
    }
  }

  /** A writer with a cached lease must not go on writing into a chunk that is no part of the file any more. */
  private async stopWritesToDropped(lease: Lease): Promise<void> {
    const { servers } = this.deps;
    const { handle } = lease;
    if (!(await this.deps.leases.endCleanly(lease))) {
      // Without its replica no member acknowledges, and an acknowledgement needs them all.
      const record = getChunk(this.deps.state, handle);
      const others = (record?.servers ?? []).filter((id) => servers.isUp(id));
      const version = record?.lastVersion ?? lease.version;
      const deleted = await Promise.allSettled(
        others.map((id) => servers.calls.deleteChunks(id, [{ handle, version }])),
      );
      if (!deleted.some((outcome) => outcome.status === 'fulfilled')) await this.untilFenced(lease.primary);
    }
    this.deps.leases.forget(lease);
  }

  /** Resolves when `server` registered again or must have fenced itself. */
  private async untilFenced(server: ServerId): Promise<void> {
    const { servers } = this.deps;
    const isFenced = (): boolean => servers.liveness(server) === 'dead';
    await servers.waitUntil(isFenced, Math.max(0, CHUNKSERVER_DEAD_MS - servers.silentMs(server)));
  }

  private isMapped(lease: Lease): boolean {
    const record = readInode(this.deps.state, lease.inode);
    return record !== undefined && lookupChunk(this.deps.state, lease.inode, record, lease.index) === lease.handle;
  }
}
