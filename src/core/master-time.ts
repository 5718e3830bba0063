/**
 * The master's own time as others know it: which start of the master, and how long after that. It comes with the master's
 * answers, so it says how recent what somebody knows of it is without trust in any other clock. A machine that was
 * suspended may not know that it slept, but it cannot have heard of a time that it slept through.
 */
import { MAX_MASTER_LAG_MS } from './limits.js';

export interface MasterTime {
  /** Grows with each start of the master. 0: nothing was heard yet. */
  readonly epoch: number;
  /** Since that start. */
  readonly ms: number;
}

export const NEVER: MasterTime = { epoch: 0, ms: 0 };

export function later(one: MasterTime, two: MasterTime): MasterTime {
  return two.epoch > one.epoch || (two.epoch === one.epoch && two.ms > one.ms) ? two : one;
}

/**
 * Whether a server that heard from the master last at `heard` may have been given up in what the master said at `known`.
 * How long the master before had been silent, a later one does not know.
 */
export function lagsBehind(heard: MasterTime, known: MasterTime): boolean {
  if (heard.epoch !== known.epoch) return heard.epoch < known.epoch;
  return known.ms - heard.ms > MAX_MASTER_LAG_MS;
}
