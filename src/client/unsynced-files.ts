/**
 * Chunks that this client wrote and closed without an fsync, so that a later fsync through any handle covers them (P1):
 * programs write many files, close them, and sync them afterwards. Bounded; once something had to be forgotten, a file
 * that is not known here may be among it, and all its chunks are synced.
 */
import type { InodeId } from '../core/ids.js';
import { MAX_UNSYNCED_FILES } from '../core/limits.js';
import { LruMap } from './lru.js';

export class UnsyncedFiles {
  private hasForgotten = false;
  private readonly files = new LruMap<InodeId, ReadonlySet<number>>(MAX_UNSYNCED_FILES, () => {
    this.hasForgotten = true;
  });

  /** The last handle of the inode was closed with these chunk indexes unsynced. */
  put(inode: InodeId, indexes: ReadonlySet<number>): void {
    if (indexes.size > 0) this.files.set(inode, new Set([...indexes, ...(this.files.peek(inode) ?? [])]));
  }

  /** What a sync of the inode must cover; undefined when that was forgotten: everything. */
  get(inode: InodeId): ReadonlySet<number> | undefined {
    return this.files.peek(inode) ?? (this.hasForgotten ? undefined : NONE);
  }

  /** These were synced, unless more came since they were got. */
  done(inode: InodeId, indexes: ReadonlySet<number>): void {
    if (this.files.peek(inode) === indexes) this.files.delete(inode);
  }

  /** Chunks from `firstIndex` on are gone. */
  cut(inode: InodeId, firstIndex: number): void {
    const indexes = this.files.peek(inode);
    if (indexes === undefined) return;
    const left = new Set([...indexes].filter((index) => index < firstIndex));
    if (left.size === 0) this.files.delete(inode);
    else if (left.size < indexes.size) this.files.set(inode, left);
  }
}

const NONE: ReadonlySet<number> = new Set();
