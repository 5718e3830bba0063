/**
 * Exactly-once execution of a session's mutations (P6). The reply is stored under (session, sequence) by the record
 * that makes the change: a retry over a reconnect, or after a restart of the master, gets it without running again.
 *
 * Only successes are stored there. An operation that failed changed nothing, and a retry reaches this only while its
 * client still waits for an answer (a session is served on one connection, and what an old connection still carries is
 * refused), so running it again takes effect at most once, and gives the only answer that the client gets. What a
 * failure would cost to store, a log record for every ENOENT, buys nothing across a restart. Within the life of this
 * process failures are remembered, so that also their retry gets the first answer.
 */
import { asCairnError, CairnError } from '../../core/errors.js';
import type { ErrorCode } from '../../core/errors.js';
import type { SessionId } from '../../core/ids.js';
import { MAX_PRUNED_REPLIES, MAX_REMEMBERED_FAILURES, MAX_STORED_REPLIES } from '../../core/limits.js';
import { StoredReply } from '../../protocol/generated/messages.js';
import type { OperationId } from '../../protocol/generated/messages.js';
import type { MethodDefinition } from '../../protocol/methods.js';
import { keys, PREFIX_LENGTH, packNumber, prefixRange, unpackNumber } from '../state/keys.js';
import type { Mutation, State } from '../state/state.js';

export interface Outcome<RI> {
  readonly reply: RI;
  /** It ran before; this is the first answer. */
  readonly replayed: boolean;
}

export class ReplyLedger {
  /** Sequences with a stored reply, in order of their storing. Loaded when the session is first used. */
  private stored: number[] | undefined;
  private highest = 0;
  private ackedBelow = 0;
  private readonly failures = new Map<number, { code: ErrorCode; message: string }>();
  /** Sequences whose effect beside the state (an open) was counted by this process. */
  private readonly counted = new Set<number>();

  constructor(
    private readonly state: State,
    private readonly session: SessionId,
  ) {}

  private load(): number[] {
    if (this.stored !== undefined) return this.stored;
    this.stored = [];
    for (const [key] of this.state.range(prefixRange('P' + packNumber(this.session)))) {
      this.stored.push(unpackNumber(key, PREFIX_LENGTH));
    }
    this.highest = this.stored.at(-1) ?? 0;
    return this.stored;
  }

  /** Runs `decide` as one record, or replays the first answer of the same operation. */
  runOnce<Q, QI, R, RI>(
    operation: OperationId | null,
    method: MethodDefinition<Q, QI, R, RI>,
    decide: (m: Mutation) => RI,
  ): Outcome<R | RI> {
    if (operation === null || operation.sequence === 0) {
      throw new CairnError('PROTOCOL', 'a mutation needs its place in the session (OperationId)');
    }
    const stored = this.load();
    const { sequence } = operation;
    if (sequence < this.ackedBelow) {
      throw new CairnError('PROTOCOL', `operation ${sequence} comes after the client said that it has its reply`);
    }
    if (sequence <= this.highest) {
      const first = this.replay(sequence, method);
      if (first !== undefined) return { reply: first, replayed: true };
    }
    this.ackedBelow = Math.max(this.ackedBelow, Math.min(operation.ackedBelow, sequence));
    const pruned = this.prunable(stored);
    // The oldest that its client waits for is what keeps all of these: it is never refused for them.
    if (stored.length - pruned.length >= MAX_STORED_REPLIES && sequence > this.ackedBelow) {
      throw new CairnError('BUSY', `the session leaves ${stored.length} replies unacknowledged`);
    }
    try {
      const reply = this.state.mutate((m) => {
        const result = decide(m);
        const body = method.reply.encode(result).finish();
        const record = { errorCode: 0, errorMessage: '', body, method: method.number };
        m.put(keys.reply(this.session, sequence), StoredReply.encode(record).finish());
        for (const old of pruned) m.delete(keys.reply(this.session, old));
        return result;
      });
      stored.splice(0, pruned.length);
      stored.push(sequence);
      this.highest = Math.max(this.highest, sequence);
      return { reply, replayed: false };
    } catch (error) {
      this.rememberFailure(sequence, error);
      throw error;
    }
  }

  private replay<Q, QI, R, RI>(sequence: number, method: MethodDefinition<Q, QI, R, RI>): R | undefined {
    const failure = this.failures.get(sequence);
    if (failure !== undefined) throw new CairnError(failure.code, failure.message);
    const value = this.state.get(keys.reply(this.session, sequence));
    if (value === undefined) return undefined;
    const record = StoredReply.decode(value);
    if (record.method !== method.number) {
      throw new CairnError('PROTOCOL', `operation ${sequence} was another one before`);
    }
    return method.reply.decode(record.body);
  }

  private rememberFailure(sequence: number, error: unknown): void {
    const { code, message } = asCairnError(error);
    if (code === 'INTERNAL' || code === 'BUSY') return;
    this.failures.set(sequence, { code, message });
    this.highest = Math.max(this.highest, sequence);
    for (const old of this.failures.keys()) {
      if (old >= this.ackedBelow && this.failures.size <= MAX_REMEMBERED_FAILURES) break;
      this.failures.delete(old);
    }
  }

  /** The oldest stored replies that the client said it has. */
  private prunable(stored: readonly number[]): number[] {
    const pruned: number[] = [];
    for (const sequence of stored) {
      if (sequence >= this.ackedBelow || pruned.length === MAX_PRUNED_REPLIES) break;
      pruned.push(sequence);
    }
    return pruned;
  }

  /** The client has the replies of all operations below `sequence`. */
  acknowledge(sequence: number): void {
    const stored = this.load();
    this.ackedBelow = Math.max(this.ackedBelow, sequence);
    const pruned = this.prunable(stored);
    if (pruned.length > 0) {
      const done = this.state.mutateIfRoom((m) => {
        for (const old of pruned) m.delete(keys.reply(this.session, old));
      });
      if (done) stored.splice(0, pruned.length);
    }
    for (const old of this.counted) if (old < this.ackedBelow) this.counted.delete(old);
  }

  /** The client told anew what is open: an open whose answer it has yet to get is not in that, and counts with its retry. */
  countAgain(): void {
    this.counted.clear();
  }

  /** True the first time for an operation in the life of this process, or since the client told what is open. */
  countOnce(sequence: number): boolean {
    if (this.counted.has(sequence)) return false;
    this.counted.add(sequence);
    if (this.counted.size > MAX_STORED_REPLIES) {
      for (const old of this.counted) if (old < this.ackedBelow) this.counted.delete(old);
    }
    return true;
  }
}
