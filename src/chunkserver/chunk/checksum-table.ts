/**
 * What one open chunk file holds: the length of its data and the checksum of each block, in memory, and the table on
 * disk that follows it.
 *
 * A row of the table on disk has the current checksum of a block and the pending one. A mutation writes both before the
 * data (`announce`), takes the pending ones for current in memory after it (`take`), and leaves the row on disk to the
 * next write of the block or to `flush`. torn-rows.ts reads what a crash leaves of that.
 */
import { blockSegments, checksum } from '../../core/checksum.js';
import type { DiskFile } from '../../core/disk/disk.js';
import { BLOCKS_PER_CHUNK } from '../../core/limits.js';
import { blockCount, blockLength, blockOf, neverRight, ROW_BYTES, storedSum, TABLE_OFFSET } from './chunk-format.js';

export class ChecksumTable {
  /** Checksum of each block as it is in the file; 0 (that of no bytes) past the end. */
  private readonly sums = new Uint32Array(BLOCKS_PER_CHUNK);
  /** Blocks whose current checksum on disk may lag behind `sums`: [lagFirst, lagLast]. */
  private lagFirst = Infinity;
  private lagLast = -1;
  /** Blocks whose bytes have neither checksum of their row, as a write was cut short. The row says so until that is settled. */
  private readonly torn = new Set<number>();
  /** Blocks that were read, and had another checksum for another reason. What is left of one in a write is no mix of old and new. */
  private readonly damaged = new Set<number>();

  constructor(
    private readonly file: DiskFile,
    private dataLength: number,
  ) {}

  /** Bytes of data. */
  get length(): number {
    return this.dataLength;
  }

  get blockCount(): number {
    return blockCount(this.dataLength);
  }

  /** Bytes of `block`; 0 past the end. */
  lengthOf(block: number): number {
    return blockLength(block, this.dataLength);
  }

  sumOf(block: number): number {
    return this.sums[block] ?? 0;
  }

  /** The checksum of each block. */
  all(): number[] {
    return Array.from(this.sums.subarray(0, this.blockCount));
  }

  /** segmentChecksums of `bytes` at `offset`, which were verified: those of whole blocks are known. */
  segmentSums(bytes: Uint8Array, offset: number): number[] {
    const segments: number[] = [];
    for (const [from, to] of blockSegments(bytes.length, offset)) {
      const block = blockOf(offset + from);
      const whole = to - from === this.lengthOf(block);
      segments.push(whole ? this.sumOf(block) : checksum(bytes.subarray(from, to)));
    }
    return segments;
  }

  /** Writes rows from block `first`: the checksums as they are, and those to come. */
  announce(first: number, pending: readonly number[]): void {
    if (pending.length === 0) return;
    const rows = Buffer.allocUnsafe(pending.length * ROW_BYTES);
    pending.forEach((sum, i) => {
      // Also when it is what was to be there before: the bytes of a torn block are not known to have it. A damaged block that a
      // write is cut short in is not torn by it.
      const current = this.torn.has(first + i)
        ? neverRight(sum)
        : this.damaged.has(first + i)
          ? sum
          : this.sumOf(first + i);
      rows.writeUInt32LE(storedSum(current), i * ROW_BYTES);
      rows.writeUInt32LE(storedSum(sum), i * ROW_BYTES + 4);
    });
    this.file.writeSync('chunk.table', rows, TABLE_OFFSET + first * ROW_BYTES);
  }

  noteTorn(block: number): void {
    this.torn.add(block);
  }

  noteDamaged(block: number): void {
    this.damaged.add(block);
  }

  isDamaged(block: number): boolean {
    return this.damaged.has(block);
  }

  isTorn(block: number): boolean {
    return this.torn.has(block);
  }

  get someTorn(): boolean {
    return this.torn.size > 0;
  }

  /**
   * The data is as announced: `newSums` from block `first`, and so long. None of these blocks is torn or damaged any more;
   * `isContinued`: but the first, if it was.
   */
  take(first: number, newSums: readonly number[], newLength: number, isContinued: boolean): void {
    this.sums.set(newSums, first);
    if (newSums.length > 0) {
      this.lagFirst = Math.min(this.lagFirst, first);
      this.lagLast = Math.max(this.lagLast, first + newSums.length - 1);
    }
    this.clearTorn(isContinued ? first + 1 : first, first + newSums.length - 1);
    this.dataLength = newLength;
  }

  /** Makes rows `first` to `last`, all behind the end of the data, what they were before any write. */
  clear(first: number, last: number): void {
    this.sums.fill(0, first);
    this.clearTorn(first, Infinity);
    if (first > last) return;
    this.file.writeSync('chunk.table', Buffer.alloc((last - first + 1) * ROW_BYTES), TABLE_OFFSET + first * ROW_BYTES);
  }

  /** Brings the table on disk up to that in memory. */
  flush(): void {
    const last = Math.min(this.lagLast, this.blockCount - 1);
    for (let first = this.lagFirst; first <= last; first++) {
      const start = first;
      while (first <= last && !this.torn.has(first)) first++;
      this.announce(start, Array.from(this.sums.subarray(start, first)));
    }
    this.lagFirst = Infinity;
    this.lagLast = -1;
  }

  private clearTorn(first: number, last: number): void {
    for (const blocks of [this.torn, this.damaged]) {
      for (const block of blocks) if (block >= first && block <= last) blocks.delete(block);
    }
  }

  /** Takes `sum` for that of `block`, in memory alone. */
  load(block: number, sum: number): void {
    this.sums[block] = sum;
  }
}
