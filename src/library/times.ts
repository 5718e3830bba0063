/** Times as Node's functions take them. */
import type { Timespec } from '../core/clock.js';
import { CairnError } from '../core/errors.js';

/** Seconds since the epoch (with fractions, also as text), or a Date. */
export type Time = number | string | Date;

export function toTimespec(time: Time): Timespec {
  const seconds = time instanceof Date ? time.getTime() / 1000 : Number(time);
  if (!Number.isFinite(seconds)) throw new CairnError('EINVAL', `no time: ${String(time)}`);
  const whole = Math.floor(seconds);
  // A double has no nanoseconds in this century; microseconds are what it can say.
  const nanoseconds = Math.min(999_999_999, Math.round((seconds - whole) * 1e6) * 1000);
  return { seconds: whole, nanoseconds };
}
