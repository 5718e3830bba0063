/**
 * The connection to the master: register, report all replicas (replica-reports.ts), heartbeats; made again whenever it ends. Its
 * heartbeats keep the fence open (fence.ts).
 */
import type { Clock } from '../core/clock.js';
import { CairnError, asCairnError, errorNumber, hasCode, type ErrorCode } from '../core/errors.js';
import {
  CHUNKSERVER_FENCE_MS,
  FAILURE_REPORT_TIMEOUT_MS,
  HEARTBEAT_INTERVAL_MS,
  MASTER_RETRY_MAX_MS,
  MASTER_RETRY_MIN_MS,
} from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import type { Random } from '../core/random.js';
import { NEVER } from '../core/master-time.js';
import type { MasterTime } from '../core/master-time.js';
import { deferred, unawaited } from '../core/sync.js';
import type { ConnectedPeer } from '../protocol/endpoint.js';
import type { MasterMark, ServerLoadInit } from '../protocol/generated/messages.js';
import { MASTER_METHODS } from '../protocol/methods.js';
import { Fence } from './fence.js';
import { ReplicaReports } from './replica-reports.js';
import type { ForwardFailureReport } from './replication/mutations.js';
import { Removals } from './replication/removals.js';
import type { Replicas } from './replication/replicas.js';
import type { ChunkStore } from './store/chunk-store.js';
import { KeptMark } from './disks/master-mark.js';

export interface MasterLinkOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly store: ChunkStore;
  readonly replicas: Replicas;
  readonly connect: () => Promise<ConnectedPeer>;
  readonly activeRequests: () => number;
  /** A connection to the master ended. */
  readonly onEnded: () => void;
}

export class MasterLink {
  private peer: ConnectedPeer | undefined;
  private stopped = false;
  private running: Promise<void> = Promise.resolve();
  private readonly stopSignal = deferred<void>();
  /** What is on its way: the same is not told twice. */
  private readonly replicaReports = new Set<string>();

  /** The mark of the master that it registered with. */
  private joinedMark: MasterMark | null = null;
  private joinedTime: MasterTime | null = null;
  readonly mark: KeptMark;
  readonly fence: Fence;
  readonly removals: Removals;
  private readonly reports: ReplicaReports;

  constructor(private readonly options: MasterLinkOptions) {
    const { clock, logger, store, replicas } = options;
    this.fence = new Fence(clock, () => this.serverId);
    this.removals = new Removals({ store, replicas, logger });
    this.reports = new ReplicaReports({
      clock,
      logger,
      store,
      replicas,
      removals: this.removals,
      onCompared: (sentMs) => this.fence.heard(sentMs, this.joinedTime),
      onDone: async (peer) => {
        store.powerLoss.noteReported();
        this.mark.heard(this.joinedMark);
        unawaited(this.mark.save('now'), logger, 'writing the mark of the master down');
        await this.sayHeartbeat(peer);
      },
    });
    this.mark = new KeptMark({
      clock,
      logger,
      load: () => store.directories.mark,
      store: (mark) => store.directories.setMark(mark),
      highest: () => ({
        handle: Math.max(store.index.highest, store.aside.highest),
        leaseId: replicas.highestLease,
      }),
    });
  }

  /**
   * Connects and keeps connected. Resolves after the first attempt, successful or not; rejects when it showed that
   * this server can never join (another cluster, another secret).
   */
  async start(address: string): Promise<void> {
    let first: unknown;
    try {
      await this.join(address);
    } catch (error) {
      if (hasCode(error, 'EINVAL', 'UNAUTHENTICATED', 'PROTOCOL')) throw error;
      first = error;
    }
    // Heartbeats go on during the first report: what it has to delete may take longer than the master waits for them.
    this.running = this.run(address, first);
    this.running.catch((error: unknown) => this.options.logger.error({ reason: String(error) }, 'master link ended'));
    await this.reports.running;
  }

  async stop(): Promise<void> {
    this.stopped = true;
    this.stopSignal.resolve();
    this.peer?.close('the chunkserver stops');
    await this.running;
  }

  get clusterId(): string {
    return this.options.store.directories.identity?.clusterId ?? '';
  }

  get serverId(): number {
    return this.options.store.directories.identity?.serverId ?? 0;
  }

  /** Resolves when the master knows, or cannot be told in time. 'full': it keeps the members that are full. */
  async reportFailure(report: ForwardFailureReport): Promise<'recovers' | 'full'> {
    const { logger } = this.options;
    logger.warn({ ...report }, 'mutation failed on a replica: the chunk needs recovery');
    try {
      await this.peer?.call(MASTER_METHODS.reportForwardFailure, report, { timeoutMs: FAILURE_REPORT_TIMEOUT_MS });
    } catch (error) {
      if (hasCode(error, 'ENOSPC')) return 'full';
      logger.warn({ handle: report.handle, reason: asCairnError(error).message }, 'the master was not told');
    }
    return 'recovers';
  }

  /** Tells the master that this server's replica is damaged, unreadable or gone, by the error's code. Does not wait. */
  reportReplica(handle: number, version: number, error: unknown): void {
    const { logger } = this.options;
    const { code, message } = asCairnError(error);
    const errorCode = errorNumber(code === 'NO_REPLICA' || code === 'EIO' ? code : 'CORRUPT');
    const report = `${handle} ${version} ${errorCode}`;
    if (this.replicaReports.has(report)) return;
    this.replicaReports.add(report);
    logger.error({ handle, version, reason: message }, 'bad replica');
    const told = this.peer?.call(MASTER_METHODS.reportReplica, {
      handle,
      version,
      serverId: this.serverId,
      errorCode,
    });
    // Without a connection the report after the next registration tells what is gone.
    (told ?? Promise.resolve())
      .catch((cause: unknown) => {
        logger.warn({ handle, reason: asCairnError(cause).message }, 'the master was not told');
        if (code !== 'CORRUPT') this.reportSoon();
      })
      .finally(() => this.replicaReports.delete(report));
  }

  /** Many replicas were lost: reports all again. */
  reportSoon(): void {
    this.reports.soon();
  }

  private async run(address: string, firstFailure: unknown): Promise<void> {
    const { clock, random, logger } = this.options;
    let retryMs = MASTER_RETRY_MIN_MS;
    let failure = firstFailure;
    let said: ErrorCode | undefined;
    for (;;) {
      const peer = this.peer;
      if (peer !== undefined) {
        retryMs = MASTER_RETRY_MIN_MS;
        said = undefined;
        const reason = await this.beat(peer);
        this.peer = undefined;
        this.reports.end();
        this.options.onEnded();
        if (this.stopped) return;
        logger.warn({ reason }, 'connection to the master ended');
      } else {
        const { code, message } = asCairnError(failure);
        // One line when it begins, not one an attempt.
        if (said !== code) logger.warn({ code, reason: message }, 'the master cannot be reached: trying on');
        said = code;
      }
      // Spread, so that many servers do not come back to a restarted master in the same moment.
      await pause(clock, retryMs / 2 + random.below(retryMs), this.stopSignal.promise);
      if (this.stopped) return;
      retryMs = Math.min(retryMs * 2, MASTER_RETRY_MAX_MS);
      try {
        await this.join(address);
      } catch (error) {
        failure = error;
      }
    }
  }

  /** Connects, checks that it is the same cluster, registers, and begins the report. */
  private async join(address: string): Promise<void> {
    const { store, logger } = this.options;
    const peer = await this.options.connect();
    try {
      const known = store.directories.identity;
      this.refuseOtherCluster(peer.clusterId);
      const { reply } = await peer.call(MASTER_METHODS.register, {
        serverId: known?.serverId ?? 0,
        address,
        load: this.load(),
        mark: this.mark.current,
        disks: store.directories.states(this.fence.hasJoined),
      });
      this.refuseOtherCluster(reply.clusterId);
      if (known !== undefined && reply.renewed) {
        const now = { server: reply.serverId, before: known.serverId };
        logger.warn(
          now,
          'this chunkserver was removed from the cluster, or another one has its id: it joins anew, under another id',
        );
      } else if (known !== undefined && known.serverId !== reply.serverId) {
        throw new CairnError('EINVAL', `the master knows this server as ${reply.serverId}, not ${known.serverId}`);
      }
      await store.directories.setIdentity({ clusterId: reply.clusterId, serverId: reply.serverId });
      await store.rollbacks.begin(reply.rolledBack);
      this.fence.join(reply.masterTime?.epoch ?? NEVER.epoch);
      if (this.stopped) throw new CairnError('CANCELLED', 'the chunkserver stops');
      this.peer = peer;
      this.joinedMark = reply.mark;
      this.joinedTime = reply.masterTime;
      logger.info({ serverId: reply.serverId, clusterId: reply.clusterId, epoch: reply.epoch }, 'joined the cluster');
      this.reports.begin(peer);
    } catch (error) {
      peer.close('not joined');
      throw error;
    }
  }

  private refuseOtherCluster(clusterId: string): void {
    const mine = this.clusterId;
    if (mine !== '' && clusterId !== mine) {
      throw new CairnError(
        'EINVAL',
        `these data directories belong to cluster ${mine}, the master is of cluster ${clusterId}: ` +
          'start with the right master, or with empty data directories',
      );
    }
  }

  /** Heartbeats until the connection ends; returns why. */
  private async beat(peer: ConnectedPeer): Promise<string> {
    const { clock, logger } = this.options;
    const ended = peer.closed;
    let open = true;
    ended.then(() => (open = false)).catch(() => undefined);
    for (;;) {
      await pause(clock, HEARTBEAT_INTERVAL_MS, ended);
      if (!open) return ended;
      try {
        await this.sayHeartbeat(peer);
      } catch (error) {
        if (!open) return ended;
        logger.warn({ reason: asCairnError(error).message }, 'heartbeat failed');
        peer.close('heartbeat failed');
      }
    }
  }

  private async sayHeartbeat(peer: ConnectedPeer): Promise<void> {
    const sentMs = this.options.clock.monotonicMs();
    const request = {
      load: this.load(),
      reported: this.reports.isDone,
      disks: this.options.store.directories.states(true),
    };
    const { reply } = await peer.call(MASTER_METHODS.heartbeat, request, { timeoutMs: CHUNKSERVER_FENCE_MS });
    if (this.reports.isCompared) this.fence.heard(sentMs, reply.masterTime);
    // Not before the report is in: until then the next master, too, is to be told what the one before was.
    if (this.reports.isDone) this.mark.heard(reply.mark);
  }

  private load(): ServerLoadInit {
    const { store, activeRequests } = this.options;
    return {
      ...store.directories.space(),
      chunks: store.index.size,
      activeRequests: activeRequests(),
      aside: store.aside.size,
    };
  }
}

/** Waits for `delayMs`, or until `end` settles. Leaves no timer behind. */
async function pause(clock: Clock, delayMs: number, end: Promise<unknown>): Promise<void> {
  const due = deferred<void>();
  const timer = clock.setTimer(delayMs, due.resolve);
  await Promise.race([due.promise, end]);
  timer.cancel();
}
