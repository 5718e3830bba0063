/** Clients of a fake cluster, for tests. */
import { SystemClock } from '../../../src/core/clock.js';
import type { Clock } from '../../../src/core/clock.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { SeededRandom } from '../../../src/core/random.js';
import { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import type { ClusterFileSystemConfig } from '../../../src/client/connect.js';
import { FakeCluster } from './fake-cluster.js';
import { MemoryNetwork } from './memory-network.js';

type Tunables = Omit<ClusterFileSystemConfig, 'master' | 'secret' | 'clientName'>;

export interface FakeClients {
  readonly cluster: FakeCluster;
  readonly network: MemoryNetwork;
  connect(tunables?: Tunables): Promise<ClusterFileSystem>;
  /** Closes every client, then the cluster. */
  stop(): Promise<void>;
}

export async function fakeClients(clock: Clock = new SystemClock()): Promise<FakeClients> {
  const network = new MemoryNetwork();
  const deps = { clock, random: new SeededRandom(1), network, logger: silentLogger };
  const cluster = new FakeCluster(deps);
  await cluster.start();
  const clients: ClusterFileSystem[] = [];
  return {
    cluster,
    network,
    async connect(tunables = {}) {
      const config = { master: cluster.masterAddress, secret: cluster.secret, clientName: `client-${clients.length}` };
      const client = await ClusterFileSystem.connect(deps, { ...config, ...tunables });
      clients.push(client);
      return client;
    },
    async stop() {
      await Promise.allSettled(clients.map((client) => client.close()));
      await cluster.stop();
    },
  };
}
