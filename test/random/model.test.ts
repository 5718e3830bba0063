/** The random operations on two models: whoever judges must agree with himself. */
import t from 'tap';
import { ModelFileSystem } from '../support/models/model-filesystem.js';
import { testSeed } from '../support/seed.js';
import { testRandomOperations } from './run.js';

t.test('two clients of one model', { timeout: 100_000 }, async (t) => {
  const seed = testSeed(t);
  const one = new ModelFileSystem();
  const mounts = [one, new ModelFileSystem(one.state)];
  await testRandomOperations(t, { seed, mounts, operations: 20_000, workers: 2, strict: true, believedMs: 0 });
});
