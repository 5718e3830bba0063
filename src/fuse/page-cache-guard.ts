/**
 * Makes libfuse's `auto_cache` safe. With it the kernel's page cache of a file outlives an open when the file's mtime
 * and size are what they were. Both can be equal though the bytes differ: mtime has milliseconds here, and `rsync -t`
 * or `cp -p` on another mount set it back. The `change` counter of the inode cannot, but libfuse does not look at it. So
 * when only `change` differs since the last open, the one answer that libfuse compares tells another mtime.
 */
import type { InodeId } from '../core/ids.js';
import { LruMap } from '../client/lru.js';
import type { Attributes } from '../client/filesystem.js';

interface Seen {
  readonly change: number;
  readonly mtimeMs: number;
  readonly size: number;
}

export class PageCacheGuard {
  private readonly seen: LruMap<InodeId, Seen>;
  private hasForgotten = false;

  constructor(capacity: number) {
    this.seen = new LruMap<InodeId, Seen>(capacity, () => {
      this.hasForgotten = true;
    });
  }

  /** Call at each open. True when cached pages may be old although mtime and size say otherwise. */
  mustDrop(attributes: Attributes, mtimeMs: number): boolean {
    const before = this.seen.peek(attributes.inode);
    this.seen.set(attributes.inode, { change: attributes.change, mtimeMs, size: attributes.size });
    // A file that was opened so long ago that it is forgotten here may still have pages in the kernel.
    if (before === undefined) return this.hasForgotten;
    return before.change !== attributes.change && before.mtimeMs === mtimeMs && before.size === attributes.size;
  }
}
