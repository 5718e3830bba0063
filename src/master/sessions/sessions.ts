/**
 * Client sessions: a durable record each ('N'), and in memory who is connected and what is open.
 *
 * A session belongs to the connection that opened or resumed it last; requests on any other connection are refused,
 * so nothing delayed on an old connection takes effect after the client went on. It ends when its client closes it or
 * is unheard of for SESSION_TTL_MS, connected or not, and with it its opens and stored replies.
 *
 * Opens and locks are told again by the client (`reclaim`) after it reconnected: what it says replaces what was known.
 * After a restart of the master nothing is known, so until every session of before has reclaimed or ended (`isGraceOver`) no
 * orphan is reaped, no tail is cut and no lock is granted. After a restore there may be others, of which nothing is known.
 */
import { CairnError } from '../../core/errors.js';
import { inodeId, sessionId } from '../../core/ids.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import {
  MAX_CLIENT_NAME_BYTES,
  MAX_LOCKS_PER_SESSION,
  MAX_OPENS_PER_SESSION,
  MAX_RECLAIM_ENTRIES,
  MAX_SESSIONS,
  SESSION_TTL_MS,
  RECLAIM_LIMIT_MS,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import type { OpenSessionRequest, ReclaimRequest } from '../../protocol/generated/messages.js';
import type { Peer } from '../../protocol/rpc.js';
import type { IdReserve } from '../state/id-reserve.js';
import type { ListeningTime } from '../servers/listening-time.js';
import type { LockedRange } from '../../core/lock-ranges.js';
import { unawaited } from '../../core/sync.js';
import { keys, packNumber, prefixRange, unpackNumber } from '../state/keys.js';
import { lockOf } from './lock-state.js';
import type { AppendLeases } from './append-leases.js';
import type { LockPlace } from './locked-file.js';
import type { LockTable } from './locks.js';
import type { LostLocks } from './lost-locks.js';
import type { Recalls } from './recalls.js';
import { Opens } from './opens.js';
import { ReplyLedger } from './replies.js';
import { decodeSession, encodeSession, hashOf, isTokenOf, TOKEN_BYTES } from './session-record.js';
import type { SessionEvents } from './session-events.js';
import type { State } from '../state/state.js';
import { forgetTakenAppends } from '../tables/taken-appends.js';

export interface Session {
  readonly id: SessionId;
  readonly clientName: string;
  /** Of what its client must show to resume it; empty if nobody can. */
  readonly tokenHash: Buffer;
  peer: Peer | null;
  lastHeardMs: number;
  /** Its opens are known: it is new, or reclaimed since the master started. */
  reclaimed: boolean;
  readonly opens: Opens;
  /** What it had open for writing when it told so first, as far as that is still open; undefined: it has not told yet. */
  writtenSinceBefore: Set<InodeId> | undefined;
  /** Pages of a reclaim that is not done. */
  reclaiming: Reclaim | undefined;
  readonly replies: ReplyLedger;
  /** Its holdings ended without its client, which has not come back since. */
  holdingsEnded: boolean;
  /** It may have holdings. */
  readonly holds: boolean;
}

interface Reclaim {
  readonly opens: Opens;
  readonly locks: { readonly place: LockPlace; readonly lock: LockedRange }[];
  readonly appends: InodeId[];
}

export class Sessions {
  private readonly sessions = new Map<SessionId, Session>();
  private readonly byPeer = new Map<Peer, Session>();
  /** Opens of all sessions together. */
  private readonly total = new Opens(Infinity);
  /** Inodes whose writer died while others wrote: cut when the last of them is done. */
  private readonly tails = new Set<InodeId>();
  private readonly unreclaimed = new Set<SessionId>();
  private readonly startedMs: number;
  /** Until then sessions may stand that this state does not have. */
  private strangersUntilMs = -Infinity;
  isGraceOver = false;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly listening: ListeningTime;
      readonly random: Random;
      readonly logger: Logger;
      readonly sessionIds: IdReserve;
      readonly locks: LockTable;
      readonly lostLocks: LostLocks;
      readonly appends: AppendLeases;
      readonly recalls: Pick<Recalls, 'endSession'>;
      readonly events: SessionEvents;
    },
  ) {
    this.startedMs = deps.listening.nowMs();
    // The master before this one did not wait for them to the end.
    if (this.areStrangersNoted) this.expectStrangers();
    for (const [key, value] of deps.state.range(prefixRange('N'))) {
      const id = sessionId(unpackNumber(key, 1));
      const { clientName, tokenHash, holdingsEnded, holds } = decodeSession(value);
      const session = this.make(id, { clientName, tokenHash, holds }, false);
      session.holdingsEnded = holdingsEnded;
      this.sessions.set(id, session);
      this.unreclaimed.add(id);
    }
  }

  /**
   * The state was put back. Nobody tells what clients hold whose sessions began since, and they may be cut off and not know: they
   * have it until the leases of chunks lapse that they had. `strangers` says so to a master that starts meanwhile.
   */
  expectStrangers(): void {
    this.strangersUntilMs = this.startedMs + SESSION_TTL_MS;
    for (const session of this.sessions.values()) session.writtenSinceBefore = undefined;
  }

  private get areStrangersNoted(): boolean {
    return this.deps.state.get(keys.meta('strangers')) !== undefined;
  }

  /** Nobody holds what he has not told. */
  get areAllTold(): boolean {
    return this.isGraceOver && this.deps.listening.nowMs() >= this.strangersUntilMs;
  }

  /** As `areAllTold`, of those that may have holdings. */
  get areHoldersTold(): boolean {
    if (this.deps.listening.nowMs() < this.strangersUntilMs) return false;
    for (const id of this.unreclaimed) if (this.mayHold(id)) return false;
    return true;
  }

  /** Its client said so when it opened the session. */
  mayHold(id: SessionId): boolean {
    return this.sessions.get(id)?.holds === true;
  }

  /** To be called once the others listen to the events. */
  start(): void {
    this.checkGrace();
  }

  get size(): number {
    return this.sessions.size;
  }

  private make(id: SessionId, about: Pick<Session, 'clientName' | 'tokenHash' | 'holds'>, isNew: boolean): Session {
    return {
      id,
      ...about,
      peer: null,
      lastHeardMs: this.deps.listening.nowMs(),
      reclaimed: isNew,
      opens: new Opens(MAX_OPENS_PER_SESSION),
      reclaiming: undefined,
      writtenSinceBefore: undefined,
      replies: new ReplyLedger(this.deps.state, id),
      holdingsEnded: false,
    };
  }

  /**
   * Noted before anything changes that it held: its client may come back to another master, to which it must not tell what it held.
   * Until it has come back. False: there is no room for that now.
   */
  noteHoldingsEnded(id: SessionId, holdingsEnded: boolean): boolean {
    const session = this.sessions.get(id);
    if (session === undefined || session.holdingsEnded === holdingsEnded) return true;
    const record = encodeSession({ ...session, holdingsEnded });
    if (!this.deps.state.mutateIfRoom((m) => m.put(keys.session(id), record))) return false;
    session.holdingsEnded = holdingsEnded;
    return true;
  }

  /**
   * Resumes `wanted`, or makes a session when it is 0 or gone, or the token is not its. Durable when this returns.
   * `token` is told of a new session only: the store has a hash of it, so that who reads a backup resumes nothing.
   */
  async open(
    peer: Peer,
    request: Pick<OpenSessionRequest, 'sessionId' | 'clientName' | 'token' | 'holds'>,
  ): Promise<{ session: Session; token: Buffer | undefined }> {
    const { sessionId: wanted, clientName, token: shown, holds } = request;
    if (Buffer.byteLength(clientName) > MAX_CLIENT_NAME_BYTES) {
      throw new CairnError('EINVAL', `a client's name has at most ${MAX_CLIENT_NAME_BYTES} bytes`);
    }
    const known = wanted === 0 ? undefined : this.sessions.get(sessionId(wanted));
    if (known !== undefined && isTokenOf(known, shown)) {
      this.bind(known, peer);
      this.deps.logger.info({ session: known.id, client: known.clientName }, 'session resumed');
      return { session: known, token: undefined };
    }
    if (known !== undefined) {
      this.deps.logger.warn(
        { session: known.id, client: clientName, address: peer.address },
        'a session was asked for without its token; a new one begins',
      );
    }
    // One a connection: whoever opens more gives up what he had.
    const before = this.byPeer.get(peer);
    if (before !== undefined) this.end(before, 'closed');
    if (this.sessions.size >= MAX_SESSIONS) throw new CairnError('BUSY', `${MAX_SESSIONS} sessions stand already`);
    const id = sessionId(await this.deps.sessionIds.take());
    const token = this.deps.random.bytes(TOKEN_BYTES);
    const session = this.make(id, { clientName, tokenHash: hashOf(token), holds }, true);
    this.deps.state.mutate((m) => m.put(keys.session(id), encodeSession(session)));
    this.sessions.set(id, session);
    await this.deps.state.durable();
    this.bind(session, peer);
    this.deps.logger.info({ session: id, client: clientName, address: peer.address }, 'session opened');
    return { session, token };
  }

  private bind(session: Session, peer: Peer): void {
    const other = this.byPeer.get(peer);
    if (other !== undefined && other !== session) other.peer = null;
    const old = session.peer;
    session.peer = peer;
    session.lastHeardMs = this.deps.listening.nowMs();
    session.reclaiming = undefined;
    this.byPeer.set(peer, session);
    if (old === peer) return;
    if (old !== null) {
      this.byPeer.delete(old);
      old.close('its session goes on over another connection');
    }
    const gone = peer.closed.then(() => {
      const bound = this.byPeer.get(peer);
      this.byPeer.delete(peer);
      if (bound?.peer === peer) bound.peer = null;
    });
    unawaited(gone, this.deps.logger, 'noting that a client left');
  }

  /** Time since the session was last heard of; undefined when it has ended. */
  silentMs(id: SessionId): number | undefined {
    const session = this.sessions.get(id);
    return session === undefined ? undefined : this.deps.listening.nowMs() - session.lastHeardMs;
  }

  /** Its connection, if it has one. */
  peerOf(id: SessionId): Peer | undefined {
    return this.sessions.get(id)?.peer ?? undefined;
  }

  /** Its client must open it anew, and tell what it holds, before anything else. */
  disconnect(id: SessionId, reason: string): void {
    const session = this.sessions.get(id);
    const peer = session?.peer;
    if (session === undefined || peer === null || peer === undefined) return;
    session.peer = null;
    this.byPeer.delete(peer);
    peer.close(reason);
  }

  /** As `disconnect`, for all. */
  disconnectAll(reason: string): void {
    for (const id of this.sessions.keys()) this.disconnect(id, reason);
  }

  /** The session of a client's connection. SESSION_EXPIRED when there is none, or it went on elsewhere. */
  require(peer: Peer): Session {
    const session = this.byPeer.get(peer);
    if (session === undefined || session.peer !== peer) {
      throw new CairnError('SESSION_EXPIRED', 'this connection has no session: open or resume one first');
    }
    session.lastHeardMs = this.deps.listening.nowMs();
    return session;
  }

  // ---- Opens ---------------------------------------------------------------------------------------

  isOpen(inode: InodeId): boolean {
    return this.total.has(inode);
  }

  isWritten(inode: InodeId): boolean {
    return this.total.writers(inode) > 0;
  }

  /** By a client that had it open before this master began, or before its state was found to be put back. */
  isWrittenSinceBefore(inode: InodeId): boolean {
    for (const { writtenSinceBefore, opens } of this.sessions.values()) {
      if (writtenSinceBefore?.has(inode) === true && opens.writers(inode) > 0) return true;
    }
    return false;
  }

  /** Bytes may lie behind the end of `inode` that no writer will publish: they are cut once nobody writes it (P5). */
  noteTail(inode: InodeId): void {
    if (this.isWritten(inode)) this.tails.add(inode);
    else this.deps.events.onWriterDied(inode);
  }

  addOpen(session: Session, inode: InodeId, opens: { readonly readers: number; readonly writers: number }): void {
    session.opens.add(inode, opens);
    session.reclaiming?.opens.add(inode, opens);
    this.total.add(inode, opens);
  }

  /** `untold`: the client wrote to the file, and could not tell what. */
  closeOpen(
    session: Session,
    inode: InodeId,
    opens: { readonly readers: number; readonly writers: number },
    untold = false,
  ): void {
    if (untold && session.opens.writers(inode) > 0) this.notePartings([inode]);
    session.reclaiming?.opens.remove(inode, opens);
    this.released(inode, session.opens.remove(inode, opens));
    if (session.opens.writers(inode) === 0) session.writtenSinceBefore?.delete(inode);
    if (session.opens.has(inode)) return;
    this.deps.locks.closeInode(session.id, inode);
    this.deps.appends.closeInode(session.id, inode);
  }

  private released(inode: InodeId, opens: { readonly readers: number; readonly writers: number }): void {
    this.total.remove(inode, opens);
    if (this.total.writers(inode) === 0) {
      if (this.tails.delete(inode)) this.deps.events.onWriterDied(inode);
      else if (opens.writers > 0 && this.isGraceOver) this.deps.events.onUnwritten(inode);
    }
    if (!this.total.has(inode)) this.deps.events.onUnused(inode);
  }

  /**
   * One page of what the session has open and locked; with `done` it replaces what was known. Returns the inodes whose
   * append leases it held and others have by now.
   */
  reclaim(session: Session, request: ReclaimRequest): InodeId[] {
    const { opens: files, locks: ranges, appends: leases, holdings } = request;
    if (files.length + ranges.length + leases.length + holdings.length > MAX_RECLAIM_ENTRIES) {
      throw new CairnError('PROTOCOL', `a page of a reclaim has at most ${MAX_RECLAIM_ENTRIES} entries`);
    }
    session.reclaiming ??= { opens: new Opens(MAX_OPENS_PER_SESSION), locks: [], appends: [] };
    const { opens: told, locks, appends } = session.reclaiming;
    for (const { inode, readers, writers } of request.opens) told.add(inodeId(inode), { readers, writers });
    for (const state of request.locks) {
      const { place, type, ...range } = lockOf(session.id, state);
      if (type !== 'unlock' && told.has(place.inode)) locks.push({ place, lock: { type, ...range } });
    }
    for (const inode of request.appends) if (told.has(inodeId(inode))) appends.push(inodeId(inode));
    if (appends.length > MAX_OPENS_PER_SESSION) {
      throw new CairnError('PROTOCOL', `a session has at most ${MAX_OPENS_PER_SESSION} files open`);
    }
    if (locks.length > MAX_LOCKS_PER_SESSION) {
      throw new CairnError('PROTOCOL', `a session holds at most ${MAX_LOCKS_PER_SESSION} locks`);
    }
    if (!request.done) return [];
    const before = [...session.opens.entries()];
    this.notePartings(before.flatMap(([inode, { writers }]) => (writers > 0 && !told.has(inode) ? [inode] : [])));
    if (!this.deps.locks.replace(session.id, locks)) {
      // It was away for longer than others wait after a restart.
      this.end(session, 'expired');
      throw new CairnError('SESSION_EXPIRED', 'locks that the session held are held by others now');
    }
    const after = [...told.entries()];
    const written = new Set(after.flatMap(([inode, { writers }]) => (writers > 0 ? [inode] : [])));
    const { writtenSinceBefore } = session;
    session.writtenSinceBefore =
      writtenSinceBefore === undefined
        ? written
        : new Set([...writtenSinceBefore].filter((inode) => written.has(inode)));
    session.reclaiming = undefined;
    session.replies.countAgain();
    session.opens.clear();
    // First all that stays or comes, so that nothing counts as unused in between.
    for (const [inode, opens] of after) {
      session.opens.add(inode, opens);
      this.total.add(inode, opens);
    }
    for (const [inode, opens] of before) this.released(inode, opens);
    const lost = this.deps.appends.replace(session.id, appends);
    session.reclaimed = true;
    this.unreclaimed.delete(session.id);
    this.checkGrace();
    return lost;
  }

  /** Files that a client closed while it was away or was refused, or left open when it went: it could not tell what it had written. */
  private notePartings(inodes: readonly InodeId[]): void {
    if (inodes.length === 0) return;
    for (const inode of inodes) this.tails.add(inode);
    this.deps.events.onWritersGone(inodes);
  }

  private checkGrace(): void {
    if (this.isGraceOver || this.unreclaimed.size > 0) return;
    this.isGraceOver = true;
    this.deps.events.onGraceOver();
  }

  // ---- The end -------------------------------------------------------------------------------------

  /** Ends the sessions that are unheard of for too long. To be called about every second. */
  tick(): void {
    const nowMs = this.deps.listening.nowMs();
    for (const session of [...this.sessions.values()]) {
      if (nowMs - session.lastHeardMs >= SESSION_TTL_MS) this.end(session, 'expired');
    }
    if (this.areStrangersNoted && nowMs >= this.strangersUntilMs) {
      this.deps.state.mutateIfRoom((m) => m.delete(keys.meta('strangers')));
    }
    // A client that came back and never says what it has open must not keep the others' garbage for ever.
    if (!this.isGraceOver && nowMs - this.startedMs >= RECLAIM_LIMIT_MS) {
      this.unreclaimed.clear();
      this.checkGrace();
    }
  }

  end(session: Session, reason: 'closed' | 'expired'): void {
    const { state, logger } = this.deps;
    if (!this.sessions.has(session.id)) return;
    // First, as there may be no space for it: then the session stays, and is ended another time.
    state.mutate((m) => {
      m.delete(keys.session(session.id));
      for (const [key] of m.range(prefixRange('P' + packNumber(session.id)))) m.delete(key);
      forgetTakenAppends(m, session.id);
    });
    this.sessions.delete(session.id);
    const opens = [...session.opens.entries()];
    const written = opens.flatMap(([inode, { writers }]) => (writers > 0 ? [inode] : []));
    logger.info({ session: session.id, client: session.clientName, open: opens.length }, `session ${reason}`);
    if (session.peer !== null) this.byPeer.delete(session.peer);
    session.peer = null;
    if (reason === 'closed') this.notePartings(written);
    for (const [inode, counts] of opens) {
      if (counts.writers > 0) this.tails.add(inode);
      if (counts.writers > 0 && reason === 'expired') this.deps.events.onWriterLost(inode);
      this.released(inode, counts);
    }
    session.opens.clear();
    if (reason === 'closed') this.deps.locks.endSession(session.id);
    else this.deps.lostLocks.sessionExpired(session.id, written);
    this.deps.appends.endSession(session.id, reason === 'closed');
    this.deps.recalls.endSession(session.id);
    this.unreclaimed.delete(session.id);
    this.checkGrace();
  }
}
