/**
 * The chunkservers: who they are (durable, 'S'), and who is there now (memory).
 *
 *   up        connected and heard within CHUNKSERVER_DEAD_MS: may be called
 *   expected  not heard since this master started, not long ago: probably serves, and will register
 *   lost      its connection broke less than CHUNKSERVER_DEAD_MS after it was last heard: it may still be serving
 *   dead      unheard of for longer: it refuses reads and writes by itself (CHUNKSERVER_FENCE_MS)
 */
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { serverId } from '../../core/ids.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import { CHUNKSERVER_DEAD_MS, MAX_CHUNKSERVERS, MAX_TOLD_DISKS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { unawaited } from '../../core/sync.js';
import { ServerRecord } from '../../protocol/generated/messages.js';
import type {
  DiskGeneration,
  DiskState,
  HeartbeatRequest,
  RegisterRequest,
  Replica,
  ServerLoad,
} from '../../protocol/generated/messages.js';
import type { Peer } from '../../protocol/rpc.js';
import { ChunkserverCalls } from './calls.js';
import { readReserved } from '../state/id-reserve.js';
import type { IdReserve } from '../state/id-reserve.js';
import type { ListeningTime } from './listening-time.js';
import { keys, prefixRange, unpackNumber } from '../state/keys.js';
import type { Mutation, State } from '../state/state.js';

export type Liveness = 'up' | 'expected' | 'lost' | 'dead';

export interface Server {
  readonly id: ServerId;
  address: string;
  peer: Peer | null;
  /** Times that it registered with this master: what its process said under an earlier one may be forgotten there. */
  registrations: number;
  /** By the time in which the master listened; undefined: not since this master started. */
  lastHeardMs: number | undefined;
  load: ServerLoad;
  /** Chunks placed here since its last heartbeat: its load does not show them yet. */
  placedSinceHeartbeat: number;
  /** Its data directories, as it said last. */
  disks: readonly DiskState[];
  /** The highest generation that each of them has told. */
  generations: ReadonlyMap<string, number>;
  /** Those that were behind that when it registered: somebody put them back to an older state. */
  rolledBack: readonly DiskGeneration[];
  /**
   * It says that its report after the last registration is complete and that it did what it was told to: nothing is
   * deleted there any more that is made from now on.
   */
  reported: boolean;
  /** Of its replicas up to this handle its report has told since it registered. */
  judgedUpTo: number;
  /** It is being taken out of the cluster (server-removal.ts). */
  removal: 'no' | 'asked' | 'forced';
  /** It followed a master that this one does not continue (timeline.ts): what it has may be from that past. */
  isParted: boolean;
  /** The first lease that this master's state may have given after that. */
  partedLease: number;
  /** The id that it had before it was removed; 0: none. */
  formerly: number;
}

/**
 * A master that was put back gives ids of servers again: who was given this one by the newer state serves elsewhere, by other
 * disks. One that has only moved has its disks with it.
 */
function isAnotherServer(known: Server, { address, disks }: RegisterRequest): boolean {
  const ids = disks.map(({ id }) => id).filter((id) => id !== '');
  const areOther = known.generations.size > 0 && ids.length > 0 && !ids.some((id) => known.generations.has(id));
  return areOther && known.address !== address;
}

export interface ServerEvents {
  /** Its connection ended or it fell silent. */
  onDown(server: Server): void;
}

/** In the order of their numbers in a ServerRecord. */
const REMOVALS = ['no', 'asked', 'forced'] as const;
/** What is written of a server. */
type Saved = Pick<Server, 'address' | 'generations'> & { readonly freeBytes: number; readonly totalBytes: number };

/** A record of free space is rewritten when it is off by more than this part of the whole. */
const SAVE_LOAD_FRACTION = 1 / 64;

/** The failure domain: the host of host:port. */
export function hostOf(server: Pick<Server, 'address'>): string {
  return server.address.slice(0, Math.max(0, server.address.lastIndexOf(':')));
}

export class ServerRegistry {
  readonly calls = new ChunkserverCalls(
    (id) => this.peerOf(id),
    () => this.deps.state.durable(),
  );
  private readonly servers = new Map<ServerId, Server>();
  private readonly byPeer = new Map<Peer, Server>();
  private readonly saved = new Map<ServerId, Saved>();
  private readonly startedMs: number;
  private readonly waiters = new Set<() => void>();
  /** A server has come that followed another master: this one's state was put back. */
  private someParted = false;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly listening: ListeningTime;
      readonly logger: Logger;
      readonly serverIds: IdReserve;
      readonly events: ServerEvents;
    },
  ) {
    this.startedMs = deps.listening.nowMs();
    for (const [key, value] of deps.state.range(prefixRange('S'))) {
      const record = ServerRecord.decode(value);
      const id = serverId(unpackNumber(key, 1));
      const { totalBytes, freeBytes } = record;
      const load = { totalBytes, freeBytes, chunks: record.replicas, activeRequests: 0, aside: 0 };
      const server = this.add(id, record.address, load);
      server.removal = REMOVALS[record.removal] ?? 'no';
      server.generations = new Map(record.disks.map((disk) => [disk.id, disk.generation]));
      server.formerly = record.formerly;
      this.saved.set(id, { address: record.address, freeBytes, totalBytes, generations: server.generations });
    }
  }

  private add(id: ServerId, address: string, load: ServerLoad): Server {
    const server: Server = {
      ...{ id, address, load, peer: null, registrations: 0, lastHeardMs: undefined },
      ...{ placedSinceHeartbeat: 0, reported: false, removal: 'no', isParted: false },
      ...{ partedLease: 0, formerly: 0, judgedUpTo: 0 },
      ...{ disks: [], generations: new Map(), rolledBack: [] },
    };
    this.servers.set(id, server);
    return server;
  }

  /** Takes `peer` as the server of its id, or as a new one. The id is durable when this returns. */
  async register(peer: Peer, request: RegisterRequest, parted?: { readonly firstLease: number }): Promise<ServerId> {
    const { address } = request;
    if (!/^[^\s]{1,250}:\d{1,5}$/.test(address)) {
      throw new CairnError('EINVAL', 'a chunkserver registers with the host:port that others reach it at');
    }
    const load = request.load ?? { totalBytes: 0, freeBytes: 0, chunks: 0, activeRequests: 0, aside: 0 };
    const registered = this.byPeer.get(peer);
    if (registered !== undefined && registered.peer === peer) return registered.id;
    let server: Server;
    const named = request.serverId === 0 ? undefined : this.servers.get(serverId(request.serverId));
    const isAnother = named !== undefined && isAnotherServer(named, request);
    const known = isAnother ? undefined : named;
    if (known === undefined) {
      if (this.servers.size >= MAX_CHUNKSERVERS) {
        throw new CairnError('BUSY', `the cluster has ${MAX_CHUNKSERVERS} chunkservers already`);
      }
      const id = await this.newId(isAnother ? 0 : request.serverId);
      server = this.add(id, address, load);
      if (isAnother)
        this.deps.logger.warn({ server: named.id, now: id }, 'two chunkservers have one id: one joins anew');
      else if (id !== request.serverId) server.formerly = request.serverId;
    } else {
      if (known.peer !== null && known.peer !== peer && known.address !== address) {
        throw new CairnError(
          'EBUSY',
          `chunkserver ${known.id} is in service at ${known.address}: two processes use copies of one data directory?`,
        );
      }
      server = known;
    }
    this.unbind(server, 'the server registered again');
    // It is there: nobody takes it for one that will not come back while its record is being written.
    server.lastHeardMs = this.deps.listening.nowMs();
    server.address = address;
    server.load = load;
    this.compareDisks(server, request.disks);
    try {
      if (server.removal !== 'no') this.setRemoval(server, 'no');
      this.save(server);
    } catch (error) {
      // Nobody knows the id: the next attempt takes another.
      if (known === undefined) this.servers.delete(server.id);
      throw error;
    }
    await this.deps.state.durable();
    if (peer.isClosed) throw new CairnError('DISCONNECTED', `chunkserver ${server.id} left while it registered`);
    if (server.peer !== null) throw new CairnError('EBUSY', `chunkserver ${server.id} registered twice at once`);
    if (this.servers.get(server.id) !== server || server.removal !== 'no') {
      throw new CairnError('UNAVAILABLE', `chunkserver ${server.id} was being removed while it registered: try again`);
    }
    server.peer = peer;
    server.registrations++;
    server.lastHeardMs = this.deps.listening.nowMs();
    server.reported = false;
    server.judgedUpTo = 0;
    server.isParted = parted !== undefined;
    server.partedLease = parted?.firstLease ?? 0;
    this.someParted ||= server.isParted;
    server.placedSinceHeartbeat = 0;
    this.byPeer.set(peer, server);
    const gone = peer.closed.then((reason) => {
      this.byPeer.delete(peer);
      if (server.peer === peer) this.down(server, reason);
    });
    unawaited(gone, this.deps.logger, 'noting that a chunkserver left');
    this.deps.logger.info({ server: server.id, address, freeBytes: load.freeBytes }, 'chunkserver registered');
    for (const wake of [...this.waiters]) wake();
    return server.id;
  }

  /** For a server that is new, or that was removed; one that this state never had keeps the id that a newer one gave it. */
  private async newId(came: number): Promise<ServerId> {
    const { state, serverIds, logger } = this.deps;
    if (came >= readReserved(state, 'next-server')) {
      state.mutate((m) => serverIds.jumpTo(m, came + 1));
      return serverId(came);
    }
    const id = serverId(await serverIds.take());
    if (came !== 0) logger.warn({ server: came, now: id }, 'a chunkserver that was removed is back: it joins anew');
    return id;
  }

  /** Whether it is being taken out of the cluster; written down with its record. */
  setRemoval(server: Server, removal: Server['removal']): void {
    server.removal = removal;
    this.saved.delete(server.id);
    this.save(server);
  }

  /** Its record is gone. */
  forget(id: ServerId): void {
    this.servers.delete(id);
    this.saved.delete(id);
  }

  /** The server behind `peer` said something: it counts the time in which it may serve from then on. */
  heard(peer: Peer): Server {
    const server = this.require(peer);
    server.lastHeardMs = this.deps.listening.nowMs();
    return server;
  }

  heartbeat(peer: Peer, { load, reported, disks }: HeartbeatRequest): void {
    const server = this.heard(peer);
    if (reported) server.reported = true;
    server.placedSinceHeartbeat = 0;
    if (load !== null) server.load = load;
    if (this.takeDisks(server, disks)) this.save(server, 'if there is room');
    server.rolledBack = server.rolledBack.filter((behind) => {
      return disks.some(({ id, generation }) => id === behind.id && generation < behind.generation);
    });
    const saved = this.saved.get(server.id);
    const drift = Math.abs((saved?.freeBytes ?? 0) - server.load.freeBytes);
    if (drift > server.load.totalBytes * SAVE_LOAD_FRACTION) this.save(server, 'if there is room');
  }

  /** The registered server behind `peer`. UNAUTHENTICATED when it has not registered. */
  require(peer: Peer): Server {
    const server = this.byPeer.get(peer);
    if (server === undefined || server.peer !== peer) {
      throw new CairnError('UNAUTHENTICATED', `${peer.address} is no registered chunkserver: register first`);
    }
    return server;
  }

  get(id: number): Server | undefined {
    return this.servers.get(id as ServerId);
  }

  /** In the order of their ids. */
  all(): Server[] {
    return [...this.servers.values()].sort((a, b) => a.id - b.id);
  }

  liveness(id: number): Liveness {
    const server = this.get(id);
    if (server === undefined) return 'dead';
    if (server.peer !== null) return 'up';
    const since = this.deps.listening.nowMs() - (server.lastHeardMs ?? this.startedMs);
    if (since >= CHUNKSERVER_DEAD_MS) return 'dead';
    return server.lastHeardMs === undefined ? 'expected' : 'lost';
  }

  isUp(id: number): boolean {
    return this.peerOf(id) !== undefined;
  }

  /** Not connected, and not silent for so long that it must have fenced itself: it may be serving readers. */
  mayStillServe(id: number): boolean {
    const liveness = this.liveness(id);
    return liveness === 'lost' || liveness === 'expected';
  }

  /**
   * Servers that may yet show a newer state of a chunk than any that is known here, on which `lastLease` was given last: they
   * followed a master that this one does not continue, and have not told what they have of it, or have not come back yet.
   */
  unjudged(handle: ChunkHandle, lastLease: number): ServerId[] {
    if (!this.someParted) return [];
    const lastParted = Math.max(...[...this.servers.values()].map(({ partedLease }) => partedLease));
    const awaited = (server: Server): boolean =>
      server.peer === null
        ? lastLease < lastParted && this.liveness(server.id) === 'expected'
        : server.isParted && server.judgedUpTo < handle && lastLease < server.partedLease;
    return this.all().flatMap((server) => (awaited(server) ? [server.id] : []));
  }

  /** For how long it has been unheard of. */
  silentMs(id: number): number {
    const server = this.get(id);
    if (server === undefined) return Infinity;
    return this.deps.listening.nowMs() - (server.lastHeardMs ?? this.startedMs);
  }

  /** Its connection, when it is up. */
  peerOf(id: number): Peer | undefined {
    return this.get(id)?.peer ?? undefined;
  }

  replica(id: number): Replica {
    return { serverId: id, address: this.get(id)?.address ?? '' };
  }

  /** Resolves true when `done` holds, looked at whenever a server registers, or false after `timeoutMs`. */
  async waitUntil(done: () => boolean, timeoutMs: number): Promise<boolean> {
    if (done()) return true;
    return new Promise((resolve) => {
      const finish = (result: boolean): void => {
        timer.cancel();
        this.waiters.delete(wake);
        resolve(result);
      };
      const wake = (): void => {
        if (done()) finish(true);
      };
      const timer = this.deps.clock.setTimer(timeoutMs, () => finish(done()));
      this.waiters.add(wake);
    });
  }

  /** Gives up servers that fell silent. To be called every heartbeat interval. */
  tick(): void {
    for (const server of this.all()) {
      if (server.peer === null || this.silentMs(server.id) < CHUNKSERVER_DEAD_MS) continue;
      this.unbind(server, `no heartbeat for ${CHUNKSERVER_DEAD_MS} ms`);
    }
  }

  /** True when a generation is higher than was known. */
  private takeDisks(server: Server, disks: readonly DiskState[]): boolean {
    if (disks.length > MAX_TOLD_DISKS) {
      throw new CairnError('PROTOCOL', `chunkserver ${server.id} tells of ${disks.length} data directories`);
    }
    server.disks = disks;
    const generations = new Map<string, number>();
    let isHigher = false;
    for (const { id, generation } of disks) {
      if (id === '') continue;
      const known = server.generations.get(id) ?? 0;
      generations.set(id, Math.max(known, generation));
      isHigher ||= generation > known;
    }
    server.generations = generations;
    return isHigher;
  }

  /** What a server that registers says of its directories, against what it said before. */
  private compareDisks(server: Server, disks: readonly DiskState[]): void {
    const { generations: before, disks: toldBefore, rolledBack } = server;
    this.takeDisks(server, disks);
    const known = disks.filter(({ id, problem }) => problem === '' && before.has(id));
    const isBehind = ({ id, generation }: DiskState): boolean => generation < (server.generations.get(id) ?? 0);
    const wasBehind = ({ id, generation }: DiskState): boolean =>
      rolledBack.some((each) => each.id === id) &&
      toldBefore.some((each) => each.id === id && each.generation === generation);
    if (known.some((disk) => isBehind(disk) && !wasBehind(disk))) {
      // What puts back one disk of a machine mostly puts back all of them, and one that was quiet for long may have had its last
      // writes just before: its generation does not tell them yet. It must not pass for current, now or at a later start.
      const current = known.filter((disk) => !isBehind(disk));
      server.generations = new Map([
        ...server.generations,
        ...current.map(({ id, generation }) => [id, generation + 1] as const),
      ]);
    }
    const behind = known.filter(isBehind);
    server.rolledBack = behind.map(({ id }) => ({ id, generation: server.generations.get(id) ?? 0 }));
    for (const { id, path, generation } of behind) {
      const newer = server.generations.get(id);
      this.deps.logger.error(
        { server: server.id, path, generation, newer },
        'a data directory, or another one of its server, was put back to an older state: what is in it is not believed before it was compared',
      );
    }
  }

  private unbind(server: Server, reason: string): void {
    const { peer } = server;
    if (peer === null) return;
    this.down(server, reason);
    this.byPeer.delete(peer);
    peer.close(reason);
  }

  private down(server: Server, reason: string): void {
    server.peer = null;
    server.reported = false;
    this.deps.logger.warn({ server: server.id, address: server.address, reason }, 'chunkserver is gone');
    this.deps.events.onDown(server);
  }

  private save(server: Server, when: 'always' | 'if there is room' = 'always'): void {
    const { address, load } = server;
    const { totalBytes, freeBytes, chunks } = load;
    const saved = this.saved.get(server.id);
    const isSame = saved?.address === address && saved.freeBytes === freeBytes && saved.totalBytes === totalBytes;
    if (isSame && saved.generations === server.generations) return;
    const removal = REMOVALS.indexOf(server.removal);
    const disks = [...server.generations].map(([id, generation]) => ({ id, generation }));
    const { formerly } = server;
    const record = ServerRecord.encode({
      ...{ address, totalBytes, freeBytes, replicas: chunks, removal, disks, formerly },
    }).finish();
    const write = (m: Mutation): void => m.put(keys.server(server.id), record);
    if (when === 'always') this.deps.state.mutate(write);
    else if (!this.deps.state.mutateIfRoom(write)) return;
    this.saved.set(server.id, { address, freeBytes, totalBytes, generations: server.generations });
  }
}
