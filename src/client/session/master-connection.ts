/**
 * The client's one connection to the master.
 *
 * A loop keeps the connection up: connect, open or resume the session (master-session.ts), heartbeat, and again with
 * growing pauses when it breaks. Every operation waits for it and is repeated, until CLIENT_OPERATION_TIMEOUT_MS have
 * passed, when the way to the master fails; errors of POSIX are answers and go back at once. A mutation carries its
 * place in the session (operation-ids.ts), so that a repeat gets the first answer (P6).
 */
import type { Clock, Timer } from '../../core/clock.js';
import { CairnError, asCairnError, hasCode } from '../../core/errors.js';
import {
  CLIENT_OPERATION_TIMEOUT_MS,
  HEARTBEAT_INTERVAL_MS,
  MAX_CHUNKS_PER_PAGE,
  REQUEST_TIMEOUT_MS,
} from '../../core/limits.js';
import type { MasterTime } from '../../core/master-time.js';
import type { Random } from '../../core/random.js';
import { deferred, type Deferred, watched } from '../../core/sync.js';
import type { CloseRequestInit, OperationIdInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS, type MethodDefinition } from '../../protocol/methods.js';
import type { Peer } from '../../protocol/rpc.js';
import { GivenBackOpens } from './given-back-opens.js';
import { MasterSession, type MasterSessionOptions } from './master-session.js';
import { OperationIds, type Place } from './operation-ids.js';
import { Backoff, isTransient } from './retry.js';

export interface MasterConnectionOptions extends MasterSessionOptions {
  readonly connect: () => Promise<Peer>;
  readonly clock: Clock;
  readonly random: Random;
  readonly operationTimeoutMs?: number;
  /** Times that locks were lost with a session. */
  readonly lockLosses: () => number;
  /** The master does not know an inode any more that it once told of: another client removed or replaced it. */
  readonly onStale: () => void;
  /** A change was given up without an answer, and may have been made: nothing of what is known is certain. */
  readonly onDoubt: () => void;
}

interface Link {
  readonly peer: Peer;
  /** As the operation ids count them. */
  readonly session: number;
}

interface CallTimes {
  readonly timeoutMs?: number;
}

export class MasterConnection {
  private link: Link | undefined;
  private linkReady: Deferred<Link> = deferred();
  private closing = false;
  /** It is not to be told any more that this client closes. */
  private isEnded = false;
  private heartbeat: Timer | undefined;
  private maintained: Promise<void> = Promise.resolve();
  private readonly operationTimeoutMs: number;
  private readonly operations: OperationIds;
  private readonly givenBack: GivenBackOpens;
  private readonly session: MasterSession;

  private constructor(private readonly options: MasterConnectionOptions) {
    const { clock, random, logger, lockLosses } = options;
    this.operationTimeoutMs = options.operationTimeoutMs ?? CLIENT_OPERATION_TIMEOUT_MS;
    this.operations = new OperationIds(lockLosses);
    this.givenBack = new GivenBackOpens({ clock, random, logger, peer: () => this.link?.peer });
    this.session = new MasterSession(options, this.operations, () => this.givenBack.reclaiming());
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

  get clusterId(): string {
    return this.session.clusterId;
  }

  /** The latest time of the master that an answer came from: chunkservers that were given up before are not believed. */
  get masterTime(): MasterTime {
    return this.session.masterTime;
  }

  /** Changes that were answered. */
  get changes(): number {
    return this.session.changes;
  }

  /** Times that the master may have lost changes of this client which no sync covered. */
  get losses(): number {
    return this.session.losses;
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
   * that was asked for before locks were lost, as others may hold them by now, unless it `needsNoLock`. `isRepeated`: who
   * changes it does so again when the master has lost it. With `durable`, the answer says that all before it is synced.
   */
  async mutate<Q, QI, R, RI>(
    method: MethodDefinition<Q, QI, R, RI>,
    build: (operation: OperationIdInit) => QI,
    options: {
      readonly idempotent?: boolean;
      readonly needsNoLock?: boolean;
      readonly isRepeated?: boolean;
      readonly durable?: boolean;
      readonly timeoutMs?: number;
    } = {},
  ): Promise<R> {
    const { changes } = this.session;
    const place = this.operations.begin(options);
    try {
      const reply = await this.attempt(
        method,
        (link) => build(this.operations.idIn(link.session, place)),
        options,
        place,
      );
      if (options.isRepeated !== true) this.session.changed();
      if (options.durable === true) this.session.synced(changes);
      return reply;
    } catch (error) {
      if (isTransient(error)) this.options.onDoubt();
      throw error;
    } finally {
      this.operations.ended(place);
    }
  }

  /** Resolves when all that was answered before survives power loss, and that these chunks were synced (SyncRequest). */
  async sync(syncedChunks: readonly number[] = [], times: CallTimes = {}): Promise<void> {
    const { changes } = this.session;
    let at = 0;
    do {
      const page = syncedChunks.slice(at, at + MAX_CHUNKS_PER_PAGE);
      await this.call(MASTER_METHODS.sync, { syncedChunks: page }, times);
      at += MAX_CHUNKS_PER_PAGE;
    } while (at < syncedChunks.length);
    this.session.synced(changes);
  }

  /** Gives opens back, with the next request or soon. */
  giveBack(open: CloseRequestInit): void {
    this.givenBack.add(open);
  }

  /** Ends the session, when the master can be reached, and the connection. */
  async close(): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    this.heartbeat?.cancel();
    this.givenBack.send();
    const { link } = this;
    if (link !== undefined) {
      await this.endSession(link.peer);
    } else {
      this.linkReady.promise.catch(() => undefined); // nobody may be waiting
      this.linkReady.reject(closedError());
    }
    await this.maintained;
  }

  private async endSession(peer: Peer): Promise<void> {
    try {
      await peer.call(MASTER_METHODS.closeSession, {}, { timeoutMs: HEARTBEAT_INTERVAL_MS });
      this.isEnded = true;
    } catch (error) {
      this.isEnded = !hasCode(error, 'DISCONNECTED');
      this.options.logger.warn(
        { error: asCairnError(error).message },
        'session not closed: the master ends it when its time is over',
      );
    }
    peer.close('client closes');
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
      this.givenBack.sendWaiting();
      const request = build(link);
      this.session.refuseParted(request);
      try {
        const { reply } = await link.peer.call(method, request, { timeoutMs });
        this.session.noteTime(reply);
        return reply;
      } catch (error) {
        last = error;
        if (place !== undefined && hasCode(error, 'DISCONNECTED', 'TIMEOUT')) this.operations.unanswered(place);
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
    this.givenBack.disconnected();
    this.linkReady = deferred();
    this.heartbeat?.cancel();
    link.peer.close(reason);
  }

  private async maintain(first: Link): Promise<void> {
    const { clock, random, logger } = this.options;
    const backoff = new Backoff(clock, random);
    let link: Link | undefined = first;
    // Also when it closes without a connection: once more, to say so.
    while (!this.isEnded) {
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
        logger.info({ master: link.peer.address, session: this.session.sessionId }, 'connected to the master again');
      } catch (error) {
        if (this.closing) return;
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
      await this.session.open(peer);
    } catch (error) {
      peer.close('the session could not be opened');
      this.givenBack.disconnected();
      throw error;
    }
    if (this.closing) {
      // The session was resumed, and with it what it holds.
      await this.endSession(peer);
      this.givenBack.disconnected();
      throw closedError();
    }
    const link: Link = { peer, session: this.operations.session };
    this.link = link;
    this.givenBack.connected();
    this.linkReady.resolve(link);
    return link;
  }

  private startHeartbeat(link: Link): void {
    const { holdings } = this.options;
    const beat = (): void => {
      const heard = holdings.asking();
      link.peer
        .call(MASTER_METHODS.keepSession, {
          ackedBelow: this.operations.ackedBelow(),
          released: holdings.takeReleased(),
        })
        .then(
          ({ reply }) => {
            if (this.link === link) heard();
            this.session.noteTime(reply);
            if (this.link === link) this.session.noteMark(reply.mark);
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

const opens: ReadonlySet<number> = new Set([MASTER_METHODS.open.number, MASTER_METHODS.create.number]);

const closedError = (): CairnError => new CairnError('EBADF', 'the file system is closed');

const timedOut = (cause: unknown): CairnError =>
  new CairnError(
    'TIMEOUT',
    `the master did not answer in time${cause === undefined ? ': is it running?' : `: ${asCairnError(cause).message}`}`,
    { cause },
  );
