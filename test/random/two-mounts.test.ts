/** P2: random operations on two mounts of the kernel driver, made by programs as several users, agree with the model. */
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { testSeed } from '../support/seed.js';
import { ASK_ALWAYS, cannotMount, twoMounts } from './mounts.js';
import { testRandomOperations } from './run.js';

const seed = testSeed(t);
const operations = Number(process.env['CAIRN_OPERATIONS'] ?? 15_000);
const LIMIT_MS = 1_500_000;
t.setTimeout(2 * LIMIT_MS);
/** What the mount believes for a second, the kernel may believe for another. */
const BELIEVED_MS = 2_100;

t.test('mounts that ask always, operations in turns', { skip: cannotMount, timeout: LIMIT_MS }, async (t) => {
  const cluster = await ProcessCluster.start(t, { driver: 'kernel', limitMs: LIMIT_MS });
  const both = await twoMounts(t, cluster, ASK_ALWAYS);
  await testRandomOperations(t, { ...both, seed, operations, workers: 4, strict: true, believedMs: 0 });
});

t.test(
  'mounts as they are by default, work that is handed over',
  { skip: cannotMount, timeout: LIMIT_MS },
  async (t) => {
    const cluster = await ProcessCluster.start(t, { driver: 'kernel', limitMs: LIMIT_MS });
    const both = await twoMounts(t, cluster);
    await testRandomOperations(t, { ...both, seed, operations, workers: 4, strict: false, believedMs: BELIEVED_MS });
  },
);
