/**
 * Makes the kernel know that a file has grown elsewhere (P2), for who opened it or was granted a lock. Before most calls it
 * asks for the size, but sendfile(2), splice(2) and copy_file_range(2) end where it remembers the end, and RWF_APPEND writes there.
 *
 * It takes no size unasked but with bytes: so it is given the last one. As somebody here may write that meanwhile, the page is
 * dropped again.
 */
import type { Clock } from '../../../core/clock.js';
import { doneBy } from '../../../core/done-by.js';
import type { InodeId } from '../../../core/ids.js';
import { SIZE_REFRESH_MS } from '../../../core/limits.js';
import type { Attributes } from '../../../filesystem/filesystem.js';
import type { NodeTable } from './node-table.js';
import type { Notifier } from './notifier.js';

export class SizeRefresh {
  constructor(
    private readonly clock: Clock,
    private readonly nodes: NodeTable,
    private readonly notifier: Pick<Notifier, 'dropPages' | 'dropRange' | 'storeBytes'>,
    /** A byte of a file; none at its end. */
    private readonly byteAt: (inode: InodeId, offset: number) => Promise<Buffer>,
    /** The kernel goes on by the size that it knows. */
    private readonly failed: (inode: InodeId, error: unknown) => void,
  ) {}

  /** For a thread that waits for it. Resolves when the kernel knows that the file has at least `size` bytes, or cannot be told. */
  async run({ inode, size }: Attributes, thread: number): Promise<void> {
    if (!this.nodes.mayKnowLess(inode, size, thread)) return;
    const { clock } = this;
    try {
      await doneBy(clock, clock.monotonicMs() + SIZE_REFRESH_MS, 'its last byte', this.tell(inode, size, thread));
    } catch (error) {
      this.failed(inode, error);
    }
  }

  private async tell(inode: InodeId, size: number, thread: number): Promise<void> {
    const { nodes, notifier } = this;
    const nodeid = nodes.nodeidOf(inode);
    const last = size - 1;
    // What mappings changed is written first, while the kernel ends it at the old end: past that its page has zeros.
    await notifier.dropPages(nodeid);
    const byte = await this.byteAt(inode, last);
    if (byte.length === 0) return;
    await notifier.storeBytes(nodeid, last, byte);
    nodes.knowsAtLeast(inode, size, thread);
    await notifier.dropRange(nodeid, last, byte.length);
    nodes.attributesDropped(inode, thread);
  }
}
