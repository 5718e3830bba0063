/** Which replicas are cleaned, when, and what is said of those that could not be. */
import t from 'tap';
import { DirtyReplicas } from '../../../src/chunkserver/store/dirty-replicas.js';
import { CairnError } from '../../../src/core/errors.js';
import { chunkHandle } from '../../../src/core/ids.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const [first, second, third] = [chunkHandle(1), chunkHandle(2), chunkHandle(3)];

t.test('those idle for long enough, and a mutation begins that time anew', async (t) => {
  const clock = new ManualClock();
  const dirty = new DirtyReplicas(clock, silentLogger);
  const cleaned: number[] = [];
  const clean = (idleMs: number, untilMs = Infinity): Promise<void> =>
    dirty.clean(
      (handle) => {
        cleaned.push(handle);
        return Promise.resolve();
      },
      { idleMs, untilMs },
    );
  dirty.mutated(first);
  dirty.mutated(second);
  dirty.found(third);
  clock.advance(600);
  dirty.mutated(first);
  dirty.found(second);
  clock.advance(500);
  await clean(1_000);
  t.same(cleaned, [second, third]);
  t.notOk(dirty.none);
  await clean(-1, clock.monotonicMs() - 1);
  t.same(cleaned, [second, third], 'the time for it is over');
  clock.advance(500);
  await clean(1_000);
  t.same(cleaned, [second, third, first]);
  t.ok(dirty.none);
  dirty.mutated(second);
  dirty.forget(second);
  await clean(-1);
  t.equal(cleaned.length, 3, 'forgotten');
});

t.test('one that could not be cleaned: the others are, but not all is clean any more', async (t) => {
  const dirty = new DirtyReplicas(new ManualClock(), silentLogger);
  const cleaned: number[] = [];
  dirty.mutated(first);
  dirty.mutated(second);
  await dirty.clean(
    (handle) => {
      if (handle === first) return Promise.reject(new CairnError('EIO', 'planted'));
      cleaned.push(handle);
      return Promise.resolve();
    },
    { idleMs: -1, untilMs: Infinity },
  );
  t.same(cleaned, [second]);
  t.notOk(dirty.none, 'the directories are not left clean');
});
