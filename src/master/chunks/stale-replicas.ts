/**
 * Replicas that are no members of their chunk any more: of before a recovery that left them out, brought back by a server that was
 * away, or of copies that came to nothing. They are kept, unserved, until the members have been read and found whole, since a
 * member may have rotted unread; meanwhile a recovery takes from them the blocks that a member has damaged. Then they are
 * deleted. In memory alone: what is forgotten is found again by its server's next report.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError } from '../../core/errors.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { unawaited } from '../../core/sync.js';
import type { ChunkRecord } from '../../protocol/generated/messages.js';
import { Backoffs } from './backoffs.js';
import { getChunk, isGarbage } from '../tables/chunk-records.js';
import { keys, packed } from '../state/keys.js';
import type { ChunkLocks } from './chunk-locks.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { State } from '../state/state.js';
import {
  MAX_STALE_REPLICAS,
  MAX_STALE_WORKING,
  MAX_STALE_WORKING_PER_SERVER,
  STALE_PAUSE_MIN_MS,
  STALE_PAUSE_MAX_MS,
  MAX_STALE_LOOK,
} from '../../core/limits.js';

export interface StaleReplica {
  readonly handle: ChunkHandle;
  /** It is at this version or lower. */
  readonly version: number;
  readonly server: ServerId;
}

export class StaleReplicas {
  private readonly byChunk = new Map<ChunkHandle, Map<ServerId, StaleReplica>>();
  /** In the order in which they are looked at. */
  private readonly queue = new Set<StaleReplica>();
  private readonly working = new Set<StaleReplica>();
  private readonly pauses: Backoffs<string>;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      /** Set after construction: recovery tells of replicas that it left out. */
      readonly locks: () => ChunkLocks;
      /** A copy to that server is being made, which takes the place of what is there. */
      readonly isCopying: (handle: ChunkHandle, server: ServerId) => boolean;
      /** A member was found damaged. */
      readonly onDamaged: (handle: ChunkHandle, server: ServerId) => void;
    },
  ) {
    this.pauses = new Backoffs(deps.clock, {
      minMs: STALE_PAUSE_MIN_MS,
      maxMs: STALE_PAUSE_MAX_MS,
      maxEntries: MAX_STALE_REPLICAS,
    });
  }

  /** A replica that is no member, or will not be. */
  add(handle: ChunkHandle, version: number, server: ServerId): void {
    const replica = { handle, version, server };
    const before = this.byChunk.get(handle)?.get(server);
    if (before === undefined && this.queue.size >= MAX_STALE_REPLICAS) return;
    if (before !== undefined) this.queue.delete(before);
    const ofChunk = this.byChunk.get(handle) ?? new Map<ServerId, StaleReplica>();
    this.byChunk.set(handle, ofChunk.set(server, replica));
    this.queue.add(replica);
  }

  /** Those of a chunk, on servers that are up. */
  of(handle: ChunkHandle): StaleReplica[] {
    return [...(this.byChunk.get(handle)?.values() ?? [])].filter(({ server }) => this.deps.servers.isUp(server));
  }

  /** To be called again and again: begins with some of those that wait. */
  tick(): void {
    for (const replica of firstOf(this.queue, MAX_STALE_LOOK)) {
      if (this.working.size >= MAX_STALE_WORKING) return;
      const { handle, server } = replica;
      // At the end of the queue: the next tick begins behind it.
      this.queue.delete(replica);
      this.queue.add(replica);
      if (!this.deps.servers.isUp(server)) {
        this.leaveToReport(replica);
        continue;
      }
      const busy = [...this.working].filter((other) => other.server === server).length;
      if (busy >= MAX_STALE_WORKING_PER_SERVER || this.working.has(replica)) continue;
      if (!this.pauses.isDue(`${handle}:${server}`)) continue;
      this.working.add(replica);
      unawaited(this.workOn(replica), this.deps.logger, 'deleting a stale replica');
    }
  }

  private async workOn(replica: StaleReplica): Promise<void> {
    const { handle, server } = replica;
    const { logger } = this.deps;
    this.pauses.attempted(`${handle}:${server}`);
    try {
      if (await this.deleteIfRedundant(replica)) this.forget(replica);
    } catch (error) {
      logger.info({ chunk: handle, server, error: asCairnError(error).message }, 'stale replica not deleted yet');
    } finally {
      this.working.delete(replica);
    }
    this.tick();
  }

  /** Its server reports when it comes back; by then the chunk may be gone, and what it has would pass for unknown. */
  private leaveToReport(replica: StaleReplica): void {
    const { handle, version, server } = replica;
    const { state, servers } = this.deps;
    this.forget(replica);
    if (servers.get(server) === undefined) return;
    state.mutateIfRoom((m) => m.put(keys.deletion(server, handle), packed(version)));
  }

  /** True when it is deleted, or is none. */
  private async deleteIfRedundant(replica: StaleReplica): Promise<boolean> {
    const { handle, server } = replica;
    const { state } = this.deps;
    const before = this.successors(handle);
    if (before !== undefined && !(await this.areWhole(handle, before))) return false;
    // Under the lock, as a copy to that server may be about to become a member.
    return this.deps.locks().run(handle, async () => {
      const record = getChunk(state, handle);
      if (record?.servers.includes(server) === true) return true;
      if (this.deps.isCopying(handle, server)) return false;
      const now = this.successors(handle);
      if (now !== undefined && !isSame(now, before)) return false;
      if (!this.deps.servers.isUp(server)) return true;
      const version = Math.max(replica.version, record?.lastVersion ?? 0);
      await this.deps.servers.calls.deleteStale(server, { handle, version });
      return true;
    });
  }

  /** The chunk that has taken the place of what the replica holds; undefined when nobody needs it any more. */
  private successors(handle: ChunkHandle): ChunkRecord | undefined {
    const record = getChunk(this.deps.state, handle);
    return !isGarbage(this.deps.state, handle) ? record : undefined;
  }

  /** Whether every member can be read, and was. */
  private async areWhole(handle: ChunkHandle, record: ChunkRecord): Promise<boolean> {
    const { servers, onDamaged } = this.deps;
    const { version, needsRecovery, suspects } = record;
    if (needsRecovery || suspects.length > 0 || record.servers.length === 0) return false;
    const damaged = await Promise.all(
      (record.servers as ServerId[]).map(async (id) => {
        if (!servers.isUp(id)) return undefined;
        const damagedBlocks = await servers.calls.verifyReplica(id, handle, version);
        if (damagedBlocks > 0) onDamaged(handle, id);
        return damagedBlocks;
      }),
    );
    return damaged.every((count) => count === 0);
  }

  private forget(replica: StaleReplica): void {
    const { handle, server } = replica;
    this.queue.delete(replica);
    const ofChunk = this.byChunk.get(handle);
    if (ofChunk?.get(server) !== replica) return;
    ofChunk.delete(server);
    if (ofChunk.size === 0) this.byChunk.delete(handle);
    this.pauses.forget(`${handle}:${server}`);
  }
}

function firstOf<T>(all: Iterable<T>, limit: number): T[] {
  const first: T[] = [];
  for (const one of all) {
    if (first.length === limit) break;
    first.push(one);
  }
  return first;
}

/** The same members at the same version: what was read of them stands for them still. */
function isSame(one: ChunkRecord, other: ChunkRecord | undefined): boolean {
  if (other === undefined || one.version !== other.version || one.needsRecovery) return false;
  return one.servers.every((id) => other.servers.includes(id));
}
