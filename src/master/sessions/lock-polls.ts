/** How a client hears of locks that it waits for: it keeps one poll open, which ends when something was granted. */
import type { Clock } from '../../core/clock.js';
import type { SessionId } from '../../core/ids.js';
import { LOCK_POLL_MS } from '../../core/limits.js';
import { deferred } from '../../core/sync.js';
import type { Deferred } from '../../core/sync.js';

/** The polls that wait, one a session. */
export class LockPolls {
  private readonly waiting = new Map<SessionId, Deferred<void>>();

  /** Something was granted to the session. */
  wake(session: SessionId): void {
    this.waiting.get(session)?.resolve();
    this.waiting.delete(session);
  }

  /** Until `wake`, another poll of the session, the end of this one, or LOCK_POLL_MS. */
  async wait(session: SessionId, clock: Clock, signal: AbortSignal): Promise<void> {
    this.wake(session);
    const woken = deferred<void>();
    this.waiting.set(session, woken);
    const timer = clock.setTimer(LOCK_POLL_MS, () => woken.resolve());
    signal.addEventListener('abort', () => woken.resolve(), { once: true });
    await woken.promise;
    timer.cancel();
    if (this.waiting.get(session) === woken) this.waiting.delete(session);
  }
}
