/** What the methods work on. */
import type { Clock } from '../../core/clock.js';
import type { LeaseCuts } from '../chunks/lease-cuts.js';
import type { OrphanReaper } from '../maintenance/orphan-reaper.js';
import type { ServerRemovals } from '../maintenance/server-removal.js';
import type { Holdings } from '../sessions/holdings.js';
import type { Recalls } from '../sessions/recalls.js';
import type { AppendLeases } from '../sessions/append-leases.js';
import type { LockPolls } from '../sessions/lock-polls.js';
import type { LockTable } from '../sessions/locks.js';
import type { ChunkServiceDeps } from './chunk-methods.js';

export interface ServiceDeps extends ChunkServiceDeps {
  readonly clock: Clock;
  readonly reaper: OrphanReaper;
  readonly cuts: LeaseCuts;
  readonly locks: LockTable;
  readonly polls: LockPolls;
  readonly appends: AppendLeases;
  readonly holdings: Holdings;
  readonly recalls: Recalls;
  readonly removals: ServerRemovals;
  readonly lastSequence: () => number;
  readonly isShortOfSpace: () => boolean;
}
