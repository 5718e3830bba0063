/**
 * The methods about locks. A client that waits keeps one poll open, which is answered when any of its waits is granted.
 * Until every client of before a restart has told its locks, or ended, none is granted: it might be another's.
 */
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import { MAX_LOCK_WAITS_PER_SESSION } from '../../core/limits.js';
import type { LockedRange } from '../../core/lock-ranges.js';
import type { MasterTime } from '../../core/master-time.js';
import { LockTypeType } from '../../protocol/generated/messages.js';
import type { PollLocksReplyInit } from '../../protocol/generated/messages.js';
import type { MasterMethods } from '../../protocol/methods.js';
import type { Handlers, Peer } from '../../protocol/rpc.js';
import type { LockPolls } from '../sessions/lock-polls.js';
import { kindOf, lockOf } from '../sessions/lock-state.js';
import type { LockTable } from '../sessions/locks.js';
import type { State } from '../state/state.js';
import type { Timeline } from '../state/timeline.js';
import type { Coverage } from './coverage.js';
import { attributesOf, requireInode } from '../tables/inodes.js';

type LockMethodName = 'setLock' | 'getLock' | 'pollLocks' | 'cancelLock' | 'releaseLocks';

export function lockHandlers(
  deps: {
    readonly state: State;
    readonly clock: Clock;
    readonly sessions: {
      require(peer: Peer): { readonly id: SessionId; readonly opens: { has(inode: InodeId): boolean } };
      readonly areAllTold: boolean;
    };
    readonly locks: LockTable;
    readonly polls: LockPolls;
    readonly timeline: Pick<Timeline, 'witnessed'>;
    readonly masterTime: () => MasterTime;
  },
  coverage: Coverage,
): Pick<Handlers<MasterMethods>, LockMethodName> {
  const { state, sessions, locks, polls, clock, timeline } = deps;

  function requireTold(): void {
    // Nor before it is known whether this state was put back: there may be clients that it does not know.
    if (timeline.witnessed() !== undefined || !sessions.areAllTold)
      throw new CairnError('UNAVAILABLE', 'clients of before the restart have yet to tell their locks');
  }

  return {
    setLock: ({ lock: asked, waitId }, { peer }) => {
      const session = sessions.require(peer);
      const { place, type, start, end, pid } = lockOf(session.id, asked);
      if (type === 'unlock') {
        locks.unset(place, { start, end });
        return { reply: { granted: true } };
      }
      requireTold();
      if (!session.opens.has(place.inode)) throw new CairnError('EBADF', `inode ${place.inode} is not open`);
      if (!locks.set(place, { type, start, end, pid }, waitId)) return { reply: { granted: false } };
      const attributes = attributesOf(place.inode, requireInode(state, place.inode));
      coverage.attributes(session.id, attributes);
      return { reply: { granted: true, attributes, masterTime: deps.masterTime() } };
    },

    getLock: ({ lock: asked }, { peer }) => {
      const session = sessions.require(peer);
      const { place, type, start, end, pid } = lockOf(session.id, asked);
      if (type === 'unlock') throw new CairnError('EINVAL', 'no lock is in the way of an unlock');
      requireTold();
      const found = locks.conflict(place, { type, start, end, pid });
      if (found === undefined) return { reply: {} };
      const { range } = found;
      const holder = { type: wireType(range), start: range.start, end: range.end, pid: range.pid };
      return { reply: { holder, own: found.session === session.id } };
    },

    pollLocks: async ({ waitIds, seen }, { peer, signal }) => {
      const session = sessions.require(peer);
      if (Math.max(waitIds.length, seen.length) > MAX_LOCK_WAITS_PER_SESSION) {
        throw new CairnError('PROTOCOL', `a session waits for ${MAX_LOCK_WAITS_PER_SESSION} locks at most`);
      }
      const look = (): PollLocksReplyInit => locks.poll(session.id, waitIds, seen);
      let reply = look();
      if (reply.granted?.length === 0 && reply.unknown?.length === 0) {
        await polls.wait(session.id, clock, signal);
        sessions.require(peer);
        reply = look();
      }
      return { reply };
    },

    cancelLock: ({ waitId }, { peer }) => ({ reply: { granted: locks.cancel(sessions.require(peer).id, waitId) } }),

    releaseLocks: ({ inode, kind, owner }, { peer }) => {
      const session = sessions.require(peer).id;
      locks.release({ session, inode: inodeId(inode), kind: kindOf(kind), owner });
      return { reply: {} };
    },
  };
}

const wireType = ({ type }: LockedRange): LockTypeType => (type === 'read' ? LockTypeType.READ : LockTypeType.WRITE);
