/**
 * One open chunk file: data with a checksum a block.
 *
 *   chunk-header     which chunk and version, and the mark that it is under mutation
 *   checksum-table   length and checksums, in memory and on disk
 *   stored-blocks    data read from the disk and verified
 *   block-reads      reading beside mutations, and the search for damage
 *   next-checksums   the checksums that blocks will have after a mutation
 *   failed-change    the table after a mutation that failed
 *   settle           the table after a crash
 *   durability       syncing, the marks and the version; when the content is not known any more
 *   sync-progress    what a finished sync covers
 *
 * A write goes: pending checksums into the table, data, and the current checksums lazily (with the next write to the
 * block, or when the file is closed or marked clean). So whenever the process is killed, a block matches its current
 * checksum (old), its pending one (new), or, where the two differ, is torn by a write that nobody was told about, or has rotted.
 * The first opening after a crash settles such blocks, and recovery those that are torn; from then on one checksum counts.
 *
 * Callers keep mutations (write, truncate, adopt, markClean) one at a time; reads may come at any time.
 */
import { blockSegments, checksum } from '../../core/checksum.js';
import type { Disk, DiskFile } from '../../core/disk/disk.js';
import { CairnError } from '../../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../../core/ids.js';
import {
  BLOCK_SIZE_BYTES,
  CHUNK_SIZE_BYTES,
  DIRECT_AFTER_BYTES,
  DIRECT_WRITE_BYTES,
  SMALL_WRITE_BYTES,
} from '../../core/limits.js';
import { BlockReads, type BlocksRead } from './block-reads.js';
import { ChecksumTable } from './checksum-table.js';
import {
  blockCount,
  blockLength,
  blockOf,
  checksumZeros,
  DATA_OFFSET,
  neverRight,
  TABLE_BYTES,
  TABLE_OFFSET,
  type ChunkName,
} from './chunk-format.js';
import { StoredHeader } from './chunk-header.js';
import { Durability } from './durability.js';
import { takeAsIs, type FailedChange } from './failed-change.js';
import { lostBlock } from './lost-block.js';
import { MAX_HELD_BLOCKS, NextChecksums } from './next-checksums.js';
import { RangeLock } from './range-lock.js';
import { resolveTornRows } from './torn-rows.js';
import { CorruptBlockError, StoredBlocks } from './stored-blocks.js';

/** Bytes for the data from `offset` on, with their segmentChecksums there. */
export interface ChunkWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly checksums: readonly number[];
}

/** What a mutation is going to do, decided under the lock of its blocks. */
interface Plan {
  /** From the first block of the mutation on. */
  readonly newSums: number[];
  readonly newLength: number;
  readonly apply: () => Promise<void>;
}

const streamed = (offset: number, length: number): 'stream' | undefined =>
  length >= DIRECT_WRITE_BYTES && offset >= DIRECT_AFTER_BYTES ? 'stream' : undefined;

/** Of the block in which a change begins: so it stays torn when it is. */
const keepsBytesBefore = (start: number): boolean => start % BLOCK_SIZE_BYTES !== 0;

export class ChunkFile {
  private readonly ranges = new RangeLock();
  private readonly blocks: StoredBlocks;
  private readonly next: NextChecksums;
  private readonly reads: BlockReads;
  private readonly durability: Durability;

  private constructor(
    private readonly file: DiskFile,
    private readonly header: StoredHeader,
    private readonly table: ChecksumTable,
    isNew: boolean,
  ) {
    this.blocks = new StoredBlocks(file, table, header.handle);
    this.next = new NextChecksums(table, this.blocks);
    this.durability = new Durability(file, header, table, this.blocks, isNew);
    this.reads = new BlockReads(table, this.blocks, this.ranges, this.durability);
  }

  get handle(): ChunkHandle {
    return this.header.handle;
  }
  get version(): ChunkVersion {
    return this.header.version;
  }
  get dirty(): boolean {
    return this.header.dirty;
  }
  /** Its machine went down while it was under mutation, or a sync of it failed. */
  get suspect(): boolean {
    return this.header.suspect;
  }
  /** A sync failed: what is on the disk is not known. */
  get syncFailed(): boolean {
    return this.header.syncFailed;
  }
  /** A sync failed, and the file does not say so. */
  get isUnmarked(): boolean {
    return this.durability.isUnmarked;
  }
  /** Bytes of data. */
  get length(): number {
    return this.table.length;
  }
  /** Bytes written that no sync covers yet. */
  get unsyncedBytes(): number {
    return this.durability.unsyncedBytes;
  }

  /** Leaves no file when it fails, if the disk allows. */
  static async create(
    disk: Disk,
    path: string,
    handle: ChunkHandle,
    version: ChunkVersion,
    bootId = disk.bootId(),
  ): Promise<ChunkFile> {
    const file = await disk.open('chunk.create', path, 'exclusive');
    try {
      const header = StoredHeader.create(bootId, file, handle, version);
      return new ChunkFile(file, header, new ChecksumTable(file, 0), true);
    } catch (error) {
      await file.close().catch(() => undefined);
      await disk.unlink('chunk.discard', path).catch(() => undefined);
      throw error;
    }
  }

  /**
   * Fails with NO_REPLICA when the file is not a whole chunk file (its creation was cut short). `trusted`: the data
   * directory was left clean, so that no replica in it is suspect; `bootId`: the boot of that directory; `syncFailed`: a sync
   * failed, and the file was not marked then; `name`: what counts, and makes it suspect, when its headers have rotted.
   */
  static async open(
    disk: Disk,
    path: string,
    known: {
      readonly trusted?: boolean;
      readonly bootId?: string;
      readonly syncFailed?: boolean;
      readonly name?: ChunkName;
    } = {},
  ): Promise<ChunkFile> {
    const { trusted = false, bootId = disk.bootId(), syncFailed = false, name } = known;
    const file = await disk.open('chunk.open', path, 'existing');
    try {
      const meta = Buffer.alloc(TABLE_OFFSET + TABLE_BYTES);
      await file.read('chunk.open', meta, 0);
      const header = StoredHeader.decode(bootId, file, meta.subarray(0, TABLE_OFFSET), { trusted, name });
      if (header === undefined)
        throw new CairnError('NO_REPLICA', `${path} has no valid header: it was never finished`);
      if (syncFailed) header.markSyncFailed(true);
      const length = Math.max(0, (await file.size('chunk.open')) - DATA_OFFSET);
      if (length > CHUNK_SIZE_BYTES) throw new CairnError('NO_REPLICA', `${path} is longer than a chunk`);
      const chunk = new ChunkFile(file, header, new ChecksumTable(file, length), false);
      await resolveTornRows(chunk.table, chunk.blocks, meta.subarray(TABLE_OFFSET), header.dirtySinceBoot);
      return chunk;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Up to `length` bytes at `offset`, verified; fewer when the chunk ends earlier. Throws CorruptBlockError. */
  read(offset: number, length: number): Promise<BlocksRead> {
    return this.reads.read(offset, length);
  }

  /** As `read`, of whole blocks: those that are damaged are named. */
  readSound(offset: number, length: number): Promise<BlocksRead & { readonly damaged: number[] }> {
    return this.reads.readSound(offset, length);
  }

  /** Whether recovery is still to say what `block` is, as a write of it was cut short. */
  isTorn(block: number): boolean {
    return this.table.isTorn(block);
  }

  /** The bytes of `block`, sound or not; undefined when they cannot be read. */
  rawBlock(block: number): Promise<Buffer | undefined> {
    return this.reads.rawBlock(block);
  }

  /** True when `block` can be read and matches its checksum. */
  isSound(block: number): Promise<boolean> {
    return this.reads.isSound(block);
  }

  /** Blocks known to be damaged: all that are, where there is reason to look. */
  damagedBlocks(): Promise<number[]> {
    return this.reads.damagedBlocks(this.suspect);
  }

  /** Throws CorruptBlockError when what was written in place of damaged blocks there cannot be read either. */
  demandMended(offset: number, length: number): Promise<void> {
    return this.reads.demandMended(offset, length);
  }

  /** In a chunk that is being made: `block`, which ends at `end`, is lost; its bytes had the checksum `sum`. */
  async writeLost(block: number, end: number, sum: number): Promise<void> {
    const offset = block * BLOCK_SIZE_BYTES;
    if (offset < this.length) throw new CairnError('INTERNAL', `block ${block} of chunk ${this.handle} is there`);
    const bytes = lostBlock(end - offset, sum);
    await this.change(this.length, end, () =>
      Promise.resolve({
        newSums: [...this.next.before(offset), sum],
        newLength: end,
        apply: () => this.file.write('chunk.write', bytes, DATA_OFFSET + offset),
      }),
    );
  }

  /**
   * Writes `bytes` at `offset`; `sums` are their segmentChecksums, which the caller verified. When it fails, the
   * range written holds old and new bytes in any mix; blocks that it was to replace whole may be torn.
   */
  async write(offset: number, bytes: Uint8Array, sums: readonly number[]): Promise<void> {
    const end = offset + bytes.length;
    if (end > CHUNK_SIZE_BYTES) throw new CairnError('EFBIG', `write up to ${end} of chunk ${this.handle}`);
    if (bytes.length === 0) return;
    await this.change(Math.min(offset, this.length), end, async () => {
      const newSums = this.next.before(offset);
      let segment = 0;
      for (const [from, to] of blockSegments(bytes.length, offset)) {
        const given = sums[segment++];
        if (given === undefined) throw new CairnError('INTERNAL', 'fewer checksums than segments');
        newSums.push(await this.next.afterWrite(offset + from, bytes.subarray(from, to), given));
      }
      return {
        newSums,
        newLength: Math.max(this.length, end),
        apply: async () => {
          if (bytes.length <= SMALL_WRITE_BYTES) this.file.writeSync('chunk.write', bytes, DATA_OFFSET + offset);
          else await this.file.write('chunk.write', bytes, DATA_OFFSET + offset, streamed(offset, bytes.length));
        },
      };
    });
  }

  /** As `write`, of one after another; the first that fails is the last. */
  async writeAll(writes: readonly ChunkWrite[]): Promise<void> {
    for (let from = 0; from < writes.length; from += MAX_HELD_BLOCKS) {
      const some = writes.slice(from, from + MAX_HELD_BLOCKS);
      this.durability.refuseBroken();
      try {
        if (some.length > 1) await this.next.hold(some);
        for (const { offset, bytes, checksums } of some) await this.write(offset, bytes, checksums);
      } finally {
        this.next.letGo();
      }
    }
  }

  /** Cuts, or extends with zeros, to `length` bytes. */
  async truncate(length: number): Promise<void> {
    const oldLength = this.length;
    if (length === oldLength) return;
    if (length > CHUNK_SIZE_BYTES) throw new CairnError('EFBIG', `truncate to ${length} of chunk ${this.handle}`);
    const apply = (): Promise<void> => this.file.truncate('chunk.truncate', DATA_OFFSET + length);
    if (length > oldLength) {
      await this.change(oldLength, length, () =>
        Promise.resolve({ newSums: this.next.afterExtension(length), newLength: length, apply }),
      );
      return;
    }
    await this.change(length, oldLength, async () => {
      const newSums: number[] = [];
      if (length % BLOCK_SIZE_BYTES !== 0) newSums.push(await this.next.afterCut(length));
      return { newSums, newLength: length, apply };
    });
    // Old checksums behind the end would be taken for those of new bytes there.
    this.table.clear(blockCount(length), blockOf(oldLength - 1));
  }

  /** Extends an empty chunk to `length` bytes in blocks that fail their checksums until each is written anew, whole. */
  async extendDamaged(length: number): Promise<void> {
    if (this.length > 0) throw new CairnError('INTERNAL', `chunk ${this.handle} is not empty`);
    await this.change(0, length, () => {
      const newSums: number[] = [];
      for (let block = 0; block < blockCount(length); block++) {
        newSums.push(neverRight(checksumZeros(blockLength(block, length))));
      }
      const apply = (): Promise<void> => this.file.truncate('chunk.truncate', DATA_OFFSET + length);
      return Promise.resolve({ newSums, newLength: length, apply });
    });
  }

  /** What is applied survives power loss. Callers at the same time share one fdatasync. */
  sync(): Promise<void> {
    return this.durability.sync();
  }

  /** Syncs, and marks the file as not under mutation. UNAVAILABLE while a block is torn. */
  markClean(): Promise<void> {
    return this.durability.markClean();
  }

  /** Syncs the content, then takes `version`, durably. A suspect replica is one no longer; it stays dirty while a block is torn. */
  adopt(version: ChunkVersion): Promise<void> {
    return this.durability.adopt(version);
  }

  /** Nothing more is read from or written to it: another opening of the file is to be believed. */
  abandon(reason: CairnError): void {
    this.durability.abandon(reason);
  }

  /** The checksum of each block. */
  checksums(): number[] {
    return this.table.all();
  }

  /**
   * Takes a damaged block as it stands, in a suspect replica, or where a write was cut short: the mix of old and new that a file
   * may hold after that. False, with nothing changed, when it cannot be read, or stands for bytes that were lost for another reason.
   */
  async acceptTorn(block: number): Promise<boolean> {
    // Where the header has rotted, so may a block have.
    const isDoubtful = this.suspect && !this.header.isMadeUp;
    if (!isDoubtful && !this.isTorn(block)) return false;
    try {
      const raw = await this.blocks.readBlock(block);
      const actual = checksum(raw);
      if (!this.isTorn(block) && actual === neverRight(this.table.sumOf(block))) return false;
      const start = block * BLOCK_SIZE_BYTES;
      // Its bytes are not written: the disk may be full.
      await this.change(start, start + raw.length, () =>
        Promise.resolve({ newSums: [actual], newLength: this.length, apply: () => Promise.resolve() }),
      );
      return true;
    } catch (error) {
      if (error instanceof CorruptBlockError) return false;
      throw error;
    }
  }

  /** Writes what lags on disk and closes. No operation may be running. */
  async close(): Promise<void> {
    try {
      if (!this.durability.isBroken) this.table.flush();
    } finally {
      await this.file.close();
    }
  }

  /**
   * Runs one mutation of the bytes from `start` to `end`: plans under the lock of the blocks, writes the rows of the
   * table, applies, takes the new checksums.
   */
  private async change(start: number, end: number, plan: () => Promise<Plan>): Promise<void> {
    this.durability.refuseBroken();
    await this.durability.markDirty();
    const first = blockOf(start);
    const lock = this.ranges.acquire(first, Math.max(first, blockOf(end - 1)), true);
    const release = typeof lock === 'function' ? lock : await lock;
    try {
      const { newSums, newLength, apply } = await plan();
      this.durability.beginChange();
      this.table.announce(first, newSums);
      try {
        await apply();
      } catch (error) {
        await this.takeAsIs({ start, end, newSums, newLength });
        throw error;
      }
      this.table.take(first, newSums, newLength, keepsBytesBefore(start));
      this.durability.wrote(end - start);
    } finally {
      this.durability.endChange();
      release();
    }
  }

  /** After a failed change. Nobody was told that it succeeded. */
  private async takeAsIs(change: FailedChange): Promise<void> {
    try {
      const length = Math.max(0, (await this.file.size('chunk.resettle')) - DATA_OFFSET);
      await takeAsIs(this.table, this.blocks, length, change);
    } catch (error) {
      const reason = `a write to chunk ${this.handle} failed, and so did reading it back`;
      this.durability.giveUp(new CairnError('EIO', reason, { cause: error }));
    }
  }
}
