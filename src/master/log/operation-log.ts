/**
 * The operation log (GFS section 2.6.3): every change of the master's state, as records in segments. A record is
 * written, not synced, before its operation is answered: it survives kill -9. `durable` syncs, and its waiters share a
 * sync. Behind the checkpoint, which the store carries, segments are deleted.
 *
 * A full disk refuses the record that does not fit, and nothing else: what was written of it is cut off at once.
 *
 * Any other write or sync that fails is the end: what the disk holds is not known any more, and a later sync may report
 * success for pages that the kernel has dropped. The log then refuses everything and tells its owner, once.
 */
import type { DiskFile } from '../../core/disk/disk.js';
import { asCairnError, CairnError, hasCode, isNoSpace } from '../../core/errors.js';
import { KIB, LOG_SEGMENT_BYTES, SCARCE_SEGMENT_BYTES } from '../../core/limits.js';
import { Mutex, watched } from '../../core/sync.js';
import { RecordEncoder } from './log-record.js';
import { replaySegments } from './log-replay.js';
import type { ReplayOptions } from './log-replay.js';
import {
  createSegment,
  ensureDirectory,
  listSegments,
  MAX_APPEND_OFFSET_BYTES,
  SEGMENT_HEADER_BYTES,
  segmentPath,
} from './log-segment.js';
import type { Key, NewValue } from '../store/store.js';
import { invariant } from '../../core/invariant.js';

interface Segment {
  readonly number: number;
  readonly file: DiskFile;
  /** Where the next record goes. */
  end: number;
  /** Highest sequence in it; 0: none. */
  lastSequence: number;
}

export interface OperationLogOptions extends ReplayOptions {
  readonly segmentBytes?: number;
  /** Called when all records were replayed; what fails after that has lost none of them. */
  readonly onReplayed?: (lastSequence: number) => void;
  /** Called once, when the log can promise nothing any more. */
  readonly onFailure: (error: CairnError) => void;
  /** Called when the disk is full; true when that freed something, and trying again is worth while. */
  readonly makeRoom?: () => boolean;
  /** Space is scarce: segments shall be small, so that what is behind the checkpoint can be deleted. */
  readonly isScarce?: () => boolean;
}

const NO_ROOM = (): boolean => false;
/** After a segment could not be made for want of space, one is tried again when so much more was appended. */
const SPARE_RETRY_BYTES = 64 * KIB;

export class OperationLog {
  private readonly encoder = new RecordEncoder();
  /** Older segments, ascending, until the checkpoint is past them. */
  private readonly retired: Segment[] = [];
  /** Every segment with a record that is not synced, but the current one; ascending, or a sync would leave a hole. */
  private unsynced: Segment[] = [];
  /** The next segment, made ahead so that an append never waits for it. */
  private spare: Segment | undefined;
  private makingSpare: Promise<void> | undefined;
  /** Where the current segment has to end before a spare is tried again. */
  private spareAfter = 0;
  private flushed: number;
  private waitingFlush: Promise<void> | undefined;
  /** Syncs, deletions and the end, one after another. */
  private readonly mutex = new Mutex('master.log');
  private failure: CairnError | undefined;
  private closed = false;

  private constructor(
    private readonly options: OperationLogOptions,
    private current: Segment,
    private sequence: number,
  ) {
    this.flushed = sequence;
  }

  /** Replays what lies behind the checkpoint through `options.apply`, and makes the log ready for records after it. */
  static async open(options: OperationLogOptions): Promise<OperationLog> {
    const { disk, directory, checkpoint } = options;
    await ensureDirectory(disk, directory);
    const numbers = await listSegments(disk, directory);
    let sequence = checkpoint;
    const replayed = await replaySegments(
      {
        ...options,
        apply: (record) => {
          sequence = record.sequence;
          return options.apply(record);
        },
      },
      numbers,
    );
    options.onReplayed?.(sequence);
    // What a killed process had written but not synced is part of the state from now on.
    for (const { file } of replayed) await file.datasync('oplog.open');
    const number = (numbers.at(-1) ?? 0) + 1;
    const log = new OperationLog(options, await newSegment(options, number), sequence);
    for (const segment of replayed) log.retired.push({ ...segment, end: 0 });
    return log;
  }

  /** Of the last record. */
  get lastSequence(): number {
    return this.sequence;
  }

  /** Records up to this one are known to be on disk. */
  get flushedSequence(): number {
    return this.flushed;
  }

  /**
   * Appends one record; it survives kill -9 when this returns its sequence. ENOSPC when the disk is full and `makeRoom`
   * finds nothing to free: nothing of the record is left then.
   */
  append(epoch: number, changes: ReadonlyMap<Key, NewValue>, makeRoom = NO_ROOM): number {
    this.requireHealthy();
    if (this.closed) throw new CairnError('UNAVAILABLE', 'the master is stopping');
    const sequence = this.sequence + 1;
    const bytes = this.encoder.encode({ sequence, epoch, flushed: this.flushed }, changes);
    const segment = this.segmentFor();
    while (!this.write(segment, bytes)) if (!makeRoom()) throw this.full();
    segment.end += bytes.length;
    segment.lastSequence = sequence;
    this.sequence = sequence;
    return sequence;
  }

  /** Resolves when every record appended before survives power loss. */
  durable(): Promise<void> {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    if (this.flushed >= this.sequence) return RESOLVED;
    // A sync under way may have begun before the last record: wait for the next, with all who ask until it begins.
    this.waitingFlush ??= this.mutex.run(() => this.flush());
    return this.waitingFlush;
  }

  /** Deletes the segments that have only records up to `checkpoint`. */
  async cut(checkpoint: number): Promise<void> {
    await this.mutex.run(async () => {
      let first = this.retired[0];
      if (first === undefined || first.lastSequence > checkpoint) return;
      while (first !== undefined && first.lastSequence <= checkpoint) {
        this.retired.shift();
        this.unsynced = this.unsynced.filter((segment) => segment !== first);
        await first.file.close();
        await this.options.disk.unlink('oplog.delete', segmentPath(this.options.directory, first.number));
        first = this.retired[0];
      }
      await this.options.disk.syncDirectory('oplog.delete', this.options.directory);
    });
  }

  /** Syncs and closes. Nothing may be appended afterwards. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.makingSpare;
    await this.mutex.run(async () => {
      if (this.failure === undefined && this.flushed < this.sequence) await this.flush();
      for (const segment of [...this.retired, this.current]) await segment.file.close();
      if (this.spare !== undefined) await this.spare.file.close();
    });
  }

  /** False when the disk is full. */
  private write(segment: Segment, bytes: Uint8Array): boolean {
    try {
      segment.file.writeSync('oplog.append', bytes, segment.end);
      return true;
    } catch (error) {
      if (!isNoSpace(error)) throw this.fail('write', error);
    }
    try {
      // The next record may be shorter than what was written of this one.
      segment.file.truncateSync('oplog.append', segment.end);
    } catch (error) {
      throw this.fail('cut a torn record off', error);
    }
    return false;
  }

  private full(): CairnError {
    return new CairnError('ENOSPC', `the disk of the master is full: free space beside ${this.options.directory}`);
  }

  private async flush(): Promise<void> {
    this.waitingFlush = undefined;
    this.requireHealthy();
    const target = this.sequence;
    const segments = [...this.unsynced, this.current];
    try {
      // Older ones first, so that what is durable has no hole.
      for (const { file } of segments) await file.datasync('oplog.flush');
    } catch (error) {
      throw this.fail('sync', error);
    }
    this.requireHealthy();
    this.flushed = target;
    this.unsynced = this.unsynced.filter((segment) => !segments.includes(segment));
    if (segments.at(-1) !== this.current) {
      // The log went on in another segment during the sync, which may have missed the last records of this one.
      const rolled = segments.at(-1);
      if (rolled !== undefined && rolled.lastSequence > target) this.unsynced.unshift(rolled);
    }
    this.demandAscending();
  }

  /** The segment for the next record: another one when the current is full and the spare is there. */
  private segmentFor(): Segment {
    const { segmentBytes = LOG_SEGMENT_BYTES, isScarce } = this.options;
    const limit = isScarce?.() === true ? Math.min(segmentBytes, SCARCE_SEGMENT_BYTES) : segmentBytes;
    const wantsSpare = this.current.end >= Math.max(limit / 2, this.spareAfter);
    if (wantsSpare && this.spare === undefined && this.makingSpare === undefined)
      this.makingSpare = watched(this.makeSpare());
    if (this.current.end >= limit && this.spare !== undefined) {
      this.retired.push(this.current);
      if (!this.unsynced.includes(this.current)) this.unsynced.push(this.current);
      this.demandAscending();
      this.current = this.spare;
      this.spare = undefined;
      this.spareAfter = 0;
    }
    if (this.current.end >= MAX_APPEND_OFFSET_BYTES) throw this.full();
    return this.current;
  }

  private demandAscending(): void {
    const isAscending = this.unsynced.every(({ number }, at) => number > (this.unsynced[at - 1]?.number ?? 0));
    invariant(isAscending, 'segments that are not synced ascend');
  }

  private async makeSpare(): Promise<void> {
    try {
      this.spare = await newSegment(this.options, this.current.number + 1);
    } catch (error) {
      // So does a process or a system that has no file descriptor left.
      if (isNoSpace(error) || hasCode(error, 'EMFILE', 'ENOMEM'))
        this.spareAfter = this.current.end + SPARE_RETRY_BYTES;
      else this.fail('start a segment of', error);
    } finally {
      this.makingSpare = undefined;
    }
  }

  private requireHealthy(): void {
    if (this.failure !== undefined) throw this.failure;
  }

  private fail(what: string, cause: unknown): CairnError {
    if (this.failure !== undefined) return this.failure;
    const { code, message } = asCairnError(cause);
    this.failure = new CairnError(
      'UNAVAILABLE',
      `cannot ${what} the operation log in ${this.options.directory} (${code}: ${message}): the master stops; free space ` +
        `or mend the disk, then start it again`,
      { cause },
    );
    this.options.onFailure(this.failure);
    return this.failure;
  }
}

const RESOLVED = Promise.resolve();

async function newSegment(options: OperationLogOptions, number: number): Promise<Segment> {
  for (;;) {
    try {
      const file = await createSegment(options.disk, options.directory, number);
      return { number, file, end: SEGMENT_HEADER_BYTES, lastSequence: 0 };
    } catch (error) {
      if (!isNoSpace(error) || options.makeRoom?.() !== true) throw error;
    }
  }
}
