/** What becomes of the files of sessions, for those who go on with them. */
import type { InodeId } from '../../core/ids.js';

export interface SessionEvents {
  /** Every session of before a restart has reclaimed or ended. Once. */
  onGraceOver(): void;
  /** `inode` was open for writing in a session that ended, and no other session writes it. */
  onWriterDied(inode: InodeId): void;
  /** Nobody has `inode` open for writing any more, and all that had are done with it. */
  onUnwritten(inode: InodeId): void;
  /** `inode` was open for writing in a session that ended without its client: what that wrote may not be published. */
  onWriterLost(inode: InodeId): void;
  /** As `onWriterLost` of each, by a client that is done with them: its locks on them go on next. */
  onWritersGone(inodes: readonly InodeId[]): void;
  /** An inode is open nowhere any more. */
  onUnused(inode: InodeId): void;
}
