/**
 * Write-behind of one inode, shared by all its open handles in this client.
 *
 * `write` hands bytes to the write-back (write-back.ts), which sends them in its time, and returns. `flush` waits for
 * what was written before it and publishes size and mtime with the master (P2), which happens by itself when
 * WRITE_BACK_AGE_MS have passed; `sync` makes both durable (P1). An error of a write-back loses its bytes and is told once
 * to every handle that was open then (P7): handles compare `failures` with what they have seen.
 */
import type { Clock, Timer, Timespec } from '../../core/clock.js';
import { CairnError, asCairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  CLIENT_OPERATION_TIMEOUT_MS,
  FAILURE_LOG_INTERVAL_MS,
  LEASE_QUESTION_MS,
  MAX_CHUNKS_PER_PAGE,
  MAX_FILE_BYTES,
  MAX_PAYLOAD_BYTES,
  REQUEST_TIMEOUT_MS,
  WRITE_BACK_AGE_MS,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { Mutex, deferred, type Deferred } from '../../core/sync.js';
import type { InodeAttributes } from '../session/wire-attributes.js';
import { isKept, LOST_MARK } from '../chunks/chunk-io.js';
import type { ChunkWrites, SyncedChunk, WriteMark } from '../chunks/chunk-io.js';
import type { Extent } from './dirty-data.js';
import type { UnsyncedChunks } from './unsynced-files.js';
import { WriteBack, type Range } from './write-back.js';
import type { WriteBudget } from './write-budget.js';
import { invariant } from '../../core/invariant.js';

/** What the writer tells the master. */
export interface Publication {
  readonly inode: InodeId;
  /** The size becomes at least this. */
  readonly end: number;
  /** Of the last write; null when it was set by hand since. */
  readonly mtime: Timespec | null;
  readonly durable: boolean;
  readonly layoutVersion: number;
  /** Who wrote may not leave setuid and setgid. */
  readonly killPrivileges: boolean;
  /** Handles of chunks that the sync of which this is a part has synced, and that the master takes for unsynced. */
  readonly syncedChunks: readonly number[];
}

export interface WriterOptions {
  readonly inode: InodeId;
  readonly io: ChunkWrites;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly budget: WriteBudget;
  /** Tells the master what `current` gives, called anew for each attempt. */
  readonly publish: (current: () => Publication, durable: boolean, timeoutMs: number) => Promise<InodeAttributes>;
  /** Resolves when all earlier metadata is durable, and that these chunks were synced. */
  readonly syncMetadata: (syncedChunks: readonly number[], timeoutMs: number) => Promise<void>;
  /** What the master last said of the file. */
  readonly attributes: () => InodeAttributes;
  /** Bytes of the file have changed on the chunkservers: data read before is old. */
  readonly onWritten: (offset: number, length: number) => void;
  /** Bytes that were taken for written are not: what was made of them elsewhere is wrong. */
  readonly onLost?: () => void;
  readonly maxDirtyBytes?: number;
}

/** Times that `alter` waits for writes to its range, while more come. */
const MAX_SETTLE_TRIES = 16;

/** P1: power failed at every replica between a write and its sync. */
export function lostBeforeSync(inode: InodeId): CairnError {
  return new CairnError('EIO', `inode ${inode}: bytes written before may have been lost in a power failure`);
}

const sessionWasLost = (): CairnError =>
  new CairnError('EIO', 'the session with the master was lost: bytes written lately may be gone');

const locksWereLost = (): CairnError =>
  new CairnError('EIO', 'locks were lost with the session: bytes written under them are not written');

const endWasLost = (): CairnError =>
  new CairnError('EIO', 'others appended to the file while this client was away: what it appended is lost');

export class Writer {
  /** Times that locks were lost with the session: what began before must not be done any more. */
  lockLosses = 0;
  /** Counts failed write-backs. */
  failures = 0;
  /** How many of them a write or an fsync has told. A close tells, too, but many programs do not look. */
  toldFailures = 0;
  private loggedMs = -Infinity;
  private unlogged = 0;
  private lastFailure: CairnError | undefined;
  private readonly buffered: WriteBack;
  /** End of what was written here and is not published; 0 for none. */
  private localEnd = 0;
  /** End of the writes under way, which may wait for room: nobody sees it before their bytes; 0 for none. */
  private reservedEnd = 0;
  /** End of what is on the chunkservers and is not published. */
  private writtenEnd = 0;
  /** End of what was given up, and may be on the chunkservers all the same; 0 for none. */
  private failedEnd = 0;
  /** End of what an earlier session wrote and did not publish, until it is known whether the file still reaches there; 0 for none. */
  private doubtfulEnd = 0;
  private unpublished = false;
  /** Something was published since the last sync: up to where, and whether with `kills`. */
  private unsyncedTold = false;
  private unsyncedEnd = 0;
  private unsyncedKills = false;
  /**
   * Some of what is unpublished was written by who may not leave setuid and setgid. False when nothing is unpublished, or
   * a later publication would take away what was set since.
   */
  private killing = false;
  /** A publication is on its way: the master may not know yet what it says. */
  private inPublication = false;
  private mtime: Timespec | undefined;
  /** Chunks written since they were last synced, with the mark of the first of these writes that succeeded. */
  private readonly unsynced = new Map<number, WriteMark | undefined>();
  /** Locks on the file were lost: nothing of it is written or told any more. */
  private isVoid = false;
  /** Times that the end of the file went to others: an append that began before must not be made where that was. */
  private endLosses = 0;
  private isDisposed = false;
  private readonly publishing = new Mutex('client.publish');
  private readonly syncing = new Mutex('client.sync');
  private readonly truncating = new Mutex('client.truncate');
  /** Calls of `write` under way, and who waits for them to end. */
  private activeWrites = 0;
  private quiet: Deferred<void> | undefined;
  private gate: Deferred<void> | undefined;
  private writeBack: Timer | undefined;

  constructor(private readonly options: WriterOptions) {
    this.buffered = new WriteBack({
      ...options,
      onSent: (range, outcome, wasDiscarded) => this.sent(range, outcome, wasDiscarded),
    });
  }

  /** Nothing is buffered and nothing is left to publish. */
  get isClean(): boolean {
    return this.buffered.isEmpty && this.activeWrites === 0 && !this.unpublished && !this.inPublication;
  }

  /** The master knows all that may be on the chunkservers: nothing is to be published, and nothing may lie past the end. */
  get isTold(): boolean {
    return this.isClean && this.failedEnd <= this.options.attributes().size;
  }

  /** The next publication takes setuid and setgid away. */
  get kills(): boolean {
    return this.killing;
  }

  get heldBytes(): number {
    return this.buffered.heldBytes;
  }

  /** The size as this client's programs see it. */
  get size(): number {
    return Math.max(this.options.attributes().size, this.localEnd);
  }

  /** mtime of writes that the master does not know yet. */
  get pendingMtime(): Timespec | undefined {
    return this.unpublished || this.inPublication ? this.mtime : undefined;
  }

  get failure(): CairnError {
    return this.lastFailure ?? new CairnError('EIO', 'an earlier write failed');
  }

  /**
   * Buffers `bytes` at `offset`, or at the end of the file. Waits while too much is buffered. `kills`: who writes may not
   * leave setuid and setgid. `since`: `lockLosses` when what this is part of began.
   */
  async write(offset: number | 'end', bytes: Uint8Array, kills = false, since = this.lockLosses): Promise<void> {
    const { endLosses } = this;
    while (this.gate !== undefined) await this.gate.promise;
    if (bytes.length === 0) return;
    let at = offset === 'end' ? Math.max(this.size, this.reservedEnd) : offset;
    if (at + bytes.length > MAX_FILE_BYTES) {
      throw new CairnError(
        'EFBIG',
        `a file has at most ${MAX_FILE_BYTES} bytes; tried to write up to ${at + bytes.length}`,
      );
    }
    this.begin(at + bytes.length, kills);
    try {
      let from = 0;
      while (from < bytes.length) {
        if (this.buffered.isFull) await this.buffered.waitForRoom();
        this.demandLocks(since);
        if (offset === 'end' && this.endLosses !== endLosses) throw endWasLost();
        const count = Math.min(bytes.length - from, MAX_PAYLOAD_BYTES - (at % MAX_PAYLOAD_BYTES));
        const whole = from === 0 && count === bytes.length;
        this.buffered.buffer(at, whole ? bytes : bytes.subarray(from, from + count));
        this.localEnd = Math.max(this.localEnd, at + count);
        this.scheduleWriteBack();
        from += count;
        at += count;
      }
    } finally {
      this.end();
    }
  }

  /** For what began when `lockLosses` was `since`. */
  demandLocks(since: number): void {
    if (this.lockLosses !== since) throw locksWereLost();
  }

  /** A write up to `end` is under way: the next append goes behind it. */
  private begin(end: number, kills: boolean): void {
    this.reservedEnd = Math.max(this.reservedEnd, end);
    this.mtime = this.options.clock.now();
    this.unpublished = true;
    this.killing ||= kills;
    this.activeWrites++;
  }

  private end(): void {
    this.activeWrites--;
    if (this.activeWrites > 0) return;
    this.reservedEnd = 0;
    this.quiet?.resolve();
  }

  /**
   * Runs `change`, by which the chunkservers change these bytes, of one chunk, without getting them from here. Earlier
   * writes to them are there when it begins, later ones are sent when it has ended. It returns how many bytes it
   * changed from the start, and the mark, if it changed the chunk; its failure is the caller's to tell. 0
   * without a change when somebody keeps writing there.
   */
  async alter(
    offset: number,
    length: number,
    change: () => Promise<{ readonly changed: number; readonly mark?: WriteMark }>,
    kills = false,
    since = this.lockLosses,
  ): Promise<number> {
    while (this.gate !== undefined) await this.gate.promise;
    const range = { offset, length };
    const index = Math.floor(offset / CHUNK_SIZE_BYTES);
    this.begin(offset + length, kills);
    try {
      for (let tries = 0; this.buffered.holds(range); tries++) {
        if (tries === MAX_SETTLE_TRIES) return 0;
        await this.buffered.settle(range);
      }
      this.demandLocks(since);
      this.buffered.beginAlteration(range);
      const { changed, mark } = await change();
      if (mark !== undefined) this.noteUnsynced(index, mark);
      if (changed > 0) this.writtenEnd = Math.max(this.writtenEnd, offset + changed);
      return changed;
    } catch (error) {
      this.noteUnsynced(index, undefined);
      this.failedEnd = Math.max(this.failedEnd, offset + length);
      throw error;
    } finally {
      // Also when a publication went out meanwhile: it told nothing of these bytes.
      this.unpublished = true;
      this.end();
      this.forgetLocalEnd();
      this.scheduleWriteBack();
      this.options.onWritten(offset, length);
      this.buffered.endAlteration(range);
    }
  }

  /** What was written to these bytes before is on the chunkservers, or given up. */
  settle(offset: number, length: number): Promise<void> {
    return this.buffered.settle({ offset, length });
  }

  /** All that was written before is on the chunkservers, and published. Failures of write-back are counted, not thrown. */
  async flush(): Promise<void> {
    const deadlineMs = this.deadline();
    await this.buffered.drain();
    await this.publish(false, [], deadlineMs);
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
    const { io, clock } = this.options;
    const { failures } = this;
    let deadlineMs = this.deadline();
    await this.buffered.drain();
    // Who could write up to now may still sync. When the time went by without a chunkserver, there is none for this.
    if (this.failures === failures) deadlineMs = Math.max(deadlineMs, clock.monotonicMs() + REQUEST_TIMEOUT_MS);
    for (;;) {
      const { generation } = io;
      const marks = new Map(this.unsynced);
      let synced: SyncedChunk[];
      try {
        synced = [...closed, ...(await this.syncChunks(marks, deadlineMs))];
        await this.publish(
          true,
          synced.map(({ handle }) => handle),
          deadlineMs,
        );
      } catch (error) {
        // The master may not know of any that they were synced, without which the next sync promises nothing.
        this.unsyncAgain(marks);
        throw error;
      }
      if (io.generation === generation) {
        io.noteSynced(synced);
        return;
      }
      // The master lost power meanwhile: it may know nothing of a chunk that was synced, or of its having been.
      this.unsyncAgain(marks);
    }
  }

  private unsyncAgain(marks: UnsyncedChunks): void {
    for (const [index, mark] of marks) {
      const isCut = index * CHUNK_SIZE_BYTES >= this.size;
      if (!isCut) this.unsynced.set(index, mark ?? this.unsynced.get(index));
    }
  }

  /**
   * Syncs what was written since it was synced last, which `marks` says. Returns the chunks that the master takes for
   * unsynced. What is found to be lost is told once: it has no mark any more.
   */
  private async syncChunks(marks: Map<number, WriteMark | undefined>, deadlineMs: number): Promise<SyncedChunk[]> {
    const { inode } = this.options;
    const chunks = [...marks];
    this.unsynced.clear();
    const results = await Promise.allSettled(
      chunks.map(([index]) => this.options.io.syncChunk(inode, index, deadlineMs)),
    );
    let failed: PromiseRejectedResult | undefined;
    let isLost = false;
    const synced: SyncedChunk[] = [];
    chunks.forEach(([index, written], i) => {
      const result = results[i];
      if (result?.status === 'rejected') failed ??= result;
      if (result?.status !== 'fulfilled') return;
      if (result.value.unsynced) synced.push({ inode, index, handle: result.value.handle });
      if (written === undefined || isKept(written, result.value)) return;
      marks.set(index, undefined);
      isLost = true;
    });
    if (isLost) this.fail(lostBeforeSync(inode));
    if (failed !== undefined) throw failed.reason;
    return synced;
  }

  /**
   * Runs `change`, which sets the size at the master, when all earlier writes are there; later writes wait for it.
   * The master then knows how far chunks were written, and cuts them (P5).
   */
  async truncate(change: () => Promise<InodeAttributes>): Promise<InodeAttributes> {
    return this.truncating.run(async () => {
      this.gate = deferred();
      try {
        if (this.activeWrites > 0) {
          this.quiet = deferred();
          await this.quiet.promise;
          this.quiet = undefined;
        }
        await this.flush();
        return await this.publishing.run(async () => {
          const attributes = await change();
          // The name led to another file than thought: this one was not cut.
          if (attributes.inode !== this.options.inode) return attributes;
          for (const index of this.unsynced.keys()) {
            if (index * CHUNK_SIZE_BYTES >= attributes.size) this.unsynced.delete(index);
          }
          if (this.buffered.isEmpty) this.localEnd = this.writtenEnd = 0;
          this.buffered.cut(attributes.size);
          this.unsyncedEnd = Math.min(this.unsyncedEnd, attributes.size);
          this.failedEnd = Math.min(this.failedEnd, attributes.size);
          return attributes;
        });
      } finally {
        const { gate } = this;
        this.gate = undefined;
        gate.resolve();
      }
    });
  }

  /** Runs `change`, which sets the mtime by hand: no write before it may set it again. */
  setTimes(change: () => Promise<InodeAttributes>): Promise<InodeAttributes> {
    return this.publishing.run(async () => {
      const before = this.mtime;
      this.mtime = undefined;
      try {
        return await change();
      } catch (error) {
        this.mtime ??= before;
        throw error;
      }
    });
  }

  /** Extents over a range, oldest first, for readers; each is pinned and must be given to `unpin`. */
  pinOverlay(offset: number, length: number): Extent[] {
    return this.buffered.pinOverlay(offset, length);
  }

  unpin(extents: readonly Extent[]): void {
    this.buffered.unpin(extents);
  }

  /** Sends what is buffered, now. */
  startWriteBack(): void {
    this.buffered.startWriteBack();
  }

  /**
   * The session that knew of this file's unpublished bytes is gone: the master cuts what lies past the published size.
   * Whether it did cannot be known, so it counts as a failure, now, or when the master tells that others have cut the file.
   */
  sessionLost(): void {
    if (this.writtenEnd > this.options.attributes().size) this.fail(sessionWasLost());
    else this.doubtfulEnd = Math.max(this.doubtfulEnd, this.writtenEnd);
    // Nor is it told in the next session: others may have cut the file meanwhile, and written it.
    this.writtenEnd = 0;
    this.forgetLocalEnd();
  }

  /**
   * Locks ended with the session, and others may hold them by now: what was written under them and is still here must not
   * be written any more. Which bytes those are cannot be told, so it is all. `ofThisFile`: nor may anything else of this one.
   */
  locksLost(ofThisFile: boolean): void {
    this.lockLosses++;
    const had = this.buffered.discardPast(0) || this.writtenEnd > this.options.attributes().size;
    if (had) {
      this.fail(locksWereLost());
    }
    this.isVoid ||= ofThisFile;
    if (this.isVoid) this.unpublished = this.killing = false;
    this.writtenEnd = 0;
    this.forgetLocalEnd();
  }

  /** The master lost what it was told since the last sync: it is told again. */
  operationsLost(): void {
    if (!this.unsyncedTold || this.isVoid) return;
    this.writtenEnd = Math.max(this.writtenEnd, this.unsyncedEnd);
    this.localEnd = Math.max(this.localEnd, this.unsyncedEnd);
    this.killing ||= this.unsyncedKills;
    this.unpublished = true;
    this.scheduleWriteBack();
  }

  /**
   * Others have the end of this file, so what was put past the published size must not reach it any more. What is on its
   * way is refused by the chunkservers, or counts for nothing.
   */
  discardUnpublished(): void {
    this.endLosses++;
    const { size } = this.options.attributes();
    if (!this.buffered.discardPast(size) && this.writtenEnd <= size) return;
    this.writtenEnd = 0;
    this.fail(endWasLost());
    this.forgetLocalEnd();
  }

  /** These chunks are holes now: there is nothing to make durable. */
  forgetUnsynced(firstIndex: number, count: number): void {
    for (const index of this.unsynced.keys()) {
      if (index >= firstIndex && index < firstIndex + count) this.unsynced.delete(index);
    }
  }

  /** Chunks that a sync has yet to make durable. */
  get unsyncedChunks(): UnsyncedChunks {
    return this.unsynced;
  }

  /** No more writes will come, and what could not be told until now is told no more: nobody would say when it must not be. */
  dispose(): void {
    this.isDisposed = true;
    this.writeBack?.cancel();
    this.buffered.dispose();
  }

  private scheduleWriteBack(): void {
    if (this.isDisposed) return;
    this.writeBack ??= this.options.clock.setTimer(WRITE_BACK_AGE_MS, () => {
      this.writeBack = undefined;
      this.flush().catch((error: unknown) => {
        // What could not be published stays so, and the next flush tries again and tells its caller.
        const { code, message } = asCairnError(error);
        this.options.logger.warn({ inode: this.options.inode, code, reason: message }, 'size and mtime not published');
        if (this.unpublished) this.scheduleWriteBack();
      });
    });
  }

  private sent({ offset, length }: Range, outcome: WriteMark | CairnError, wasDiscarded: boolean): void {
    this.noteUnsynced(Math.floor(offset / CHUNK_SIZE_BYTES), outcome instanceof CairnError ? undefined : outcome);
    if (wasDiscarded) {
      this.forgetLocalEnd();
    } else if (!(outcome instanceof CairnError)) {
      this.writtenEnd = Math.max(this.writtenEnd, offset + length);
      // Also when a publication went out between the write and now: it told nothing of these bytes.
      this.unpublished = true;
    } else {
      this.fail(outcome);
      this.failedEnd = Math.max(this.failedEnd, offset + length);
      this.forgetLocalEnd();
      // Some attempt may have been applied: that the file changed is to be told.
      if (!this.isVoid) {
        this.unpublished = true;
        this.scheduleWriteBack();
      }
    }
    this.options.onWritten(offset, length);
  }

  /** Of several writes of a chunk the first mark counts, and if the later ones differ, something was lost between them. */
  private noteUnsynced(index: number, mark: WriteMark | undefined): void {
    const known = this.unsynced.get(index);
    const differs = known !== undefined && mark !== undefined && !isKept(known, mark);
    this.unsynced.set(index, differs ? LOST_MARK : (known ?? mark));
  }

  /** What reached up to there is published or lost: what is left counts. */
  private forgetLocalEnd(): void {
    this.localEnd = Math.max(this.writtenEnd, this.buffered.end());
  }

  private fail(error: CairnError): void {
    this.failures++;
    this.lastFailure = error;
    this.options.onLost?.();
    const { clock, logger, inode } = this.options;
    this.unlogged++;
    if (clock.monotonicMs() - this.loggedMs < FAILURE_LOG_INTERVAL_MS) return;
    logger.error(
      { inode, code: error.code, reason: error.message, failures: this.unlogged },
      'bytes written to a file are lost: the next write, fsync or close of it is told',
    );
    this.loggedMs = clock.monotonicMs();
    this.unlogged = 0;
  }

  private noteTold(durable: boolean, end: number, kills: boolean): void {
    this.unsyncedTold = !durable;
    this.unsyncedEnd = durable ? 0 : Math.max(this.unsyncedEnd, end);
    this.unsyncedKills = !durable && (this.unsyncedKills || kills);
  }

  /** What was given up must not come behind what others write when they were told that this client is done. */
  private async settleDoubts(deadlineMs: number): Promise<void> {
    if (this.isVoid) return;
    const { io, inode, clock } = this.options;
    await io.settleDoubts(inode, Math.max(deadlineMs, clock.monotonicMs() + LEASE_QUESTION_MS));
  }

  private publish(durable: boolean, synced: readonly number[], deadlineMs: number): Promise<void> {
    return this.publishing.run(async () => {
      await this.settleDoubts(deadlineMs);
      const timeoutMs = Math.max(REQUEST_TIMEOUT_MS, deadlineMs - this.options.clock.monotonicMs());
      if (this.isVoid) this.unpublished = this.killing = false;
      // What does not fit goes ahead.
      const syncedChunks = synced.slice(0, MAX_CHUNKS_PER_PAGE);
      if (synced.length > MAX_CHUNKS_PER_PAGE) {
        await this.options.syncMetadata(synced.slice(MAX_CHUNKS_PER_PAGE), timeoutMs);
      }
      if (!this.unpublished || this.isDisposed) {
        invariant(this.isDisposed || !this.killing, 'privileges are killed by what is unpublished only');
        if (durable) {
          await this.options.syncMetadata(syncedChunks, timeoutMs);
          this.noteTold(true, 0, false);
        }
        return;
      }
      const { inode, attributes } = this.options;
      let toldEnd = Infinity;
      let doubtfulEnd = 0;
      const killPrivileges = this.killing;
      this.unpublished = this.killing = false;
      this.inPublication = true;
      try {
        const current = (): Publication => {
          if (this.isDisposed) throw new CairnError('EIO', `inode ${inode}: the file was closed meanwhile`);
          // Anew for each attempt: when the session is lost meanwhile, so is what lies past the published size.
          ({ doubtfulEnd } = this);
          // What is written in this session is told behind the answer to the doubt: it would hide that others have cut the file.
          const end = doubtfulEnd > 0 ? 0 : this.buffered.endWithoutGaps(this.writtenEnd);
          // More may have been written since an attempt before, and the answer may be that to it.
          toldEnd = Math.min(toldEnd, end);
          const { layoutVersion } = attributes();
          return { inode, end, mtime: this.mtime ?? null, durable, layoutVersion, killPrivileges, syncedChunks };
        };
        do {
          toldEnd = Infinity;
          await this.options.publish(current, durable, timeoutMs);
          if (doubtfulEnd > attributes().size) this.fail(sessionWasLost());
          if (this.doubtfulEnd === doubtfulEnd) this.doubtfulEnd = 0;
        } while (doubtfulEnd > 0);
        this.noteTold(durable, toldEnd, killPrivileges);
        if (this.writtenEnd === toldEnd) this.writtenEnd = 0;
        if (this.buffered.isEmpty && this.writtenEnd === 0 && !this.unpublished) this.forgetLocalEnd();
      } catch (error) {
        this.unpublished = true;
        this.killing ||= killPrivileges;
        throw error;
      } finally {
        this.inPublication = false;
      }
      // Written while the answer was on its way: its size is not published yet.
      if (this.writtenEnd > 0) this.unpublished = true;
    });
  }
}
