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
import type { Recalls } from './recalls.js';

export class UnpublishedWrites {
  private readonly left = new Set<InodeId>();

  constructor(
    private readonly state: State,
    private readonly recalls: Pick<Recalls, 'mutate' | 'recallSoon'>,
  ) {}

  /** A client that may have written the file is gone. */
  note(inode: InodeId): void {
    this.left.add(inode);
  }

  /**
   * Tells of these now, as somebody else comes next; those who hold the files are recalled before. Rejects when the log has no room for
   * it: then `tick` does it later.
   */
  async tell(inodes: Iterable<InodeId>): Promise<void> {
    for (const inode of inodes) this.left.add(inode);
    while (await this.tick());
  }

  /**
   * As `tell`, for where nobody can wait until the log has room, nor until others were recalled: who hold the files learn of it a moment
   * later than others may.
   */
  tellIfRoom(inodes: Iterable<InodeId>): void {
    for (const inode of inodes) this.left.add(inode);
    let some = this.some();
    while (some.length > 0 && this.state.mutateIfRoom((m) => raiseChanges(m, some))) {
      this.recalls.recallSoon(some);
      for (const inode of some) this.left.delete(inode);
      some = this.some();
    }
  }

  /** One bounded step. Returns true when more is to be done at once. */
  async tick(): Promise<boolean> {
    const some = this.some();
    if (some.length === 0) return false;
    // One that is noted meanwhile is told of again.
    for (const inode of some) this.left.delete(inode);
    try {
      await this.recalls.mutate((m) => raiseChanges(m, some));
    } catch (error) {
      for (const inode of some) this.left.add(inode);
      throw error;
    }
    return this.left.size > 0;
  }

  private some(): InodeId[] {
    const some: InodeId[] = [];
    for (const inode of this.left) {
      if (some.length === MAX_UNPUBLISHED_SLICE) break;
      some.push(inode);
    }
    return some;
  }
}

function raiseChanges(m: Mutation, inodes: readonly InodeId[]): void {
  for (const inode of inodes) {
    const record = readInode(m, inode);
    if (record !== undefined && isRegular(record.mode)) saveInode(m, inode, record);
  }
}
