/**
 * Where a file has data and where holes, for lseek(2), and what need not be zeroed by fallocate(2). A chunk that is not
 * there is a hole, and so is what follows the end of a chunk's replicas. Holes that are smaller count as data.
 */
import { CairnError } from '../core/errors.js';
import type { InodeId } from '../core/ids.js';
import { CHUNK_SIZE_BYTES } from '../core/limits.js';
import type { Logger } from '../core/logger.js';
import type { ChunkLocation } from '../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS, MASTER_METHODS } from '../protocol/methods.js';
import type { ChunkServers } from './chunk-servers.js';
import type { MasterConnection } from './master-connection.js';

/** Chunks asked for at a time. */
const PAGE = 16;

export class FileExtents {
  constructor(
    private readonly options: {
      readonly master: MasterConnection;
      readonly servers: ChunkServers;
      readonly logger: Logger;
    },
  ) {}

  /** The first byte at or past `offset` that is data. ENXIO when there is none before `size`. */
  async nextData(inode: InodeId, offset: number, size: number): Promise<number> {
    for (let index = Math.floor(offset / CHUNK_SIZE_BYTES); index * CHUNK_SIZE_BYTES < size;) {
      const chunks = await this.chunks(inode, index, 2, true);
      for (const chunk of chunks) {
        const start = chunk.index * CHUNK_SIZE_BYTES;
        const at = Math.max(offset, start);
        if (at < size && at < start + (await this.dataEnd(chunk))) return at;
        index = chunk.index + 1;
      }
      if (chunks.length < 2) break;
    }
    throw new CairnError('ENXIO', `there is no data from ${offset} on`);
  }

  /** The first byte at or past `offset` that is in a hole; the end of the file counts as one. */
  async nextHole(inode: InodeId, offset: number, size: number): Promise<number> {
    for (let index = Math.floor(offset / CHUNK_SIZE_BYTES); index * CHUNK_SIZE_BYTES < size; index += PAGE) {
      for (const chunk of await this.chunks(inode, index, PAGE, false)) {
        const end = await this.dataEnd(chunk);
        const at = Math.max(offset, chunk.index * CHUNK_SIZE_BYTES + end);
        if (end < CHUNK_SIZE_BYTES) return Math.min(at, size);
      }
    }
    return size;
  }

  /** The chunks with data in [offset, end), with the end of their data in the file. */
  async *dataWithin(inode: InodeId, offset: number, end: number): AsyncGenerator<{ start: number; end: number }> {
    for (let index = Math.floor(offset / CHUNK_SIZE_BYTES); index * CHUNK_SIZE_BYTES < end;) {
      const [chunk] = await this.chunks(inode, index, 1, true);
      if (chunk === undefined || chunk.index * CHUNK_SIZE_BYTES >= end) return;
      const start = chunk.index * CHUNK_SIZE_BYTES;
      const to = Math.min(end, start + (await this.dataEnd(chunk)));
      if (to > Math.max(offset, start)) yield { start: Math.max(offset, start), end: to };
      index = chunk.index + 1;
    }
  }

  private async chunks(
    inode: InodeId,
    firstIndex: number,
    count: number,
    mappedOnly: boolean,
  ): Promise<readonly ChunkLocation[]> {
    const request = { inode, firstIndex, count, mappedOnly };
    return (await this.options.master.call(MASTER_METHODS.getChunks, request)).chunks;
  }

  /** Where the data of a chunk ends: what follows is zeros. All of it counts as data when no replica tells. */
  private async dataEnd({ handle, version, replicas, validBytes }: ChunkLocation): Promise<number> {
    if (handle === 0) return 0;
    for (const { address } of replicas) {
      try {
        const request = { handle, version, offset: 0, length: 0 };
        const { reply } = await this.options.servers.call(address, CHUNKSERVER_METHODS.readChunk, request);
        return Math.min(validBytes, reply.length);
      } catch (error) {
        this.options.logger.debug({ chunk: handle, server: address, error }, 'length of a replica not told');
      }
    }
    return Math.min(validBytes, CHUNK_SIZE_BYTES);
  }
}
