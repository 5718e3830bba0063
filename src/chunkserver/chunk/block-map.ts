/**
 * Which blocks of a replica hold anything but zeros, for lseek(2) with SEEK_DATA and SEEK_HOLE. The checksums in memory
 * tell most blocks with data apart. A block whose checksum is that of zeros is read, because other bytes may have the
 * same checksum, and who copies a file by its data would lose them (P3). Reading holes costs no disk.
 */
import { hasCode } from '../../core/errors.js';
import { payloadBuffers } from '../../core/disk/payload-buffers.js';
import { BLOCK_SIZE_BYTES, MAX_PAYLOAD_BYTES } from '../../core/limits.js';
import { blockLength, checksumZeros } from './chunk-format.js';
import type { ChunkFile } from './chunk-file.js';

const ZEROS = Buffer.alloc(BLOCK_SIZE_BYTES);
const BLOCKS_READ = MAX_PAYLOAD_BYTES / BLOCK_SIZE_BYTES;

export interface BlockMap {
  readonly length: number;
  /** A bit for each block, the lowest bit first. */
  readonly dataBlocks: Buffer;
}

export async function mapBlocks(file: ChunkFile): Promise<BlockMap> {
  const { length } = file;
  const sums = file.checksums();
  const dataBlocks = Buffer.alloc(Math.ceil(sums.length / 8));
  const mark = (block: number): void => {
    dataBlocks[block >> 3] = (dataBlocks[block >> 3] ?? 0) | (1 << (block & 7));
  };
  const mayBeHole = (block: number): boolean => sums[block] === checksumZeros(blockLength(block, length));
  for (let block = 0; block < sums.length;) {
    const first = block;
    while (block < sums.length && block - first < BLOCKS_READ && mayBeHole(block)) block++;
    if (block === first) mark(block++);
    else for (const found of await dataAmong(file, first, block)) mark(found);
  }
  return { length, dataBlocks };
}

/** Of the blocks from `first` to before `after`, those with data; all of them when that cannot be read. */
async function dataAmong(file: ChunkFile, first: number, after: number): Promise<number[]> {
  const blocks = Array.from({ length: after - first }, (_, i) => first + i);
  try {
    const { bytes } = await file.read(first * BLOCK_SIZE_BYTES, (after - first) * BLOCK_SIZE_BYTES);
    const found = blocks.filter((block) => {
      const start = (block - first) * BLOCK_SIZE_BYTES;
      const part = bytes.subarray(start, start + BLOCK_SIZE_BYTES);
      return !part.equals(ZEROS.subarray(0, part.length));
    });
    payloadBuffers.giveBack(bytes);
    return found;
  } catch (error) {
    if (hasCode(error, 'CORRUPT')) return blocks;
    throw error;
  }
}
