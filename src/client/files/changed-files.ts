/**
 * Files whose attributes, sizes or holes this client has changed, by changes that nobody makes again when the master has lost them
 * with its power: an fsync of the file tells of that, also through a handle that was opened afterwards (P1).
 */
import type { InodeId } from '../../core/ids.js';
import { MAX_UNSYNCED_FILES } from '../../core/limits.js';
import { LruMap } from '../../core/lru.js';

export class ChangedFiles {
  /** By how many changes of the client had been answered with the last one of the file. */
  private readonly changed = new LruMap<InodeId, number>(MAX_UNSYNCED_FILES);
  private readonly lost = new LruMap<InodeId, true>(MAX_UNSYNCED_FILES);

  /** A change of the file was answered. `changes`: of all files, so far. */
  note(inode: InodeId, changes: number): void {
    this.changed.set(inode, changes);
  }

  /** The master lost power. The first `kept` changes had been synced. */
  operationsLost(kept: number): void {
    for (const [inode, changes] of this.changed.entries()) if (changes > kept) this.lost.set(inode, true);
    this.changed.clear();
  }

  /** Whether a change of the file may be lost, of which no fsync has told. This one does. */
  tell(inode: InodeId): boolean {
    const isLost = this.lost.peek(inode) === true;
    this.lost.delete(inode);
    return isLost;
  }
}
