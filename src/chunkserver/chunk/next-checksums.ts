/**
 * Checksums that blocks will have after a mutation, known before it: they are announced in the table first. Only what a
 * block keeps of its old bytes is read for it.
 */
import { checksum } from '../../core/checksum.js';
import { withPart } from '../../core/checksum-parts.js';
import { payloadBuffers } from '../../core/disk/payload-buffers.js';
import { BLOCK_SIZE_BYTES, MAX_PAYLOAD_BYTES } from '../../core/limits.js';
import type { ChecksumTable } from './checksum-table.js';
import { blockCount, blockLength, blockOf, checksumZeros, neverRight } from './chunk-format.js';
import type { StoredBlocks } from './stored-blocks.js';

/** In one buffer for payloads. */
export const MAX_HELD_BLOCKS = MAX_PAYLOAD_BYTES / BLOCK_SIZE_BYTES;

export class NextChecksums {
  /** Blocks that `hold` has read, with what was written to them since. */
  private readonly held = new Map<number, Buffer>();
  /** Where they are. */
  private memory: Buffer | undefined;

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
    const held = this.held.get(block);
    const old = held?.length === had ? held : await this.readSound(block, payloadBuffers.take(had));
    try {
      if (at + bytes.length > had) return checksum(bytes, checksum(old.subarray(0, at)));
      const part = old.subarray(at, at + bytes.length);
      const sum = withPart(this.table.sumOf(block), checksum(part), given, had - at - bytes.length);
      part.set(bytes);
      return sum;
    } finally {
      if (old !== held) payloadBuffers.giveBack(old);
    }
  }

  /**
   * Reads the blocks that these writes leave something of, several at a time, and keeps them until `letGo`. Nothing else may change the
   * file meanwhile. What cannot be read is read again, and told, when it is needed.
   */
  async hold(writes: readonly { readonly offset: number; readonly bytes: Uint8Array }[]): Promise<void> {
    const wanted = new Set<number>();
    for (const { offset, bytes } of writes) {
      const last = blockOf(offset + bytes.length - 1);
      for (let block = blockOf(offset); block <= last; block++)
        if (this.keepsSome(block, offset, bytes.length)) wanted.add(block);
    }
    const memory = (this.memory ??= payloadBuffers.take(MAX_HELD_BLOCKS * BLOCK_SIZE_BYTES));
    const read = async (block: number, i: number): Promise<void> => {
      const start = i * BLOCK_SIZE_BYTES;
      this.held.set(block, await this.readSound(block, memory.subarray(start, start + this.table.lengthOf(block))));
    };
    await Promise.allSettled([...wanted].slice(0, MAX_HELD_BLOCKS).map(read));
  }

  letGo(): void {
    this.held.clear();
    if (this.memory !== undefined) payloadBuffers.giveBack(this.memory);
    this.memory = undefined;
  }

  /** Whether a write leaves some of the bytes that `block` has, so that its new checksum is not known without them. */
  private keepsSome(block: number, offset: number, length: number): boolean {
    const had = this.table.lengthOf(block);
    const at = offset - block * BLOCK_SIZE_BYTES;
    return at < had && (at > 0 || at + length < had);
  }

  private async readSound(block: number, into: Buffer): Promise<Buffer> {
    const bytes = await this.blocks.read(block * BLOCK_SIZE_BYTES, into);
    this.blocks.verify(bytes, block);
    return bytes;
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
