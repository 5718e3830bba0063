/**
 * Writes and syncs of one chunk, through its primary. A failure asks for the lease again and repeats the same bytes at
 * the same offset under it, until CLIENT_OPERATION_TIMEOUT_MS have passed. Who calls keeps writes that overlap apart:
 * the second begins when the first has ended, repeats included.
 */
import type { Clock } from '../../core/clock.js';
import { doneBy } from '../../core/done-by.js';
import { CairnError, asCairnError, errorCodeOf, hasCode, type ErrorCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import {
  CLIENT_OPERATION_TIMEOUT_MS,
  COPY_RANGE_TIMEOUT_MS,
  LAST_ATTEMPT_MS,
  MAX_CHUNKSERVER_PEERS,
  MAX_CORRUPT_ATTEMPTS,
  OLD_SERVER_MEMORY_MS,
  REQUEST_TIMEOUT_MS,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { LruMap } from '../../core/lru.js';
import type { MasterTime } from '../../core/master-time.js';
import type { Random } from '../../core/random.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import type { CopySource, SerialReply } from '../../protocol/generated/messages.js';
import type { CallResult } from '../../protocol/rpc.js';
import type { ChunkCopies, ChunkWrite, ChunkWrites, SyncAhead, SyncMark, SyncedChunk, WriteMark } from './chunk-io.js';
import type { ChunkServers } from './chunk-servers.js';
import type { Lease, WriteLeases } from './write-leases.js';
import { Backoff, isTransient } from '../session/retry.js';

export interface ChunkWriterOptions {
  readonly leases: WriteLeases;
  readonly servers: ChunkServers;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** As for the reader: copies read, too. */
  readonly knownTime: () => MasterTime;
  readonly timeoutMs?: number;
  /** Throws when the file must not be changed any more. Asked before each attempt, under the lease that it has by then. */
  readonly requireWritable?: (inode: InodeId) => void;
}

/** Time for one attempt. `changesOnce`: there is one only, whatever it fails with. */
const ATTEMPT_MS = {
  changes: REQUEST_TIMEOUT_MS,
  changesOnce: REQUEST_TIMEOUT_MS,
  syncs: REQUEST_TIMEOUT_MS,
  copies: COPY_RANGE_TIMEOUT_MS,
};

export class ChunkWriter implements ChunkWrites, ChunkCopies {
  private readonly timeoutMs: number;
  /** Servers that do not know `writeBatch`, and until when that is believed. */
  private readonly withoutBatches = new LruMap<string, number>(MAX_CHUNKSERVER_PEERS);

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
    return this.serialUnderLease(inode, index, 'changes', (lease, timeoutMs) => {
      if (!isWanted()) throw new CairnError('EIO', `inode ${inode}: these bytes are not to be written any more`);
      return servers.call(
        lease.primary.address,
        CHUNKSERVER_METHODS.writeChunk,
        { handle: lease.handle, version: lease.version, leaseId: lease.leaseId, offset, checksums },
        { payload: bytes, timeoutMs },
      );
    });
  }

  /** The mark of a write, with its serial. */
  private async serialUnderLease(
    inode: InodeId,
    index: number,
    how: 'changes' | 'changesOnce',
    attempt: (lease: Lease, timeoutMs: number) => Promise<CallResult<SerialReply>>,
  ): Promise<WriteMark> {
    let serial = 0;
    const lease = await this.underLease(inode, index, how, this.deadline(), async (lease, timeoutMs) => {
      ({ serial } = (await attempt(lease, timeoutMs)).reply);
    });
    return withSerial(lease, serial);
  }

  async writeBatch(
    inode: InodeId,
    index: number,
    writes: readonly ChunkWrite[],
  ): Promise<readonly (WriteMark | CairnError)[]> {
    try {
      const mark = await this.serialUnderLease(inode, index, 'changesOnce', (lease, timeoutMs) =>
        this.sendBatch(lease, writes, timeoutMs),
      );
      return writes.map(() => mark);
    } catch {
      // Each by itself, so that one that cannot be made takes no other with it.
      const each = ({ offset, bytes, checksums, isWanted }: ChunkWrite): Promise<WriteMark | CairnError> =>
        this.writeRange(inode, index, offset, bytes, checksums, isWanted).catch(asCairnError);
      return Promise.all(writes.map(each));
    }
  }

  private async sendBatch(
    lease: Lease,
    writes: readonly ChunkWrite[],
    timeoutMs: number,
  ): Promise<CallResult<SerialReply>> {
    const { handle, version, leaseId, primary } = lease;
    const { servers, clock } = this.options;
    const wanted = writes.filter(({ isWanted }) => isWanted());
    if (wanted.length === 0) throw new CairnError('EIO', `chunk ${handle}: these bytes are not to be written any more`);
    if ((this.withoutBatches.peek(primary.address) ?? 0) > clock.monotonicMs()) {
      throw new CairnError('EOPNOTSUPP', `${primary.address} takes one write at a time`);
    }
    const request = {
      ...{ handle, version, leaseId },
      offsets: wanted.map(({ offset }) => offset),
      lengths: wanted.map(({ bytes }) => bytes.length),
      checksums: wanted.flatMap(({ checksums }) => checksums),
    };
    const payload = Buffer.concat(wanted.map(({ bytes }) => bytes));
    try {
      const options = { payload, timeoutMs };
      return await servers.call(primary.address, CHUNKSERVER_METHODS.writeBatch, request, options);
    } catch (error) {
      // An older CairnFS, until it is upgraded.
      if (hasCode(error, 'EOPNOTSUPP'))
        this.withoutBatches.set(primary.address, clock.monotonicMs() + OLD_SERVER_MEMORY_MS);
      throw error;
    }
  }

  get generation(): number {
    return this.options.leases.generation;
  }

  noteSynced(chunks: readonly SyncedChunk[]): void {
    for (const chunk of chunks) this.options.leases.noteSynced(chunk);
  }

  settleDoubts(inode: InodeId, deadlineMs: number): Promise<void> | undefined {
    const { leases, clock } = this.options;
    if (!leases.hasDoubts(inode)) return undefined;
    return doneBy(clock, deadlineMs, 'the question who leads what was not written', leases.settleDoubts(inode));
  }

  syncChunk(inode: InodeId, index: number, deadlineMs = this.deadline()): Promise<SyncMark> {
    const { servers } = this.options;
    return this.underLease(inode, index, 'syncs', deadlineMs, ({ primary, handle, version, leaseId }, timeoutMs) =>
      servers.call(primary.address, CHUNKSERVER_METHODS.syncChunk, { handle, version, leaseId }, { timeoutMs }),
    );
  }

  syncAhead(inode: InodeId, index: number): SyncAhead | undefined {
    const { leases, servers } = this.options;
    const lease = leases.get(inode, index, true);
    // Where the lease is asked for, the writes wait for it, too.
    if (lease instanceof Promise) {
      lease.catch(() => undefined);
      return undefined;
    }
    const { handle, version, leaseId, primary, unsynced } = lease;
    const request = { handle, version, leaseId };
    const mark = servers.call(primary.address, CHUNKSERVER_METHODS.syncChunk, request).then(
      ({ reply }) => withSerial(lease, reply.serial),
      (error: unknown) => {
        // It is made once more, behind the writes, and that tells.
        const { code } = asCairnError(error);
        if (code !== 'BUSY' && code !== 'CORRUPT') leases.failed(inode, index, lease, howFailed(code, false));
        return undefined;
      },
    );
    return { unsynced, mark };
  }

  markOf(inode: InodeId, index: number): Promise<WriteMark> {
    // Under a lease of before a power failure it would be that of before: so the primary is to know the lease.
    return this.syncChunk(inode, index);
  }

  async copyRange(
    inode: InodeId,
    index: number,
    range: { readonly offset: number; readonly length: number; readonly source: CopySource | null },
    mayGoOn: () => void = () => undefined,
  ): Promise<{ readonly copied: number; readonly mark: WriteMark }> {
    const { servers, logger, knownTime } = this.options;
    let copied = 0;
    const deadline = this.deadline();
    const mark = await this.underLease(inode, index, 'copies', deadline, async (lease, timeoutMs) => {
      mayGoOn();
      const { primary, handle, version, leaseId } = lease;
      const { reply } = await servers.call(
        primary.address,
        CHUNKSERVER_METHODS.copyRange,
        { handle, version, leaseId, ...range, knownTime: knownTime() },
        { timeoutMs },
      );
      copied = Math.min(reply.copied, range.length);
      if (reply.sourceError === 0) return;
      const code = errorCodeOf(reply.sourceError);
      logger.info({ chunk: range.source?.handle, server: primary.address, code }, 'a chunk to be copied was not read');
    });
    return { copied, mark };
  }

  private deadline(): number {
    return this.options.clock.monotonicMs() + this.timeoutMs;
  }

  private async underLease(
    inode: InodeId,
    index: number,
    how: keyof typeof ATTEMPT_MS,
    deadline: number,
    attempt: (lease: Lease, timeoutMs: number) => Promise<unknown>,
  ): Promise<Lease> {
    const { leases, clock, random, logger } = this.options;
    let backoff: Backoff | undefined;
    let corrupt = 0;
    let refused: Lease | undefined;
    for (;;) {
      let lease: Lease | undefined;
      try {
        const held = leases.get(inode, index, how === 'syncs');
        lease = held instanceof Promise ? await doneBy(clock, deadline, 'the question who leads it', held) : held;
        if (how === 'syncs' && lease.leaseId === 0) return lease;
        if (how !== 'syncs') this.options.requireWritable?.(inode);
        const { lostSessions } = leases;
        await attempt(lease, Math.min(ATTEMPT_MS[how], Math.max(LAST_ATTEMPT_MS, deadline - clock.monotonicMs())));
        // What was written in a session that ended before this was known here, and not told, the master may have cut off.
        if (how === 'syncs' || leases.lostSessions === lostSessions) return lease;
      } catch (error) {
        const { code, message } = asCairnError(error);
        const again = isTransient(error) || hasCode(error, 'STALE_VERSION', 'NOT_PRIMARY', 'NO_REPLICA', 'CORRUPT');
        if (!again) throw error;
        const what = lease === undefined ? `chunk ${index}` : `chunk ${lease.handle}`;
        if (code === 'CORRUPT' && ++corrupt >= MAX_CORRUPT_ATTEMPTS) {
          throw new CairnError('EIO', `${what} of inode ${inode} cannot be changed here: ${message}`, { cause: error });
        }
        // BUSY and CORRUPT say nothing against the lease. The last attempt counts too: it may still be on its way.
        if (lease !== undefined && code !== 'BUSY' && code !== 'CORRUPT') {
          refused = lease;
          const { handle, version, primary } = lease;
          if (leases.failed(inode, index, lease, howFailed(code, how !== 'syncs'))) {
            const about = { chunk: handle, version, primary: primary.address, code };
            logger.warn(about, 'a write failed under its lease');
          }
        }
        if (how === 'changesOnce') throw error;
        if (clock.monotonicMs() >= deadline) {
          // Some of its members may have it, and give it to the others when the chunk is recovered.
          if (refused !== undefined && how !== 'syncs') leases.failed(inode, index, refused, 'inDoubt');
          const done = how === 'syncs' ? 'synced' : 'written';
          throw new CairnError('EIO', `${what} of inode ${inode} could not be ${done} in time: ${message}`, {
            cause: error,
          });
        }
        backoff ??= new Backoff(clock, random);
        await backoff.pause(deadline);
      }
    }
  }
}

const withSerial = (lease: Lease, serial: number): Lease =>
  serial === 0 ? lease : { ...lease, serial: { leaseId: lease.leaseId, serial } };

function howFailed(code: ErrorCode, changes: boolean): 'refused' | 'unreachable' | 'inDoubt' {
  // Without an answer a write may have been applied, or may be yet; a sync in doubt does no harm.
  if (code === 'DISCONNECTED' || code === 'TIMEOUT') return changes ? 'inDoubt' : 'unreachable';
  return code === 'UNAVAILABLE' ? 'unreachable' : 'refused';
}
