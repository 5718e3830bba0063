/** Time, as it comes into every component by its constructor, so that the simulator can own it. */
import { outsideLocks } from './lock-order.js';

/** A point in time: whole seconds since the epoch (may be negative) and 0..999,999,999 nanoseconds. */
export interface Timespec {
  readonly seconds: number;
  readonly nanoseconds: number;
}

export interface Timer {
  /** The callback will not run after this returns. Idempotent. */
  cancel(): void;
}

export interface Clock {
  /** Wall-clock time, for the times of files and for logs. May jump. */
  now(): Timespec;
  /** Milliseconds since some fixed point, never going back: for time-outs and leases. */
  monotonicMs(): number;
  /** Runs `callback` once, no earlier than `delayMs` from now. */
  setTimer(delayMs: number, callback: () => void): Timer;
}

export function sleep(clock: Clock, delayMs: number): Promise<void> {
  return new Promise((resolve) => {
    clock.setTimer(delayMs, resolve);
  });
}

/** Milliseconds since the epoch. */
export const wallMs = ({ seconds, nanoseconds }: Timespec): number => seconds * 1000 + nanoseconds / 1e6;

/** Negative, zero or positive as `a` is before, at or after `b`. */
export function compareTimespec(a: Timespec, b: Timespec): number {
  return a.seconds - b.seconds || a.nanoseconds - b.nanoseconds;
}

/** The longest delay of setTimeout: 25 days. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** The clock of the process is set anew when it is further than this from the machine's. */
const MAX_DRIFT_MS = 20;

export class SystemClock implements Clock {
  /** Wall-clock time at the zero of the monotonic clock. */
  private originMs = performance.timeOrigin;

  now(): Timespec {
    // By the monotonic clock, as that has microseconds. It stands still while the machine is suspended, and knows of no corrections.
    const driftMs = Date.now() - (this.originMs + performance.now());
    if (Math.abs(driftMs) > MAX_DRIFT_MS) this.originMs += driftMs;
    const ms = this.originMs + performance.now();
    const seconds = Math.floor(ms / 1000);
    return { seconds, nanoseconds: Math.min(999_999_999, Math.floor((ms - seconds * 1000) * 1e6)) };
  }

  monotonicMs(): number {
    return performance.now();
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    if (Number.isNaN(delayMs)) throw new RangeError('a timer without a delay');
    const call = (): void => outsideLocks(callback);
    let timer: NodeJS.Timeout;
    // Node takes what is longer than it can wait for one millisecond.
    const wait = (leftMs: number): void => {
      const stepMs = Math.min(leftMs, MAX_TIMEOUT_MS);
      timer = setTimeout(leftMs > stepMs ? () => wait(leftMs - stepMs) : call, stepMs);
    };
    wait(delayMs);
    return { cancel: () => clearTimeout(timer) };
  }
}
