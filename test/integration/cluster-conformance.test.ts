/** The real roles together, in one process over memory and a temporary directory: the conformance suite passes. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { Chunkserver } from '../../src/chunkserver/chunkserver.js';
import { ClusterFileSystem } from '../../src/client/cluster-filesystem.js';
import { sleep, SystemClock } from '../../src/core/clock.js';
import { createLogger, silentLogger } from '../../src/core/logging/logger.js';
import { NodeDisk } from '../../src/core/disk/node-disk.js';
import { SystemRandom } from '../../src/core/random.js';
import { Master } from '../../src/master/master.js';
import { MemoryStore } from '../../src/master/store/memory-store.js';
import { fileSystemConformance } from '../conformance/filesystem-suite.js';
import { MemoryNetwork } from '../support/fakes/memory-network.js';
import { MemoryNotes } from '../support/fakes/memory-notes.js';

const logger = process.env['CAIRN_LOG'] === undefined ? silentLogger : createLogger({ role: 'test', level: 'info' });

await t.test('conformance over a real cluster', async (t) => {
  await fileSystemConformance(t, async () => {
    const directory = await mkdtemp(join(tmpdir(), 'cairn-cluster-'));
    const clock = new SystemClock();
    const deps = { clock, random: new SystemRandom(), network: new MemoryNetwork(), disk: new NodeDisk(), logger };
    const secret = Buffer.alloc(32, 1);
    const master = new Master(
      { ...deps, store: new MemoryStore(), bootNotes: new MemoryNotes() },
      { listen: 'master:0', secret, logDirectory: join(directory, 'log'), wantedReplicas: 2, minReplicas: 1 },
    );
    const { address } = await master.start();
    const servers: Chunkserver[] = [];
    for (let i = 1; i <= 3; i++) {
      const dataDirectories = [join(directory, `chunkserver-${i}`)];
      const server = new Chunkserver(
        { ...deps, bootNotes: new MemoryNotes() },
        { listen: `host-${i}:0`, master: address, secret, dataDirectories },
      );
      await server.start();
      servers.push(server);
    }
    const connect = (clientName: string): Promise<ClusterFileSystem> =>
      ClusterFileSystem.connect(deps, { master: address, secret, clientName, cacheTtlMs: 0 });
    const fs = await connect('one');
    const other = await connect('two');
    return {
      fs,
      other,
      tick: () => sleep(clock, 2),
      stop: async () => {
        await fs.close();
        await other.close();
        for (const server of servers) await server.stop();
        await master.stop();
        await rm(directory, { recursive: true });
      },
    };
  });
});
