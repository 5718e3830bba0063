/**
 * Pages that the kernel must not keep: of files of which bytes were given up, or that were open for writing when the session was
 * lost, and locks with it. The kernel writes what mappings changed before it drops a page. After a loss of locks that is refused,
 * and who maps the file is told by msync or fsync: it may have been changed under a lock that others hold by now (P7).
 */
import { CairnError } from '../../../core/errors.js';
import type { InodeId } from '../../../core/ids.js';

interface Drop {
  /** More was lost since the kernel was told. */
  again: boolean;
  withLocks: boolean;
}

export class LostPages {
  private readonly drops = new Map<InodeId, Drop>();

  constructor(
    private readonly dropPages: (inode: InodeId) => Promise<void>,
    /** The kernel could not be told: resolves when it is time to try again. */
    private readonly failed: (inode: InodeId, error: unknown) => Promise<void>,
  ) {}

  /** Resolves when the kernel has none of them any more. */
  async drop(inode: InodeId, withLocks: boolean): Promise<void> {
    const known = this.drops.get(inode);
    if (known !== undefined) {
      known.again = true;
      known.withLocks ||= withLocks;
      return;
    }
    const drop: Drop = { again: false, withLocks };
    this.drops.set(inode, drop);
    do {
      drop.again = false;
      try {
        await this.dropPages(inode);
      } catch (error) {
        // What it has it may write any time: that is refused until it has let go.
        drop.again = true;
        await this.failed(inode, error);
      }
    } while (drop.again);
    this.drops.delete(inode);
  }

  /** Before what a mapping changed is written. */
  requireKept(inode: InodeId): void {
    if (this.drops.get(inode)?.withLocks !== true) return;
    throw new CairnError(
      'EIO',
      `inode ${inode}: locks were lost with the session: what was mapped then is not written`,
    );
  }
}
