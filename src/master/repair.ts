/**
 * Keeps chunks at their wanted number of replicas. Two sources of work, each walked a bounded slice a tick: the index
 * 'W' (too few members, or in doubt), and the chunks of servers that are dead for longer than the grace ('R').
 *
 * A chunk in doubt is recovered. A chunk with too few live members gets a copy, those with the fewest first: the copy
 * is made without holding up writers and becomes a member at the same version only if no lease was granted since and
 * nothing else changed; otherwise it is deleted again. When that made up for a dead member, recovery leaves the dead
 * one out under a new version, so that a server that returns late does not add a replica too many.
 */
import type { Clock } from '../core/clock.js';
import { asCairnError, hasCode } from '../core/errors.js';
import { chunkHandle } from '../core/ids.js';
import type { ChunkHandle, ServerId } from '../core/ids.js';
import type { Logger } from '../core/logger.js';
import { pick } from '../core/random.js';
import type { Random } from '../core/random.js';
import type { ChunkRecord } from '../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../protocol/methods.js';
import { getChunk, saveChunk } from './chunk-map.js';
import { keys, PREFIX_LENGTH, packNumber, prefixRange, unpackNumber } from './keys.js';
import type { Key } from './store.js';
import type { ChunkLeases } from './leases.js';
import { chooseServers } from './placement.js';
import type { StraySink } from './recovery.js';
import { hostOf } from './servers.js';
import type { ServerRegistry } from './servers.js';
import type { State } from './state.js';

export interface RepairConfig {
  readonly wantedReplicas: number;
  /** A server dead for so long will not be waited for. */
  readonly graceMs: number;
  readonly maxCopies: number;
  readonly maxCopiesPerServer: number;
  readonly maxRecoveries: number;
  readonly copyTimeoutMs: number;
}

/** Index entries that one tick looks at, from each source. */
const SLICE = 256;

interface Candidate {
  readonly handle: ChunkHandle;
  readonly live: number;
}

export class Repair {
  private readonly cursors = new Map<Key, Key>();
  private readonly copying = new Map<ChunkHandle, ServerId>();
  private readonly copiesAt = new Map<ServerId, number>();
  /** Chunks to recover, in the order in which the need was seen. */
  private readonly doubtful = new Set<ChunkHandle>();
  private recovering = 0;
  private stopped = false;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly random: Random;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly leases: ChunkLeases;
      readonly config: RepairConfig;
      readonly onStray: StraySink;
    },
  ) {}

  stop(): void {
    this.stopped = true;
  }

  isCopying(handle: ChunkHandle, server: ServerId): boolean {
    return this.copying.get(handle) === server;
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
      void this.recoverNow(handle).finally(() => {
        this.recovering--;
        this.pumpRecoveries();
      });
    }
  }

  private async recoverNow(handle: ChunkHandle): Promise<void> {
    const { leases, logger } = this.deps;
    try {
      await leases.recover(handle, () => this.wantsRecovery(handle));
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
    if (lease === undefined ? state.get(keys.lease(handle)) !== undefined : lease.state === 'void') return true;
    if (lease?.members.some((id) => !servers.isUp(id)) === true) return true;
    return this.isMadeUpFor(record);
  }

  private liveMembers(record: ChunkRecord): number[] {
    return record.servers.filter((id) => !record.suspects.includes(id) && this.deps.servers.isUp(id));
  }

  private isLongDead(id: number): boolean {
    const { servers, config } = this.deps;
    return servers.liveness(id) === 'dead' && servers.silentMs(id) >= config.graceMs;
  }

  private isMadeUpFor(record: ChunkRecord): boolean {
    const enough = this.liveMembers(record).length >= this.deps.config.wantedReplicas;
    return enough && record.servers.some((id) => this.isLongDead(id));
  }

  tick(): void {
    const { servers, config } = this.deps;
    const candidates: Candidate[] = [];
    for (const handle of this.slice('W', 1)) this.consider(handle, candidates);
    for (const server of servers.all()) {
      if (!this.isLongDead(server.id)) continue;
      for (const handle of this.slice('R' + packNumber(server.id), PREFIX_LENGTH)) this.consider(handle, candidates);
    }
    candidates.sort((a, b) => a.live - b.live || a.handle - b.handle);
    for (const { handle } of candidates) {
      if (this.copying.size >= config.maxCopies) return;
      if (!this.copying.has(handle)) this.startCopy(handle);
    }
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
    const { leases, state, config } = this.deps;
    const record = getChunk(state, handle);
    if (record === undefined || leases.isGone(handle)) return;
    const live = this.liveMembers(record).length;
    if (record.needsRecovery) {
      if (record.servers.some((id) => this.deps.servers.isUp(id))) this.recoverSoon(handle);
    } else if (this.isMadeUpFor(record) || (live > 0 && leases.table.get(handle)?.state === 'void')) {
      this.recoverSoon(handle);
    } else if (live > 0 && live < config.wantedReplicas && leases.table.get(handle) === undefined) {
      // Members that were lost just now may be back soon: only those dead for longer are made up for.
      const awaited = record.servers.filter((id) => !this.isLongDead(id)).length;
      if (awaited < config.wantedReplicas) candidates.push({ handle, live });
    }
  }

  private startCopy(handle: ChunkHandle): void {
    const { state, servers, random, config } = this.deps;
    const record = getChunk(state, handle);
    if (record === undefined) return;
    const free = (id: number): boolean => (this.copiesAt.get(id as ServerId) ?? 0) < config.maxCopiesPerServer;
    const sources = this.liveMembers(record).filter(free);
    if (sources.length === 0) return;
    const source = pick(random, sources) as ServerId;
    const fit = servers.all().filter((server) => server.reported && free(server.id));
    const exclude = new Set(record.servers as ServerId[]);
    const hosts = new Set<string>();
    for (const id of record.servers) {
      const server = servers.get(id);
      if (server !== undefined && !this.isLongDead(id)) hosts.add(hostOf(server));
    }
    const [target] = chooseServers({ servers: fit, count: 1, exclude, hosts, random });
    if (target === undefined) return;
    this.copying.set(handle, target.id);
    this.count(source, 1);
    this.count(target.id, 1);
    void this.copy(handle, record, { source, target: target.id }).finally(() => {
      this.copying.delete(handle);
      this.count(source, -1);
      this.count(target.id, -1);
    });
  }

  private count(server: ServerId, change: number): void {
    this.copiesAt.set(server, (this.copiesAt.get(server) ?? 0) + change);
  }

  private async copy(
    handle: ChunkHandle,
    before: ChunkRecord,
    { source, target }: { readonly source: ServerId; readonly target: ServerId },
  ): Promise<void> {
    const { servers, leases, logger, config } = this.deps;
    const watch = leases.watchGrants(handle);
    try {
      const peer = servers.peerOf(target);
      if (peer === undefined) return;
      // A replica left there, even at this version, may have missed mutations: the copy must not build on it.
      const leftover = { handle, version: before.lastVersion };
      await peer.call(CHUNKSERVER_METHODS.deleteChunks, { chunks: [leftover] });
      const request = { handle, version: before.version, source: servers.replica(source) };
      await peer.call(CHUNKSERVER_METHODS.copyChunk, request, { timeoutMs: config.copyTimeoutMs });
      const added = await leases.locks.run(handle, () => {
        if (watch.granted || servers.peerOf(target) !== peer) return false;
        return this.addMember(handle, before, target);
      });
      if (added) {
        logger.info({ chunk: handle, from: source, to: target }, 'chunk copied');
        const record = getChunk(this.deps.state, handle);
        if (record !== undefined && this.isMadeUpFor(record)) this.recoverSoon(handle);
        return;
      }
      logger.info({ chunk: handle, to: target }, 'copy of a chunk is out of date, trying again later');
    } catch (error) {
      logger.warn({ chunk: handle, from: source, to: target, error: asCairnError(error).message }, 'copy failed');
    } finally {
      watch.end();
    }
    this.deps.onStray(handle, before.version, target);
  }

  private addMember(handle: ChunkHandle, before: ChunkRecord, target: ServerId): boolean {
    const { state, leases, config } = this.deps;
    if (leases.isGone(handle)) return false;
    return state.mutate((m) => {
      const record = getChunk(m, handle);
      if (record === undefined || record.version !== before.version || record.lastVersion !== before.lastVersion) {
        return false;
      }
      if (m.get(keys.lease(handle)) !== undefined) return false;
      if (record.needsRecovery || record.servers.includes(target)) return false;
      record.servers.push(target);
      saveChunk(m, handle, record, config.wantedReplicas);
      return true;
    });
  }
}
