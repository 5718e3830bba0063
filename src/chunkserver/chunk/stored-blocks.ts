/** The data of one open chunk file, read from the disk by blocks and verified against its checksum table. */
import { checksum } from '../../core/checksum.js';
import type { DiskFile } from '../../core/disk/disk.js';
import { CairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle } from '../../core/ids.js';
import { BLOCK_SIZE_BYTES } from '../../core/limits.js';
import type { ChecksumTable } from './checksum-table.js';
import { blockOf, DATA_OFFSET } from './chunk-format.js';

/** Names the block at fault: a read found it damaged. */
export class CorruptBlockError extends CairnError {
  constructor(
    readonly handle: ChunkHandle,
    readonly block: number,
    reason: string,
    /** It may be whole as it stands (`StoredBlocks.noteTorn`). */
    readonly isTorn: boolean,
    /** The disk's error, when it gave no bytes at all. */
    cause?: unknown,
  ) {
    super('CORRUPT', `block ${block} of chunk ${handle} ${reason}`, { cause });
  }
}

export class StoredBlocks {
  /** How often a damaged block was read or made, and how many of these times were before a search that found none. */
  private timesDamaged = 0;
  private searched = 0;

  constructor(
    private readonly file: DiskFile,
    private readonly table: ChecksumTable,
    private readonly handle: ChunkHandle,
  ) {}

  get sawDamage(): boolean {
    return this.timesDamaged > this.searched;
  }

  /** A search of all blocks begins. To be called when it has found none that is damaged: what was found meanwhile still counts. */
  search(): () => void {
    const { timesDamaged } = this;
    return () => {
      this.searched = Math.max(this.searched, timesDamaged);
    };
  }

  /**
   * A write of `block` was cut short. Recovery takes it from another replica, or as it stands when none has it whole: until then
   * nobody reads it.
   */
  noteTorn(block: number): void {
    this.table.noteTorn(block);
    this.timesDamaged++;
  }

  /** Fills `into` with the data from `start` on. Not verified. Throws CorruptBlockError where there is none to read. */
  async read(start: number, into: Buffer): Promise<Buffer> {
    let count: number;
    try {
      count = await this.file.read('chunk.read', into, DATA_OFFSET + start);
    } catch (error) {
      if (hasCode(error, 'EIO')) throw this.damaged(blockOf(start), 'or a later one cannot be read', error);
      throw error;
    }
    if (count !== into.length) throw this.damaged(blockOf(start), 'or a later one is missing from the file');
    return into;
  }

  /** The bytes of `block`. Not verified. */
  readBlock(block: number): Promise<Buffer> {
    return this.read(block * BLOCK_SIZE_BYTES, Buffer.allocUnsafeSlow(this.table.lengthOf(block)));
  }

  /** The bytes of `block`, verified. */
  async readSound(block: number): Promise<Buffer> {
    const bytes = await this.readBlock(block);
    this.verify(bytes, block);
    return bytes;
  }

  /** Throws CorruptBlockError unless `bytes`, whole blocks from `first` on, match their checksums. */
  verify(bytes: Buffer, first: number): void {
    for (let at = 0, block = first; at < bytes.length; at += BLOCK_SIZE_BYTES, block++) {
      const part = bytes.subarray(at, Math.min(at + BLOCK_SIZE_BYTES, bytes.length));
      if (checksum(part) === this.table.sumOf(block)) continue;
      if (!this.table.isTorn(block)) this.table.noteDamaged(block);
      throw this.damaged(block, 'fails its checksum');
    }
  }

  private damaged(block: number, what: string, cause?: unknown): CorruptBlockError {
    this.timesDamaged++;
    return new CorruptBlockError(this.handle, block, what, this.table.isTorn(block), cause);
  }
}
