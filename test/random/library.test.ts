/** Random operations by two clients of the library on real processes, compared with the model. */
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { testSeed } from '../support/seed.js';
import { testRandomOperations } from './run.js';

t.test('two clients of the library', { timeout: 1_000_000 }, async (t) => {
  const seed = testSeed(t);
  const operations = Number(process.env['CAIRN_OPERATIONS'] ?? 5_000);
  const cluster = await ProcessCluster.start(t, { limitMs: 1_000_000 });
  const mounts = [await cluster.client({ cacheTtlMs: 0 }), await cluster.client({ cacheTtlMs: 0 })];
  await testRandomOperations(t, { seed, mounts, operations, workers: 4, strict: true, believedMs: 0 });
});
