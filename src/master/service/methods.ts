/**
 * The methods that the master serves. Thin: each checks who asks, runs one function of the namespace or of the cluster
 * half, and does what must be done before the answer (flush, cut at the chunkservers).
 *
 * A mutation that need not wait answers in the same tick: that is where the rate of small operations comes from.
 */
import type { Clock, Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { isRegular } from '../../core/mode.js';
import { SESSION_TTL_MS, BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES } from '../../core/limits.js';
import { OpenFlagsBit } from '../../protocol/generated/messages.js';
import type {
  AttributesInit,
  ChunkLocationInit,
  GetAttributesRequest,
  OpenReplyInit,
  OpenRequest,
  OperationId,
} from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { MasterMethods, MethodDefinition } from '../../protocol/methods.js';
import type { Handler, HandlerResult, Handlers, Peer } from '../../protocol/rpc.js';
import { appendHandlers, behindAppends } from './append-methods.js';
import type { AppendLeases } from '../sessions/append-leases.js';
import { markSynced } from '../tables/chunk-records.js';
import { chunkHandlers } from './chunk-methods.js';
import type { ChunkServiceDeps } from './chunk-methods.js';
import { getChunks } from '../chunks/locations.js';
import type { LeaseCuts } from '../chunks/lease-cuts.js';
import { lockHandlers } from './lock-methods.js';
import type { LockPolls } from './lock-methods.js';
import type { LockTable } from '../sessions/locks.js';
import * as namespace from '../namespace/namespace.js';
import type { OrphanReaper } from '../maintenance/orphan-reaper.js';
import type { OpenCounts } from '../sessions/opens.js';
import type { Outcome } from '../sessions/replies.js';
import type { ServerRemovals } from '../maintenance/server-removal.js';
import type { Session } from '../sessions/sessions.js';
import type { Mutation, StateReader } from '../state/state.js';
import { clusterStatus, fileSystemStats } from './status.js';

export interface ServiceDeps extends ChunkServiceDeps {
  readonly clock: Clock;
  readonly reaper: OrphanReaper;
  readonly cuts: LeaseCuts;
  readonly locks: LockTable;
  readonly polls: LockPolls;
  readonly appends: AppendLeases;
  readonly removals: ServerRemovals;
  readonly lastSequence: () => number;
  readonly isShortOfSpace: () => boolean;
}

/** An outcome of a mutation, with what the handler may still have to do for it. */
interface Done<R> extends Outcome<R> {
  readonly session: Session;
}

export function masterHandlers(deps: ServiceDeps): Handlers<MasterMethods> {
  const { state, sessions, cuts, reaper, clock, masterTime } = deps;

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
   * Runs a mutation once, when there is room in the log, and then `after`; at once if neither has to wait. `beside` is
   * what the first answer says besides, which is not stored for a replay.
   */
  function once<Q extends { operation: OperationId | null }, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    decide: (m: Mutation, context: namespace.OperationContext, request: Q) => RI,
    after?: (done: Done<R | RI>, request: Q) => Promise<unknown> | undefined,
    beside?: (reply: R | RI, request: Q) => Partial<RI>,
  ) {
    return (request: Q, { peer }: { readonly peer: Peer }): HandlerResult<RI> | Promise<HandlerResult<RI>> => {
      const run = (): HandlerResult<RI> | Promise<HandlerResult<RI>> => {
        const session = sessions.require(peer);
        const context = { now: clock.now() };
        const outcome = session.replies.runOnce(request.operation, method, (m) => decide(m, context, request));
        // What was decoded from a stored reply encodes as what was stored.
        let reply = outcome.reply as RI;
        if (beside !== undefined && !outcome.replayed) reply = { ...reply, ...beside(reply, request) };
        const result = { reply };
        const waits = after?.({ ...outcome, session }, request);
        return waits === undefined ? result : waits.then(() => result);
      };
      sessions.require(peer);
      const room = state.ready();
      return room === undefined ? run() : room.then(run);
    };
  }

  /** Holds a method that gives out inode numbers until it is known that they were not given before. */
  function onceWitnessed<D>(handler: Handler<D>): Handler<D> {
    return (request, context) => {
      const witnessed = deps.timeline.witnessed();
      return witnessed === undefined ? handler(request, context) : witnessed.then(() => handler(request, context));
    };
  }

  function openCounts(flags: number): OpenCounts {
    const writes = (flags & OpenFlagsBit.WRITE) !== 0;
    const reads = (flags & OpenFlagsBit.READ) !== 0;
    return { readers: reads || !writes ? 1 : 0, writers: writes ? 1 : 0 };
  }

  /** Opens are in memory only: a replay counts them if this process has not. */
  function countOpen(
    session: Session,
    operation: OperationId | null,
    attributes: AttributesInit | null | undefined,
    flags: number,
  ): number {
    const inode = inodeId(attributes?.inode ?? 0);
    if (flags !== 0 && session.replies.countOnce(operation?.sequence ?? 0)) {
      sessions.addOpen(session, inode, openCounts(flags));
    }
    return inode;
  }

  /** An inode without a name that nobody has open is gone already; the reaper only has not come by. */
  function refuseUnused<A extends AttributesInit>(attributes: A): A {
    if (attributes.nlink === 0 && !sessions.isOpen(inodeId(attributes.inode ?? 0))) {
      throw new CairnError('ESTALE', `inode ${attributes.inode ?? 0} does not exist any more`);
    }
    return attributes;
  }

  /** What a change made of the directory that it was in. */
  const directoryNow = (inode: number): AttributesInit => namespace.getAttributes(state, { inode });

  /** Where a file begins, so that who is about to read it need not ask. */
  const firstChunk = ({ inode, mode, size }: AttributesInit): ChunkLocationInit | undefined =>
    isRegular(mode ?? 0) && (size ?? 0) > 0
      ? getChunks(deps, { inode: inode ?? 0, firstIndex: 0, count: 1, mappedOnly: false }).chunks?.[0]
      : undefined;

  const m = MASTER_METHODS;
  const kick = (): undefined => {
    reaper.kick();
  };
  const decideOpen = (
    mutation: Mutation,
    context: namespace.OperationContext,
    request: OpenRequest,
  ): OpenReplyInit => ({
    attributes: refuseUnused(namespace.openTruncating(mutation, context, request)),
  });
  const openTruncating = once(
    m.open,
    decideOpen,
    (done, request) => {
      const inode = countOpen(done.session, request.operation, done.reply.attributes, request.flags);
      return cuts.afterTruncate(inodeId(inode));
    },
    () => ({ masterTime: masterTime() }),
  );
  const inTurn = behindAppends(deps);
  const openTruncatingInTurn = inTurn<MasterMethods['open']>((request) => {
    return request.inode !== 0 ? request.inode : namespace.inodeNamed(state, request.parent, request.name);
  }, openTruncating);
  const open: Handler<MasterMethods['open']> = (request, context) => {
    if ((request.flags & OpenFlagsBit.TRUNCATE) !== 0) return openTruncatingInTurn(request, context);
    const session = sessions.require(context.peer);
    const attributes = refuseUnused(namespace.open(state, request));
    const inode = inodeId(attributes.inode ?? 0);
    sessions.addOpen(session, inode, openCounts(request.flags));
    const chunk = request.withChunk ? firstChunk(attributes) : undefined;
    const wantsToAppend = (request.flags & OpenFlagsBit.APPEND) !== 0;
    const appendGranted = wantsToAppend && deps.appends.take(session.id, inode);
    return { reply: { attributes, appendGranted, ...(chunk !== undefined && { chunk }), masterTime: masterTime() } };
  };

  return {
    openSession: async (request, { peer }) => {
      const parted = await deps.timeline.take(request.mark, `client ${request.clientName}`);
      const { session, token } = await sessions.open(peer, request);
      const resumed = token === undefined;
      const { clusterId, epoch, lossEpoch } = deps.identity;
      return {
        reply: {
          ...{ sessionId: session.id, resumed, sessionTtlMs: SESSION_TTL_MS, clusterId, epoch, lossEpoch },
          ...{
            ...(token !== undefined && { token }),
            masterTime: masterTime(),
            mark: deps.timeline.mark,
            ...(parted && { partedFrom: parted.from, partedBelow: parted.below }),
          },
          ...{ chunkSizeBytes: CHUNK_SIZE_BYTES, blockSizeBytes: BLOCK_SIZE_BYTES },
        },
      };
    },
    keepSession: (request, { peer }) => {
      sessions.require(peer).replies.acknowledge(request.ackedBelow);
      return { reply: { masterTime: masterTime(), mark: deps.timeline.mark } };
    },
    closeSession: (_request, { peer }) => {
      sessions.end(sessions.require(peer), 'closed');
      return { reply: {} };
    },
    reclaim: (request, { peer }) => {
      return { reply: { lostAppends: sessions.reclaim(sessions.require(peer), request) } };
    },

    lookup: reads(namespace.lookup),
    getAttributes: reads((reader, request: GetAttributesRequest) =>
      refuseUnused(namespace.getAttributes(reader, request)),
    ),
    access: reads(namespace.access),
    readLink: readsNoted(namespace.readLink),
    readDirectory: readsNoted(namespace.readDirectory),
    getXattr: reads(namespace.getXattr),
    listXattrs: reads(namespace.listXattrs),
    statFs: reads(() => fileSystemStats(deps)),

    create: onceWitnessed(
      inTurn<MasterMethods['create']>(
        ({ openFlags, parent, name, temporary }) =>
          (openFlags & OpenFlagsBit.TRUNCATE) === 0 || temporary ? 0 : namespace.inodeNamed(state, parent, name),
        once(
          m.create,
          namespace.create,
          (done, request) => {
            const inode = countOpen(done.session, request.operation, done.reply.attributes, request.openFlags);
            if ((request.openFlags & OpenFlagsBit.TRUNCATE) === 0) return undefined;
            return cuts.afterTruncate(inodeId(inode));
          },
          ({ created }, { parent }) => ({
            ...(created === true && parent !== 0 ? { parent: directoryNow(parent) } : {}),
            masterTime: masterTime(),
          }),
        ),
      ),
    ),
    link: once(m.link, namespace.link),
    unlink: once(m.unlink, namespace.unlink, kick, (_reply, { parent }) => ({ parent: directoryNow(parent) })),
    // It may leave a new inode behind (RENAME_WHITEOUT).
    rename: onceWitnessed(
      once(m.rename, namespace.rename, kick, (_reply, { parent, newParent }) => ({
        parent: directoryNow(parent),
        newParent: newParent === parent ? null : directoryNow(newParent),
      })),
    ),
    setXattr: once(m.setXattr, namespace.setXattr),
    removeXattr: once(m.removeXattr, namespace.removeXattr),
    setAttributes: inTurn<MasterMethods['setAttributes']>(
      ({ size, inode }) => (size === null ? 0 : inode),
      once(m.setAttributes, namespace.setAttributes, (_done, request) =>
        request.size === null ? undefined : cuts.afterTruncate(inodeId(request.inode)),
      ),
    ),
    publish: inTurn<MasterMethods['publish']>(
      ({ inode, end }) => (end > namespace.sizeOf(state, inodeId(inode)) ? inode : 0),
      once(m.publish, namespace.publish, (_done, request) => (request.durable ? state.durable() : undefined)),
    ),

    punchChunks: once(m.punchChunks, namespace.punchChunks, (_done, request) =>
      cuts.afterTruncate(inodeId(request.inode)),
    ),

    open,
    close: ({ inode, readers, writers, atime, untold }, { peer }) => {
      if (atime !== null) noteRead(inodeId(inode), atime);
      sessions.closeOpen(sessions.require(peer), inodeId(inode), { readers, writers }, untold);
      return { reply: {} };
    },
    sync: async ({ syncedChunks }, { peer }) => {
      sessions.require(peer);
      if (syncedChunks.length > 0) {
        await state.ready();
        state.mutate((mutation) => markSynced(mutation, syncedChunks));
      }
      await state.durable();
      return { reply: {} };
    },

    ...chunkHandlers(deps),
    ...lockHandlers(deps),
    ...appendHandlers(deps),

    removeServer: ({ serverId, force }, { peer }) => {
      sessions.require(peer);
      return { reply: deps.removals.ask(serverId, force) };
    },

    // Without a session, so that an operator sees a cluster that takes no more of them.
    status: () => {
      const { clusterId, epoch } = deps.identity;
      const state = { logSequence: deps.lastSequence(), masterShortOfSpace: deps.isShortOfSpace() };
      const about = { clusterId, epoch, sessions: sessions.size, ...state };
      return { reply: clusterStatus(deps, about) };
    },
  };
}
