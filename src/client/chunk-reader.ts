/**
 * Reads of one chunk, from whichever replica answers with the right bytes. One is asked; when it fails the next one is,
 * and when it is slow the next one as well, the first good answer wins. When all have failed the location is asked for
 * again, until CLIENT_OPERATION_TIMEOUT_MS have passed.
 */
import { segmentsMatch } from '../core/checksum.js';
import type { Clock, Timer } from '../core/clock.js';
import { CairnError, asCairnError, hasCode } from '../core/errors.js';
import type { InodeId } from '../core/ids.js';
import { CLIENT_OPERATION_TIMEOUT_MS, READ_HEDGE_MS } from '../core/limits.js';
import type { Logger } from '../core/logger.js';
import type { Random } from '../core/random.js';
import { deferred } from '../core/sync.js';
import type { Replica } from '../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../protocol/methods.js';
import type { ChunkReads } from './chunk-io.js';
import type { ChunkMapCache, Location } from './chunk-map-cache.js';
import type { ChunkServers } from './chunk-servers.js';
import { Backoff } from './retry.js';

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

  constructor(private readonly options: ChunkReaderOptions) {
    this.timeoutMs = options.timeoutMs ?? CLIENT_OPERATION_TIMEOUT_MS;
    this.hedgeMs = options.hedgeMs ?? READ_HEDGE_MS;
  }

  async readRange(inode: InodeId, index: number, offset: number, length: number): Promise<Buffer> {
    const { map, clock, random } = this.options;
    const deadline = clock.monotonicMs() + this.timeoutMs;
    const backoff = new Backoff(clock, random);
    let last = 'the chunk has no live replica';
    for (;;) {
      const location = await map.locate(inode, index);
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
      const bytes = await this.readFromAny(location, offset, wanted, failures);
      if (bytes !== undefined) return zeroFilled(bytes, length);
      for (const { replica, error } of failures) last = `${replica.address}: ${error.code} ${error.message}`;
      if (failures.length > 0 && failures.every(({ error }) => error.code === 'CORRUPT')) {
        throw new CairnError(
          'EIO',
          `every replica of chunk ${location.handle} is corrupt (${last}): see the master's log`,
          { cause: failures[0]?.error },
        );
      }
      map.dropChunk(inode, index);
      if (clock.monotonicMs() >= deadline) {
        throw new CairnError('EIO', `chunk ${location.handle} of inode ${inode} could not be read in time: ${last}`);
      }
      await backoff.pause(deadline);
    }
  }

  /** The first good answer; undefined, with a failure for each replica, when there is none. */
  private readFromAny(
    location: Location,
    offset: number,
    length: number,
    failures: Failure[],
  ): Promise<Buffer | undefined> {
    const replicas = this.inOrder(location);
    const result = deferred<Buffer | undefined>();
    const running = new Set<AbortController>();
    let next = 0;
    let hedge: Timer | undefined;
    let done = false;

    const finish = (bytes: Buffer | undefined): void => {
      if (done) return;
      done = true;
      hedge?.cancel();
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
          startNext();
        },
      );
      if (next < replicas.length) {
        hedge = this.options.clock.setTimer(this.hedgeMs, () => {
          this.options.servers.noteFailure(replica.address);
          startNext();
        });
      }
    };
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
    const { servers, report, logger } = this.options;
    try {
      const request = { handle, version, offset, length };
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

  /** Servers that failed lately last; the rest rotated by the handle, which spreads chunks and keeps one to one disk. */
  private inOrder({ handle, replicas }: Location): Replica[] {
    const order: Replica[] = [];
    const failed: Replica[] = [];
    for (let i = 0; i < replicas.length; i++) {
      const replica = replicas[(handle + i) % replicas.length];
      if (replica !== undefined) (this.options.servers.failedRecently(replica.address) ? failed : order).push(replica);
    }
    return order.concat(failed);
  }
}

function zeroFilled(bytes: Buffer, length: number): Buffer {
  if (bytes.length === length) return bytes;
  const filled = Buffer.alloc(length);
  bytes.copy(filled);
  return filled;
}
