/** Pauses between attempts, and which failures are worth another one. */
import { sleep, type Clock } from '../../core/clock.js';
import { hasCode } from '../../core/errors.js';
import { RETRY_PAUSE_MAX_MS, RETRY_PAUSE_MIN_MS } from '../../core/limits.js';
import type { Random } from '../../core/random.js';

/** True for failures of the way to a server, or of its state now, and not of the request. */
export function isTransient(error: unknown): boolean {
  return hasCode(error, 'DISCONNECTED', 'UNAVAILABLE', 'TIMEOUT', 'BUSY');
}

/** Exponential pauses with jitter, so that the clients of a server that comes back do not arrive together. */
export class Backoff {
  private pauseMs = RETRY_PAUSE_MIN_MS;

  constructor(
    private readonly clock: Clock,
    private readonly random: Random,
  ) {}

  reset(): void {
    this.pauseMs = RETRY_PAUSE_MIN_MS;
  }

  /** Waits between half and all of the pause, at most until `deadlineMs` (monotonic), and doubles the next. */
  async pause(deadlineMs = Infinity): Promise<void> {
    const jittered = this.pauseMs / 2 + this.random.below(Math.ceil(this.pauseMs / 2) + 1);
    this.pauseMs = Math.min(RETRY_PAUSE_MAX_MS, this.pauseMs * 2);
    await sleep(this.clock, Math.max(0, Math.min(jittered, deadlineMs - this.clock.monotonicMs())));
  }
}
