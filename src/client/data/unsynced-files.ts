/**
 * Chunks that this client wrote and closed without an fsync, so that a later fsync through any handle covers them (P1):
 * programs write many files, close them, and sync them afterwards. Bounded; once something had to be forgotten, a file
 * that is not known here may be among it, and all its chunks are synced. With each chunk goes the mark of a write
 * (chunk-io.ts); undefined when that is not known.
 */
import type { InodeId } from '../../core/ids.js';
import { MAX_UNSYNCED_FILES } from '../../core/limits.js';
import { joinedMarks, LOST_MARK } from '../chunks/chunk-io.js';
import type { WriteMark } from '../chunks/chunk-io.js';
import { LruMap } from '../../core/lru.js';

/** Chunks by their indexes. */
export type UnsyncedChunks = ReadonlyMap<number, WriteMark | undefined>;

export class UnsyncedFiles {
  private hasForgotten = false;
  private readonly files = new LruMap<InodeId, UnsyncedChunks>(MAX_UNSYNCED_FILES, () => {
    this.hasForgotten = true;
  });

  /** The last handle of the inode was closed with these chunks unsynced. */
  put(inode: InodeId, chunks: UnsyncedChunks): void {
    if (chunks.size === 0) return;
    const all = new Map(chunks);
    for (const [index, mark] of this.files.peek(inode) ?? []) all.set(index, joinedMarks(mark, all.get(index)));
    this.files.set(inode, all);
  }

  /** What a sync of the inode must cover; undefined when that was forgotten: everything. */
  get(inode: InodeId): UnsyncedChunks | undefined {
    return this.files.peek(inode) ?? (this.hasForgotten ? undefined : NONE);
  }

  /** These were synced, unless more came since they were got. */
  done(inode: InodeId, chunks: UnsyncedChunks): void {
    if (this.files.peek(inode) === chunks) this.files.delete(inode);
  }

  /**
   * That some of these were lost is told: nothing is to be compared any more, but the master may have to be told of them.
   * Returns what is left of `chunks`.
   */
  lossTold(inode: InodeId, chunks: UnsyncedChunks, lost: ReadonlySet<number>): UnsyncedChunks {
    if (this.files.peek(inode) !== chunks) return chunks;
    const left = new Map([...chunks].map(([index, mark]) => [index, lost.has(index) ? undefined : mark]));
    this.files.set(inode, left);
    return left;
  }

  /** The master lost what it was told of these files, their sizes among it. */
  operationsLost(): void {
    for (const [inode, chunks] of [...this.files.entries()]) {
      this.files.set(inode, new Map([...chunks.keys()].map((index) => [index, LOST_MARK])));
    }
  }

  /** Chunks from `firstIndex` on are gone. */
  cut(inode: InodeId, firstIndex: number): void {
    const chunks = this.files.peek(inode);
    if (chunks === undefined) return;
    const left = new Map([...chunks].filter(([index]) => index < firstIndex));
    if (left.size === 0) this.files.delete(inode);
    else if (left.size < chunks.size) this.files.set(inode, left);
  }
}

const NONE: UnsyncedChunks = new Map();
