/**
 * Write-behind of one inode, shared by all its open handles in this client.
 *
 * `write` hands bytes to the write-back (write-back.ts), which sends them in its time, and returns. `flush` waits for
 * what was written before it and publishes size and mtime with the master (publisher.ts, P2), which happens by itself when
 * WRITE_BACK_AGE_MS have passed; `sync` makes both durable (written-chunks.ts, P1). An error of a write-back loses its bytes
 * and is told once to every handle that was open then (write-failures.ts, P7).
 */
import type { Timer, Timespec } from '../../core/clock.js';
import { CairnError, asCairnError } from '../../core/errors.js';
import {
  CHUNK_SIZE_BYTES,
  CLIENT_OPERATION_TIMEOUT_MS,
  MAX_FILE_BYTES,
  MAX_PAYLOAD_BYTES,
  MAX_SETTLE_TRIES,
  REQUEST_TIMEOUT_MS,
  WRITE_BACK_AGE_MS,
} from '../../core/limits.js';
import { Mutex, watched } from '../../core/sync.js';
import type { InodeAttributes } from '../session/wire-attributes.js';
import type { ChunkWrites, SyncAhead, SyncedChunk, WriteMark } from '../chunks/chunk-io.js';
import type { Extent } from './dirty-data.js';
import { Publisher, type PublisherOptions } from './publisher.js';
import type { UnsyncedChunks } from './unsynced-files.js';
import { WriteBack, type Range } from './write-back.js';
import type { WriteBudget } from './write-budget.js';
import { WriteFailures, type WriteFailuresOptions } from './write-failures.js';
import { WritesUnderWay } from './writes-under-way.js';
import { WrittenChunks } from './written-chunks.js';

export interface WriterOptions extends PublisherOptions, WriteFailuresOptions {
  readonly io: ChunkWrites;
  readonly budget: WriteBudget;
  /** Bytes of the file have changed on the chunkservers: data read before is old. */
  readonly onWritten: (offset: number, length: number) => void;
  readonly maxDirtyBytes?: number | undefined;
}

/**
 * Has the chunkservers change bytes by themselves, and `note`s each mark that they answer with. Returns how many bytes were changed
 * from the start.
 */
export type Alteration = (note: (mark: WriteMark) => void) => Promise<number>;

const locksWereLost = (): CairnError =>
  new CairnError('EIO', 'locks were lost with the session: bytes written under them are not written');

const endWasLost = (): CairnError =>
  new CairnError('EIO', 'others appended to the file while this client was away: what it appended is lost');

export class Writer {
  /** Times that locks were lost with the session: what began before must not be done any more. */
  lockLosses = 0;
  /** Of write-back, and of what was written and is lost. */
  readonly failures: WriteFailures;
  private readonly buffered: WriteBack;
  private readonly publisher: Publisher;
  private readonly chunks: WrittenChunks;
  private readonly underWay = new WritesUnderWay();
  /** Times that the end of the file went to others: an append that began before must not be made where that was. */
  private endLosses = 0;
  private readonly syncing = new Mutex('client.sync');
  private writeBack: Timer | undefined;

  constructor(private readonly options: WriterOptions) {
    this.buffered = new WriteBack(options, (range, outcome, wasDiscarded) => this.sent(range, outcome, wasDiscarded));
    this.failures = new WriteFailures(options);
    this.publisher = new Publisher(options, this.buffered, this.failures);
    this.chunks = new WrittenChunks(options.inode, options.io, this.failures);
  }

  /** Nothing is buffered and nothing is left to publish. */
  get isClean(): boolean {
    return this.buffered.isEmpty && this.underWay.isEmpty && this.publisher.isDone;
  }

  /** The master knows all that may be on the chunkservers: nothing is to be published, and nothing may lie past the end. */
  get isTold(): boolean {
    return this.isClean && this.publisher.coversFailed;
  }

  /** The next publication takes setuid and setgid away. */
  get kills(): boolean {
    return this.publisher.kills;
  }

  /** The size as this client's programs see it. */
  get size(): number {
    return this.publisher.size;
  }

  /** mtime of writes that the master does not know yet. */
  get pendingMtime(): Timespec | undefined {
    return this.publisher.pendingMtime;
  }

  /**
   * Buffers `bytes` at `offset`, or at the end of the file. Waits while too much is buffered. `kills`: who writes may not
   * leave setuid and setgid. `since`: `lockLosses` when what this is part of began.
   */
  async write(offset: number | 'end', bytes: Uint8Array, kills = false, since = this.lockLosses): Promise<void> {
    const { endLosses } = this;
    while (this.underWay.held !== undefined) await this.underWay.held;
    if (bytes.length === 0) return;
    let at = offset === 'end' ? Math.max(this.size, this.underWay.end) : offset;
    if (at + bytes.length > MAX_FILE_BYTES) {
      throw new CairnError(
        'EFBIG',
        `a file has at most ${MAX_FILE_BYTES} bytes; tried to write up to ${at + bytes.length}`,
      );
    }
    this.underWay.begin(at + bytes.length);
    try {
      let from = 0;
      while (from < bytes.length) {
        if (this.buffered.isFull) await this.buffered.waitForRoom();
        this.demandLocks(since);
        if (offset === 'end' && this.endLosses !== endLosses) throw endWasLost();
        const count = Math.min(bytes.length - from, MAX_PAYLOAD_BYTES - (at % MAX_PAYLOAD_BYTES));
        const whole = from === 0 && count === bytes.length;
        // Not before it is certain that something is written.
        this.publisher.noteWrite(kills);
        this.buffered.buffer(at, whole ? bytes : bytes.subarray(from, from + count));
        this.publisher.noteBuffered(at + count);
        this.scheduleWriteBack();
        from += count;
        at += count;
      }
    } finally {
      this.underWay.done();
    }
  }

  /** For what began when `lockLosses` was `since`. */
  demandLocks(since: number): void {
    if (this.lockLosses !== since) throw locksWereLost();
  }

  /**
   * Runs `change`, by which the chunkservers change these bytes, of one chunk, without getting them from here. Earlier
   * writes to them are there when it begins, later ones are sent when it has ended. Its failure is the
   * caller's to tell. Returns how many bytes were changed; 0 without a change when somebody keeps writing there.
   */
  async alter(
    offset: number,
    length: number,
    change: Alteration,
    kills = false,
    since = this.lockLosses,
  ): Promise<number> {
    while (this.underWay.held !== undefined) await this.underWay.held;
    const range = { offset, length };
    this.underWay.begin(offset + length);
    try {
      for (let tries = 0; this.buffered.holds(range); tries++) {
        if (tries === MAX_SETTLE_TRIES) return 0;
        await this.buffered.drainRange(range);
      }
      this.demandLocks(since);
      this.publisher.noteWrite(kills);
      return await this.alterNow(range, change);
    } finally {
      this.underWay.done();
    }
  }

  private async alterNow(range: Range, change: Alteration): Promise<number> {
    const { offset, length } = range;
    const index = Math.floor(offset / CHUNK_SIZE_BYTES);
    this.buffered.beginAlteration(range);
    try {
      const changed = await change((mark) => this.chunks.note(index, mark));
      if (changed > 0) this.publisher.noteWritten(offset + changed);
      return changed;
    } catch (error) {
      this.publisher.noteGivenUp(offset + length);
      throw error;
    } finally {
      this.publisher.noteAltered();
      this.scheduleWriteBack();
      this.options.onWritten(offset, length);
      this.buffered.endAlteration(range);
    }
  }

  /**
   * Runs `look`, which finds bytes of chunk `index` to be as they would be written: a sync makes them durable as if they had been,
   * because others may have written them just now.
   */
  async keep<T>(index: number, look: () => Promise<T>): Promise<T> {
    const mark = await this.options.io.markOf(this.options.inode, index);
    const found = await look();
    if (mark.handle !== 0) this.chunks.note(index, mark);
    return found;
  }

  /** What was written to these bytes before is on the chunkservers, or given up. */
  drainRange(offset: number, length: number): Promise<void> {
    return this.buffered.drainRange({ offset, length });
  }

  /** All that was written before is on the chunkservers, and published. Failures of write-back are counted, not thrown. */
  async flush(): Promise<void> {
    const deadlineMs = this.deadline();
    await this.buffered.drain();
    await this.publisher.publish(false, [], deadlineMs);
  }

  /** Of an operation that begins now: all its steps together take no longer than one alone may. */
  private deadline(): number {
    return this.options.clock.monotonicMs() + CLIENT_OPERATION_TIMEOUT_MS;
  }

  /**
   * As `flush`, and it survives power loss. `closed`: chunks of the file that were synced beside this, and that the master
   * is to be told of.
   */
  sync(closed: readonly SyncedChunk[] = []): Promise<void> {
    // One after another: the second must not return before the first has made its chunks durable.
    return this.syncing.run(() => this.syncNow(closed));
  }

  private async syncNow(closed: readonly SyncedChunk[]): Promise<void> {
    const { io, clock, inode } = this.options;
    const failures = this.failures.count;
    let deadlineMs = this.deadline();
    // Behind what is written now, without waiting for the answers.
    const ahead = new Map<number, SyncAhead>();
    await this.buffered.drain((indexes) => {
      for (const index of indexes) {
        const sync = io.syncAhead(inode, index);
        if (sync !== undefined) ahead.set(index, sync);
      }
    });
    // Who could write up to now may still sync. When the time went by without a chunkserver, there is none for this.
    if (this.failures.count === failures) deadlineMs = Math.max(deadlineMs, clock.monotonicMs() + REQUEST_TIMEOUT_MS);
    for (;;) {
      const { generation } = io;
      const taken = this.chunks.take();
      const { marks } = taken;
      let synced: SyncedChunk[];
      const publish = (chunks: readonly SyncedChunk[]): Promise<void> =>
        this.publisher.publish(
          true,
          chunks.map(({ handle }) => handle),
          deadlineMs,
        );
      try {
        // Where it is not to say that chunks were synced, the master's disk works at the same time as the others.
        const isAhead = marks.size > 0 && [...marks.keys()].every((index) => ahead.get(index)?.unsynced === false);
        const publication = isAhead ? watched(publish(closed)) : undefined;
        synced = [...closed, ...(await this.chunks.sync(taken, ahead, deadlineMs))];
        await publication;
        if (publication === undefined || synced.length > closed.length) await publish(synced);
      } catch (error) {
        // The master may not know of any that they were synced, without which the next sync promises nothing.
        this.chunks.putBack(marks, this.size);
        throw error;
      }
      if (io.generation === generation) {
        io.noteSynced(synced);
        this.chunks.done();
        return;
      }
      // The master lost power meanwhile: it may know nothing of a chunk that was synced, or of its having been.
      ahead.clear();
      this.chunks.putBack(marks, this.size);
    }
  }

  /**
   * Runs `change`, which sets the size at the master, when all earlier writes are there; later writes wait for it.
   * The master then knows how far chunks were written, and cuts them (P5).
   */
  truncate(change: () => Promise<InodeAttributes>): Promise<InodeAttributes> {
    return this.underWay.holdBackFor(async () => {
      await this.flush();
      return this.publisher.between(async () => {
        const attributes = await change();
        // The name led to another file than thought: this one was not cut.
        if (attributes.inode !== this.options.inode) return attributes;
        this.chunks.cut(attributes.size);
        this.publisher.cut(attributes.size);
        return attributes;
      });
    });
  }

  /** Runs `change`, which sets the mtime by hand: no write before it may set it again. */
  setTimes(change: () => Promise<InodeAttributes>): Promise<InodeAttributes> {
    return this.publisher.setTimes(change);
  }

  /** Extents over a range, oldest first, for readers; each is pinned and must be given to `unpin`. */
  pinOverlay(offset: number, length: number): Extent[] {
    return this.buffered.pinOverlay(offset, length);
  }

  unpin(extents: readonly Extent[]): void {
    this.buffered.unpin(extents);
  }

  /** The session that knew of this file's unpublished bytes is gone. */
  sessionLost(): void {
    this.publisher.sessionLost();
  }

  /**
   * Locks ended with the session, and others may hold them by now: what was written under them and is still here must not
   * be written any more. Which bytes those are cannot be told, so it is all. `ofThisFile`: nor may anything else of this one.
   */
  locksLost(ofThisFile: boolean): void {
    this.lockLosses++;
    const had = this.buffered.discardPast(0) || this.publisher.reachesPastEnd;
    if (had) this.failures.add(locksWereLost());
    this.publisher.locksLost(ofThisFile);
  }

  /** The master lost what it was told since the last sync: it is told again. */
  operationsLost(): void {
    if (this.publisher.operationsLost()) this.scheduleWriteBack();
  }

  /**
   * Others have the end of this file, so what was put past the published size must not reach it any more. What is on its
   * way is refused by the chunkservers, or counts for nothing.
   */
  discardUnpublished(): void {
    this.endLosses++;
    const { size } = this.options.attributes();
    if (!this.buffered.discardPast(size) && !this.publisher.reachesPastEnd) return;
    this.failures.add(endWasLost());
    this.publisher.forgetWritten();
  }

  /** These chunks are holes now: there is nothing to make durable. */
  forgetUnsynced(firstIndex: number, count: number): void {
    this.chunks.forget(firstIndex, count);
  }

  /** Chunks that a sync has yet to make durable. */
  get unsyncedChunks(): UnsyncedChunks {
    return this.chunks.unsynced;
  }

  /** No more writes will come. */
  dispose(): void {
    this.publisher.dispose();
    this.writeBack?.cancel();
    this.buffered.dispose();
  }

  private scheduleWriteBack(): void {
    if (this.publisher.isDisposed) return;
    this.writeBack ??= this.options.clock.setTimer(WRITE_BACK_AGE_MS, () => {
      this.writeBack = undefined;
      this.flush().catch((error: unknown) => {
        // What could not be published stays so, and the next flush tries again and tells its caller.
        const { code, message } = asCairnError(error);
        this.options.logger.warn({ inode: this.options.inode, code, reason: message }, 'size and mtime not published');
        if (this.publisher.isWanted) this.scheduleWriteBack();
      });
    });
  }

  private sent({ offset, length }: Range, outcome: WriteMark | CairnError, wasDiscarded: boolean): void {
    const isFailed = outcome instanceof CairnError;
    // A failure is told, and nothing is promised of it any more: no sync is to fail for it, too.
    if (!isFailed) this.chunks.note(Math.floor(offset / CHUNK_SIZE_BYTES), outcome);
    if (wasDiscarded) {
      this.publisher.forgetLocalEnd();
    } else if (!isFailed) {
      this.publisher.noteWritten(offset + length);
    } else {
      this.failures.add(outcome);
      this.publisher.noteGivenUp(offset + length);
      if (!this.publisher.isVoid) this.scheduleWriteBack();
    }
    this.options.onWritten(offset, length);
  }
}
