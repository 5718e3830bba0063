/**
 * The time in which this master listened. A master that stood still (no CPU, a disk that did not answer, a machine that was
 * suspended) could not hear anybody, so by that time nobody was silent: sessions and chunkservers are given up by this clock.
 * It never runs ahead of the monotonic clock, so who is given up by it was silent for at least as long.
 */
import type { Clock } from '../../core/clock.js';
import { MASTER_STALL_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';

export class ListeningTime {
  private stoodStillMs = 0;
  private lastTickMs: number;

  constructor(
    private readonly clock: Clock,
    private readonly logger: Logger,
  ) {
    this.lastTickMs = clock.monotonicMs();
  }

  /** Milliseconds; stops when `tick` stays away. */
  nowMs(): number {
    return Math.min(this.clock.monotonicMs(), this.lastTickMs + MASTER_STALL_MS) - this.stoodStillMs;
  }

  /** To be called about every second. */
  tick(): void {
    const nowMs = this.clock.monotonicMs();
    const stoodStillMs = nowMs - this.lastTickMs - MASTER_STALL_MS;
    this.lastTickMs = nowMs;
    if (stoodStillMs <= 0) return;
    this.stoodStillMs += stoodStillMs;
    if (stoodStillMs < MASTER_STALL_MS) return;
    this.logger.warn({ ms: Math.round(stoodStillMs) }, 'the master stood still: nobody is given up for that time');
  }
}
