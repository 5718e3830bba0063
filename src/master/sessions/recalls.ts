/**
 * Recalls: before something is changed, every other session that holds it (holdings.ts) is told, and says that it believes that no more.
 * A mutation is decided, and only then looked at (`check`): if others hold what it touches, it is given up before it has changed
 * anything, they are recalled (`Clearing`), and it is decided again. In the tick in which nobody is left, it is carried out.
 *
 * A recall is sent again until its answer comes, on the connection that the client has by then. Who is unheard of for
 * HOLDING_TAKEOVER_MS believes nothing any more (HOLDING_VALID_MS), and is not waited for. Who is heard of and leaves a recall
 * without an answer for so long is disconnected: back again it learns that its holdings have ended; else it is as one unheard of.
 *
 * Nobody who is to answer waits for anything of this: what is pending only keeps answers from being covered.
 */
import { asCairnError, CairnError } from '../../core/errors.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import { HOLDING_TAKEOVER_MS, MAX_RECALL_ITEMS, MAX_RECALLS_PER_SESSION, RECALL_RESEND_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { deferred, unawaited } from '../../core/sync.js';
import type { Deferred } from '../../core/sync.js';
import type { RecallInit } from '../../protocol/generated/messages.js';
import { CLIENT_METHODS } from '../../protocol/methods.js';
import type { Peer } from '../../protocol/rpc.js';
import type { Mutation, State } from '../state/state.js';
import type { Holder, Holdings } from './holdings.js';
import { isConcerned, touchedBy, touchedFile } from './touched.js';
import type { Touched } from './touched.js';

/** Others hold what a mutation touches, which has changed nothing. Empty: they have yet to tell, after a start of the master. */
export class HeldByOthers extends Error {
  constructor(readonly touched: readonly Touched[]) {
    super('others hold what is to be changed');
  }
}

/** What one session is told for one change, or for several. */
interface Recall {
  readonly items: readonly RecallInit[];
  /** Holdings that end with its answer. */
  readonly ends: readonly Holder[];
  readonly sinceMs: number;
  sentMs: number;
  readonly answered: Deferred<void>;
}

/** What is recalled of one holding. */
interface RecalledPart {
  readonly holder: Holder;
  readonly item: RecallInit;
}

interface RecalledSession {
  /** The oldest first. */
  readonly recalls: Set<Recall>;
  /** When it was disconnected, as it was heard of and did not answer. */
  dismissedMs: number | undefined;
  /** Changes that wait until there are fewer recalls. */
  room: Deferred<void> | undefined;
}

export interface RecallsDeps {
  readonly state: State;
  readonly logger: Logger;
  readonly holdings: Holdings;
  /** Time in which this master listened (servers/listening-time.ts). */
  readonly nowMs: () => number;
  /** The connection of a session, if it has one. */
  readonly peerOf: (session: SessionId) => Peer | undefined;
  /** Time since the session was last heard of; undefined when it has ended. */
  readonly silentMs: (session: SessionId) => number | undefined;
  /** Ends the session's connection: its client must resume the session, and learns what became of its holdings. */
  readonly disconnect: (session: SessionId) => void;
  /** Its holdings end, which its client may not know. False: that cannot be noted now. */
  readonly noteEnded: (session: SessionId) => boolean;
  /** Every session of before the start has told what it holds, or ended. */
  readonly areAllTold: () => boolean;
}

export class Recalls {
  private readonly sessions = new Map<SessionId, RecalledSession>();
  private readonly startedMs: number;
  private settled = false;
  private readonly untilSettled = deferred<void>();

  constructor(private readonly deps: RecallsDeps) {
    this.startedMs = deps.nowMs();
  }

  /** Recalls that have no answer yet. */
  get waiting(): number {
    let count = 0;
    for (const { recalls } of this.sessions.values()) count += recalls.size;
    return count;
  }

  /** After a start, anybody may hold anything until he has told, or has stopped to believe it. */
  isSettled(): boolean {
    if (this.settled) return true;
    const { areAllTold, nowMs } = this.deps;
    if (!areAllTold() && nowMs() - this.startedMs < HOLDING_TAKEOVER_MS) return false;
    this.settled = true;
    this.untilSettled.resolve();
    return true;
  }

  /** To be asked in a mutation, once it is decided. Throws HeldByOthers, so that it changes nothing; but for what `clearing` has cleared. */
  check(session: SessionId | undefined, m: Mutation, clearing?: Clearing): void {
    const { holdings, state } = this.deps;
    if (!this.settled && !this.isSettled()) throw new HeldByOthers([]);
    if (!holdings.doOthersHoldAny(session)) return;
    if (!isConcerned(state, m, (inode) => holdings.isHeldByOthers(inode, session))) return;
    const touched = touchedBy(state, m);
    if (touched.some((one) => this.isHeld(session, one, clearing))) throw new HeldByOthers(touched);
  }

  /** For a change by `session`, undefined for one by the master. To be ended when that is made, or given up. */
  begin(session: SessionId | undefined, signal?: AbortSignal): Clearing {
    return new Clearing(this.deps.holdings, this, session, signal);
  }

  /** Changes something that no request asks for, as `State.mutate`, when nobody holds it any more. `decide` may run several times. */
  async mutate<T>(decide: (m: Mutation) => T): Promise<T> {
    const clearing = this.begin(undefined);
    try {
      for (;;) {
        try {
          return this.deps.state.mutate((m) => {
            const result = decide(m);
            this.check(undefined, m, clearing);
            return result;
          });
        } catch (error) {
          if (!(error instanceof HeldByOthers)) throw error;
          await clearing.clear(error.touched);
        }
      }
    } finally {
      clearing.end();
    }
  }

  /**
   * For a change by a session that takes a while and touches one holding, or none: `work` begins when nobody else holds that, and until
   * its end no answer is covered.
   */
  around<T>(
    {
      session,
      signal,
      touched,
    }: {
      readonly session: SessionId;
      readonly signal: AbortSignal;
      readonly touched: () => Touched | undefined;
    },
    work: () => T | Promise<T>,
  ): T | Promise<T> {
    if (!this.deps.holdings.doOthersHoldAny(session) && this.isSettled()) return work();
    const about = touched();
    if (about === undefined) return work();
    const clearing = this.begin(session, signal);
    const cleared = async (): Promise<T> => {
      for (let one: Touched | undefined = about; one !== undefined; one = this.left(session, touched(), clearing)) {
        await clearing.clear([one]);
        if (signal.aborted) throw new CairnError('CANCELLED', 'nobody waits for this change any more: it is not made');
      }
      return work();
    };
    return cleared().finally(() => clearing.end());
  }

  private left(session: SessionId, touched: Touched | undefined, clearing: Clearing): Touched | undefined {
    return touched !== undefined && this.isHeld(session, touched, clearing) ? touched : undefined;
  }

  /** Files whose content may have changed without a word. Nobody waits for this; meanwhile no answer about them is covered. */
  recallSoon(inodes: Iterable<InodeId>): void {
    const { holdings, state, logger } = this.deps;
    if (!holdings.doOthersHoldAny(undefined)) return;
    const touched = [...inodes].flatMap((inode) => touchedFile(state, inode) ?? []);
    const held = touched.filter((one) => this.isHeld(undefined, one, undefined));
    if (held.length === 0) return;
    const clearing = this.begin(undefined);
    unawaited(
      clearing.clear(held).finally(() => clearing.end()),
      logger,
      'recalling files that a client left',
    );
  }

  private isHeld(session: SessionId | undefined, touched: Touched, clearing: Clearing | undefined): boolean {
    if (!this.deps.holdings.isHeldByOthers(touched.inode, session)) return false;
    return this.deps.holdings
      .othersOf(touched.inode, session)
      .some((holder) => clearing?.hasAnswered(holder, touched) !== true);
  }

  /** Resolves when all have told what they hold. */
  whenSettled(): Promise<void> {
    return this.isSettled() ? Promise.resolve() : this.untilSettled.promise;
  }

  /** Resolves when the session believes none of it any more, or nobody waits for that. */
  async recall(session: SessionId, parts: readonly RecalledPart[], isAwaited: () => boolean): Promise<void> {
    const { holdings, nowMs } = this.deps;
    let own = this.sessionOf(session);
    while (own.recalls.size >= MAX_RECALLS_PER_SESSION) {
      own.room ??= deferred();
      await own.room.promise;
      if (!isAwaited()) return;
      own = this.sessionOf(session);
    }
    const items: RecallInit[] = [];
    const ends: Holder[] = [];
    for (const { holder, item } of parts) {
      const whole = holdings.notePartial(holder);
      if (whole) ends.push(holder);
      items.push(whole ? { inode: holder.inode, whole } : item);
    }
    const recall: Recall = { items, ends, sinceMs: nowMs(), sentMs: -Infinity, answered: deferred() };
    own.recalls.add(recall);
    if (this.isGone(session)) this.takeOver(session);
    else this.send(session, [recall]);
    await recall.answered.promise;
  }

  /** The session's client has its connection, and knows which set of holdings stands. */
  resumed(session: SessionId): void {
    if (this.deps.holdings.isDismissed(session)) this.endAll(session);
    const own = this.sessions.get(session);
    if (own !== undefined) this.send(session, own.recalls);
  }

  endSession(session: SessionId): void {
    this.endAll(session);
    this.deps.holdings.endSession(session);
    this.sessions.delete(session);
  }

  /** To be called about every second. */
  tick(): void {
    this.isSettled();
    for (const [session, own] of [...this.sessions]) {
      const [oldest] = own.recalls;
      if (oldest === undefined && own.dismissedMs === undefined) this.sessions.delete(session);
      else if (this.isGone(session)) this.takeOver(session);
      else if (own.dismissedMs === undefined && oldest !== undefined) {
        const nowMs = this.deps.nowMs();
        if (nowMs - oldest.sinceMs >= HOLDING_TAKEOVER_MS) this.dismiss(session, own);
        else
          this.send(
            session,
            [...own.recalls].filter(({ sentMs }) => nowMs - sentMs >= RECALL_RESEND_MS),
          );
      }
    }
  }

  /** It has stopped to believe what it holds. */
  private isGone(session: SessionId): boolean {
    const { silentMs, nowMs } = this.deps;
    const dismissedMs = this.sessions.get(session)?.dismissedMs;
    if (dismissedMs !== undefined) return nowMs() - dismissedMs >= HOLDING_TAKEOVER_MS;
    return (silentMs(session) ?? Infinity) >= HOLDING_TAKEOVER_MS;
  }

  private takeOver(session: SessionId): void {
    const { logger, holdings } = this.deps;
    if (!this.deps.noteEnded(session)) return;
    logger.info({ session }, 'what a client that went held is changed without it');
    const isDismissed = holdings.isDismissed(session);
    this.endAll(session);
    // It may be heard of again at any moment, and must know first.
    if (!isDismissed) this.deps.disconnect(session);
  }

  /** It cannot be told, and goes on believing for as long as it may since it was last heard of. */
  private dismiss(session: SessionId, own: RecalledSession): void {
    this.deps.logger.warn({ session }, 'a client does not answer a recall: it is disconnected');
    own.dismissedMs = this.deps.nowMs();
    this.deps.holdings.dismiss(session);
    this.deps.disconnect(session);
  }

  private endAll(session: SessionId): void {
    this.deps.holdings.endAll(session);
    const own = this.sessions.get(session);
    if (own === undefined) return;
    own.dismissedMs = undefined;
    for (const recall of [...own.recalls]) this.answered(own, recall);
  }

  private sessionOf(session: SessionId): RecalledSession {
    let own = this.sessions.get(session);
    if (own === undefined) {
      own = { recalls: new Set(), dismissedMs: undefined, room: undefined };
      this.sessions.set(session, own);
    }
    return own;
  }

  private send(session: SessionId, recalls: Iterable<Recall>): void {
    const peer = this.deps.peerOf(session);
    if (peer === undefined || peer.isClosed) return;
    let together: Recall[] = [];
    let items = 0;
    for (const recall of recalls) {
      if (together.length > 0 && items + recall.items.length > MAX_RECALL_ITEMS) {
        this.sendOne(session, peer, together);
        together = [];
        items = 0;
      }
      together.push(recall);
      items += recall.items.length;
    }
    if (together.length > 0) this.sendOne(session, peer, together);
  }

  private sendOne(session: SessionId, peer: Peer, recalls: readonly Recall[]): void {
    const nowMs = this.deps.nowMs();
    for (const recall of recalls) recall.sentMs = nowMs;
    const items = recalls.flatMap((recall) => recall.items);
    const sent = peer.call(CLIENT_METHODS.recall, { items }, { timeoutMs: HOLDING_TAKEOVER_MS }).then(
      () => {
        const own = this.sessions.get(session);
        if (own !== undefined) for (const recall of recalls) this.answered(own, recall);
      },
      (error: unknown) =>
        this.deps.logger.debug({ session, reason: asCairnError(error).message }, 'a recall is to be sent again'),
    );
    unawaited(sent, this.deps.logger, 'recalling what a client holds');
  }

  private answered(own: RecalledSession, recall: Recall): void {
    if (!own.recalls.delete(recall)) return;
    for (const holder of recall.ends) this.deps.holdings.end(holder);
    recall.answered.resolve();
    own.room?.resolve();
    own.room = undefined;
  }
}

/** One change that waits until nobody else holds what it touches. From its beginning to its end no answer about that is covered. */
export class Clearing {
  private readonly marked = new Set<InodeId>();
  private readonly answers = new Set<string>();

  constructor(
    private readonly holdings: Holdings,
    private readonly recalls: Recalls,
    private readonly session: SessionId | undefined,
    private readonly signal: AbortSignal | undefined,
  ) {}

  hasAnswered(holder: Holder, touched: Touched): boolean {
    return this.answers.has(answerOf(holder, touched));
  }

  /** Resolves when all others have answered, or are not waited for any more; and when nobody waits for the change. */
  async clear(touched: readonly Touched[]): Promise<void> {
    for (const { inode } of touched) {
      if (this.marked.has(inode)) continue;
      this.marked.add(inode);
      this.holdings.mark(inode);
    }
    const bySession = new Map<SessionId, (RecalledPart & { readonly touched: Touched })[]>();
    for (const one of touched) {
      for (const holder of this.holdings.othersOf(one.inode, this.session)) {
        if (this.hasAnswered(holder, one)) continue;
        const parts = bySession.get(holder.session) ?? [];
        bySession.set(holder.session, parts);
        parts.push({ holder, touched: one, item: one.item });
      }
    }
    const isAwaited = (): boolean => this.signal?.aborted !== true;
    const waits = [...bySession].map(async ([session, parts]) => {
      await this.recalls.recall(session, parts, isAwaited);
      for (const part of parts) this.answers.add(answerOf(part.holder, part.touched));
    });
    await untilAborted(Promise.all([...waits, this.recalls.whenSettled()]), this.signal);
  }

  end(): void {
    for (const inode of this.marked) this.holdings.unmark(inode);
    this.marked.clear();
  }
}

async function untilAborted(work: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return void (await work);
  const aborted = deferred<void>();
  const abort = (): void => aborted.resolve();
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  await Promise.race([work, aborted.promise]);
  signal.removeEventListener('abort', abort);
}

const answerOf = ({ grant }: Holder, { key }: Touched): string => `${grant} ${key}`;
