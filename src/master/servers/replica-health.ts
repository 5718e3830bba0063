/** How far the replicas of a chunk are from what is wanted, as the servers stand now. */
import type { ServerId } from '../../core/ids.js';
import type { ChunkRecord } from '../../protocol/generated/messages.js';
import { hostOf } from './servers.js';
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

  /**
   * Members that are one too many, all of them being up and beyond doubt: first those that share a host with another, then
   * those with the least free space. Empty when there is none, or when that cannot be told now.
   */
  surplus(record: ChunkRecord): ServerId[] {
    const live = this.live(record);
    if (record.needsRecovery || live.length < record.servers.length) return [];
    const kept = [...live];
    while (kept.length > this.config.wantedReplicas) {
      const rank = (id: ServerId): number[] => {
        const server = this.servers.get(id);
        const host = server === undefined ? '' : hostOf(server);
        const besides = kept.filter((other) => other !== id && hostOf(this.servers.get(other) ?? NOWHERE) === host);
        return [-besides.length, server?.load.freeBytes ?? 0, id];
      };
      const [last] = [...kept].sort((a, b) => compareRanks(rank(a), rank(b)));
      if (last === undefined) break;
      kept.splice(kept.indexOf(last), 1);
    }
    return live.filter((id) => !kept.includes(id));
  }

  /** There are enough members without one that is dead for long: it is to be left out. */
  isMadeUpFor(record: ChunkRecord): boolean {
    const enough = this.live(record).length >= this.config.wantedReplicas;
    return enough && record.servers.some((id) => this.isLongDead(id));
  }
}

const NOWHERE = { address: '' };

function compareRanks(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < a.length; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
