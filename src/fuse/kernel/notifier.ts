/**
 * What the kernel is told without having asked: that what it keeps of a file is old.
 *
 * It then waits for reads of that file that are on their way, which this process must answer: so the message is sent by
 * another thread, one at a time, and whoever needs the effect awaits it.
 */
import { Mutex } from '../../core/sync.js';
import type { FuseDevice } from './device.js';
import { invalidateInode, notificationHeader } from './encode.js';
import { NOTIFY_INVAL_INODE } from './protocol.js';

export class Notifier {
  private readonly turns = new Mutex();

  constructor(
    private readonly device: FuseDevice,
    /** Nobody is there to be told any more. */
    private readonly isClosed: () => boolean,
  ) {}

  /** Drops the attributes of a file, at once: that waits for nothing. */
  dropAttributes(nodeid: number): void {
    const body = invalidateInode(nodeid, -1);
    if (this.isClosed()) return;
    try {
      this.device.send([notificationHeader(NOTIFY_INVAL_INODE, body.length), body]);
    } catch (error) {
      throwUnlessGone(error);
    }
  }

  /** Drops pages of a file, by default all (`length` 0: to its end), and its attributes. */
  async dropPages(nodeid: number, offset = 0, length = 0): Promise<void> {
    const body = invalidateInode(nodeid, offset, length);
    await this.turns.run(async () => {
      if (this.isClosed()) return;
      try {
        await this.device.sendInThread([notificationHeader(NOTIFY_INVAL_INODE, body.length), body]);
      } catch (error) {
        throwUnlessGone(error);
      }
    });
  }
}

/** ENOENT: the kernel does not know the inode any more. ENODEV: it has unmounted. */
function throwUnlessGone(error: unknown): void {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code !== 'ENOENT' && code !== 'ENODEV') throw error;
}
