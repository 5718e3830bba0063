/**
 * Reading one open chunk file beside its mutations: a read holds the lock of its blocks, so that it finds them, and their
 * checksums, before a mutation or after it. And the search for damage: for what recovery and copies take from elsewhere.
 */
import { payloadBuffers } from '../../core/disk/payload-buffers.js';
import { BLOCK_SIZE_BYTES } from '../../core/limits.js';
import type { ChecksumTable } from './checksum-table.js';
import { blockOf } from './chunk-format.js';
import type { Durability } from './durability.js';
import type { RangeLock } from './range-lock.js';
import { CorruptBlockError, type StoredBlocks } from './stored-blocks.js';

export interface BlocksRead {
  /** Of `payloadBuffers`: the caller's, who may give it back. */
  readonly bytes: Buffer;
  /** segmentChecksums of `bytes` at the offset read. */
  readonly checksums: number[];
}

export class BlockReads {
  constructor(
    private readonly table: ChecksumTable,
    private readonly blocks: StoredBlocks,
    private readonly ranges: RangeLock,
    private readonly durability: Durability,
  ) {}

  /**
   * Reads up to `length` bytes at `offset`, verified; fewer when the chunk ends earlier. Throws CorruptBlockError.
   */
  async read(offset: number, length: number): Promise<BlocksRead> {
    const first = blockOf(offset);
    const last = blockOf(offset + Math.max(length, 1) - 1);
    const lock = this.ranges.acquire(first, last, false);
    const release = typeof lock === 'function' ? lock : await lock;
    try {
      this.durability.refuseBroken();
      const end = Math.min(offset + length, this.table.length);
      if (end <= offset) return { bytes: Buffer.alloc(0), checksums: [] };
      const start = first * BLOCK_SIZE_BYTES;
      const stop = Math.min((blockOf(end - 1) + 1) * BLOCK_SIZE_BYTES, this.table.length);
      const raw = await this.blocks.read(start, payloadBuffers.take(stop - start));
      this.blocks.verify(raw, first);
      const bytes = raw.subarray(offset - start, end - start);
      return { bytes, checksums: this.table.segmentSums(bytes, offset) };
    } finally {
      release();
    }
  }

  /**
   * As `read`, of whole blocks: those that are damaged are named, with the checksums that they should have, and are as they can
   * be read, or zeros.
   */
  async readSound(offset: number, length: number): Promise<BlocksRead & { readonly damaged: number[] }> {
    try {
      return { ...(await this.read(offset, length)), damaged: [] };
    } catch (error) {
      if (!(error instanceof CorruptBlockError)) throw error;
    }
    const end = Math.min(offset + length, this.table.length);
    const bytes = Buffer.alloc(Math.max(0, end - offset));
    const checksums: number[] = [];
    const damaged: number[] = [];
    for (let block = blockOf(offset); block * BLOCK_SIZE_BYTES < end; block++) {
      const start = block * BLOCK_SIZE_BYTES;
      checksums.push(this.table.sumOf(block));
      try {
        const sound = (await this.read(start, Math.min(BLOCK_SIZE_BYTES, end - start))).bytes;
        sound.copy(bytes, start - offset);
        payloadBuffers.giveBack(sound);
      } catch (error) {
        if (!(error instanceof CorruptBlockError)) throw error;
        damaged.push(block);
        (await this.rawBlock(block))?.copy(bytes, start - offset);
      }
    }
    return { bytes, checksums, damaged };
  }

  /** The bytes of `block`, whatever this replica's table says of them; undefined when they cannot be read. */
  async rawBlock(block: number): Promise<Buffer | undefined> {
    try {
      return await this.blocks.readBlock(block);
    } catch (error) {
      if (error instanceof CorruptBlockError) return undefined;
      throw error;
    }
  }

  /** True when `block` can be read and matches its checksum. */
  async isSound(block: number): Promise<boolean> {
    try {
      payloadBuffers.giveBack((await this.read(block * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES)).bytes);
      return true;
    } catch (error) {
      if (error instanceof CorruptBlockError) return false;
      throw error;
    }
  }

  /**
   * Blocks known to be damaged. A suspect replica is read whole to know: power loss may have kept a block and lost its
   * checksum, or the other way round. So is one in which a damaged block was read: where one is, there may be more.
   * Elsewhere damage shows when a block is read.
   */
  async damagedBlocks(isSuspect: boolean): Promise<number[]> {
    const damaged: number[] = [];
    if (!isSuspect && !this.blocks.sawDamage) return damaged;
    const noteNone = this.blocks.search();
    const count = this.table.blockCount;
    for (let block = 0; block < count; block++) if (!(await this.isSound(block))) damaged.push(block);
    if (damaged.length === 0) noteNone();
    return damaged;
  }

  /**
   * Throws CorruptBlockError when a block of these bytes, written in place of a damaged one, cannot be read either: a disk may
   * take what it does not give back.
   */
  async demandMended(offset: number, length: number): Promise<void> {
    if (!this.blocks.sawDamage) return;
    const last = blockOf(Math.min(offset + length, this.table.length) - 1);
    for (let block = blockOf(offset); block <= last; block++) {
      payloadBuffers.giveBack((await this.read(block * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES)).bytes);
    }
  }
}
