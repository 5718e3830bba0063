/**
 * Chunks of one inode that were written since they were last synced, each with the mark (chunk-io.ts) of the first of these
 * writes that succeeded: by it a sync finds out whether something was lost in between (P1).
 */
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES } from '../../core/limits.js';
import { isKept, joinedMarks } from '../chunks/chunk-io.js';
import type { ChunkWrites, Serial, SyncAhead, SyncedChunk, SyncMark, WriteMark } from '../chunks/chunk-io.js';
import type { UnsyncedChunks } from './unsynced-files.js';
import type { WriteFailures } from './write-failures.js';

const NONE: UnsyncedChunks = new Map();

/** P1: power failed at every replica between a write and its sync. */
export function lostBeforeSync(inode: InodeId): CairnError {
  return new CairnError('EIO', `inode ${inode}: bytes written before may have been lost in a power failure`);
}

/** What a sync must cover: by index, the mark to compare with, and the serial of the last write if that says all. */
export interface TakenChunks {
  readonly marks: Map<number, WriteMark | undefined>;
  readonly serials: ReadonlyMap<number, Serial | undefined>;
}

function laterOf(one: Serial | undefined, other: Serial | undefined): Serial | undefined {
  if (one === undefined || other === undefined || one.leaseId !== other.leaseId) return undefined;
  return one.serial > other.serial ? one : other;
}

const covers = (sync: Serial | undefined, write: Serial | undefined): boolean =>
  sync !== undefined && write !== undefined && sync.leaseId === write.leaseId && sync.serial >= write.serial;

export class WrittenChunks {
  private readonly chunks = new Map<number, WriteMark | undefined>();
  /** Of the last write to each, under a lease that was that of all since the last sync; undefined when there were others. */
  private readonly serials = new Map<number, Serial | undefined>();
  /** Of the sync that is under way. */
  private taken: UnsyncedChunks = NONE;

  constructor(
    private readonly inode: InodeId,
    private readonly io: Pick<ChunkWrites, 'syncChunk' | 'generation'>,
    private readonly failures: WriteFailures,
  ) {}

  /** Those that a sync has yet to make durable; of one that is under way, all. */
  get unsynced(): UnsyncedChunks {
    const all = new Map(this.chunks);
    for (const [index, mark] of this.taken) all.set(index, joinedMarks(mark, all.get(index)));
    return all;
  }

  /** A write of a chunk succeeded. */
  note(index: number, mark: WriteMark): void {
    const isFirst = !this.chunks.has(index);
    this.serials.set(index, isFirst ? mark.serial : laterOf(this.serials.get(index), mark.serial));
    this.chunks.set(index, joinedMarks(this.chunks.get(index), mark));
  }

  /** For a sync that begins now: what it must cover. One at a time. */
  take(): TakenChunks {
    const marks = new Map(this.chunks);
    const serials = new Map(this.serials);
    this.chunks.clear();
    this.serials.clear();
    this.taken = marks;
    return { marks, serials };
  }

  /** They are durable. */
  done(): void {
    this.taken = NONE;
  }

  /** The sync of these counts for nothing: they are to be synced again, but for those past `size`. */
  putBack(marks: UnsyncedChunks, size: number): void {
    this.taken = NONE;
    for (const [index, mark] of marks) {
      const isCut = index * CHUNK_SIZE_BYTES >= size;
      if (isCut) continue;
      this.serials.set(index, undefined);
      this.chunks.set(index, joinedMarks(mark, this.chunks.get(index)));
    }
  }

  /**
   * Syncs what was taken; `ahead`: syncs that are under way, which may cover it. Returns the chunks that the master takes for unsynced. What is found to be lost is told once: it
   * has no mark any more.
   */
  async sync(
    { marks, serials }: TakenChunks,
    ahead: ReadonlyMap<number, SyncAhead>,
    deadlineMs: number,
  ): Promise<SyncedChunk[]> {
    const { inode, io } = this;
    const chunks = [...marks];
    const syncOne = async ([index]: (typeof chunks)[number]): Promise<SyncMark> => {
      const mark = await ahead.get(index)?.mark;
      // After a loss at the master the chunk may be another one: a sync finds out.
      const isCovered = mark?.generation === io.generation && covers(mark.serial, serials.get(index));
      return isCovered ? mark : io.syncChunk(inode, index, deadlineMs);
    };
    const results = await Promise.allSettled(chunks.map(syncOne));
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
    if (isLost) this.failures.add(lostBeforeSync(inode));
    if (failed !== undefined) throw failed.reason;
    return synced;
  }

  /** These chunks are holes now: there is nothing to make durable. */
  forget(firstIndex: number, count: number): void {
    for (const index of this.chunks.keys()) {
      if (index >= firstIndex && index < firstIndex + count) this.drop(index);
    }
  }

  /** The file ends at `size` now. */
  cut(size: number): void {
    for (const index of this.chunks.keys()) {
      if (index * CHUNK_SIZE_BYTES >= size) this.drop(index);
    }
  }

  private drop(index: number): void {
    this.chunks.delete(index);
    this.serials.delete(index);
  }
}
