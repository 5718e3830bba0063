/**
 * Locks on files: fcntl(2) records and open file descriptions ('posix'), flock(2) ('flock'). In memory only: after a
 * restart the clients tell theirs again (`replace`), and until all have, the service grants nothing.
 *
 * An owner is a name within a session. A request that stands in conflict waits in the order of arrival. One that could
 * be had waits too when an earlier waiter is in its way, so that readers who keep coming starve no writer; but no longer
 * than LOCK_HOLD_BACK_MS, and not when its owner holds a lock on the file, since the earlier one may wait for that.
 */
import type { Clock } from '../core/clock.js';
import { CairnError } from '../core/errors.js';
import type { InodeId, SessionId } from '../core/ids.js';
import { LOCK_HOLD_BACK_MS, MAX_LOCK_WAITS_PER_SESSION, MAX_LOCKS_PER_SESSION } from '../core/limits.js';
import { conflictIn, covers, withLock, withoutLock } from '../core/lock-ranges.js';
import type { LockedRange, LockedRanges } from '../core/lock-ranges.js';

export type LockKind = 'posix' | 'flock';

/** Whose lock it is, and on what. */
export interface LockPlace {
  readonly session: SessionId;
  readonly inode: InodeId;
  readonly kind: LockKind;
  readonly owner: string;
}

interface Owner {
  readonly key: string;
  readonly session: SessionId;
  ranges: LockedRanges;
}

interface Waiter {
  readonly id: number;
  readonly place: LockPlace;
  readonly ownerKey: string;
  readonly lock: LockedRange;
  readonly sinceMs: number;
}

/** The locks of one kind on one inode. */
interface LockedFile {
  readonly key: string;
  readonly owners: Map<string, Owner>;
  /** In the order of arrival. */
  waiters: Waiter[];
  /** INVARIANT: owners and waiters of each session that has any. */
  readonly users: Map<SessionId, number>;
}

interface LockSession {
  /** INVARIANT: the number of ranges that its owners hold. */
  ranges: number;
  readonly files: Set<LockedFile>;
  readonly waiters: Map<number, Waiter>;
  /** Waits that were granted and that the client does not know of yet. */
  readonly granted: Set<number>;
}

export class LockTable {
  private readonly files = new Map<string, LockedFile>();
  private readonly sessions = new Map<SessionId, LockSession>();
  /** Waiting records by owner, for deadlocks. */
  private readonly waiting = new Map<string, Set<Waiter>>();

  constructor(
    private readonly clock: Clock,
    /** A wait of the session was granted. */
    private readonly onGranted: (session: SessionId) => void,
  ) {}

  /** A lock that is in the way of `lock`, the one with the lowest start. */
  conflict(
    place: LockPlace,
    lock: LockedRange,
  ): { readonly session: SessionId; readonly range: LockedRange } | undefined {
    let found: { readonly session: SessionId; readonly range: LockedRange } | undefined;
    const own = ownerKey(place);
    for (const owner of this.files.get(fileKey(place))?.owners.values() ?? []) {
      const range = owner.key === own ? undefined : conflictIn(owner.ranges, lock);
      if (range === undefined || (found !== undefined && found.range.start <= range.start)) continue;
      found = { session: owner.session, range };
    }
    return found;
  }

  /**
   * Sets a lock. Returns false when it waits, under `waitId`. Without one (0) EAGAIN when it is in conflict; EDEADLK when
   * waiting would never end; ENOLCK above the bounds. Setting what is held, or what waits under this id, changes nothing.
   */
  set(place: LockPlace, lock: LockedRange, waitId: number): boolean {
    const session = this.sessionOf(place.session);
    if (waitId !== 0 && session.waiters.has(waitId)) return false;
    session.granted.delete(waitId);
    if (session.ranges >= MAX_LOCKS_PER_SESSION) {
      throw new CairnError('ENOLCK', `the session holds ${MAX_LOCKS_PER_SESSION} locks already`);
    }
    const file = this.fileOf(place);
    try {
      const held = file.owners.get(ownerKey(place))?.ranges ?? [];
      if (covers(held, lock)) return true;
      const waiter = this.waiterOf(place, lock, waitId);
      if (this.conflict(place, lock) === undefined && (waitId === 0 || !this.isHeldBack(file, waiter))) {
        this.hold(file, place, withLock(held, lock));
        this.wake(file);
        return true;
      }
      // flock(2) changes a lock by dropping it and setting the other: two that both want to may not wait for each other.
      if (place.kind === 'flock' && held.length > 0) {
        this.hold(file, place, []);
        this.wake(file);
      }
      if (waitId === 0) throw new CairnError('EAGAIN', `a lock on inode ${place.inode} is in the way`);
      if (place.kind === 'posix' && this.isDeadlock(file, waiter)) {
        throw new CairnError('EDEADLK', `waiting for a lock on inode ${place.inode} would never end`);
      }
      if (session.waiters.size >= MAX_LOCK_WAITS_PER_SESSION) {
        throw new CairnError('ENOLCK', `the session waits for ${MAX_LOCK_WAITS_PER_SESSION} locks already`);
      }
      this.enqueue(file, waiter);
      return false;
    } finally {
      this.forgetUnused(file);
    }
  }

  /** Unlocks the bytes from `start` to `end`. */
  unset(place: LockPlace, range: Pick<LockedRange, 'start' | 'end'>): void {
    const file = this.files.get(fileKey(place));
    const held = file?.owners.get(ownerKey(place))?.ranges;
    if (file === undefined || held === undefined) return;
    if (
      this.sessionOf(place.session).ranges >= MAX_LOCKS_PER_SESSION &&
      withoutLock(held, range).length > held.length
    ) {
      throw new CairnError('ENOLCK', `the session holds ${MAX_LOCKS_PER_SESSION} locks already`);
    }
    this.hold(file, place, withoutLock(held, range));
    this.wake(file);
    this.forgetUnused(file);
  }

  /** All that the owner holds and waits for. */
  release(place: LockPlace): void {
    const file = this.files.get(fileKey(place));
    if (file === undefined) return;
    const own = ownerKey(place);
    for (const waiter of file.waiters.filter((candidate) => candidate.ownerKey === own)) this.dequeue(file, waiter);
    this.hold(file, place, []);
    this.wake(file);
    this.forgetUnused(file);
  }

  /** Whether the wait is granted; if not, it ends. */
  cancel(session: SessionId, waitId: number): boolean {
    const known = this.sessions.get(session);
    const waiter = known?.waiters.get(waitId);
    if (known === undefined || waiter === undefined) return known?.granted.delete(waitId) ?? false;
    const file = this.fileOf(waiter.place);
    this.dequeue(file, waiter);
    this.wake(file);
    this.forgetUnused(file);
    return false;
  }

  /** How the waits stand; those `seen` are forgotten. */
  poll(
    session: SessionId,
    waitIds: readonly number[],
    seen: readonly number[],
  ): { readonly granted: number[]; readonly unknown: number[] } {
    const known = this.sessions.get(session);
    for (const id of seen) known?.granted.delete(id);
    return {
      granted: [...(known?.granted ?? [])],
      unknown: waitIds.filter((id) => known?.waiters.has(id) !== true && known?.granted.has(id) !== true),
    };
  }

  /** The session has the inode open no more. */
  closeInode(session: SessionId, inode: InodeId): void {
    const known = this.sessions.get(session);
    if (known === undefined) return;
    for (const kind of ['posix', 'flock'] as const) {
      const file = this.files.get(fileKey({ inode, kind }));
      if (file !== undefined && known.files.has(file)) this.dropFrom(file, session);
    }
  }

  endSession(session: SessionId): void {
    for (const file of [...(this.sessions.get(session)?.files ?? [])]) this.dropFrom(file, session);
    this.sessions.delete(session);
  }

  /**
   * What a client tells after a reconnect takes the place of all that was known of its session, waits included. False,
   * and nothing is changed, when another session holds what it tells.
   */
  replace(session: SessionId, told: readonly { readonly place: LockPlace; readonly lock: LockedRange }[]): boolean {
    for (const { place, lock } of told) {
      const file = this.files.get(fileKey(place));
      for (const owner of file?.owners.values() ?? []) {
        if (owner.session !== session && conflictIn(owner.ranges, lock) !== undefined) return false;
      }
    }
    const touched = [...(this.sessions.get(session)?.files ?? [])];
    for (const file of touched) this.clearFrom(file, session);
    for (const { place, lock } of told) {
      const file = this.fileOf(place);
      this.hold(file, place, withLock(file.owners.get(ownerKey(place))?.ranges ?? [], lock));
    }
    for (const file of touched) {
      this.wake(file);
      this.forgetUnused(file);
    }
    return true;
  }

  /** Nobody holds or waits for anything. */
  get isEmpty(): boolean {
    return this.files.size === 0;
  }

  // ---- Waiting ------------------------------------------------------------------------------------

  private waiterOf(place: LockPlace, lock: LockedRange, id: number): Waiter {
    return { id, place, ownerKey: ownerKey(place), lock, sinceMs: this.clock.monotonicMs() };
  }

  private enqueue(file: LockedFile, waiter: Waiter): void {
    file.waiters.push(waiter);
    const session = this.sessionOf(waiter.place.session);
    session.waiters.set(waiter.id, waiter);
    this.count(file, waiter.place.session, 1);
    const others = this.waiting.get(waiter.ownerKey);
    if (others === undefined) this.waiting.set(waiter.ownerKey, new Set([waiter]));
    else others.add(waiter);
    if (this.conflict(waiter.place, waiter.lock) === undefined) {
      this.clock.setTimer(LOCK_HOLD_BACK_MS, () => {
        this.wake(file);
        this.forgetUnused(file);
      });
    }
  }

  private dequeue(file: LockedFile, waiter: Waiter): void {
    file.waiters = file.waiters.filter((other) => other !== waiter);
    this.count(file, waiter.place.session, -1);
    this.sessionOf(waiter.place.session).waiters.delete(waiter.id);
    const others = this.waiting.get(waiter.ownerKey);
    others?.delete(waiter);
    if (others?.size === 0) this.waiting.delete(waiter.ownerKey);
  }

  /** Grants what can be had now. */
  private wake(file: LockedFile): void {
    for (let again = true; again;) {
      again = false;
      for (const waiter of file.waiters) {
        if (this.conflict(waiter.place, waiter.lock) !== undefined || this.isHeldBack(file, waiter)) continue;
        this.dequeue(file, waiter);
        const held = file.owners.get(waiter.ownerKey)?.ranges ?? [];
        this.hold(file, waiter.place, withLock(held, waiter.lock));
        const { granted } = this.sessionOf(waiter.place.session);
        granted.add(waiter.id);
        for (const oldest of granted) if (granted.size > MAX_LOCK_WAITS_PER_SESSION) granted.delete(oldest);
        this.onGranted(waiter.place.session);
        again = true;
      }
    }
  }

  private isHeldBack(file: LockedFile, waiter: Waiter): boolean {
    if (file.owners.has(waiter.ownerKey)) return false;
    if (this.clock.monotonicMs() - waiter.sinceMs >= LOCK_HOLD_BACK_MS) return false;
    for (const earlier of file.waiters) {
      if (earlier === waiter) return false;
      if (earlier.ownerKey !== waiter.ownerKey && conflictIn([earlier.lock], waiter.lock) !== undefined) return true;
    }
    return false;
  }

  /** Whether somebody whom `waiter` would wait for waits, over any number of others, for its owner. */
  private isDeadlock(file: LockedFile, waiter: Waiter): boolean {
    const pending = [...this.blockers(file, waiter)];
    const seen = new Set<string>(pending);
    for (let key = pending.pop(); key !== undefined; key = pending.pop()) {
      if (key === waiter.ownerKey) return true;
      for (const other of this.waiting.get(key) ?? []) {
        const of = this.files.get(fileKey(other.place));
        if (of === undefined || other.place.kind !== 'posix') continue;
        for (const next of this.blockers(of, other)) {
          if (seen.has(next)) continue;
          seen.add(next);
          pending.push(next);
        }
      }
    }
    return false;
  }

  private *blockers(file: LockedFile, waiter: Waiter): Generator<string> {
    for (const owner of file.owners.values()) {
      if (owner.key !== waiter.ownerKey && conflictIn(owner.ranges, waiter.lock) !== undefined) yield owner.key;
    }
  }

  // ---- Keeping ------------------------------------------------------------------------------------

  private hold(file: LockedFile, place: LockPlace, ranges: LockedRanges): void {
    const key = ownerKey(place);
    const session = this.sessionOf(place.session);
    const owner = file.owners.get(key);
    session.ranges += ranges.length - (owner?.ranges.length ?? 0);
    if (ranges.length > 0) {
      if (owner === undefined) this.count(file, place.session, 1);
      file.owners.set(key, { key, session: place.session, ranges });
    } else if (file.owners.delete(key)) {
      this.count(file, place.session, -1);
    }
  }

  private dropFrom(file: LockedFile, session: SessionId): void {
    this.clearFrom(file, session);
    this.wake(file);
    this.forgetUnused(file);
  }

  private clearFrom(file: LockedFile, session: SessionId): void {
    const known = this.sessionOf(session);
    for (const waiter of file.waiters.filter((other) => other.place.session === session)) this.dequeue(file, waiter);
    for (const owner of [...file.owners.values()]) {
      if (owner.session !== session) continue;
      known.ranges -= owner.ranges.length;
      file.owners.delete(owner.key);
      this.count(file, session, -1);
    }
  }

  private fileOf(place: Pick<LockPlace, 'inode' | 'kind'>): LockedFile {
    const key = fileKey(place);
    let file = this.files.get(key);
    if (file === undefined) this.files.set(key, (file = { key, owners: new Map(), waiters: [], users: new Map() }));
    return file;
  }

  private forgetUnused(file: LockedFile): void {
    if (file.owners.size + file.waiters.length > 0) return;
    if (this.files.get(file.key) === file) this.files.delete(file.key);
  }

  /** Counts an owner or waiter of the session that came (1) or went (-1). */
  private count(file: LockedFile, session: SessionId, by: 1 | -1): void {
    const users = (file.users.get(session) ?? 0) + by;
    if (users === 0) {
      file.users.delete(session);
      this.sessionOf(session).files.delete(file);
    } else {
      file.users.set(session, users);
      this.sessionOf(session).files.add(file);
    }
  }

  private sessionOf(id: SessionId): LockSession {
    let session = this.sessions.get(id);
    if (session === undefined) {
      session = { ranges: 0, files: new Set(), waiters: new Map(), granted: new Set() };
      this.sessions.set(id, session);
    }
    return session;
  }
}

const fileKey = ({ inode, kind }: Pick<LockPlace, 'inode' | 'kind'>): string => `${inode}/${kind}`;
const ownerKey = ({ session, owner }: LockPlace): string => `${session}/${owner}`;
