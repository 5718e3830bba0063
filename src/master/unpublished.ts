/**
 * Files that a client wrote and did not tell of, because it is gone. Some of its bytes are on the chunkservers, and other
 * clients may have kept what was there before: the change attribute grows, so that who opens the file, or is granted a
 * lock on it, looks anew, and all see one content (P2).
 */
import type { InodeId } from '../core/ids.js';
import { isRegular } from '../core/mode.js';
import { readInode, saveInode } from './inodes.js';
import type { State } from './state.js';

/** Files in one record of the log. */
const SLICE = 256;

export class UnpublishedWrites {
  private readonly left = new Set<InodeId>();

  constructor(private readonly state: State) {}

  /** A client that may have written the file is gone. */
  note(inode: InodeId): void {
    this.left.add(inode);
  }

  /** Tells of these now, as somebody else comes next: where that fails, `tick` does. */
  tell(inodes: Iterable<InodeId>): void {
    for (const inode of inodes) this.left.add(inode);
    while (this.tick());
  }

  /** One bounded step. Returns true when more is to be done at once. */
  tick(): boolean {
    const some: InodeId[] = [];
    for (const inode of this.left) {
      if (some.length === SLICE) break;
      some.push(inode);
    }
    if (some.length === 0) return false;
    this.state.mutate((m) => {
      for (const inode of some) {
        const record = readInode(m, inode);
        if (record !== undefined && isRegular(record.mode)) saveInode(m, inode, record);
      }
    });
    for (const inode of some) this.left.delete(inode);
    return this.left.size > 0;
  }
}
