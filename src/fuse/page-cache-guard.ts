/**
 * Makes libfuse's `auto_cache` safe. With it the kernel's page cache of a file outlives an open when the file's mtime
 * and size are what they were. Both can be equal though the bytes differ: mtime has milliseconds here, and `rsync -t`
 * or `cp -p` on another mount set it back. The `change` counter of the inode cannot, but libfuse does not look at it. So
 * when only `change` differs since the last open, the one answer that libfuse compares tells another mtime.
 */
import type { InodeId } from '../core/ids.js';
import type { Attributes } from '../client/filesystem.js';

interface Seen {
  readonly change: number;
  readonly mtimeMs: number;
  readonly size: number;
}

export class PageCacheGuard {
  /** In the order of use; the least recently used is dropped. */
  private readonly seen = new Map<InodeId, Seen>();

  constructor(private readonly capacity: number) {}

  /** Call at each open. True when cached pages may be old although mtime and size say otherwise. */
  mustDrop(attributes: Attributes, mtimeMs: number): boolean {
    const before = this.seen.get(attributes.inode);
    this.seen.delete(attributes.inode);
    this.seen.set(attributes.inode, { change: attributes.change, mtimeMs, size: attributes.size });
    if (this.seen.size > this.capacity) {
      const oldest = this.seen.keys().next();
      if (oldest.done !== true) this.seen.delete(oldest.value);
    }
    // A file that was opened so long ago that it is forgotten here may still have pages in the kernel.
    if (before === undefined) return this.seen.size >= this.capacity;
    return before.change !== attributes.change && before.mtimeMs === mtimeMs && before.size === attributes.size;
  }
}
