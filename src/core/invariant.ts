/**
 * What always holds of a structure between two calls of it. A cheap one is checked wherever it runs; a dear one looks through
 * the whole structure, and only where audits are on: in the simulator, and in processes with CAIRN_AUDITS=1, as tests start them.
 */
import { CairnError } from './errors.js';

let areAudited = false;

export const isAuditing = (): boolean => areAudited;

/** For tests: from now on, in this process. */
export function setAudits(on: boolean): void {
  areAudited = on;
}

/** INTERNAL when it does not hold: the structure is not to be gone on with. `what` says what should hold. */
export function invariant(holds: boolean, what: string): asserts holds {
  if (!holds) throw new CairnError('INTERNAL', `this should hold, and does not: ${what}`);
}

/** The same for one that costs as much as the structure has entries. */
export function audited(holds: () => boolean, what: string): void {
  if (areAudited) invariant(holds(), what);
}
