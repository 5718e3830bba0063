/** The methods about chunks: what chunkservers say, and what writers and readers ask for. */
import { asCairnError, CairnError, errorCodeOf } from '../../core/errors.js';
import type { ErrorCode } from '../../core/errors.js';
import type { Clock } from '../../core/clock.js';
import { chunkHandle, chunkIndex, inodeId } from '../../core/ids.js';
import type { MasterTime } from '../../core/master-time.js';
import type { ChunkHandle } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { unawaited } from '../../core/sync.js';
import type {
  LeaseChunkReplyInit,
  MasterMark,
  ChunkRecord,
  ReportReplicaRequest,
} from '../../protocol/generated/messages.js';
import type { MasterMethods } from '../../protocol/methods.js';
import type { Handlers } from '../../protocol/rpc.js';
import { getChunk, makeLossAnError } from '../tables/chunk-records.js';
import type { ChunkLeases } from '../chunks/leases.js';
import { getChunks } from '../chunks/locations.js';
import { checkChunkIndex, isHoleThatShows } from '../tables/chunk-map.js';
import type { MadeReplicas } from '../chunks/made-replicas.js';
import type { NewChunks } from '../chunks/new-chunks.js';
import type { ChunkRecovery } from '../chunks/chunk-recovery.js';
import type { RecoveryQueue } from '../chunks/recovery-queue.js';
import type { Repair } from '../maintenance/repair.js';
import { takeAsideReport, takeReport } from '../chunks/reports.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { Recalls } from '../sessions/recalls.js';
import type { Sessions } from '../sessions/sessions.js';
import { touchedAttributes } from '../sessions/touched.js';
import type { Touched } from '../sessions/touched.js';
import type { StaleReplicas } from '../chunks/stale-replicas.js';
import type { State } from '../state/state.js';
import type { Timeline } from '../state/timeline.js';
import { CLIENT_REPORT_INTERVAL_MS, MAX_REMEMBERED_REPORTS } from '../../core/limits.js';

type ChunkMethodName =
  | 'getChunks'
  | 'leaseChunk'
  | 'reportReplica'
  | 'register'
  | 'heartbeat'
  | 'report'
  | 'reportAside'
  | 'reportForwardFailure';

export interface ChunkServiceDeps {
  readonly state: State;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly servers: ServerRegistry;
  readonly sessions: Sessions;
  readonly newChunks: NewChunks;
  readonly leases: ChunkLeases;
  readonly recovery: ChunkRecovery;
  readonly recoveries: RecoveryQueue;
  readonly repair: Repair;
  readonly stale: StaleReplicas;
  readonly made: MadeReplicas;
  readonly wantedReplicas: number;
  readonly timeline: Timeline;
  readonly recalls: Pick<Recalls, 'around'>;
  readonly identity: { readonly clusterId: string; readonly epoch: number; readonly lossEpoch: number };
  readonly masterTime: () => MasterTime;
}

/** What can be wrong with a replica. That its server cannot be reached the master finds out by itself. */
const BAD_REPLICA: ReadonlySet<ErrorCode> = new Set(['CORRUPT', 'NO_REPLICA', 'STALE_VERSION', 'EIO']);

export function chunkHandlers(deps: ChunkServiceDeps): Pick<Handlers<MasterMethods>, ChunkMethodName> {
  const { state, servers, sessions, newChunks, leases, recoveries, repair, stale, clock, logger } = deps;
  const reportedMs = new Map<ChunkHandle, number>();

  function mayReport(handle: ChunkHandle): boolean {
    const nowMs = clock.monotonicMs();
    const before = reportedMs.get(handle);
    if (before !== undefined && nowMs - before < CLIENT_REPORT_INTERVAL_MS) return false;
    reportedMs.delete(handle);
    reportedMs.set(handle, nowMs);
    for (const oldest of reportedMs.keys()) {
      if (reportedMs.size <= MAX_REMEMBERED_REPORTS) break;
      reportedMs.delete(oldest);
    }
    return true;
  }

  /**
   * The record of a chunk of which this is a member at this version, and nobody doubts it yet. Members may have the version of a
   * recovery that goes on.
   */
  function undoubted({ handle, version, serverId }: ReportReplicaRequest): ChunkRecord | undefined {
    const record = getChunk(state, chunkHandle(handle));
    if (record === undefined || version < record.version || version > record.lastVersion) return undefined;
    return record.servers.includes(serverId) && !record.suspects.includes(serverId) ? record : undefined;
  }

  function doubt({ handle, serverId }: ReportReplicaRequest, code: ErrorCode): void {
    logger.warn({ chunk: handle, server: serverId, error: code }, 'replica reported bad');
    state.mutate((m) => {
      if (code === 'NO_REPLICA' || code === 'EIO') makeLossAnError(m, chunkHandle(handle));
      deps.recovery.markDoubtful(m, chunkHandle(handle), [serverId]);
    });
    recoveries.add(chunkHandle(handle));
  }

  /**
   * What a server says of its own replica is believed. A client may be confused: of what the server must know as well as
   * the client, the server is asked.
   */
  function takeReplicaReport(request: ReportReplicaRequest, believed: boolean): void {
    const code = errorCodeOf(request.errorCode);
    if (!BAD_REPLICA.has(code) || undoubted(request) === undefined) return;
    if (code === 'CORRUPT' && deps.recovery.isBeyondMending(chunkHandle(request.handle))) return;
    if (!believed && !mayReport(chunkHandle(request.handle))) return;
    if (believed || code === 'CORRUPT') doubt(request, code);
    else unawaited(checkReplica(request), logger, 'checking a replica');
  }

  /** Never rejects. */
  async function checkReplica(request: ReportReplicaRequest): Promise<void> {
    const handle = chunkHandle(request.handle);
    // Under the chunk's lock, as during a recovery its members are at other versions.
    const code = await leases.locks.run(handle, () => whatIsWrong(request));
    if (code === undefined || undoubted(request) === undefined) return;
    // A member may have the version of a recovery that was given up, and be the only one that is whole. The next one finds out.
    const isAwaited = code === 'STALE_VERSION' && getChunk(state, handle)?.needsRecovery === true;
    if (isAwaited)
      logger.info({ chunk: handle, server: request.serverId }, 'a replica at another version: recovery sees to it');
    else doubt(request, code);
  }

  async function whatIsWrong(request: ReportReplicaRequest): Promise<ErrorCode | undefined> {
    const { handle, version, serverId } = request;
    if (undoubted(request) === undefined) return undefined;
    try {
      if (servers.isUp(serverId)) await servers.calls.checkReplica(serverId, handle, version);
      return undefined;
    } catch (error) {
      const { code, message } = asCairnError(error);
      if (BAD_REPLICA.has(code)) return code;
      // That it does not answer is for the heartbeats to find out.
      logger.info({ chunk: handle, server: serverId, error: message }, 'replica could not be checked');
      return undefined;
    }
  }

  /** For a chunkserver: when this was said, and how far the state is. */
  const now = (): { readonly mark: MasterMark; readonly masterTime: MasterTime } => {
    return { mark: deps.timeline.mark, masterTime: deps.masterTime() };
  };

  return {
    getChunks: (request, { peer }) => {
      sessions.require(peer);
      return { reply: { ...getChunks(deps, request), masterTime: deps.masterTime() } };
    },

    leaseChunk: (request, { peer, signal }) => {
      const { id } = sessions.require(peer);
      checkChunkIndex(request.index);
      const { failedVersion: version, failedLease: leaseId } = request;
      const wanted = {
        inode: inodeId(request.inode),
        index: chunkIndex(request.index),
        failed: leaseId === 0 ? undefined : { version, leaseId },
        keepsHoles: request.keepsHoles,
      };
      const room = state.ready();
      // A chunk in a hole: stat(2) shows more blocks.
      const touched = (): Touched | undefined =>
        isHoleThatShows(state, wanted) ? touchedAttributes(state, wanted.inode) : undefined;
      const next = (): LeaseChunkReplyInit | Promise<LeaseChunkReplyInit> =>
        deps.recalls.around({ session: id, signal, touched }, () => leases.lease(wanted));
      const lease = room === undefined ? next() : room.then(next);
      return lease instanceof Promise ? lease.then((reply) => ({ reply })) : { reply: lease };
    },

    reportReplica: (request, { peer }) => {
      if (peer.role === 'client') sessions.require(peer);
      const believed = peer.role === 'chunkserver' && servers.require(peer).id === request.serverId;
      if (believed) deps.made.lose(servers.require(peer).id, (handle) => handle === request.handle);
      takeReplicaReport(request, believed);
      return { reply: {} };
    },

    register: async (request, { peer }) => {
      const { timeline, identity } = deps;
      const parted = await timeline.take(request.mark, `chunkserver ${request.serverId} at ${request.address}`);
      const id = await servers.register(peer, request, parted);
      timeline.noteWitness();
      const renewed = request.serverId !== 0 && request.serverId !== id;
      const { rolledBack = [] } = servers.get(id) ?? {};
      return {
        reply: { serverId: id, clusterId: identity.clusterId, epoch: identity.epoch, renewed, ...now(), rolledBack },
      };
    },

    heartbeat: (request, { peer }) => {
      servers.heartbeat(peer, request);
      return { reply: now() };
    },

    reportAside: (request, { peer }) => {
      return { reply: takeAsideReport(state, servers.require(peer), request) };
    },

    report: (request, { peer }) => {
      const server = servers.heard(peer);
      const reply = takeReport(
        {
          ...deps,
          isInMaking: (handle, id) => newChunks.isUnattached(handle) || repair.isCopying(handle, id),
          onStale: (handle, version, id) => {
            stale.add(handle, version, id);
            recoveries.mendFrom(handle);
          },
          onDoubt: (handle) => recoveries.add(handle),
        },
        server,
        request,
      );
      // As before any call that destroys (servers/calls.ts).
      return (reply.delete ?? []).length === 0 ? { reply } : state.durable().then(() => ({ reply }));
    },

    // Answered before the recovery: the primary that reports is to take part in it. Also a report under a lease that
    // has ended since counts, as long as the version stands: what it tells of was not repaired.
    reportForwardFailure: (request, { peer }) => {
      const server = servers.require(peer);
      const handle = chunkHandle(request.handle);
      const record = getChunk(state, handle);
      if (record?.version !== request.version || !record.servers.includes(server.id)) return { reply: {} };
      logger.warn({ chunk: handle, primary: server.id, failed: request.failedServers }, 'a write was not forwarded');
      const goesOn = deps.recovery.noteFull(handle, record, request.fullServers);
      leases.voidLease(handle);
      recoveries.add(handle);
      if (!goesOn) throw new CairnError('ENOSPC', `chunk ${handle} cannot do without its full chunkservers`);
      return { reply: {} };
    },
  };
}
