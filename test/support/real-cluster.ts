/** A master and chunkservers of the real kind in this process, over any network, with their data in a directory. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SystemClock } from '../../src/core/clock.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import { NodeDisk } from '../../src/core/disk/node-disk.js';
import { SystemRandom } from '../../src/core/random.js';
import { Chunkserver } from '../../src/chunkserver/chunkserver.js';
import { ClusterFileSystem } from '../../src/client/cluster-filesystem.js';
import type { ClusterFileSystemConfig } from '../../src/client/connect.js';
import { Master } from '../../src/master/master.js';
import type { Parts } from '../../src/master/parts.js';
import { MemoryStore } from '../../src/master/store/memory-store.js';
import type { Interceptor } from '../../src/protocol/rpc.js';
import type { Network } from '../../src/protocol/transport.js';
import { MemoryNotes } from './fakes/memory-notes.js';

export type Tunables = Omit<ClusterFileSystemConfig, 'master' | 'secret' | 'clientName'>;

export interface RealClusterOptions {
  readonly chunkservers: number;
  readonly replicas: number;
  readonly host: string;
  /** Around what the master serves, and around what the chunkserver of an index serves. */
  readonly intercept?: { readonly master: Interceptor; chunkserver(index: number): Interceptor };
}

export class RealCluster {
  private readonly directory = mkdtempSync(join(tmpdir(), 'cairn-test-'));
  private readonly deps;
  private readonly disk = new NodeDisk();
  private readonly secret = Buffer.alloc(32, 9);
  private readonly store = new MemoryStore();
  private readonly clients: ClusterFileSystem[] = [];
  private master: Master | undefined;
  masterAddress = '';
  readonly chunkservers: Chunkserver[] = [];
  readonly chunkserverAddresses: string[] = [];

  constructor(
    network: Network,
    private readonly options: RealClusterOptions,
  ) {
    this.deps = { clock: new SystemClock(), random: new SystemRandom(), network, logger: silentLogger };
  }

  async start(): Promise<void> {
    await this.startMaster();
    for (let index = 0; index < this.options.chunkservers; index++) {
      const dataDirectory = join(this.directory, `chunkserver-${index}`);
      await this.disk.mkdir('test', dataDirectory);
      const chunkserver = new Chunkserver(
        {
          ...{ ...this.deps, disk: this.disk, bootNotes: new MemoryNotes() },
          interceptor: this.options.intercept?.chunkserver(index),
        },
        {
          ...{ listen: `${this.options.host}:0`, master: this.masterAddress, secret: this.secret },
          dataDirectories: [dataDirectory],
        },
      );
      this.chunkserverAddresses.push((await chunkserver.start()).address);
      this.chunkservers.push(chunkserver);
    }
  }

  /** One that goes on from what the one before left, where that listened. */
  async startMaster(): Promise<void> {
    const logDirectory = join(this.directory, 'master');
    if (this.master === undefined) await this.disk.mkdir('test', logDirectory);
    this.master = new Master(
      {
        ...{ ...this.deps, disk: this.disk, store: this.store, bootNotes: new MemoryNotes() },
        interceptor: this.options.intercept?.master,
      },
      {
        ...{ listen: this.masterAddress || `${this.options.host}:0`, secret: this.secret, logDirectory },
        ...{ wantedReplicas: this.options.replicas, minReplicas: 1 },
      },
    );
    this.masterAddress = (await this.master.start()).address;
  }

  async stopMaster(): Promise<void> {
    await this.master?.stop();
  }

  /** Of the master that runs. */
  get parts(): Parts {
    return Reflect.get(this.master ?? {}, 'parts') as Parts;
  }

  async connect(tunables: Tunables = {}): Promise<ClusterFileSystem> {
    const { secret, masterAddress: master } = this;
    const config = { master, secret, clientName: `client-${this.clients.length}`, ...tunables };
    const client = await ClusterFileSystem.connect(this.deps, config);
    this.clients.push(client);
    return client;
  }

  /** Closes every client, then the cluster, and deletes its data. */
  async stop(): Promise<void> {
    await Promise.allSettled(this.clients.map((client) => client.close()));
    await Promise.allSettled(this.chunkservers.map((chunkserver) => chunkserver.stop()));
    await this.stopMaster();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export async function realCluster(network: Network, options: RealClusterOptions): Promise<RealCluster> {
  const cluster = new RealCluster(network, options);
  await cluster.start();
  return cluster;
}
