/**
 * The locks of one owner on one inode: how it comes to hold them, and how it gives them up.
 *
 * What is remembered is never more than what the master may believe: a lock is noted when it was granted and forgotten
 * before it is given up, so that what is told again after a reconnect is no lock that another has got meanwhile.
 *
 * Locks order the bytes too: what was written is published before a lock is given up, and what is cached is looked at
 * anew when one was granted, so that its holder sees what the one before wrote (P2). When the master does not take what was
 * written, who unlocks is told, and the lock stands until it does, or the session ends: it is given up late, unless its owner
 * locks the same bytes again before.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { LOCK_SET_TIMEOUT_MS, REQUEST_TIMEOUT_MS } from '../../core/limits.js';
import { LockRanges, MAX_LOCK_END } from '../../core/lock-ranges.js';
import type { ByteSpan, LockedRange } from '../../core/lock-ranges.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { unawaited, watched } from '../../core/sync.js';
import type { LockKind, LockOptions, LockRequest } from '../../filesystem/filesystem.js';
import type { LockStateInit, SetLockReply, SetLockRequestInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import { LateUnlocks } from './late-unlocks.js';
import { interrupted, unlessAborted, type LockWaits } from './lock-waits.js';
import type { MasterConnection } from './master-connection.js';
import type { Moment } from './holdings.js';
import { fromWireAttributes, type InodeAttributes } from './wire-attributes.js';
import { wireKind, wireLock } from './wire-locks.js';

export interface LockOwnerOptions {
  readonly master: MasterConnection;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Throws when locks on the file were lost, so that new ones would protect nothing. */
  readonly requireUsable: (inode: InodeId) => void;
  /** What was written to the file is there for others. */
  readonly publish: (inode: InodeId) => Promise<void>;
  /** To be noted before something is asked. */
  readonly moment: () => Moment;
  /** What is cached of the file is as new as what was `told`, or as now. */
  readonly refresh: (inode: InodeId, told: ToldAttributes | undefined) => Promise<void>;
}

/** In the answer to what was asked at that moment. */
export interface ToldAttributes {
  readonly attributes: InodeAttributes;
  readonly asked: Moment;
}

type Acquisition = LockRequest & { readonly type: 'read' | 'write' };

const ATTEMPT_MS = REQUEST_TIMEOUT_MS / 2;
const ALL: ByteSpan = { start: 0, end: MAX_LOCK_END };

export class LockOwner {
  private readonly ranges = new LockRanges();
  private readonly late: LateUnlocks;
  /** What the master may hold for it, or may yet, is being taken back. */
  private takingBack: Promise<void> | undefined;
  /** Requests under way. */
  private pending = 0;

  constructor(
    readonly inode: InodeId,
    private readonly kind: LockKind,
    private readonly name: string,
    private readonly waits: LockWaits,
    private readonly options: LockOwnerOptions,
    /** It holds nothing, and nothing is under way. */
    private readonly onUnused: () => void,
  ) {
    const { master, clock, random } = options;
    this.late = new LateUnlocks({
      clock,
      random,
      isOver: () => this.ranges.size === 0 || master.isClosing,
      publish: () => this.publish(),
      giveUp: (spans) => this.giveUp(spans),
    });
  }

  get holdsAny(): boolean {
    return this.ranges.size > 0;
  }

  set(request: LockRequest, options: LockOptions): Promise<void> {
    const { type } = request;
    return this.during(() => (type === 'unlock' ? this.unlock(request) : this.lock({ ...request, type }, options)));
  }

  /** Gives up all that it has. */
  async release(): Promise<void> {
    const { inode, kind, name } = this;
    this.waits.released(this);
    await this.during(async () => {
      await this.publishFirst(ALL);
      await this.takingBack;
      this.ranges.clear();
      await this.options.master.call(MASTER_METHODS.releaseLocks, { inode, kind: wireKind(kind), owner: name });
    });
  }

  /** What it holds, for the master after a reconnect. */
  *states(): Generator<LockStateInit> {
    for (const range of this.ranges) yield wireLock(this.inode, { ...range, kind: this.kind, owner: this.name });
  }

  sessionLost(): void {
    this.ranges.clear();
  }

  private async during(work: () => Promise<void>): Promise<void> {
    this.pending++;
    try {
      await work();
    } finally {
      this.ended();
    }
  }

  private ended(): void {
    this.pending--;
    if (this.ranges.size === 0 && this.pending === 0) this.onUnused();
  }

  // ---- Coming -------------------------------------------------------------------------------------

  private async lock(request: Acquisition, options: LockOptions): Promise<void> {
    this.options.requireUsable(this.inode);
    const late = this.late.clear(request);
    try {
      await this.lockNow(request, options);
    } catch (error) {
      for (const span of late) this.giveUpLate(span);
      throw error;
    }
  }

  private async lockNow(request: Acquisition, options: LockOptions): Promise<void> {
    const { wait, signal } = options;
    // Behind what is being given up right now.
    if (this.late.underWay !== undefined) await unlessAborted(this.late.underWay, signal);
    if (this.takingBack !== undefined) await unlessAborted(this.takingBack, signal);
    const { type, start, end, pid } = request;
    const range = { type, start, end, pid };
    const lowered = await this.lower(range);
    const waitId = wait ? this.waits.newId() : 0;
    const lock = wireLock(this.inode, request);
    for (;;) {
      let reply;
      const asked = this.options.moment();
      try {
        reply = await this.ask({ lock, waitId }, signal);
      } catch (error) {
        // It stands as it was. A lock of flock(2) that could not be changed is lost.
        if (hasCode(error, 'EAGAIN', 'EDEADLK', 'ENOLCK') && this.kind === 'posix') {
          for (const part of lowered) {
            // Not when all was lost meanwhile.
            if (this.ranges.covers({ ...part, type: 'read' })) this.ranges.set(part);
          }
        }
        if (hasCode(error, 'TIMEOUT', 'EINTR')) this.takeBack(range, waitId);
        throw error;
      }
      if (reply.granted) {
        const attributes = reply.attributes === null ? undefined : fromWireAttributes(reply.attributes);
        return this.granted(range, attributes && { attributes, asked }, options);
      }
      const outcome = await this.waits.waitFor(this, waitId, signal).catch((error: unknown) => {
        if (!hasCode(error, 'EINTR')) this.takeBack(range, waitId);
        throw error;
      });
      if (outcome === 'again') continue;
      if (outcome === 'granted') return this.granted(range, undefined, options);
      // Its owner gives up all that it has, but not what is granted if that fails.
      this.takeBack(range, waitId);
      throw interrupted();
    }
  }

  private async granted(
    range: LockedRange,
    told: ToldAttributes | undefined,
    { onGranted }: LockOptions,
  ): Promise<void> {
    const { inode, ranges } = this;
    const before = ranges.overlapping(range).map((own) => within(range, own));
    ranges.set(range);
    try {
      await this.options.refresh(inode, told);
      await onGranted?.();
    } catch (error) {
      // The program is told that it has not got it: it keeps what it had, unless all was lost meanwhile.
      if (ranges.covers(range)) {
        ranges.clear(range);
        for (const own of before) ranges.set(own);
        this.takeBack(range, 0);
      }
      throw error;
    }
  }

  /** In short attempts, so that who gives up need not wait for the clients of before a restart. */
  private async ask(request: SetLockRequestInit, signal: AbortSignal | undefined): Promise<SetLockReply> {
    const { master, clock } = this.options;
    const deadline = clock.monotonicMs() + LOCK_SET_TIMEOUT_MS;
    for (;;) {
      if (signal?.aborted === true) throw interrupted();
      try {
        return await master.call(MASTER_METHODS.setLock, request, { timeoutMs: ATTEMPT_MS });
      } catch (error) {
        if (!hasCode(error, 'TIMEOUT') || clock.monotonicMs() >= deadline) throw error;
      }
    }
  }

  /**
   * What the request gives up, forgotten before the master grants it: the write locks under a read lock, and the whole
   * lock of flock(2), which changes by dropping it.
   */
  private async lower(range: LockedRange): Promise<LockedRange[]> {
    const { ranges } = this;
    if (this.kind === 'flock') {
      const lowered = [...ranges].filter(({ type }) => type !== range.type);
      if (lowered.length === 0) return [];
      await this.publish();
      ranges.clear();
      return lowered;
    }
    if (range.type === 'write') return [];
    const lowered = ranges
      .overlapping(range)
      .filter(({ type }) => type === 'write')
      .map((own) => within(range, own));
    if (lowered.length > 0) await this.publish();
    for (const part of lowered) ranges.set({ ...part, type: 'read' });
    return lowered;
  }

  // ---- Taking back --------------------------------------------------------------------------------

  /**
   * Nobody waits for the answer any more, but the master may have the request and grant it: then nobody would give the lock
   * up. What its owner has of `range` is told once more, behind the request.
   */
  private takeBack(range: LockedRange, waitId: number): void {
    const before = this.takingBack ?? Promise.resolve();
    this.pending++;
    const takingBack = watched(
      before
        .then(() => this.tellWhatIsHeld(range, waitId))
        .catch((error: unknown) => {
          // After a reconnect the master is told of what is held, and this is not.
          const { code, message } = asCairnError(error);
          const about = { inode: this.inode, code, reason: message };
          this.options.logger.warn(about, 'a lock that nobody waits for could not be taken back');
        })
        .finally(() => {
          if (this.takingBack === takingBack) this.takingBack = undefined;
          this.ended();
        }),
    );
    this.takingBack = takingBack;
  }

  private async tellWhatIsHeld(range: LockedRange, waitId: number): Promise<void> {
    const { master } = this.options;
    const { inode, kind, name, ranges } = this;
    const tell = async (state: Omit<LockRequest, 'kind' | 'owner'>): Promise<void> => {
      await master.call(MASTER_METHODS.setLock, { lock: wireLock(inode, { ...state, kind, owner: name }) });
    };
    if (waitId !== 0) await master.call(MASTER_METHODS.cancelLock, { waitId });
    let from = range.start;
    for (const own of ranges.overlapping(range)) {
      const part = within(range, own);
      if (part.start > from) await tell({ type: 'unlock', start: from, end: part.start - 1, pid: 0 });
      if (part.type === 'read') await tell(part);
      from = part.end + 1;
    }
    if (from <= range.end) await tell({ type: 'unlock', start: from, end: range.end, pid: 0 });
  }

  // ---- Going --------------------------------------------------------------------------------------

  private async unlock(request: LockRequest): Promise<void> {
    await this.publishFirst(request);
    await this.takingBack;
    this.ranges.clear(request);
    await this.options.master.call(MASTER_METHODS.setLock, { lock: wireLock(this.inode, request) });
  }

  /** TIMEOUT or ENOSPC when what was written under the lock cannot be told to the master now. */
  private async publish(): Promise<void> {
    const { inode, ranges } = this;
    if (!ranges.hasWrites) return;
    try {
      await this.options.publish(inode);
    } catch (error) {
      const { code, message } = asCairnError(error);
      const about = { inode, code, reason: message };
      if (hasCode(error, 'TIMEOUT', 'ENOSPC') && ranges.hasWrites) {
        this.options.logger.warn(about, 'not published: the lock is not given up yet');
        throw error;
      }
      // The lock goes all the same; whoever wrote hears of it by the next write, fsync or close (P7).
      this.options.logger.warn(about, 'not published before a lock is given up');
    }
  }

  /** Before `span` is given up. If it fails the span is given up later. */
  private async publishFirst(span: ByteSpan): Promise<void> {
    try {
      await this.publish();
    } catch (error) {
      this.giveUpLate(span);
      throw error;
    }
    this.late.clear(span);
  }

  private giveUpLate(span: ByteSpan): void {
    this.late.add(span);
    if (this.late.isWorking) return;
    unawaited(
      this.during(() => this.late.work()),
      this.options.logger,
      'giving a lock up late',
    );
  }

  /** Never rejects. */
  private async giveUp(spans: readonly ByteSpan[]): Promise<void> {
    const { inode, kind, name } = this;
    for (const span of spans) this.ranges.clear(span);
    for (const { start, end } of spans) {
      const lock = wireLock(inode, { kind, type: 'unlock', start, end, owner: name, pid: 0 });
      try {
        await this.options.master.call(MASTER_METHODS.setLock, { lock });
      } catch (error) {
        // After a reconnect the master is told of what is held, and this is not.
        const { code, message } = asCairnError(error);
        this.options.logger.warn({ inode, code, reason: message }, 'a lock could not be given up');
      }
    }
  }
}

/** The part of `own` in `span`. */
const within = (span: ByteSpan, own: LockedRange): LockedRange => ({
  ...own,
  start: Math.max(own.start, span.start),
  end: Math.min(own.end, span.end),
});
