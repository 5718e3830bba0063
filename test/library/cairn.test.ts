/** The library in the shape of node:fs/promises. */
import t from 'tap';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { MIB } from '../../src/core/limits.js';
import { SeededRandom } from '../../src/core/random.js';
import { Cairn } from '../../src/library/cairn.js';
import { pattern } from '../conformance/case.js';
import { hookedCluster } from '../support/hooked-cluster.js';

const cluster = await hookedCluster();
t.teardown(() => cluster.stop());
const credentials = { uid: 0, gid: 0, groups: [] };
const cairn = new Cairn(await cluster.connect(), { credentials, umask: 0o022, random: new SeededRandom(1) });
const alice = new Cairn(await cluster.connect(), {
  ...{ credentials: { uid: 1001, gid: 1001, groups: [] }, umask: 0o077, random: new SeededRandom(2) },
});

await t.test('files: write, read, append, flags, modes', async (t) => {
  await cairn.writeFile('/a', 'hello');
  t.equal(await cairn.readFile('/a', 'utf8'), 'hello');
  await cairn.appendFile('/a', ' world');
  t.equal((await cairn.readFile('a')).toString(), 'hello world');
  const stats = await cairn.stat('/a');
  t.ok(stats.isFile() && !stats.isDirectory());
  t.equal(stats.size, 11);
  t.equal(stats.mode & 0o777, 0o644);
  t.ok(Math.abs(stats.mtimeMs - Date.now()) < 60_000 && stats.mtime instanceof Date);
  await t.rejects(cairn.writeFile('/a', 'x', { flag: 'wx' }), {
    code: 'EEXIST',
    errno: -17,
    syscall: 'open',
    path: '/a',
  });
  await t.rejects(cairn.open('/missing'), { code: 'ENOENT', errno: -2, syscall: 'open', path: '/missing' });
  await t.rejects(cairn.open('/a', 'rx'), { code: 'EINVAL' });
  await t.rejects(cairn.open('/a/b'), { code: 'ENOTDIR' });
  await t.rejects(cairn.open('/', 'w'), { code: 'EISDIR' });
  const big = pattern(3 * MIB + 17);
  await cairn.writeFile('/big', big);
  t.ok((await cairn.readFile('/big')).equals(big));
  await cairn.truncate('/big', 5);
  t.ok((await cairn.readFile('/big')).equals(big.subarray(0, 5)));
  await cairn.copyFile('/a', '/copy');
  t.equal(await cairn.readFile('/copy', 'utf8'), 'hello world');
  await t.rejects(cairn.copyFile('/a', '/copy', 1), { code: 'EEXIST', dest: '/copy' });
});

await t.test('handles: positions, partial reads, append', async (t) => {
  const handle = await cairn.open('/h', 'w+');
  await handle.write('0123456789');
  await handle.write(Buffer.from('ab'), 0, 2, 3);
  t.same(await handle.read(Buffer.alloc(4), 0, 4, 2), { bytesRead: 4, buffer: Buffer.from('2ab5') });
  t.equal((await handle.read(Buffer.alloc(4))).bytesRead, 0, 'the position is at the end');
  await handle.truncate(4);
  t.equal((await handle.stat()).size, 4);
  await handle.chmod(0o600);
  await handle.utimes(1, 2.5);
  await handle.sync();
  await handle.close();
  await handle.close();
  await t.rejects(handle.write('x'), { code: 'EBADF' });
  const stats = await cairn.stat('/h');
  t.same([stats.mode & 0o777, stats.atimeMs, stats.mtimeMs], [0o600, 1000, 2500]);
  const append = await cairn.open('/h', 'a');
  await Promise.all([append.write('x'), append.write('y'), append.write('z')]);
  await append.close();
  t.equal(await cairn.readFile('/h', 'latin1'), '012axyz');
});

await t.test('directories: mkdir, readdir, opendir, rm', async (t) => {
  t.equal(await cairn.mkdir('/d/e/f', { recursive: true }), '/d');
  t.equal(await cairn.mkdir('/d/e/f', { recursive: true }), undefined);
  await t.rejects(cairn.mkdir('/d'), { code: 'EEXIST' });
  await t.rejects(cairn.mkdir('/a/x', { recursive: true }), { code: 'ENOTDIR' });
  for (let i = 0; i < 1100; i++) await cairn.writeFile(`/d/e/f/${i}`, '');
  let count = 0;
  for await (const entry of await cairn.opendir('/d/e/f')) if (entry.isFile()) count++;
  t.equal(count, 1100);
  count = 0;
  for await (const { name } of await cairn.opendir('/d/e/f')) {
    await cairn.rename(`/d/e/f/${name}`, `/d/e/f/${name}-`);
    if (++count > 3000) break;
  }
  t.equal(count, 1100, 'what is renamed meanwhile is not listed again');
  t.same(await cairn.readdir('/d'), ['e']);
  const all = await cairn.readdir('/d', { recursive: true });
  t.equal(all.length, 1102);
  t.ok(all.includes('e/f/7-'));
  const [entry] = await cairn.readdir('/d', { withFileTypes: true });
  t.ok(entry?.isDirectory() && entry.name === 'e' && entry.parentPath === '/d');
  await t.rejects(cairn.rmdir('/d'), { code: 'ENOTEMPTY' });
  await t.rejects(cairn.rm('/d'), { code: 'EISDIR' });
  await cairn.rm('/d', { recursive: true });
  await t.rejects(cairn.stat('/d'), { code: 'ENOENT' });
  await t.rejects(cairn.rm('/d'), { code: 'ENOENT' });
  await cairn.rm('/d', { force: true });
  t.match(await cairn.mkdtemp('/tmp-'), /^\/tmp-[a-zA-Z0-9]{6}$/);
});

await t.test('symlinks and paths', async (t) => {
  await cairn.mkdir('/s/t', { recursive: true });
  await cairn.writeFile('/s/t/file', 'inside');
  await cairn.symlink('t/file', '/s/link');
  await cairn.symlink('/s/../s/t/', '/s/dir');
  await cairn.symlink('loop', '/s/loop');
  await cairn.symlink('t/new', '/s/dangling');
  t.equal(await cairn.readFile('/s/link', 'utf8'), 'inside');
  t.equal(await cairn.readFile('/s/dir/../link', 'utf8').catch((error: { code: string }) => error.code), 'inside');
  t.equal(await cairn.realpath('/s/dir/./file'), '/s/t/file');
  t.equal(await cairn.readlink('/s/link'), 't/file');
  t.ok((await cairn.lstat('/s/link')).isSymbolicLink());
  t.ok((await cairn.lstat('/s/dir/')).isDirectory());
  await t.rejects(cairn.stat('/s/loop'), { code: 'ELOOP' });
  await t.rejects(cairn.stat('/s/dangling'), { code: 'ENOENT' });
  await cairn.writeFile('/s/dangling', 'made');
  t.equal(await cairn.readFile('/s/t/new', 'utf8'), 'made');
  await t.rejects(cairn.open('/s/dangling', 'wx'), { code: 'EEXIST' });
  await t.rejects(cairn.stat('/s/t/file/'), { code: 'ENOTDIR' });
  await t.rejects(cairn.stat(''), { code: 'ENOENT' });
  await t.rejects(cairn.stat('/' + 'x'.repeat(5000)), { code: 'ENAMETOOLONG' });
  await cairn.rename('/s/t/file', '/s/moved');
  await cairn.link('/s/moved', '/s/hard');
  t.equal((await cairn.stat('/s/moved')).nlink, 2);
  await t.rejects(cairn.rename('/none', '/s/x'), { code: 'ENOENT', path: '/none', dest: '/s/x' });
  t.equal((await cairn.stat('/../..')).ino, 1);
});

await t.test('streams, with back pressure; xattrs; statfs; info; another user', async (t) => {
  const bytes = pattern(5 * MIB + 3);
  const parts = function* (): Generator<Buffer> {
    for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
  };
  await pipeline(Readable.from(parts()), cairn.createWriteStream('/stream'));
  const read: Buffer[] = [];
  for await (const part of cairn.createReadStream('/stream')) read.push(part as Buffer);
  t.ok(Buffer.concat(read).equals(bytes));
  const some: Buffer[] = [];
  for await (const part of cairn.createReadStream('/stream', { start: 10, end: 19 })) some.push(part as Buffer);
  t.ok(Buffer.concat(some).equals(bytes.subarray(10, 20)));
  const shared = await cairn.open('/stream');
  for await (const part of shared.createReadStream({ start: 0, highWaterMark: 65536, autoClose: false })) {
    (part as Buffer).fill(0xff);
  }
  const again = await shared.read(Buffer.alloc(65536), 0, 65536, bytes.length - 65536);
  t.ok(again.buffer.equals(bytes.subarray(-65536)), 'who gets bytes may change them');
  await shared.close();
  await t.rejects(pipeline(cairn.createReadStream('/none'), cairn.createWriteStream('/sink')), { code: 'ENOENT' });

  await cairn.setxattr('/stream', 'user.kind', 'test');
  t.same(await cairn.listxattr('/stream'), ['user.kind']);
  t.equal((await cairn.getxattr('/stream', 'user.kind')).toString(), 'test');
  await cairn.removexattr('/stream', 'user.kind');
  await t.rejects(cairn.getxattr('/stream', 'user.kind'), { code: 'ENODATA' });
  t.equal((await cairn.statfs()).bsize, 4096);
  const chunks = [];
  for await (const chunk of (await cairn.info('/stream')).chunks()) chunks.push(chunk);
  t.match(chunks, [{ index: 0 }]);
  const servers = chunks.flatMap(({ replicas }) => replicas.map(({ serverId }) => serverId));
  t.same(servers.sort(), [1, 2], 'in whatever order');

  await cairn.chmod('/stream', 0o600);
  await t.rejects(alice.readFile('/stream'), { code: 'EACCES' });
  await t.rejects(alice.access('/stream', 4), { code: 'EACCES' });
  await t.rejects(alice.writeFile('/of-alice', ''), { code: 'EACCES' });
  await cairn.mkdir('/home');
  await cairn.chown('/home', 1001, 1001);
  await alice.writeFile('/home/of-alice', 'mine');
  const stats = await cairn.stat('/home/of-alice');
  t.same([stats.uid, stats.mode & 0o777], [1001, 0o600]);
});
