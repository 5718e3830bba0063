/**
 * Chunks of one inode that were written since they were last synced, each with the mark (chunk-io.ts) of the first of these
 * writes that succeeded: by it a sync finds out whether something was lost in between (P1).
 */
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES } from '../../core/limits.js';
import { isKept, joinedMarks } from '../chunks/chunk-io.js';
import type { ChunkWrites, SyncedChunk, WriteMark } from '../chunks/chunk-io.js';
import type { UnsyncedChunks } from './unsynced-files.js';
import type { WriteFailures } from './write-failures.js';

const NONE: UnsyncedChunks = new Map();

/** P1: power failed at every replica between a write and its sync. */
export function lostBeforeSync(inode: InodeId): CairnError {
  return new CairnError('EIO', `inode ${inode}: bytes written before may have been lost in a power failure`);
}

export class WrittenChunks {
  private readonly chunks = new Map<number, WriteMark | undefined>();
  /** Of the sync that is under way. */
  private taken: UnsyncedChunks = NONE;

  constructor(
    private readonly inode: InodeId,
    private readonly io: Pick<ChunkWrites, 'syncChunk'>,
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
    this.chunks.set(index, joinedMarks(this.chunks.get(index), mark));
  }

  /** For a sync that begins now: what it must cover. One at a time. */
  take(): Map<number, WriteMark | undefined> {
    const marks = new Map(this.chunks);
    this.chunks.clear();
    this.taken = marks;
    return marks;
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
      if (!isCut) this.chunks.set(index, joinedMarks(mark, this.chunks.get(index)));
    }
  }

  /**
   * Syncs what was taken. Returns the chunks that the master takes for unsynced. What is found to be lost is told once: it
   * has no mark any more.
   */
  async sync(marks: Map<number, WriteMark | undefined>, deadlineMs: number): Promise<SyncedChunk[]> {
    const { inode } = this;
    const chunks = [...marks];
    const results = await Promise.allSettled(chunks.map(([index]) => this.io.syncChunk(inode, index, deadlineMs)));
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
      if (index >= firstIndex && index < firstIndex + count) this.chunks.delete(index);
    }
  }

  /** The file ends at `size` now. */
  cut(size: number): void {
    for (const index of this.chunks.keys()) {
      if (index * CHUNK_SIZE_BYTES >= size) this.chunks.delete(index);
    }
  }
}
