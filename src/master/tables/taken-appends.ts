/**
 * 'A': append leases that went from a session to others while its client was away (sessions/append-leases.ts). Until the client says
 * by what it tells, or asks for, that it knows, what it tells of such a file comes too late, after a restart too.
 */
import type { InodeId, SessionId } from '../../core/ids.js';
import { inodeId } from '../../core/ids.js';
import { keys, packNumber, PREFIX_LENGTH, prefixRange, unpackNumber } from '../state/keys.js';
import type { Mutation, State } from '../state/state.js';

export class TakenAppends {
  constructor(private readonly state: State) {}

  note(session: SessionId, inode: InodeId): void {
    this.state.mutate((m) => m.put(keys.takenAppend(session, inode), EMPTY));
  }

  has(session: SessionId, inode: InodeId): boolean {
    return this.state.get(keys.takenAppend(session, inode)) !== undefined;
  }

  /** The client knows, of all but `told`. What stays for want of space costs it a lease, and no more. */
  forget(session: SessionId, told: ReadonlySet<InodeId>): void {
    const known: InodeId[] = [];
    for (const [key] of this.state.range(prefixRange('A' + packNumber(session)))) {
      const inode = inodeId(unpackNumber(key, PREFIX_LENGTH));
      if (!told.has(inode)) known.push(inode);
    }
    if (known.length === 0) return;
    this.state.mutateIfRoom((m) => {
      for (const inode of known) m.delete(keys.takenAppend(session, inode));
    });
  }

  /** The client knows of this one. */
  forgetOne(session: SessionId, inode: InodeId): void {
    if (this.has(session, inode)) this.state.mutateIfRoom((m) => m.delete(keys.takenAppend(session, inode)));
  }
}

const EMPTY = Buffer.alloc(0);

/** The session is over. */
export function forgetTakenAppends(m: Mutation, session: SessionId): void {
  for (const [key] of m.range(prefixRange('A' + packNumber(session)))) m.delete(key);
}
