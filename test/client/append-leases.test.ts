/** The client's side of append leases: what it gives up is never what it holds. */
import t from 'tap';
import { SystemClock } from '../../src/core/clock.js';
import { deferred } from '../../src/core/sync.js';
import type { Deferred } from '../../src/core/sync.js';
import { ROOT_CREDENTIALS } from '../../src/client/filesystem.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { fakeClients } from '../support/fake-clients.js';

const APPEND = { read: false, write: true, append: true };

t.test('an open that tells of an old lease gives up none that is being asked for', async (t) => {
  const { cluster, connect, stop } = await fakeClients(new SystemClock());
  t.teardown(stop);
  const [one, two] = [await connect(), await connect()];
  const name = Buffer.from('f');
  const options = { mode: 0o644, flags: APPEND };
  const { file } = await one.create(ROOT_CREDENTIALS, ROOT_INODE, name, options);
  const other = await two.openAt(ROOT_CREDENTIALS, ROOT_INODE, name, APPEND);
  let held: Deferred<void> | undefined;
  let opened: Deferred<void> | undefined;
  cluster.hooks.master = async (method) => {
    if (method === 'acquireAppend') await held?.promise;
    if (method === 'open') await opened?.promise;
  };
  for (let round = 0; round < 30; round++) {
    // The master answers the open before the lease is asked for, and the answer comes while it is.
    held = deferred();
    opened = deferred();
    const again = one.openAt(ROOT_CREDENTIALS, ROOT_INODE, name, APPEND);
    const writes = [file.write(0, Buffer.from(`1-${round};`)), other.file.write(0, Buffer.from(`2-${round};`))];
    if (round % 2 === 0) opened.resolve();
    await Promise.resolve();
    held.resolve();
    opened.resolve();
    const third = (await again).file;
    writes.push(third.write(0, Buffer.from(`3-${round};`)));
    await Promise.all(writes);
    await third.close();
  }
  await file.close();
  await other.file.close();
  const { file: whole } = await two.openAt(ROOT_CREDENTIALS, ROOT_INODE, name, { read: true, write: false });
  const words = (await whole.read(0, 10_000)).toString().split(';').filter(Boolean).sort();
  const expected = Array.from({ length: 30 }, (_, round) => [`1-${round}`, `2-${round}`, `3-${round}`]).flat();
  t.same(words, expected.sort());
  await whole.close();
});
