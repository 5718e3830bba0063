/** A master over simulated everything, fake chunkservers and bare clients, with crashes of the master. */
import { setImmediate as turn } from 'node:timers/promises';
import type { Clock, Timer, Timespec } from '../../../src/core/clock.js';
import { KIB } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { SeededRandom } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import { Master } from '../../../src/master/master.js';
import type { MasterConfig } from '../../../src/master/config.js';
import type { Parts } from '../../../src/master/parts.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import type { Key, KeyRange, Store, StoreChange } from '../../../src/master/store/store.js';
import { connectPeer } from '../../../src/protocol/endpoint.js';
import type { ConnectedPeer, EndpointOptions } from '../../../src/protocol/endpoint.js';
import type { LeaseChunkReply } from '../../../src/protocol/generated/messages.js';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';
import type { PeerRole } from '../../../src/protocol/rpc.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryNetwork } from '../../support/fakes/memory-network.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';
import { FakeChunkserver } from './fake-chunkserver.js';

const MASTER = 'master:1';
const STEP_MS = 20;

/** Clock and store as one life of the master sees them: nothing happens any more after its end. */
class Life implements Clock, Store {
  ended = false;
  constructor(
    private readonly clock: Clock,
    private readonly store: MemoryStore,
  ) {}
  now(): Timespec {
    return this.clock.now();
  }
  monotonicMs(): number {
    return this.clock.monotonicMs();
  }
  setTimer(delayMs: number, callback: () => void): Timer {
    return this.clock.setTimer(delayMs, () => {
      if (!this.ended) callback();
    });
  }
  get(key: Key): Uint8Array | undefined {
    return this.store.get(key);
  }
  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]> {
    return this.store.range(range);
  }
  commit(changes: Iterable<StoreChange>): Promise<void> {
    return this.ended ? Promise.reject(new Error('the process is dead')) : this.store.commit(changes);
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

export class MasterCluster {
  readonly clock = new ManualClock();
  readonly random: Random;
  readonly network = new MemoryNetwork();
  readonly servers: FakeChunkserver[] = [];
  readonly disk: CrashDisk;
  /** What the machine has on disk, of all lives of the master. */
  readonly store = new MemoryStore();
  private readonly secret = Buffer.alloc(32, 7);
  private life: Life;
  private master: Master | undefined;
  private sinceHeartbeatMs = 0;

  constructor(
    readonly config: Partial<MasterConfig> = {},
    seed = 1,
  ) {
    this.random = new SeededRandom(seed);
    this.disk = new CrashDisk(this.random);
    this.life = new Life(this.clock, this.store);
  }

  /** Of the master that runs. */
  get parts(): Parts {
    return Reflect.get(this.master ?? {}, 'parts') as Parts;
  }

  /** Turns the clock until `promise` settles. */
  async until<T>(promise: Promise<T>): Promise<T> {
    const state = { settled: false };
    const settle = (): void => {
      state.settled = true;
    };
    promise.then(settle, settle);
    for (let steps = 0; !state.settled; steps++) {
      for (let i = 0; i < 4 && !state.settled; i++) await turn();
      if (state.settled) break;
      if (steps > 10_000) throw new Error('nothing happens any more');
      await this.step();
    }
    return promise;
  }

  private async step(): Promise<void> {
    this.clock.advance(STEP_MS);
    this.sinceHeartbeatMs += STEP_MS;
    if (this.sinceHeartbeatMs >= 2_000) {
      this.sinceHeartbeatMs = 0;
      for (const server of this.servers) if (server.reachable) server.heartbeat().catch(() => undefined);
    }
    for (let i = 0; i < 3; i++) await turn();
  }

  async wait(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += STEP_MS) await this.step();
  }

  endpoint(role: PeerRole): EndpointOptions {
    const { network, clock, random, secret } = this;
    return { network, clock, random, secret, role, logger: silentLogger };
  }

  async startMaster(): Promise<void> {
    const life = (this.life = new Life(this.clock, this.store));
    this.master = new Master(
      {
        ...{ clock: life, store: life, random: this.random, network: this.network, logger: silentLogger },
        ...{ disk: this.disk, bootNotes: new MemoryNotes() },
      },
      {
        ...{ listen: MASTER, secret: this.secret, logDirectory: 'log', wantedReplicas: 2, minReplicas: 1 },
        reserveBytes: 64 * KIB,
        ...this.config,
      },
    );
    await this.until(this.master.start());
  }

  async start(servers = 3): Promise<void> {
    await this.startMaster();
    for (let i = 1; i <= servers; i++) await this.addServer(`host-${i}:1`);
  }

  async addServer(address: string): Promise<FakeChunkserver> {
    const server = new FakeChunkserver(this.endpoint('chunkserver'), address, this.servers);
    this.servers.push(server);
    await this.until(server.join(MASTER));
    return server;
  }

  rejoin(server: FakeChunkserver): Promise<void> {
    return this.until(server.join(MASTER));
  }

  /** kill -9, or power loss, of the master; it is not started again. */
  async crashMaster(how: 'kill' | 'power'): Promise<void> {
    this.life.ended = true;
    if (how === 'kill') this.disk.kill();
    else this.disk.powerLoss();
    const dead = this.master;
    this.network.cut(MASTER);
    await turn();
    await dead?.abandon();
    for (let i = 0; i < 5; i++) await turn();
  }

  async restartMaster(how: 'kill' | 'power'): Promise<void> {
    await this.crashMaster(how);
    await this.startMaster();
    for (const server of this.servers) if (server.reachable) await this.rejoin(server);
  }

  /** Of the sessions of all clients. */
  readonly tokens = new Map<number, Buffer>();

  async client(sessionId = 0): Promise<TestClient> {
    const peer = await this.until(connectPeer(this.endpoint('client'), MASTER, { role: 'master' }));
    const client = new TestClient(this, peer);
    await client.openSession(sessionId);
    return client;
  }

  server(id: number): FakeChunkserver {
    const server = this.servers.find((candidate) => candidate.id === id);
    if (server === undefined) throw new Error(`no chunkserver ${id}`);
    return server;
  }

  /** P4: what the replicas that readers are sent to hold; they must be alike. */
  async words(client: TestClient, inode: number, index = 0): Promise<string[][]> {
    const [chunk] = await client.chunks(inode, index);
    return (chunk?.replicas ?? []).map(({ serverId }) => {
      const replica = this.server(serverId).replicas.get(chunk?.handle ?? 0);
      if (replica?.version !== chunk?.version) throw new Error(`server ${serverId} is listed but has another version`);
      return (replica?.words ?? []).slice(0, chunk?.validBytes);
    });
  }

  write(lease: LeaseChunkReply, word: string): boolean {
    return FakeChunkserver.write(this.servers, lease, word);
  }

  /** A write that gets to one member, and to no other. Returns whether that one took it. */
  tear(lease: LeaseChunkReply, word: string, onlyTo: FakeChunkserver): boolean {
    FakeChunkserver.write(this.servers, lease, word, onlyTo.id);
    return onlyTo.replicas.get(lease.handle)?.words.includes(word) === true;
  }

  async stop(): Promise<void> {
    if (this.master !== undefined && !this.life.ended) await this.until(this.master.stop());
  }
}

const CALLER = { uid: 0, gid: 0, groups: [] };

export class TestClient {
  sessionId = 0;
  sequence = 0;

  constructor(
    private readonly cluster: MasterCluster,
    readonly peer: ConnectedPeer,
  ) {}

  private async call<R>(result: Promise<{ reply: R }>): Promise<R> {
    return (await this.cluster.until(result)).reply;
  }

  async openSession(sessionId: number): Promise<boolean> {
    const token = this.cluster.tokens.get(sessionId) ?? Buffer.alloc(0);
    const reply = await this.call(this.peer.call(MASTER_METHODS.openSession, { sessionId, clientName: 'test', token }));
    this.sessionId = reply.sessionId;
    if (!reply.resumed) this.cluster.tokens.set(reply.sessionId, Buffer.from(reply.token));
    return reply.resumed;
  }

  operation(): { sequence: number; ackedBelow: number } {
    this.sequence++;
    return { sequence: this.sequence, ackedBelow: Math.max(1, this.sequence - 1) };
  }

  async create(name: string, openFlags = 0, operation = this.operation()): Promise<number> {
    const request = { operation, caller: CALLER, parent: 1, name: Buffer.from(name), mode: 0o100644, openFlags };
    const reply = await this.call(this.peer.call(MASTER_METHODS.create, request));
    return reply.attributes?.inode ?? 0;
  }

  async unlink(name: string, operation = this.operation()): Promise<void> {
    const request = { operation, caller: CALLER, parent: 1, name: Buffer.from(name) };
    await this.call(this.peer.call(MASTER_METHODS.unlink, request));
  }

  async truncate(inode: number, size: number): Promise<void> {
    const request = { operation: this.operation(), caller: CALLER, inode, size };
    await this.call(this.peer.call(MASTER_METHODS.setAttributes, request));
  }

  async publish(inode: number, end: number): Promise<void> {
    const request = { operation: this.operation(), inode, end, durable: true };
    await this.call(this.peer.call(MASTER_METHODS.publish, request));
  }

  lease(inode: number, index = 0, failed?: LeaseChunkReply): Promise<LeaseChunkReply> {
    return this.call(this.leaseNow(inode, index, failed));
  }

  /** Without turning the clock, to have several in flight. */
  leaseNow(inode: number, index = 0, failed?: LeaseChunkReply): Promise<{ reply: LeaseChunkReply }> {
    const request = { inode, index, failedVersion: failed?.version ?? 0, failedLease: failed?.leaseId ?? 0 };
    return this.peer.call(MASTER_METHODS.leaseChunk, request, { timeoutMs: 60_000 });
  }

  async chunks(inode: number, firstIndex = 0, count = 1) {
    return (await this.call(this.peer.call(MASTER_METHODS.getChunks, { inode, firstIndex, count }))).chunks;
  }

  async status() {
    return this.call(this.peer.call(MASTER_METHODS.status, {}));
  }
}
