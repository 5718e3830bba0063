/**
 * copy_file_range(2) between chunks, at the primary of the target: it reads the source from its own replica, or from
 * another server that has one, and applies what it read as ordinary writes of its own. So order, checksums, replication
 * and recovery are those of writes, and a copy that was cut short and is asked for again does no harm.
 *
 * A client asks for a bounded range. It is worked on in pieces, some read ahead of those that are written, and what was
 * done is answered after a short time: the client goes on from there. A source that cannot be read here is the client's
 * to read: it can ask the master where it is.
 */
import { segmentChecksums, segmentsMatch } from '../../core/checksum.js';
import type { Clock } from '../../core/clock.js';
import { asCairnError, CairnError, errorNumber } from '../../core/errors.js';
import { chunkHandle } from '../../core/ids.js';
import {
  BLOCK_SIZE_BYTES,
  CHUNK_SIZE_BYTES,
  COPY_RANGE_MS,
  COPY_READ_TIMEOUT_MS,
  COPY_WINDOW,
  MAX_COPY_RANGE_BYTES,
  MAX_PAYLOAD_BYTES,
  MAX_RANGE_COPIES,
  MAX_REPLICAS,
  MAX_WAITING_RANGE_COPIES,
} from '../../core/limits.js';
import type { MasterTime } from '../../core/master-time.js';
import { Semaphore, watched } from '../../core/sync.js';
import type {
  CopyRangeReplyInit,
  CopyRangeRequest,
  CopySource,
  ReadChunkRequest,
  Replica,
} from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import { ZERO_BLOCK_SUM } from '../chunk/chunk-format.js';
import type { BlocksRead } from '../chunk/block-reads.js';
import type { ChunkStore } from '../store/chunk-store.js';
import type { PeerPool } from './peer-pool.js';
import type { Mutations } from './mutations.js';
import type { Replicas } from './replicas.js';
import { payloadBuffers } from '../../core/disk/payload-buffers.js';

export interface RangeCopyDependencies {
  readonly clock: Clock;
  readonly store: ChunkStore;
  readonly replicas: Replicas;
  readonly mutations: Mutations;
  readonly pool: PeerPool;
  readonly serverId: () => number;
  /** A read of an own replica, as for a client: refused when it may be stale (P9). */
  readonly read: (request: SourceRange) => Promise<BlocksRead>;
}

type SourceRange = Pick<ReadChunkRequest, 'handle' | 'version' | 'offset' | 'length' | 'knownTime'>;

interface Range {
  readonly offset: number;
  readonly length: number;
}

/** Bytes at an offset of the target chunk, with their segmentChecksums there. */
interface Run extends Pick<BlocksRead, 'checksums'> {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

const ZEROS = Buffer.alloc(MAX_PAYLOAD_BYTES);

export class RangeCopies {
  private readonly permits = new Semaphore(MAX_RANGE_COPIES, MAX_WAITING_RANGE_COPIES);

  constructor(private readonly deps: RangeCopyDependencies) {}

  /**
   * Copies from the start of the range, as far as it comes in COPY_RANGE_MS. Fails as a write to the target does, with
   * the content of the range in doubt; a source that cannot be read is told in the reply.
   */
  async copy(request: CopyRangeRequest, signal: AbortSignal): Promise<CopyRangeReplyInit> {
    const { clock, replicas, store } = this.deps;
    const { version, leaseId } = request;
    const handle = chunkHandle(request.handle);
    checkRequest(request);
    const deadline = clock.monotonicMs() + COPY_RANGE_MS;
    replicas.primaryLease(handle, version, leaseId);
    const release = await this.permits.acquire();
    try {
      if (clock.monotonicMs() >= deadline) {
        throw new CairnError('BUSY', `${MAX_RANGE_COPIES} ranges are being copied here: try again`);
      }
      // Given up with its permit when the disk does not answer.
      return await store.answering(handle, async () => {
        // Where the target ends, zeros need not be written: what others write meanwhile may as well come after the copy.
        const end = await store.use(handle, (file) => Promise.resolve(file.length));
        return this.run(request, end, () => signal.aborted || clock.monotonicMs() >= deadline);
      });
    } finally {
      release();
    }
  }

  private async run(request: CopyRangeRequest, targetEnd: number, isOver: () => boolean): Promise<CopyRangeReplyInit> {
    const source = request.source === null ? undefined : new SourceReader(this.deps, request.source, request.knownTime);
    const pieces = piecesOf(request);
    const reads: Promise<BlocksRead | CairnError>[] = [];
    const writes: Promise<void>[] = [];
    let asked = 0;
    let copied = 0;
    let sourceError: CairnError | undefined;
    try {
      for (const [index, { offset, length }] of pieces.entries()) {
        // Always one piece, so that whoever asks again and again comes to an end.
        if (index > 0 && isOver()) break;
        for (; asked < pieces.length && asked < index + COPY_WINDOW; asked++) {
          const next = pieces[asked];
          if (next !== undefined) reads.push(watched(readPiece(source, next.offset - request.offset, next.length)));
        }
        const read = await reads[index];
        if (read === undefined) throw new CairnError('INTERNAL', `piece ${index} was not read`);
        if (read instanceof CairnError) {
          sourceError = read;
          break;
        }
        const sourceOffset = (request.source?.offset ?? 0) + offset - request.offset;
        const ofPiece: Promise<void>[] = [];
        for (const run of runsOf(read, { sourceOffset, offset, length, targetEnd })) {
          while (writes.length >= COPY_WINDOW) await writes.shift();
          // Seen when its turn comes; when an earlier one fails, that one tells.
          const write = watched(this.deps.mutations.writeVerified({ ...request, ...run }, run.bytes));
          writes.push(write);
          ofPiece.push(write);
        }
        // After a failure the bytes may still be on their way to another member.
        Promise.all(ofPiece).then(
          () => payloadBuffers.giveBack(read.bytes),
          () => undefined,
        );
        copied += length;
      }
      for (const write of writes) await write;
    } finally {
      // Nothing is left behind that would write after the answer.
      await Promise.allSettled([...writes, ...reads]);
    }
    return { copied, sourceError: sourceError === undefined ? 0 : errorNumber(sourceError.code) };
  }
}

/** Bytes of the source from whichever server has them; one that failed is not asked again. */
class SourceReader {
  private readonly servers: Replica[];

  constructor(
    private readonly deps: RangeCopyDependencies,
    private readonly source: CopySource,
    /** The client's: a server that it would not believe is not read for it. */
    private readonly knownTime: MasterTime | null,
  ) {
    const self = deps.serverId();
    const { handle, replicas } = source;
    const isOwn = (replica: Replica): boolean => replica.serverId === self;
    const others = replicas.filter((replica) => !isOwn(replica));
    const first = others.length === 0 ? 0 : handle % others.length;
    this.servers = [...replicas.filter(isOwn), ...others.slice(first), ...others.slice(0, first)];
  }

  /** Verified bytes at `at` of the range; fewer than `length`, or none, where zeros follow. */
  async read(at: number, length: number): Promise<BlocksRead> {
    const { handle, version, offset } = this.source;
    const { knownTime } = this;
    const wanted = Math.min(length, this.source.length - at);
    if (wanted <= 0) return NOTHING;
    let failure: CairnError | undefined;
    for (;;) {
      const [server] = this.servers;
      if (server === undefined) {
        throw failure ?? new CairnError('NO_REPLICA', `no server with chunk ${handle} was named`);
      }
      try {
        return await this.readFrom(server, { handle, version, offset: offset + at, length: wanted, knownTime });
      } catch (error) {
        failure = asCairnError(error);
        const index = this.servers.indexOf(server);
        if (index >= 0) this.servers.splice(index, 1); // Of reads at the same time, the first to fail takes it out.
      }
    }
  }

  private async readFrom(server: Replica, request: SourceRange): Promise<BlocksRead> {
    const { handle, offset, length } = request;
    if (server.serverId === this.deps.serverId()) return this.deps.read(request);
    const peer = await this.deps.pool.get(server.address);
    const { reply, payload } = await peer.call(
      CHUNKSERVER_METHODS.readChunk,
      { ...request, served: true },
      { timeoutMs: COPY_READ_TIMEOUT_MS },
    );
    if (payload.length > length || !segmentsMatch(payload, offset, reply.checksums)) {
      throw new CairnError('CORRUPT', `bytes of chunk ${handle} from ${server.address} were damaged on the way`);
    }
    const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
    return { bytes, checksums: reply.checksums };
  }
}

const NOTHING: BlocksRead = { bytes: Buffer.alloc(0), checksums: [] };

/** Never rejects: the failure is the result. */
async function readPiece(
  source: SourceReader | undefined,
  at: number,
  length: number,
): Promise<BlocksRead | CairnError> {
  try {
    return source === undefined ? NOTHING : await source.read(at, length);
  } catch (error) {
    return asCairnError(error);
  }
}

function checkRequest({ handle, offset, length, source }: CopyRangeRequest): void {
  const inChunk = (range: Range): boolean => range.offset + range.length <= CHUNK_SIZE_BYTES;
  if ((source?.replicas.length ?? 0) > MAX_REPLICAS) {
    throw new CairnError('EINVAL', `a chunk has at most ${MAX_REPLICAS} replicas`);
  }
  const fits = length > 0 && length <= MAX_COPY_RANGE_BYTES && inChunk({ offset, length });
  if (!fits || (source !== null && !inChunk(source))) {
    throw new CairnError('EINVAL', `copy of ${length} bytes to ${offset} of chunk ${handle}`);
  }
  if (source === null || source.handle !== handle) return;
  const isApart = source.offset + Math.min(length, source.length) <= offset || offset + length <= source.offset;
  if (!isApart) throw new CairnError('EINVAL', `copy of chunk ${handle} onto itself`);
}

/** The range in the target, cut so that each piece but the first and the last is of whole blocks there. */
function piecesOf({ offset, length }: Range): Range[] {
  const pieces: Range[] = [];
  for (let at = offset; at < offset + length;) {
    const end = Math.min(offset + length, at + MAX_PAYLOAD_BYTES - (at % MAX_PAYLOAD_BYTES));
    pieces.push({ offset: at, length: end - at });
    at = end;
  }
  return pieces;
}

/** What is to be written of a piece: blocks of zeros past the end of the target are left out, and stay holes. */
function* runsOf(
  { bytes, checksums }: BlocksRead,
  { sourceOffset, offset, length, targetEnd }: Range & { readonly sourceOffset: number; readonly targetEnd: number },
): Generator<Run> {
  const sums = (sourceOffset - offset) % BLOCK_SIZE_BYTES === 0 ? checksums : segmentChecksums(bytes, offset);
  const run = (first: number, after: number): Run => {
    const [from, to] = [segmentStart(offset, first), Math.min(bytes.length, segmentStart(offset, after))];
    return { offset: offset + from, bytes: bytes.subarray(from, to), checksums: sums.slice(first, after) };
  };
  let first = 0;
  for (let segment = 0; segment < sums.length; segment++) {
    const at = segmentStart(offset, segment);
    if (offset + at < targetEnd || sums[segment] !== ZERO_BLOCK_SUM) continue;
    const block = bytes.subarray(at, at + BLOCK_SIZE_BYTES);
    if (block.length < BLOCK_SIZE_BYTES || !block.equals(ZEROS.subarray(0, BLOCK_SIZE_BYTES))) continue;
    if (segment > first) yield run(first, segment);
    first = segment + 1;
  }
  if (sums.length > first) yield run(first, sums.length);
  // Behind the source's end.
  const zeros = Math.min(offset + length, targetEnd) - (offset + bytes.length);
  if (zeros <= 0) return;
  const [from, padding] = [offset + bytes.length, ZEROS.subarray(0, zeros)];
  yield { offset: from, bytes: padding, checksums: segmentChecksums(padding, from) };
}

/** Where segment `index` of bytes at `offset` begins, from their start. */
function segmentStart(offset: number, index: number): number {
  return index === 0 ? 0 : index * BLOCK_SIZE_BYTES - (offset % BLOCK_SIZE_BYTES);
}
