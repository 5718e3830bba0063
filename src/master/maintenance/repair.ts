/**
 * Keeps chunks at their wanted number of replicas. Two sources of work, each walked a slice at a time: the index 'W'
 * (too few members, or in doubt), and the chunks of servers that are dead for longer than the grace ('R').
 *
 * A chunk in doubt is recovered. One with too few live members gets a copy (copies.ts). When that made up for a dead
 * member, recovery leaves the dead one out under a new version, so that a server that returns late does not add a
 * replica too many.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import { chunkHandle } from '../../core/ids.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { unawaited } from '../../core/sync.js';
import { Backoffs } from '../chunks/backoffs.js';
import { getChunk } from '../tables/chunk-records.js';
import { ChunkCopies } from './re-replication.js';
import type { Candidate, CopyConfig } from './re-replication.js';
import type { MadeReplicas } from '../chunks/made-replicas.js';
import { PREFIX_LENGTH, packNumber, prefixRange, unpackNumber } from '../state/keys.js';
import type { Key } from '../store/store.js';
import type { ChunkLeases } from '../chunks/leases.js';
import type { Recovery, StraySink } from '../chunks/recovery.js';
import { ReplicaHealth } from '../servers/replica-health.js';
import type { ServerRegistry } from '../servers/servers.js';
import { isLeased } from '../tables/lease-records.js';
import type { State } from '../state/state.js';

export interface RepairConfig extends CopyConfig {
  /** A server dead for so long will not be waited for. */
  readonly graceMs: number;
  readonly maxRecoveries: number;
}

/** Index entries of one source that are looked at in one go. */
const SLICE = 256;
/** Slices without any work that one round looks at, before others get their turn. */
const SLICES_PER_ROUND = 8;
/** A chunk is recovered again after so long at first, and at last, unless a writer needs it. */
const RECOVERY_PAUSE_MIN_MS = 500;
const RECOVERY_PAUSE_MAX_MS = 300_000;
const MAX_RECOVERED_NOTED = 16_384;

export class Repair {
  private readonly cursors = new Map<Key, Key>();
  private readonly health: ReplicaHealth;
  private readonly copies: ChunkCopies;
  /** Chunks to recover, in the order in which the need was seen. */
  private readonly doubtful = new Set<ChunkHandle>();
  private recovering = 0;
  /** Chunks that were recovered, or could not be. */
  private readonly recovered: Backoffs<ChunkHandle>;
  private stopped = false;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly random: Random;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly leases: ChunkLeases;
      readonly recovery: Recovery;
      readonly config: RepairConfig;
      readonly onStray: StraySink;
      readonly made: MadeReplicas;
    },
  ) {
    this.health = new ReplicaHealth(deps.servers, deps.config);
    this.recovered = new Backoffs(deps.clock, {
      ...{ minMs: RECOVERY_PAUSE_MIN_MS, maxMs: RECOVERY_PAUSE_MAX_MS, maxEntries: MAX_RECOVERED_NOTED },
    });
    this.copies = new ChunkCopies({
      ...deps,
      health: this.health,
      onAdded: (handle) => {
        const record = getChunk(deps.state, handle);
        if (record !== undefined && this.health.isMadeUpFor(record)) this.recoverSoon(handle);
      },
      onDoubt: (handle) => this.recoverSoon(handle),
      onDamaged: (handle, server) => this.mend(handle, server),
      // What an index has behind the slices seen so far is not left for the next tick; its beginning is.
      onDrained: () => {
        if (this.cursors.size > 0) this.look();
      },
    });
  }

  /** A member has damaged blocks, which others may have whole. */
  mend(handle: ChunkHandle, server: ServerId): void {
    if (this.deps.recovery.isBeyondMending(handle)) return;
    this.deps.leases.doubt(handle, server);
    this.recoverSoon(handle);
  }

  /** A replica has turned up that is no member: it may have what is damaged, and is not waited for any longer. */
  mendFrom(handle: ChunkHandle): void {
    const { leases, recovery } = this.deps;
    if (!recovery.mayBeMended(handle)) return;
    leases.voidLease(handle);
    this.recovered.forget(handle);
    this.recoverSoon(handle);
  }

  stop(): void {
    this.stopped = true;
    this.copies.stop();
  }

  isCopying(handle: ChunkHandle, server: ServerId): boolean {
    return this.copies.isCopying(handle, server);
  }

  /** Recovers the chunk soon. A chunk that cannot be recovered now is found again by a tick. */
  recoverSoon(handle: ChunkHandle): void {
    this.doubtful.add(handle);
    this.pumpRecoveries();
  }

  private pumpRecoveries(): void {
    for (const handle of this.doubtful) {
      if (this.stopped || this.recovering >= this.deps.config.maxRecoveries) return;
      this.doubtful.delete(handle);
      this.recovering++;
      const recovered = this.recoverNow(handle).finally(() => {
        this.recovering--;
        this.pumpRecoveries();
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
    return this.health.isMadeUpFor(record);
  }

  /** Under the lock: recovery, which makes sure of those that stay, leaves out what is too many. */
  private isToTrim(handle: ChunkHandle): boolean {
    const { state, leases, recovery } = this.deps;
    const record = getChunk(state, handle);
    if (record === undefined || leases.isGone(handle) || !this.copies.mayCopy(handle)) return false;
    if (!this.recovered.isDue(handle)) return false;
    const surplus = this.health.surplus(record);
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
    if (this.recovered.isDue(handle) && !members.some((id) => servers.isUnsettled(id))) return false;
    const lease = leases.table.get(handle);
    if (lease === undefined || !leases.isSound(lease)) leases.voidLease(handle);
    return true;
  }

  tick(): void {
    this.look();
  }

  /** Goes on through the sources until there is something to do, or the end of all of them is reached. */
  private look(): void {
    const candidates: Candidate[] = [];
    for (let i = 0; i < SLICES_PER_ROUND && candidates.length === 0; i++) {
      this.lookAt('W', 1, candidates);
      for (const server of this.deps.servers.all()) {
        const prefix = 'R' + packNumber(server.id);
        if (this.health.isLongDead(server.id)) this.lookAt(prefix, PREFIX_LENGTH, candidates);
        else this.cursors.delete(prefix);
      }
      if (this.cursors.size === 0) break;
    }
    this.copies.want(candidates);
  }

  private lookAt(prefix: Key, handleAt: number, candidates: Candidate[]): void {
    for (const handle of this.slice(prefix, handleAt)) this.consider(handle, candidates);
  }

  /** The next handles of an index, beginning anew at its end. */
  private slice(prefix: Key, handleAt: number): ChunkHandle[] {
    const handles: ChunkHandle[] = [];
    const { start, end } = prefixRange(prefix);
    const cursor = this.cursors.get(prefix);
    let next: Key | undefined;
    for (const [key] of this.deps.state.range({ start: cursor ?? start, end })) {
      if (handles.length === SLICE) {
        next = key;
        break;
      }
      handles.push(chunkHandle(unpackNumber(key, handleAt)));
    }
    if (next === undefined) this.cursors.delete(prefix);
    else this.cursors.set(prefix, next);
    return handles;
  }

  private consider(handle: ChunkHandle, candidates: Candidate[]): void {
    const { leases, state, servers } = this.deps;
    const record = getChunk(state, handle);
    if (record === undefined || leases.isGone(handle)) return;
    const live = this.health.live(record).length;
    if (record.needsRecovery) {
      const isLost = record.servers.length === 0;
      if (isLost || record.servers.some((id) => servers.isUp(id))) this.recoverSoon(handle);
    } else if (this.health.isMadeUpFor(record) || (live > 0 && leases.table.get(handle)?.state === 'void')) {
      this.recoverSoon(handle);
    } else if (this.health.needsCopy(record) && this.copies.mayCopy(handle)) {
      candidates.push({ handle, live });
    } else if (this.health.surplus(record).length > 0 && this.copies.mayCopy(handle)) {
      this.recoverSoon(handle);
    }
  }
}
