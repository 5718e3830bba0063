/**
 * Inodes that this client has changed at the master, by changes that nobody makes again when the master has lost them with its
 * power: attributes, the sizes and holes of files, the entries of directories. An fsync of the file, also through a handle that was
 * opened afterwards, or of the directory tells of that (P1): programs sync the one directory that they have changed.
 */
import type { InodeId } from '../../core/ids.js';
import { MAX_UNSYNCED_FILES } from '../../core/limits.js';
import { LruMap } from '../../core/lru.js';

export class ChangedInodes {
  /** By how many changes of the client had been answered with the last one of the inode. */
  private readonly changed = new LruMap<InodeId, number>(MAX_UNSYNCED_FILES);
  private readonly lost = new LruMap<InodeId, true>(MAX_UNSYNCED_FILES);

  /** A change of the inode was answered. `changes`: of all inodes, so far. */
  note(inode: InodeId, changes: number): void {
    this.changed.set(inode, changes);
  }

  /** The master lost power. The first `kept` changes had been synced. */
  operationsLost(kept: number): void {
    for (const [inode, changes] of this.changed.entries()) if (changes > kept) this.lost.set(inode, true);
    this.changed.clear();
  }

  /** Whether a change of the inode may be lost, of which no fsync has told. This one does. */
  tell(inode: InodeId): boolean {
    const isLost = this.lost.peek(inode) === true;
    this.lost.delete(inode);
    return isLost;
  }
}
