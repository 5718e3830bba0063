/**
 * Locks on files: fcntl(2) records and open file descriptions ('posix'), flock(2) ('flock'). In memory only: after a
 * restart the clients tell theirs again (`replace`), and until all have, the service grants nothing.
 *
 * An owner is a name within a session. A request that stands in conflict waits in the order of arrival. One that could
 * be had waits too when an earlier waiter is in its way, so that readers who keep coming starve no writer; but no longer
 * than LOCK_HOLD_BACK_MS, and not when its owner holds a lock on the file, since the earlier one may wait for that.
 *
 * No request costs more than what it touches, and the logarithm of the rest: one program may hold tens of thousands of
 * ranges, and thousands of owners may share a file.
 */
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import {
  LOCK_HOLD_BACK_MS,
  MAX_DEADLOCK_STEPS,
  MAX_LOCK_WAITS_PER_SESSION,
  MAX_LOCKS_PER_FILE,
  MAX_LOCKS_PER_SESSION,
} from '../../core/limits.js';
import { LockRanges, MAX_LOCK_END } from '../../core/lock-ranges.js';
import type { ByteSpan, LockChange, LockedRange } from '../../core/lock-ranges.js';
import { audited } from '../../core/invariant.js';
import { fileKey, givesUp, inConflict, inTheWay, isCounted, newLockedFile, ownerKey } from './locked-file.js';
import type { Held, LockedFile, LockPlace, LockSession, Owner, Waiter } from './locked-file.js';

const ALL: ByteSpan = { start: 0, end: MAX_LOCK_END };

export class LockTable {
  private readonly files = new Map<string, LockedFile>();
  private readonly sessions = new Map<SessionId, LockSession>();
  /** Waiting records by owner, for deadlocks. */
  private readonly waiting = new Map<string, Set<Waiter>>();
  private nextOrder = 1;

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
    const file = this.files.get(fileKey(place));
    return file === undefined ? undefined : inTheWay(file.held, lock, ownerKey(place));
  }

  /**
   * Sets a lock. Returns false when it waits, under `waitId`. Without one (0) EAGAIN when it is in conflict; EDEADLK when
   * waiting would never end; ENOLCK above the bounds. Setting what is held, or what waits under this id, changes nothing.
   */
  set(place: LockPlace, lock: LockedRange, waitId: number): boolean {
    const session = this.sessionOf(place.session);
    if (waitId !== 0 && session.waiters.has(waitId)) return false;
    session.granted.delete(waitId);
    const file = this.fileOf(place);
    try {
      const owner = file.owners.get(ownerKey(place));
      if (owner?.ranges.covers(lock) === true) return true;
      const change = (owner?.ranges ?? NO_RANGES).toSet(lock);
      this.requireRoom(file, session, change);
      const waiter = this.waiterOf(place, lock, waitId);
      if (this.conflict(place, lock) === undefined && (waitId === 0 || !this.isHeldBack(file, waiter))) {
        this.change(file, place, change);
        return true;
      }
      // flock(2) changes a lock by dropping it and setting the other: two that both want to may not wait for each other.
      if (place.kind === 'flock' && owner !== undefined) this.change(file, place, owner.ranges.toClear(ALL));
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
  unset(place: LockPlace, span: ByteSpan): void {
    const file = this.files.get(fileKey(place));
    const owner = file?.owners.get(ownerKey(place));
    if (file === undefined || owner === undefined) return;
    const change = owner.ranges.toClear(span);
    this.requireRoom(file, this.sessionOf(place.session), change);
    this.change(file, place, change);
    this.forgetUnused(file);
  }

  /** All that the owner holds and waits for. */
  release(place: LockPlace): void {
    const file = this.files.get(fileKey(place));
    if (file === undefined) return;
    const own = ownerKey(place);
    const users = file.users.get(place.session);
    const freed: ByteSpan[] = [];
    for (const waiter of [...(users?.waiters ?? [])]) {
      if (waiter.group !== own) continue;
      this.dequeue(file, waiter);
      freed.push(waiter.lock);
    }
    const owner = file.owners.get(own);
    if (owner !== undefined) this.change(file, place, owner.ranges.toClear(ALL));
    this.wake(file, freed);
    this.forgetUnused(file);
  }

  /** Whether the wait is granted; if not, it ends. */
  cancel(session: SessionId, waitId: number): boolean {
    const known = this.sessions.get(session);
    const waiter = known?.waiters.get(waitId);
    if (known === undefined || waiter === undefined) return known?.granted.delete(waitId) ?? false;
    const file = this.fileOf(waiter.place);
    this.dequeue(file, waiter);
    this.wake(file, [waiter.lock]);
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

  holdsAny(session: SessionId): boolean {
    return (this.sessions.get(session)?.ranges ?? 0) > 0;
  }

  /** The session waits for nothing any more, and keeps what it holds. */
  stopWaiting(session: SessionId): void {
    for (const file of [...(this.sessions.get(session)?.files ?? [])]) {
      const waiters = [...this.usersOf(file, session).waiters];
      for (const waiter of waiters) this.dequeue(file, waiter);
      this.wake(file, waiters);
      this.forgetUnused(file);
    }
  }

  endSession(session: SessionId): void {
    for (const file of [...(this.sessions.get(session)?.files ?? [])]) this.dropFrom(file, session);
    this.sessions.delete(session);
  }

  /**
   * What a client tells after a reconnect takes the place of all that was known of its session, waits included. False
   * when another session holds what it tells: this one has lost its locks then.
   */
  replace(session: SessionId, told: readonly { readonly place: LockPlace; readonly lock: LockedRange }[]): boolean {
    const touched = [...(this.sessions.get(session)?.files ?? [])].map((file) => ({
      file,
      freed: this.clearFrom(file, session),
    }));
    // What was granted while the client was away it did not take, and others may have it next.
    this.sessions.get(session)?.granted.clear();
    const isFree = told.every(({ place, lock }) => {
      const found = this.conflict(place, lock);
      return found === undefined || found.session === session;
    });
    if (isFree) {
      for (const { place, lock } of told) {
        const file = this.fileOf(place);
        this.hold(file, place, (file.owners.get(ownerKey(place))?.ranges ?? NO_RANGES).toSet(lock));
      }
    }
    for (const { file, freed } of touched) {
      this.wake(file, freed);
      this.forgetUnused(file);
    }
    return isFree;
  }

  /** Nobody holds or waits for anything. */
  get isEmpty(): boolean {
    return this.files.size === 0;
  }

  private requireRoom(file: LockedFile, session: LockSession, { removed, added }: LockChange): void {
    const growth = added.length - removed.length;
    if (growth <= 0) return;
    if (session.ranges + growth > MAX_LOCKS_PER_SESSION) {
      throw new CairnError('ENOLCK', `the session holds ${MAX_LOCKS_PER_SESSION} locks already`);
    }
    if (file.held.read.size + file.held.write.size + growth > MAX_LOCKS_PER_FILE) {
      throw new CairnError('ENOLCK', `there are ${MAX_LOCKS_PER_FILE} locks on the file already`);
    }
  }

  // ---- Waiting ------------------------------------------------------------------------------------

  private waiterOf(place: LockPlace, lock: LockedRange, id: number): Waiter {
    const { start, end } = lock;
    const order = this.nextOrder++;
    return {
      id,
      place,
      lock,
      start,
      end,
      order,
      group: ownerKey(place),
      sinceMs: this.clock.monotonicMs(),
      isTimed: false,
    };
  }

  private enqueue(file: LockedFile, waiter: Waiter): void {
    file.waiters[waiter.lock.type].insert(waiter);
    this.sessionOf(waiter.place.session).waiters.set(waiter.id, waiter);
    this.usersOf(file, waiter.place.session).waiters.add(waiter);
    const others = this.waiting.get(waiter.group);
    if (others === undefined) this.waiting.set(waiter.group, new Set([waiter]));
    else others.add(waiter);
    if (this.conflict(waiter.place, waiter.lock) === undefined) this.tryLater(file, waiter);
  }

  /** It is held back: for so long and no longer. */
  private tryLater(file: LockedFile, waiter: Waiter): void {
    if (waiter.isTimed) return;
    waiter.isTimed = true;
    const waitedMs = this.clock.monotonicMs() - waiter.sinceMs;
    this.clock.setTimer(Math.max(0, LOCK_HOLD_BACK_MS - waitedMs), () => {
      waiter.isTimed = false;
      if (this.isWaiting(waiter)) this.wakeOne(file, waiter);
    });
  }

  private isWaiting(waiter: Waiter): boolean {
    return this.sessions.get(waiter.place.session)?.waiters.get(waiter.id) === waiter;
  }

  private dequeue(file: LockedFile, waiter: Waiter): void {
    file.waiters[waiter.lock.type].delete(waiter);
    this.sessionOf(waiter.place.session).waiters.delete(waiter.id);
    this.usersOf(file, waiter.place.session).waiters.delete(waiter);
    this.forgetUser(file, waiter.place.session);
    const others = this.waiting.get(waiter.group);
    others?.delete(waiter);
    if (others?.size === 0) this.waiting.delete(waiter.group);
  }

  /** Grants what can be had now that `freed` are not held, or not waited for, any more. */
  private wake(file: LockedFile, freed: readonly ByteSpan[]): void {
    if (freed.length === 0 || file.waiters.read.size + file.waiters.write.size === 0) return;
    const found = new Set<Waiter>();
    for (const { start, end } of freed) {
      for (const waiter of file.waiters.read.all(start, end)) found.add(waiter);
      for (const waiter of file.waiters.write.all(start, end)) found.add(waiter);
    }
    for (const waiter of [...found].sort((a, b) => a.order - b.order)) {
      if (this.isWaiting(waiter)) this.wakeOne(file, waiter);
    }
  }

  /**
   * Grants it if it can be had. Who was held back by it is in conflict with it from then on; what its owner gives up by
   * it may be had by others (`change`).
   */
  private wakeOne(file: LockedFile, waiter: Waiter): void {
    const { place, lock } = waiter;
    if (this.conflict(place, lock) !== undefined) return;
    if (this.isHeldBack(file, waiter)) {
      this.tryLater(file, waiter);
      return;
    }
    this.dequeue(file, waiter);
    const { granted } = this.sessionOf(place.session);
    granted.add(waiter.id);
    for (const oldest of granted) if (granted.size > MAX_LOCK_WAITS_PER_SESSION) granted.delete(oldest);
    this.onGranted(place.session);
    this.change(file, place, (file.owners.get(waiter.group)?.ranges ?? NO_RANGES).toSet(lock));
  }

  private isHeldBack(file: LockedFile, waiter: Waiter): boolean {
    if (file.owners.has(waiter.group)) return false;
    if (this.clock.monotonicMs() - waiter.sinceMs >= LOCK_HOLD_BACK_MS) return false;
    const { start, end, group, order } = waiter;
    const isEarlier = (other: Waiter): boolean => other.order < order;
    return inConflict(waiter.lock).some((type) => file.waiters[type].visit(start, end, group, isEarlier));
  }

  /**
   * Whether somebody whom `waiter` would wait for waits, over any number of others, for its owner. Beyond a number of
   * steps it is taken for none, as Linux does (beyond ten): such a wait can still be interrupted.
   */
  private isDeadlock(file: LockedFile, waiter: Waiter): boolean {
    const pending = [waiter];
    const seen = new Set<string>();
    let steps = 0;
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const of = next === waiter ? file : this.files.get(fileKey(next.place));
      if (of === undefined || next.place.kind !== 'posix') continue;
      const { start, end, group } = next;
      const look = ({ group: holder }: Held): boolean => {
        if (holder === waiter.group || ++steps > MAX_DEADLOCK_STEPS) return true;
        if (seen.has(holder)) return false;
        seen.add(holder);
        pending.push(...(this.waiting.get(holder) ?? []));
        return false;
      };
      if (inConflict(next.lock).some((type) => of.held[type].visit(start, end, group, look))) {
        return steps <= MAX_DEADLOCK_STEPS;
      }
    }
    return false;
  }

  // ---- Keeping ------------------------------------------------------------------------------------

  /** Changes what the owner of `place` holds, and grants to others what that gives up. */
  private change(file: LockedFile, place: LockPlace, change: LockChange): void {
    this.hold(file, place, change);
    if (givesUp(change)) this.wake(file, change.removed);
  }

  private hold(file: LockedFile, place: LockPlace, { removed, added }: LockChange): void {
    const key = ownerKey(place);
    const session = this.sessionOf(place.session);
    let owner = file.owners.get(key);
    if (owner === undefined) {
      owner = { key, session: place.session, order: this.nextOrder++, ranges: new LockRanges() };
      file.owners.set(key, owner);
      this.usersOf(file, place.session).owners.add(owner);
    }
    if (added.length === 0 && removed.length === owner.ranges.size) this.dropRanges(file, owner);
    else for (const { start, type } of removed) file.held[type].delete({ start, order: owner.order });
    owner.ranges.apply({ removed, added });
    for (const range of added) {
      const { start, end } = range;
      file.held[range.type].insert({ start, end, order: owner.order, group: key, range, session: place.session });
    }
    session.ranges += added.length - removed.length;
    if (owner.ranges.size === 0) this.forgetOwner(file, owner);
    audited(() => isCounted(file, session), 'ranges and owners of a file are those of its sessions');
  }

  /** Takes all that the owner holds out of the file's trees. */
  private dropRanges({ held }: LockedFile, { ranges, order, key }: Owner): void {
    for (const type of ['read', 'write'] as const) {
      held[type].deleteAll(key, function* () {
        for (const range of ranges) if (range.type === type) yield { start: range.start, order };
      });
    }
  }

  private forgetOwner(file: LockedFile, owner: Owner): void {
    file.owners.delete(owner.key);
    this.usersOf(file, owner.session).owners.delete(owner);
    this.forgetUser(file, owner.session);
  }

  private dropFrom(file: LockedFile, session: SessionId): void {
    this.wake(file, this.clearFrom(file, session));
    this.forgetUnused(file);
  }

  /** Takes all of the session away. Returns what that frees. */
  private clearFrom(file: LockedFile, session: SessionId): ByteSpan[] {
    const users = file.users.get(session);
    if (users === undefined) return [];
    const freed: ByteSpan[] = [];
    for (const waiter of [...users.waiters]) {
      this.dequeue(file, waiter);
      freed.push(waiter.lock);
    }
    for (const owner of [...users.owners]) {
      for (const range of owner.ranges) freed.push(range);
      this.dropRanges(file, owner);
      this.sessionOf(session).ranges -= owner.ranges.size;
      this.forgetOwner(file, owner);
    }
    return freed;
  }

  private fileOf(place: Pick<LockPlace, 'inode' | 'kind'>): LockedFile {
    const key = fileKey(place);
    let file = this.files.get(key);
    if (file === undefined) {
      file = newLockedFile(key);
      this.files.set(key, file);
    }
    return file;
  }

  private forgetUnused(file: LockedFile): void {
    if (file.users.size > 0) return;
    if (this.files.get(file.key) === file) this.files.delete(file.key);
  }

  private usersOf(
    file: LockedFile,
    session: SessionId,
  ): { readonly owners: Set<Owner>; readonly waiters: Set<Waiter> } {
    let users = file.users.get(session);
    if (users === undefined) {
      file.users.set(session, (users = { owners: new Set(), waiters: new Set() }));
      this.sessionOf(session).files.add(file);
    }
    return users;
  }

  private forgetUser(file: LockedFile, session: SessionId): void {
    const { owners, waiters } = this.usersOf(file, session);
    if (owners.size + waiters.size > 0) return;
    file.users.delete(session);
    this.sessionOf(session).files.delete(file);
  }

  private sessionOf(id: SessionId): LockSession {
    let session = this.sessions.get(id);
    if (session === undefined) {
      session = { id, ranges: 0, files: new Set(), waiters: new Map(), granted: new Set() };
      this.sessions.set(id, session);
    }
    return session;
  }
}

/** Of an owner that holds nothing. Never changed. */
const NO_RANGES = new LockRanges();
