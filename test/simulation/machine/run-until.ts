/** Turns a simulated clock until a promise settles. */
import { microtasksDrained } from './guards.js';
import type { SimulatedClock } from './simulated-clock.js';

export interface RunLimits {
  /** Of simulated time, from now: a promise that takes longer counts as stuck. */
  readonly limitMs?: number;
  /** Whether there is no use in going on. */
  readonly hasFailed?: () => boolean;
}

const DEFAULT_LIMIT_MS = 30 * 60_000;

/** Every event is followed by all that it causes at the same instant, before the next event. */
export async function runUntilSettled<T>(
  clock: SimulatedClock,
  promise: Promise<T>,
  limits: RunLimits = {},
): Promise<T> {
  const state = { isSettled: false };
  const settled = (): void => {
    state.isSettled = true;
  };
  promise.then(settled, settled);
  const limitUs = clock.nowUs + (limits.limitMs ?? DEFAULT_LIMIT_MS) * 1000;
  await microtasksDrained();
  while (!state.isSettled) {
    if (!clock.step()) throw new Error('stuck: no event is left, and the work has not ended');
    if (clock.nowUs > limitUs)
      throw new Error(`stuck: not ended after ${(limitUs / 1e6).toFixed(0)} simulated seconds`);
    await microtasksDrained();
    if (limits.hasFailed?.() === true) throw new Error('failed');
  }
  return promise;
}
