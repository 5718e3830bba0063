/**
 * Makes libfuse's `auto_cache` safe. With it the kernel's page cache of a file outlives an open when the file's mtime
 * and size are what they were at the open before. Both can be equal though the bytes differ: mtime has milliseconds here,
 * and `rsync -t` or `cp -p` on another mount set it back. And libfuse takes the pages for dropped as soon as it has answered
 * an open, while the kernel is only about to drop them: a second open would keep them. The `change` counter of the inode
 * cannot be wrong, but libfuse does not look at it. So when an open must drop pages, the one answer that it compares tells
 * another mtime: one that it has not been told before, as several opens may be on their way, in any order, and the answer of one
 * must not look like that of another, or like what a look-up told meanwhile.
 *
 * By path, as libfuse does it: each name of a file is an inode of its own to the kernel.
 */
import type { InodeId } from '../../core/ids.js';
import { LruMap } from '../../core/lru.js';
import type { Attributes } from '../../filesystem/filesystem.js';

interface Seen {
  readonly inode: InodeId;
  /** All pages that the kernel keeps are at least as new as this state of the file; undefined when that is not known. */
  pagesChange: number | undefined;
}

/** Told mtimes count up from 1970 on, where true ones are rare, and come again after weeks of opens. */
const TOLD_MTIMES = 2 ** 31;

export class PageCacheGuard {
  private readonly seen: LruMap<string, Seen>;
  /** Of a path that is not known here the kernel may have pages all the same. */
  private hasForgotten = false;
  private toldMs = 0;

  constructor(capacity: number) {
    this.seen = new LruMap<string, Seen>(capacity, () => {
      this.hasForgotten = true;
    });
  }

  /**
   * Call at each open. `drops`: the kernel drops its pages with it, or has none. `tellMs`: the mtime to tell so that it does;
   * undefined for the true one.
   */
  opened(
    path: string,
    { inode, change }: Attributes,
    mtimeMs: number,
  ): { readonly drops: boolean; readonly tellMs: number | undefined } {
    const before = this.seen.peek(path);
    const pagesChange = before?.inode === inode ? before.pagesChange : undefined;
    this.seen.set(path, { inode, pagesChange });
    const drops = pagesChange !== change;
    const hasPages = before !== undefined || this.hasForgotten;
    if (!drops || !hasPages) return { drops, tellMs: undefined };
    do this.toldMs = (this.toldMs % TOLD_MTIMES) + 1;
    while (this.toldMs === mtimeMs);
    return { drops, tellMs: this.toldMs };
  }

  /** A program uses a file that was opened by the path in the state of `change`: the pages from before that are gone. */
  dropped(path: string, inode: InodeId, change: number): void {
    const seen = this.seen.peek(path);
    if (seen?.inode === inode) seen.pagesChange = Math.max(change, seen.pagesChange ?? 0);
  }

  /** What the kernel keeps of a file moves along; and of those in a directory, which are known here by other paths. */
  renamed(from: string, to: string): void {
    this.hasForgotten = true;
    const seen = this.seen.peek(from);
    this.seen.delete(from);
    if (seen === undefined) this.seen.delete(to);
    else this.seen.set(to, seen);
  }
}
