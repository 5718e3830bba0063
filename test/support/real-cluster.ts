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
import { MemoryStore } from '../../src/master/store/memory-store.js';
import type { Network } from '../../src/protocol/transport.js';
import { MemoryNotes } from './fakes/memory-notes.js';

type Tunables = Omit<ClusterFileSystemConfig, 'master' | 'secret' | 'clientName'>;

export interface RealCluster {
  readonly master: Master;
  readonly chunkservers: readonly Chunkserver[];
  connect(tunables?: Tunables): Promise<ClusterFileSystem>;
  /** Closes every client, then the cluster, and deletes its data. */
  stop(): Promise<void>;
}

export async function realCluster(
  network: Network,
  options: { readonly chunkservers: number; readonly replicas: number; readonly host: string },
): Promise<RealCluster> {
  const directory = mkdtempSync(join(tmpdir(), 'cairn-test-'));
  const deps = { clock: new SystemClock(), random: new SystemRandom(), network, logger: silentLogger };
  const disk = new NodeDisk();
  const secret = Buffer.alloc(32, 9);
  const logDirectory = join(directory, 'master');
  await disk.mkdir('test', logDirectory);
  const master = new Master(
    { ...deps, disk, store: new MemoryStore(), bootNotes: new MemoryNotes() },
    {
      ...{ listen: `${options.host}:0`, secret, logDirectory },
      ...{ wantedReplicas: options.replicas, minReplicas: 1 },
    },
  );
  const { address } = await master.start();
  const chunkservers: Chunkserver[] = [];
  for (let i = 0; i < options.chunkservers; i++) {
    const dataDirectory = join(directory, `chunkserver-${i}`);
    await disk.mkdir('test', dataDirectory);
    const chunkserver = new Chunkserver(
      { ...deps, disk, bootNotes: new MemoryNotes() },
      { listen: `${options.host}:0`, master: address, secret, dataDirectories: [dataDirectory] },
    );
    await chunkserver.start();
    chunkservers.push(chunkserver);
  }
  const clients: ClusterFileSystem[] = [];
  return {
    master,
    chunkservers,
    async connect(tunables = {}) {
      const config = { master: address, secret, clientName: `client-${clients.length}`, ...tunables };
      const client = await ClusterFileSystem.connect(deps, config);
      clients.push(client);
      return client;
    },
    async stop() {
      await Promise.allSettled(clients.map((client) => client.close()));
      await Promise.allSettled(chunkservers.map((chunkserver) => chunkserver.stop()));
      await master.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
