/**
 * The bytes of one file that were written here and are not yet on the chunkservers, as extents. Pure bookkeeping: no
 * input or output, no waiting.
 *
 * An extent lies within one aligned unit of MAX_PAYLOAD_BYTES, so that it is one write request. While it is `pending`,
 * later writes change it in place or grow it; once it is `sent` it does not change, and a later write to the same bytes
 * makes a new pending extent, which `startable` holds back until the sent one has ended: writes that overlap reach the
 * chunkservers in their order.
 *
 * In a unit, pending extents are sorted and do not overlap each other; neither do sent ones.
 */
import { KIB, MAX_PAYLOAD_BYTES } from '../../core/limits.js';
import { deferred, type Deferred } from '../../core/sync.js';
import { audited } from '../../core/invariant.js';

const UNIT = MAX_PAYLOAD_BYTES;

/** Writes of this size or more are taken for part of a stream: the buffer is made for the rest of the unit at once. */
const STREAM_WRITE_BYTES = 128 * KIB;
const SMALLEST_BUFFER_BYTES = 4 * KIB;

export interface Extent {
  /** In the file. */
  readonly offset: number;
  length: number;
  buffer: Buffer;
  sent: boolean;
  /** It must not be written any more. */
  isDiscarded: boolean;
  /** Readers that are copying out of it; its buffer is not reused meanwhile. */
  pins: number;
  /** Resolves when the bytes are on the chunkservers, were given up, or became part of another extent that is done. */
  readonly done: Deferred<void>;
}

interface Unit {
  readonly pending: Extent[];
  readonly sent: Extent[];
}

const endOf = (extent: Extent): number => extent.offset + extent.length;
const overlaps = (extent: Extent, start: number, end: number): boolean => extent.offset < end && endOf(extent) > start;

/** Whole units are reused, because the first touch of new memory is slow. */
export class UnitBuffers {
  private readonly free: Buffer[] = [];

  constructor(private readonly maxFree: number) {}

  take(): Buffer {
    return this.free.pop() ?? Buffer.allocUnsafeSlow(UNIT);
  }

  give(buffer: Buffer): void {
    if (buffer.length === UNIT && this.free.length < this.maxFree) this.free.push(buffer);
  }
}

export class DirtyData {
  private readonly units = new Map<number, Unit>();
  /** Bytes of the buffers held. */
  heldBytes = 0;
  /** End of the write before, to tell streams. */
  private lastEnd = -1;

  constructor(private readonly buffers: UnitBuffers) {}

  get isEmpty(): boolean {
    return this.units.size === 0;
  }

  /**
   * Takes a copy of `bytes` for `offset`; they must lie within one unit. Returns the extent that holds them now and
   * whether it is full: reaches the end of its unit. `absorbed` are extents that became part of it.
   */
  write(offset: number, bytes: Uint8Array): { extent: Extent; full: boolean; absorbed: readonly Extent[] } {
    const number = Math.floor(offset / UNIT);
    const unitEnd = (number + 1) * UNIT;
    const end = offset + bytes.length;
    let unit = this.units.get(number);
    if (unit === undefined) {
      unit = { pending: [], sent: [] };
      this.units.set(number, unit);
    }
    const streaming = bytes.length >= STREAM_WRITE_BYTES || (offset === this.lastEnd && offset % UNIT === 0);
    this.lastEnd = end;

    const { pending } = unit;
    const first = firstEndingAtOrAfter(pending, offset);
    let after = first;
    for (let next = pending[after]; next !== undefined && next.offset < end; next = pending[++after]);
    const found = pending[first];
    if (found !== undefined && found.offset <= offset && after - first <= 1) {
      // Within the one that is there, or at its end.
      if (end > endOf(found)) this.grow(found, end - found.offset, unitEnd, streaming);
      found.buffer.set(bytes, offset - found.offset);
      auditUnit(unit);
      return { extent: found, full: endOf(found) === unitEnd, absorbed: [] };
    }
    // A new extent over all that it touches; often that is nothing.
    const absorbed = pending.slice(first, after);
    const start = Math.min(offset, absorbed[0]?.offset ?? offset);
    const newEnd = Math.max(end, ...absorbed.map(endOf));
    const capacity = bufferSize(newEnd - start, unitEnd - start, streaming);
    const extent: Extent = {
      offset: start,
      length: newEnd - start,
      buffer: this.allocate(capacity),
      sent: false,
      isDiscarded: false,
      pins: 0,
      done: deferred(),
    };
    for (const old of absorbed) {
      extent.buffer.set(old.buffer.subarray(0, old.length), old.offset - start);
      this.release(old, true);
      extent.done.promise.then(() => old.done.resolve(), old.done.reject);
    }
    extent.buffer.set(bytes, offset - start);
    pending.splice(first, absorbed.length, extent);
    auditUnit(unit);
    return { extent, full: newEnd === unitEnd, absorbed };
  }

  /** Whether no sent extent covers part of this pending one. */
  startable(extent: Extent): boolean {
    const sent = this.unitOf(extent).sent;
    return !sent.some((other) => overlaps(other, extent.offset, endOf(extent)));
  }

  /** From now on it does not change. */
  start(extent: Extent): void {
    const unit = this.unitOf(extent);
    unit.pending.splice(unit.pending.indexOf(extent), 1);
    unit.sent.push(extent);
    extent.sent = true;
    auditUnit(unit);
  }

  /** Its bytes are on the chunkservers, or given up. `reusable`: nobody can still be reading the buffer. */
  finish(extent: Extent, reusable: boolean): void {
    const unit = this.unitOf(extent);
    unit.sent.splice(unit.sent.indexOf(extent), 1);
    if (unit.sent.length === 0 && unit.pending.length === 0) this.units.delete(Math.floor(extent.offset / UNIT));
    this.release(extent, reusable);
  }

  /** Every extent, pending ones of a unit after its sent ones. */
  *all(): Generator<Extent> {
    for (const unit of this.units.values()) {
      yield* unit.sent;
      yield* unit.pending;
    }
  }

  /** Pending extents. */
  *pending(): Generator<Extent> {
    for (const unit of this.units.values()) yield* unit.pending;
  }

  /** Extents over [offset, offset + length), older ones first where they overlap. */
  overlay(offset: number, length: number): Extent[] {
    if (this.units.size === 0) return [];
    const end = offset + length;
    const found: Extent[] = [];
    for (let number = Math.floor(offset / UNIT); number * UNIT < end; number++) {
      const unit = this.units.get(number);
      if (unit === undefined) continue;
      for (const extent of unit.sent) if (overlaps(extent, offset, end)) found.push(extent);
      const { pending } = unit;
      for (let i = firstEndingAtOrAfter(pending, offset); i < pending.length; i++) {
        const extent = pending[i];
        if (extent === undefined || extent.offset >= end) break;
        if (overlaps(extent, offset, end)) found.push(extent);
      }
    }
    return found;
  }

  /** End of the last dirty byte; 0 when there is none. */
  end(): number {
    let end = 0;
    for (const extent of this.all()) end = Math.max(end, endOf(extent));
    return end;
  }

  private unitOf(extent: Extent): Unit {
    const unit = this.units.get(Math.floor(extent.offset / UNIT));
    if (unit === undefined) throw new RangeError(`no dirty unit holds the extent at ${extent.offset}`);
    return unit;
  }

  private allocate(capacity: number): Buffer {
    this.heldBytes += capacity;
    return capacity === UNIT ? this.buffers.take() : Buffer.allocUnsafeSlow(capacity);
  }

  private release(extent: Extent, reusable: boolean): void {
    this.heldBytes -= extent.buffer.length;
    if (reusable && extent.pins === 0) this.buffers.give(extent.buffer);
  }

  private grow(extent: Extent, length: number, unitEnd: number, streaming: boolean): void {
    if (length > extent.buffer.length) {
      const old = extent.buffer;
      // Fourfold, so that small appends copy each byte few times.
      const capacity = bufferSize(Math.max(length, old.length * 4), unitEnd - extent.offset, streaming);
      extent.buffer = this.allocate(capacity);
      extent.buffer.set(old.subarray(0, extent.length));
      this.heldBytes -= old.length;
    }
    extent.length = length;
  }
}

function auditUnit({ pending, sent }: Unit): void {
  const areApart = (extents: readonly Extent[]): boolean =>
    extents.every((extent, at) => at === 0 || endOf(extents[at - 1] ?? extent) <= extent.offset);
  const sorted = (): Extent[] => [...sent].sort((one, two) => one.offset - two.offset);
  audited(() => areApart(pending) && areApart(sorted()), 'extents of a unit that are pending, or sent, are apart');
}

/** Index of the first of `extents` (sorted, apart) that ends at or after `offset`. */
function firstEndingAtOrAfter(extents: readonly Extent[], offset: number): number {
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const extent = extents[middle];
    if (extent !== undefined && endOf(extent) < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

function bufferSize(needed: number, room: number, streaming: boolean): number {
  if (streaming) return room;
  return Math.min(room, Math.ceil(needed / SMALLEST_BUFFER_BYTES) * SMALLEST_BUFFER_BYTES);
}
