/**
 * Pauses between attempts at one thing, for each of many: doubled with each attempt that comes soon after the one before,
 * and forgotten when there was none for a while. What does not help is not done again and again.
 */
import type { Clock } from '../../core/clock.js';

interface Pause {
  readonly untilMs: number;
  readonly lengthMs: number;
}

/** Quiet for so many times its last pause: the next attempt is a first one. */
const QUIET_PAUSES = 4;

export class Backoffs<K> {
  private readonly pauses = new Map<K, Pause>();

  constructor(
    private readonly clock: Clock,
    private readonly limits: { readonly minMs: number; readonly maxMs: number; readonly maxEntries: number },
  ) {}

  isDue(key: K): boolean {
    return (this.pauses.get(key)?.untilMs ?? -Infinity) <= this.clock.monotonicMs();
  }

  /** An attempt was made: the next one is due after a pause. */
  attempted(key: K): void {
    const nowMs = this.clock.monotonicMs();
    const before = this.pauses.get(key);
    const { minMs, maxMs, maxEntries } = this.limits;
    const isAnother = before !== undefined && nowMs < before.untilMs + QUIET_PAUSES * before.lengthMs;
    const lengthMs = isAnother ? Math.min(2 * before.lengthMs, maxMs) : minMs;
    this.pauses.delete(key);
    this.pauses.set(key, { untilMs: nowMs + lengthMs, lengthMs });
    for (const oldest of this.pauses.keys()) {
      if (this.pauses.size <= maxEntries) break;
      this.pauses.delete(oldest);
    }
  }

  /** Something is different now: the next attempt is a first one. Returns whether there was one before. */
  forget(key: K): boolean {
    return this.pauses.delete(key);
  }
}
