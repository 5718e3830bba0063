/**
 * Where a file has data and where holes, for lseek(2), and what need not be zeroed by fallocate(2) and copies. A chunk
 * that is not there is a hole, and so are its blocks (64 KiB) of zeros: a chunkserver tells which. Smaller holes count
 * as data.
 */
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import {
  BLOCKS_PER_CHUNK,
  BLOCK_MAP_TIMEOUT_MS,
  BLOCK_SIZE_BYTES,
  CHUNK_SIZE_BYTES,
  CLIENT_CACHE_TTL_MS,
  MAX_CACHED_BLOCK_MAPS,
  MAX_FILE_BYTES,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { ChunkLocation } from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS, MASTER_METHODS } from '../../protocol/methods.js';
import type { ChunkServers } from './chunk-servers.js';
import { LruMap } from '../../core/lru.js';
import type { MasterConnection } from '../session/master-connection.js';

/** Chunks asked for at a time. */
const PAGE = 16;

/** The blocks of a chunk with data. */
interface BlockMap {
  hasData(block: number): boolean;
}

const NO_DATA: BlockMap = { hasData: () => false };

interface CachedMap {
  readonly version: number;
  /** Of the inode, when it was asked for. */
  readonly change: number;
  readonly map: BlockMap;
  readonly expiresMs: number;
}

/** A place in a file as lseek(2) is asked about it. */
export interface Place {
  readonly inode: InodeId;
  readonly size: number;
  /** The inode's change number, with all that this client wrote published: maps of before it are not believed. */
  readonly change: number;
}

export class FileExtents {
  /** Who looks for all holes of a file asks about the same chunk again and again. By handle. */
  private readonly maps = new LruMap<number, CachedMap>(MAX_CACHED_BLOCK_MAPS);

  constructor(
    private readonly options: {
      readonly clock: Clock;
      readonly master: MasterConnection;
      readonly servers: ChunkServers;
      readonly logger: Logger;
    },
  ) {}

  /** The first byte at or past `offset` that is data. ENXIO when there is none before the end. */
  async nextData(file: Place, offset: number): Promise<number> {
    const { inode, size } = file;
    for (let index = Math.floor(offset / CHUNK_SIZE_BYTES); index * CHUNK_SIZE_BYTES < size;) {
      const chunks = await this.chunks(inode, index, 2, true);
      for (const chunk of chunks) {
        const start = chunk.index * CHUNK_SIZE_BYTES;
        const from = Math.max(0, offset - start);
        const at = start + nextBlock(await this.cachedMap(file, chunk), from, true);
        if (at < Math.min(size, start + CHUNK_SIZE_BYTES)) return at;
        index = chunk.index + 1;
      }
      if (chunks.length < 2) break;
    }
    throw new CairnError('ENXIO', `there is no data from ${offset} on`);
  }

  /** The first byte at or past `offset` that is in a hole; the end of the file counts as one. */
  async nextHole(file: Place, offset: number): Promise<number> {
    const { inode, size } = file;
    for (let index = Math.floor(offset / CHUNK_SIZE_BYTES); index * CHUNK_SIZE_BYTES < size; index += PAGE) {
      for (const chunk of await this.chunks(inode, index, PAGE, false)) {
        const start = chunk.index * CHUNK_SIZE_BYTES;
        const at = nextBlock(await this.cachedMap(file, chunk), Math.max(0, offset - start), false);
        if (at < CHUNK_SIZE_BYTES) return Math.min(start + at, size);
      }
    }
    return size;
  }

  /** The runs of bytes in [offset, end) that may be anything but zeros, now, each within one chunk. */
  async *dataWithin(inode: InodeId, offset: number, end: number): AsyncGenerator<{ start: number; end: number }> {
    for (let index = Math.floor(offset / CHUNK_SIZE_BYTES); index * CHUNK_SIZE_BYTES < end;) {
      const [chunk] = await this.chunks(inode, index, 1, true);
      if (chunk === undefined || chunk.index * CHUNK_SIZE_BYTES >= end) return;
      const start = chunk.index * CHUNK_SIZE_BYTES;
      const stop = Math.min(CHUNK_SIZE_BYTES, end - start);
      const map = await this.blockMap(chunk);
      for (let at = nextBlock(map, Math.max(0, offset - start), true); at < stop;) {
        const after = Math.min(stop, nextBlock(map, at, false));
        yield { start: start + at, end: start + after };
        at = nextBlock(map, after, true);
      }
      index = chunk.index + 1;
    }
  }

  private async chunks(
    inode: InodeId,
    firstIndex: number,
    count: number,
    mappedOnly: boolean,
  ): Promise<readonly ChunkLocation[]> {
    const most = Math.min(count, MAX_FILE_BYTES / CHUNK_SIZE_BYTES - firstIndex);
    if (most <= 0) return [];
    const request = { inode, firstIndex, count: most, mappedOnly };
    return (await this.options.master.call(MASTER_METHODS.getChunks, request)).chunks;
  }

  private async cachedMap({ change }: Place, chunk: ChunkLocation): Promise<BlockMap> {
    const { handle, version } = chunk;
    if (handle === 0) return NO_DATA;
    const known = this.maps.get(handle);
    const now = this.options.clock.monotonicMs();
    if (known?.version === version && known.change === change && now < known.expiresMs) return known.map;
    const map = await this.blockMap(chunk);
    this.maps.set(handle, { version, change, map, expiresMs: now + CLIENT_CACHE_TTL_MS });
    return map;
  }

  /** All of a chunk counts as data when no replica tells. */
  private async blockMap({ handle, version, replicas, validBytes }: ChunkLocation): Promise<BlockMap> {
    if (handle === 0) return NO_DATA;
    const valid = Math.ceil(validBytes / BLOCK_SIZE_BYTES);
    const { servers, master } = this.options;
    for (const { address } of servers.inOrder(replicas, handle)) {
      try {
        const request = { handle, version, knownTime: master.masterTime };
        const times = { timeoutMs: BLOCK_MAP_TIMEOUT_MS };
        const { reply } = await servers.call(address, CHUNKSERVER_METHODS.mapChunk, request, times);
        const bits = Buffer.from(reply.dataBlocks);
        return { hasData: (block) => block < valid && (((bits[block >> 3] ?? 0) >> (block & 7)) & 1) === 1 };
      } catch (error) {
        this.options.logger.debug({ chunk: handle, server: address, error }, 'holes of a replica not told');
      }
    }
    return { hasData: (block) => block < valid };
  }
}

/** The first byte of a chunk at or past `offset` whose block has data, or has none; CHUNK_SIZE_BYTES if there is no such. */
function nextBlock(map: BlockMap, offset: number, withData: boolean): number {
  for (let block = Math.floor(offset / BLOCK_SIZE_BYTES); block < BLOCKS_PER_CHUNK; block++) {
    if (map.hasData(block) === withData) return Math.max(offset, block * BLOCK_SIZE_BYTES);
  }
  return CHUNK_SIZE_BYTES;
}
