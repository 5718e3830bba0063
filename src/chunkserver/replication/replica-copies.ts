/** Pulls a whole replica from another chunkserver: verified, holes left as holes, synced, visible only when whole. */
import { segmentsMatch } from '../../core/checksum.js';
import { CairnError, hasCode } from '../../core/errors.js';
import { chunkHandle, chunkVersion, type ChunkHandle } from '../../core/ids.js';
import {
  BLOCK_SIZE_BYTES,
  CHUNK_SIZE_BYTES,
  COPY_WINDOW,
  MAX_CHUNK_COPIES,
  MAX_PAYLOAD_BYTES,
  MAX_WAITING_COPIES,
} from '../../core/limits.js';
import { Semaphore, watched } from '../../core/sync.js';
import type { CopyChunkRequest } from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import type { CallResult } from '../../protocol/rpc.js';
import type { ReadChunkReply } from '../../protocol/generated/messages.js';
import { ZERO_BLOCK_SUM } from '../chunk/chunk-format.js';
import type { ChunkFile } from '../chunk/chunk-file.js';
import type { ChunkStore } from '../store/chunk-store.js';
import { mendedBlock } from '../chunk/lost-block.js';
import type { PeerPool } from './peer-pool.js';
import type { Replicas } from './replicas.js';
import { payloadBuffers } from '../../core/disk/payload-buffers.js';

export class ReplicaCopies {
  private readonly permits = new Semaphore(MAX_CHUNK_COPIES, MAX_WAITING_COPIES);
  /** The copy of each chunk that was asked for last. */
  private readonly current = new Map<ChunkHandle, symbol>();

  constructor(
    private readonly store: ChunkStore,
    private readonly replicas: Replicas,
    private readonly pool: PeerPool,
  ) {}

  /** The replica is to go: a copy of it under way must not bring it back. */
  cancel(handle: ChunkHandle): void {
    this.current.delete(handle);
  }

  /** Who asked for copies is gone, and does not know what comes of them. */
  cancelAll(): void {
    this.current.clear();
  }

  /**
   * Always makes a new replica, in place of what is here: that may be at the version and miss mutations. A later request for
   * the chunk, the end of this one at the master, or a deletion ends it: it was given up, and the chunk may have been written
   * since. So what the master is told of was made for this request.
   */
  async pull(request: CopyChunkRequest, signal: AbortSignal): Promise<{ damagedBlocks: number }> {
    const { source, version } = request;
    const handle = chunkHandle(request.handle);
    if (source === null) throw new CairnError('EINVAL', `copy of chunk ${handle} from nowhere`);
    if (this.store.isHeldUp(handle, this.replicas.isBusy(handle))) {
      // The copy would wait behind that, and so would, once it is a member, whoever writes the chunk.
      throw new CairnError('UNAVAILABLE', `what there was of chunk ${handle} here is held up by a disk that hangs`);
    }
    const copy = Symbol('copy');
    this.current.set(handle, copy);
    this.store.making.begins(handle);
    const refuseUnwanted = (): void => {
      if (this.current.get(handle) === copy && !signal.aborted) return;
      throw new CairnError('CANCELLED', `the copy of chunk ${handle} is not wanted any more`);
    };
    let release: (() => void) | undefined;
    try {
      release = await this.permits.acquire();
      refuseUnwanted();
      const peer = await this.pool.get(source.address);
      const read = (offset: number): Promise<CallResult<ReadChunkReply>> => {
        refuseUnwanted();
        const request = { handle, version, offset, length: MAX_PAYLOAD_BYTES, withDamage: true };
        return peer.call(CHUNKSERVER_METHODS.readChunk, request);
      };
      let damagedBlocks = 0;
      const make = async (file: ChunkFile): Promise<void> => {
        damagedBlocks = await fill(file, read, (block, damaged, sum) => this.ownBlock(handle, block, damaged, sum));
      };
      const replace = (): Promise<void> =>
        this.store.arrivals.replace(handle, chunkVersion(version), make, refuseUnwanted);
      // Given up with its permit when the disk does not answer, or a few such copies would keep all others away.
      await this.store.answering(handle, replace);
      this.replicas.replaced(handle);
      return { damagedBlocks };
    } finally {
      if (this.current.get(handle) === copy) this.current.delete(handle);
      release?.();
    }
  }

  /** A block that the replica of before has as it should be, or had before it was appended to, though it may be an older one. */
  private async ownBlock(
    handle: ChunkHandle,
    block: number,
    damaged: Uint8Array,
    sum: number,
  ): Promise<Buffer | undefined> {
    if (this.store.index.get(handle) === undefined) return undefined;
    try {
      const own = await this.store.use(handle, (file) => file.rawBlock(block));
      return own === undefined ? undefined : mendedBlock(own, damaged, sum);
    } catch (error) {
      if (hasCode(error, 'NO_REPLICA', 'EIO', 'CORRUPT')) return undefined;
      throw error;
    }
  }
}

type Piece = CallResult<ReadChunkReply>;
type BlockSource = (block: number, damaged: Uint8Array, sum: number) => Promise<Buffer | undefined>;

/** Returns how many blocks are lost: neither the source has them whole, nor `spare`. */
async function fill(file: ChunkFile, read: (offset: number) => Promise<Piece>, spare: BlockSource): Promise<number> {
  const ahead: Promise<Piece>[] = [];
  let asked = 0;
  let lost = 0;
  for (let offset = 0; offset < CHUNK_SIZE_BYTES; offset += MAX_PAYLOAD_BYTES) {
    // The first piece alone: most chunks end within it.
    const window = offset === 0 ? 1 : COPY_WINDOW;
    for (; asked < CHUNK_SIZE_BYTES && ahead.length < window; asked += MAX_PAYLOAD_BYTES) {
      ahead.push(watched(read(asked))); // Seen when its turn comes; when an earlier one fails, that one tells.
    }
    const piece = await ahead.shift();
    if (piece === undefined) break;
    const { reply, payload } = piece;
    if (reply.damagedBlocks.length > 0) lost += await writeSound(file, offset, piece, spare);
    else if (segmentsMatch(payload, offset, reply.checksums)) {
      await writeUnlessZeros(file, offset, payload, reply.checksums);
    } else throw damagedOnTheWay(file, offset);
    payloadBuffers.giveBack(payload);
    if (payload.length < MAX_PAYLOAD_BYTES) break;
  }
  return lost;
}

const damagedOnTheWay = (file: ChunkFile, offset: number): CairnError =>
  new CairnError('CORRUPT', `chunk ${file.handle} at ${offset} was damaged on the way`);

/** A piece of which the source has not all. */
async function writeSound(
  file: ChunkFile,
  offset: number,
  { reply, payload }: Piece,
  spare: BlockSource,
): Promise<number> {
  const damaged = new Set(reply.damagedBlocks);
  let lost = 0;
  for (const [index, sum] of reply.checksums.entries()) {
    const start = index * BLOCK_SIZE_BYTES;
    const at = offset + start;
    const part = payload.subarray(start, start + BLOCK_SIZE_BYTES);
    const block = at / BLOCK_SIZE_BYTES;
    if (!damaged.has(block)) {
      if (!segmentsMatch(part, at, [sum])) throw damagedOnTheWay(file, at);
      await writeUnlessZeros(file, at, part, [sum]);
      continue;
    }
    const own = await spare(block, part, sum);
    if (own !== undefined) {
      await writeUnlessZeros(file, at, own, [sum]);
      continue;
    }
    await file.writeLost(block, at + part.length, sum);
    lost++;
  }
  return lost;
}

const ZEROS = Buffer.alloc(BLOCK_SIZE_BYTES);

/** Writes the runs of blocks that are not zeros, and extends over the rest. */
async function writeUnlessZeros(
  file: ChunkFile,
  offset: number,
  payload: Uint8Array,
  sums: readonly number[],
): Promise<void> {
  const isHole = (block: number): boolean => {
    if (sums[block] !== ZERO_BLOCK_SUM) return false;
    return ZEROS.equals(payload.subarray(block * BLOCK_SIZE_BYTES, (block + 1) * BLOCK_SIZE_BYTES));
  };
  for (let block = 0; block < sums.length;) {
    const first = block;
    while (block < sums.length && !isHole(block)) block++;
    if (block > first) {
      const bytes = payload.subarray(first * BLOCK_SIZE_BYTES, block * BLOCK_SIZE_BYTES);
      await file.write(offset + first * BLOCK_SIZE_BYTES, bytes, sums.slice(first, block));
    }
    while (block < sums.length && isHole(block)) block++;
  }
  if (file.length < offset + payload.length) await file.truncate(offset + payload.length);
}
