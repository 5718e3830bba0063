/**
 * Reads of one open file, with readahead. Sequential reading is answered from units of MAX_PAYLOAD_BYTES that are asked
 * for before they are needed; how far ahead doubles while it goes on, and falls to nothing with a jump. Random reads
 * ask for exactly what they need.
 *
 * A unit's bytes are lent as views, not copies, and are dropped when reading has moved past them; when nobody has them on
 * loan any more, their memory is used again.
 */
import { CairnError, hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  KIB,
  MAX_PAYLOAD_BYTES,
  MAX_READAHEAD_BYTES,
  MAX_TOTAL_READAHEAD_BYTES,
} from '../../core/limits.js';
import { payloadBuffers } from '../../core/disk/payload-buffers.js';
import { watched } from '../../core/sync.js';
import type { ChunkReads } from '../chunks/chunk-io.js';
import type { Loan } from '../../filesystem/loan.js';

const UNIT = MAX_PAYLOAD_BYTES;
/**
 * The kernel's own readahead sends requests side by side, so those of a sequential reader arrive out of order, by up to
 * as much as the kernel reads ahead. Units this far behind are kept, and a read this near goes on from the ones before.
 */
const DISORDER_UNITS = 4;
/** Of reads that are not the kernel's ahead: one that skips no more than this goes on from the ones before. */
const SKIP_BYTES = 128 * KIB;

/** The bound on what all open files of a client hold of read-ahead bytes together. */
export class ReadaheadBudget {
  usedBytes = 0;

  constructor(readonly maxBytes = MAX_TOTAL_READAHEAD_BYTES) {}

  hasRoom(bytes: number): boolean {
    return this.usedBytes + bytes <= this.maxBytes;
  }
}

interface FetchedUnit {
  readonly start: number;
  readonly end: number;
  readonly bytes: Promise<Buffer>;
  /** Parts of it that are on loan, or will be. */
  loans: number;
  /** Nobody asks for it any more. */
  dropped: boolean;
}

/** Bytes of one unit, or of none, on loan. */
interface Part {
  readonly bytes: Buffer;
  readonly release: () => void;
}

export class Readahead {
  private readonly units = new Map<number, FetchedUnit>();
  /** Where the next read begins if it is sequential. */
  private nextOffset = 0;
  private windowBytes = 0;

  constructor(
    private readonly inode: InodeId,
    private readonly io: ChunkReads,
    private readonly budget: ReadaheadBudget,
    private readonly maxWindowBytes = MAX_READAHEAD_BYTES,
  ) {}

  /** Exactly `length` bytes at `offset`; nothing at or past `size` is asked for ahead. */
  async lend(offset: number, length: number, size: number): Promise<Loan> {
    const sequential = this.observe(offset, length);
    const end = offset + length;
    const parts: Promise<Part>[] = [];
    for (let at = offset; at < end;) {
      const number = Math.floor(at / UNIT);
      const upTo = Math.min(end, (number + 1) * UNIT);
      parts.push(watched(this.part(number, at, upTo, sequential, Math.max(size, end))));
      at = upTo;
    }
    if (sequential) this.ahead(end, size);
    if (parts.length === 1 && parts[0] !== undefined) {
      const { bytes, release } = await parts[0];
      return { parts: [bytes], release };
    }
    const lent: Part[] = [];
    const release = (): void => {
      for (const part of lent) part.release();
    };
    let failure: PromiseRejectedResult | undefined;
    for (const result of await Promise.allSettled(parts)) {
      if (result.status === 'fulfilled') lent.push(result.value);
      else failure ??= result;
    }
    if (failure === undefined) return { parts: lent.map((part) => part.bytes), release };
    release();
    throw failure.reason;
  }

  /** The bytes changed on the chunkservers: what was read before is old. */
  invalidate(offset: number, length: number): void {
    for (const [number, unit] of this.units) {
      if (unit.start < offset + length && unit.end > offset) this.drop(number, unit);
    }
  }

  dispose(): void {
    for (const [number, unit] of this.units) this.drop(number, unit);
  }

  /** Whether this read goes on from the ones before; sizes the window by it. */
  private observe(offset: number, length: number): boolean {
    const skipped = Math.abs(offset - this.nextOffset);
    // Reads that come out of order are of one size, but for the last ones. Small reads far apart are random.
    const isNear = skipped <= Math.max(DISORDER_UNITS * length, SKIP_BYTES);
    if (!isNear && !(this.windowBytes > 0 && skipped <= DISORDER_UNITS * UNIT)) {
      this.windowBytes = 0;
      this.dispose();
      this.nextOffset = offset + length;
      return false;
    }
    if (offset + length > this.nextOffset) {
      // The first read opens no window: many files are opened to read their start only.
      if (this.nextOffset > 0 || length > UNIT / 2) {
        this.windowBytes = Math.min(this.maxWindowBytes, Math.max(2 * UNIT, this.windowBytes * 2));
      }
      this.nextOffset = offset + length;
    }
    return true;
  }

  private part(number: number, from: number, to: number, sequential: boolean, size: number): Promise<Part> {
    let unit = this.units.get(number);
    // What begins before the unit came late; what ends behind it was written since.
    if (unit !== undefined && from < unit.start) return this.fetchPart(from, to);
    if (unit !== undefined && to > unit.end) {
      this.drop(number, unit);
      unit = undefined;
    }
    if (unit === undefined) {
      const end = Math.min((number + 1) * UNIT, size);
      if (!sequential || end - from > UNIT || !this.budget.hasRoom(end - from)) return this.fetchPart(from, to);
      unit = this.start(number, from, end);
    }
    const { start } = unit;
    const lender = unit;
    lender.loans++;
    return lender.bytes.then(
      (read) => ({ bytes: read.subarray(from - start, to - start), release: () => takeBack(lender, read) }),
      (error: unknown) => {
        // A block that no replica has whole spoils only reads of itself.
        if (error instanceof CairnError && hasCode(error.cause, 'CORRUPT')) return this.fetchPart(from, to);
        throw error;
      },
    );
  }

  /** Asks for what the window covers, and lets go of what reading has passed. */
  private ahead(position: number, size: number): void {
    const current = Math.floor(position / UNIT);
    for (const [number, unit] of this.units) {
      if (number < current - DISORDER_UNITS) this.drop(number, unit);
    }
    const limit = Math.min(size, position + this.windowBytes);
    for (let number = current; number * UNIT < limit; number++) {
      if (this.units.has(number)) continue;
      const start = Math.max(number * UNIT, position);
      const end = Math.min((number + 1) * UNIT, size);
      if (start >= end || !this.budget.hasRoom(end - start)) return;
      this.start(number, start, end);
    }
  }

  private start(number: number, start: number, end: number): FetchedUnit {
    const unit: FetchedUnit = { start, end, bytes: watched(this.fetch(start, end)), loans: 0, dropped: false };
    this.units.set(number, unit);
    this.budget.usedBytes += end - start;
    // Whoever needs the bytes gets the error; nobody may. The next read tries anew.
    unit.bytes.catch(() => this.drop(number, unit));
    return unit;
  }

  private drop(number: number, unit: FetchedUnit): void {
    if (this.units.get(number) !== unit) return;
    this.units.delete(number);
    this.budget.usedBytes -= unit.end - unit.start;
    unit.dropped = true;
    if (unit.loans > 0) return;
    unit.bytes.then(
      (bytes) => payloadBuffers.giveBack(bytes),
      () => undefined, // nobody needs it
    );
  }

  private async fetchPart(from: number, to: number): Promise<Part> {
    const bytes = await this.fetch(from, to);
    return { bytes, release: () => payloadBuffers.giveBack(bytes) };
  }

  private fetch(from: number, to: number): Promise<Buffer> {
    const index = Math.floor(from / CHUNK_SIZE_BYTES);
    return this.io.readRange(this.inode, index, from - index * CHUNK_SIZE_BYTES, to - from);
  }
}

function takeBack(unit: FetchedUnit, bytes: Buffer): void {
  unit.loans--;
  if (unit.dropped && unit.loans === 0) payloadBuffers.giveBack(bytes);
}
