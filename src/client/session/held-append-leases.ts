/**
 * The append leases of this client: while it holds one, nobody else puts bytes at the end of the file or moves it, so it
 * appends without asking. It comes with the open when nobody else has it, or is asked for by the first append. It goes
 * when another client wants it, which a poll of the master tells, or when nothing was appended for a while; before,
 * all that was appended is written out and published.
 */
import type { Clock, Timer } from '../../core/clock.js';
import { CairnError, asCairnError } from '../../core/errors.js';
import { inodeId, type InodeId } from '../../core/ids.js';
import {
  APPEND_ASK_TIMEOUT_MS,
  APPEND_HOLD_MS,
  APPEND_IDLE_MS,
  APPEND_POLL_AFTER_MS,
  MAX_CHUNKS_PER_PAGE,
  MAX_PAYLOAD_BYTES,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { deferred, watched, unawaited } from '../../core/sync.js';
import type { Deferred } from '../../core/sync.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import { fromWireAttributes, type InodeAttributes } from './wire-attributes.js';
import type { MasterConnection } from './master-connection.js';
import { Backoff } from './retry.js';

export interface AppendLeasesOptions {
  readonly master: MasterConnection;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** What was written to the file is there for others. */
  readonly publish: (inode: InodeId) => Promise<void>;
  /** The lease was granted, and this is what the file is. */
  readonly learn: (attributes: InodeAttributes) => void;
  /** What was appended and is not published must not be written any more: others append there. */
  readonly discard: (inode: InodeId) => void;
}

/** A write that fills a request, but for a page, may go on in the next one: its parts stay together for so long. */
const FULL_REQUEST_BYTES = MAX_PAYLOAD_BYTES - 4096;
const CONTINUATION_MS = 100;

export interface AppendLease {
  readonly inode: InodeId;
  /** Appends under way. */
  users: number;
  recalled: boolean;
  /** The connection broke since: whether it is still held, and where the file ends, is to be asked. */
  doubtful: boolean;
  /** Monotonic. When recalled it is kept until then, so that a burst of appends need not ask for each. */
  holdUntilMs: number;
  lastUsedMs: number;
  handing: Promise<void> | undefined;
}

export class HeldAppendLeases {
  private readonly held = new Map<InodeId, AppendLease>();
  private readonly asking = new Map<InodeId, Promise<void>>();
  private readonly releasing = new Map<InodeId, Promise<void>>();
  /** Recalled while it is being asked for. */
  private readonly recalledEarly = new Set<InodeId>();
  private polling = false;
  private timer: Timer | undefined;
  private pollTimer: Timer | undefined;
  private stopped = false;
  /** Counts leases given up: an answer from before says nothing about one. */
  private releases = 0;

  constructor(private readonly options: AppendLeasesOptions) {}

  get moment(): number {
    return this.releases;
  }

  /** Begins an append of `bytes`; undefined when `begin` must be awaited instead. */
  tryBegin(inode: InodeId, bytes: number): AppendLease | undefined {
    const lease = this.held.get(inode);
    if (lease === undefined || lease.handing !== undefined || lease.doubtful) return undefined;
    const nowMs = this.options.clock.monotonicMs();
    if (lease.recalled && nowMs >= lease.holdUntilMs) return undefined;
    lease.users++;
    lease.lastUsedMs = nowMs;
    if (bytes > FULL_REQUEST_BYTES) lease.holdUntilMs = nowMs + CONTINUATION_MS;
    else if (lease.holdUntilMs > nowMs + APPEND_HOLD_MS) lease.holdUntilMs = nowMs + APPEND_HOLD_MS;
    return lease;
  }

  async begin(inode: InodeId, bytes: number): Promise<AppendLease> {
    const deadline = this.options.clock.monotonicMs() + APPEND_ASK_TIMEOUT_MS;
    for (;;) {
      const begun = this.tryBegin(inode, bytes);
      if (begun !== undefined) return begun;
      const lease = this.held.get(inode);
      if (lease?.handing !== undefined) await lease.handing;
      else if (lease?.recalled === true && !lease.doubtful) await this.handOver(lease);
      else await this.ask(inode, deadline);
    }
  }

  /** Ends what was begun under `lease`. */
  end(lease: AppendLease): void {
    lease.users--;
    lease.lastUsedMs = this.options.clock.monotonicMs();
    // It may be lost by now, or given up and granted once more.
    if (this.held.get(lease.inode) === lease) this.handOverIfDue(lease);
  }

  /** An open's answer said that the lease came with it; it was asked at `moment`. */
  granted(inode: InodeId, moment: number): void {
    // Who is asking will be told. To give it up now could give up what he gets, while he believes to hold it.
    if (this.held.has(inode) || this.asking.has(inode) || this.releasing.has(inode)) return;
    if (moment === this.releases) this.hold(inode);
    else this.giveUp(inode).catch(() => undefined); // the next append asks for it
  }

  /** The file is closed here: the master knows by that. */
  closed(inode: InodeId): void {
    this.releases++;
    this.held.delete(inode);
  }

  /** What is held, for the master after a reconnect. */
  inodes(): InodeId[] {
    return [...this.held.keys()];
  }

  /** The master was told what is held, and others hold these. */
  reclaimed(lost: readonly number[]): void {
    for (const inode of lost) {
      this.options.logger.error({ inode }, 'another client appends to a file: what was appended here lately is lost');
      this.drop(inodeId(inode));
    }
    for (const lease of this.held.values()) lease.doubtful = true;
  }

  sessionLost(): void {
    for (const inode of [...this.held.keys()]) this.drop(inode);
  }

  stop(): void {
    this.stopped = true;
    this.timer?.cancel();
    this.pollTimer?.cancel();
  }

  // ---- Coming --------------------------------------------------------------------------------------

  private ask(inode: InodeId, deadline: number): Promise<void> {
    const before = this.asking.get(inode);
    if (before !== undefined) return before;
    const asking = watched(
      this.askMaster(inode, deadline).finally(() => {
        this.asking.delete(inode);
        this.recalledEarly.delete(inode);
      }),
    );
    this.asking.set(inode, asking);
    return asking;
  }

  private async askMaster(inode: InodeId, deadline: number): Promise<void> {
    const { master, clock, learn } = this.options;
    try {
      for (;;) {
        // One that is repeated after a reconnect must not give up what is granted now.
        await this.releasing.get(inode)?.catch(() => undefined);
        const { granted, attributes } = await master.call(MASTER_METHODS.acquireAppend, { inode });
        if (granted && attributes !== null) {
          learn(fromWireAttributes(attributes));
          this.hold(inode);
          return;
        }
        if (clock.monotonicMs() >= deadline) {
          throw new CairnError('EIO', `inode ${inode}: another client did not let go of the end of the file in time`);
        }
      }
    } catch (error) {
      // It may have been granted all the same.
      if (!this.held.has(inode)) this.giveUp(inode).catch(() => undefined);
      throw error;
    }
  }

  private hold(inode: InodeId): void {
    const { clock } = this.options;
    const nowMs = clock.monotonicMs();
    const known = this.held.get(inode);
    if (known !== undefined) {
      known.doubtful = false;
      return;
    }
    this.held.set(inode, {
      inode,
      users: 0,
      recalled: this.recalledEarly.has(inode),
      doubtful: false,
      holdUntilMs: nowMs + APPEND_HOLD_MS,
      lastUsedMs: nowMs,
      handing: undefined,
    });
    this.watch();
  }

  // ---- Going ---------------------------------------------------------------------------------------

  private recall(inode: InodeId): void {
    const lease = this.held.get(inode);
    if (lease === undefined) {
      if (this.asking.has(inode)) this.recalledEarly.add(inode);
      else this.giveUp(inode).catch(() => undefined); // it is recalled again
      return;
    }
    lease.recalled = true;
    this.handOverIfDue(lease);
  }

  private handOverIfDue(lease: AppendLease): void {
    if (!lease.recalled || lease.users > 0 || lease.handing !== undefined) return;
    const leftMs = lease.holdUntilMs - this.options.clock.monotonicMs();
    if (leftMs > 0) {
      this.options.clock.setTimer(leftMs, () => {
        if (this.held.get(lease.inode) === lease) this.handOverIfDue(lease);
      });
      return;
    }
    unawaited(this.handOver(lease), this.options.logger, 'handing an append lease over');
  }

  /** Waits for the appends under way, writes out, publishes, and gives the lease up. Never rejects. */
  private handOver(lease: AppendLease): Promise<void> {
    if (lease.users > 0) return this.whenUnused(lease);
    lease.handing ??= this.handOverNow(lease);
    return lease.handing;
  }

  private async whenUnused(lease: AppendLease): Promise<void> {
    const turn: Deferred<void> = deferred();
    this.options.clock.setTimer(1, () => turn.resolve());
    await turn.promise;
    if (this.held.get(lease.inode) === lease) await this.handOver(lease);
  }

  private async handOverNow(lease: AppendLease): Promise<void> {
    const { inode } = lease;
    const { publish, discard, logger } = this.options;
    try {
      await publish(inode);
    } catch (error) {
      const { code, message } = asCairnError(error);
      logger.error({ inode, code, reason: message }, 'what was appended could not be published: it is lost');
      discard(inode);
    }
    if (this.held.get(inode) !== lease) return;
    this.held.delete(inode);
    try {
      await this.giveUp(inode);
    } catch (error) {
      // After a reconnect the master is told of what is held, and this is not.
      const { code, message } = asCairnError(error);
      logger.warn({ inode, code, reason: message }, 'an append lease could not be given up');
    }
  }

  private giveUp(inode: InodeId): Promise<void> {
    this.releases++;
    const before = this.releasing.get(inode);
    if (before !== undefined) return before;
    const released = watched(
      this.options.master
        .call(MASTER_METHODS.releaseAppend, { inode })
        .then(() => undefined)
        .finally(() => this.releasing.delete(inode)),
    );
    this.releasing.set(inode, released);
    return released;
  }

  private drop(inode: InodeId): void {
    this.releases++;
    this.held.delete(inode);
    this.options.discard(inode);
  }

  // ---- Watching ------------------------------------------------------------------------------------

  private watch(): void {
    const { clock } = this.options;
    this.timer ??= clock.setTimer(APPEND_IDLE_MS, () => {
      this.timer = undefined;
      this.releaseIdle();
      if (this.held.size > 0 && !this.stopped) this.watch();
    });
    if (this.polling) return;
    this.pollTimer ??= clock.setTimer(APPEND_POLL_AFTER_MS, () => {
      this.pollTimer = undefined;
      unawaited(this.poll(), this.options.logger, 'asking for recalls');
    });
  }

  private releaseIdle(): void {
    const before = this.options.clock.monotonicMs() - APPEND_IDLE_MS;
    for (const lease of [...this.held.values()]) {
      if (lease.users === 0 && lease.lastUsedMs <= before && lease.handing === undefined && !lease.doubtful) {
        unawaited(this.handOver(lease), this.options.logger, 'handing an append lease over');
      }
    }
  }

  /** Asks what others want, as long as anything is held. */
  private async poll(): Promise<void> {
    if (this.polling) return;
    this.polling = true;
    const { master, clock, random, logger } = this.options;
    const backoff = new Backoff(clock, random);
    while (this.held.size > 0 && !this.stopped && !master.isClosing) {
      try {
        const known = [...this.held.values()].filter(({ recalled }) => recalled).map(({ inode }) => inode);
        const { inodes } = await master.call(MASTER_METHODS.pollAppends, {
          known: [...known, ...this.recalledEarly].slice(0, MAX_CHUNKS_PER_PAGE),
        });
        for (const inode of inodes) this.recall(inodeId(inode));
        backoff.reset();
      } catch (error) {
        const { code, message } = asCairnError(error);
        if (!master.isClosing)
          logger.warn({ code, reason: message }, 'the master could not be asked for recalls; trying on');
        await backoff.pause();
      }
    }
    this.polling = false;
    if (this.held.size > 0 && !this.stopped && !master.isClosing) this.watch();
  }
}
