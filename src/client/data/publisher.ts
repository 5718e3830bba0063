/**
 * What the master is to be told of one inode that is written here: how far it reaches, when it was written, and by whom
 * (P2). It is told after the bytes, one publication after another; what a loss of the session or of the master's power leaves
 * of that is decided here.
 */
import type { Clock, Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { invariant } from '../../core/invariant.js';
import { LEASE_QUESTION_MS, MAX_CHUNKS_PER_PAGE, REQUEST_TIMEOUT_MS } from '../../core/limits.js';
import { Mutex } from '../../core/sync.js';
import type { ChunkWrites } from '../chunks/chunk-io.js';
import type { InodeAttributes } from '../session/wire-attributes.js';
import type { WriteBack } from './write-back.js';
import type { WriteFailures } from './write-failures.js';

/** What the master is told at once. */
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

export interface PublisherOptions {
  readonly inode: InodeId;
  readonly io: Pick<ChunkWrites, 'settleDoubts'>;
  readonly clock: Clock;
  /** Tells the master what `current` gives, called anew for each attempt. */
  readonly publish: (current: () => Publication, durable: boolean, timeoutMs: number) => Promise<InodeAttributes>;
  /** Resolves when all earlier metadata is durable, and that these chunks were synced. */
  readonly syncMetadata: (syncedChunks: readonly number[], timeoutMs: number) => Promise<void>;
  /** What the master last said of the file. */
  readonly attributes: () => InodeAttributes;
}

const sessionWasLost = (): CairnError =>
  new CairnError('EIO', 'the session with the master was lost: bytes written lately may be gone');

export class Publisher {
  /** End of what was written here and is not published; 0 for none. */
  private localEnd = 0;
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
  /** Locks on the file were lost: nothing of it is told any more. */
  private voided = false;
  private disposed = false;
  private readonly publishing = new Mutex('client.publish');

  constructor(
    private readonly options: PublisherOptions,
    private readonly buffered: WriteBack,
    private readonly failures: WriteFailures,
  ) {}

  /** Something is to be published, and no publication of it is on its way. */
  get isWanted(): boolean {
    return this.unpublished;
  }

  /** Nothing is to be published, nor on its way. */
  get isDone(): boolean {
    return !this.unpublished && !this.inPublication;
  }

  /** Nothing that was given up may lie past the end that the master knows. */
  get coversFailed(): boolean {
    return this.failedEnd <= this.options.attributes().size;
  }

  /** What is on the chunkservers reaches past the end that the master knows. */
  get reachesPastEnd(): boolean {
    return this.writtenEnd > this.options.attributes().size;
  }

  /** The next publication takes setuid and setgid away. */
  get kills(): boolean {
    return this.killing;
  }

  /** Locks on the file were lost: nothing of it is written or told any more. */
  get isVoid(): boolean {
    return this.voided;
  }

  get isDisposed(): boolean {
    return this.disposed;
  }

  /** The size as this client's programs see it. */
  get size(): number {
    return Math.max(this.options.attributes().size, this.localEnd);
  }

  /** mtime of writes that the master does not know yet. */
  get pendingMtime(): Timespec | undefined {
    return this.isDone ? undefined : this.mtime;
  }

  // ---- What is written --------------------------------------------------------------------------

  /** A write begins. */
  noteWrite(kills: boolean): void {
    this.mtime = this.options.clock.now();
    this.unpublished = true;
    this.killing ||= kills;
  }

  /** Bytes up to `end` are buffered. */
  noteBuffered(end: number): void {
    this.localEnd = Math.max(this.localEnd, end);
  }

  /** Bytes up to `end` are on the chunkservers. */
  noteWritten(end: number): void {
    this.writtenEnd = Math.max(this.writtenEnd, end);
    // Also when a publication went out between the write and now: it told nothing of these bytes.
    this.unpublished = true;
  }

  /** Bytes up to `end` were given up, and may be on the chunkservers all the same. */
  noteGivenUp(end: number): void {
    this.failedEnd = Math.max(this.failedEnd, end);
    this.forgetLocalEnd();
    // Some attempt may have been applied: that the file changed is to be told.
    if (!this.voided) this.unpublished = true;
  }

  /** The chunkservers may have changed bytes by themselves. */
  noteAltered(): void {
    // Also when a publication went out meanwhile: it told nothing of these bytes.
    this.unpublished = true;
    this.forgetLocalEnd();
  }

  /** What reached up to there is published or lost: what is left counts. */
  forgetLocalEnd(): void {
    this.localEnd = Math.max(this.writtenEnd, this.buffered.end());
  }

  // ---- What the master says and does ------------------------------------------------------------

  /** Runs `change`, which changes the file at the master, while no publication is on its way. */
  between<T>(change: () => Promise<T>): Promise<T> {
    return this.publishing.run(change);
  }

  /** The master has set the size, `between` publications. */
  cut(size: number): void {
    if (this.buffered.isEmpty) this.localEnd = this.writtenEnd = 0;
    this.buffered.cut(size);
    this.unsyncedEnd = Math.min(this.unsyncedEnd, size);
    this.failedEnd = Math.min(this.failedEnd, size);
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

  /**
   * The session that knew of this file's unpublished bytes is gone: the master cuts what lies past the published size.
   * Whether it did cannot be known, so it counts as a failure, now, or when the master tells that others have cut the file.
   */
  sessionLost(): void {
    if (this.reachesPastEnd) this.failures.add(sessionWasLost());
    else this.doubtfulEnd = Math.max(this.doubtfulEnd, this.writtenEnd);
    // Nor is it told in the next session: others may have cut the file meanwhile, and written it.
    this.forgetWritten();
  }

  /** Locks ended with the session; `ofThisFile`: on it. */
  locksLost(ofThisFile: boolean): void {
    this.voided ||= ofThisFile;
    if (this.voided) this.unpublished = this.killing = false;
    this.forgetWritten();
  }

  /** What is on the chunkservers and is not published must not be told any more. */
  forgetWritten(): void {
    this.writtenEnd = 0;
    this.forgetLocalEnd();
  }

  /** The master lost what it was told since the last sync: it is told again. False when there is nothing. */
  operationsLost(): boolean {
    if (!this.unsyncedTold || this.voided) return false;
    this.writtenEnd = Math.max(this.writtenEnd, this.unsyncedEnd);
    this.localEnd = Math.max(this.localEnd, this.unsyncedEnd);
    this.killing ||= this.unsyncedKills;
    this.unpublished = true;
    return true;
  }

  /** What could not be told until now is told no more: nobody would say when it must not be. */
  dispose(): void {
    this.disposed = true;
  }

  // ---- Telling it -------------------------------------------------------------------------------

  /** Tells the master what is on the chunkservers now; `durable`: that, and all before, and that `synced` were synced. */
  publish(durable: boolean, synced: readonly number[], deadlineMs: number): Promise<void> {
    return this.publishing.run(async () => {
      await this.settleDoubts(deadlineMs);
      const timeoutMs = Math.max(REQUEST_TIMEOUT_MS, deadlineMs - this.options.clock.monotonicMs());
      if (this.voided) this.unpublished = this.killing = false;
      // What does not fit goes ahead.
      const syncedChunks = synced.slice(0, MAX_CHUNKS_PER_PAGE);
      if (synced.length > MAX_CHUNKS_PER_PAGE) {
        await this.options.syncMetadata(synced.slice(MAX_CHUNKS_PER_PAGE), timeoutMs);
      }
      if (this.unpublished && !this.disposed) {
        await this.tell(durable, syncedChunks, timeoutMs);
        return;
      }
      invariant(this.disposed || !this.killing, 'privileges are killed by what is unpublished only');
      if (!durable) return;
      await this.options.syncMetadata(syncedChunks, timeoutMs);
      this.noteTold(true, 0, false);
    });
  }

  /** What was given up must not come behind what others write when they were told that this client is done. */
  private async settleDoubts(deadlineMs: number): Promise<void> {
    if (this.voided) return;
    const { io, inode, clock } = this.options;
    await io.settleDoubts(inode, Math.max(deadlineMs, clock.monotonicMs() + LEASE_QUESTION_MS));
  }

  private async tell(durable: boolean, syncedChunks: readonly number[], timeoutMs: number): Promise<void> {
    const { inode, attributes } = this.options;
    let toldEnd = Infinity;
    let doubtfulEnd = 0;
    const killPrivileges = this.killing;
    this.unpublished = this.killing = false;
    this.inPublication = true;
    try {
      const current = (): Publication => {
        if (this.disposed) throw new CairnError('EIO', `inode ${inode}: the file was closed meanwhile`);
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
        if (doubtfulEnd > attributes().size) this.failures.add(sessionWasLost());
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
  }

  private noteTold(durable: boolean, end: number, kills: boolean): void {
    this.unsyncedTold = !durable;
    this.unsyncedEnd = durable ? 0 : Math.max(this.unsyncedEnd, end);
    this.unsyncedKills = !durable && (this.unsyncedKills || kills);
  }
}
