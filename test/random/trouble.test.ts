/** P10, P11: random operations on two mounts agree with the model while servers are killed and stopped. */
import t from 'tap';
import { SeededRandom } from '../../src/core/random.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { testSeed } from '../support/seed.js';
import { ASK_ALWAYS, cannotMount, twoMounts } from './mounts.js';
import { testRandomOperations } from './run.js';
import { Trouble } from './trouble.js';

const seed = testSeed(t);
const operations = Number(process.env['CAIRN_OPERATIONS'] ?? 5_000);
const LIMIT_MS = 3_000_000;
t.setTimeout(2 * LIMIT_MS);

for (const master of [false, true]) {
  const name = `chunkservers ${master ? 'and the master ' : ''}are killed and come back`;
  t.test(name, { skip: cannotMount, timeout: LIMIT_MS }, async (t) => {
    const cluster = await ProcessCluster.start(t, { driver: 'kernel', limitMs: LIMIT_MS });
    const both = await twoMounts(t, cluster, ASK_ALWAYS);
    const trouble = new Trouble(cluster, new SeededRandom(seed), { master });
    trouble.start();
    try {
      await testRandomOperations(t, { ...both, seed, operations, workers: 4, strict: true, believedMs: 0 });
    } finally {
      await trouble.stop();
      t.comment(`${trouble.done.length} times: ${trouble.done.join(', ')}`);
    }
    t.ok(trouble.done.length > 0);
  });
}
