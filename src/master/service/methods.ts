/**
 * The methods that the master serves. Thin: each checks who asks, runs one function of the namespace or of the cluster
 * half, and does what must be done before the answer (flush, cut at the chunkservers).
 *
 * A mutation that need not wait answers in the same tick: that is where the rate of small operations comes from.
 */
import { SESSION_TTL_MS, BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES } from '../../core/limits.js';
import { inodeId } from '../../core/ids.js';
import type { MasterMethods } from '../../protocol/methods.js';
import type { Handlers } from '../../protocol/rpc.js';
import { appendHandlers } from './append-methods.js';
import { chunkHandlers } from './chunk-methods.js';
import { coverage } from './coverage.js';
import type { ServiceDeps } from './deps.js';
import { fileHandlers } from './file-methods.js';
import { lockHandlers } from './lock-methods.js';
import { nameHandlers } from './name-methods.js';
import { methodKinds } from './once.js';
import { clusterStatus } from './status.js';

export function masterHandlers(deps: ServiceDeps): Handlers<MasterMethods> {
  const { sessions, masterTime } = deps;
  const { holdings, recalls } = deps;
  const kinds = methodKinds(deps);
  const covers = coverage(deps);

  return {
    openSession: async (request, { peer }) => {
      const parted = await deps.timeline.take(request.mark, `client ${request.clientName}`);
      const { session, token } = await sessions.open(peer, request);
      const resumed = token === undefined;
      const { clusterId, epoch, lossEpoch } = deps.identity;
      return {
        reply: {
          sessionId: session.id,
          resumed,
          sessionTtlMs: SESSION_TTL_MS,
          clusterId,
          epoch,
          lossEpoch,
          ...(token !== undefined && { token }),
          masterTime: masterTime(),
          mark: deps.timeline.mark,
          ...(parted && { partedFrom: parted.from, partedBelow: parted.below }),
          chunkSizeBytes: CHUNK_SIZE_BYTES,
          blockSizeBytes: BLOCK_SIZE_BYTES,
          holdings: holdings.setOf(session.id),
        },
      };
    },
    keepSession: (request, { peer }) => {
      const session = sessions.require(peer);
      session.replies.acknowledge(request.ackedBelow);
      for (const { inode, grant } of request.released) holdings.release(session.id, inodeId(inode), grant);
      return { reply: { masterTime: masterTime(), mark: deps.timeline.mark } };
    },
    closeSession: (_request, { peer }) => {
      sessions.end(sessions.require(peer), 'closed');
      return { reply: {} };
    },
    reclaim: (request, { peer }) => {
      const session = sessions.require(peer);
      // First: once the last has told all, changes go on.
      const isUnchanged = !recalls.isSettled() && !session.holdingsEnded;
      const grants = request.holdings.map((inode) => holdings.reclaim(session.id, inodeId(inode), isUnchanged));
      const lostAppends = sessions.reclaim(session, request);
      if (request.done) {
        sessions.noteHoldingsEnded(session.id, false);
        recalls.resumed(session.id);
      }
      return { reply: { lostAppends, grants } };
    },

    ...nameHandlers(deps, kinds, covers),
    ...fileHandlers(deps, kinds, covers),
    ...chunkHandlers(deps),
    ...lockHandlers(deps, covers),
    ...appendHandlers(deps),

    removeServer: ({ serverId, force }, { peer }) => {
      sessions.require(peer);
      return { reply: deps.removals.ask(serverId, force) };
    },

    // Without a session, so that an operator sees a cluster that takes no more of them.
    status: () => {
      const { clusterId, epoch } = deps.identity;
      const state = { logSequence: deps.lastSequence(), masterShortOfSpace: deps.isShortOfSpace() };
      const held = { holdings: holdings.size, recalls: recalls.waiting };
      const about = { clusterId, epoch, sessions: sessions.size, ...state, ...held };
      return { reply: clusterStatus(deps, about) };
    },
  };
}
