/**
 * Locks of clients that went without a word. Such a client may only be slow: what it wrote under a lock may still be on its way
 * to the chunkservers, or in its memory, and it does not know that the lock is gone. So before its locks go to others, the
 * leases of the chunks of all files that it had open for writing end (as a lock on one file often stands for another):
 * what it sends under them is refused, and for new ones it must ask here, where it is told that its session is over. That is durable
 * by then, or a loss of power would give it the session, and the locks, back.
 *
 * After a restart of the master nobody knows what the clients had locked that did not come back. But nobody renews their leases
 * either, so those have run out at the chunkservers by the time that locks are granted again.
 */
import { MAX_LOST_LOCK_FENCES } from '../../core/limits.js';
import { asCairnError, type CairnError } from '../../core/errors.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { Semaphore, unawaited } from '../../core/sync.js';
import type { LockTable } from './locks.js';

interface Leaving {
  /** Files of which something may still arrive. */
  readonly left: Set<InodeId>;
  fencing: boolean;
}

export class LostLocks {
  private readonly leaving = new Map<SessionId, Leaving>();

  constructor(
    private readonly deps: {
      readonly logger: Logger;
      readonly locks: LockTable;
      /** Resolves when no chunk of the file takes what was sent under the leases of before. */
      readonly fence: (inode: InodeId) => Promise<void>;
      /** Resolves when all that was decided before survives power loss. */
      readonly durable: () => Promise<void>;
    },
  ) {}

  /** A session ended without its client, which may have written these files. */
  sessionExpired(session: SessionId, written: readonly InodeId[]): void {
    const { locks } = this.deps;
    if (!locks.holdsAny(session)) return locks.endSession(session);
    locks.stopWaiting(session);
    this.leave(session, written);
  }

  /** To be called about every second. */
  tick(): void {
    for (const whose of this.leaving.keys()) this.fenceSoon(whose);
  }

  private leave(whose: SessionId, written: readonly InodeId[]): void {
    this.leaving.set(whose, { left: new Set(written), fencing: false });
    this.fenceSoon(whose);
  }

  private fenceSoon(whose: SessionId): void {
    unawaited(this.fence(whose), this.deps.logger, 'ending what a client that went may have written');
  }

  /** Never rejects: what fails is tried again with the next tick. */
  private async fence(whose: SessionId): Promise<void> {
    const { locks, logger } = this.deps;
    const leaving = this.leaving.get(whose);
    if (leaving === undefined || leaving.fencing) return;
    leaving.fencing = true;
    const places = new Semaphore(MAX_LOST_LOCK_FENCES);
    let failure: CairnError | undefined;
    const noteFailure = (error: unknown): void => {
      failure = asCairnError(error);
    };
    const fenceOne = async (inode: InodeId): Promise<void> => {
      const release = await places.acquire();
      try {
        await this.deps.fence(inode);
        leaving.left.delete(inode);
      } catch (error) {
        noteFailure(error);
      } finally {
        release();
      }
    };
    await Promise.all([...[...leaving.left].map(fenceOne), this.deps.durable().catch(noteFailure)]);
    leaving.fencing = false;
    if (failure !== undefined) {
      const { left } = leaving;
      logger.info({ session: whose, files: left.size, reason: failure.message }, 'locks cannot be given on yet');
      return;
    }
    this.leaving.delete(whose);
    locks.endSession(whose);
    logger.info({ session: whose }, 'the locks of a client that went are free');
  }
}
