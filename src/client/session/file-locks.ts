/**
 * The locks of this client's programs. The master decides; here is kept what is held, to be told again after a
 * reconnect, and who waits. One poll at a time asks the master for all waits together.
 *
 * What is remembered is never more than what the master may believe: a lock is noted when it was granted and forgotten
 * before it is given up, so that what is told again is no lock that another has got meanwhile.
 *
 * Locks order the bytes too: what was written is published before a lock is given up, and what is cached is looked at
 * anew when one was granted, so that its holder sees what the one before wrote (P2). When the master does not take what was
 * written, who unlocks is told, and the lock stands until it does, or the session ends: it is given up late, unless its owner
 * locks the same bytes again before.
 */
import type { Clock } from '../../core/clock.js';
import { CairnError, asCairnError, hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { REQUEST_TIMEOUT_MS, SESSION_TTL_MS } from '../../core/limits.js';
import { LockRanges, MAX_LOCK_END } from '../../core/lock-ranges.js';
import type { ByteSpan, LockedRange } from '../../core/lock-ranges.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { deferred, type Deferred, unawaited, watched } from '../../core/sync.js';
import { LockKindKind, LockTypeType } from '../../protocol/generated/messages.js';
import type { LockStateInit, SetLockReply, SetLockRequestInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import { fromWireAttributes, type InodeAttributes } from './wire-attributes.js';
import type { LockHolder, LockKind, LockOptions, LockRequest } from '../../filesystem/filesystem.js';
import type { MasterConnection } from './master-connection.js';
import { Backoff } from './retry.js';

export interface FileLocksOptions {
  readonly master: MasterConnection;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Throws when locks on the file were lost, so that new ones would protect nothing. */
  readonly requireUsable: (inode: InodeId) => void;
  /** What was written to the file is there for others. */
  readonly publish: (inode: InodeId) => Promise<void>;
  /** What is cached of the file is as new as `attributes`, or as now. */
  readonly refresh: (inode: InodeId, attributes: InodeAttributes | undefined) => Promise<void>;
}

/** After a restart of the master no lock is granted until its clients of before are back or given up. */
const SET_TIMEOUT_MS = 2 * SESSION_TTL_MS + REQUEST_TIMEOUT_MS;
const ATTEMPT_MS = REQUEST_TIMEOUT_MS / 2;
const ALL: ByteSpan = { start: 0, end: MAX_LOCK_END };

interface Owner {
  readonly inode: InodeId;
  readonly kind: LockKind;
  readonly name: string;
  readonly ranges: LockRanges;
  /** Bytes to be given up late. */
  readonly late: LockRanges;
  isLate: boolean;
  givingUp: Promise<void> | undefined;
  /** What the master may hold for it, or may yet, is being taken back. */
  takingBack: Promise<void> | undefined;
  /** Requests under way. */
  pending: number;
}

type WaitEnd = 'granted' | 'again' | 'released';

interface Wait {
  readonly owner: Owner;
  ended: Deferred<WaitEnd>;
}

export class FileLocks {
  private readonly owners = new Map<string, Owner>();
  private readonly waits = new Map<number, Wait>();
  private nextWait = 1;
  /** Granted waits, until the master knows that this client knows. */
  private seen: number[] = [];
  private polling = false;

  constructor(private readonly options: FileLocksOptions) {}

  async find(inode: InodeId, request: LockRequest): Promise<LockHolder | undefined> {
    checkRange(request);
    const { holder, own } = await this.options.master.call(
      MASTER_METHODS.getLock,
      { lock: wireLock(inode, request) },
      { timeoutMs: SET_TIMEOUT_MS },
    );
    if (holder === null) return undefined;
    const { start, end, pid } = holder;
    return { type: holder.type === LockTypeType.READ ? 'read' : 'write', start, end, pid: own ? pid : 0 };
  }

  async set(inode: InodeId, request: LockRequest, options: LockOptions): Promise<void> {
    checkRange(request);
    const { type } = request;
    const owner = this.ownerOf(inode, request.kind, request.owner);
    owner.pending++;
    try {
      if (type === 'unlock') await this.unlock(owner, request);
      else await this.lock(owner, { ...request, type }, options);
    } finally {
      owner.pending--;
      this.forgetUnused(owner);
    }
  }

  async release(inode: InodeId, kind: LockKind, name: string): Promise<void> {
    const owner = this.owners.get(ownerKey(inode, kind, name));
    if (owner === undefined) return;
    for (const wait of this.waits.values()) if (wait.owner === owner) wait.ended.resolve('released');
    owner.pending++;
    try {
      await this.publishFirst(owner, ALL);
      await owner.takingBack;
      owner.ranges.clear();
      await this.options.master.call(MASTER_METHODS.releaseLocks, { inode, kind: wireKind(kind), owner: name });
    } finally {
      owner.pending--;
      this.forgetUnused(owner);
    }
  }

  /** What is held, for the master after a reconnect. */
  *states(): Generator<LockStateInit> {
    for (const { inode, kind, name, ranges } of this.owners.values()) {
      for (const range of ranges) yield wireLock(inode, { ...range, kind, owner: name });
    }
  }

  /** The session is gone, and all locks with it: the inodes that had any. */
  sessionLost(): Set<InodeId> {
    const lost = new Set<InodeId>();
    for (const owner of this.owners.values()) {
      if (owner.ranges.size > 0) lost.add(owner.inode);
      owner.ranges.clear();
    }
    this.seen = [];
    return lost;
  }

  private async unlock(owner: Owner, request: LockRequest): Promise<void> {
    await this.publishFirst(owner, request);
    await owner.takingBack;
    owner.ranges.clear(request);
    await this.options.master.call(MASTER_METHODS.setLock, { lock: wireLock(owner.inode, request) });
  }

  private async lock(
    owner: Owner,
    request: LockRequest & { readonly type: 'read' | 'write' },
    options: LockOptions,
  ): Promise<void> {
    this.options.requireUsable(owner.inode);
    const kept = owner.late.overlapping(request);
    owner.late.clear(request);
    try {
      await this.lockNow(owner, request, options);
    } catch (error) {
      for (const span of kept)
        this.giveUpLate(owner, { start: Math.max(span.start, request.start), end: Math.min(span.end, request.end) });
      throw error;
    }
  }

  private async lockNow(
    owner: Owner,
    request: LockRequest & { readonly type: 'read' | 'write' },
    options: LockOptions,
  ): Promise<void> {
    const { wait, signal } = options;
    // Behind what is being given up right now.
    if (owner.givingUp !== undefined) await this.unlessAborted(owner.givingUp, signal);
    if (owner.takingBack !== undefined) await this.unlessAborted(owner.takingBack, signal);
    const { type, start, end, pid } = request;
    const range = { type, start, end, pid };
    const lowered = await this.lower(owner, range);
    const waitId = wait ? this.nextWait++ : 0;
    const lock = wireLock(owner.inode, request);
    for (;;) {
      let reply;
      try {
        reply = await this.ask({ lock, waitId }, signal);
      } catch (error) {
        // It stands as it was. A lock of flock(2) that could not be changed is lost.
        if (hasCode(error, 'EAGAIN', 'EDEADLK', 'ENOLCK') && owner.kind === 'posix') {
          for (const part of lowered) owner.ranges.set(part);
        }
        if (hasCode(error, 'TIMEOUT', 'EINTR')) this.takeBack(owner, range, waitId);
        throw error;
      }
      if (reply.granted) {
        const attributes = reply.attributes === null ? undefined : fromWireAttributes(reply.attributes);
        return this.granted(owner, range, attributes, options);
      }
      const outcome = await this.waitFor(owner, waitId, signal).catch((error: unknown) => {
        if (!hasCode(error, 'EINTR')) this.takeBack(owner, range, waitId);
        throw error;
      });
      if (outcome === 'again') continue;
      if (outcome === 'granted') return this.granted(owner, range, undefined, options);
      // Its owner gives up all that it has, but not what is granted if that fails.
      this.takeBack(owner, range, waitId);
      throw interrupted();
    }
  }

  private async granted(
    owner: Owner,
    range: LockedRange,
    attributes: InodeAttributes | undefined,
    { onGranted }: LockOptions,
  ): Promise<void> {
    const { inode, ranges } = owner;
    const before = ranges.overlapping(range).map((own) => within(range, own));
    ranges.set(range);
    try {
      await this.options.refresh(inode, attributes);
      await onGranted?.();
    } catch (error) {
      // The program is told that it has not got it: it keeps what it had, unless all was lost meanwhile.
      if (ranges.covers(range)) {
        ranges.clear(range);
        for (const own of before) ranges.set(own);
        this.takeBack(owner, range, 0);
      }
      throw error;
    }
  }

  /** In short attempts, so that who gives up need not wait for the clients of before a restart. */
  private async ask(request: SetLockRequestInit, signal: AbortSignal | undefined): Promise<SetLockReply> {
    const { master, clock } = this.options;
    const deadline = clock.monotonicMs() + SET_TIMEOUT_MS;
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
   * Nobody waits for the answer any more, but the master may have the request and grant it: then nobody would give the lock
   * up. What its owner has of `range` is told once more, behind the request.
   */
  private takeBack(owner: Owner, range: LockedRange, waitId: number): void {
    const before = owner.takingBack ?? Promise.resolve();
    owner.pending++;
    const takingBack = watched(
      before
        .then(() => this.tellWhatIsHeld(owner, range, waitId))
        .catch((error: unknown) => {
          // After a reconnect the master is told of what is held, and this is not.
          const { code, message } = asCairnError(error);
          const about = { inode: owner.inode, code, reason: message };
          this.options.logger.warn(about, 'a lock that nobody waits for could not be taken back');
        })
        .finally(() => {
          if (owner.takingBack === takingBack) owner.takingBack = undefined;
          owner.pending--;
          this.forgetUnused(owner);
        }),
    );
    owner.takingBack = takingBack;
  }

  private async tellWhatIsHeld(owner: Owner, range: LockedRange, waitId: number): Promise<void> {
    const { master } = this.options;
    const { inode, kind, name, ranges } = owner;
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

  /**
   * What the request gives up, forgotten before the master grants it: the write locks under a read lock, and the whole
   * lock of flock(2), which changes by dropping it.
   */
  private async lower(owner: Owner, range: LockedRange): Promise<LockedRange[]> {
    if (owner.kind === 'flock') {
      const lowered = [...owner.ranges].filter(({ type }) => type !== range.type);
      if (lowered.length === 0) return [];
      await this.publish(owner);
      owner.ranges.clear();
      return lowered;
    }
    if (range.type === 'write') return [];
    const lowered = owner.ranges
      .overlapping(range)
      .filter(({ type }) => type === 'write')
      .map((own) => within(range, own));
    if (lowered.length > 0) await this.publish(owner);
    for (const part of lowered) owner.ranges.set({ ...part, type: 'read' });
    return lowered;
  }

  /** TIMEOUT or ENOSPC when what was written under the lock cannot be told to the master now. */
  private async publish({ inode, ranges }: Owner): Promise<void> {
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
  private async publishFirst(owner: Owner, span: ByteSpan): Promise<void> {
    try {
      await this.publish(owner);
    } catch (error) {
      this.giveUpLate(owner, span);
      throw error;
    }
    owner.late.clear(span);
  }

  private giveUpLate(owner: Owner, { start, end }: ByteSpan): void {
    owner.late.set({ type: 'write', start, end, pid: 0 });
    if (!owner.isLate) unawaited(this.giveUpWhenPublished(owner), this.options.logger, 'giving a lock up late');
  }

  /** Ends with the session at the latest, as its locks do. */
  private async giveUpWhenPublished(owner: Owner): Promise<void> {
    const { master, clock, random } = this.options;
    const backoff = new Backoff(clock, random);
    owner.isLate = true;
    owner.pending++;
    try {
      while (owner.late.size > 0) {
        await backoff.pause();
        if (owner.ranges.size === 0 || master.isClosing) owner.late.clear();
        else if (owner.late.size > 0 && (await this.isPublished(owner))) {
          owner.givingUp = watched(this.giveUp(owner, [...owner.late]));
          await owner.givingUp;
          owner.givingUp = undefined;
        }
      }
    } finally {
      owner.isLate = false;
      owner.pending--;
      this.forgetUnused(owner);
    }
  }

  private async isPublished(owner: Owner): Promise<boolean> {
    try {
      await this.publish(owner);
      return true;
    } catch (error) {
      if (error instanceof CairnError) return false;
      throw error;
    }
  }

  /** Never rejects. */
  private async giveUp({ inode, kind, name, ranges, late }: Owner, spans: readonly ByteSpan[]): Promise<void> {
    late.clear();
    for (const span of spans) ranges.clear(span);
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

  // ---- Waiting ------------------------------------------------------------------------------------

  private async waitFor(owner: Owner, waitId: number, signal: AbortSignal | undefined): Promise<WaitEnd> {
    const wait: Wait = { owner, ended: deferred() };
    this.waits.set(waitId, wait);
    unawaited(this.poll(), this.options.logger, 'asking for locks');
    try {
      return await this.unlessAborted(wait.ended.promise, signal);
    } catch (error) {
      if (!hasCode(error, 'EINTR')) throw error;
      // Before the master is asked, so that a poll does not take the grant to be known here.
      this.waits.delete(waitId);
      const { granted } = await this.options.master.call(MASTER_METHODS.cancelLock, { waitId });
      if (!granted) throw error;
      return 'granted';
    } finally {
      this.waits.delete(waitId);
    }
  }

  /** Asks for all waits, until there are none. */
  private async poll(): Promise<void> {
    if (this.polling) return;
    this.polling = true;
    const { master, clock, random, logger } = this.options;
    const backoff = new Backoff(clock, random);
    while (this.waits.size > 0) {
      const told = this.seen;
      try {
        const reply = await master.call(MASTER_METHODS.pollLocks, { waitIds: [...this.waits.keys()], seen: told });
        const known = new Set(told);
        this.seen = this.seen.filter((id) => !known.has(id));
        for (const id of reply.granted) {
          const wait = this.waits.get(id);
          if (wait === undefined) continue;
          this.seen.push(id);
          this.end(id, wait, 'granted');
        }
        for (const id of reply.unknown) {
          const wait = this.waits.get(id);
          if (wait !== undefined) this.end(id, wait, 'again');
        }
        backoff.reset();
      } catch (error) {
        const { code, message } = asCairnError(error);
        if (master.isClosing) {
          for (const wait of this.waits.values()) wait.ended.reject(error);
          this.waits.clear();
        } else {
          logger.warn({ code, reason: message }, 'the master could not be asked for locks; trying on');
          await backoff.pause();
        }
      }
    }
    this.polling = false;
  }

  private end(id: number, wait: Wait, how: WaitEnd): void {
    this.waits.delete(id);
    wait.ended.resolve(how);
  }

  private async unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    if (signal === undefined) return promise;
    const aborted = deferred<never>();
    const onAbort = (): void => aborted.reject(interrupted());
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([promise, aborted.promise]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  // ---- Keeping ------------------------------------------------------------------------------------

  private ownerOf(inode: InodeId, kind: LockKind, name: string): Owner {
    const key = ownerKey(inode, kind, name);
    let owner = this.owners.get(key);
    if (owner === undefined)
      this.owners.set(
        key,
        (owner = {
          ...{ inode, kind, name, ranges: new LockRanges(), pending: 0 },
          ...{ late: new LockRanges(), isLate: false, givingUp: undefined, takingBack: undefined },
        }),
      );
    return owner;
  }

  private forgetUnused({ inode, kind, name, ranges, pending }: Owner): void {
    if (ranges.size === 0 && pending === 0) this.owners.delete(ownerKey(inode, kind, name));
  }
}

/** The part of `own` in `span`. */
const within = (span: ByteSpan, own: LockedRange): LockedRange => ({
  ...own,
  start: Math.max(own.start, span.start),
  end: Math.min(own.end, span.end),
});

const ownerKey = (inode: InodeId, kind: LockKind, name: string): string => `${inode}/${kind}/${name}`;

const interrupted = (): CairnError => new CairnError('EINTR', 'the wait for a lock was interrupted');

function checkRange({ start, end }: LockRequest): void {
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || start > end) {
    throw new CairnError('EINVAL', `there are no bytes from ${start} to ${end}`);
  }
}

const wireKind = (kind: LockKind): LockKindKind => (kind === 'posix' ? LockKindKind.POSIX : LockKindKind.FLOCK);

const WIRE_TYPES = { read: LockTypeType.READ, write: LockTypeType.WRITE, unlock: LockTypeType.UNLOCK } as const;

function wireLock(inode: InodeId, { kind, type, start, end, owner, pid }: LockRequest): LockStateInit {
  return { inode, kind: wireKind(kind), type: WIRE_TYPES[type], start, end, owner, pid };
}
