/** What small files cost: requests to the master that others bring along. */
import t from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import { hookedCluster } from '../support/hooked-cluster.js';

const FLAGS = { read: true, write: true };
const name = (i: number): Buffer => Buffer.from(`file-${i}`);

t.test('an open tells where the first chunk is', async (t) => {
  const cluster = await hookedCluster();
  t.teardown(() => cluster.stop());
  const [one, two] = [await cluster.connect(), await cluster.connect()];
  for (let i = 0; i < 20; i++) {
    const { file } = await one.create(ROOT_CREDENTIALS, ROOT_INODE, name(i), { mode: 0o644, flags: FLAGS });
    await file.write(0, Buffer.from(`content ${i}`));
    await file.close();
  }
  for (let i = 0; i < 20; i++) {
    const { file } = await two.openAt(ROOT_CREDENTIALS, ROOT_INODE, name(i), { read: true, write: false });
    t.equal((await file.read(0, 100)).toString(), `content ${i}`);
    await file.close();
  }
  t.equal(cluster.count('getChunks'), 0);
});
