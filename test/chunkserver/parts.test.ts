/** The small parts: index, range locks, shared runs. */
import t from 'tap';
import { chunkHandle, chunkVersion } from '../../src/core/ids.js';
import { SeededRandom } from '../../src/core/random.js';
import { deferred } from '../../src/core/sync.js';
import { RangeLock } from '../../src/chunkserver/chunk/range-lock.js';
import { ReplicaIndex } from '../../src/chunkserver/store/replica-index.js';
import { SharedRun } from '../../src/core/shared-run.js';
import { testSeed } from '../support/seed.js';

t.test('the index is as a sorted map', (t) => {
  const random = new SeededRandom(testSeed(t));
  const index = new ReplicaIndex();
  const model = new Map<number, number>();
  for (let step = 0; step < 30_000; step++) {
    const handle = step < 5_000 ? step + 1 : 1 + random.below(12_000);
    if (random.below(3) === 0 && step >= 5_000) {
      if (index.delete(chunkHandle(handle)) !== model.delete(handle)) t.fail(`delete ${handle}`);
    } else {
      index.set({
        handle: chunkHandle(handle),
        version: chunkVersion(step),
        directory: step % 3,
        suspect: step % 7 === 0,
      });
      model.set(handle, step);
    }
  }
  t.equal(index.size, model.size);
  const sorted = [...model.keys()].sort((a, b) => a - b);
  const walked: number[] = [];
  for (let after = 0; ;) {
    const page = index.page(after, 700);
    const last = page.at(-1);
    if (last === undefined) break;
    walked.push(...page.map((entry) => entry.handle));
    after = last.handle;
  }
  t.same(walked, sorted);
  let wrong = 0;
  for (let handle = 0; handle <= 12_001; handle++) {
    const entry = index.get(chunkHandle(handle));
    const step = model.get(handle);
    if (entry?.version !== step || (entry !== undefined && entry.suspect !== ((step ?? 0) % 7 === 0))) wrong++;
  }
  t.equal(wrong, 0);
  t.end();
});

t.test('range locks: readers share, a writer waits for those before it, first come first served', async (t) => {
  const lock = new RangeLock();
  const order: string[] = [];
  const hold = async (name: string, first: number, last: number, exclusive: boolean): Promise<() => void> => {
    const release = await lock.acquire(first, last, exclusive);
    order.push(name);
    return release;
  };
  const reader = await hold('reader', 0, 5, false);
  const other = await hold('other', 3, 9, false);
  const writer = hold('writer', 5, 6, true);
  const late = hold('late', 6, 6, false);
  const apart = await hold('apart', 100, 100, true);
  apart();
  reader();
  await Promise.resolve();
  t.same(order, ['reader', 'other', 'apart']);
  other();
  (await writer)();
  (await late)();
  t.same(order, ['reader', 'other', 'apart', 'writer', 'late']);
  t.ok(lock.idle);
});

t.test('shared runs: a caller gets a run that began after its call', async (t) => {
  const runs = [deferred<void>(), deferred<void>()];
  let started = 0;
  const shared = new SharedRun(() => runs[started++]?.promise ?? Promise.resolve());
  const first = shared.run();
  const second = shared.run();
  const third = shared.run();
  t.equal(started, 1);
  runs[0]?.resolve();
  await first;
  await Promise.resolve();
  t.equal(started, 2);
  t.equal(second, third, 'shared');
  const fourth = shared.run();
  runs[1]?.reject(new Error('disk'));
  await t.rejects(second);
  await t.rejects(fourth, 'P1: the next run may not make good what this one did not');
  t.equal(started, 2);
  await shared.run();
  t.equal(started, 3);
});
