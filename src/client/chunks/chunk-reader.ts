/**
 * Reads of one chunk, from whichever replica answers with the right bytes. One is asked; when it fails the next one is,
 * and when it is slow the next one as well, the first good answer wins. When all have failed, or one says that the
 * location is old, it is asked for again, until CLIENT_OPERATION_TIMEOUT_MS have passed.
 */
import { segmentsMatch } from '../../core/checksum.js';
import type { Clock, Timer } from '../../core/clock.js';
import { doneBy } from '../../core/done-by.js';
import { CairnError, asCairnError, hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import {
  CLIENT_OPERATION_TIMEOUT_MS,
  LAST_ATTEMPT_MS,
  MAX_UNREAD_CHUNKS,
  READ_HEDGE_FAILED_MS,
  READ_HEDGE_MS,
  UNREAD_CHUNK_MEMORY_MS,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { MasterTime } from '../../core/master-time.js';
import type { Random } from '../../core/random.js';
import { deferred } from '../../core/sync.js';
import type { Replica } from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import type { ChunkReads } from './chunk-io.js';
import type { ChunkMapCache, Location } from './chunk-map-cache.js';
import type { ChunkServers } from './chunk-servers.js';
import { LruMap } from '../../core/lru.js';
import { Backoff } from '../session/retry.js';

export interface ChunkReaderOptions {
  readonly map: ChunkMapCache;
  readonly servers: ChunkServers;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Tells the master of a replica that could not be read, when that says something of the replica. */
  readonly report: (
    replica: { readonly handle: number; readonly version: number; readonly serverId: number },
    error: CairnError,
  ) => void;
  /** When the master was heard last: a server that it may have given up before that refuses (P9). */
  readonly knownTime: () => MasterTime;
  readonly timeoutMs?: number;
  readonly hedgeMs?: number;
}

interface Failure {
  readonly replica: Replica;
  readonly error: CairnError;
}

export class ChunkReader implements ChunkReads {
  private readonly timeoutMs: number;
  private readonly hedgeMs: number;
  /** Chunks that could not be read in time, and until when that is remembered. */
  private readonly unread = new LruMap<string, number>(MAX_UNREAD_CHUNKS);

  constructor(private readonly options: ChunkReaderOptions) {
    this.timeoutMs = options.timeoutMs ?? CLIENT_OPERATION_TIMEOUT_MS;
    this.hedgeMs = options.hedgeMs ?? READ_HEDGE_MS;
  }

  async readRange(inode: InodeId, index: number, offset: number, length: number): Promise<Buffer> {
    const { map, clock, random } = this.options;
    const deadline = clock.monotonicMs() + this.patienceMs(inode, index);
    const backoff = new Backoff(clock, random);
    let last = 'the chunk has no live replica';
    let isAskedAnew = false;
    for (;;) {
      const location = await this.locate(inode, index, deadline, last);
      const wanted = location.handle === 0 ? 0 : Math.min(length, location.validBytes - offset);
      if (wanted <= 0) return Buffer.alloc(length);
      if (location.lost === true) {
        map.dropChunk(inode, index);
        throw new CairnError(
          'EIO',
          `chunk ${location.handle} of inode ${inode} is lost: no chunkserver has it any more`,
        );
      }
      const failures: Failure[] = [];
      const bytes = await this.readFromAny(location, offset, wanted, failures, deadline);
      if (bytes !== undefined) return zeroFilled(bytes, length);
      for (const { replica, error } of failures) last = `${replica.address}: ${error.code} ${error.message}`;
      if (failures.length > 0 && failures.every(({ error }) => error.code === 'CORRUPT')) {
        if (!isAskedAnew) {
          // What is remembered may name fewer replicas than there are by now.
          isAskedAnew = true;
          map.dropChunk(inode, index);
          continue;
        }
        throw new CairnError(
          'EIO',
          `every replica of chunk ${location.handle} is corrupt (${last}): see the master's log`,
          { cause: failures[0]?.error },
        );
      }
      map.dropChunk(inode, index);
      if (clock.monotonicMs() >= deadline) {
        throw this.notInTime(inode, index, last);
      }
      await backoff.pause(deadline);
    }
  }

  private async locate(inode: InodeId, index: number, deadline: number, last: string): Promise<Location> {
    const { map, clock } = this.options;
    if (map.knows(inode, index)) return map.locate(inode, index);
    try {
      return await doneBy(clock, deadline, 'the question where it is', map.locate(inode, index));
    } catch (error) {
      if (!hasCode(error, 'TIMEOUT')) throw error;
      throw this.notInTime(inode, index, `${error.message}; ${last}`);
    }
  }

  /** A kernel that reads ahead and is told EIO asks once more for what it needs: that need not wait as long again. */
  private patienceMs(inode: InodeId, index: number): number {
    const untilMs = this.unread.size === 0 ? undefined : this.unread.peek(`${inode}:${index}`);
    if (untilMs === undefined || untilMs < this.options.clock.monotonicMs()) return this.timeoutMs;
    return Math.min(this.timeoutMs, LAST_ATTEMPT_MS);
  }

  private notInTime(inode: InodeId, index: number, why: string): CairnError {
    this.unread.set(`${inode}:${index}`, this.options.clock.monotonicMs() + UNREAD_CHUNK_MEMORY_MS);
    return new CairnError('EIO', `chunk ${index} of inode ${inode} could not be read in time: ${why}`);
  }

  /** The first good answer; undefined when there is none, with the failures of the replicas that answered. */
  private readFromAny(
    location: Location,
    offset: number,
    length: number,
    failures: Failure[],
    deadline: number,
  ): Promise<Buffer | undefined> {
    const { servers, clock } = this.options;
    const replicas = servers.inOrder(location.replicas, location.handle);
    const result = deferred<Buffer | undefined>();
    const running = new Set<AbortController>();
    let next = 0;
    let hedge: Timer | undefined;
    let done = false;
    let isOld = false;

    const finish = (bytes: Buffer | undefined): void => {
      if (done) return;
      done = true;
      hedge?.cancel();
      late.cancel();
      result.resolve(bytes);
      for (const controller of running) controller.abort();
    };
    const startNext = (): void => {
      hedge?.cancel();
      if (done) return;
      const replica = replicas[next++];
      if (replica === undefined) {
        if (running.size === 0) finish(undefined);
        return;
      }
      const controller = new AbortController();
      running.add(controller);
      this.readFrom(replica, location, offset, length, controller.signal).then(
        (bytes) => {
          running.delete(controller);
          finish(bytes);
        },
        (error: unknown) => {
          running.delete(controller);
          if (done) return;
          failures.push({ replica, error: asCairnError(error) });
          // Where the chunk is now the master knows; others that were named with this one may be silent for long.
          if (hasCode(error, 'STALE_VERSION', 'NO_REPLICA')) isOld = true;
          if (isOld && replicas.slice(next).every(({ address }) => servers.hasFailed(address))) finish(undefined);
          else startNext();
        },
      );
      if (next === replicas.length && !isOld) return;
      const patienceMs = servers.hasFailed(replica.address) ? READ_HEDGE_FAILED_MS : this.hedgeMs;
      hedge = clock.setTimer(Math.min(patienceMs, this.hedgeMs), () => {
        servers.noteFailure(replica.address);
        if (next < replicas.length) startNext();
        else finish(undefined);
      });
    };
    const late = clock.setTimer(Math.max(LAST_ATTEMPT_MS, deadline - clock.monotonicMs()), () => finish(undefined));
    startNext();
    return result.promise;
  }

  private async readFrom(
    replica: Replica,
    { handle, version }: Location,
    offset: number,
    length: number,
    signal: AbortSignal,
  ): Promise<Buffer> {
    const { servers, report, logger, knownTime } = this.options;
    try {
      const request = { handle, version, offset, length, knownTime: knownTime() };
      const { reply, payload } = await servers.call(replica.address, CHUNKSERVER_METHODS.readChunk, request, {
        signal,
      });
      if (payload.length > length || !segmentsMatch(payload, offset, reply.checksums)) {
        throw new CairnError(
          'CORRUPT',
          `bytes of chunk ${handle} from ${replica.address} do not match their checksums`,
        );
      }
      return Buffer.from(payload.buffer, payload.byteOffset, payload.length);
    } catch (error) {
      if (hasCode(error, 'CORRUPT')) {
        logger.error({ chunk: handle, version, server: replica.address, offset }, 'corrupt replica: reading another');
      }
      report({ handle, version, serverId: replica.serverId }, asCairnError(error));
      throw error;
    }
  }
}

function zeroFilled(bytes: Buffer, length: number): Buffer {
  if (bytes.length === length) return bytes;
  const filled = Buffer.alloc(length);
  bytes.copy(filled);
  return filled;
}
