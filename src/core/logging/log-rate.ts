/**
 * Lines of a log that say the same again and again: after a burst, one now and then, with how many were left out. So what
 * a stranger or a broken peer makes a process say does not fill its disk, whatever it is.
 */
import { LOG_LINE_BURST, LOG_LINE_INTERVAL_MS, MAX_LOG_MESSAGES } from '../limits.js';

interface Repeated {
  /** Lines that may be written now. */
  credit: number;
  countedMs: number;
  leftOut: number;
}

export class LogRate {
  /** By what is said. Least recently said first. */
  private readonly messages = new Map<string, Repeated>();

  /**
   * Whether a line with this message is to be written, and how many were left out before it. Messages that are not
   * remembered any more begin anew, so the number of different ones is what multiplies the bound.
   */
  admit(message: string, nowMs: number): { readonly write: boolean; readonly leftOut: number } {
    const repeated = this.messages.get(message) ?? { credit: LOG_LINE_BURST, countedMs: nowMs, leftOut: 0 };
    this.messages.delete(message);
    this.messages.set(message, repeated);
    for (const [oldest] of this.messages) {
      if (this.messages.size <= MAX_LOG_MESSAGES) break;
      this.messages.delete(oldest);
    }
    const earned = Math.floor((nowMs - repeated.countedMs) / LOG_LINE_INTERVAL_MS);
    if (earned > 0) {
      repeated.credit = Math.min(LOG_LINE_BURST, repeated.credit + earned);
      repeated.countedMs += earned * LOG_LINE_INTERVAL_MS;
    }
    if (repeated.credit === 0) {
      repeated.leftOut++;
      return { write: false, leftOut: 0 };
    }
    repeated.credit--;
    const { leftOut } = repeated;
    repeated.leftOut = 0;
    return { write: true, leftOut };
  }

  /** What was left out and not told by a later line; it counts as told. */
  *untold(): Generator<readonly [message: string, leftOut: number]> {
    for (const [message, repeated] of this.messages) {
      if (repeated.leftOut === 0) continue;
      yield [message, repeated.leftOut];
      repeated.leftOut = 0;
    }
  }
}
