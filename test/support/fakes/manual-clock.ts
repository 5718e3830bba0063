/** A clock that a test turns by hand. */
import type { Clock, Timer, Timespec } from '../../../src/core/clock.js';

export class ManualClock implements Clock {
  private ms = 0;
  private readonly timers = new Set<{ at: number; callback: () => void }>();

  now(): Timespec {
    return { seconds: 1_700_000_000 + Math.floor(this.ms / 1000), nanoseconds: (this.ms % 1000) * 1_000_000 };
  }

  monotonicMs(): number {
    return this.ms;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const timer = { at: this.ms + delayMs, callback };
    this.timers.add(timer);
    return { cancel: () => void this.timers.delete(timer) };
  }

  /** Runs what comes due within `ms`, in order. */
  advance(ms: number): void {
    const end = this.ms + ms;
    for (;;) {
      let next: { at: number; callback: () => void } | undefined;
      for (const timer of this.timers) if (timer.at <= end && (next === undefined || timer.at < next.at)) next = timer;
      if (next === undefined) break;
      this.timers.delete(next);
      this.ms = Math.max(this.ms, next.at);
      next.callback();
    }
    this.ms = end;
  }
}
