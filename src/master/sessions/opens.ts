/** Counts of opens by inode. */
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';

export interface OpenCounts {
  readonly readers: number;
  readonly writers: number;
}

export class Opens {
  private readonly counts = new Map<InodeId, OpenCounts>();

  constructor(private readonly maxInodes: number) {}

  has(inode: InodeId): boolean {
    return this.counts.has(inode);
  }

  writers(inode: InodeId): number {
    return this.counts.get(inode)?.writers ?? 0;
  }

  add(inode: InodeId, { readers, writers }: OpenCounts): void {
    if (readers + writers === 0) return;
    const before = this.counts.get(inode);
    if (before === undefined && this.counts.size >= this.maxInodes) {
      throw new CairnError('EMFILE', `the session has ${this.maxInodes} files open already`);
    }
    this.counts.set(inode, {
      readers: (before?.readers ?? 0) + readers,
      writers: (before?.writers ?? 0) + writers,
    });
  }

  /** Takes at most what is there away, and returns how much that was. */
  remove(inode: InodeId, { readers, writers }: OpenCounts): OpenCounts {
    const before = this.counts.get(inode) ?? { readers: 0, writers: 0 };
    const removed = { readers: Math.min(readers, before.readers), writers: Math.min(writers, before.writers) };
    const left = { readers: before.readers - removed.readers, writers: before.writers - removed.writers };
    if (left.readers + left.writers === 0) this.counts.delete(inode);
    else this.counts.set(inode, left);
    return removed;
  }

  entries(): Iterable<[InodeId, OpenCounts]> {
    return this.counts.entries();
  }

  clear(): void {
    this.counts.clear();
  }
}
