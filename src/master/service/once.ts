/**
 * Kinds of methods: those that read, and those that change something, once, however often a client repeats them over reconnects
 * and restarts (P6).
 */
import type { Clock, Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import type { OperationId } from '../../protocol/generated/messages.js';
import type { MethodDefinition } from '../../protocol/methods.js';
import type { Handler, HandlerResult, Peer, RequestContext } from '../../protocol/rpc.js';
import * as namespace from '../namespace/namespace.js';
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
}

/**
 * To be asked when a mutation has waited: its caller may have given it up and told the program so. What that did afterwards must not
 * be changed by it.
 */
export function refuseGivenUp({ signal }: Pick<RequestContext, 'signal'>): void {
  if (signal.aborted) throw new CairnError('CANCELLED', 'nobody waits for this change any more: it is not made');
}

export type MethodKinds = ReturnType<typeof methodKinds>;

export function methodKinds({ state, clock, sessions, timeline }: MethodKindDeps) {
  const isWrittenSinceBefore = (inode: InodeId): boolean => sessions.isWrittenSinceBefore(inode);

  /** A method that only reads the namespace. */
  function reads<Q, RI>(read: (reader: StateReader, request: Q) => RI) {
    return (request: Q, { peer }: { readonly peer: Peer }): HandlerResult<RI> => {
      sessions.require(peer);
      return { reply: read(state, request) };
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
  ) {
    const plain = reads(read);
    return (request: Q, context: { readonly peer: Peer }): HandlerResult<RI> => {
      const result = plain(request, context);
      if (!request.noAtime) noteRead(inodeId(request.inode), clock.now());
      return result;
    };
  }

  /**
   * Runs a mutation once, when there is room in the log, and then `after`; at once if neither has to wait. `completed`
   * is the first answer, with what it says besides, which is not stored for a replay.
   */
  function once<Q extends { operation: OperationId | null }, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    decide: (m: Mutation, context: namespace.OperationContext, request: Q) => RI,
    after?: (done: Done<R | RI>, request: Q) => Promise<unknown> | undefined,
    completed?: (reply: R | RI, request: Q) => RI,
  ) {
    return (request: Q, context: RequestContext): HandlerResult<RI> | Promise<HandlerResult<RI>> => {
      const { peer } = context;
      const run = (): HandlerResult<RI> | Promise<HandlerResult<RI>> => {
        const session = sessions.require(peer);
        const about = { now: clock.now(), session: session.id, isWrittenSinceBefore };
        const outcome = session.replies.runOnce(request.operation, method, (m) => decide(m, about, request));
        // What was decoded from a stored reply encodes as what was stored.
        let reply = outcome.reply as RI;
        if (completed !== undefined && !outcome.replayed) reply = completed(reply, request);
        const result = { reply };
        const waits = after?.({ reply: outcome.reply, replayed: outcome.replayed, session }, request);
        return waits === undefined ? result : waits.then(() => result);
      };
      sessions.require(peer);
      const room = state.ready();
      if (room === undefined) return run();
      return room.then(() => {
        refuseGivenUp(context);
        return run();
      });
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
