/**
 * Append leases: which session may put bytes at the end of a file. A client that holds one appends without asking, as
 * long as nobody else wants to; when somebody does, it is told so by its poll (`recalled`), writes out what it has,
 * publishes the size and gives the lease up. So appends of different machines never overlap, and leave no gaps.
 *
 * Whoever cuts a file, or writes past its end, takes a turn among those who append (`turn`).
 *
 * In memory only, but for what a client lost and may not know (`taken`). After a restart clients tell theirs again; until
 * all have, or APPEND_TAKEOVER_MS have passed, none is granted, and nothing is cut. The lease of a client that is unheard of for so long goes to
 * who waits for it, once the chunkservers refuse what the client may still send (`fence`); the client is told when it comes
 * back (`replace`), and drops those bytes.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError } from '../../core/errors.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import { APPEND_TAKEOVER_MS, LOCK_POLL_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { deferred } from '../../core/sync.js';
import type { Deferred } from '../../core/sync.js';
import type { TakenAppends } from '../tables/taken-appends.js';

/** Of a change of the size: a cut takes away what others appended and have not told of, growth leaves it. */
export type TurnKind = 'cut' | 'growth';

interface Waiter {
  /** Whoever takes a turn is no holder. */
  readonly kind: TurnKind | 'lease';
  readonly session: SessionId;
  readonly granted: Deferred<boolean>;
  /** It came to hold the lease while it waited for a turn, which it has by that. */
  isOwn: boolean;
}

interface AppendedFile {
  readonly inode: InodeId;
  holder: SessionId | undefined;
  /** Somebody takes a turn. */
  inTurn: boolean;
  /** Changes of the size by the holder that are under way; they are over before anybody else's begin, also when it gives the lease up. */
  ownTurns: number;
  /** The holder is gone, and what it may have sent is being refused. It stays the holder until that is done. */
  fencing: boolean;
  /** The holder knows that it is no more, or gave it up, while what it had sent was still to be refused. */
  abandoned: boolean;
  /** In the order of arrival. */
  waiters: Waiter[];
}

interface AppendSession {
  readonly held: Set<InodeId>;
  readonly recalled: Set<InodeId>;
  poll: Deferred<void> | undefined;
}

export interface AppendLeasesDeps {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Time since the session was last heard of; undefined when it has ended. */
  readonly silentMs: (session: SessionId) => number | undefined;
  /** Ends the session's connection: before its client says anything more, it must tell what it holds. */
  readonly disconnect: (session: SessionId) => void;
  /** All sessions of before a restart have told what they hold, or ended. */
  readonly isGraceOver: () => boolean;
  /** Resolves when no chunk of the file takes what was sent under the leases of before. */
  readonly fence: (inode: InodeId) => Promise<void>;
  /** A session lost its lease: what it appended and did not publish is there, and nobody's. */
  readonly onLost: (inode: InodeId) => void;
  /** What went to others while its client was away. */
  readonly taken: Pick<TakenAppends, 'note' | 'has' | 'forget' | 'forgetOne'>;
}

export class AppendLeases {
  private readonly files = new Map<InodeId, AppendedFile>();
  private readonly sessions = new Map<SessionId, AppendSession>();
  private readonly startedMs: number;
  /** Granted, or cut, before all had told what they hold: who tells of these was too late. */
  private readonly early = new Set<InodeId>();

  constructor(private readonly deps: AppendLeasesDeps) {
    this.startedMs = deps.clock.monotonicMs();
  }

  /** Nobody holds or waits for anything. */
  get isEmpty(): boolean {
    return this.files.size === 0;
  }

  /** Grants the lease if that takes no waiting. */
  take(session: SessionId, inode: InodeId): boolean {
    const file = this.files.get(inode);
    if (file?.holder === session && !isLost(file)) return true;
    if (file !== undefined || !this.mayBegin('lease')) return false;
    this.grant(this.fileOf(inode), session);
    return true;
  }

  /** Waits for the lease, LOCK_POLL_MS at most; false when it did not come. */
  async acquire(session: SessionId, inode: InodeId, signal: AbortSignal): Promise<boolean> {
    if (this.take(session, inode)) return true;
    const waiter = this.enqueue(session, inode, 'lease');
    const giveUp = (): void => {
      waiter.granted.resolve(false);
      this.leave(inode, waiter);
    };
    const timer = this.deps.clock.setTimer(LOCK_POLL_MS, giveUp);
    signal.addEventListener('abort', giveUp, { once: true });
    const granted = await waiter.granted.promise;
    timer.cancel();
    signal.removeEventListener('abort', giveUp);
    return granted;
  }

  release(session: SessionId, inode: InodeId): void {
    const known = this.sessions.get(session);
    const file = this.files.get(inode);
    if (known?.held.has(inode) !== true || file?.holder !== session) return;
    if (file.fencing || file.abandoned) {
      // What it sent may still come. Who waits gets the lease when that is refused.
      file.abandoned = true;
      return;
    }
    this.unhold(file);
    this.next(file);
  }

  /**
   * For a change of the file's size by a session: nobody else begins to append, or to change it, until its end is told by the
   * function. At once when nobody appends, and for who holds the lease.
   */
  turn(session: SessionId, inode: InodeId, kind: TurnKind): (() => void) | Promise<() => void> {
    const known = this.files.get(inode);
    const file = known ?? this.fileOf(inode);
    const ownDone = (): void => {
      file.ownTurns--;
      this.next(file);
    };
    if (file.holder === session && !isLost(file)) {
      file.ownTurns++;
      return ownDone;
    }
    const done = (): void => {
      file.inTurn = false;
      this.next(file);
    };
    if (known === undefined && this.mayBegin(kind)) {
      this.beginTurn(file, kind);
      return done;
    }
    const waiter = this.enqueue(session, inode, kind);
    return waiter.granted.promise.then(() => (waiter.isOwn ? ownDone : done));
  }

  /** Inodes whose leases the session is to give up, but for those that it knows of. Waits when there are none. */
  async poll(session: SessionId, known: readonly InodeId[], signal: AbortSignal): Promise<InodeId[]> {
    const own = this.sessionOf(session);
    own.poll?.resolve();
    const found = (): InodeId[] => [...own.recalled].filter((inode) => !known.includes(inode));
    if (found().length > 0) return found();
    const woken = deferred<void>();
    own.poll = woken;
    const wake = (): void => woken.resolve();
    const timer = this.deps.clock.setTimer(LOCK_POLL_MS, wake);
    signal.addEventListener('abort', wake, { once: true });
    await woken.promise;
    timer.cancel();
    signal.removeEventListener('abort', wake);
    if (own.poll === woken) own.poll = undefined;
    return found();
  }

  /** What a client tells after a reconnect takes the place of what was known. Returns what others hold by now. */
  replace(session: SessionId, told: readonly InodeId[]): InodeId[] {
    const known = this.sessionOf(session);
    const before = new Set(known.held);
    const lost: InodeId[] = [];
    for (const inode of told) {
      const file = this.files.get(inode);
      if (file?.holder === session && !isLost(file)) before.delete(inode);
      else if (this.deps.taken.has(session, inode) || this.early.has(inode)) lost.push(inode);
      else if (file?.holder === undefined) {
        // Also while somebody makes the file longer, who came before this one could tell: what it appended is not to be lost.
        const free = this.fileOf(inode);
        this.hold(free, session);
        this.next(free);
      } else lost.push(inode);
    }
    // Of those that it tells it may not get this answer, and tell again.
    this.deps.taken.forget(session, new Set(told));
    for (const inode of lost) {
      if (!this.deps.taken.has(session, inode)) this.deps.taken.note(session, inode);
      this.deps.onLost(inode);
    }
    for (const inode of before) this.release(session, inode);
    return lost;
  }

  /** The session has the inode open no more: all of it is published. */
  closeInode(session: SessionId, inode: InodeId): void {
    this.release(session, inode);
  }

  /** `cleanly`: nothing that it sent can be on its way. */
  endSession(session: SessionId, cleanly: boolean): void {
    for (const file of [...this.files.values()]) {
      for (const waiter of file.waiters.filter((one) => one.session === session && one.kind === 'lease')) {
        waiter.granted.resolve(false);
        this.leave(file.inode, waiter);
      }
    }
    const known = this.sessions.get(session);
    if (known === undefined) return;
    for (const inode of known.held) {
      const file = this.files.get(inode);
      if (file === undefined) continue;
      if (cleanly) this.release(session, inode);
      else this.takeOver(file);
    }
    known.poll?.resolve();
    this.sessions.delete(session);
  }

  /** To be called about every second. */
  tick(): void {
    if (this.deps.isGraceOver()) this.early.clear();
    for (const file of [...this.files.values()]) {
      if (file.holder === undefined) this.next(file);
      else if (file.abandoned || (file.waiters.length > 0 && this.isGone(file.holder))) this.takeOver(file);
    }
  }

  private isGone(session: SessionId): boolean {
    return (this.deps.silentMs(session) ?? Infinity) >= APPEND_TAKEOVER_MS;
  }

  private takeOver(file: AppendedFile): void {
    const { holder, inode } = file;
    if (file.fencing || holder === undefined) return;
    file.fencing = true;
    const { fence, logger, taken } = this.deps;
    // It may be heard of again at any moment, with a size that is its own no more.
    if (!file.abandoned) this.deps.disconnect(holder);
    const given = fence(inode).then(() => {
      // Before others have it: the client may come back to another master.
      if (this.sessions.has(holder)) taken.note(holder, inode);
      logger.info({ inode, session: holder }, 'the append lease of a client that went is given on');
      this.deps.onLost(inode);
      file.fencing = false;
      file.abandoned = false;
      this.unhold(file);
      this.next(file);
    });
    given.catch((error: unknown) => {
      // The next tick tries again.
      file.fencing = false;
      logger.warn({ inode, reason: asCairnError(error).message }, 'an append lease cannot be given on yet');
    });
  }

  /** Who appended before a restart has told so, or had the time to: what is told later is lost. Growth takes nothing from anybody. */
  private mayBegin(kind: Waiter['kind']): boolean {
    if (kind === 'growth') return true;
    return this.deps.isGraceOver() || this.deps.clock.monotonicMs() - this.startedMs >= APPEND_TAKEOVER_MS;
  }

  private enqueue(session: SessionId, inode: InodeId, kind: Waiter['kind']): Waiter {
    const file = this.fileOf(inode);
    const waiter: Waiter = { kind, session, granted: deferred<boolean>(), isOwn: false };
    file.waiters.push(waiter);
    this.next(file);
    return waiter;
  }

  private leave(inode: InodeId, waiter: Waiter): void {
    const file = this.files.get(inode);
    if (file === undefined) return;
    file.waiters = file.waiters.filter((other) => other !== waiter);
    if (file.waiters.length === 0 && file.holder !== undefined) {
      this.sessions.get(file.holder)?.recalled.delete(inode);
    }
    this.next(file);
  }

  /** Gives the lease to who waits for it, and tells who has it that somebody waits. */
  private next(file: AppendedFile): void {
    const [first] = file.waiters;
    const isFree = file.holder === undefined && !file.inTurn && file.ownTurns === 0;
    if (isFree && first !== undefined && this.mayBegin(first.kind)) {
      file.waiters.shift();
      if (first.kind === 'lease') this.grant(file, first.session);
      else this.beginTurn(file, first.kind);
      first.granted.resolve(true);
    }
    this.beginOwnTurns(file);
    if (file.holder !== undefined && file.waiters.length > 0) this.recall(file.holder, file.inode);
    else if (isFree && first === undefined) this.files.delete(file.inode);
  }

  /**
   * The lease came to a session that waits for a turn, too. It does not give the lease up before that turn: what it appends
   * may wait for it.
   */
  private beginOwnTurns(file: AppendedFile): void {
    if (file.holder === undefined || isLost(file)) return;
    const isOwn = ({ session, kind }: Waiter): boolean => session === file.holder && kind !== 'lease';
    const own = file.waiters.filter(isOwn);
    if (own.length === 0) return;
    file.waiters = file.waiters.filter((waiter) => !isOwn(waiter));
    for (const waiter of own) {
      waiter.isOwn = true;
      file.ownTurns++;
      waiter.granted.resolve(true);
    }
  }

  private recall(holder: SessionId, inode: InodeId): void {
    const session = this.sessions.get(holder);
    if (session === undefined || session.recalled.has(inode)) return;
    session.recalled.add(inode);
    session.poll?.resolve();
  }

  private beginTurn(file: AppendedFile, kind: TurnKind): void {
    if (kind === 'cut') this.noteEarly(file.inode);
    file.inTurn = true;
  }

  private noteEarly(inode: InodeId): void {
    if (!this.deps.isGraceOver()) this.early.add(inode);
  }

  private grant(file: AppendedFile, session: SessionId): void {
    this.noteEarly(file.inode);
    this.deps.taken.forgetOne(session, file.inode);
    this.hold(file, session);
  }

  private hold(file: AppendedFile, session: SessionId): void {
    file.holder = session;
    this.sessionOf(session).held.add(file.inode);
  }

  private unhold(file: AppendedFile): void {
    const session = file.holder === undefined ? undefined : this.sessions.get(file.holder);
    session?.held.delete(file.inode);
    session?.recalled.delete(file.inode);
    file.holder = undefined;
  }

  private fileOf(inode: InodeId): AppendedFile {
    let file = this.files.get(inode);
    if (file === undefined) {
      file = { inode, holder: undefined, inTurn: false, ownTurns: 0, fencing: false, abandoned: false, waiters: [] };
      this.files.set(inode, file);
    }
    return file;
  }

  private sessionOf(id: SessionId): AppendSession {
    let session = this.sessions.get(id);
    if (session === undefined) {
      session = { held: new Set(), recalled: new Set(), poll: undefined };
      this.sessions.set(id, session);
    }
    return session;
  }
}

/** Its holder can be sure of it no more. */
const isLost = (file: AppendedFile): boolean => file.fencing || file.abandoned;
