/**
 * The connection to the master: register, report all replicas, heartbeats; made again whenever it ends. It also knows
 * whether this server may serve: not when the master has been silent for so long that it may have taken it for dead.
 */
import type { Clock } from '../core/clock.js';
import { CairnError, asCairnError, errorNumber, hasCode, type ErrorCode } from '../core/errors.js';
import { chunkHandle, chunkVersion, type ChunkHandle, type ChunkVersion } from '../core/ids.js';
import {
  CHUNKSERVER_FENCE_MS,
  HEARTBEAT_INTERVAL_MS,
  MASTER_RETRY_MAX_MS,
  MASTER_RETRY_MIN_MS,
  MAX_REPORT_ENTRIES,
} from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import { lagsBehind, later, NEVER } from '../core/master-time.js';
import type { MasterTime } from '../core/master-time.js';
import type { Random } from '../core/random.js';
import { deferred, unawaited } from '../core/sync.js';
import type { MasterMark, ReplicaVersion, ServerLoadInit } from '../protocol/generated/messages.js';
import { MASTER_METHODS } from '../protocol/methods.js';
import type { ConnectedPeer } from '../protocol/endpoint.js';
import type { ChunkStore } from './store/chunk-store.js';
import type { BegunSince } from './store/making.js';
import { KeptMark } from './store/master-mark.js';
import type { ForwardFailureReport } from './replication/mutations.js';
import type { Replicas } from './replication/replicas.js';

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

/** Time for a report of a failure to reach the master before the writer is told anyway. */
const FAILURE_REPORT_TIMEOUT_MS = 2_000;
/** Errors at one replica, for which a report does not fail: or one bad file would keep the whole server from joining. */
const OF_ONE_REPLICA: readonly ErrorCode[] = [
  ...(['UNAVAILABLE', 'TIMEOUT', 'NO_REPLICA', 'CORRUPT', 'EIO', 'ENOSPC', 'EDQUOT'] as const),
  ...(['EROFS', 'ENODEV', 'ENXIO'] as const),
];
/** Deletions of one request that run at the same time. */
const DELETE_WIDTH = 8;

export class MasterLink {
  private peer: ConnectedPeer | undefined;
  /** When the last heartbeat was sent that the master answered, knowing this server's replicas. */
  private heardMs = -Infinity;
  /** The latest time of the master that an answer to this server came from. */
  private masterTime: MasterTime = NEVER;
  /** The master has a whole report from this connection: it has named the stale replicas, and they are gone. */
  private reported = false;
  /** A master has had a whole report from this process. */
  private everReported = false;
  /** The master has said once to this process which of its directories it knows in a newer state. */
  private joined = false;
  private stopped = false;
  private running: Promise<void> = Promise.resolve();
  private readonly stopSignal = deferred<void>();
  private reportAgain = false;
  private reporting: Promise<void> | undefined;
  private readonly replicaReports = new Set<number>();

  /** The mark of the master that it registered with. */
  private joinedMark: MasterMark | null = null;
  readonly mark: KeptMark;

  constructor(private readonly options: MasterLinkOptions) {
    const { clock, logger, store, replicas } = options;
    this.mark = new KeptMark({
      ...{ clock, logger, load: () => store.mark, store: (mark) => store.setMark(mark) },
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
    await this.reporting;
  }

  async stop(): Promise<void> {
    this.stopped = true;
    this.stopSignal.resolve();
    this.peer?.close('the chunkserver stops');
    await this.running;
  }

  get clusterId(): string {
    return this.options.store.identity?.clusterId ?? '';
  }

  get serverId(): number {
    return this.options.store.identity?.serverId ?? 0;
  }

  /** Fails with UNAVAILABLE until it is known whether what is here is the newest state of it. */
  refuseUnjoined(): void {
    if (!this.joined) throw new CairnError('UNAVAILABLE', `chunkserver ${this.serverId} is about to join`);
  }

  /**
   * Fails with UNAVAILABLE while the master may have given this server up: by this machine's clock, or, as that stands
   * still while the machine is suspended, by what a reader knows of the master's.
   */
  refuseFenced(known?: MasterTime | null): void {
    const silentMs = this.options.clock.monotonicMs() - this.heardMs;
    const lags = lagsBehind(this.masterTime, known ?? NEVER);
    if (silentMs > CHUNKSERVER_FENCE_MS || lags) {
      throw new CairnError('UNAVAILABLE', `chunkserver ${this.serverId} has not heard from the master: try another`);
    }
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
    if (this.replicaReports.has(handle)) return;
    this.replicaReports.add(handle);
    const { code, message } = asCairnError(error);
    logger.error({ handle, version, reason: message }, 'bad replica');
    const errorCode = errorNumber(code === 'NO_REPLICA' || code === 'EIO' ? code : 'CORRUPT');
    const told = this.peer?.call(MASTER_METHODS.reportReplica, {
      ...{ handle, version, serverId: this.serverId, errorCode },
    });
    // Without a connection the report after the next registration tells what is gone.
    (told ?? Promise.resolve())
      .catch((cause: unknown) => {
        logger.warn({ handle, reason: asCairnError(cause).message }, 'the master was not told');
        if (code !== 'CORRUPT') this.reportSoon();
      })
      .finally(() => this.replicaReports.delete(handle));
  }

  /** Many replicas were lost: reports all again. */
  reportSoon(): void {
    this.reportAgain = true;
    if (this.peer !== undefined) this.report(this.peer);
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
      const known = store.identity;
      this.refuseOtherCluster(peer.clusterId);
      const { reply } = await peer.call(MASTER_METHODS.register, {
        serverId: known?.serverId ?? 0,
        address,
        load: this.load(),
        mark: this.mark.current,
        disks: store.disks(this.joined),
      });
      this.refuseOtherCluster(reply.clusterId);
      if (known !== undefined && reply.renewed) {
        const now = { server: reply.serverId, before: known.serverId };
        logger.warn(now, 'this chunkserver was removed from the cluster: it joins anew, under another id');
      } else if (known !== undefined && known.serverId !== reply.serverId) {
        throw new CairnError('EINVAL', `the master knows this server as ${reply.serverId}, not ${known.serverId}`);
      }
      await store.setIdentity({ clusterId: reply.clusterId, serverId: reply.serverId });
      await store.rollBack(reply.rolledBack);
      this.joined = true;
      if (this.stopped) throw new CairnError('CANCELLED', 'the chunkserver stops');
      this.peer = peer;
      this.masterTime = reply.masterTime ?? NEVER;
      this.reported = false;
      this.joinedMark = reply.mark;
      logger.info({ serverId: reply.serverId, clusterId: reply.clusterId, epoch: reply.epoch }, 'joined the cluster');
      this.reportAgain = true;
      this.report(peer);
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
    const request = { load: this.load(), reported: this.reported, disks: this.options.store.disks(true) };
    const { reply } = await peer.call(MASTER_METHODS.heartbeat, request, { timeoutMs: CHUNKSERVER_FENCE_MS });
    if (reply.masterTime !== null) this.masterTime = later(this.masterTime, reply.masterTime);
    // Not before the report is in: until then the next master, too, is to be told what the one before was.
    if (this.reported) this.mark.heard(reply.mark);
    if (this.reported) this.heardMs = Math.max(this.heardMs, sentMs);
  }

  private load(): ServerLoadInit {
    const { store, activeRequests } = this.options;
    return {
      ...store.space(),
      ...{ chunks: store.index.size, activeRequests: activeRequests(), aside: store.aside.size },
    };
  }

  /** Reports all replicas, page by page; again from the start when replicas were lost meanwhile. One at a time. */
  private report(peer: ConnectedPeer): void {
    if (this.reporting !== undefined) return;
    const { logger } = this.options;
    this.reporting = this.reportPages(peer)
      .catch((error: unknown) => {
        logger.warn({ reason: asCairnError(error).message }, 'report to the master failed');
        peer.close('report failed');
      })
      .finally(() => {
        this.reporting = undefined;
        if (this.reportAgain && this.peer !== undefined && !this.peer.isClosed) this.report(this.peer);
      });
  }

  private async reportPages(peer: ConnectedPeer): Promise<void> {
    const { store, replicas: members, logger, clock } = this.options;
    this.reportAgain = false;
    let afterHandle = 0;
    let count = 0;
    let sentMs = clock.monotonicMs();
    await this.reportAside(peer);
    for (let done = false; !done && !this.reportAgain;) {
      // Read and sent in the same tick: what the master asks for afterwards comes after this page.
      const page = store.index.page(afterHandle, MAX_REPORT_ENTRIES);
      const present = page.filter((entry) => !store.isAbsent(entry));
      const last = page.at(-1);
      done = last === undefined || page.length < MAX_REPORT_ENTRIES;
      const upToHandle = done || last === undefined ? 0 : last.handle;
      // One that a master went on without has missed something, also where this master does not know that: it was put back.
      const replicas = present.map(({ handle, version, suspect }) => {
        return { handle, version, suspect: suspect || members.isLeftOut(handle) };
      });
      sentMs = clock.monotonicMs();
      const isFirst = !this.everReported;
      const power = { afterPowerLoss: isFirst && store.afterPowerLoss, disksAway: isFirst && store.disksAway };
      const begun = store.making.watch();
      try {
        const request = { afterHandle, upToHandle, replicas, ...power };
        const { reply } = await peer.call(MASTER_METHODS.report, request);
        // The master takes a page with many losses bit by bit.
        if (reply.upToHandle !== 0) done = false;
        afterHandle = reply.upToHandle || upToHandle;
        count += page.filter(({ handle }) => afterHandle === 0 || handle <= afterHandle).length;
        for (const { handle, version } of reply.leaveOut) {
          if (!begun.has(chunkHandle(handle))) members.refuseReaders(chunkHandle(handle), version);
        }
        await this.remove(reply.delete, begun);
        for (const replica of reply.aside) await this.setAside(replica);
      } finally {
        begun.end();
      }
    }
    if (this.reportAgain || peer !== this.peer) return;
    this.reported = true;
    this.everReported = true;
    this.mark.heard(this.joinedMark);
    unawaited(this.mark.save('now'), logger, 'writing the mark of the master down');
    this.heardMs = Math.max(this.heardMs, sentMs);
    logger.info({ replicas: count }, 'replicas reported');
    await this.sayHeartbeat(peer);
  }

  /** Offers what is kept aside, and brings back what the master knows. */
  private async reportAside(peer: ConnectedPeer): Promise<void> {
    const { store, logger } = this.options;
    let restored = 0;
    for (let after = -1; ;) {
      const page = store.aside.page(after, MAX_REPORT_ENTRIES);
      const last = page.at(-1);
      if (last === undefined) break;
      after = last.handle;
      const replicas = page.map(({ handle, version }) => ({ handle, version }));
      const { reply } = await peer.call(MASTER_METHODS.reportAside, { replicas });
      for (const { handle, version } of reply.restore) {
        try {
          await store.restore(chunkHandle(handle), chunkVersion(version));
          restored++;
        } catch (error) {
          demandOfOneReplica(error);
          // It is offered again by the next report.
          logger.error(
            { handle, version, reason: asCairnError(error).message },
            'a replica that is aside cannot be used',
          );
        }
      }
    }
    if (restored > 0)
      logger.warn({ count: restored, left: store.aside.size }, 'replicas that were aside are back in service');
  }

  /** While its disk does not answer or fails at it, a replica is only known here no more: the next start reports it again. */
  private async setAside({ handle: number, version: least }: ReplicaVersion): Promise<void> {
    const { replicas, store, logger } = this.options;
    const [handle, version] = [chunkHandle(number), chunkVersion(least)];
    if (store.index.get(handle) === undefined) return;
    let isGivenUp = false;
    const put = async (): Promise<void> => {
      if (!isGivenUp) await store.setAside(handle, version);
    };
    try {
      await store.answering(handle, () => replicas.exclusive(handle, put));
    } catch (error) {
      demandOfOneReplica(error);
      isGivenUp = true;
      store.disown(handle, version);
      const reason = asCairnError(error).message;
      logger.warn({ handle, version, reason }, 'unknown replica left where it is: the next start reports it again');
    }
  }

  /**
   * Deletes replicas, each at its version or lower and not begun since the moment of `begun`. While its disk does not
   * answer, one is only known here no more.
   */
  async remove(versions: readonly ReplicaVersion[], begun: BegunSince): Promise<void> {
    const left = [...versions];
    const worker = async (): Promise<void> => {
      for (let next = left.pop(); next !== undefined; next = left.pop()) {
        await this.removeOne(chunkHandle(next.handle), chunkVersion(next.version), begun);
      }
    };
    await Promise.all(Array.from({ length: DELETE_WIDTH }, worker));
  }

  private async removeOne(handle: ChunkHandle, version: ChunkVersion, begun: BegunSince): Promise<void> {
    const { replicas, store, logger } = this.options;
    let isGivenUp = false;
    const remove = async (): Promise<void> => {
      if (!isGivenUp) await store.remove(handle, version, begun);
    };
    try {
      // One that is not there may be about to be: the store lets it come to its end first.
      await store.answering(handle, () =>
        store.index.get(handle) === undefined ? remove() : replicas.exclusive(handle, remove),
      );
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) throw error;
      isGivenUp = true;
      if (!begun.has(handle)) store.disown(handle, version);
      logger.info({ handle, version }, 'replica left on a disk that does not answer: the next start deletes it');
    }
  }
}

function demandOfOneReplica(error: unknown): void {
  if (!hasCode(error, ...OF_ONE_REPLICA)) throw error;
}

/** Waits for `delayMs`, or until `end` settles. Leaves no timer behind. */
async function pause(clock: Clock, delayMs: number, end: Promise<unknown>): Promise<void> {
  const due = deferred<void>();
  const timer = clock.setTimer(delayMs, due.resolve);
  await Promise.race([due.promise, end]);
  timer.cancel();
}
