/** The mount as a process, over each driver: what programs expect of open files, and how it comes and goes. */
import { execFile } from 'node:child_process';
import {
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rmdir,
  stat,
  truncate,
  unlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { mountedOn, probe } from '../../src/fuse/mountpoint.js';
import { DRIVERS } from '../../src/cli/commands/mount.js';
import type { DriverName } from '../../src/cli/commands/mount.js';
import { waitUntilEnded } from '../../src/cli/machine/process-control.js';
import { ProcessCluster } from '../support/process-cluster.js';

const execute = promisify(execFile);

async function servesPrograms(t: Test, driver: DriverName): Promise<void> {
  const cluster = await ProcessCluster.start(t, { chunkservers: 2, mount: true, driver });
  const at = (path: string): string => join(cluster.mountpoint, path);

  await t.test('an open file that is removed stays whole, and its directory is empty', async (t) => {
    await mkdir(at('d'));
    const file = await open(at('d/f'), 'w+');
    await file.write('abc');
    await unlink(at('d/f'));
    t.same(await readdir(at('d')), []);
    await file.write('def');
    t.equal((await file.stat()).nlink, 0);
    t.equal((await file.stat()).size, 6);
    await file.truncate(4);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(10), 0, 10, 0);
    t.equal(buffer.toString('utf8', 0, bytesRead), 'abcd');
    if (driver === 'fuse-native') {
      await t.rejects(rmdir(at('d')), { code: 'ENOTEMPTY' });
      await file.close();
    }
    await rmdir(at('d'));
    if (driver === 'kernel') await file.close();
  });

  await t.test('close and rmdir race: the directory goes all the same', async () => {
    for (let i = 0; i < 50; i++) {
      await mkdir(at('race'));
      const file = await open(at('race/f'), 'w+');
      await file.write('x');
      await unlink(at('race/f'));
      await file.close();
      await rmdir(at('race'));
    }
  });

  await t.test('an open file follows its renames, and survives being replaced', async (t) => {
    await writeFile(at('a'), 'a');
    const file = await open(at('a'), 'r+');
    await rename(at('a'), at('b'));
    await file.write('A', 0);
    t.equal(await readFile(at('b'), 'utf8'), 'A');
    await writeFile(at('new'), 'new');
    await rename(at('new'), at('b'));
    t.equal(await readFile(at('b'), 'utf8'), 'new');
    t.equal((await file.read(Buffer.alloc(1), 0, 1, 0)).buffer.toString(), 'A');
    await file.close();
  });

  await t.test('mtime and atime are set apart, to the millisecond', async (t) => {
    await writeFile(at('times'), '');
    await utimes(at('times'), 1_000_000_000.123, 1_200_000_000.456);
    const { atimeMs, mtimeMs } = await stat(at('times'));
    t.equal(Math.round(atimeMs), 1_000_000_000_123);
    t.equal(Math.round(mtimeMs), 1_200_000_000_456);
  });

  await t.test('P2: what another client wrote is seen at the next open, also with old time and size', async (t) => {
    await writeFile(at('shared'), 'one');
    t.equal(await readFile(at('shared'), 'utf8'), 'one');
    const other = await cluster.client();
    const { inode, mtime } = await other.lookup(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('shared'));
    for (const text of ['two', 'six', 'longer']) {
      const { file } = await other.open(ROOT_CREDENTIALS, inode, { read: false, write: true });
      await file.write(0, Buffer.from(text));
      await file.close();
      await other.setAttributes(ROOT_CREDENTIALS, inode, { mtime });
      t.equal(await readFile(at('shared'), 'utf8'), text);
    }
  });

  await t.test('P5: sparse files and truncation read as zeros', async (t) => {
    const file = await open(at('sparse'), 'w+');
    await file.write('end', 200_000);
    await file.close();
    await truncate(at('sparse'), 200_001);
    await truncate(at('sparse'), 200_003);
    const bytes = await readFile(at('sparse'));
    t.equal(bytes.length, 200_003);
    t.ok(bytes.subarray(0, 200_000).every((byte) => byte === 0));
    t.equal(bytes.subarray(200_000).toString(), 'e\0\0');
  });

  await t.test('writes come in requests of 128 KiB, and large files whole', async (t) => {
    await execute('sh', ['-c', 'head -c 20000000 /dev/urandom > large; cp large copy; cmp large copy'], {
      cwd: cluster.mountpoint,
    });
    t.equal((await stat(at('copy'))).size, 20_000_000);
  });

  await t.test('create races with another client: one wins, the other opens or gets EEXIST, as asked', async (t) => {
    const other = await cluster.client();
    const theirs = (name: string) =>
      other.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from(name), {
        mode: 0o644,
        flags: { read: true, write: true },
        exclusive: true,
      });
    for (let i = 0; i < 20; i++) {
      const name = `lock-${i}`;
      const results = await Promise.allSettled([open(at(name), 'wx'), theirs(name)]);
      t.equal(
        results.filter((result) => result.status === 'fulfilled').length,
        1,
        'an exclusive create has one winner',
      );
      const [mine, their] = results;
      if (mine.status === 'fulfilled') await mine.value.close();
      else t.equal((mine.reason as NodeJS.ErrnoException).code, 'EEXIST');
      if (their.status === 'fulfilled') await their.value.file.close();
    }
  });
}

async function comesAndGoes(t: Test, driver: DriverName): Promise<void> {
  await t.test('SIGTERM unmounts and ends with everything flushed', async (t) => {
    const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1, mount: true, driver });
    await writeFile(join(cluster.mountpoint, 'f'), 'flushed');
    const pid = (await cluster.pids()).get('mount-0');
    if (pid === undefined) throw new Error('no mount process');
    process.kill(pid, 'SIGTERM');
    t.ok(await waitUntilEnded(join(cluster.directory.path, 'mount-0'), 10_000));
    t.equal(await mountedOn(cluster.mountpoint), undefined);
    await cluster.mount();
    t.equal(await readFile(join(cluster.mountpoint, 'f'), 'utf8'), 'flushed');
  });

  await t.test('unmounted from outside, its process ends by itself', async (t) => {
    const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1, mount: true, driver });
    await execute('umount', [cluster.mountpoint]);
    t.ok(await waitUntilEnded(join(cluster.directory.path, 'mount-0'), 10_000));
    t.notMatch(await cluster.log('mount-0'), /"level":"error"/);
  });

  await t.test('a crashed mount is cleared by the next one on the same directory', async (t) => {
    const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1, mount: true, driver });
    await writeFile(join(cluster.mountpoint, 'f'), 'x');
    await cluster.killMount();
    t.equal(await probe(cluster.mountpoint), 'dead');
    await cluster.mount();
    t.equal(await readFile(join(cluster.mountpoint, 'f'), 'utf8'), 'x');
  });
}

for (const driver of DRIVERS) {
  const skip = driver === 'kernel' && process.getuid?.() !== 0 && 'only root may mount by itself';
  t.test(`${driver}: programs on a mount`, { skip }, (t) => servesPrograms(t, driver));
  t.test(`${driver}: a mount comes and goes`, { skip }, (t) => comesAndGoes(t, driver));
}
