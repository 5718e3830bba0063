/**
 * Holdings: what clients may answer from memory (docs/coherence.md). A session that holds a directory knows its attributes, names and
 * listing, and its files that have no other name; it is told before others change any of that (recalls.ts), and believes it
 * until then. Any number of sessions hold the same, but for the bounds here: over them nothing more is granted, and all works.
 *
 * In memory only. After a restart clients tell theirs again (`reclaim`); until all have, or HOLDING_TAKEOVER_MS have passed, nothing
 * is changed.
 */
import type { Clock } from '../../core/clock.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import {
  HOLDING_CALM_MAX_MS,
  HOLDING_CALM_MIN_MS,
  HOLDING_RESTLESS_MS,
  MAX_HOLDERS,
  MAX_HOLDINGS,
  MAX_HOLDINGS_PER_SESSION,
  MAX_PARTIAL_RECALLS,
  MAX_RESTLESS_INODES,
} from '../../core/limits.js';
import type { Random } from '../../core/random.js';

/** One session's holding of one inode. */
export interface Holder {
  readonly session: SessionId;
  readonly inode: InodeId;
  /** Unique in the life of this master, growing. */
  readonly grant: number;
  readonly grantedMs: number;
  /** It is recalled whole: nothing is covered by it any more, and it ends with the answer. */
  isEnding: boolean;
  /** Recalls of parts of it since `partialsMs`. */
  partials: number;
  partialsMs: number;
}

interface HoldingSession {
  /** Which set of holdings this is: after all of them ended at once there is another. */
  set: number;
  readonly held: Map<InodeId, Holder>;
  /** Its client has yet to learn that the set has ended: until then, or until it stops to believe by itself, it may still act by it. */
  isDismissed: boolean;
}

/** An inode that was taken back soon after it was granted. */
interface Restless {
  recalls: number;
  untilMs: number;
  calmMs: number;
}

export interface HoldingsDeps {
  readonly clock: Clock;
  readonly random: Random;
  /** Whether the session's client said that it asks for holdings, which is durable. Default: all did. */
  readonly mayHold?: (session: SessionId) => boolean;
  readonly maxHoldings?: number;
  readonly maxPerSession?: number;
}

const SET_BYTES = 6;

export class Holdings {
  private readonly byInode = new Map<InodeId, Holder[]>();
  private readonly sessions = new Map<SessionId, HoldingSession>();
  /** Changes that wait to be made, by the inode of the holding. */
  private readonly pending = new Map<InodeId, number>();
  /** The oldest first. */
  private readonly restless = new Map<InodeId, Restless>();
  private count = 0;
  private lastGrant = 0;
  private readonly maxHoldings: number;
  private readonly maxPerSession: number;

  constructor(private readonly deps: HoldingsDeps) {
    this.maxHoldings = deps.maxHoldings ?? MAX_HOLDINGS;
    this.maxPerSession = deps.maxPerSession ?? MAX_HOLDINGS_PER_SESSION;
  }

  /** Of all sessions. */
  get size(): number {
    return this.count;
  }

  /** The number of the session's set of holdings, for its client. */
  setOf(session: SessionId): number {
    return this.sessionOf(session).set;
  }

  holdsAny(session: SessionId): boolean {
    return (this.sessions.get(session)?.held.size ?? 0) > 0;
  }

  /** Whether anybody but `session` (undefined: anybody) holds anything. */
  doOthersHoldAny(session: SessionId | undefined): boolean {
    if (this.count === 0) return false;
    return session === undefined || this.count > (this.sessions.get(session)?.held.size ?? 0);
  }

  /** Who holds `inode`, but for `session`. */
  othersOf(inode: InodeId, session: SessionId | undefined): readonly Holder[] {
    const holders = this.byInode.get(inode);
    if (holders === undefined) return NOBODY;
    return session === undefined ? [...holders] : holders.filter((holder) => holder.session !== session);
  }

  isHeldByOthers(inode: InodeId, session: SessionId | undefined): boolean {
    const holders = this.byInode.get(inode);
    if (holders === undefined) return false;
    for (const holder of holders) if (holder.session !== session) return true;
    return false;
  }

  /**
   * The number of the session's holding of `inode`, for an answer about what it covers; 0: none, or that may be changed any moment. With
   * `hold` it is granted if it may be had.
   */
  cover(session: SessionId, inode: InodeId, hold: boolean): number {
    if (this.pending.size > 0 && this.pending.has(inode)) return 0;
    const own = this.sessions.get(session);
    const holder = own?.held.get(inode);
    if (holder !== undefined) return holder.isEnding || own?.isDismissed === true ? 0 : holder.grant;
    return hold ? this.grant(session, inode) : 0;
  }

  /** A client tells of a holding that it had of the master before, and nothing has changed since. 0: it may not go on. */
  reclaim(session: SessionId, inode: InodeId, isUnchanged: boolean): number {
    return this.cover(session, inode, isUnchanged);
  }

  /** The client gave it up, unless it was granted anew. */
  release(session: SessionId, inode: InodeId, grant: number): void {
    const holder = this.sessions.get(session)?.held.get(inode);
    if (holder?.grant === grant) this.end(holder);
  }

  end(holder: Holder): void {
    const holders = this.byInode.get(holder.inode);
    const at = holders?.indexOf(holder) ?? -1;
    if (holders === undefined || at < 0) return;
    if (holders.length === 1) this.byInode.delete(holder.inode);
    else holders.splice(at, 1);
    this.sessions.get(holder.session)?.held.delete(holder.inode);
    this.count--;
  }

  /** The inode is gone for good: who believes something of it finds nothing else. */
  forgetInode(inode: InodeId): void {
    for (const holder of this.othersOf(inode, undefined)) this.end(holder);
    this.restless.delete(inode);
  }

  /** Something that the holder knows is recalled. True: all of it is, as it would be asked again and again. */
  notePartial(holder: Holder): boolean {
    const nowMs = this.deps.clock.monotonicMs();
    if (nowMs - holder.partialsMs >= HOLDING_RESTLESS_MS) {
      holder.partials = 0;
      holder.partialsMs = nowMs;
    }
    holder.partials++;
    if (holder.isEnding) return true;
    if (holder.partials < MAX_PARTIAL_RECALLS) return false;
    holder.isEnding = true;
    this.noteWhole(holder, nowMs);
    return true;
  }

  /** Changes of what `inode` covers wait: until `unmark`, nobody is told anything that he may go on believing. */
  mark(inode: InodeId): void {
    this.pending.set(inode, (this.pending.get(inode) ?? 0) + 1);
  }

  unmark(inode: InodeId): void {
    const left = (this.pending.get(inode) ?? 0) - 1;
    if (left > 0) this.pending.set(inode, left);
    else this.pending.delete(inode);
  }

  /** From now on its client is told of another set, and nothing is granted to it, until `endAll`. */
  dismiss(session: SessionId): void {
    const own = this.sessionOf(session);
    own.isDismissed = true;
    own.set = this.newSet();
  }

  isDismissed(session: SessionId): boolean {
    return this.sessions.get(session)?.isDismissed === true;
  }

  /** Its client believes nothing any more. */
  endAll(session: SessionId): void {
    const own = this.sessions.get(session);
    if (own === undefined) return;
    for (const holder of [...own.held.values()]) this.end(holder);
    if (!own.isDismissed) own.set = this.newSet();
    own.isDismissed = false;
  }

  endSession(session: SessionId): void {
    this.endAll(session);
    this.sessions.delete(session);
  }

  private grant(session: SessionId, inode: InodeId): number {
    if (this.count >= this.maxHoldings || this.deps.mayHold?.(session) === false) return 0;
    const own = this.sessionOf(session);
    if (own.isDismissed || own.held.size >= this.maxPerSession) return 0;
    const holders = this.byInode.get(inode);
    if (holders !== undefined && holders.length >= MAX_HOLDERS) return 0;
    const nowMs = this.deps.clock.monotonicMs();
    if (this.restless.size > 0 && nowMs < (this.restless.get(inode)?.untilMs ?? 0)) return 0;
    const grant = ++this.lastGrant;
    const holder: Holder = {
      session,
      inode,
      grant,
      grantedMs: nowMs,
      isEnding: false,
      partials: 0,
      partialsMs: nowMs,
    };
    if (holders === undefined) this.byInode.set(inode, [holder]);
    else holders.push(holder);
    own.held.set(inode, holder);
    this.count++;
    return grant;
  }

  /** Taken back so soon for the second time, it is granted to nobody for a while; longer the next time. */
  private noteWhole({ inode, grantedMs }: Holder, nowMs: number): void {
    const before = this.restless.get(inode);
    if (nowMs - grantedMs >= HOLDING_RESTLESS_MS) return;
    this.restless.delete(inode);
    const isOver = before !== undefined && nowMs - before.untilMs >= HOLDING_CALM_MAX_MS;
    const restless: Restless =
      before === undefined || isOver ? { recalls: 0, untilMs: nowMs, calmMs: HOLDING_CALM_MIN_MS } : before;
    restless.recalls++;
    if (restless.recalls >= 2) {
      restless.recalls = 0;
      restless.untilMs = nowMs + restless.calmMs;
      restless.calmMs = Math.min(2 * restless.calmMs, HOLDING_CALM_MAX_MS);
    }
    this.restless.set(inode, restless);
    for (const oldest of this.restless.keys()) {
      if (this.restless.size <= MAX_RESTLESS_INODES) break;
      this.restless.delete(oldest);
    }
  }

  private sessionOf(session: SessionId): HoldingSession {
    let own = this.sessions.get(session);
    if (own === undefined) {
      own = { set: this.newSet(), held: new Map(), isDismissed: false };
      this.sessions.set(session, own);
    }
    return own;
  }

  /** Random, so that it is none of a master before, and of no past that was put back. */
  private newSet(): number {
    return this.deps.random.bytes(SET_BYTES).readUIntBE(0, SET_BYTES) + 1;
  }
}

const NOBODY: readonly Holder[] = [];
