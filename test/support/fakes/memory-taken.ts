/** The append leases that went to others, in memory alone. */
import type { InodeId, SessionId } from '../../../src/core/ids.js';
import type { TakenAppends } from '../../../src/master/tables/taken-appends.js';

export class MemoryTaken implements Pick<TakenAppends, keyof TakenAppends> {
  private readonly entries = new Map<SessionId, Set<InodeId>>();

  note(session: SessionId, inode: InodeId): void {
    const ofSession = this.entries.get(session) ?? new Set();
    this.entries.set(session, ofSession.add(inode));
  }

  has(session: SessionId, inode: InodeId): boolean {
    return this.entries.get(session)?.has(inode) === true;
  }

  forget(session: SessionId, told: ReadonlySet<InodeId>): void {
    const left = [...(this.entries.get(session) ?? [])].filter((inode) => told.has(inode));
    this.entries.set(session, new Set(left));
  }

  forgetOne(session: SessionId, inode: InodeId): void {
    this.entries.get(session)?.delete(inode);
  }
}
