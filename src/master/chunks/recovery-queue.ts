/**
 * Chunks in doubt, and those that are to lose or gain members by a recovery: each is recovered when its turn comes, if it is still wanted
 * then, and with growing pauses when it is wanted again and again. A writer that needs a chunk does not wait for this: it has the
 * chunk recovered by asking for its lease (leases.ts).
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { unawaited } from '../../core/sync.js';
import type { ReplicaHealth } from '../servers/replica-health.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { State } from '../state/state.js';
import { getChunk } from '../tables/chunk-records.js';
import { isLeased } from '../tables/lease-records.js';
import { Backoffs } from './backoffs.js';
import type { ChunkLeases } from './leases.js';
import type { ChunkRecovery } from './chunk-recovery.js';
import { RECOVERY_PAUSE_MIN_MS, RECOVERY_PAUSE_MAX_MS, MAX_RECOVERED_NOTED } from '../../core/limits.js';

export class RecoveryQueue {
  /** In the order in which the need was seen. */
  private readonly doubtful = new Set<ChunkHandle>();
  private recovering = 0;
  /** Chunks that were recovered, or could not be. */
  private readonly recovered: Backoffs<ChunkHandle>;
  private stopped = false;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly health: ReplicaHealth;
      readonly leases: ChunkLeases;
      readonly recovery: ChunkRecovery;
      readonly maxRecoveries: number;
    },
  ) {
    this.recovered = new Backoffs(deps.clock, {
      minMs: RECOVERY_PAUSE_MIN_MS,
      maxMs: RECOVERY_PAUSE_MAX_MS,
      maxEntries: MAX_RECOVERED_NOTED,
    });
  }

  stop(): void {
    this.stopped = true;
  }

  /** A member has damaged blocks, which others may have whole. */
  mend(handle: ChunkHandle, server: ServerId): void {
    if (this.deps.recovery.isBeyondMending(handle)) return;
    this.deps.leases.doubt(handle, server);
    this.add(handle);
  }

  /** A replica has turned up that is no member: it may have what is damaged, and is not waited for any longer. */
  mendFrom(handle: ChunkHandle): void {
    const { leases, recovery } = this.deps;
    if (!recovery.mayBeMended(handle)) return;
    leases.voidLease(handle);
    this.recovered.forget(handle);
    this.add(handle);
  }

  /** Recovers the chunk soon. One that cannot be recovered now is found again by repair. */
  add(handle: ChunkHandle): void {
    this.doubtful.add(handle);
    this.pump();
  }

  private pump(): void {
    for (const handle of this.doubtful) {
      if (this.stopped || this.recovering >= this.deps.maxRecoveries) return;
      this.doubtful.delete(handle);
      this.recovering++;
      const recovered = this.recoverNow(handle).finally(() => {
        this.recovering--;
        this.pump();
      });
      unawaited(recovered, this.deps.logger, 'recovering a chunk');
    }
  }

  private async recoverNow(handle: ChunkHandle): Promise<void> {
    const { leases, logger } = this.deps;
    try {
      await leases.recover(handle, () => {
        const isWanted = this.wantsRecovery(handle) ? !this.isToWait(handle) : this.isToTrim(handle);
        if (isWanted) this.recovered.attempted(handle);
        return isWanted;
      });
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return;
      logger.info({ chunk: handle, error: asCairnError(error).message }, 'chunk waits for recovery');
    }
  }

  /** In doubt, under a lease that lost a member or its master, or carrying a dead member that was made up for. */
  private wantsRecovery(handle: ChunkHandle): boolean {
    const { state, leases, servers } = this.deps;
    const record = getChunk(state, handle);
    if (record === undefined || leases.isGone(handle)) return false;
    if (record.needsRecovery) return true;
    const lease = leases.table.get(handle);
    if (lease === undefined ? isLeased(state, handle) : lease.state === 'void') return true;
    if (lease?.members.some((id) => !servers.isUp(id)) === true) return true;
    return this.deps.health.isMadeUpFor(record);
  }

  /** Under the lock: recovery, which makes sure of those that stay, leaves out what is too many. */
  private isToTrim(handle: ChunkHandle): boolean {
    const { state, leases, recovery } = this.deps;
    const record = getChunk(state, handle);
    if (record === undefined || leases.isGone(handle) || !leases.isAtRest(handle)) return false;
    if (!this.recovered.isDue(handle)) return false;
    const surplus = this.deps.health.surplus(record);
    if (surplus.length > 0) recovery.leaveOut(handle, surplus);
    return surplus.length > 0;
  }

  /**
   * It was recovered just now, or could not be. Or a member may be back any moment, or is certain to be dead soon: a recovery
   * would wait for that and keep others from theirs. A writer that needs the chunk has it recovered by himself.
   */
  private isToWait(handle: ChunkHandle): boolean {
    const { state, servers, leases } = this.deps;
    const members = getChunk(state, handle)?.servers ?? [];
    if (this.recovered.isDue(handle) && !members.some((id) => servers.mayStillServe(id))) return false;
    const lease = leases.table.get(handle);
    if (lease === undefined || !leases.isSound(lease)) leases.voidLease(handle);
    return true;
  }
}
