/** Locks that are taken out of their order are told where they are taken, before anybody waits in a circle. */
import t from 'tap';
import { setAudits } from '../../src/core/invariant.js';
import { outsideLocks } from '../../src/core/lock-order.js';
import { deferred, KeyedMutex, Mutex } from '../../src/core/sync.js';

setAudits(true);

const hole = new KeyedMutex<string>('master.hole');
const chunk = new KeyedMutex<number>('master.chunk');
const log = new Mutex('master.log');
const nothing = (): undefined => undefined;

t.test('in the order of the list, over awaits', async (t) => {
  await hole.run('1:0', () =>
    chunk.run(1, async () => {
      await Promise.resolve();
      await log.run(nothing);
    }),
  );
  await chunk.run(1, () => chunk.run(2, nothing));
  t.pass('nothing is told');
});

t.test('out of order, and twice', async (t) => {
  const told = { code: 'INTERNAL', message: /lock-order/ };
  await t.rejects(
    log.run(() => chunk.run(1, nothing)),
    told,
  );
  await t.rejects(
    chunk.run(1, async () => {
      await Promise.resolve();
      await log.run(nothing);
      await hole.run('1:0', nothing);
    }),
    told,
  );
  await t.rejects(
    hole.run('1:0', () => chunk.run(1, () => hole.run('1:1', nothing))),
    told,
  );
  await t.rejects(
    chunk.run(2, () => chunk.run(1, nothing)),
    told,
    'of two chunks the lower one comes first',
  );
  await t.rejects(
    chunk.run(2, () => chunk.run(2, nothing)),
    told,
  );
  await t.rejects(
    hole.run('a', () => hole.run('b', nothing)),
    told,
  );
});

t.test('who goes on after a lock was given back does not hold it, nor who works for another process', async (t) => {
  const end = deferred<undefined>();
  let later: Promise<unknown> = Promise.resolve();
  await log.run(() => {
    later = end.promise.then(() => chunk.run(1, nothing));
    return outsideLocks(() => chunk.run(1, nothing));
  });
  end.resolve(undefined);
  await later;
  t.pass('nothing is told');
});

t.test('without audits nothing is looked at', async (t) => {
  setAudits(false);
  await log.run(() => chunk.run(1, nothing));
  setAudits(true);
  t.pass('nothing is told');
});
