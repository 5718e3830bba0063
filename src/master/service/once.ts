/**
 * Kinds of methods: those that read, and those that change something, once, however often a client repeats them over reconnects
 * and restarts (P6).
 */
import type { Clock, Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import type { OperationId } from '../../protocol/generated/messages.js';
import type { MethodDefinition } from '../../protocol/methods.js';
import type { Handler, HandlerResult, Peer, RequestContext } from '../../protocol/rpc.js';
import * as namespace from '../namespace/namespace.js';
import { HeldByOthers } from '../sessions/recalls.js';
import type { Clearing, Recalls } from '../sessions/recalls.js';
import type { Outcome } from '../sessions/replies.js';
import type { Session } from '../sessions/sessions.js';
import type { Sessions } from '../sessions/sessions.js';
import type { Mutation, StateReader } from '../state/state.js';
import type { State } from '../state/state.js';
import type { Timeline } from '../state/timeline.js';

/** An outcome of a mutation, with what the handler may still have to do for it. */
export interface Done<R> extends Outcome<R> {
  readonly session: Session;
}

export interface MethodKindDeps {
  readonly state: State;
  readonly clock: Clock;
  readonly sessions: Sessions;
  readonly timeline: Timeline;
  readonly recalls: Recalls;
}

/** A change of a file's size has waited in its turn, and the name that it is asked for by leads to another file by now. */
export class TurnPassed extends Error {}

/** What a kind of mutation does beside its decision. */
interface Around<Q, R, RI> {
  /** Runs after it; the answer waits for what it returns. */
  readonly after?: (done: Done<R | RI>, request: Q) => Promise<unknown> | undefined;
  /** The first answer, with what it says besides, which is not stored for a replay. */
  readonly completed?: (reply: R | RI, request: Q) => RI;
  /** Says in the first answer what of it the session holds. `late`: others may have changed something since. */
  readonly cover?: (session: SessionId, reply: RI, request: Q, late: boolean) => void;
}

/**
 * To be asked when a mutation has waited: its caller may have given it up and told the program so. What that did afterwards must not
 * be changed by it.
 */
export function refuseGivenUp({ signal }: Pick<RequestContext, 'signal'>): void {
  if (signal.aborted) throw new CairnError('CANCELLED', 'nobody waits for this change any more: it is not made');
}

export type MethodKinds = ReturnType<typeof methodKinds>;

export function methodKinds({ state, clock, sessions, timeline, recalls }: MethodKindDeps) {
  const isWrittenSinceBefore = (inode: InodeId): boolean => sessions.isWrittenSinceBefore(inode);

  /** A method that only reads the namespace. `cover` says what of the answer the session holds. */
  function reads<Q, RI>(
    read: (reader: StateReader, request: Q) => RI,
    cover?: (session: SessionId, reply: RI, request: Q) => void,
  ) {
    return (request: Q, { peer }: { readonly peer: Peer }): HandlerResult<RI> => {
      const { id } = sessions.require(peer);
      const reply = read(state, request);
      cover?.(id, reply, request);
      return { reply };
    };
  }

  /** Notes a read; not when mutations wait for the store or for space, as it is worth neither. */
  function noteRead(inode: InodeId, atime: Timespec): void {
    if (namespace.isReadNoted(state, inode, atime)) return;
    state.mutateIfRoom((mutation) => namespace.noteRead(mutation, inode, atime));
  }

  /** A method that reads the content of what is no file. */
  function readsNoted<Q extends { readonly inode: number; readonly noAtime: boolean }, RI>(
    read: (reader: StateReader, request: Q) => RI,
    cover?: (session: SessionId, reply: RI, request: Q) => void,
  ) {
    const plain = reads(read, cover);
    return (request: Q, context: { readonly peer: Peer }): HandlerResult<RI> => {
      const result = plain(request, context);
      if (!request.noAtime) noteRead(inodeId(request.inode), clock.now());
      return result;
    };
  }

  /**
   * Runs a mutation once, when there is room in the log and nobody else holds what it changes (sessions/recalls.ts); at once if it
   * need not wait. `isInTurn`: whether a turn that was taken for it (append-methods.ts) is still the right one; else TurnPassed.
   */
  function once<Q extends { operation: OperationId | null }, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    decide: (m: Mutation, context: namespace.OperationContext, request: Q) => RI,
    { after, completed, cover }: Around<Q, R, RI> = {},
  ) {
    return (
      request: Q,
      context: RequestContext,
      isInTurn?: () => boolean,
    ): HandlerResult<RI> | Promise<HandlerResult<RI>> => {
      const { peer } = context;
      let clearing: Clearing | undefined;
      const run = (): HandlerResult<RI> | Promise<HandlerResult<RI>> => {
        const session = sessions.require(peer);
        const about = { now: clock.now(), session: session.id, isWrittenSinceBefore };
        let outcome: Outcome<R | RI>;
        try {
          outcome = session.replies.runOnce(request.operation, method, (m) => {
            const decided = decide(m, about, request);
            recalls.check(session.id, m, clearing);
            return decided;
          });
        } catch (error) {
          if (!(error instanceof HeldByOthers)) throw error;
          clearing ??= recalls.begin(session.id, context.signal);
          return clearing.clear(error.touched).then(again);
        }
        clearing?.end();
        // What was decoded from a stored reply encodes as what was stored.
        let reply = outcome.reply as RI;
        if (completed !== undefined && !outcome.replayed) reply = completed(reply, request);
        const result = { reply };
        const waits = after?.({ reply: outcome.reply, replayed: outcome.replayed, session }, request);
        const covered = (late: boolean): HandlerResult<RI> => {
          if (cover !== undefined && !outcome.replayed) cover(session.id, reply, request, late);
          return result;
        };
        return waits === undefined ? covered(false) : waits.then(() => covered(true));
      };
      const again = (): HandlerResult<RI> | Promise<HandlerResult<RI>> => {
        refuseGivenUp(context);
        if (isInTurn?.() === false) throw new TurnPassed();
        return begin();
      };
      const begin = (): HandlerResult<RI> | Promise<HandlerResult<RI>> => {
        const room = state.ready();
        return room === undefined ? run() : room.then(again);
      };
      sessions.require(peer);
      const answer = begin();
      return answer instanceof Promise ? answer.finally(() => clearing?.end()) : answer;
    };
  }

  /** Holds a method that gives out inode numbers until it is known that they were not given before. */
  function onceWitnessed<D>(handler: Handler<D>): Handler<D> {
    return (request, context) => {
      const witnessed = timeline.witnessed();
      if (witnessed === undefined) return handler(request, context);
      return witnessed.then(() => {
        refuseGivenUp(context);
        return handler(request, context);
      });
    };
  }

  return { reads, noteRead, readsNoted, once, onceWitnessed };
}
