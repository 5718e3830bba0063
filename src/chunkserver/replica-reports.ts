/**
 * Tells the master all replicas that are here, page by page, after each registration and whenever many were lost; does what it
 * says of each: delete it, set it aside, refuse readers, bring it back.
 */
import type { Clock } from '../core/clock.js';
import { asCairnError } from '../core/errors.js';
import { chunkHandle, chunkVersion } from '../core/ids.js';
import { MAX_REPORT_ENTRIES } from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import type { ConnectedPeer } from '../protocol/endpoint.js';
import type { ReplicaVersion } from '../protocol/generated/messages.js';
import { MASTER_METHODS } from '../protocol/methods.js';
import { demandOfOneReplica } from './replication/removals.js';
import type { Removals } from './replication/removals.js';
import type { Replicas } from './replication/replicas.js';
import type { ChunkStore } from './store/chunk-store.js';
import type { BegunSince } from './store/making.js';

export interface ReplicaReportsOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly store: ChunkStore;
  readonly replicas: Replicas;
  readonly removals: Removals;
  /** The master has had all pages, the last one sent at `sentMs`, and what it says that readers are not to get they do not get. */
  readonly onCompared: (sentMs: number) => void;
  /** The master has a whole report, and what it led to is done. */
  readonly onDone: (peer: ConnectedPeer) => Promise<void>;
}

/** What the answer to one page wants deleted: replicas of chunks that were removed. */
interface Unwanted {
  readonly chunks: readonly ReplicaVersion[];
  readonly begun: BegunSince;
}

export class ReplicaReports {
  /** The master has a whole report from this connection: it has named the stale replicas, and they are gone. */
  isDone = false;
  /** The master has a whole report from this connection: what is to be deleted for it, which no reader is sent to, may be there yet. */
  isCompared = false;
  /** A master has had a whole report from this process. */
  private everDone = false;
  /** What is under way is to begin anew. */
  private again = false;
  private peer: ConnectedPeer | undefined;
  /** Resolves with the end of the one that runs. */
  running: Promise<void> | undefined;

  constructor(private readonly options: ReplicaReportsOptions) {}

  /** Registered by a new connection. */
  begin(peer: ConnectedPeer): void {
    this.peer = peer;
    this.isDone = false;
    this.isCompared = false;
    this.again = true;
    this.start(peer);
  }

  /** The connection is over. */
  end(): void {
    this.peer = undefined;
  }

  /** Many replicas were lost: reports all again. */
  soon(): void {
    this.again = true;
    if (this.peer !== undefined) this.start(this.peer);
  }

  /** Reports all replicas, page by page; again from the start when replicas were lost meanwhile. One at a time. */
  private start(peer: ConnectedPeer): void {
    if (this.running !== undefined) return;
    const { logger } = this.options;
    this.running = this.reportAll(peer)
      .catch((error: unknown) => {
        logger.warn({ reason: asCairnError(error).message }, 'report to the master failed');
        peer.close('report failed');
      })
      .finally(() => {
        this.running = undefined;
        if (this.again && this.peer !== undefined && !this.peer.isClosed) this.start(this.peer);
      });
  }

  private async reportAll(peer: ConnectedPeer): Promise<void> {
    const { removals, logger } = this.options;
    this.again = false;
    await this.reportAside(peer);
    const unwanted: Unwanted[] = [];
    try {
      const { count, sentMs } = await this.reportPages(peer, unwanted);
      if (this.again || peer !== this.peer) return;
      // No reader is sent to what is to be deleted, and there may be much of it.
      this.isCompared = true;
      this.options.onCompared(sentMs);
      for (const { chunks, begun } of unwanted) await removals.remove(chunks, begun);
      if (this.again || peer !== this.peer) return;
      this.isDone = true;
      this.everDone = true;
      logger.info({ replicas: count }, 'replicas reported');
    } finally {
      for (const { begun } of unwanted) begun.end();
    }
    await this.options.onDone(peer);
  }

  /** Sends all pages, and notes in `unwanted` what the master wants deleted. Stops when the report is to begin anew. */
  private async reportPages(peer: ConnectedPeer, unwanted: Unwanted[]): Promise<{ count: number; sentMs: number }> {
    const { store, replicas: members, removals, clock } = this.options;
    let afterHandle = 0;
    let count = 0;
    let sentMs = clock.monotonicMs();
    for (let done = false; !done && !this.again;) {
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
      const isFirst = !this.everDone;
      const { afterPowerLoss, disksAway } = store.powerLoss;
      const power = { afterPowerLoss: isFirst && afterPowerLoss, disksAway: isFirst && disksAway };
      const begun = store.making.watch();
      let isKept = false;
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
        for (const replica of reply.aside) await removals.setAside(replica, begun);
        if (reply.delete.length > 0) {
          unwanted.push({ chunks: reply.delete, begun });
          isKept = true;
        }
      } finally {
        if (!isKept) begun.end();
      }
    }
    return { count, sentMs };
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
          await store.arrivals.restore(chunkHandle(handle), chunkVersion(version));
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
}
