/**
 * The parts of a master, and what each has of the others. Where two know each other, the one that is made first gets a function
 * that finds the other when it is called.
 */
import { inodeId } from '../core/ids.js';
import type { ChunkHandle, ServerId } from '../core/ids.js';
import {
  COPY_TIMEOUT_MS,
  HANDLE_RESERVE,
  LEASE_RESERVE,
  MAX_CHUNK_COPIES,
  MAX_COPY_BYTES_PER_SERVER,
  MAX_RECOVERIES,
  MAX_SPARE_CHUNKS,
  RECOVERY_TIMEOUT_MS,
  SUSPECT_GRACE_MS,
} from '../core/limits.js';
import { DamagedChunks } from './chunks/damaged-chunks.js';
import { LeaseCuts } from './chunks/lease-cuts.js';
import { ChunkLeases } from './chunks/leases.js';
import { MadeReplicas } from './chunks/made-replicas.js';
import { NewChunks } from './chunks/new-chunks.js';
import { RecoveryQueue } from './chunks/recovery-queue.js';
import { ChunkRecovery } from './chunks/chunk-recovery.js';
import { StaleReplicas } from './chunks/stale-replicas.js';
import type { MasterConfig, MasterDeps } from './config.js';
import { GarbageCollector } from './maintenance/garbage-collector.js';
import { OrphanReaper } from './maintenance/orphan-reaper.js';
import { Recount } from './maintenance/recount.js';
import { Repair } from './maintenance/repair.js';
import { ServerRemovals } from './maintenance/server-removal.js';
import { ListeningTime } from './servers/listening-time.js';
import { ReplicaHealth } from './servers/replica-health.js';
import { ServerRegistry } from './servers/servers.js';
import { LockPolls } from './sessions/lock-polls.js';
import { AppendLeases } from './sessions/append-leases.js';
import { Holdings } from './sessions/holdings.js';
import { Recalls } from './sessions/recalls.js';
import { LockTable } from './sessions/locks.js';
import { LostLocks } from './sessions/lost-locks.js';
import { Sessions } from './sessions/sessions.js';
import { UnpublishedWrites } from './sessions/unpublished.js';
import { IdReserve } from './state/id-reserve.js';
import { prefixRange } from './state/keys.js';
import type { LogState } from './state/log-state.js';
import type { State } from './state/state.js';
import { Timeline } from './state/timeline.js';
import { allLeases } from './tables/lease-records.js';
import { filesBehind, LeftBehind } from './tables/left-behind.js';
import { noteGrant } from './tables/put-back-ends.js';
import { TakenAppends } from './tables/taken-appends.js';

export interface Parts {
  readonly state: LogState;
  readonly listening: ListeningTime;
  readonly servers: ServerRegistry;
  readonly sessions: Sessions;
  readonly newChunks: NewChunks;
  readonly locks: LockTable;
  readonly lostLocks: LostLocks;
  readonly polls: LockPolls;
  readonly appends: AppendLeases;
  readonly holdings: Holdings;
  readonly recalls: Recalls;
  readonly leases: ChunkLeases;
  readonly cuts: LeaseCuts;
  readonly recovery: ChunkRecovery;
  readonly recoveries: RecoveryQueue;
  readonly repair: Repair;
  readonly reaper: OrphanReaper;
  readonly unpublished: UnpublishedWrites;
  readonly collector: GarbageCollector;
  readonly stale: StaleReplicas;
  readonly made: MadeReplicas;
  readonly timeline: Timeline;
  readonly recount: Recount;
  readonly removals: ServerRemovals;
}

export function compose(
  { clock, random, logger }: Pick<MasterDeps, 'clock' | 'random' | 'logger'>,
  config: MasterConfig,
  state: LogState,
): Parts {
  const { wantedReplicas, minReplicas } = config;
  const handles = new IdReserve(state, 'next-handle', HANDLE_RESERVE);
  const leaseIds = new IdReserve(state, 'next-lease', LEASE_RESERVE);
  const timeline = new Timeline({
    state,
    clock,
    random,
    logger,
    handles,
    leaseIds,
    expectsServers: hasServers(state),
    onBranch: () => {
      newChunks.dropAll();
      sessions.expectStrangers();
      sessions.disconnectAll('the state of the master was put back');
    },
  });
  const onStray = (handle: ChunkHandle, version: number, server: ServerId): void => {
    recovery.mayBeMended(handle);
    stale.add(handle, version, server);
  };
  const listening = new ListeningTime(clock, logger);
  const servers = new ServerRegistry({
    state,
    clock,
    listening,
    logger,
    serverIds: new IdReserve(state, 'next-server', 1),
    events: {
      onDown: (server) => {
        newChunks.dropServer(server.id);
        for (const handle of leases.voidLeasesOf(server.id)) recoveries.add(handle);
      },
    },
  });
  const chunkConfig = {
    wantedReplicas,
    minReplicas,
    recoveryTimeoutMs: RECOVERY_TIMEOUT_MS,
    suspectGraceMs: SUSPECT_GRACE_MS,
  };
  const leftBehind: LeftBehind = new LeftBehind(
    state,
    (inode): boolean => !sessions.isGraceOver || sessions.isWritten(inode) || reaper.isToCut(inode),
  );
  const recovery: ChunkRecovery = new ChunkRecovery({
    state,
    clock,
    logger,
    servers,
    leaseIds,
    config: chunkConfig,
    onStray,
    leftBehind,
    stale: (handle) => stale.of(handle),
  });
  const made = new MadeReplicas();
  const newChunks = new NewChunks({
    clock,
    random,
    logger,
    servers,
    handles,
    leaseIds,
    config: chunkConfig,
    onStray,
    made,
    maxSpares: config.maxSpareChunks ?? MAX_SPARE_CHUNKS,
  });
  const leases = new ChunkLeases({
    state,
    clock,
    random,
    logger,
    servers,
    recovery,
    newChunks,
    leaseIds,
    config: chunkConfig,
    leftBehind,
    noteGrant: (m, lease) => noteGrant(m, lease, (inode) => sessions.isWrittenSinceBefore(inode)),
  });
  const inherited = allLeases(state);
  leases.inherit(inherited);
  const cuts = new LeaseCuts({ state, logger, servers, leases });
  const health = new ReplicaHealth(servers, { wantedReplicas, graceMs: config.repairGraceMs ?? 30_000 });
  const recoveries: RecoveryQueue = new RecoveryQueue({
    state,
    clock,
    logger,
    servers,
    health,
    leases,
    recovery,
    maxRecoveries: MAX_RECOVERIES,
  });
  const damaged = new DamagedChunks({ state, clock, logger, servers, wantedReplicas });
  const repair = new Repair({
    state,
    clock,
    random,
    logger,
    servers,
    leases,
    recoveries,
    health,
    onStray,
    made,
    damaged,
    config: {
      wantedReplicas,
      maxCopies: config.maxCopies ?? 32,
      maxCopiesPerServer: config.maxCopiesPerServer ?? MAX_CHUNK_COPIES,
      maxCopyBytesPerServer: MAX_COPY_BYTES_PER_SERVER,
      copyTimeoutMs: COPY_TIMEOUT_MS,
    },
  });
  const removals = new ServerRemovals({
    state,
    logger,
    servers,
    wantedReplicas,
    onLost: (handle) => recoveries.add(handle),
  });
  const recount = new Recount({ state, logger, wantedReplicas });
  const reaper = new OrphanReaper({
    state,
    logger,
    sessions: () => sessions,
    cuts,
    recalls: () => recalls,
    onGone: (inode) => holdings.forgetInode(inode),
  });
  const polls = new LockPolls();
  const locks = new LockTable(clock, (session) => polls.wake(session));
  const appends = new AppendLeases({
    clock,
    logger,
    silentMs: (session) => sessions.silentMs(session),
    disconnect: (session) => sessions.disconnect(session, 'others append to a file in place of this client'),
    isGraceOver: () => sessions.isGraceOver,
    fence: (inode) => leases.endAll(inode),
    onLost: (inode) => sessions.noteTail(inode),
    taken: new TakenAppends(state),
  });
  const holdings = new Holdings({ clock, random, mayHold: (session) => sessions.mayHold(session) });
  const recalls: Recalls = new Recalls({
    state,
    logger,
    holdings,
    nowMs: () => listening.nowMs(),
    peerOf: (session) => sessions.peerOf(session),
    silentMs: (session) => sessions.silentMs(session),
    disconnect: (session) => sessions.disconnect(session, 'what this client holds is changed without it'),
    noteEnded: (session) => sessions.noteHoldingsEnded(session, true),
    areAllTold: () => sessions.areHoldersTold,
  });
  const unpublished = new UnpublishedWrites(state, recalls);
  const lostLocks = new LostLocks({
    logger,
    locks,
    durable: () => state.durable(),
    fence: async (inode) => {
      await leases.endAll(inode);
      // Now nothing more arrives: who gets the lock looks at what is there.
      await unpublished.tell([inode]);
    },
  });
  const sessions: Sessions = new Sessions({
    state,
    random,
    listening,
    logger,
    locks,
    lostLocks,
    appends,
    recalls,
    sessionIds: new IdReserve(state, 'next-session', 1),
    events: {
      onGraceOver: () => {
        // Writers of before a restart may have died with it: what they left behind is cut and made alike.
        const left = new Set([...inherited.map(([, lease]) => inodeId(lease.inode)), ...filesBehind(state)]);
        for (const inode of left) reaper.cutTail(inode);
        for (const lease of leases.table.voided()) recoveries.add(lease.handle);
        appends.tick();
        recalls.tick();
        // Locks are granted from now on.
        unpublished.tellIfRoom(left);
      },
      onWriterDied: (inode) => reaper.cutTail(inode),
      onUnwritten: (inode) => leftBehind.unwritten(inode),
      onWriterLost: (inode) => unpublished.note(inode),
      onWritersGone: (inodes) => unpublished.tellIfRoom(inodes),
      onUnused: () => reaper.kick(),
    },
  });
  const collector = new GarbageCollector({
    state,
    clock,
    logger,
    servers,
    recalls,
    graceMs: config.garbageGraceMs ?? 10_000,
  });
  const stale: StaleReplicas = new StaleReplicas({
    state,
    clock,
    logger,
    servers,
    locks: () => leases.locks,
    isCopying: (handle, server) => repair.isCopying(handle, server),
    onDamaged: (handle, server) => recoveries.mend(handle, server),
  });
  return {
    state,
    listening,
    servers,
    sessions,
    newChunks,
    locks,
    lostLocks,
    polls,
    appends,
    holdings,
    recalls,
    leases,
    cuts,
    recovery,
    recoveries,
    repair,
    reaper,
    collector,
    stale,
    made,
    timeline,
    recount,
    removals,
    unpublished,
  };
}

function hasServers(state: State): boolean {
  for (const _ of state.range(prefixRange('S'))) return true;
  return false;
}
