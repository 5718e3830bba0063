/**
 * One open chunk file: data with a checksum a block.
 *
 * A write goes: pending checksums into the table, data, and the current checksums lazily (with the next write to the
 * block, or when the file is closed or marked clean). So whenever the process is killed, a block matches its current
 * checksum (old), its pending one (new), or, where the two differ, is torn by a write that nobody was told about.
 * The first opening after a crash settles such blocks (`settle`); from then on one checksum counts.
 *
 * Callers keep mutations (write, truncate, adopt, markClean) one at a time; reads may come at any time.
 */
import { checksum, blockSegments } from '../core/checksum.js';
import type { Disk, DiskFile } from '../core/disk.js';
import { CairnError, hasCode } from '../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../core/ids.js';
import {
  BLOCKS_PER_CHUNK,
  BLOCK_SIZE_BYTES,
  CHUNK_SIZE_BYTES,
  DIRECT_AFTER_BYTES,
  DIRECT_WRITE_BYTES,
  SMALL_WRITE_BYTES,
} from '../core/limits.js';
import { payloadBuffers } from '../core/payload-buffers.js';
import {
  blockCount,
  blockLength,
  blockOf,
  checksumZeros,
  DATA_OFFSET,
  decodeHeader,
  encodeHeader,
  headerSlotOffset,
  ROW_BYTES,
  storedSum,
  TABLE_BYTES,
  TABLE_OFFSET,
  type ChunkHeader,
} from './chunk-format.js';
import { RangeLock } from './range-lock.js';
import { SharedRun } from './shared-run.js';

export interface BlocksRead {
  /** Of `payloadBuffers`: the caller's, who may give it back. */
  readonly bytes: Buffer;
  /** segmentChecksums of `bytes` at the offset read. */
  readonly checksums: number[];
}

/** Names the block at fault: a read found it damaged. */
export class CorruptBlockError extends CairnError {
  constructor(
    readonly handle: ChunkHandle,
    readonly block: number,
    reason: string,
  ) {
    super('CORRUPT', `block ${block} of chunk ${handle} ${reason}`);
  }
}

const streamed = (offset: number, length: number): 'stream' | undefined =>
  length >= DIRECT_WRITE_BYTES && offset >= DIRECT_AFTER_BYTES ? 'stream' : undefined;

/** The header of the chunk file at `path`; undefined when it has none. */
export async function peekHeader(disk: Disk, path: string): Promise<ChunkHeader | undefined> {
  const file = await disk.open('chunk.peek', path, 'existing');
  try {
    const page = Buffer.alloc(TABLE_OFFSET);
    await file.read('chunk.peek', page, 0);
    return decodeHeader(page);
  } finally {
    await file.close();
  }
}

export class ChunkFile {
  private readonly ranges = new RangeLock();
  private readonly synced: SharedRun;
  /** Blocks whose current checksum on disk may lag behind `sums`: [lagFirst, lagLast]. */
  private lagFirst = Infinity;
  private lagLast = -1;
  /** Set when the content on disk is not known any more: nothing is served. */
  private broken: CairnError | undefined;
  /** Mutations so far, and how many of them a finished sync covers. */
  private mutations: number;
  private mutationsSynced = 0;
  /** Bytes written, and how many of them a finished sync covers. */
  private writtenBytes = 0;
  private writtenBytesSynced = 0;
  private changing = false;

  /** A damaged block was read, and not all were looked at since. */
  private sawDamage = false;

  private constructor(
    private readonly disk: Disk,
    private readonly file: DiskFile,
    private header: ChunkHeader,
    private dataLength: number,
    /** Checksum of each block as it is in the file; 0 (that of no bytes) past the end. */
    private readonly sums: Uint32Array,
    /** Dirty from another boot: its machine went down while it was under mutation. */
    private suspectReplica: boolean,
  ) {
    // A dirty file may have been written before it was opened now: the next sync must not be skipped.
    this.mutations = header.dirty ? 1 : 0;
    this.synced = new SharedRun(() => this.file.datasync('chunk.sync'));
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
  get suspect(): boolean {
    return this.suspectReplica;
  }
  /** Bytes of data. */
  get length(): number {
    return this.dataLength;
  }

  /** Bytes written that no sync covers yet. */
  get unsyncedBytes(): number {
    return this.writtenBytes - this.writtenBytesSynced;
  }

  static async create(disk: Disk, path: string, handle: ChunkHandle, version: ChunkVersion): Promise<ChunkFile> {
    const file = await disk.open('chunk.create', path, 'exclusive');
    // Dirty from the start: if power fails, the file is gone, unreadable or suspect; no sync is needed to say so.
    const header = { handle, version, generation: 0, dirty: true, bootId: disk.bootId() };
    try {
      file.writeSync('chunk.header', encodeHeader(header), headerSlotOffset(0));
    } catch (error) {
      await file.close();
      throw error;
    }
    return new ChunkFile(disk, file, header, 0, new Uint32Array(BLOCKS_PER_CHUNK), false);
  }

  /**
   * Fails with NO_REPLICA when the file is not a whole chunk file (its creation was cut short). `trusted`: the data
   * directory was left clean, so that no replica in it is suspect.
   */
  static async open(disk: Disk, path: string, trusted = false): Promise<ChunkFile> {
    const file = await disk.open('chunk.open', path, 'existing');
    try {
      const meta = Buffer.alloc(TABLE_OFFSET + TABLE_BYTES);
      await file.read('chunk.open', meta, 0);
      const header = decodeHeader(meta.subarray(0, TABLE_OFFSET));
      if (header === undefined)
        throw new CairnError('NO_REPLICA', `${path} has no valid header: it was never finished`);
      const length = Math.max(0, (await file.size('chunk.open')) - DATA_OFFSET);
      if (length > CHUNK_SIZE_BYTES) throw new CairnError('NO_REPLICA', `${path} is longer than a chunk`);
      const sameBoot = header.bootId === disk.bootId();
      const suspect = header.dirty && !sameBoot && !trusted;
      const chunk = new ChunkFile(disk, file, header, length, new Uint32Array(BLOCKS_PER_CHUNK), suspect);
      await chunk.settle(meta.subarray(TABLE_OFFSET), header.dirty && sameBoot);
      return chunk;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Reads up to `length` bytes at `offset`, verified; fewer when the chunk ends earlier. Throws CorruptBlockError.
   */
  async read(offset: number, length: number): Promise<BlocksRead> {
    const first = blockOf(offset);
    const last = blockOf(offset + Math.max(length, 1) - 1);
    const lock = this.ranges.acquire(first, last, false);
    const release = typeof lock === 'function' ? lock : await lock;
    try {
      this.refuseBroken();
      const end = Math.min(offset + length, this.dataLength);
      if (end <= offset) return { bytes: Buffer.alloc(0), checksums: [] };
      const start = first * BLOCK_SIZE_BYTES;
      const stop = Math.min((blockOf(end - 1) + 1) * BLOCK_SIZE_BYTES, this.dataLength);
      const raw = await this.readRaw(first, start, stop, payloadBuffers.take(stop - start));
      for (let at = start, block = first; at < stop; at += BLOCK_SIZE_BYTES, block++) {
        const bytes = raw.subarray(at - start, Math.min(at + BLOCK_SIZE_BYTES, stop) - start);
        if (checksum(bytes) !== this.sums[block]) throw this.damaged(block, 'fails its checksum');
      }
      const bytes = raw.subarray(offset - start, end - start);
      const checksums: number[] = [];
      for (const [from, to] of blockSegments(bytes.length, offset)) {
        const block = blockOf(offset + from);
        const whole = to - from === blockLength(block, this.dataLength);
        checksums.push(whole ? this.sumOf(block) : checksum(bytes.subarray(from, to)));
      }
      return { bytes, checksums };
    } finally {
      release();
    }
  }

  /**
   * Writes `bytes` at `offset`; `sums` are their segmentChecksums, which the caller verified. When it fails, the
   * range written holds old and new bytes in any mix, under valid checksums.
   */
  async write(offset: number, bytes: Uint8Array, sums: readonly number[]): Promise<void> {
    const end = offset + bytes.length;
    if (end > CHUNK_SIZE_BYTES) throw new CairnError('EFBIG', `write up to ${end} of chunk ${this.handle}`);
    if (bytes.length === 0) return;
    await this.change(Math.min(offset, this.dataLength), end, async () => {
      const newSums = this.gapSums(offset);
      const length = this.dataLength;
      let segment = 0;
      for (const [from, to] of blockSegments(bytes.length, offset)) {
        const given = sums[segment++];
        if (given === undefined) throw new CairnError('INTERNAL', 'fewer checksums than segments');
        newSums.push(await this.sumAfterWrite(offset + from, bytes.subarray(from, to), given, length));
      }
      return {
        newSums,
        newLength: Math.max(length, end),
        apply: async () => {
          if (bytes.length <= SMALL_WRITE_BYTES) this.file.writeSync('chunk.write', bytes, DATA_OFFSET + offset);
          else await this.file.write('chunk.write', bytes, DATA_OFFSET + offset, streamed(offset, bytes.length));
        },
      };
    });
  }

  /** Cuts, or extends with zeros, to `length` bytes. */
  async truncate(length: number): Promise<void> {
    const oldLength = this.dataLength;
    if (length === oldLength) return;
    if (length > CHUNK_SIZE_BYTES) throw new CairnError('EFBIG', `truncate to ${length} of chunk ${this.handle}`);
    const apply = (): Promise<void> => this.file.truncate('chunk.truncate', DATA_OFFSET + length);
    if (length > oldLength) {
      await this.change(oldLength, length, () =>
        Promise.resolve({ newSums: this.gapSums(length, true), newLength: length, apply }),
      );
      return;
    }
    await this.change(length, oldLength, async () => {
      const newSums: number[] = [];
      if (length % BLOCK_SIZE_BYTES !== 0) newSums.push(await this.sumAfterCut(length));
      return { newSums, newLength: length, apply };
    });
    // Old checksums behind the end would be taken for those of new bytes there.
    const first = blockCount(length);
    const last = blockOf(oldLength - 1);
    this.sums.fill(0, first);
    if (first <= last) {
      this.file.writeSync(
        'chunk.table',
        Buffer.alloc((last - first + 1) * ROW_BYTES),
        TABLE_OFFSET + first * ROW_BYTES,
      );
    }
  }

  /**
   * Extends an empty chunk to `length` bytes in blocks that fail their checksums until each is written anew, whole. The
   * complement of the right checksum marks a block that must never be believed (see `acceptTorn`, `sumAfterCut`).
   */
  async extendDamaged(length: number): Promise<void> {
    if (this.dataLength > 0) throw new CairnError('INTERNAL', `chunk ${this.handle} is not empty`);
    await this.change(0, length, () => {
      const newSums: number[] = [];
      for (let block = 0; block < blockCount(length); block++) {
        newSums.push(~checksumZeros(blockLength(block, length)) >>> 0);
      }
      const apply = (): Promise<void> => this.file.truncate('chunk.truncate', DATA_OFFSET + length);
      return Promise.resolve({ newSums, newLength: length, apply });
    });
  }

  /** What is applied survives power loss. Callers at the same time share one fdatasync. */
  async sync(): Promise<void> {
    this.refuseBroken();
    if (this.mutationsSynced >= this.mutations) return;
    // Not while a mutation is between its rows and its end: they must stay as it wrote them.
    if (!this.changing) this.flushSums();
    const covered = this.mutations;
    const coveredBytes = this.writtenBytes;
    try {
      await this.synced.run();
      this.mutationsSynced = Math.max(this.mutationsSynced, covered);
      this.writtenBytesSynced = Math.max(this.writtenBytesSynced, coveredBytes);
    } catch (error) {
      // After a failed fsync the kernel may have dropped the pages: what is on disk is not known.
      this.broken = new CairnError('EIO', `syncing chunk ${this.handle} failed: its content is not known`, {
        cause: error,
      });
      throw error;
    }
  }

  /** Marks the file as under mutation, durably, before the first write of a boot. */
  async markDirty(): Promise<void> {
    if (this.suspectReplica || (this.header.dirty && this.header.bootId === this.disk.bootId())) return;
    this.writeHeader({ dirty: true });
    this.mutations++;
    await this.sync();
  }

  /** Syncs, and marks the file as not under mutation. */
  async markClean(): Promise<void> {
    if (!this.header.dirty || this.suspectReplica || this.broken !== undefined) return;
    this.flushSums();
    this.mutations++;
    await this.sync();
    // Not synced: if the mark is lost, the replica is only suspected without need.
    this.writeHeader({ dirty: false });
  }

  /** Syncs the content, then takes `version`, durably. A suspect replica is one no longer. */
  async adopt(version: ChunkVersion): Promise<void> {
    this.flushSums();
    this.mutations++;
    await this.sync();
    this.writeHeader({ version, dirty: false });
    this.suspectReplica = false;
    this.mutations++;
    await this.sync();
  }

  /** The checksum of each block. */
  checksums(): number[] {
    return Array.from(this.sums.subarray(0, blockCount(this.dataLength)));
  }

  /**
   * Blocks known to be damaged. A suspect replica is read whole to know: power loss may have kept a block and lost its
   * checksum, or the other way round. So is one in which a damaged block was read: where one is, there may be more.
   * Elsewhere damage shows when a block is read.
   */
  async damagedBlocks(): Promise<number[]> {
    const damaged: number[] = [];
    if (!this.suspectReplica && !this.sawDamage) return damaged;
    const count = blockCount(this.dataLength);
    for (let block = 0; block < count; block++) if (!(await this.isSound(block))) damaged.push(block);
    this.sawDamage = damaged.length > 0;
    return damaged;
  }

  /**
   * Takes a damaged block of a suspect replica as it stands: the mix of old and new that a file may hold after power
   * loss. False, with nothing changed, when it cannot be read, or stands for bytes that were lost for another reason.
   */
  async acceptTorn(block: number): Promise<boolean> {
    if (!this.suspectReplica) return false;
    const start = block * BLOCK_SIZE_BYTES;
    try {
      const raw = await this.readRaw(block, start, start + blockLength(block, this.dataLength));
      const actual = checksum(raw);
      if (actual === ~this.sumOf(block) >>> 0) return false;
      await this.write(start, raw, [actual]);
      return true;
    } catch (error) {
      if (error instanceof CorruptBlockError) return false;
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

  /** Writes what lags on disk and closes. No operation may be running. */
  async close(): Promise<void> {
    try {
      if (this.broken === undefined) this.flushSums();
    } finally {
      await this.file.close();
    }
  }

  private sumOf(block: number): number {
    return this.sums[block] ?? 0;
  }

  private refuseBroken(): void {
    if (this.broken !== undefined) throw this.broken;
  }

  private async readRaw(
    block: number,
    start: number,
    stop: number,
    raw = Buffer.allocUnsafeSlow(stop - start),
  ): Promise<Buffer> {
    let count: number;
    try {
      count = await this.file.read('chunk.read', raw, DATA_OFFSET + start);
    } catch (error) {
      if (hasCode(error, 'EIO')) throw this.damaged(block, 'or a later one cannot be read');
      throw error;
    }
    if (count !== raw.length) throw this.damaged(block, 'or a later one is missing from the file');
    return raw;
  }

  /**
   * Runs one mutation of the bytes from `start` to `end`: plans under the lock of the blocks, writes the rows of the
   * table, applies, takes the new checksums. `newSums` begin at the block of `start`.
   */
  private async change(
    start: number,
    end: number,
    plan: () => Promise<{ newSums: number[]; newLength: number; apply: () => Promise<void> }>,
  ): Promise<void> {
    this.refuseBroken();
    await this.markDirty();
    const first = blockOf(start);
    const lock = this.ranges.acquire(first, Math.max(first, blockOf(end - 1)), true);
    const release = typeof lock === 'function' ? lock : await lock;
    try {
      const { newSums, newLength, apply } = await plan();
      this.changing = true;
      this.writeRows(first, newSums);
      this.mutations++;
      try {
        await apply();
      } catch (error) {
        await this.resettle(first, Math.max(first, blockOf(end - 1)));
        throw error;
      }
      this.sums.set(newSums, first);
      if (newSums.length > 0) {
        this.lagFirst = Math.min(this.lagFirst, first);
        this.lagLast = Math.max(this.lagLast, first + newSums.length - 1);
      }
      this.dataLength = newLength;
      this.writtenBytes += end - start;
    } finally {
      this.changing = false;
      release();
    }
  }

  /**
   * Checksums of the blocks from the end of the data up to that of `offset` (not included, unless `last`), when the
   * data is extended with zeros up to `offset`. Empty when it does not lie behind the end.
   */
  private gapSums(offset: number, last = false): number[] {
    const newSums: number[] = [];
    const length = this.dataLength;
    if (offset <= length) return newSums;
    const end = last ? blockCount(offset) : blockOf(offset);
    for (let block = blockOf(length); block < end; block++) {
      const had = blockLength(block, length);
      newSums.push(checksumZeros(blockLength(block, offset) - had, had === 0 ? 0 : this.sumOf(block)));
    }
    return newSums;
  }

  /** Checksum of a block after the write of `bytes` at `offset`, within the block. */
  private async sumAfterWrite(offset: number, bytes: Uint8Array, given: number, length: number): Promise<number> {
    const block = blockOf(offset);
    const at = offset - block * BLOCK_SIZE_BYTES;
    const had = blockLength(block, length);
    if (at === 0 && bytes.length >= had) return given;
    if (at >= had) return checksum(bytes, checksumZeros(at - had, had === 0 ? 0 : this.sumOf(block)));
    const old = await this.readVerified(block, had);
    const merged = at + bytes.length >= had ? old.subarray(0, at) : old;
    if (merged.length === at) return checksum(bytes, checksum(merged));
    merged.set(bytes, at);
    return checksum(merged);
  }

  /** Checksum of the last block after a cut to `length`. A damaged block stays damaged. */
  private async sumAfterCut(length: number): Promise<number> {
    const block = blockOf(length);
    const had = blockLength(block, this.dataLength);
    const start = block * BLOCK_SIZE_BYTES;
    const raw = await this.readRaw(block, start, start + had);
    const cut = checksum(raw.subarray(0, length - start));
    return checksum(raw) === this.sumOf(block) ? cut : ~cut >>> 0;
  }

  private damaged(block: number, what: string): CorruptBlockError {
    this.sawDamage = true;
    return new CorruptBlockError(this.handle, block, what);
  }

  private async readVerified(block: number, had: number): Promise<Buffer> {
    const start = block * BLOCK_SIZE_BYTES;
    const raw = await this.readRaw(block, start, start + had);
    if (checksum(raw) !== this.sumOf(block)) throw this.damaged(block, 'fails its checksum');
    return raw;
  }

  private writeHeader(change: Partial<Pick<ChunkHeader, 'version' | 'dirty'>>): void {
    const generation = this.header.generation + 1;
    const header = { ...this.header, ...change, generation, bootId: this.disk.bootId() };
    this.file.writeSync('chunk.header', encodeHeader(header), headerSlotOffset(generation));
    this.header = header;
  }

  /** Rows from block `first`: the checksums as they are, and those to come. */
  private writeRows(first: number, pending: readonly number[]): void {
    if (pending.length === 0) return;
    const rows = Buffer.allocUnsafe(pending.length * ROW_BYTES);
    pending.forEach((sum, i) => {
      rows.writeUInt32LE(storedSum(this.sumOf(first + i)), i * ROW_BYTES);
      rows.writeUInt32LE(storedSum(sum), i * ROW_BYTES + 4);
    });
    this.file.writeSync('chunk.table', rows, TABLE_OFFSET + first * ROW_BYTES);
  }

  /** Brings the table on disk up to `sums`. */
  private flushSums(): void {
    const last = Math.min(this.lagLast, blockCount(this.dataLength) - 1);
    if (this.lagFirst <= last) this.writeRows(this.lagFirst, Array.from(this.sums.subarray(this.lagFirst, last + 1)));
    this.lagFirst = Infinity;
    this.lagLast = -1;
  }

  /** Reads the table as a crash may have left it. `acceptTorn`: the page cache is as the killed process left it. */
  private async settle(table: Buffer, acceptTorn: boolean): Promise<void> {
    const count = blockCount(this.dataLength);
    for (let block = 0; block < BLOCKS_PER_CHUNK; block++) {
      const current = table.readUInt32LE(block * ROW_BYTES);
      const pending = table.readUInt32LE(block * ROW_BYTES + 4);
      if (block >= count) {
        if (current !== 0 || pending !== 0) this.zeroRow(block);
        continue;
      }
      this.sums[block] = storedSum(current);
      if (current === pending) continue;
      const start = block * BLOCK_SIZE_BYTES;
      const raw = await this.readRaw(block, start, start + blockLength(block, this.dataLength)).catch(
        (error: unknown) => {
          if (error instanceof CorruptBlockError) return undefined;
          throw error;
        },
      );
      if (raw !== undefined) {
        const actual = checksum(raw);
        if (actual === storedSum(pending) || acceptTorn) this.sums[block] = actual;
      }
      // One row a block from here on: a torn block that is not accepted must not look pending again.
      this.writeRows(block, [this.sumOf(block)]);
    }
  }

  private zeroRow(block: number): void {
    this.file.writeSync('chunk.table', Buffer.alloc(ROW_BYTES), TABLE_OFFSET + block * ROW_BYTES);
  }

  /** After a failed write: takes blocks `first` to `last` as they stand. Nobody was told that the write succeeded. */
  private async resettle(first: number, last: number): Promise<void> {
    try {
      this.dataLength = Math.max(0, (await this.file.size('chunk.resettle')) - DATA_OFFSET);
      for (let block = first; block <= last; block++) {
        const had = blockLength(block, this.dataLength);
        const start = block * BLOCK_SIZE_BYTES;
        this.sums[block] = had === 0 ? 0 : checksum(await this.readRaw(block, start, start + had));
      }
      this.lagFirst = Math.min(this.lagFirst, first);
      this.lagLast = Math.max(this.lagLast, last);
    } catch (error) {
      this.broken = new CairnError('EIO', `a write to chunk ${this.handle} failed, and so did reading it back`, {
        cause: error,
      });
    }
  }
}
