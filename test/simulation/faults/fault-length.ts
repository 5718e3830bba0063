/** How long faults last. */
import type { FaultScene } from './fault.js';

/** A cluster that is never left in peace makes no progress, and nobody promises that it does. */
const GENTLE_MS = 12_000;

/** Often short; never longer than `roughMs`, or than what programs that see no error survive. */
export function lengthOf({ random, isGentle }: FaultScene, roughMs = GENTLE_MS): number {
  const longestMs = isGentle ? Math.min(GENTLE_MS, roughMs) : roughMs;
  return 1 + random.below(random.below(2) === 0 ? 500 : longestMs);
}
