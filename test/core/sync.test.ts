import t from 'tap';
import { CairnError } from '../../src/core/errors.js';
import { deferred, KeyedMutex, Mutex, Semaphore } from '../../src/core/sync.js';

/** Lets everything that can run now run. */
const settle = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};

t.test('a semaphore gives its permits in the order asked, a large request before later small ones', async (t) => {
  const semaphore = new Semaphore(3);
  const order: string[] = [];
  const first = await semaphore.acquire(2);
  const large = semaphore.acquire(3).then((release) => (order.push('large'), release));
  const small = semaphore.acquire(1).then((release) => (order.push('small'), release));
  await settle();
  t.same(order, [], 'one permit is free, but the large request was first');
  first();
  first(); // giving back twice does nothing
  (await large)();
  (await small)();
  t.same(order, ['large', 'small']);
  t.ok(semaphore.idle);
});

t.test('more permits than there are means all of them', async (t) => {
  const semaphore = new Semaphore(2);
  const release = await semaphore.acquire(100);
  t.notOk(semaphore.idle);
  release();
  t.ok(semaphore.idle);
});

t.test('P8: a waiter too many gets BUSY, and the others go on', async (t) => {
  const semaphore = new Semaphore(1, 1);
  const release = await semaphore.acquire();
  const waiter = semaphore.acquire();
  await t.rejects(semaphore.acquire(), new CairnError('BUSY', '1 operations wait already: slow down and try again'));
  release();
  (await waiter)();
  t.ok(semaphore.idle);
});

t.test('a mutex is free again after a section that failed', async (t) => {
  const mutex = new Mutex('master.log');
  const gate = deferred<undefined>();
  const order: string[] = [];
  const failing = mutex.run(async () => {
    await gate.promise;
    order.push('failing');
    throw new CairnError('EIO', 'planned');
  });
  const next = mutex.run(() => order.push('next'));
  gate.resolve(undefined);
  await t.rejects(failing, { code: 'EIO' });
  await next;
  t.same(order, ['failing', 'next']);
});

t.test('a keyed mutex orders one key, and lets others pass', async (t) => {
  const mutex = new KeyedMutex<string>('master.hole');
  const gate = deferred<undefined>();
  const order: string[] = [];
  const a1 = mutex.run('a', async () => {
    await gate.promise;
    order.push('a1');
  });
  const a2 = mutex.run('a', () => order.push('a2'));
  await mutex.run('b', () => order.push('b'));
  t.same(order, ['b']);
  gate.resolve(undefined);
  await Promise.all([a1, a2]);
  t.same(order, ['b', 'a1', 'a2']);
});
