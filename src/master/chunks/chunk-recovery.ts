/**
 * Recovery: one procedure that makes the replicas of a chunk byte-identical and the membership certain again, after
 * anything that put either in doubt (docs/architecture.md, "Recovery").
 *
 * What is durable before what, so that a crash of the master at any step leaves a chunk that recovers again:
 *
 *   1. needs_recovery is set.
 *   2. last_version + 1 and a new lease id are recorded and FLUSHED; only then
 *   3. recoverChunk goes to a live member, the source. From here members may hold any version up to last_version.
 *      None of those versions was ever leased, so a member at any version from `version` on still has every
 *      acknowledged mutation, and may take part in the next recovery.
 *   4. The members that the source brought along are recorded as the set at the new version, needs_recovery and 'L' (a
 *      lease may be in use) cleared. It is flushed before a lease at that version reaches a client (leases.ts): a master that lost step 4 to power
 *      loss would otherwise take a replica that was left behind for a member.
 *
 * A member that is not connected but not dead is waited for, as it may be serving readers; one that is left out is made
 * to refuse them before step 4 (read-fence.ts), and its replica is deleted afterwards. A member that says that it has no
 * replica is one no longer. When none is left the chunk is lost, until such a replica turns up after all (reports.ts) or a writer
 * replaces the chunk (leases.ts). The old primary, alive and partitioned,
 * cannot acknowledge anything: every member that the source reached refuses its lease id, and an acknowledgement
 * needs all members.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, CairnError, isNoSpace } from '../../core/errors.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import {
  CHUNKSERVER_DEAD_MS,
  CHUNK_SIZE_BYTES,
  DAMAGE_PAUSE_MAX_MS,
  DAMAGE_PAUSE_MIN_MS,
  MAX_DAMAGED_NOTED,
  MAX_FULL_NOTED,
  MAX_SOURCES_TRIED,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { ChunkRecord, RecoverChunkReply } from '../../protocol/generated/messages.js';
import { Backoffs } from './backoffs.js';
import { getChunk, isGarbage, isLostHole, saveChunk, takeOutMember } from '../tables/chunk-records.js';
import { nextVersion } from '../state/counters.js';
import type { IdReserve } from '../state/id-reserve.js';
import type { LeftBehind } from '../tables/left-behind.js';
import { hasRoom } from '../servers/placement.js';
import { ReadFence } from './read-fence.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { StaleReplica } from './stale-replicas.js';
import { isLeased } from '../tables/lease-records.js';
import type { Mutation, State } from '../state/state.js';

export interface ChunkConfig {
  readonly wantedReplicas: number;
  readonly minReplicas: number;
  /** Time for one recoverChunk: it may move a whole chunk. */
  readonly recoveryTimeoutMs: number;
  /** How long a replica that may miss unsynced mutations waits for one that does not, before it is trusted. */
  readonly suspectGraceMs: number;
}

/** Tells the collector of a replica that is no member: at `version` or lower, on a server that may be up. */
export type StraySink = (handle: ChunkHandle, version: number, server: ServerId) => void;

/** Members that had no space for a mutation, until the next recovery. */
interface FullMembers {
  readonly servers: ReadonlySet<number>;
  /** Writing goes on without them; otherwise what they have is what all shall have. */
  readonly leaveOut: boolean;
  /** They are only too many: none is left out unless so many others are in order. */
  readonly least: number;
}

export class ChunkRecovery {
  private readonly full = new Map<ChunkHandle, FullMembers>();
  /** Chunks with damaged blocks that no replica had whole, and when it is worth another look. */
  private readonly damaged: Backoffs<ChunkHandle>;
  /** Recoveries under way, and whom somebody has doubted since they began. */
  private readonly doubted = new Map<ChunkHandle, Set<number>>();

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly leaseIds: IdReserve;
      readonly config: ChunkConfig;
      readonly onStray: StraySink;
      readonly leftBehind: LeftBehind;
      /** Replicas that are no members, on servers that are up. */
      readonly stale: (handle: ChunkHandle) => readonly StaleReplica[];
    },
  ) {
    this.damaged = new Backoffs(deps.clock, {
      minMs: DAMAGE_PAUSE_MIN_MS,
      maxMs: DAMAGE_PAUSE_MAX_MS,
      maxEntries: MAX_DAMAGED_NOTED,
    });
  }

  /** What can be done about damage in it was done just now, and did not mend it. */
  isBeyondMending(handle: ChunkHandle): boolean {
    return !this.damaged.isDue(handle);
  }

  /** Another replica may have what is damaged. Returns whether damage is known that was not mended. */
  mayBeMended(handle: ChunkHandle): boolean {
    return this.damaged.forget(handle);
  }

  /** Step 1. The chunk is not leased before it is recovered. Does nothing when it is gone. */
  markDoubtful(m: Mutation, handle: ChunkHandle, suspects: readonly number[] = []): void {
    const record = getChunk(m, handle);
    if (record === undefined || isGarbage(m, handle)) return;
    for (const id of suspects) this.doubted.get(handle)?.add(id);
    const added = suspects.filter((id) => record.servers.includes(id) && !record.suspects.includes(id));
    if (record.needsRecovery && added.length === 0) return;
    record.needsRecovery = true;
    record.suspects.push(...added);
    saveChunk(m, handle, record, this.deps.config.wantedReplicas);
  }

  /**
   * Recovers the chunk; the caller holds its lock and has taken its lease from the table. Returns its new record.
   * A lost chunk has no servers. UNAVAILABLE when no member can serve as source now (needs_recovery stays set), ENOENT
   * when the chunk is gone, ENOSPC when there is no space for what has to be written down. `isUrgent`: somebody waits.
   */
  async recover(handle: ChunkHandle, isUrgent: boolean): Promise<ChunkRecord> {
    const { state, logger } = this.deps;
    if (this.living(handle).servers.length === 0) return this.markLost(handle);
    state.mutate((m) => this.markDoubtful(m, handle));
    await this.untilSettled(handle);
    this.refuseUnjudged(handle);
    this.keepNeeded(handle, isUrgent);
    const tried = new Set<number>();
    let failure: CairnError | undefined;
    while (tried.size < MAX_SOURCES_TRIED) {
      const record = this.living(handle);
      const source = this.chooseSource(handle, record, tried);
      if (source === undefined && failure === undefined) throw this.noSource(handle, record);
      if (source === undefined) break;
      tried.add(source);
      try {
        this.doubted.set(handle, new Set());
        return await this.recoverFrom(handle, source, record.suspects.includes(source));
      } catch (error) {
        failure = asCairnError(error);
        if (failure.code === 'ENOENT' || failure.code === 'INTERNAL') throw failure;
        // Its report, which is still to come, says whether the replica went with the power.
        const isKnown = this.deps.servers.get(source)?.reported === true;
        if (failure.code === 'NO_REPLICA' && isKnown && this.dropMember(handle, source) === 0) {
          return this.markLost(handle);
        }
        logger.warn(
          { chunk: handle, server: source, error: failure.message },
          'chunk could not be recovered from here',
        );
      } finally {
        this.doubted.delete(handle);
      }
    }
    const reason = failure?.message ?? '';
    // Waiting for space would be waiting for a person.
    const code = isNoSpace(failure) ? 'ENOSPC' : 'UNAVAILABLE';
    throw new CairnError(code, `chunk ${handle} could not be recovered yet: ${reason}`, { cause: failure });
  }

  /**
   * Members were full when the chunk was written. The next recovery leaves them out if the others are enough to go on
   * with and have room; a copy elsewhere makes up for them. Otherwise it keeps them, and returns false: there is no way to go
   * on without space, unless another one that is not connected just now comes back.
   */
  noteFull(handle: ChunkHandle, record: ChunkRecord, full: readonly number[]): boolean {
    if (full.length === 0) return true;
    const { servers, config } = this.deps;
    const others = record.servers.filter((id) => !full.includes(id) && !record.suspects.includes(id));
    const able = others.filter((id) => {
      const server = servers.get(id);
      return server !== undefined && server.peer !== null && hasRoom(server);
    });
    const leaveOut = able.length === others.length && able.length >= Math.max(1, config.minReplicas);
    if (this.full.size >= MAX_FULL_NOTED) this.full.clear();
    this.full.set(handle, { servers: new Set(full), leaveOut, least: 0 });
    return leaveOut || others.some((id) => servers.mayStillServe(id));
  }

  /** The next recovery leaves these members out: there are more than are wanted. */
  leaveOut(handle: ChunkHandle, members: readonly number[]): void {
    if (this.full.size >= MAX_FULL_NOTED) this.full.clear();
    this.full.set(handle, { servers: new Set(members), leaveOut: true, least: this.deps.config.wantedReplicas });
  }

  /** They are not too many when one of the others is not in order, and for a writer who waits none is left out for that. */
  private keepNeeded(handle: ChunkHandle, isUrgent: boolean): void {
    const full = this.full.get(handle);
    if (full === undefined || full.least === 0) return;
    if (isUrgent) this.full.delete(handle);
    const { servers, suspects } = this.living(handle);
    const others = servers.filter(
      (id) => !full.servers.has(id) && !suspects.includes(id) && this.deps.servers.isUp(id),
    );
    if (others.length < full.least) this.full.delete(handle);
  }

  /**
   * Waits until each member is connected or must have fenced itself: who is neither may be serving readers, and cannot be
   * left out before that. Meanwhile the others serve; once the recovery runs they would not. UNAVAILABLE is for `recover` to say.
   */
  private async untilSettled(handle: ChunkHandle): Promise<void> {
    const { servers } = this.deps;
    const members = this.living(handle).servers;
    const unsure = members.filter((id) => servers.mayStillServe(id));
    if (unsure.length === 0 || !members.some((id) => servers.isUp(id))) return;
    const waitMs = Math.max(...unsure.map((id) => CHUNKSERVER_DEAD_MS - servers.silentMs(id)));
    await servers.waitUntil(() => !members.some((id) => servers.mayStillServe(id)), waitMs);
  }

  /**
   * A server that followed a newer state, before this one was put back, may have a version that was written since: until its
   * report says so a member would pass for as good.
   */
  private refuseUnjudged(handle: ChunkHandle): void {
    const { servers, lastLease } = this.living(handle);
    const unjudged = this.deps.servers.unjudged(handle, lastLease);
    const members = servers.filter((id) => {
      const server = this.deps.servers.get(id);
      return server?.isParted === true && server.peer !== null && server.judgedUpTo < handle;
    });
    const [id] = [...members, ...unjudged];
    if (id === undefined) return;
    throw new CairnError('UNAVAILABLE', `chunkserver ${id} has not told yet how new its replica of ${handle} is`);
  }

  private living(handle: ChunkHandle): ChunkRecord {
    const record = getChunk(this.deps.state, handle);
    if (record === undefined || isGarbage(this.deps.state, handle)) {
      throw new CairnError('ENOENT', `chunk ${handle} was deleted`);
    }
    return record;
  }

  /** A member that is up, with a replica beyond doubt when there is one, or after a grace without it. */
  private chooseSource(handle: ChunkHandle, record: ChunkRecord, tried: ReadonlySet<number>): ServerId | undefined {
    const { servers, config } = this.deps;
    const sound = record.servers.filter((id) => !record.suspects.includes(id));
    const usable = sound.filter((id) => servers.isUp(id) && !tried.has(id));
    const full = this.full.get(handle);
    // A full member cannot take what others have more; they can be cut to what it has.
    const preferred = usable.find((id) => full !== undefined && full.servers.has(id) !== full.leaveOut);
    if (preferred !== undefined) return preferred as ServerId;
    if (usable[0] !== undefined) return usable[0] as ServerId;
    // Also one that is up and could not do it just now: its disk may hang for a moment. What is wrong for longer its report tells.
    const awaited = sound.some(
      (id) => tried.has(id) || (!servers.isUp(id) && servers.silentMs(id) < config.suspectGraceMs),
    );
    if (awaited) return undefined;
    const suspects = record.suspects.filter((id) => servers.isUp(id) && !tried.has(id)) as ServerId[];
    // One that was put back to an older state misses what was synced: not before the others are lost.
    const isPutBack = (id: number): boolean => (servers.get(id)?.rolledBack.length ?? 0) > 0;
    return suspects.find((id) => !isPutBack(id)) ?? (record.servers.every(isPutBack) ? suspects[0] : undefined);
  }

  /** `server` has no replica. Returns how many members are left. */
  private dropMember(handle: ChunkHandle, server: ServerId): number {
    return this.deps.state.mutate((m) => {
      const record = getChunk(m, handle);
      if (record === undefined || isGarbage(m, handle)) {
        throw new CairnError('ENOENT', `chunk ${handle} was deleted`);
      }
      // What a report after a power loss did not name was doubted then: this one is gone for another reason.
      if (!record.suspects.includes(server)) record.unsynced = false;
      takeOutMember(record, server);
      saveChunk(m, handle, record, this.deps.config.wantedReplicas);
      return record.servers.length;
    });
  }

  /** No member is left: nothing is in doubt about the chunk, and nobody has a lease of it. */
  private markLost(handle: ChunkHandle): ChunkRecord {
    const { state, config, logger } = this.deps;
    const record = this.living(handle);
    if (!record.needsRecovery && !isLeased(state, handle)) return record;
    record.needsRecovery = false;
    record.losses += 1;
    state.mutate((m) => {
      saveChunk(m, handle, record, config.wantedReplicas);
      this.deps.leftBehind.leaseEnded(m, handle);
    });
    const about = { chunk: handle, inode: record.inode, index: record.index };
    if (isLostHole(record)) logger.warn(about, 'chunk that was never synced is lost: it reads as a hole from now on');
    else logger.error(about, 'chunk is lost: none of its chunkservers has a replica any more');
    return record;
  }

  private noSource(handle: ChunkHandle, record: ChunkRecord): CairnError {
    const where = record.servers.map((id) => `${id} (${this.deps.servers.liveness(id)})`).join(', ');
    return new CairnError(
      'UNAVAILABLE',
      `no replica of chunk ${handle} can be used now; its chunkservers: ${where || 'none, all replicas are lost'}`,
    );
  }

  private async recoverFrom(handle: ChunkHandle, source: ServerId, trustSuspect: boolean): Promise<ChunkRecord> {
    const { state, servers, leaseIds, config, logger } = this.deps;
    // Versions are not counted up for one that is not there: its disk may be away for long.
    if (trustSuspect) await this.demandReplica(handle, source);
    const leaseId = await leaseIds.take();
    const plan = state.mutate((m) => {
      const record = getChunk(m, handle);
      if (record === undefined || isGarbage(m, handle)) return undefined;
      record.lastVersion = nextVersion(m, record.lastVersion);
      record.lastLease = leaseId;
      record.needsRecovery = true;
      saveChunk(m, handle, record, config.wantedReplicas);
      return record;
    });
    if (plan === undefined) throw new CairnError('ENOENT', `chunk ${handle} was deleted`);
    await state.durable();
    const full = this.full.get(handle);
    const leftOut = full?.leaveOut === true && !full.servers.has(source) ? full.servers : new Set<number>();
    const others = plan.servers.filter((id) => id !== source && !leftOut.has(id) && servers.liveness(id) !== 'dead');
    const members = [source, ...others];
    const askable = plan.servers.filter((id) => leftOut.has(id) && servers.isUp(id) && !plan.suspects.includes(id));
    const request = {
      handle,
      fromVersion: plan.version,
      toVersion: plan.lastVersion,
      leaseId,
      members: members.map((id) => servers.replica(id)),
      validBytes: plan.validBytes,
      trustSuspect,
      stale: this.deps.stale(handle).map(({ server, version }) => ({ server: servers.replica(server), version })),
      leftOut: askable.map((id) => servers.replica(id)),
    };
    const reply = await servers.calls.recover(source, request, config.recoveryTimeoutMs);
    const succeeded = members.filter((id) => reply.succeeded.includes(id));
    if (succeeded[0] !== source) {
      throw new CairnError('UNAVAILABLE', `chunkserver ${source} did not bring its own replica to the new version`);
    }
    if (full !== undefined && succeeded.length < full.least) {
      // Those that were reached have the new version, the others serve readers: it is tried again.
      throw new CairnError('UNAVAILABLE', `chunk ${handle}: not all that are to keep it can be reached`);
    }
    const left = plan.servers.filter((id) => !succeeded.includes(id));
    if (left.length > 0) {
      // Above that of the recovery: a member that comes late with its part of it does not serve readers by that.
      const fence = new ReadFence(this.deps, { handle, leaseId: await leaseIds.take() });
      while (!fence.stands(left)) await fence.raise(left);
    }
    const asked = members.filter((id) => !succeeded.includes(id));
    const recovered = state.mutate((m) => this.commit(m, { handle, plan, succeeded, asked, reply }));
    if (reply.unmendedBlocks > 0) this.damaged.attempted(handle);
    else this.damaged.forget(handle);
    if (this.full.get(handle) === full) this.full.delete(handle);
    for (const id of left) this.deps.onStray(handle, plan.lastVersion - 1, id as ServerId);
    logger.info({ chunk: handle, version: recovered.version, members: succeeded, left }, 'chunk recovered');
    if (reply.suspect) {
      logger.warn({ chunk: handle, server: source, left }, 'no better replica came back: unsynced writes may be lost');
    }
    return recovered;
  }

  /** Fails when the server has no replica that can be read, whatever its version. */
  private demandReplica(handle: ChunkHandle, server: ServerId): Promise<void> {
    return this.deps.servers.calls.checkReplica(server, handle, 0);
  }

  /** Step 4. */
  private commit(
    m: Mutation,
    done: {
      readonly handle: ChunkHandle;
      readonly plan: ChunkRecord;
      readonly succeeded: readonly number[];
      /** Left out, and may take the version yet. */
      readonly asked: readonly number[];
      readonly reply: Pick<RecoverChunkReply, 'suspect' | 'unmendedBlocks'>;
    },
  ): ChunkRecord {
    const { handle, plan, succeeded, reply } = done;
    const record = getChunk(m, handle);
    if (record === undefined || isGarbage(m, handle)) {
      throw new CairnError('ENOENT', `chunk ${handle} was deleted while it was recovered`);
    }
    if (record.version > plan.lastVersion) {
      // A report told of it (reports.ts): the next source is chosen by that.
      throw new CairnError('UNAVAILABLE', `a newer version of chunk ${handle} turned up while it was recovered`);
    }
    if (record.lastVersion !== plan.lastVersion) {
      throw new CairnError('INTERNAL', `chunk ${handle} was recovered twice at once: its lock was not held`);
    }
    // Who was removed meanwhile, or was found to have an older replica, is no member by this.
    const members = succeeded.filter((id) => record.servers.includes(id));
    if (members.length === 0) {
      throw new CairnError(
        'UNAVAILABLE',
        `chunk ${handle} lost the members that were recovered, before that was noted`,
      );
    }
    record.version = plan.lastVersion;
    record.servers = members;
    record.gone = [];
    record.leftAtVersion = [...done.asked, ...succeeded.filter((id) => !members.includes(id))];
    if (reply.suspect) record.losses += 1;
    // None is no proof that all are whole: what was not read is not known.
    if (reply.unmendedBlocks > 0) record.damagedBlocks = reply.unmendedBlocks;
    // What became suspect while this ran is still to be looked at.
    const doubted = this.doubted.get(handle);
    const isNew = (id: number): boolean => doubted?.has(id) === true || !plan.suspects.includes(id);
    record.suspects = record.suspects.filter((id) => members.includes(id) && isNew(id));
    record.needsRecovery = record.suspects.length > 0;
    // A truncate that came meanwhile cuts lower: that is still to be done.
    if (record.validBytes === plan.validBytes) record.validBytes = CHUNK_SIZE_BYTES;
    saveChunk(m, handle, record, this.deps.config.wantedReplicas);
    this.deps.leftBehind.leaseEnded(m, handle);
    return record;
  }
}
