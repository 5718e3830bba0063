/**
 * Makes missing replicas: how many copies run at a time, and each one's way from its source to a new member.
 *
 * A copy becomes a member at the same version, so no mutation may come between the copy and that. A large chunk that
 * nobody writes is copied beside everything else, and given up when a lease was granted meanwhile. A small one, and one
 * whose writers keep a lease, is copied under its lock: the lease is ended first, and writers that come wait for the
 * copy. So a file that is appended to all the time gets its replicas back too.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import {
  BRIEF_COPY_BYTES,
  CHUNK_SIZE_BYTES,
  COPY_PAUSE_MAX_MS,
  COPY_PAUSE_MIN_MS,
  HELD_COPY_PAUSE_MS,
  HELD_COPY_TIMEOUT_MS,
  MAX_PAUSED_COPIES,
  MAX_COPY_CANDIDATES,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { pick } from '../../core/random.js';
import type { Random } from '../../core/random.js';
import { unawaited } from '../../core/sync.js';
import type { ChunkRecord } from '../../protocol/generated/messages.js';
import type { Peer } from '../../protocol/rpc.js';
import { Backoffs } from '../chunks/backoffs.js';
import { getChunk, isGone, saveChunk } from '../tables/chunk-records.js';
import { isAbovePutBack } from '../state/counters.js';
import { readInode } from '../tables/inodes.js';
import type { MadeReplicas } from '../chunks/made-replicas.js';
import type { ChunkLeases } from '../chunks/leases.js';
import { chooseServers } from '../servers/placement.js';
import type { StraySink } from '../chunks/chunk-recovery.js';
import type { ReplicaHealth } from '../servers/replica-health.js';
import { hostOf } from '../servers/servers.js';
import type { Server, ServerRegistry } from '../servers/servers.js';
import { isLeased } from '../tables/lease-records.js';
import type { State } from '../state/state.js';

export interface CopyConfig {
  readonly wantedReplicas: number;
  /** Copies at a time, in all and with one server at either end. */
  readonly maxCopies: number;
  readonly maxCopiesPerServer: number;
  /** Bytes of the copies that one server takes part in at a time; a single copy may be larger. */
  readonly maxCopyBytesPerServer: number;
  readonly copyTimeoutMs: number;
}

/** A chunk that shall get one more member. */
export interface Candidate {
  readonly handle: ChunkHandle;
  /** Whether it still should, by its record as it is then: asked when its turn has come, and again where the lock was waited for. */
  readonly isWanted: (record: ChunkRecord) => boolean;
  /** Its members that are up: those with the fewest come first. */
  readonly live: number;
}

interface Route extends Pick<Candidate, 'handle' | 'isWanted'> {
  readonly source: ServerId;
  readonly target: ServerId;
}

export class ReReplication {
  private readonly running = new Map<ChunkHandle, ServerId>();
  private readonly loads = new Map<ServerId, { copies: number; bytes: number }>();
  private waiting: Candidate[] = [];
  /** Leased chunks whose copy under the lock failed, and until when they are left alone. */
  private readonly pausedUntilMs = new Map<ChunkHandle, number>();
  /** Copies that failed. */
  private readonly failures: Backoffs<ChunkHandle>;
  private stopped = false;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly random: Random;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly leases: ChunkLeases;
      readonly health: ReplicaHealth;
      readonly config: CopyConfig;
      readonly onStray: StraySink;
      readonly made: MadeReplicas;
      /** A copy became a member. */
      readonly onAdded: (handle: ChunkHandle) => void;
      /** A new version is needed. */
      readonly onDoubt: (handle: ChunkHandle) => void;
      /** A source has damaged blocks, and other members may have them whole. */
      readonly onDamaged: (handle: ChunkHandle, server: ServerId) => void;
      /** Nothing waits any more. */
      readonly onDrained: () => void;
    },
  ) {
    this.failures = new Backoffs(deps.clock, {
      minMs: COPY_PAUSE_MIN_MS,
      maxMs: COPY_PAUSE_MAX_MS,
      maxEntries: MAX_PAUSED_COPIES,
    });
  }

  stop(): void {
    this.stopped = true;
    this.waiting = [];
  }

  isCopying(handle: ChunkHandle, server: ServerId): boolean {
    return this.running.get(handle) === server;
  }

  /** Adds to those that wait, and starts what may start. */
  want(candidates: readonly Candidate[]): void {
    const known = new Set(this.waiting.map(({ handle }) => handle));
    for (const candidate of candidates) {
      if (this.waiting.length >= MAX_COPY_CANDIDATES) break;
      if (!known.has(candidate.handle) && !this.running.has(candidate.handle)) this.waiting.push(candidate);
    }
    this.waiting.sort((a, b) => a.live - b.live || a.handle - b.handle);
    this.pump();
  }

  /** False while a writer is in the middle of something, or when a lease has to be recovered first. */
  mayCopy(handle: ChunkHandle): boolean {
    if (!this.failures.isDue(handle)) return false;
    const { leases } = this.deps;
    return leases.table.get(handle) === undefined || (leases.isAtRest(handle) && !this.isPaused(handle));
  }

  private isPaused(handle: ChunkHandle): boolean {
    const untilMs = this.pausedUntilMs.get(handle);
    if (untilMs === undefined) return false;
    if (untilMs > this.deps.clock.monotonicMs()) return true;
    this.pausedUntilMs.delete(handle);
    return false;
  }

  private pump(): void {
    const still: Candidate[] = [];
    const candidates = this.waiting;
    this.waiting = still;
    for (const candidate of candidates) {
      const full = this.stopped || this.running.size >= this.deps.config.maxCopies;
      if (full || !this.startOrDrop(candidate)) still.push(candidate);
    }
  }

  /** False when its servers are busy: it waits on. */
  private startOrDrop({ handle, isWanted }: Candidate): boolean {
    const { state, random, leases, health, servers } = this.deps;
    const record = getChunk(state, handle);
    if (record === undefined || leases.isGone(handle) || this.running.has(handle)) return true;
    if (!isWanted(record) || !this.mayCopy(handle)) return true;
    const bytes = this.bytesOf(record);
    const free = (id: ServerId): boolean => this.hasPlace(id, bytes);
    const sources = health.live(record).filter(free);
    if (sources.length === 0) return false;
    const targets = servers.all().filter((server) => server.reported);
    const target = this.chooseTarget(
      record,
      targets.filter((server) => free(server.id)),
    );
    // With nowhere to go now or later it does not keep a place in the queue.
    if (target === undefined) return targets.every((server) => free(server.id));
    if (record.leftAtVersion.includes(target.id) || !isAbovePutBack(state, record.version)) {
      // An old file there might pass for the copy, or for newer than it: one that is at its version, or of a state that was put back.
      leases.voidLease(handle);
      this.deps.onDoubt(handle);
      return true;
    }
    const route = { handle, isWanted, source: pick(random, sources), target: target.id };
    this.running.set(handle, target.id);
    this.count(route, 1, bytes);
    const copied = this.copy(route, record, bytes).finally(() => {
      this.running.delete(handle);
      this.count(route, -1, -bytes);
      if (this.stopped) return;
      this.pump();
      if (this.waiting.length === 0) this.deps.onDrained();
    });
    unawaited(copied, this.deps.logger, 'copying a chunk');
    return true;
  }

  private chooseTarget(record: ChunkRecord, fit: readonly Server[]): Server | undefined {
    const { servers, health, random } = this.deps;
    const hosts = new Set<string>();
    for (const id of record.servers) {
      const server = servers.get(id);
      if (server !== undefined && !health.isLongDead(id)) hosts.add(hostOf(server));
    }
    const exclude = new Set(record.servers as ServerId[]);
    return chooseServers({ servers: fit, count: 1, exclude, hosts, random })[0];
  }

  /** By the published size of the file: an estimate while it is written. */
  private bytesOf(record: ChunkRecord): number {
    const size = readInode(this.deps.state, inodeId(record.inode))?.size ?? 0;
    return Math.max(0, Math.min(CHUNK_SIZE_BYTES, size - record.index * CHUNK_SIZE_BYTES));
  }

  private hasPlace(server: ServerId, bytes: number): boolean {
    const { maxCopiesPerServer, maxCopyBytesPerServer } = this.deps.config;
    const load = this.loads.get(server);
    if (load === undefined || load.copies === 0) return true;
    return load.copies < maxCopiesPerServer && load.bytes + bytes <= maxCopyBytesPerServer;
  }

  private count({ source, target }: Route, copies: number, bytes: number): void {
    for (const server of [source, target]) {
      const load = this.loads.get(server) ?? { copies: 0, bytes: 0 };
      this.loads.set(server, { copies: load.copies + copies, bytes: load.bytes + bytes });
    }
  }

  private async copy(route: Route, before: ChunkRecord, bytes: number): Promise<void> {
    const { leases, logger } = this.deps;
    const { handle, source, target } = route;
    const leased = leases.table.get(handle) !== undefined;
    try {
      const outcome =
        leased || bytes <= BRIEF_COPY_BYTES ? await this.copyHeld(route) : await this.copyFree(route, before);
      if (outcome === 'added') {
        this.failures.forget(handle);
        logger.info({ chunk: handle, from: source, to: target }, 'chunk copied');
        this.deps.onAdded(handle);
        return;
      }
      if (outcome === 'not begun') return;
      logger.info({ chunk: handle, to: target }, 'copy of a chunk is out of date, trying again later');
      this.failures.attempted(handle);
    } catch (error) {
      this.failures.attempted(handle);
      if (leased) this.pause(handle);
      logger.warn({ chunk: handle, from: source, to: target, error: asCairnError(error).message }, 'copy failed');
    }
    this.deps.onStray(handle, before.version, target);
  }

  private pause(handle: ChunkHandle): void {
    if (this.pausedUntilMs.size >= MAX_PAUSED_COPIES) this.pausedUntilMs.clear();
    this.pausedUntilMs.set(handle, this.deps.clock.monotonicMs() + HELD_COPY_PAUSE_MS);
  }

  /** Under the lock: no lease comes between. */
  private copyHeld(route: Route): Promise<'added' | 'late' | 'not begun'> {
    const { leases, servers, state, health, config } = this.deps;
    const { handle, isWanted, source, target } = route;
    return leases.locks.run(handle, async () => {
      if (this.stopped || leases.isGone(handle)) return 'not begun';
      const lease = leases.table.get(handle);
      // One that does not end cleanly is void then, and recovered.
      if (lease !== undefined && !(leases.isAtRest(handle) && (await leases.endCleanly(lease)))) return 'not begun';
      const record = getChunk(state, handle);
      const peer = servers.peerOf(target);
      if (peer === undefined || record === undefined || isLeased(state, handle)) return 'not begun';
      const fits = isWanted(record) && !record.servers.includes(target);
      if (!fits || !health.live(record).includes(source)) return 'not begun';
      const damaged = await this.transfer(route, record, Math.min(HELD_COPY_TIMEOUT_MS, config.copyTimeoutMs));
      return this.takeOrLeave(route, record, () => this.addMember(route, record, peer, damaged));
    });
  }

  /** Without holding up writers: of no use when a lease was granted meanwhile. */
  private async copyFree(route: Route, before: ChunkRecord): Promise<'added' | 'late' | 'not begun'> {
    const { leases, servers, config } = this.deps;
    const watch = leases.locks.watchGrants(route.handle);
    try {
      const peer = servers.peerOf(route.target);
      if (peer === undefined) return 'not begun';
      const damaged = await this.transfer(route, before, config.copyTimeoutMs);
      // It may be lost again before the lock is free.
      this.deps.made.note(route.handle, route.target);
      return await leases.locks.run(route.handle, () => {
        const isThere = this.deps.made.take(route.handle, route.target);
        return this.takeOrLeave(route, before, () => {
          return isThere && !watch.granted && this.addMember(route, before, peer, damaged);
        });
      });
    } finally {
      watch.end();
    }
  }

  /** Returns how many blocks the source has damaged: they are marked as lost in the copy. */
  private async transfer(route: Route, record: ChunkRecord, timeoutMs: number): Promise<number> {
    const { servers } = this.deps;
    const { handle, source, target } = route;
    const peer = servers.peerOf(target);
    try {
      const request = { handle, version: record.version, source: servers.replica(source) };
      return await servers.calls.copyChunk(target, request, timeoutMs);
    } catch (error) {
      // What came of it is not known, or the disk does not let go of it.
      if (servers.peerOf(target) !== peer || hasCode(error, 'EEXIST')) this.noteLeft(route, record.version);
      throw error;
    }
  }

  private takeOrLeave(route: Route, { version }: ChunkRecord, add: () => boolean): 'added' | 'late' {
    if (add()) return 'added';
    this.noteLeft(route, version);
    return 'late';
  }

  /**
   * The target may have a file at `version` that is no member. It is deleted, if its disk lasts until then: or else it would be back
   * with that disk, and pass for a copy that is made on another one now and away then. So the next one gets a new version.
   */
  private noteLeft({ handle, target }: Route, version: number): void {
    const { state, config } = this.deps;
    state.mutateIfRoom((m) => {
      const record = getChunk(m, handle);
      if (record?.version !== version || isGone(m, handle)) return;
      if (record.servers.includes(target) || record.leftAtVersion.includes(target)) return;
      record.leftAtVersion.push(target);
      saveChunk(m, handle, record, config.wantedReplicas);
    });
  }

  /** Under the lock. */
  private addMember({ handle, source, target }: Route, before: ChunkRecord, peer: Peer, damaged: number): boolean {
    const { state, leases, servers, config, logger } = this.deps;
    if (leases.isGone(handle) || servers.peerOf(target) !== peer) return false;
    const isAdded = state.mutate((m) => {
      const record = getChunk(m, handle);
      if (record === undefined || record.version !== before.version || record.lastVersion !== before.lastVersion) {
        return false;
      }
      if (isLeased(m, handle)) return false;
      if (record.needsRecovery || record.servers.includes(target)) return false;
      record.servers.push(target);
      if (damaged > 0) record.damagedBlocks = damaged;
      saveChunk(m, handle, record, config.wantedReplicas);
      return true;
    });
    if (isAdded && damaged > 0) {
      const about = { chunk: handle, inode: before.inode, index: before.index, from: source, to: target, damaged };
      logger.error(about, 'a chunk was copied with damaged blocks: they stay unreadable until they are written anew');
      if (before.servers.length > 1) this.deps.onDamaged(handle, source);
    }
    return isAdded;
  }
}
