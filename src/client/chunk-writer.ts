/**
 * Writes and syncs of one chunk, through its primary. A failure asks for the lease again and repeats the same bytes at
 * the same offset under it, until CLIENT_OPERATION_TIMEOUT_MS have passed. Who calls keeps writes that overlap apart:
 * the second begins when the first has ended, repeats included.
 */
import type { Clock } from '../core/clock.js';
import { CairnError, asCairnError, errorCodeOf, hasCode, type ErrorCode } from '../core/errors.js';
import type { InodeId } from '../core/ids.js';
import { CLIENT_OPERATION_TIMEOUT_MS, COPY_RANGE_TIMEOUT_MS } from '../core/limits.js';
import type { Logger } from '../core/logger.js';
import type { Random } from '../core/random.js';
import { CHUNKSERVER_METHODS } from '../protocol/methods.js';
import type { CopySource } from '../protocol/generated/messages.js';
import type { ChunkCopies, ChunkWrites, SyncMark, SyncedChunk, WriteMark } from './chunk-io.js';
import type { ChunkServers } from './chunk-servers.js';
import type { Lease, LeaseTable } from './lease-table.js';
import { Backoff, isTransient } from './retry.js';

export interface ChunkWriterOptions {
  readonly leases: LeaseTable;
  readonly servers: ChunkServers;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly timeoutMs?: number;
}

/** Bytes that arrive damaged this often were damaged here; a block that no replica has whole stays so. */
const MAX_CORRUPT_ATTEMPTS = 3;

export class ChunkWriter implements ChunkWrites, ChunkCopies {
  private readonly timeoutMs: number;

  constructor(private readonly options: ChunkWriterOptions) {
    this.timeoutMs = options.timeoutMs ?? CLIENT_OPERATION_TIMEOUT_MS;
  }

  prepare(inode: InodeId, index: number): void {
    const lease = this.options.leases.get(inode, index);
    // The write that follows asks again and gets the error.
    if (lease instanceof Promise) lease.catch(() => undefined);
  }

  writeRange(
    inode: InodeId,
    index: number,
    offset: number,
    bytes: Uint8Array,
    checksums: readonly number[],
    isWanted: () => boolean = () => true,
  ): Promise<WriteMark> {
    const { servers } = this.options;
    return this.underLease(inode, index, true, (lease) => {
      if (!isWanted()) throw new CairnError('EIO', `inode ${inode}: these bytes are not to be written any more`);
      return servers.call(
        lease.primary.address,
        CHUNKSERVER_METHODS.writeChunk,
        { handle: lease.handle, version: lease.version, leaseId: lease.leaseId, offset, checksums },
        { payload: bytes },
      );
    });
  }

  get generation(): number {
    return this.options.leases.generation;
  }

  noteSynced(chunks: readonly SyncedChunk[]): void {
    for (const chunk of chunks) this.options.leases.noteSynced(chunk);
  }

  syncChunk(inode: InodeId, index: number): Promise<SyncMark> {
    const { servers } = this.options;
    return this.underLease(inode, index, false, (lease) =>
      servers.call(lease.primary.address, CHUNKSERVER_METHODS.syncChunk, {
        handle: lease.handle,
        version: lease.version,
        leaseId: lease.leaseId,
      }),
    );
  }

  async copyRange(
    inode: InodeId,
    index: number,
    range: { readonly offset: number; readonly length: number; readonly source: CopySource | null },
  ): Promise<{ readonly copied: number; readonly mark: WriteMark }> {
    const { servers, logger } = this.options;
    let copied = 0;
    const mark = await this.underLease(inode, index, true, async ({ primary, handle, version, leaseId }) => {
      const { reply } = await servers.call(
        primary.address,
        CHUNKSERVER_METHODS.copyRange,
        { handle, version, leaseId, ...range },
        { timeoutMs: COPY_RANGE_TIMEOUT_MS },
      );
      copied = Math.min(reply.copied, range.length);
      if (reply.sourceError === 0) return;
      const code = errorCodeOf(reply.sourceError);
      logger.info({ chunk: range.source?.handle, server: primary.address, code }, 'a chunk to be copied was not read');
    });
    return { copied, mark };
  }

  private async underLease(
    inode: InodeId,
    index: number,
    changes: boolean,
    attempt: (lease: Lease) => Promise<unknown>,
  ): Promise<SyncMark> {
    const { leases, clock, random, logger } = this.options;
    const deadline = clock.monotonicMs() + this.timeoutMs;
    let backoff: Backoff | undefined;
    let corrupt = 0;
    for (;;) {
      const held = leases.get(inode, index);
      const lease = held instanceof Promise ? await held : held;
      try {
        await attempt(lease);
        return lease;
      } catch (error) {
        const { code, message } = asCairnError(error);
        const again = isTransient(error) || hasCode(error, 'STALE_VERSION', 'NOT_PRIMARY', 'NO_REPLICA', 'CORRUPT');
        if (!again) throw error;
        if (code === 'CORRUPT' && ++corrupt >= MAX_CORRUPT_ATTEMPTS) {
          throw new CairnError('EIO', `chunk ${lease.handle} of inode ${inode} cannot be changed here: ${message}`, {
            cause: error,
          });
        }
        // BUSY and CORRUPT say nothing against the lease. The last attempt counts too: it may still be on its way.
        if (code !== 'BUSY' && code !== 'CORRUPT') {
          logger.warn(
            { chunk: lease.handle, version: lease.version, primary: lease.primary.address, code },
            'a write failed under its lease',
          );
          leases.failed(inode, index, lease, howFailed(code, changes));
        }
        if (clock.monotonicMs() >= deadline) {
          throw new CairnError(
            'EIO',
            `chunk ${lease.handle} of inode ${inode} could not be written in time: ${message}`,
            {
              cause: error,
            },
          );
        }
        backoff ??= new Backoff(clock, random);
        await backoff.pause(deadline);
      }
    }
  }
}

function howFailed(code: ErrorCode, changes: boolean): 'refused' | 'unreachable' | 'inDoubt' {
  // Without an answer a write may have been applied, or may be yet; a sync in doubt does no harm.
  if (code === 'DISCONNECTED' || code === 'TIMEOUT') return changes ? 'inDoubt' : 'unreachable';
  return code === 'UNAVAILABLE' ? 'unreachable' : 'refused';
}
