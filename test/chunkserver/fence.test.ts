/** When a chunkserver refuses readers. */
import t from 'tap';
import { Fence } from '../../src/chunkserver/fence.js';
import { ManualClock } from '../support/fakes/manual-clock.js';

t.test('P11: a second report does not take back what heartbeats have told since the server joined', (t) => {
  const clock = new ManualClock();
  const fence = new Fence(clock, () => 1);
  const joined = { epoch: 2, ms: 1_000 };
  fence.join(joined.epoch);
  fence.heard(clock.monotonicMs(), joined);
  clock.advance(3_600_000);
  const now = { epoch: 2, ms: 3_601_000 };
  fence.heard(clock.monotonicMs(), now);
  // Some of its replicas were lost, and all were reported again: the answer to that has the time at which it joined.
  fence.heard(clock.monotonicMs(), joined);
  t.doesNotThrow(() => fence.refuse(now));
  t.end();
});

t.test('P9: what an earlier start of the master told counts no more, also when that had a higher epoch', (t) => {
  const clock = new ManualClock();
  const fence = new Fence(clock, () => 1);
  fence.join(5);
  fence.heard(clock.monotonicMs(), { epoch: 5, ms: 9_000_000 });
  fence.join(3);
  t.throws(() => fence.refuse({ epoch: 3, ms: 1_000 }), { code: 'UNAVAILABLE' }, 'its replicas were not compared yet');
  fence.heard(clock.monotonicMs(), { epoch: 3, ms: 1_000 });
  t.doesNotThrow(() => fence.refuse({ epoch: 3, ms: 2_000 }));
  t.throws(() => fence.refuse({ epoch: 3, ms: 9_000 }), { code: 'UNAVAILABLE' }, 'it was not heard since');
  t.end();
});
