/**
 * What one inode's writer has buffered, on its way to the chunkservers.
 *
 * An extent (dirty-data.ts) is sent when it is full, when somebody asks for it, or when much is buffered. Several are in
 * flight at once; those that overlap never, and none into bytes that the chunkservers are changing by themselves.
 */
import { segmentChecksums } from '../../core/checksum.js';
import { asCairnError, CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  MAX_BATCHED_WRITE_BYTES,
  MAX_BATCH_WRITES,
  MAX_DIRTY_BYTES,
  MAX_SYNCED_AHEAD_BYTES,
  MAX_WRITES_IN_FLIGHT,
  MAX_WRITE_BYTES_IN_FLIGHT,
} from '../../core/limits.js';
import { deferred, type Deferred } from '../../core/sync.js';
import type { ChunkWrite, ChunkWrites, WriteMark } from '../chunks/chunk-io.js';
import { DirtyData, type Extent } from './dirty-data.js';
import type { WriteBudget } from './write-budget.js';

/** Ready extents that are looked at for a batch, when those of several chunks alternate. */
const MAX_LOOKED_AT = 8 * MAX_BATCH_WRITES;

const chunkOf = (extent: Extent): number => Math.floor(extent.offset / CHUNK_SIZE_BYTES);

/** Bytes of the file. */
export interface Range {
  readonly offset: number;
  readonly length: number;
}

export interface WriteBackOptions {
  readonly inode: InodeId;
  readonly io: ChunkWrites;
  readonly budget: WriteBudget;
  readonly maxDirtyBytes?: number | undefined;
}

/**
 * An extent is buffered no more: it is on the chunkservers, or given up after this error, or counts for nothing since
 * it was discarded on its way. Called before those who wait for it go on.
 */
export type SentListener = (range: Range, outcome: WriteMark | CairnError, wasDiscarded: boolean) => void;

export class WriteBack {
  private readonly dirty: DirtyData;
  /** Extents that may be sent, in the order in which they became so. */
  private readonly ready = new Set<Extent>();
  /** Extents that wait for a sent one which they overlap, or for the end of an alteration. */
  private readonly blocked = new Set<Extent>();
  /** Bytes that the chunkservers are changing by themselves. */
  private readonly altering = new Set<Range>();
  private inFlight = 0;
  private inFlightBytes = 0;
  /** Up to there all that was buffered before some `drain` is on the chunkservers. */
  private drainedEnd = 0;
  private room: Deferred<void> | undefined;
  private readonly maxDirtyBytes: number;

  constructor(
    private readonly options: WriteBackOptions,
    private readonly onSent: SentListener,
  ) {
    this.dirty = new DirtyData(options.budget.buffers);
    this.maxDirtyBytes = options.maxDirtyBytes ?? MAX_DIRTY_BYTES;
    options.budget.join(this);
  }

  get isEmpty(): boolean {
    return this.dirty.isEmpty;
  }

  get heldBytes(): number {
    return this.dirty.heldBytes;
  }

  /** What was past `size` on the chunkservers is not there any more. */
  cut(size: number): void {
    this.drainedEnd = Math.min(this.drainedEnd, size);
  }

  /** Too much is buffered, here or in all files together: who writes must `waitForRoom`. */
  get isFull(): boolean {
    return this.dirty.heldBytes >= this.maxDirtyBytes || this.options.budget.isExhausted;
  }

  /** End of the last byte that is buffered, 0 for none. */
  end(): number {
    return this.dirty.end();
  }

  /** `end`, but not past bytes that are on their way yet: others would read zeros in their place. */
  endWithoutGaps(end: number): number {
    if (end <= this.drainedEnd) return end;
    let first = end;
    for (const { offset } of this.dirty.all()) first = Math.min(first, Math.max(offset, this.drainedEnd));
    return first;
  }

  /** Copies `bytes`, which do not cross a multiple of MAX_PAYLOAD_BYTES. */
  buffer(offset: number, bytes: Uint8Array): void {
    const before = this.dirty.heldBytes;
    if (this.dirty.isEmpty) this.options.io.prepare(this.options.inode, Math.floor(offset / CHUNK_SIZE_BYTES));
    const { extent, full, absorbed } = this.dirty.write(offset, bytes);
    let wanted = full;
    for (const old of absorbed) {
      // Somebody waits for the old one: the new one takes its place.
      if (this.ready.delete(old) || this.blocked.delete(old)) wanted = true;
    }
    this.options.budget.use(this.dirty.heldBytes - before);
    if (wanted && !this.blocked.has(extent)) this.ready.add(extent);
    if (this.dirty.heldBytes > this.maxDirtyBytes / 2) this.startWriteBack();
    else if (wanted) this.pump();
  }

  async waitForRoom(): Promise<void> {
    while (this.isFull) {
      this.startWriteBack();
      if (this.dirty.heldBytes >= this.maxDirtyBytes) {
        this.room ??= deferred();
        await this.room.promise;
      } else {
        await this.options.budget.waitForRoom();
      }
    }
  }

  /** Sends what is buffered, now. */
  startWriteBack(): void {
    for (const extent of this.dirty.pending()) if (!this.blocked.has(extent)) this.ready.add(extent);
    this.pump();
  }

  /** Whether any of these bytes is buffered. */
  holds({ offset, length }: Range): boolean {
    return this.dirty.overlay(offset, length).length > 0;
  }

  /** What is buffered of these bytes is on the chunkservers, or given up. */
  async drainRange({ offset, length }: Range): Promise<void> {
    const waiting = this.dirty.overlay(offset, length);
    if (waiting.length === 0) return;
    this.startWriteBack();
    for (const extent of waiting) await extent.done.promise;
  }

  /**
   * What is buffered now is on the chunkservers, or given up. `onSent`: called when all of it is on its way, with the chunks that it is
   * of, if it is little.
   */
  async drain(onSent?: (indexes: ReadonlySet<number>) => void): Promise<void> {
    if (this.dirty.isEmpty) return;
    const waiting = [...this.dirty.all()];
    this.startWriteBack();
    const isSent = this.ready.size === 0 && this.blocked.size === 0;
    if (onSent !== undefined && isSent && this.inFlightBytes <= MAX_SYNCED_AHEAD_BYTES) {
      onSent(new Set(waiting.map(chunkOf)));
    }
    for (const extent of waiting) {
      await extent.done.promise;
      this.drainedEnd = Math.max(this.drainedEnd, extent.offset + extent.length);
    }
  }

  /** Nothing is sent into `range`, of which nothing may be buffered now, until `endAlteration` of the same object. */
  beginAlteration(range: Range): void {
    this.altering.add(range);
  }

  endAlteration(range: Range): void {
    this.altering.delete(range);
    this.unblock();
    this.pump();
  }

  /** Nothing that ends past `size` must be written any more. False when there is none. */
  discardPast(size: number): boolean {
    const lost = [...this.dirty.all()].filter(({ offset, length }) => offset + length > size);
    for (const extent of lost) {
      extent.isDiscarded = true;
      if (extent.sent) continue;
      this.ready.delete(extent);
      this.blocked.delete(extent);
      const before = this.dirty.heldBytes;
      this.dirty.start(extent);
      this.dirty.finish(extent, true);
      this.options.budget.use(this.dirty.heldBytes - before);
      extent.done.resolve();
    }
    this.unblock();
    this.wakeRoom();
    return lost.length > 0;
  }

  /** Extents over a range, oldest first, for readers; each is pinned and must be given to `unpin`. */
  pinOverlay(offset: number, length: number): Extent[] {
    const extents = this.dirty.overlay(offset, length);
    for (const extent of extents) extent.pins++;
    return extents;
  }

  unpin(extents: readonly Extent[]): void {
    for (const extent of extents) extent.pins--;
  }

  /** Nothing more will come. */
  dispose(): void {
    this.options.budget.leave(this);
  }

  private pump(): void {
    for (const extent of this.ready) {
      if (this.inFlight >= MAX_WRITES_IN_FLIGHT || this.inFlightBytes >= MAX_WRITE_BYTES_IN_FLIGHT) return;
      if (!this.takes(extent)) continue;
      const batch = extent.length > MAX_BATCHED_WRITE_BYTES ? [extent] : this.withOthers(extent);
      this.send(extent, batch);
    }
  }

  /** Takes a ready extent out to be sent. False when it has to wait. */
  private takes(extent: Extent): boolean {
    this.ready.delete(extent);
    if (this.isStartable(extent)) {
      this.dirty.start(extent);
      return true;
    }
    this.blocked.add(extent);
    return false;
  }

  /** With `first`, other small ones of its chunk that are ready: what a message costs, it costs once. */
  private withOthers(first: Extent): Extent[] {
    const batch = [first];
    let looked = 0;
    for (const extent of this.ready) {
      if (batch.length === MAX_BATCH_WRITES || looked++ === MAX_LOOKED_AT) break;
      if (extent.length > MAX_BATCHED_WRITE_BYTES || chunkOf(extent) !== chunkOf(first)) continue;
      if (this.takes(extent)) batch.push(extent);
    }
    return batch;
  }

  private send(first: Extent, batch: readonly Extent[]): void {
    const index = chunkOf(first);
    const length = batch.reduce((sum, extent) => sum + extent.length, 0);
    this.inFlight++;
    this.inFlightBytes += length;
    const attempts = new Map<Extent, number>();
    const writes = batch.map((extent) => this.writeOf(extent, attempts));
    const ended = (outcomes: readonly (WriteMark | CairnError)[]): void => {
      this.inFlight--;
      this.inFlightBytes -= length;
      batch.forEach((extent, i) => {
        const outcome = outcomes[i] ?? new CairnError('INTERNAL', 'a write has no outcome');
        // An attempt that failed may still lie in some queue, also when a later one succeeded: its buffer is left alone.
        this.sent(extent, outcome, !(outcome instanceof CairnError) && (attempts.get(extent) ?? 0) <= 1);
      });
      this.unblock();
      this.pump();
      this.wakeRoom();
    };
    const { io, inode } = this.options;
    const [only] = writes;
    if (only !== undefined && writes.length === 1) {
      io.writeRange(inode, index, only.offset, only.bytes, only.checksums, only.isWanted).then(
        (mark) => ended([mark]),
        (error: unknown) => ended([asCairnError(error)]),
      );
      return;
    }
    const failed = (error: unknown): void => ended(batch.map(() => asCairnError(error)));
    io.writeBatch(inode, index, writes).then(ended, failed);
  }

  private writeOf(extent: Extent, attempts: Map<Extent, number>): ChunkWrite {
    const offset = extent.offset - chunkOf(extent) * CHUNK_SIZE_BYTES;
    const bytes = extent.buffer.length === extent.length ? extent.buffer : extent.buffer.subarray(0, extent.length);
    const isWanted = (): boolean => {
      attempts.set(extent, (attempts.get(extent) ?? 0) + 1);
      return !extent.isDiscarded;
    };
    return { offset, bytes, checksums: segmentChecksums(bytes, offset), isWanted };
  }

  private sent(extent: Extent, outcome: WriteMark | CairnError, isReusable: boolean): void {
    const before = this.dirty.heldBytes;
    this.dirty.finish(extent, isReusable);
    this.onSent(extent, outcome, extent.isDiscarded);
    extent.done.resolve();
    this.options.budget.use(this.dirty.heldBytes - before);
  }

  private isStartable(extent: Extent): boolean {
    for (const { offset, length } of this.altering) {
      if (extent.offset < offset + length && extent.offset + extent.length > offset) return false;
    }
    return this.dirty.startable(extent);
  }

  private unblock(): void {
    for (const waiting of this.blocked) {
      if (!this.isStartable(waiting)) continue;
      this.blocked.delete(waiting);
      this.ready.add(waiting);
    }
  }

  private wakeRoom(): void {
    if (this.room === undefined || this.dirty.heldBytes >= this.maxDirtyBytes) return;
    const { room } = this;
    this.room = undefined;
    room.resolve();
  }
}
