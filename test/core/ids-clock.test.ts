import t from 'tap';
import { compareTimespec, SystemClock } from '../../src/core/clock.js';
import { chunkHandle, inodeId } from '../../src/core/ids.js';

void t.test('ids are safe non-negative integers', (t) => {
  t.equal(inodeId(2 ** 53 - 1), 2 ** 53 - 1);
  for (const bad of [-1, 1.5, 2 ** 53, NaN]) t.throws(() => chunkHandle(bad), { code: 'EINVAL' });
  t.end();
});

void t.test('the system clock tells the time, goes forward, and a cancelled timer does not fire', (t) => {
  const clock = new SystemClock();
  const a = clock.now();
  t.ok(compareTimespec(a, clock.now()) <= 0);
  t.ok(Math.abs(a.seconds - Math.floor(Date.now() / 1000)) <= 1);
  let fired = false;
  clock.setTimer(1, () => (fired = true)).cancel();
  setTimeout(() => {
    t.notOk(fired);
    t.end();
  }, 10);
});

void t.test('a timer for longer than the system can wait does not fire at once', async (t) => {
  const clock = new SystemClock();
  let fired = 0;
  const timers = [2 ** 31, 2 ** 32 + 5, Infinity].map((delayMs) => clock.setTimer(delayMs, () => fired++));
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.equal(fired, 0);
  for (const timer of timers) timer.cancel();
  t.throws(() => clock.setTimer(NaN, () => undefined), RangeError);
});
