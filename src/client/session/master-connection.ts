/**
 * The client's one connection to the master and its session there.
 *
 * A loop keeps the connection up: connect, open or resume the session, tell what is open (`reclaim`), heartbeat, and
 * again with growing pauses when it breaks. Every operation waits for it and is repeated, until
 * CLIENT_OPERATION_TIMEOUT_MS have passed, when the way to the master fails; errors of POSIX are answers and go back
 * at once. A mutation carries its place in the session, so that a repeat gets the first answer (P6). When the session
 * itself is lost, a mutation that may have taken effect is not repeated, unless doing it twice is the same as once.
 */
import type { Clock, Timer } from '../../core/clock.js';
import { CairnError, asCairnError, hasCode } from '../../core/errors.js';
import {
  CLIENT_OPERATION_TIMEOUT_MS,
  GIVE_BACK_DELAY_MS,
  HEARTBEAT_INTERVAL_MS,
  MAX_CHUNKS_PER_PAGE,
  MAX_GIVEN_BACK,
  REQUEST_TIMEOUT_MS,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { later, NEVER } from '../../core/master-time.js';
import type { MasterTime } from '../../core/master-time.js';
import type { Random } from '../../core/random.js';
import { deferred, type Deferred, watched } from '../../core/sync.js';
import type {
  CloseRequestInit,
  LockStateInit,
  MasterMark,
  OpenStateInit,
  OperationIdInit,
} from '../../protocol/generated/messages.js';
import { MASTER_METHODS, type MethodDefinition } from '../../protocol/methods.js';
import type { Peer } from '../../protocol/rpc.js';
import { PartedInodes } from './parted-inodes.js';
import { Backoff, isTransient } from './retry.js';

export interface MasterConnectionOptions {
  readonly connect: () => Promise<Peer>;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** Host and process, for the operator. */
  readonly clientName: string;
  readonly operationTimeoutMs?: number;
  /** What the session holds open now. */
  readonly opens: () => Iterable<OpenStateInit>;
  /** What it has locked. */
  readonly locks: () => Iterable<LockStateInit>;
  /** The master lost power: what it was told and what was not synced may be gone. */
  readonly onOperationsLost: () => void;
  /** The inodes whose append leases it holds. */
  readonly appends: () => readonly number[];
  /** It was told what it holds; others hold the append leases of these inodes by now. */
  readonly onReclaimed: (lostAppends: readonly number[]) => void;
  /** Times that locks were lost with a session. */
  readonly lockLosses: () => number;
  /** The session ended, a new one takes its place: what the old one did not publish is gone. */
  readonly onSessionLost: () => void;
  /** The master does not know an inode any more that it once told of: another client removed or replaced it. */
  readonly onStale: () => void;
}

interface Link {
  readonly peer: Peer;
  /** Counts sessions; sequence numbers belong to one. */
  readonly session: number;
}

interface CallTimes {
  readonly timeoutMs?: number;
}

export class MasterConnection {
  clusterId = '';
  private link: Link | undefined;
  private linkReady: Deferred<Link> = deferred();
  private sessionId = 0;
  private session = 0;
  /** How far this client has followed its master, to be shown to the next. */
  private mark: MasterMark | null = null;
  private readonly parted = new PartedInodes();
  /** Of the master that it was connected to last. */
  private epoch = 0;
  /** The latest time of the master that an answer came from: chunkservers that were given up before are not believed. */
  masterTime: MasterTime = NEVER;
  /** Times that the master may have lost changes of this client which no sync covered. */
  losses = 0;
  /** Changes that were answered, and how many of them a sync covers. Publications do not count: a writer repeats them. */
  private changes = 0;
  private syncedChanges = 0;
  private nextSequence = 1;
  /** Sequences without a reply, in ascending order. */
  private readonly outstanding = new Set<number>();
  private closing = false;
  /** Opens that are given back with the next request, or soon. */
  private readonly givenBack: CloseRequestInit[] = [];
  private giveBackTimer: Timer | undefined;
  /** A new connection was told what is open: what is closed from now on must be given back there. */
  private opensTold = false;
  private heartbeat: Timer | undefined;
  private readonly operationTimeoutMs: number;
  /** Shown to resume the session. */
  private token = Buffer.alloc(0);
  private maintained: Promise<void> = Promise.resolve();

  private constructor(private readonly options: MasterConnectionOptions) {
    this.operationTimeoutMs = options.operationTimeoutMs ?? CLIENT_OPERATION_TIMEOUT_MS;
  }

  /** Opens a session. Fails with UNAUTHENTICATED at once, with UNAVAILABLE when no master answers in `timeoutMs`. */
  static async connect(options: MasterConnectionOptions, timeoutMs: number): Promise<MasterConnection> {
    const connection = new MasterConnection(options);
    const { clock, random } = options;
    const deadline = clock.monotonicMs() + timeoutMs;
    const backoff = new Backoff(clock, random);
    for (;;) {
      try {
        const link = await connection.establish();
        connection.maintained = watched(connection.maintain(link));
        return connection;
      } catch (error) {
        if (!isTransient(error) || clock.monotonicMs() >= deadline) throw error;
        await backoff.pause(deadline);
      }
    }
  }

  /** No more operations are taken. */
  get isClosing(): boolean {
    return this.closing;
  }

  /** Asks something that changes nothing, as often as it takes. */
  call<Q, QI, R, RI>(method: MethodDefinition<Q, QI, R, RI>, request: QI, times: CallTimes = {}): Promise<R> {
    return this.attempt(method, () => request, times);
  }

  /**
   * Changes something, exactly once within the session. `build` makes the request with the operation id it is given.
   * With `idempotent`, it may be repeated under a new session, where the old one's answers are lost; but nothing is done in one
   * that was asked for before locks were lost, as others may hold them by now, unless it `needsNoLock`. With `durable`, the
   * answer says that all before it is synced.
   */
  async mutate<Q, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    build: (operation: OperationIdInit) => QI,
    options: {
      readonly idempotent?: boolean;
      readonly needsNoLock?: boolean;
      readonly durable?: boolean;
      readonly timeoutMs?: number;
    } = {},
  ): Promise<R> {
    const { changes } = this;
    const { idempotent = false, needsNoLock = false } = options;
    const lockLosses = needsNoLock ? undefined : this.options.lockLosses();
    const place: Place = { sequence: 0, session: -1, inDoubt: false, idempotent, lockLosses };
    try {
      const reply = await this.attempt(method, (link) => build(this.operationId(link, place)), options, place);
      if (method.number !== MASTER_METHODS.publish.number) this.changes++;
      else if (options.durable === true) this.syncedChanges = Math.max(this.syncedChanges, changes);
      return reply;
    } finally {
      if (place.session === this.session) this.outstanding.delete(place.sequence);
    }
  }

  /** Resolves when all that was answered before survives power loss, and that these chunks were synced (SyncRequest). */
  async sync(syncedChunks: readonly number[] = [], times: CallTimes = {}): Promise<void> {
    const { changes } = this;
    let at = 0;
    do {
      const page = syncedChunks.slice(at, at + MAX_CHUNKS_PER_PAGE);
      await this.call(MASTER_METHODS.sync, { syncedChunks: page }, times);
      at += MAX_CHUNKS_PER_PAGE;
    } while (at < syncedChunks.length);
    this.syncedChanges = Math.max(this.syncedChanges, changes);
  }

  /**
   * Gives opens back. Nobody waits for that, so it goes along with the next request, of which it saves the wake-up of
   * two processes, and before it, so that what is asked then is answered as after the close.
   */
  giveBack(open: CloseRequestInit): void {
    // Without a connection the next `reclaim` does not name it.
    if (this.link === undefined && !this.opensTold) return;
    this.givenBack.push(open);
    if (this.givenBack.length >= MAX_GIVEN_BACK) this.sendGivenBack();
    else this.giveBackTimer ??= this.options.clock.setTimer(GIVE_BACK_DELAY_MS, () => this.sendGivenBack());
  }

  private sendGivenBack(): void {
    this.giveBackTimer?.cancel();
    this.giveBackTimer = undefined;
    if (this.link === undefined) return;
    for (const open of this.givenBack.splice(0)) {
      this.giveBackNow(open).catch((error: unknown) => {
        const { code, message } = asCairnError(error);
        this.options.logger.error({ inode: open.inode, code, reason: message }, 'an open could not be given back');
      });
    }
  }

  /**
   * Once, and without waiting for a broken connection: after a reconnect `reclaim` tells the truth anyway. Where it is in
   * doubt on a living connection, that connection is ended, so that it is told again.
   */
  private async giveBackNow(open: CloseRequestInit): Promise<void> {
    const backoff = new Backoff(this.options.clock, this.options.random);
    const { link } = this;
    if (link === undefined) return;
    for (;;) {
      if (link !== this.link) return;
      try {
        await link.peer.call(MASTER_METHODS.close, open);
        return;
      } catch (error) {
        if (hasCode(error, 'BUSY', 'UNAVAILABLE')) await backoff.pause();
        else if (hasCode(error, 'DISCONNECTED')) return;
        else {
          link.peer.close(`closing an inode failed: ${asCairnError(error).message}`);
          return;
        }
      }
    }
  }

  /** Ends the session, when the master can be reached, and the connection. */
  async close(): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    this.heartbeat?.cancel();
    this.sendGivenBack();
    const { link } = this;
    if (link !== undefined) {
      try {
        await link.peer.call(MASTER_METHODS.closeSession, {}, { timeoutMs: HEARTBEAT_INTERVAL_MS });
      } catch (error) {
        this.options.logger.warn(
          { error: asCairnError(error).message },
          'session not closed: the master ends it when its time is over',
        );
      }
      link.peer.close('client closes');
    } else {
      this.linkReady.promise.catch(() => undefined); // nobody may be waiting
      this.linkReady.reject(closedError());
    }
    await this.maintained;
  }

  private operationId(link: Link, place: Place): OperationIdInit {
    if (place.session !== link.session) {
      if (place.inDoubt && !place.idempotent) {
        throw new CairnError(
          'EIO',
          'the session with the master ended during a change: whether it took effect is unknown',
        );
      }
      if (place.lockLosses !== undefined && place.lockLosses !== this.options.lockLosses()) {
        throw new CairnError('EIO', 'locks were lost with the session during a change: it is not made');
      }
      place.session = link.session;
      place.sequence = this.nextSequence++;
      this.outstanding.add(place.sequence);
    }
    return { sequence: place.sequence, ackedBelow: this.ackedBelow() };
  }

  private ackedBelow(): number {
    for (const lowest of this.outstanding) return lowest;
    return this.nextSequence;
  }

  private async attempt<Q, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    build: (link: Link) => QI,
    times: CallTimes,
    place?: Place,
  ): Promise<R> {
    const { clock } = this.options;
    const deadline = clock.monotonicMs() + Math.min(times.timeoutMs ?? Infinity, this.operationTimeoutMs);
    let backoff: Backoff | undefined;
    let last: unknown;
    for (;;) {
      const link = this.link ?? (await this.waitForLink(deadline, last));
      const timeoutMs = Math.min(REQUEST_TIMEOUT_MS, deadline - clock.monotonicMs());
      if (timeoutMs <= 0) throw timedOut(last);
      if (this.givenBack.length > 0) this.sendGivenBack();
      const request = build(link);
      this.parted.refuse(request);
      try {
        const { reply } = await link.peer.call(method, request, { timeoutMs });
        this.noteTime(reply);
        return reply;
      } catch (error) {
        last = error;
        if (place !== undefined && hasCode(error, 'DISCONNECTED', 'TIMEOUT')) place.inDoubt = true;
        if (hasCode(error, 'SESSION_EXPIRED')) this.drop(link, 'session expired');
        else if (!isTransient(error)) {
          if (hasCode(error, 'ESTALE')) this.options.onStale();
          throw error;
        } else if (link.peer.isClosed) this.drop(link, 'connection ended');
        else {
          // An open whose answer got lost would stay counted for ever: a new connection tells what is really open.
          if (hasCode(error, 'TIMEOUT') && opens.has(method.number)) this.drop(link, 'an open was not answered');
          backoff ??= new Backoff(clock, this.options.random);
          await backoff.pause(deadline);
        }
      }
    }
  }

  private async waitForLink(deadline: number, last: unknown): Promise<Link> {
    if (this.closing) throw closedError();
    const { clock } = this.options;
    const late = deferred<never>();
    const timer = clock.setTimer(Math.max(0, deadline - clock.monotonicMs()), () => late.reject(timedOut(last)));
    try {
      return await Promise.race([this.linkReady.promise, late.promise]);
    } finally {
      timer.cancel();
    }
  }

  /** Takes a link out of use at once, so that nobody tries it again; `maintain` makes the next. */
  private drop(link: Link, reason: string): void {
    if (this.link !== link) return;
    this.link = undefined;
    this.forgetGivenBack();
    this.linkReady = deferred();
    this.heartbeat?.cancel();
    link.peer.close(reason);
  }

  private forgetGivenBack(): void {
    this.opensTold = false;
    this.givenBack.length = 0;
  }

  private async maintain(first: Link): Promise<void> {
    const { clock, random, logger } = this.options;
    const backoff = new Backoff(clock, random);
    let link: Link | undefined = first;
    while (!this.closing) {
      if (link !== undefined) {
        this.startHeartbeat(link);
        const reason = await link.peer.closed;
        this.drop(link, reason);
        link = undefined;
        if (!this.closing) logger.warn({ master: first.peer.address, reason }, 'connection to the master ended');
        continue;
      }
      try {
        link = await this.establish();
        backoff.reset();
        logger.info({ master: link.peer.address, session: this.sessionId }, 'connected to the master again');
      } catch (error) {
        if (!isTransient(error)) {
          logger.error({ error: asCairnError(error).message }, 'the master refuses this client; trying on');
        }
        await backoff.pause();
      }
    }
  }

  private async establish(): Promise<Link> {
    const peer = await this.options.connect();
    try {
      const { reply } = await peer.call(MASTER_METHODS.openSession, {
        sessionId: this.sessionId,
        clientName: this.options.clientName,
        mark: this.mark,
        token: this.token,
      });
      const known = this.sessionId !== 0;
      if (!reply.resumed) {
        this.token = Buffer.from(reply.token);
        this.session++;
        this.nextSequence = 1;
        this.outstanding.clear();
        if (known) {
          this.options.logger.error({ session: this.sessionId }, 'the session ended at the master; a new one begins');
          this.options.onSessionLost();
        }
      }
      // Also when it goes back: the master began from a backup.
      this.masterTime = reply.masterTime ?? NEVER;
      this.sessionId = reply.sessionId;
      this.clusterId = reply.clusterId;
      this.mark = reply.mark;
      if (reply.partedBelow > reply.partedFrom) this.parted.note(reply.partedFrom, reply.partedBelow);
      this.noteEpoch(known, reply.epoch, reply.lossEpoch, reply.partedBelow > 0);
      if (known) await this.reclaim(peer);
      if (this.closing) throw closedError();
    } catch (error) {
      peer.close('the session could not be opened');
      this.forgetGivenBack();
      throw error;
    }
    const link: Link = { peer, session: this.session };
    this.link = link;
    this.opensTold = false;
    this.sendGivenBack();
    this.linkReady.resolve(link);
    return link;
  }

  /** Many answers say when they were given. */
  private noteTime(reply: unknown): void {
    if (typeof reply !== 'object' || reply === null || !('masterTime' in reply)) return;
    const time = reply.masterTime as MasterTime | null;
    if (time !== null) this.masterTime = later(this.masterTime, time);
  }

  private noteEpoch(known: boolean, epoch: number, lossEpoch: number, isParted: boolean): void {
    const isLossPossible = known && (isParted || lossEpoch > this.epoch || epoch < this.epoch);
    this.epoch = epoch;
    if (!isLossPossible) return;
    const changes = this.changes - this.syncedChanges;
    this.options.logger.error(
      { session: this.sessionId, epoch, changes },
      isParted
        ? 'the master was put back to an older state: what was changed since is gone, synced or not; the next fsync tells'
        : 'the master lost power: what was changed last and not synced may be gone; the next fsync tells',
    );
    this.syncedChanges = this.changes;
    if (changes > 0 || isParted) this.losses++;
    this.options.onOperationsLost();
  }

  private async reclaim(peer: Peer): Promise<void> {
    // Copies: files may be closed while the pages go out. Opens first: a lock needs one.
    const opens = [...this.options.opens()].filter(({ inode }) => !this.parted.has(inode ?? 0));
    this.opensTold = true;
    const locks = [...this.options.locks()].filter(({ inode }) => !this.parted.has(inode ?? 0));
    for (let at = 0; at < opens.length; at += MAX_CHUNKS_PER_PAGE) {
      await peer.call(MASTER_METHODS.reclaim, { opens: opens.slice(at, at + MAX_CHUNKS_PER_PAGE) });
    }
    for (let at = 0; at < locks.length; at += MAX_CHUNKS_PER_PAGE) {
      await peer.call(MASTER_METHODS.reclaim, { locks: locks.slice(at, at + MAX_CHUNKS_PER_PAGE) });
    }
    const appends = this.options.appends().filter((inode) => !this.parted.has(inode));
    for (let at = 0; at < appends.length; at += MAX_CHUNKS_PER_PAGE) {
      await peer.call(MASTER_METHODS.reclaim, { appends: appends.slice(at, at + MAX_CHUNKS_PER_PAGE) });
    }
    const { reply } = await peer.call(MASTER_METHODS.reclaim, { done: true });
    this.options.onReclaimed(reply.lostAppends);
  }

  private startHeartbeat(link: Link): void {
    const beat = (): void => {
      link.peer
        .call(MASTER_METHODS.keepSession, { ackedBelow: this.ackedBelow() })
        .then(
          ({ reply }) => {
            this.noteTime(reply);
            if (this.link === link) this.mark = reply.mark;
          },
          (error: unknown) => {
            if (hasCode(error, 'SESSION_EXPIRED')) this.drop(link, 'session expired');
            else if (!isTransient(error)) {
              this.options.logger.warn({ error: asCairnError(error).message }, 'heartbeat refused by the master');
            }
          },
        )
        .finally(() => {
          if (this.link === link && !this.closing) {
            this.heartbeat = this.options.clock.setTimer(HEARTBEAT_INTERVAL_MS, beat);
          }
        });
    };
    this.heartbeat = this.options.clock.setTimer(HEARTBEAT_INTERVAL_MS, beat);
  }
}

/** A mutation's place among those of its session. */
interface Place {
  sequence: number;
  session: number;
  /** An attempt was sent, and no answer came: it may have taken effect. */
  inDoubt: boolean;
  readonly idempotent: boolean;
  /** When it was asked for; undefined when that does not matter. */
  readonly lockLosses: number | undefined;
}

const opens: ReadonlySet<number> = new Set([MASTER_METHODS.open.number, MASTER_METHODS.create.number]);

const closedError = (): CairnError => new CairnError('EBADF', 'the file system is closed');

const timedOut = (cause: unknown): CairnError =>
  new CairnError(
    'TIMEOUT',
    `the master did not answer in time${cause === undefined ? ': is it running?' : `: ${asCairnError(cause).message}`}`,
    { cause },
  );
