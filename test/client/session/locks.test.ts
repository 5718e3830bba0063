/** The client's part of locks: told again after a reconnect, lost with the session, waits over both. */
import t from 'tap';
import { SystemClock, sleep } from '../../../src/core/clock.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { ROOT_CREDENTIALS as root } from '../../../src/filesystem/filesystem.js';
import type { FileSystem, LockRequest } from '../../../src/filesystem/filesystem.js';
import { hookedCluster } from '../../support/hooked-cluster.js';

const flags = { read: true, write: true };
const name = Buffer.from('f');
const request = (owner: string, type: LockRequest['type'] = 'write'): LockRequest => ({
  ...{ kind: 'posix', type, start: 0, end: 9, owner, pid: 1 },
});

async function open(fs: FileSystem) {
  return (await fs.create(root, ROOT_INODE, name, { mode: 0o600, flags })).file;
}

t.test('locks stand over a reconnect, and so do waits', async (t) => {
  const cluster = await hookedCluster();
  try {
    const [one, two] = [await cluster.connect(), await cluster.connect()];
    const [a, b] = [await open(one), await open(two)];
    await one.setLock(a.inode, request('a'), { wait: false });
    let isGranted = false;
    const waiting = two.setLock(b.inode, request('b'), { wait: true }).then(() => (isGranted = true));
    await sleep(new SystemClock(), 20);
    cluster.network.cut(cluster.masterAddress);
    await one.getAttributes(a.inode);
    await two.getAttributes(b.inode);
    await t.rejects(two.setLock(b.inode, request('c'), { wait: false }), { code: 'EAGAIN' });
    t.notOk(isGranted);
    await one.setLock(a.inode, request('a', 'unlock'), { wait: false });
    await waiting;
    t.same(await one.getLock(a.inode, request('a')), { type: 'write', start: 0, end: 9, pid: 0 });
    await two.releaseLocks(b.inode, 'posix', 'b');
    t.equal(await one.getLock(a.inode, request('a')), undefined);
  } finally {
    await cluster.stop();
  }
});

t.test('locks that end with the session are not silently missing: EIO until the file is closed', async (t) => {
  const cluster = await hookedCluster();
  try {
    const fs = await cluster.connect();
    const file = await open(fs);
    await file.write(0, Buffer.from('before'));
    await file.flush();
    await fs.setLock(file.inode, request('a'), { wait: false });
    cluster.expireSessions();
    cluster.network.cut(cluster.masterAddress);
    await fs.syncMetadata();
    await t.rejects(file.write(0, Buffer.from('after')), { code: 'EIO' });
    await t.rejects(file.read(0, 10), { code: 'EIO' });
    await t.rejects(file.sync(), { code: 'EIO' });
    await t.rejects(fs.setLock(file.inode, request('a'), { wait: false }), { code: 'EIO' });
    await t.rejects(file.close(), { code: 'EIO' });
    const again = await open(fs);
    t.equal((await again.read(0, 10)).toString(), 'before');
    // The lock that was lost is given on when nothing can be written any more that was sent under it.
    await fs.setLock(again.inode, request('a'), { wait: true });
    await again.close();
  } finally {
    await cluster.stop();
  }
});

t.test('closing the file system ends the waits', async (t) => {
  const cluster = await hookedCluster();
  try {
    const [one, two] = [await cluster.connect(), await cluster.connect()];
    const [a, b] = [await open(one), await open(two)];
    await one.setLock(a.inode, request('a'), { wait: false });
    const waiting = t.rejects(two.setLock(b.inode, request('b'), { wait: true }), { code: 'EBADF' });
    await sleep(new SystemClock(), 20);
    await two.close();
    await waiting;
  } finally {
    await cluster.stop();
  }
});
