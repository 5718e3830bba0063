/**
 * Makes libfuse's `auto_cache` safe. With it the kernel's page cache of a file outlives an open when the file's mtime
 * and size are what they were at the open before. Both can be equal though the bytes differ: mtime has milliseconds here,
 * and `rsync -t` or `cp -p` on another mount set it back. And libfuse takes the pages for dropped as soon as it has answered
 * an open, while the kernel is only about to drop them: a second open would keep them. The `change` counter of the inode
 * cannot be wrong, but libfuse does not look at it. So an open that must drop pages has the one answer that libfuse
 * compares tell another mtime than the answer before.
 */
import type { InodeId } from '../core/ids.js';
import { LruMap } from '../client/lru.js';
import type { Attributes } from '../client/filesystem.js';

interface Seen {
  /** All pages that the kernel keeps are at least as new as this state of the file; undefined when that is not known. */
  pagesChange: number | undefined;
  /** What libfuse was told at the last open. */
  toldMs: number | undefined;
}

export class PageCacheGuard {
  private readonly seen: LruMap<InodeId, Seen>;
  private hasForgotten = false;

  constructor(capacity: number) {
    this.seen = new LruMap<InodeId, Seen>(capacity, () => {
      this.hasForgotten = true;
    });
  }

  /** Call at each open. True when the kernel must drop its pages with it. */
  mustDrop({ inode, change }: Attributes): boolean {
    return this.seenOf(inode).pagesChange !== change;
  }

  /** The mtime for libfuse, in the answer that it compares, of an open that found the file as it is in `attributes`. */
  mtimeFor({ inode }: Attributes, mtimeMs: number, drops: boolean): number {
    const seen = this.seenOf(inode);
    // What is forgotten here was told one of the other two.
    if (drops && seen.toldMs === undefined && this.hasForgotten) seen.toldMs = mtimeMs + 2;
    else seen.toldMs = drops && seen.toldMs === mtimeMs ? mtimeMs + 1 : mtimeMs;
    return seen.toldMs;
  }

  /** A program uses a file that was opened in the state of `change`: the pages from before that are gone. */
  dropped(inode: InodeId, change: number): void {
    const seen = this.seenOf(inode);
    seen.pagesChange = Math.max(change, seen.pagesChange ?? 0);
  }

  private seenOf(inode: InodeId): Seen {
    let seen = this.seen.peek(inode);
    if (seen === undefined) this.seen.set(inode, (seen = { pagesChange: undefined, toldMs: undefined }));
    return seen;
  }
}
