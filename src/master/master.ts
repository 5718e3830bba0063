/**
 * The master: puts its parts together over the injected clock, network, disk and store, and gives them their turns.
 *
 *   service ──► namespace ──────────────► state (log, overlay, store)
 *      ├──────► sessions ──► reaper         ▲
 *      └──────► leases ──► recovery ────────┤
 *                 ▲           ▲             │
 *   servers ──► reports     repair ──► collector
 */
import { asCairnError, CairnError } from '../core/errors.js';
import { sleep } from '../core/clock.js';
import type { Clock, Timer } from '../core/clock.js';
import type { Disk } from '../core/disk/disk.js';
import { inodeId } from '../core/ids.js';
import type { ChunkHandle, ServerId } from '../core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_ACTIVE_LEASES, MAX_CHUNK_COPIES, MAX_SPARE_CHUNKS } from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import type { Random } from '../core/random.js';
import { deferred, Semaphore, unawaited } from '../core/sync.js';
import { servePeers } from '../protocol/endpoint.js';
import type { PeerServer } from '../protocol/endpoint.js';
import { MASTER_METHODS } from '../protocol/methods.js';
import type { Network } from '../protocol/transport.js';
import { AppendLeases } from './sessions/append-leases.js';
import { Collector } from './maintenance/garbage-collector.js';
import { openIdentity } from './identity.js';
import { IdReserve } from './state/id-reserve.js';
import { prefixRange } from './state/keys.js';
import { ChunkLeases } from './chunks/leases.js';
import { LeaseCuts } from './chunks/lease-cuts.js';
import { filesBehind, LeftBehind } from './tables/left-behind.js';
import { ListeningTime } from './servers/listening-time.js';
import { LockPolls } from './service/lock-methods.js';
import { LockTable } from './sessions/locks.js';
import { LostLocks } from './sessions/lost-locks.js';
import { LogState } from './state/log-state.js';
import { NewChunks } from './chunks/new-chunks.js';
import { OrphanReaper } from './maintenance/orphan-reaper.js';
import { Recount } from './maintenance/recount.js';
import { Recovery } from './chunks/recovery.js';
import { Repair } from './maintenance/repair.js';
import { RecoveryQueue } from './chunks/recovery-queue.js';
import { ReplicaHealth } from './servers/replica-health.js';
import { ServerRemovals } from './maintenance/server-removal.js';
import { ServerRegistry } from './servers/servers.js';
import { masterHandlers } from './service/methods.js';
import { Sessions } from './sessions/sessions.js';
import { checkState } from './state/state-check.js';
import { MadeReplicas } from './chunks/made-replicas.js';
import { StaleReplicas } from './chunks/stale-replicas.js';
import type { State } from './state/state.js';
import type { Store } from './store/store.js';
import { Timeline } from './state/timeline.js';
import { allLeases } from './tables/lease-records.js';
import { UnpublishedWrites } from './sessions/unpublished.js';

export interface MasterDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly disk: Disk;
  readonly store: Store;
  readonly logger: Logger;
}

export interface MasterConfig {
  /** host:port; port 0 takes a free one. */
  readonly listen: string;
  readonly secret: Buffer;
  /** Of the operation log. */
  readonly logDirectory: string;
  /** Replicas that a chunk shall have (1 to MAX_REPLICAS), and the least with which it is written. */
  readonly wantedReplicas: number;
  readonly minReplicas: number;
  /** A chunkserver that is gone for so long is not waited for: its chunks are copied elsewhere. Default 30 s. */
  readonly repairGraceMs?: number;
  /** Chunks that are copied at a time, in all and by one server. Default 32 and 8. */
  readonly maxCopies?: number;
  readonly maxCopiesPerServer?: number;
  /** A deleted chunk's replicas are kept for so long. Default 10 s. */
  readonly garbageGraceMs?: number;
  /** Chunks that are made ahead of need at most. Default MAX_SPARE_CHUNKS. */
  readonly maxSpareChunks?: number;
  /** Space that is kept for when the disk is full. Default MASTER_RESERVE_BYTES. */
  readonly reserveBytes?: number;
  /** Looks through all of the state before it serves (state-check.ts). */
  readonly checksState?: boolean;
  /** Pause between two rounds of the background work. Default 250 ms. */
  readonly backgroundIntervalMs?: number;
}

const HANDLE_RESERVE = 1024;
const LEASE_RESERVE = 4096;
const RECOVERY_TIMEOUT_MS = 30_000;
const SUSPECT_GRACE_MS = 30_000;
const COPY_TIMEOUT_MS = 120_000;
const MAX_RECOVERIES = 8;
/** Two whole chunks, or many small ones: clients need the disks and the network too. */
const MAX_COPY_BYTES_PER_SERVER = 2 * CHUNK_SIZE_BYTES;
/** Leases that are ended at a time. */
const LEASE_ENDS = 16;
/** Pause when background work has more to do: others get their turn. */
const BUSY_INTERVAL_MS = 5;

interface Parts {
  readonly state: LogState;
  readonly listening: ListeningTime;
  readonly servers: ServerRegistry;
  readonly sessions: Sessions;
  readonly newChunks: NewChunks;
  readonly locks: LockTable;
  readonly lostLocks: LostLocks;
  readonly polls: LockPolls;
  readonly appends: AppendLeases;
  readonly leases: ChunkLeases;
  readonly cuts: LeaseCuts;
  readonly recoveries: RecoveryQueue;
  readonly repair: Repair;
  readonly reaper: OrphanReaper;
  readonly unpublished: UnpublishedWrites;
  readonly collector: Collector;
  readonly stale: StaleReplicas;
  readonly made: MadeReplicas;
  readonly timeline: Timeline;
  readonly recount: Recount;
  readonly removals: ServerRemovals;
}

export class Master {
  private parts: Parts | undefined;
  private server: PeerServer | undefined;
  private readonly timers = new Set<Timer>();
  private stopping = false;
  private readonly failure = deferred<CairnError>();

  constructor(
    private readonly deps: MasterDeps,
    private readonly config: MasterConfig,
  ) {
    if (config.minReplicas < 1 || config.minReplicas > config.wantedReplicas) {
      throw new CairnError('EINVAL', 'minReplicas must be from 1 to wantedReplicas');
    }
  }

  /** Resolves when the master cannot go on (its log or store failed); the process should end and be started again. */
  get failed(): Promise<CairnError> {
    return this.failure.promise;
  }

  async start(): Promise<{ address: string; clusterId: string }> {
    const { deps, config } = this;
    const { clock, random, logger } = deps;
    const state = await LogState.open({
      ...{ store: deps.store, disk: deps.disk, directory: config.logDirectory, clock, logger },
      onFailure: (error) => this.failure.resolve(error),
      ...(config.reserveBytes === undefined ? {} : { reserveBytes: config.reserveBytes }),
    });
    if (config.checksState === true) {
      logger.info({ entries: checkState(state) }, 'the metadata was looked through: it is of one moment');
    }
    const clusterId = await openIdentity(state, { clock, random });
    const startedMs = clock.monotonicMs();
    const parts = this.compose(state);
    this.parts = parts;
    await state.durable();
    const identity = {
      clusterId,
      get epoch() {
        return state.epoch;
      },
      get lossEpoch() {
        return state.lossEpoch;
      },
    };
    const { recovery, ...others } = parts;
    const handlers = masterHandlers({
      ...others,
      ...{ recovery, clock, logger, identity },
      // The epoch as it is now: one that was put back has passed by then all that anybody heard of (timeline.ts).
      masterTime: () => ({ epoch: state.epoch, ms: Math.floor(clock.monotonicMs() - startedMs) }),
      wantedReplicas: config.wantedReplicas,
      lastSequence: () => state.lastSequence,
      isShortOfSpace: () => state.isShortOfSpace,
    });
    parts.sessions.start();
    this.server = await servePeers(
      { network: deps.network, clock, random, logger, secret: config.secret, role: 'master' },
      config.listen,
      { table: MASTER_METHODS, handlers, accept: ['client', 'chunkserver'], clusterId: () => clusterId },
    );
    this.startBackground(parts);
    logger.info({ address: this.server.address, clusterId, epoch: state.epoch }, 'master serves');
    return { address: this.server.address, clusterId };
  }

  private compose(state: LogState): Parts & { recovery: Recovery } {
    const { clock, random, logger } = this.deps;
    const { config } = this;
    const { wantedReplicas, minReplicas } = config;
    const handles = new IdReserve(state, 'next-handle', HANDLE_RESERVE);
    const leaseIds = new IdReserve(state, 'next-lease', LEASE_RESERVE);
    const timeline = new Timeline({
      ...{ state, clock, random, logger, handles, leaseIds },
      expectsServers: hasServers(state),
      onBranch: () => {
        newChunks.dropAll();
        sessions.disconnectAll('the state of the master was put back');
      },
    });
    const onStray = (handle: ChunkHandle, version: number, server: ServerId): void => {
      recovery.mayBeMended(handle);
      stale.add(handle, version, server);
    };
    const listening = new ListeningTime(clock, logger);
    const servers = new ServerRegistry({
      ...{ state, clock, listening, logger, serverIds: new IdReserve(state, 'next-server', 1) },
      events: {
        onDown: (server) => {
          newChunks.dropServer(server.id);
          for (const handle of leases.voidLeasesOf(server.id)) recoveries.add(handle);
        },
      },
    });
    const chunkConfig = {
      ...{ wantedReplicas, minReplicas },
      ...{ recoveryTimeoutMs: RECOVERY_TIMEOUT_MS, suspectGraceMs: SUSPECT_GRACE_MS },
    };
    const leftBehind: LeftBehind = new LeftBehind(
      state,
      (inode): boolean => !sessions.settled || sessions.isWritten(inode) || reaper.isToCut(inode),
    );
    const recovery: Recovery = new Recovery({
      ...{ state, clock, logger, servers, leaseIds, config: chunkConfig, onStray, leftBehind },
      stale: (handle) => stale.of(handle),
    });
    const made = new MadeReplicas();
    const newChunks = new NewChunks({
      ...{ clock, random, logger, servers, handles, leaseIds, config: chunkConfig, onStray, made },
      maxSpares: config.maxSpareChunks ?? MAX_SPARE_CHUNKS,
    });
    const leases = new ChunkLeases({
      ...{ state, clock, random, logger, servers, recovery, newChunks, leaseIds, config: chunkConfig, leftBehind },
    });
    const inherited = allLeases(state);
    leases.inherit(inherited);
    const cuts = new LeaseCuts({ state, logger, servers, leases });
    const health = new ReplicaHealth(servers, { wantedReplicas, graceMs: config.repairGraceMs ?? 30_000 });
    const recoveries: RecoveryQueue = new RecoveryQueue({
      ...{ state, clock, logger, servers, health, leases, recovery, maxRecoveries: MAX_RECOVERIES },
    });
    const repair = new Repair({
      ...{ state, clock, random, logger, servers, leases, recoveries, health, onStray, made },
      config: {
        wantedReplicas,
        maxCopies: config.maxCopies ?? 32,
        maxCopiesPerServer: config.maxCopiesPerServer ?? MAX_CHUNK_COPIES,
        maxCopyBytesPerServer: MAX_COPY_BYTES_PER_SERVER,
        copyTimeoutMs: COPY_TIMEOUT_MS,
      },
    });
    const removals = new ServerRemovals({
      ...{ state, logger, servers, wantedReplicas },
      onLost: (handle) => recoveries.add(handle),
    });
    const recount = new Recount({ state, logger, wantedReplicas });
    const reaper = new OrphanReaper({ state, logger, sessions: () => sessions, cuts });
    const polls = new LockPolls();
    const locks = new LockTable(clock, (session) => polls.wake(session));
    const appends = new AppendLeases({
      ...{ clock, logger },
      silentMs: (session) => sessions.silentMs(session),
      disconnect: (session) => sessions.disconnect(session, 'others append to a file in place of this client'),
      isSettled: () => sessions.settled,
      fence: (inode) => leases.endAll(inode),
      onLost: (inode) => sessions.noteTail(inode),
    });
    const unpublished = new UnpublishedWrites(state);
    const lostLocks = new LostLocks({
      ...{ logger, locks },
      fence: async (inode) => {
        await leases.endAll(inode);
        // Now nothing more arrives: who gets the lock looks at what is there.
        unpublished.tell([inode]);
      },
    });
    const sessions: Sessions = new Sessions({
      ...{ state, random, listening, logger, locks, lostLocks, appends },
      sessionIds: new IdReserve(state, 'next-session', 1),
      events: {
        onSettled: () => {
          // Writers of before a restart may have died with it: what they left behind is cut and made alike.
          const left = new Set([...inherited.map(([, lease]) => inodeId(lease.inode)), ...filesBehind(state)]);
          for (const inode of left) reaper.cutTail(inode);
          for (const lease of leases.table.voided()) recoveries.add(lease.handle);
          appends.tick();
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
    const collector = new Collector({
      ...{ state, clock, logger, servers },
      graceMs: config.garbageGraceMs ?? 10_000,
    });
    const stale: StaleReplicas = new StaleReplicas({
      ...{ state, clock, logger, servers, leases: () => leases },
      isCopying: (handle, server) => repair.isCopying(handle, server),
      onDamaged: (handle, server) => recoveries.mend(handle, server),
    });
    return {
      ...{ state, listening, servers, sessions, newChunks, locks, lostLocks, polls, appends },
      ...{
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
      },
    };
  }

  private startBackground(parts: Parts): void {
    const {
      state,
      listening,
      servers,
      sessions,
      appends,
      lostLocks,
      newChunks,
      leases,
      repair,
      reaper,
      collector,
      recount,
      removals,
    } = parts;
    const idleMs = this.config.backgroundIntervalMs ?? 250;
    this.repeat('liveness', () => {
      listening.tick();
      servers.tick();
      sessions.tick();
      appends.tick();
      lostLocks.tick();
      return 1_000;
    });
    this.repeat('disk space', async () => {
      await state.watchSpace();
      return 1_000;
    });
    this.repeat('spare chunks', () => {
      newChunks.tick();
      return 1_000;
    });
    this.repeat('repair', () => {
      repair.tick();
      return idleMs * 4;
    });
    this.repeat('recount', () => (recount.tick() ? BUSY_INTERVAL_MS : idleMs * 40));
    this.repeat('removed servers', () => (removals.tick() ? BUSY_INTERVAL_MS : idleMs * 4));
    this.repeat('orphans', () => (reaper.tick() ? BUSY_INTERVAL_MS : idleMs));
    this.repeat('unpublished writes', () => (parts.unpublished.tick() ? BUSY_INTERVAL_MS : idleMs));
    this.repeat('stale replicas', () => {
      parts.stale.tick();
      return idleMs;
    });
    this.repeat('garbage', async () => ((await collector.tick()) ? BUSY_INTERVAL_MS : idleMs));
    this.repeat('leases', async () => ((await this.endLeases(leases)) ? BUSY_INTERVAL_MS : idleMs * 4));
  }

  /** Ends some of the leases that lapsed, or that are too many. Returns true when there may be more. */
  private async endLeases(leases: ChunkLeases): Promise<boolean> {
    const nowMs = leases.table.size >= MAX_ACTIVE_LEASES ? Infinity : this.deps.clock.monotonicMs();
    const lapsed = leases.table.lapsed(nowMs, LEASE_ENDS * 8);
    const places = new Semaphore(LEASE_ENDS);
    await Promise.all(
      lapsed.map(async (lease) => {
        const release = await places.acquire();
        try {
          await leases.end(lease);
        } catch (error) {
          this.deps.logger.info(
            { chunk: lease.handle, error: asCairnError(error).message },
            'lease waits for recovery',
          );
        } finally {
          release();
        }
      }),
    );
    return lapsed.length === LEASE_ENDS * 8;
  }

  /** Runs `work` again and again; it says after how many milliseconds. A failure is logged and does not end it. */
  private repeat(what: string, work: () => number | Promise<number>): void {
    const run = async (): Promise<void> => {
      let delayMs = 1_000;
      try {
        delayMs = await work();
      } catch (error) {
        if (this.stopping) return;
        this.deps.logger.error({ work: what, error: asCairnError(error).message }, 'background work failed');
      }
      schedule(delayMs);
    };
    const schedule = (delayMs: number): void => {
      if (this.stopping) return;
      const timer = this.deps.clock.setTimer(delayMs, () => {
        this.timers.delete(timer);
        unawaited(run(), this.deps.logger, what);
      });
      this.timers.add(timer);
    };
    schedule(0);
  }

  /** For tests of a crash: the listener is freed as by the end of the process, nothing else happens. */
  async abandon(): Promise<void> {
    this.stopping = true;
    for (const timer of this.timers) timer.cancel();
    this.parts?.recoveries.stop();
    this.parts?.repair.stop();
    this.parts?.timeline.stop();
    await this.server?.close();
  }

  /** Ends every connection, writes all to the store. Chunkservers and clients go on with the next master. */
  async stop(): Promise<void> {
    if (this.stopping) return;
    this.stopping = true;
    for (const timer of this.timers) timer.cancel();
    this.parts?.recoveries.stop();
    this.parts?.repair.stop();
    this.parts?.timeline.stop();
    await this.server?.close();
    // What was cut short by the end of the connections comes to its end first.
    await sleep(this.deps.clock, 0);
    await this.parts?.state.stop();
    this.deps.logger.info({}, 'master stopped');
  }
}

function hasServers(state: State): boolean {
  for (const _ of state.range(prefixRange('S'))) return true;
  return false;
}
