/** How far the replicas of a chunk are from what is wanted, as the servers stand now. */
import type { ServerId } from '../core/ids.js';
import type { ChunkRecord } from '../protocol/generated/messages.js';
import type { ServerRegistry } from './servers.js';

export class ReplicaHealth {
  constructor(
    private readonly servers: ServerRegistry,
    private readonly config: { readonly wantedReplicas: number; readonly graceMs: number },
  ) {}

  /** Members that are up, with a replica beyond doubt. */
  live(record: ChunkRecord): ServerId[] {
    return record.servers.filter((id) => !record.suspects.includes(id) && this.servers.isUp(id)) as ServerId[];
  }

  /** It will not be waited for. */
  isLongDead(id: number): boolean {
    return this.servers.liveness(id) === 'dead' && this.servers.silentMs(id) >= this.config.graceMs;
  }

  /** A copy is due: members that were lost just now may be back soon, only those dead for longer are made up for. */
  needsCopy(record: ChunkRecord): boolean {
    const { wantedReplicas } = this.config;
    const live = this.live(record).length;
    if (record.needsRecovery || live === 0 || live >= wantedReplicas) return false;
    return record.servers.filter((id) => !this.isLongDead(id)).length < wantedReplicas;
  }

  /** There are enough members without one that is dead for long: it is to be left out. */
  isMadeUpFor(record: ChunkRecord): boolean {
    const enough = this.live(record).length >= this.config.wantedReplicas;
    return enough && record.servers.some((id) => this.isLongDead(id));
  }
}
