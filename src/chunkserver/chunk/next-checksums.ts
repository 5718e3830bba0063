/**
 * Checksums that blocks will have after a mutation, known before it: they are announced in the table first. Only what a
 * block keeps of its old bytes is read for it.
 */
import { checksum } from '../../core/checksum.js';
import { BLOCK_SIZE_BYTES } from '../../core/limits.js';
import type { ChecksumTable } from './checksum-table.js';
import { blockCount, blockLength, blockOf, checksumZeros, neverRight } from './chunk-format.js';
import type { StoredBlocks } from './stored-blocks.js';

export class NextChecksums {
  constructor(
    private readonly table: ChecksumTable,
    private readonly blocks: StoredBlocks,
  ) {}

  /** Of the blocks from the end of the data up to that of `offset`, when zeros fill the gap. Empty when there is none. */
  before(offset: number): number[] {
    return this.afterZeros(offset, blockOf(offset));
  }

  /** Of the blocks from the end of the data on, when it is extended with zeros to `length` bytes. */
  afterExtension(length: number): number[] {
    return this.afterZeros(length, blockCount(length));
  }

  /** Of one block after the write of `bytes`, whose checksum is `given`, at `offset`. */
  async afterWrite(offset: number, bytes: Uint8Array, given: number): Promise<number> {
    const block = blockOf(offset);
    const at = offset - block * BLOCK_SIZE_BYTES;
    const had = this.table.lengthOf(block);
    if (at === 0 && bytes.length >= had) return given;
    if (at >= had) return checksum(bytes, checksumZeros(at - had, had === 0 ? 0 : this.table.sumOf(block)));
    const old = await this.blocks.readSound(block);
    const merged = at + bytes.length >= had ? old.subarray(0, at) : old;
    if (merged.length === at) return checksum(bytes, checksum(merged));
    merged.set(bytes, at);
    return checksum(merged);
  }

  /** Of the last block after a cut to `length` bytes. A damaged block stays damaged, and a torn one torn. */
  async afterCut(length: number): Promise<number> {
    const block = blockOf(length);
    const raw = await this.blocks.readBlock(block);
    const cut = checksum(raw.subarray(0, length - block * BLOCK_SIZE_BYTES));
    // Neither this nor what is never right has this checksum.
    if (this.table.isTorn(block)) return (cut ^ 1) >>> 0;
    return checksum(raw) === this.table.sumOf(block) ? cut : neverRight(cut);
  }

  private afterZeros(length: number, endBlock: number): number[] {
    const sums: number[] = [];
    if (length <= this.table.length) return sums;
    for (let block = blockOf(this.table.length); block < endBlock; block++) {
      const had = this.table.lengthOf(block);
      sums.push(checksumZeros(blockLength(block, length) - had, had === 0 ? 0 : this.table.sumOf(block)));
    }
    return sums;
  }
}
