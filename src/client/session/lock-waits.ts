/** Who of this client waits for a lock. One poll at a time asks the master for all waits together. */
import type { Clock } from '../../core/clock.js';
import { CairnError, asCairnError, hasCode } from '../../core/errors.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { deferred, type Deferred, unawaited } from '../../core/sync.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { MasterConnection } from './master-connection.js';
import { Backoff } from './retry.js';

export interface LockWaitsOptions {
  readonly master: MasterConnection;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** `again`: the master knows of no such wait, so it is to be asked for the lock once more. */
type WaitEnd = 'granted' | 'again' | 'released';

interface Wait {
  /** Compared, and nothing else: a LockOwner. */
  readonly owner: object;
  ended: Deferred<WaitEnd>;
}

export class LockWaits {
  private readonly waits = new Map<number, Wait>();
  private nextWait = 1;
  /** Granted waits, until the master knows that this client knows. */
  private seen: number[] = [];
  private polling = false;

  constructor(private readonly options: LockWaitsOptions) {}

  /** The number by which the master is to know a wait. */
  newId(): number {
    return this.nextWait++;
  }

  /** Until the lock that the master was asked for under `waitId` is granted. EINTR when `signal` aborts before. */
  async waitFor(owner: object, waitId: number, signal: AbortSignal | undefined): Promise<WaitEnd> {
    const wait: Wait = { owner, ended: deferred() };
    this.waits.set(waitId, wait);
    unawaited(this.poll(), this.options.logger, 'asking for locks');
    try {
      return await unlessAborted(wait.ended.promise, signal);
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

  /** `owner` gives up all that it has: nobody waits for it any more. */
  released(owner: object): void {
    for (const wait of this.waits.values()) if (wait.owner === owner) wait.ended.resolve('released');
  }

  sessionLost(): void {
    this.seen = [];
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
}

export const interrupted = (): CairnError => new CairnError('EINTR', 'the wait for a lock was interrupted');

/** As `promise`, but EINTR when `signal` aborts before. */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
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
