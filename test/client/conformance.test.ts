/** The client passes the conformance suite of FileSystem on a real master and real chunkservers in this process. */
import t from 'tap';
import { SystemClock, sleep } from '../../src/core/clock.js';
import { fileSystemConformance } from '../conformance/filesystem-suite.js';
import { MemoryNetwork } from '../support/fakes/memory-network.js';
import { realCluster } from '../support/real-cluster.js';

const KINDS = [{ cacheTtlMs: 0 }, { cacheTtlMs: 1000 }, { leases: 'shared' }] as const;

for (const kind of KINDS) {
  await t.test(JSON.stringify(kind), async (t) => {
    await fileSystemConformance(t, async () => {
      const cluster = await realCluster(new MemoryNetwork(), { chunkservers: 3, replicas: 2, host: 'memory' });
      return {
        // One copies from file to file through the chunkservers however little it is.
        fs: await cluster.connect({ ...kind, minDirectCopyBytes: 1 }),
        other: await cluster.connect(kind),
        tick: () => sleep(new SystemClock(), 2),
        stop: () => cluster.stop(),
      };
    });
  });
}
