/**
 * The master's state: the store, over it the overlay of what the operation log holds and the store does not, and the
 * log itself. A mutation is decided, written to the log, applied to the overlay. In the background the overlay goes to
 * the store in transactions; the last one carries the sequence up to which the store is complete (the checkpoint), and
 * the log behind it is deleted.
 *
 * The log is synced before the overlay is committed, so the store never has a part of an operation whose record could
 * still be lost; replaying records that the store has in part is harmless, as they say what keys are, not what changes.
 *
 * When the disk is full, what makes the namespace larger is refused with ENOSPC; all else goes on from the reserve as
 * long as that lasts. A transaction that finds no space is tried again until it does; the log is not cut meanwhile.
 */
import type { Clock, Timer } from '../../core/clock.js';
import type { BootNotes } from '../../core/disk/boot-notes.js';
import type { Disk } from '../../core/disk/disk.js';
import { asCairnError, CairnError, isNoSpace } from '../../core/errors.js';
import {
  COMMIT_CHANGES,
  COMMIT_DELAY_MS,
  MASTER_RESERVE_BYTES,
  MAX_COMMIT_ERRORS,
  MAX_OVERLAY_BYTES,
  MAX_OVERLAY_CHANGES,
  SCARCE_TRANSACTION_CHANGES,
  TRANSACTION_CHANGES,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { deferred } from '../../core/sync.js';
import type { Deferred } from '../../core/sync.js';
import { ensureDirectory } from '../log/log-segment.js';
import { OperationLog } from '../log/operation-log.js';
import type { Key, KeyRange, NewValue, Store, StoreChange } from '../store/store.js';
import { readCounter } from './counters.js';
import { DiskReserve } from './disk-reserve.js';
import { beginEpoch, beginLossEpoch, endEpoch } from './epochs.js';
import { FailureNotes, isDiskFailure } from './failure-notes.js';
import { growsNamespace } from './growth.js';
import { keys, packed } from './keys.js';
import { PendingMutation } from './mutation.js';
import { mergeLayers, Overlay } from './overlay.js';
import { ReadCache } from './read-cache.js';
import { Space } from './space.js';
import type { Mutation, State } from './state.js';

/** Of the tables in the store (docs/disk-format.md). An earlier release refuses it, and would not keep what is promised here. */
export const FORMAT_VERSION = 2;
/** The oldest that is taken over, as it stands. */
const OLDEST_FORMAT_VERSION = 1;

export interface LogStateOptions {
  /** Stays open after `stop`: who opened it closes it. */
  readonly store: Store;
  readonly disk: Disk;
  readonly bootNotes: BootNotes;
  /** Of the operation log; made when missing. */
  readonly directory: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Called once when a write or sync failed: the master must stop serving. Every later call here fails. */
  readonly onFailure: (error: CairnError) => void;
  readonly segmentBytes?: number;
  readonly commitChanges?: number;
  readonly commitDelayMs?: number;
  readonly transactionChanges?: number;
  readonly maxOverlayChanges?: number;
  readonly reserveBytes?: number;
}

export class LogState implements State {
  private readonly overlay = new Overlay();
  private readonly cache: ReadCache;
  private log: OperationLog | undefined;
  private failure: CairnError | undefined;
  private commitTimer: Timer | undefined;
  private committing: Promise<void> | undefined;
  /** Waiters of `ready`; there while the overlay is full. */
  private room: Deferred<void> | undefined;
  private deciding = false;
  private stopping = false;
  /** Grows with every start; durable before `beginEpoch` returns. Until then 0, and nothing can be changed. */
  epoch = 0;
  /** The last epoch that began after a loss of operations (epochs.ts); 0: none. */
  lossEpoch = 0;
  /** Of the last record of earlier epochs. */
  startSequence = 0;
  private isReplayed = false;
  private isServing = false;

  private constructor(
    private readonly options: LogStateOptions,
    private readonly space: Space,
    private readonly notes: FailureNotes,
  ) {
    this.cache = new ReadCache(options.store);
  }

  /** `replay`, and then `beginEpoch`: the state of a master that is going to serve. */
  static async open(options: LogStateOptions): Promise<LogState> {
    const state = await LogState.replay(options);
    await state.beginEpoch();
    return state;
  }

  /** The state of a directory and a store, to be read: costs what the log holds behind the checkpoint. */
  static async replay(options: LogStateOptions): Promise<LogState> {
    const { disk, store, directory, logger, bootNotes } = options;
    const notes = new FailureNotes({ bootNotes, bootId: disk.bootId(), directory, logger });
    notes.find(store);
    let state: LogState | undefined;
    try {
      await ensureDirectory(disk, directory);
      const reserve = await DiskReserve.open(disk, directory, options.reserveBytes ?? MASTER_RESERVE_BYTES);
      state = new LogState(options, new Space(options, reserve), notes);
      await state.readLog();
    } catch (error) {
      if (state?.failure === undefined && isDiskFailure(error)) notes.leave(state ?? store, 0, state?.answered);
      throw error;
    }
    return state;
  }

  private async readLog(): Promise<void> {
    const { options, notes } = this;
    const started = options.clock.monotonicMs();
    const checkpoint = readCounter(options.store, 'sequence', 0);
    let replayed = 0;
    this.log = await OperationLog.open({
      disk: options.disk,
      directory: options.directory,
      logger: options.logger,
      ...(options.segmentBytes === undefined ? {} : { segmentBytes: options.segmentBytes }),
      checkpoint,
      hasFailed: notes.writtenUpTo !== undefined,
      onReplayed: (lastSequence) => {
        this.startSequence = lastSequence;
        this.isReplayed = true;
      },
      apply: (record) => {
        this.overlay.apply(record.changes);
        replayed++;
      },
      onFailure: (error) => this.fail(error),
      makeRoom: () => this.space.makeRoom(),
      isScarce: () => this.space.isScarce,
    });
    // All of the tail is synced now. It goes to the store at once, so that the overlay starts empty. That also makes up
    // for a sync that had failed before the restart: it may succeed now without having written anything.
    await this.commitAll();
    const format = readCounter(this, 'format', FORMAT_VERSION);
    if (format < OLDEST_FORMAT_VERSION || format > FORMAT_VERSION) {
      throw new CairnError(
        'EINVAL',
        `the metadata has format ${format}, this program knows ${FORMAT_VERSION}: use its release`,
      );
    }
    const tookMs = Math.round(options.clock.monotonicMs() - started);
    options.logger.info({ checkpoint, replayed, tookMs }, 'metadata read');
  }

  /** Begins the next epoch, and with it takes changes. To be called once. */
  async beginEpoch(): Promise<void> {
    const { options, notes } = this;
    const format = readCounter(this, 'format', FORMAT_VERSION);
    if (format < FORMAT_VERSION) {
      options.logger.warn(
        { format, now: FORMAT_VERSION },
        'metadata of an earlier release is taken over: that one cannot use it any more',
      );
    }
    try {
      const epoch = readCounter(this, 'epoch', 0) + 1;
      this.epoch = epoch;
      // Only the log knows which cluster it is when that was made in the last moment.
      notes.find(this);
      const hasLost = notes.areRecordsMissing(this.startSequence);
      this.lossEpoch = this.mutate((m) => {
        m.put(keys.meta('format'), packed(FORMAT_VERSION));
        return beginEpoch(m, epoch, options.disk.bootId(), hasLost);
      });
      await this.durable();
    } catch (error) {
      if (this.failure === undefined && isDiskFailure(error)) notes.leave(this, this.epoch, this.answered);
      throw error;
    }
    notes.remove();
    this.isServing = true;
    options.logger.info({ epoch: this.epoch, lossEpoch: this.lossEpoch }, 'an epoch of the metadata begins');
  }

  get(key: Key): Uint8Array | undefined {
    if (this.failure !== undefined) throw this.failure;
    const value = this.overlay.get(key);
    return value === undefined ? this.cache.get(key) : (value ?? undefined);
  }

  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]> {
    if (this.failure !== undefined) throw this.failure;
    const layers = this.overlay.layers(range);
    const stored = this.options.store.range(range);
    return layers.length === 0 ? stored : mergeLayers([...layers, stored]);
  }

  mutate<T>(decide: (mutation: Mutation) => T): T {
    if (this.failure !== undefined) throw this.failure;
    if (this.stopping) throw new CairnError('UNAVAILABLE', 'the master is stopping');
    if (this.deciding) throw new CairnError('INTERNAL', 'a mutation began within another');
    if (this.epoch === 0) throw new CairnError('INTERNAL', 'a mutation before the epoch began');
    const pending = new PendingMutation(this);
    this.deciding = true;
    let result: T;
    try {
      result = decide(pending);
    } finally {
      this.deciding = false;
    }
    if (pending.changes.size > 0) {
      this.append(pending.changes);
      for (const key of pending.changes.keys()) this.cache.drop(key);
      this.overlay.apply(pending.changes);
      this.scheduleCommit();
    }
    return result;
  }

  private append(changes: ReadonlyMap<Key, NewValue>): void {
    if (this.space.isScarce && growsNamespace(changes, this)) {
      throw new CairnError(
        'ENOSPC',
        `the disk of the master is nearly full: free space beside ${this.options.directory}`,
      );
    }
    this.openLog().append(this.epoch, changes, () => !growsNamespace(changes, this) && this.space.makeRoom());
  }

  mutateIfRoom(decide: (mutation: Mutation) => void): boolean {
    // Waiting for the store is not worth while either.
    if (this.failure === undefined && (this.space.isScarce || this.isFull())) return false;
    try {
      this.mutate(decide);
      return true;
    } catch (error) {
      if (isNoSpace(error)) return false;
      throw error;
    }
  }

  durable(): Promise<void> {
    return this.failure === undefined ? this.openLog().durable() : Promise.reject(this.failure);
  }

  ready(): Promise<void> | undefined {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    if (!this.isFull()) return undefined;
    if (this.space.isAwaited) return Promise.reject(this.space.full());
    this.room ??= deferred();
    this.startCommit();
    return this.room.promise;
  }

  /** Takes a higher epoch within the process, as after a loss of operations. Not durable yet when it returns. */
  skipToEpoch(epoch: number, alter: (m: Mutation) => void): void {
    this.mutate((m) => {
      beginLossEpoch(m, epoch);
      alter(m);
    });
    this.epoch = epoch;
    this.lossEpoch = epoch;
  }

  /** Every record up to this one survives power loss. */
  get flushedSequence(): number {
    return this.openLog().flushedSequence;
  }

  /** The namespace does not grow until there is space on the disk again. */
  get isShortOfSpace(): boolean {
    return this.space.isScarce;
  }

  /** The sequence of the last record, for operators. */
  get lastSequence(): number {
    return this.openLog().lastSequence;
  }

  /** Commits everything to the store and closes the log. Mutations fail from now on. */
  async stop(): Promise<void> {
    if (this.stopping) return;
    // Without it a reboot counts as a power loss, which does no more harm than a false alarm.
    if (this.failure === undefined) this.mutateIfRoom((m) => endEpoch(m, this.epoch));
    this.stopping = true;
    this.commitTimer?.cancel();
    this.commitTimer = undefined;
    this.space.endPause();
    await this.committing;
    try {
      if (this.failure === undefined && !this.overlay.isCommitting) await this.commitOnce();
    } catch (error) {
      if (!isNoSpace(error)) throw this.failCommit(error);
      this.options.logger.warn({}, 'the disk is full: the operation log keeps what the store has no space for');
    }
    await this.openLog().close();
    await this.space.close();
  }

  /** Looks how much space there is. To be called about every second. */
  async watchSpace(): Promise<void> {
    if (this.failure === undefined && !this.stopping) await this.space.watch();
  }

  private openLog(): OperationLog {
    if (this.log === undefined) throw new CairnError('UNAVAILABLE', 'the operation log is still being replayed');
    return this.log;
  }

  private isFull(): boolean {
    const { activeChanges, activeBytes } = this.overlay;
    return activeChanges >= (this.options.maxOverlayChanges ?? MAX_OVERLAY_CHANGES) || activeBytes >= MAX_OVERLAY_BYTES;
  }

  private scheduleCommit(): void {
    if (this.committing !== undefined || this.stopping) return;
    const { activeChanges, activeBytes } = this.overlay;
    if (activeChanges >= (this.options.commitChanges ?? COMMIT_CHANGES) || activeBytes >= MAX_OVERLAY_BYTES / 2) {
      this.startCommit();
    } else {
      this.commitTimer ??= this.options.clock.setTimer(this.options.commitDelayMs ?? COMMIT_DELAY_MS, () => {
        this.commitTimer = undefined;
        this.startCommit();
      });
    }
  }

  /** Begins a commit unless one runs. Failures end in `fail`, want of space in another try; the promise never rejects. */
  private startCommit(): void {
    if (this.committing !== undefined || this.stopping || this.failure !== undefined) return;
    this.commitTimer?.cancel();
    this.commitTimer = undefined;
    this.committing = this.commitOnce()
      .catch((error: unknown) => {
        if (!(this.stopping && isNoSpace(error))) this.failCommit(error);
      })
      .finally(() => {
        this.committing = undefined;
        if (this.overlay.activeChanges > 0 && this.failure === undefined) this.scheduleCommit();
      });
  }

  private async commitAll(): Promise<void> {
    try {
      await this.commitOnce();
    } catch (error) {
      throw this.failCommit(error);
    }
  }

  private async commitOnce(): Promise<void> {
    // A caller may be within a range of the state, which must not lose its layers meanwhile.
    await Promise.resolve();
    const log = this.openLog();
    const checkpoint = log.lastSequence;
    if (this.overlay.activeChanges === 0) return log.cut(checkpoint);
    const changes = this.overlay.beginCommit();
    this.room?.resolve();
    this.room = undefined;
    await log.durable();
    let batch: StoreChange[] = [];
    for (const change of changes) {
      batch.push(change);
      if (batch.length < this.transactionChanges) continue;
      await this.commitBatch(batch);
      batch = [];
    }
    // With the last transaction the store is complete up to here.
    batch.push({ key: keys.meta('sequence'), value: packed(checkpoint) });
    await this.commitBatch(batch);
    this.overlay.endCommit();
    await log.cut(checkpoint);
  }

  private get transactionChanges(): number {
    const usual = this.options.transactionChanges ?? TRANSACTION_CHANGES;
    return this.space.isScarce ? Math.min(usual, SCARCE_TRANSACTION_CHANGES) : usual;
  }

  /**
   * One transaction, tried until there is space for it; a start and a stop do not wait for that. Each try writes all of it
   * anew, so that an error of an earlier one says nothing about what a later one has synced.
   */
  private async commitBatch(batch: readonly StoreChange[]): Promise<void> {
    for (let errors = 0; ;) {
      try {
        await this.options.store.commit(batch);
        return;
      } catch (error) {
        if (isNoSpace(error) && this.space.makeRoom()) continue;
        if (this.stopping || this.epoch === 0) throw error;
        if (!isNoSpace(error) && (asCairnError(error).code !== 'EIO' || ++errors >= MAX_COMMIT_ERRORS)) throw error;
        const { message } = asCairnError(error);
        this.options.logger.error({ error: message }, 'the metadata store did not take a transaction: trying again');
      }
      // Who waits for room would wait for somebody to free space.
      this.room?.reject(this.space.full());
      this.room = undefined;
      await this.space.pause();
      if (this.failure !== undefined) throw this.failure;
      if (this.stopping) throw this.space.full();
    }
  }

  private failCommit(cause: unknown): CairnError {
    if (this.failure !== undefined) return this.failure;
    const { code, message } = asCairnError(cause);
    const error = new CairnError(
      'UNAVAILABLE',
      `cannot commit to the metadata store (${code}: ${message}): the master stops; free space or mend the disk, then ` +
        `start it again`,
      { cause },
    );
    this.fail(error);
    return error;
  }

  /** Of the last record that may have been answered; undefined when the log was not read yet. */
  private get answered(): number | undefined {
    if (this.isServing) return this.lastSequence;
    return this.isReplayed ? this.startSequence : undefined;
  }

  private fail(error: CairnError): void {
    if (this.failure !== undefined) return;
    // What the log was told to write may not be there at the next start.
    this.notes.leave(this, this.epoch, this.answered);
    this.failure = error;
    this.commitTimer?.cancel();
    this.room?.reject(error);
    this.room = undefined;
    this.options.logger.error({ err: error.message }, 'the master cannot keep its promises any more');
    this.options.onFailure(error);
  }
}
