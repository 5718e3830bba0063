/**
 * Chunk leases (GFS section 3.1): who orders the writes of a chunk (sessions/append-leases.ts has another kind). For each chunk:
 *
 *   none ──grant──► pending ──all members answered──► active ──lapsed, revoked cleanly──► none
 *                      │                                 │
 *                      └───── a member did not ──────────┴─ a member went, a forward failed, the lease ended in doubt
 *                                        ▼
 *                                   doubtful (needs_recovery) ──recovery──► none
 *
 * 'L' is written before a lease is sent, flushed unless the chunk is new, and deleted when the lease ended cleanly or was recovered. A
 * restarted master finds 'L' for every lease that may be in use, takes them as void, and recovers those chunks before it leases them again: it does
 * not know what was in flight. Lease ids come from a flushed reserve, so every id is above all ever sent.
 *
 * All that changes the lease or the members of one chunk holds that chunk's lock; so requests that come together
 * share one grant: the first does it, the others find it active. A lease is handed out without the lock only while
 * it is active and fresh, and leaves 'active' before anything is done that voids it.
 *
 * A writer that names a failed lease is believed only after the master asked all members itself. If they are in order
 * the writer gets the same lease back; on the second such complaint another member becomes primary (that writer may
 * be unable to reach this one). So one confused writer cannot keep a chunk in recovery.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';
import { leaseId } from '../../core/ids.js';
import type { ChunkHandle, ChunkIndex, InodeId, ServerId } from '../../core/ids.js';
import {
  CHUNKSERVER_DEAD_MS,
  CHUNK_SIZE_BYTES,
  COMPLAINTS_TO_MOVE,
  EXPECTED_SERVER_WAIT_MS,
  LEASE_REST_MS,
  LEASE_TTL_MS,
  MAX_ACTIVE_LEASES,
  MAX_GRANT_ATTEMPTS,
  MAX_LEASE_ENDS,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { pick } from '../../core/random.js';
import type { Random } from '../../core/random.js';
import { Semaphore } from '../../core/sync.js';
import type { ChunkRecord, InodeRecord, LeaseChunkReplyInit, LeaseRecord } from '../../protocol/generated/messages.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { IdReserve } from '../state/id-reserve.js';
import type { Mutation, State } from '../state/state.js';
import { endCut, getChunk, isGone } from '../tables/chunk-records.js';
import { isLeased, saveLease } from '../tables/lease-records.js';
import type { LeftBehind } from '../tables/left-behind.js';
import { Allocation, findChunk } from './allocation.js';
import type { FailedLease, LeaseRequest } from './allocation.js';
import { ChunkLocks } from './chunk-locks.js';
import { LeaseTable, primaryOf, recordOf } from './lease-table.js';
import type { Lease } from './lease-table.js';
import type { NewChunks } from './new-chunks.js';
import type { ChunkConfig, ChunkRecovery } from './chunk-recovery.js';

export class ChunkLeases {
  readonly table = new LeaseTable();
  readonly locks = new ChunkLocks();
  private readonly allocation: Allocation;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly random: Random;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly recovery: ChunkRecovery;
      readonly newChunks: NewChunks;
      readonly leaseIds: IdReserve;
      readonly config: ChunkConfig;
      readonly leftBehind: LeftBehind;
      readonly noteGrant: (m: Mutation, lease: Lease) => void;
    },
  ) {
    const { state, config, newChunks } = deps;
    this.allocation = new Allocation({ state, config, newChunks, locks: this.locks, table: this.table });
  }

  /**
   * The lease of a chunk for writing; allocates the chunk in a hole, unless the request keeps holes. Answers at once when a
   * fresh lease stands.
   */
  lease(request: LeaseRequest): LeaseChunkReplyInit | Promise<LeaseChunkReplyInit> {
    const { record, handle } = this.find(request);
    const lease = handle === undefined ? undefined : this.table.get(handle);
    const isReady = lease !== undefined && this.isFresh(lease) && !isNamed(request.failed, lease);
    return isReady && !this.isToCut(lease) ? this.reply(record, lease) : this.leaseSlowly(request);
  }

  /** A truncate was decided, and its cut is on its way to the primary: it would take away what is written before it. */
  private isToCut({ handle }: Lease): boolean {
    return (getChunk(this.deps.state, handle)?.validBytes ?? CHUNK_SIZE_BYTES) < CHUNK_SIZE_BYTES;
  }

  private async leaseSlowly(request: LeaseRequest): Promise<LeaseChunkReplyInit> {
    for (;;) {
      const { handle } = this.find(request);
      if (handle === undefined && request.keepsHoles) return this.replyWithout(request, handle);
      let lease: Lease | 'lost' | undefined;
      try {
        lease =
          handle === undefined
            ? await this.allocation.fill(request)
            : await this.locks.run(handle, () => this.leaseExisting(request, handle));
      } catch (error) {
        // Cut off or punched while it was recovered: no failure of who writes there.
        if (!hasCode(error, 'ENOENT') || this.find(request).handle === handle) throw error;
      }
      if (lease === 'lost') return this.replyWithout(request, handle);
      // undefined: the map changed while this waited for the lock.
      if (lease !== undefined) return this.reply(this.find(request).record, lease);
    }
  }

  private find(request: LeaseRequest): { record: InodeRecord; handle: ChunkHandle | undefined } {
    return findChunk(this.deps.state, request);
  }

  private reply(record: InodeRecord, lease: Lease): LeaseChunkReplyInit {
    const { servers, clock, state } = this.deps;
    const chunk = getChunk(state, lease.handle);
    return {
      handle: lease.handle,
      version: lease.version,
      leaseId: lease.id,
      leaseTtlMs: Math.max(1, Math.floor(lease.expiresMs - clock.monotonicMs())),
      primary: servers.replica(lease.primary),
      replicas: lease.members.map((id) => servers.replica(id)),
      layoutVersion: record.layoutVersion,
      losses: chunk?.losses ?? 0,
      unsynced: chunk?.unsynced ?? false,
    };
  }

  /** Nothing can be synced: there is no chunk, or it is lost. */
  private replyWithout(request: LeaseRequest, handle: ChunkHandle | undefined): LeaseChunkReplyInit {
    const { layoutVersion } = this.find(request).record;
    if (handle === undefined) return { layoutVersion };
    return { handle, layoutVersion, losses: getChunk(this.deps.state, handle)?.losses ?? 0 };
  }

  /** Fresh: active, all members up, and more than half of its time left, so that it need not be renewed yet. */
  private isFresh(lease: Lease): boolean {
    return lease.expiresMs - this.deps.clock.monotonicMs() > LEASE_TTL_MS / 2 && this.isSound(lease);
  }

  isSound(lease: Lease): boolean {
    return lease.state === 'active' && lease.members.every((id) => this.deps.servers.isUp(id));
  }

  /** Nobody is in the middle of writing: there is no lease, or a sound one that was not renewed for a while. */
  isAtRest(handle: ChunkHandle): boolean {
    const lease = this.table.get(handle);
    if (lease === undefined) return true;
    const ageMs = this.deps.clock.monotonicMs() - (lease.expiresMs - LEASE_TTL_MS);
    return this.isSound(lease) && ageMs >= LEASE_REST_MS;
  }

  // ---- A chunk that is there -----------------------------------------------------------------------

  /** Under the lock of the chunk. */
  private async leaseExisting(request: LeaseRequest, handle: ChunkHandle): Promise<Lease | 'lost' | undefined> {
    if (this.find(request).handle !== handle) return undefined;
    const { servers } = this.deps;
    const lease = this.table.get(handle);
    let avoidPrimary: ServerId | undefined;
    if (lease !== undefined && this.isSound(lease)) {
      const lapsed = lease.expiresMs <= this.deps.clock.monotonicMs();
      if (isNamed(request.failed, lease) && !lapsed) {
        if (await this.renew(lease)) {
          if (++lease.complaints < COMPLAINTS_TO_MOVE) return lease;
          if (await this.endCleanly(lease)) avoidPrimary = lease.primary;
        }
      } else if (this.isFresh(lease) || (!lapsed && (await this.renew(lease)))) {
        return lease;
      } else if (lapsed) {
        await this.endCleanly(lease);
      }
    }
    const members = getChunk(this.deps.state, handle)?.servers ?? [];
    const noneExpected = (): boolean => members.every((id) => servers.liveness(id) !== 'expected');
    await servers.waitUntil(noneExpected, EXPECTED_SERVER_WAIT_MS);
    return this.grant(request, handle, avoidPrimary);
  }

  /** A new lease over all members; recovers the chunk first when it is in doubt, or when a member does not answer. */
  private async grant(
    request: LeaseRequest,
    handle: ChunkHandle,
    avoidPrimary: ServerId | undefined,
  ): Promise<Lease | 'lost' | undefined> {
    const { state, servers, config } = this.deps;
    let failure: CairnError | undefined;
    for (let attempt = 0; attempt < MAX_GRANT_ATTEMPTS; attempt++) {
      // The map may have changed while this waited.
      if (this.find(request).handle !== handle) return undefined;
      let record = getChunk(state, handle);
      if (record === undefined) throw new CairnError('INTERNAL', `chunk ${handle} is mapped but has no record`);
      const certain =
        failure === undefined &&
        !record.needsRecovery &&
        !isLeased(state, handle) &&
        record.servers.length > 0 &&
        record.servers.every((id) => servers.isUp(id)) &&
        servers.unjudged(handle, record.lastLease).length === 0;
      if (!certain) record = await this.recoverLocked(handle);
      if (record.servers.length === 0) return request.keepsHoles ? 'lost' : this.allocation.replace(request, handle);
      if (!(await this.reconnected(record.servers))) continue;
      if (record.servers.length < config.minReplicas) {
        throw new CairnError(
          'UNAVAILABLE',
          `chunk ${handle} has ${record.servers.length} replicas, writing needs ${config.minReplicas}: wait for repair`,
        );
      }
      const { inode, index } = request;
      const members = this.chain(record.servers as ServerId[], avoidPrimary);
      const lease = await this.newLease({ handle, inode, index, version: record.version, members });
      // A truncate that came while the id was awaited found no lease to cut by: this grant makes its cut.
      if (this.find(request).handle !== handle) return undefined;
      state.mutate((m) => {
        saveLease(m, handle, recordOf(lease));
        this.deps.noteGrant(m, lease);
      });
      const { validBytes } = getChunk(state, handle) ?? record;
      // In one turn: work that begins beside it finds the lease, or learns of its grant.
      this.locks.noteGrant(handle);
      this.table.put(lease);
      await state.durable();
      const { failed, error } = await this.sendGrant(lease, validBytes);
      if (failed.length === 0) {
        this.clearValidBytes(lease, validBytes);
        // From here a client may have the lease: everything it rests on is flushed first.
        await state.durable();
        this.table.activate(lease, this.deps.clock.monotonicMs() + LEASE_TTL_MS);
        return lease;
      }
      failure = error ?? new CairnError('UNAVAILABLE', `chunkservers ${failed.join(', ')} did not take the lease`);
    }
    await this.recoverLocked(handle);
    throw new CairnError('UNAVAILABLE', `chunk ${handle} could not be leased: ${failure?.message ?? ''}`);
  }

  /**
   * A member that takes part in recovery without a connection to the master is alive, and serves reads until it fences
   * itself: it is waited for that long, and only then left out (P9). False when one is to be left out.
   */
  private async reconnected(members: readonly number[]): Promise<boolean> {
    const { servers } = this.deps;
    const away = members.filter((id) => !servers.isUp(id));
    if (away.length === 0) return true;
    const waitMs = Math.max(...away.map((id) => CHUNKSERVER_DEAD_MS - servers.silentMs(id)), 0);
    return servers.waitUntil(() => away.every((id) => servers.isUp(id)), waitMs);
  }

  /** The members in the order of the chain, the primary first. */
  private chain(members: readonly ServerId[], avoidPrimary: ServerId | undefined): ServerId[] {
    const fit = members.filter((id) => id !== avoidPrimary);
    const primary = pick(this.deps.random, fit.length > 0 ? fit : members);
    return [primary, ...members.filter((id) => id !== primary)];
  }

  private async newLease(about: {
    readonly handle: ChunkHandle;
    readonly inode: InodeId;
    readonly index: ChunkIndex;
    readonly version: number;
    readonly members: readonly ServerId[];
  }): Promise<Lease> {
    const primary = primaryOf(about.members);
    const id = leaseId(await this.deps.leaseIds.take());
    return { ...about, id, primary, state: 'pending', expiresMs: 0, complaints: 0 };
  }

  /** Sends the lease to all members at once; the same id again renews it. */
  private async sendGrant(
    lease: Lease,
    validBytes: number,
  ): Promise<{ failed: ServerId[]; error: CairnError | undefined }> {
    const { servers, logger } = this.deps;
    const request = {
      ...{ handle: lease.handle, version: lease.version, leaseId: lease.id, leaseTtlMs: LEASE_TTL_MS },
      ...{ primary: lease.primary, replicas: lease.members.map((id) => servers.replica(id)) },
      validBytes,
    };
    let error: CairnError | undefined;
    const failed: ServerId[] = [];
    const send = async (id: ServerId): Promise<void> => {
      try {
        await servers.calls.grantLease(id, request);
      } catch (cause) {
        error = asCairnError(cause);
        failed.push(id);
        logger.warn({ chunk: lease.handle, server: id, error: error.message }, 'chunkserver did not take a lease');
      }
    };
    await Promise.all(lease.members.map(send));
    return { failed, error };
  }

  /** Asks all members, so it also finds out whether the lease is in order. Under the lock. */
  private async renew(lease: Lease): Promise<boolean> {
    const sentMs = this.deps.clock.monotonicMs();
    const { failed } = await this.sendGrant(lease, CHUNK_SIZE_BYTES);
    if (failed.length > 0 || this.table.get(lease.handle) !== lease) return false;
    this.table.renew(lease, sentMs + LEASE_TTL_MS);
    return true;
  }

  clearValidBytes(lease: Lease, sent: number): void {
    if (sent >= CHUNK_SIZE_BYTES) return;
    this.deps.state.mutate((m) => {
      endCut(m, lease.handle, { version: lease.version, validBytes: sent });
    });
  }

  // ---- The end of a lease --------------------------------------------------------------------------

  /** Under the lock. True when the primary said that nothing was left in flight: the replicas are at rest. */
  async endCleanly(lease: Lease): Promise<boolean> {
    const { servers, logger } = this.deps;
    const { handle } = lease;
    this.table.void(lease);
    try {
      await servers.calls.revokeLease(lease.primary, handle, lease.id);
    } catch (error) {
      logger.info({ chunk: handle, error: asCairnError(error).message }, 'lease did not end cleanly');
      return false;
    }
    this.forget(lease);
    return true;
  }

  /** Under the lock. `isUrgent`: somebody waits for it. */
  async recoverLocked(handle: ChunkHandle, isUrgent = true): Promise<ChunkRecord> {
    const lease = this.table.get(handle);
    if (lease !== undefined) this.table.void(lease);
    // Not of one that is gone by then: who dropped it makes sure that nobody writes there.
    const record = await this.deps.recovery.recover(handle, isUrgent);
    this.table.delete(handle);
    return record;
  }

  /** The lease is known to be broken: no client gets it any more, and the chunk is in doubt. */
  voidLease(handle: ChunkHandle): void {
    const lease = this.table.get(handle);
    if (lease !== undefined) this.table.void(lease);
    this.deps.state.mutate((m) => this.deps.recovery.markDoubtful(m, handle));
  }

  /** A member's replica is not what it should be. */
  doubt(handle: ChunkHandle, server: ServerId): void {
    this.deps.state.mutate((m) => this.deps.recovery.markDoubtful(m, handle, [server]));
  }

  /** A member's connection ended: it may have lost what it had in memory about its leases. Returns the chunks. */
  voidLeasesOf(server: ServerId): ChunkHandle[] {
    const leases = this.table.withMember(server);
    for (const lease of leases) if (lease.state === 'active') this.table.void(lease);
    return leases.map((lease) => lease.handle);
  }

  /** Recovers the chunk, for which nobody waits, if `stillNeeded` says so once its lock is held. Errors are for the caller. */
  async recover(handle: ChunkHandle, stillNeeded: () => boolean): Promise<void> {
    await this.locks.run(handle, async () => {
      if (stillNeeded()) await this.recoverLocked(handle, false);
    });
  }

  /** Ends one lapsed lease. */
  async end(lease: Lease): Promise<void> {
    await this.locks.run(lease.handle, async () => {
      if (this.table.get(lease.handle) !== lease) return;
      const full = this.table.inUse >= MAX_ACTIVE_LEASES;
      if (!full && lease.expiresMs > this.deps.clock.monotonicMs()) return;
      if (this.isGone(lease.handle)) await this.endOfGone(lease);
      else if (!(this.isSound(lease) && (await this.endCleanly(lease)))) await this.recoverLocked(lease.handle);
    });
  }

  /**
   * Under the lock, of a chunk that is no part of its file any more. A lease that does not end cleanly stays until it has run out: who
   * dropped the chunk may be waiting for the lock, to make sure that nobody writes there (lease-cuts.ts).
   */
  private async endOfGone(lease: Lease): Promise<void> {
    if (lease.expiresMs <= this.deps.clock.monotonicMs()) this.forget(lease);
    else await this.endCleanly(lease);
  }

  /** Ends some of the leases that lapsed, or that are too many. Returns true when there may be more. */
  async endSome(): Promise<boolean> {
    const nowMs = this.table.inUse >= MAX_ACTIVE_LEASES ? Infinity : this.deps.clock.monotonicMs();
    const lapsed = this.table.lapsed(nowMs, MAX_LEASE_ENDS * 8, (handle) => this.isGone(handle));
    const places = new Semaphore(MAX_LEASE_ENDS);
    await Promise.all(
      lapsed.map(async (lease) => {
        const release = await places.acquire();
        try {
          await this.end(lease);
        } catch (error) {
          this.deps.logger.info(
            { chunk: lease.handle, error: asCairnError(error).message },
            'lease waits for recovery',
          );
        } finally {
          release();
        }
      }),
    );
    return lapsed.length === MAX_LEASE_ENDS * 8;
  }

  /** Ends the leases of a file's chunks, lapsed or not: nothing that was sent under them is taken any more. */
  async endAll(inode: InodeId): Promise<void> {
    const end = async (handle: ChunkHandle): Promise<void> => {
      const lease = this.table.get(handle);
      if (lease === undefined) return;
      if (this.isGone(handle)) await this.endOfGone(lease);
      else if (!(this.isSound(lease) && (await this.endCleanly(lease)))) await this.recoverLocked(handle);
    };
    await Promise.all(this.table.ofInode(inode).map((handle) => this.locks.run(handle, () => end(handle))));
  }

  isGone(handle: ChunkHandle): boolean {
    return isGone(this.deps.state, handle);
  }

  forget(lease: Lease): void {
    this.deps.state.mutate((m) => this.deps.leftBehind.leaseEnded(m, lease.handle));
    this.table.delete(lease.handle);
  }

  // ---- After a restart -----------------------------------------------------------------------------

  /** Takes over what an earlier master leased. */
  inherit(entries: Iterable<readonly [ChunkHandle, LeaseRecord]>): void {
    const expiresMs = this.deps.clock.monotonicMs() + LEASE_TTL_MS;
    for (const [handle, record] of entries) {
      this.table.put({
        ...{ handle, inode: record.inode as InodeId, index: record.index as ChunkIndex },
        ...{ id: leaseId(record.leaseId), version: 0, primary: record.primary as ServerId, members: [] },
        ...{ state: 'void', expiresMs, complaints: 0 },
      });
    }
  }
}

function isNamed(failed: FailedLease | undefined, lease: Lease): boolean {
  return failed !== undefined && failed.leaseId === lease.id && failed.version === lease.version;
}
