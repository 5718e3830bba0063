/** The client passes the conformance suite of FileSystem, with two clients of one (fake) cluster. */
import t from 'tap';
import { SystemClock, sleep } from '../../src/core/clock.js';
import { SeededRandom } from '../../src/core/random.js';
import { silentLogger } from '../../src/core/logger.js';
import { ClusterFileSystem } from '../../src/client/cluster-filesystem.js';
import { fileSystemConformance } from '../conformance/filesystem-suite.js';
import { FakeCluster } from '../support/fake-cluster.js';
import { MemoryNetwork } from '../support/memory-network.js';

for (const cacheTtlMs of [0, 1000]) {
  await t.test(`cache time-out of ${cacheTtlMs} ms`, async (t) => {
    await fileSystemConformance(t, async () => {
      const clock = new SystemClock();
      const deps = { clock, random: new SeededRandom(1), network: new MemoryNetwork(), logger: silentLogger };
      const cluster = new FakeCluster(deps);
      await cluster.start();
      const connect = (clientName: string): Promise<ClusterFileSystem> =>
        ClusterFileSystem.connect(deps, {
          ...{ master: cluster.masterAddress, secret: cluster.secret, clientName, cacheTtlMs },
        });
      const fs = await connect('one');
      const other = await connect('two');
      return {
        fs,
        other,
        tick: () => sleep(clock, 2),
        stop: async () => {
          await fs.close();
          await other.close();
          await cluster.stop();
        },
      };
    });
  });
}
