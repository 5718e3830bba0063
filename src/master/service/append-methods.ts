/** The methods about append leases, and how changes of a file's size come in among those who append. */
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import { MAX_CHUNKS_PER_PAGE } from '../../core/limits.js';
import type { MasterMethods } from '../../protocol/methods.js';
import type { Handler, Handlers, Peer, RequestContext } from '../../protocol/rpc.js';
import type { AppendLeases, TurnKind } from '../sessions/append-leases.js';
import { attributesOf, requireInode } from '../tables/inodes.js';
import type { State } from '../state/state.js';
import { refuseGivenUp, TurnPassed } from './once.js';

type AppendMethodName = 'acquireAppend' | 'releaseAppend' | 'pollAppends';

interface AppendServiceDeps {
  readonly state: State;
  readonly clock: Clock;
  readonly sessions: {
    require(peer: Peer): { readonly id: SessionId; readonly opens: { has(inode: InodeId): boolean } };
  };
  readonly appends: AppendLeases;
}

export function appendHandlers(deps: AppendServiceDeps): Pick<Handlers<MasterMethods>, AppendMethodName> {
  const { state, sessions, appends } = deps;
  return {
    acquireAppend: async (request, { peer, signal }) => {
      const session = sessions.require(peer);
      const inode = inodeId(request.inode);
      if (!session.opens.has(inode)) throw new CairnError('EBADF', `inode ${inode} is not open`);
      if (!(await appends.acquire(session.id, inode, signal))) return { reply: { granted: false } };
      return { reply: { granted: true, attributes: attributesOf(inode, requireInode(state, inode)) } };
    },
    releaseAppend: ({ inode }, { peer }) => {
      appends.release(sessions.require(peer).id, inodeId(inode));
      return { reply: {} };
    },
    pollAppends: async ({ known }, { peer, signal }) => {
      const session = sessions.require(peer);
      if (known.length > MAX_CHUNKS_PER_PAGE) {
        throw new CairnError('PROTOCOL', `a poll names ${MAX_CHUNKS_PER_PAGE} inodes at most`);
      }
      const inodes = await appends.poll(session.id, known.map(inodeId), signal);
      return { reply: { inodes: inodes.slice(0, MAX_CHUNKS_PER_PAGE) } };
    },
  };
}

/** As `once` makes them: fails with TurnPassed when it has waited, and `isInTurn` does not hold any more. */
type InTurnHandler<M> = (...args: [...Parameters<Handler<M>>, isInTurn: () => boolean]) => ReturnType<Handler<M>>;

/**
 * Makes a handler that changes the size of the inode that `inodeOf` names (0 for none) wait for its turn when another
 * session appends to that; until it is done no other begins to.
 */
export function behindAppends({ sessions, appends }: AppendServiceDeps) {
  return <M extends MasterMethods[keyof MasterMethods]>(
    kind: TurnKind,
    inodeOf: (request: Parameters<Handler<M>>[0]) => number,
    handler: InTurnHandler<M>,
  ): Handler<M> => {
    type Answer = ReturnType<Handler<M>>;
    const inTurn = (request: Parameters<Handler<M>>[0], context: RequestContext): Answer => {
      const run = (done: () => void): Answer => {
        let answer: Answer | undefined;
        try {
          if (turn instanceof Promise) refuseGivenUp(context);
          answer = handler(request, context, () => inodeOf(request) === inode);
        } finally {
          if (!(answer instanceof Promise)) done();
        }
        return answer instanceof Promise ? answer.finally(done).catch(unlessPassed) : answer;
      };
      const unlessPassed = (error: unknown): Answer => {
        if (error instanceof TurnPassed) return inTurn(request, context);
        throw error;
      };
      const inode = inodeOf(request);
      if (inode === 0) {
        const answer = handler(request, context, () => inodeOf(request) === 0);
        return answer instanceof Promise ? answer.catch(unlessPassed) : answer;
      }
      const turn = appends.turn(sessions.require(context.peer).id, inodeId(inode), kind);
      if (!(turn instanceof Promise)) return run(turn);
      return turn.then((done) => {
        if (inodeOf(request) === inode) return run(done);
        // The name leads to another file by now, of which the turn is to be taken.
        done();
        return inTurn(request, context);
      });
    };
    return inTurn;
  };
}
