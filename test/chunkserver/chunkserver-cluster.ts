/** Three chunkservers over an in-memory network, with a master that does what the test says. */
import { CairnError } from '../../src/core/errors.js';
import { segmentChecksums } from '../../src/core/checksum.js';
import { SystemClock, type Clock } from '../../src/core/clock.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import { SeededRandom } from '../../src/core/random.js';
import { connectPeer, servePeers, type EndpointOptions, type PeerServer } from '../../src/protocol/endpoint.js';
import type {
  ReplicaState,
  ReportForwardFailureRequest,
  ReportReplicaRequest,
  ReplicaVersion,
} from '../../src/protocol/generated/messages.js';
import { CHUNKSERVER_METHODS, MASTER_METHODS } from '../../src/protocol/methods.js';
import type { MasterMethods } from '../../src/protocol/methods.js';
import type { Handlers, Peer } from '../../src/protocol/rpc.js';
import { Chunkserver } from '../../src/chunkserver/chunkserver.js';
import { CrashDisk } from '../support/fakes/crash-disk.js';
import { MemoryNetwork } from '../support/fakes/memory-network.js';
import { slowDisk } from '../support/fakes/slow-disk.js';
import { MemoryNotes } from '../support/fakes/memory-notes.js';

const SECRET = Buffer.alloc(32, 7);

export interface Lease {
  readonly handle: number;
  readonly version: number;
  readonly leaseId: number;
  readonly primary: number;
}

export class Machine {
  server: Chunkserver | undefined;
  serverId = 0;
  address = '';
  /** Its connection to the master, as the master sees it. */
  peer: Peer | undefined;
  reported: ReplicaState[] = [];
  readonly notes = new MemoryNotes();
  constructor(
    readonly name: string,
    readonly disk: CrashDisk,
  ) {}
}

export class ChunkserverCluster {
  readonly network = new MemoryNetwork();
  readonly machines: Machine[] = [];
  readonly forwardFailures: ReportForwardFailureRequest[] = [];
  readonly replicaReports: ReportReplicaRequest[] = [];
  /** What the master answers to a page of a report. */
  toDelete: (states: ReplicaState[]) => ReplicaVersion[] = () => [];
  toSetAside: (states: ReplicaState[]) => ReplicaVersion[] = () => [];
  /** Before the answer to what is told of one replica. */
  heldReports: Promise<void> = Promise.resolve();
  /** Turns of the event loop that a call to a disk takes, at most. */
  diskTurns = 0;
  clusterId = 'test-cluster';
  heartbeats = true;
  private master: PeerServer | undefined;
  private nextServer = 1;
  private nextLease = 1;
  private readonly random: SeededRandom;

  constructor(
    seed: number,
    readonly clock: Clock = new SystemClock(),
  ) {
    this.random = new SeededRandom(seed);
  }

  endpoint(role: 'client' | 'chunkserver' | 'master'): EndpointOptions {
    const { network, clock, random } = this;
    return { network, clock, random, logger: silentLogger, secret: SECRET, role };
  }

  async startMaster(): Promise<void> {
    const served: Partial<Handlers<MasterMethods>> = {
      register: (request, { peer }) => {
        const serverId = request.serverId || this.nextServer++;
        const machine = this.machines.find((each) => each.serverId === serverId || each.serverId === 0);
        if (machine === undefined) throw new CairnError('INTERNAL', 'unknown machine');
        Object.assign(machine, { serverId, address: request.address, peer, reported: [] });
        return { reply: { serverId, clusterId: this.clusterId, epoch: 1 } };
      },
      heartbeat: () => {
        if (!this.heartbeats) throw new CairnError('UNAVAILABLE', 'no heartbeats today');
        return { reply: {} };
      },
      report: (request, { peer }) => {
        const machine = this.machines.find((each) => each.peer === peer);
        machine?.reported.push(...request.replicas);
        return { reply: { delete: this.toDelete(request.replicas), aside: this.toSetAside(request.replicas) } };
      },
      reportForwardFailure: (request) => {
        this.forwardFailures.push(request);
        return { reply: {} };
      },
      reportReplica: async (request) => {
        this.replicaReports.push(request);
        await this.heldReports;
        return { reply: {} };
      },
    };
    const refuse = (): never => {
      throw new CairnError('ENOSYS', 'the scripted master does not do that');
    };
    const handlers = Object.fromEntries(
      Object.keys(MASTER_METHODS).map((name) => [name, served[name as keyof MasterMethods] ?? refuse]),
    ) as unknown as Handlers<MasterMethods>;
    this.master = await servePeers(this.endpoint('master'), 'master:1', {
      table: MASTER_METHODS,
      handlers,
      accept: ['chunkserver', 'client'],
      clusterId: () => this.clusterId,
    });
  }

  async stopMaster(): Promise<void> {
    await this.master?.close();
    this.master = undefined;
  }

  addMachine(): Machine {
    const name = `cs${this.machines.length + 1}`;
    const machine = new Machine(name, new CrashDisk(this.random));
    this.machines.push(machine);
    return machine;
  }

  async startServer(machine: Machine, dataDirectories = ['/d']): Promise<void> {
    const { network, clock, random } = this;
    const life = machine.disk.lives;
    const bootNotes = machine.notes.forProcess(() => machine.disk.lives === life);
    const pause = async (): Promise<void> => {
      for (let i = random.below(this.diskTurns + 1); i > 0; i--) await new Promise(setImmediate);
    };
    const disk = this.diskTurns > 0 ? slowDisk(machine.disk.forProcess(), random, pause) : machine.disk.forProcess();
    const server = new Chunkserver(
      { clock, random, network, disk, bootNotes, logger: silentLogger },
      { listen: `${machine.name}:1`, master: 'master:1', secret: SECRET, dataDirectories },
    );
    await server.start();
    machine.server = server;
  }

  static async ofThree(seed: number, clock?: Clock): Promise<ChunkserverCluster> {
    const cluster = new ChunkserverCluster(seed, clock);
    await cluster.startMaster();
    for (let i = 0; i < 3; i++) await cluster.startServer(cluster.addMachine());
    return cluster;
  }

  /** The process dies. What it left in memory is gone, its disk stays. */
  async kill(machine: Machine, how: 'kill' | 'powerLoss' = 'kill'): Promise<void> {
    machine.disk[how]();
    if (how === 'powerLoss') machine.notes.notes.clear();
    this.network.cut(`${machine.name}:1`);
    machine.peer?.close('killed');
    machine.peer = undefined;
    const dead = machine.server;
    machine.server = undefined;
    // Its own end: a dead disk makes it fail to write anything; only its timers and connections need an end.
    await dead?.stop().catch(() => undefined);
  }

  async stop(): Promise<void> {
    for (const machine of this.machines) await machine.server?.stop();
    await this.stopMaster();
  }

  machine(serverId: number): Machine {
    const machine = this.machines.find((each) => each.serverId === serverId);
    if (machine === undefined) throw new Error(`no server ${serverId}`);
    return machine;
  }

  masterPeer(serverId: number): Peer {
    const { peer } = this.machine(serverId);
    if (peer === undefined) throw new CairnError('DISCONNECTED', `server ${serverId} is down`);
    return peer;
  }

  members(serverIds: readonly number[]): { serverId: number; address: string }[] {
    return serverIds.map((serverId) => ({ serverId, address: this.machine(serverId).address }));
  }

  async grant(
    handle: number,
    version: number,
    serverIds: readonly number[],
    options: { create?: boolean; validBytes?: number; leaseId?: number; ttlMs?: number } = {},
  ): Promise<Lease> {
    const leaseId = options.leaseId ?? this.nextLease++;
    const [primary = 0] = serverIds;
    const request = {
      handle,
      version,
      leaseId,
      leaseTtlMs: options.ttlMs ?? 60_000,
      primary,
      replicas: this.members(serverIds),
      create: options.create ?? false,
      validBytes: options.validBytes ?? 64 * 1024 * 1024,
    };
    await Promise.all(serverIds.map((id) => this.masterPeer(id).call(CHUNKSERVER_METHODS.grantLease, request)));
    return { handle, version, leaseId, primary };
  }

  /** Asks `serverIds[0]` to recover the chunk; returns who is at the new version. */
  async recover(
    handle: number,
    fromVersion: number,
    toVersion: number,
    serverIds: readonly number[],
    validBytes = 64 * 1024 * 1024,
  ): Promise<number[]> {
    const { reply } = await this.masterPeer(serverIds[0] ?? 0).call(CHUNKSERVER_METHODS.recoverChunk, {
      handle,
      fromVersion,
      toVersion,
      leaseId: this.nextLease++,
      members: this.members(serverIds),
      validBytes,
    });
    return [...reply.succeeded].sort();
  }

  async client(serverId: number): Promise<Peer> {
    return connectPeer(this.endpoint('client'), this.machine(serverId).address, { role: 'chunkserver' });
  }

  async write(lease: Lease, offset: number, bytes: Uint8Array): Promise<void> {
    const peer = await this.client(lease.primary);
    const { handle, version, leaseId } = lease;
    const request = { handle, version, leaseId, offset, checksums: segmentChecksums(bytes, offset) };
    try {
      await peer.call(CHUNKSERVER_METHODS.writeChunk, request, { payload: bytes });
    } finally {
      peer.close('done');
    }
  }

  /** Several writes in one message. */
  async writeBatch(lease: Lease, writes: readonly (readonly [offset: number, bytes: Uint8Array])[]): Promise<void> {
    const peer = await this.client(lease.primary);
    const { handle, version, leaseId } = lease;
    const request = {
      ...{ handle, version, leaseId },
      offsets: writes.map(([offset]) => offset),
      lengths: writes.map(([, bytes]) => bytes.length),
      checksums: writes.flatMap(([offset, bytes]) => segmentChecksums(bytes, offset)),
    };
    try {
      const payload = Buffer.concat(writes.map(([, bytes]) => bytes));
      await peer.call(CHUNKSERVER_METHODS.writeBatch, request, { payload });
    } finally {
      peer.close('done');
    }
  }

  async sync(lease: Lease): Promise<void> {
    const peer = await this.client(lease.primary);
    try {
      await peer.call(CHUNKSERVER_METHODS.syncChunk, lease);
    } finally {
      peer.close('done');
    }
  }

  async read(serverId: number, handle: number, version: number, offset = 0, length = 1 << 20): Promise<Buffer> {
    const peer = await this.client(serverId);
    try {
      const { payload } = await peer.call(CHUNKSERVER_METHODS.readChunk, { handle, version, offset, length });
      return Buffer.from(payload);
    } finally {
      peer.close('done');
    }
  }

  /** The path of the only chunk file of `handle` on a machine. */
  chunkPath(machine: Machine, handle: number): string {
    const name = `/${handle.toString(16).padStart(14, '0')}.`;
    const path = machine.disk.paths().find((each) => each.includes(name));
    if (path === undefined) throw new Error(`no file of chunk ${handle}`);
    return path;
  }
}
