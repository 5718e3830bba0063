import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import { DIRECT_ALIGNMENT_BYTES, PayloadBuffers } from '../../src/core/disk/payload-buffers.js';

const LARGE = 1024 * 1024;

t.test('memory is used again when it was given back, and only then', async (t) => {
  const pool = new PayloadBuffers(2);
  const [first, second] = [pool.take(LARGE), pool.take(LARGE)];
  t.not(first.buffer, second.buffer);
  t.ok(pool.beginsAtPage(first) && pool.beginsAtPage(second));
  const third = pool.take(LARGE);
  t.notOk(pool.beginsAtPage(third), 'the pool is at its bound: ordinary memory');
  pool.giveBack(third);
  pool.giveBack(first.subarray(100, 200));
  const fourth = pool.take(70_000);
  t.equal(fourth.buffer, first.buffer, 'by any view of it');
  t.equal(fourth.length, 70_000);
  pool.giveBack(fourth);
  pool.giveBack(first);
  t.equal(pool.take(LARGE).buffer, first.buffer);
  t.not(pool.take(LARGE).buffer, first.buffer, 'given back twice, it is had once');
});

t.test('small and oversized requests get ordinary memory; views within pages do not begin at one', async (t) => {
  const pool = new PayloadBuffers(2);
  for (const length of [0, 1, 4096, 3 * LARGE]) {
    const bytes = pool.take(length);
    t.equal(bytes.length, length);
    t.notOk(pool.beginsAtPage(bytes));
  }
  const bytes = pool.take(LARGE);
  t.notOk(pool.beginsAtPage(bytes.subarray(1)));
  t.ok(pool.beginsAtPage(bytes.subarray(DIRECT_ALIGNMENT_BYTES)));
});

t.test('what is dropped without being given back does not shrink the pool for good', async (t) => {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;
  const pool = new PayloadBuffers(1);
  (() => pool.take(LARGE))();
  for (let i = 0; i < 50; i++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 10));
    if (pool.beginsAtPage(pool.take(LARGE))) {
      t.pass('taken anew');
      return;
    }
  }
  t.fail('never again');
});

t.test('P8: where no such memory is to be had, ordinary memory does', (t) => {
  const pool = new PayloadBuffers(2, () => {
    throw new RangeError('WebAssembly.Memory(): could not allocate memory');
  });
  const bytes = pool.take(LARGE);
  t.equal(bytes.length, LARGE);
  t.notOk(pool.beginsAtPage(bytes));
  pool.giveBack(bytes);
  t.end();
});
