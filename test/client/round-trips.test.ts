/** What small files cost: requests to the master that others bring along. */
import t from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../src/client/filesystem.js';
import { fakeClients } from '../support/fake-clients.js';

const FLAGS = { read: true, write: true };
const name = (i: number): Buffer => Buffer.from(`file-${i}`);

t.test(
  'files that are written when they are created get their chunk with their creation, and once open tells where',
  async (t) => {
    const { cluster, connect, stop } = await fakeClients();
    t.teardown(stop);
    const [one, two] = [await connect(), await connect()];
    const asked = (method: string): number => cluster.count(method);
    for (let i = 0; i < 20; i++) {
      const { file } = await one.create(ROOT_CREDENTIALS, ROOT_INODE, name(i), { mode: 0o644, flags: FLAGS });
      await file.write(0, Buffer.from(`content ${i}`));
      await file.close();
    }
    const leases = asked('leaseChunk');
    t.ok(leases >= 5 && leases <= 12, `the first files asked for their leases, the later ones did not: ${leases}`);
    for (let i = 0; i < 20; i++) {
      const { file } = await two.openAt(ROOT_CREDENTIALS, ROOT_INODE, name(i), { read: true, write: false });
      t.equal((await file.read(0, 100)).toString(), `content ${i}`);
      await file.close();
    }
    t.equal(asked('getChunks'), 0);
    // Files that stay empty end it.
    for (let i = 20; i < 40; i++) {
      const { file } = await one.create(ROOT_CREDENTIALS, ROOT_INODE, name(i), { mode: 0o644, flags: FLAGS });
      await file.close();
    }
    const { file } = await one.create(ROOT_CREDENTIALS, ROOT_INODE, name(40), { mode: 0o644, flags: FLAGS });
    await file.write(0, Buffer.from('x'));
    await file.close();
    t.equal(asked('leaseChunk'), leases + 1);
  },
);
