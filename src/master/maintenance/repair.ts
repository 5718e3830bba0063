/**
 * Keeps chunks at their wanted number of replicas. Two sources of work, each walked a slice at a time: the index 'W'
 * (too few members, in doubt, or with damaged blocks), and the chunks of servers that are dead for longer than the grace ('R').
 *
 * A chunk in doubt is recovered (chunks/recovery-queue.ts). One with too few live members gets a copy (re-replication.ts). When that made up for a dead
 * member, recovery leaves the dead one out under a new version, so that a server that returns late does not add a
 * replica too many.
 */
import { REPAIR_SLICES_PER_ROUND, REPAIR_SLICE } from '../../core/limits.js';
import type { Clock } from '../../core/clock.js';
import { chunkHandle } from '../../core/ids.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import type { DamagedChunks } from '../chunks/damaged-chunks.js';
import type { ChunkLeases } from '../chunks/leases.js';
import type { MadeReplicas } from '../chunks/made-replicas.js';
import type { RecoveryQueue } from '../chunks/recovery-queue.js';
import type { StraySink } from '../chunks/chunk-recovery.js';
import type { ReplicaHealth } from '../servers/replica-health.js';
import type { ServerRegistry } from '../servers/servers.js';
import { PREFIX_LENGTH, packNumber, prefixRange, unpackNumber } from '../state/keys.js';
import type { State } from '../state/state.js';
import type { Key } from '../store/store.js';
import { getChunk } from '../tables/chunk-records.js';
import { ReReplication } from './re-replication.js';
import type { Candidate, CopyConfig } from './re-replication.js';

export class Repair {
  private readonly cursors = new Map<Key, Key>();
  private readonly copies: ReReplication;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly random: Random;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly leases: ChunkLeases;
      readonly recoveries: RecoveryQueue;
      readonly health: ReplicaHealth;
      readonly config: CopyConfig;
      readonly onStray: StraySink;
      readonly made: MadeReplicas;
      readonly damaged: DamagedChunks;
    },
  ) {
    this.copies = new ReReplication({
      ...deps,
      onAdded: (handle) => {
        const record = getChunk(deps.state, handle);
        if (record !== undefined && deps.health.isMadeUpFor(record)) deps.recoveries.add(handle);
      },
      onDoubt: (handle) => deps.recoveries.add(handle),
      onDamaged: (handle, server) => deps.recoveries.mend(handle, server),
      // What an index has behind the slices seen so far is not left for the next tick; its beginning is.
      onDrained: () => {
        if (this.cursors.size > 0) this.look();
      },
    });
  }

  stop(): void {
    this.copies.stop();
  }

  isCopying(handle: ChunkHandle, server: ServerId): boolean {
    return this.copies.isCopying(handle, server);
  }

  tick(): void {
    this.look();
  }

  /** Goes on through the sources until there is something to do, or the end of all of them is reached. */
  private look(): void {
    const candidates: Candidate[] = [];
    for (let i = 0; i < REPAIR_SLICES_PER_ROUND && candidates.length === 0; i++) {
      this.lookAt('W', 1, candidates);
      for (const server of this.deps.servers.all()) {
        const prefix = 'R' + packNumber(server.id);
        if (this.deps.health.isLongDead(server.id)) this.lookAt(prefix, PREFIX_LENGTH, candidates);
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
      if (handles.length === REPAIR_SLICE) {
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
    const { leases, state, servers, health, recoveries } = this.deps;
    const record = getChunk(state, handle);
    if (record === undefined || leases.isGone(handle)) return;
    const live = health.live(record).length;
    if (record.needsRecovery) {
      const isLost = record.servers.length === 0;
      if (isLost || record.servers.some((id) => servers.isUp(id))) recoveries.add(handle);
    } else if (health.isMadeUpFor(record) || (live > 0 && leases.table.get(handle)?.state === 'void')) {
      recoveries.add(handle);
    } else if (health.needsCopy(record) && this.copies.mayCopy(handle)) {
      candidates.push({ handle, isWanted: (now) => health.needsCopy(now), live });
    } else if (health.surplus(record).length > 0 && this.copies.mayCopy(handle)) {
      recoveries.add(handle);
    } else if (record.damagedBlocks > 0) this.deps.damaged.look(handle);
  }
}
