/**
 * Files that a client wrote and did not tell of, because it is gone. Some of its bytes are on the chunkservers, and other
 * clients may have kept what was there before: the change attribute grows, so that who opens the file, or is granted a
 * lock on it, looks anew, and all see one content (P2).
 */
import { MAX_UNPUBLISHED_SLICE } from '../../core/limits.js';
import type { InodeId } from '../../core/ids.js';
import { isRegular } from '../../core/mode.js';
import { readInode, saveInode } from '../tables/inodes.js';
import type { Mutation, State } from '../state/state.js';

export class UnpublishedWrites {
  private readonly left = new Set<InodeId>();

  constructor(private readonly state: State) {}

  /** A client that may have written the file is gone. */
  note(inode: InodeId): void {
    this.left.add(inode);
  }

  /** Tells of these now, as somebody else comes next. Throws when the log has no room for it: then `tick` does it later. */
  tell(inodes: Iterable<InodeId>): void {
    for (const inode of inodes) this.left.add(inode);
    while (this.tick());
  }

  /** As `tell`, for where nobody can wait until the log has room. */
  tellIfRoom(inodes: Iterable<InodeId>): void {
    for (const inode of inodes) this.left.add(inode);
    let some = this.some();
    while (some.length > 0 && this.state.mutateIfRoom((m) => raiseChanges(m, some))) some = this.next(some);
  }

  /** One bounded step. Returns true when more is to be done at once. */
  tick(): boolean {
    const some = this.some();
    if (some.length === 0) return false;
    this.state.mutate((m) => raiseChanges(m, some));
    return this.next(some).length > 0;
  }

  private some(): InodeId[] {
    const some: InodeId[] = [];
    for (const inode of this.left) {
      if (some.length === MAX_UNPUBLISHED_SLICE) break;
      some.push(inode);
    }
    return some;
  }

  /** Those that follow when these are told of. */
  private next(told: readonly InodeId[]): InodeId[] {
    for (const inode of told) this.left.delete(inode);
    return this.some();
  }
}

function raiseChanges(m: Mutation, inodes: readonly InodeId[]): void {
  for (const inode of inodes) {
    const record = readInode(m, inode);
    if (record !== undefined && isRegular(record.mode)) saveInode(m, inode, record);
  }
}
