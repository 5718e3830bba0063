import nodeFs, { constants, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { stat, symlink } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { hasCode } from '../../src/core/errors.js';
import { MAX_PAYLOAD_BYTES } from '../../src/core/limits.js';
import { NodeDisk } from '../../src/core/disk/node-disk.js';

const directory = mkdtempSync(join(tmpdir(), 'cairn-node-disk-'));
t.teardown(() => rmSync(directory, { recursive: true }));
const disk = new NodeDisk();

t.test('files: write, read, short read at the end, truncate, sync', async (t) => {
  const file = await disk.open('test', join(directory, 'a'), 'create');
  await file.write('test', Buffer.from('hello world'), 0);
  file.writeSync('test', Buffer.from('HELLO'), 0);
  const into = Buffer.alloc(20);
  t.equal(await file.read('test', into, 6), 5);
  t.equal(into.subarray(0, 5).toString(), 'world');
  t.equal(file.readSync('test', into, 0), 11);
  t.equal(into.subarray(0, 11).toString(), 'HELLO world');
  t.equal(await file.read('test', into, 11), 0);
  await file.truncate('test', 5);
  t.equal(await file.size('test'), 5);
  await file.datasync('test');
  await file.close();
});

/** How many of this process' descriptors lead to `path` with O_DIRECT. */
function directDescriptors(path: string): number {
  let count = 0;
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`) !== path) continue;
      const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0';
      if ((parseInt(flags, 8) & constants.O_DIRECT) !== 0) count++;
    } catch {
      continue; // the descriptor of the listing itself
    }
  }
  return count;
}

/** Streams, among them more at once than there are buffers, over and under what the page cache holds. */
async function mixedWrites(t: Test, path: string): Promise<void> {
  const file = await disk.open('test', path, 'create');
  const size = 16 * MAX_PAYLOAD_BYTES;
  const want = randomBytes(size);
  await file.write('test', Buffer.alloc(size, 1), 0);
  const pieces = Array.from({ length: 16 }, (_, i) => i * MAX_PAYLOAD_BYTES);
  const piece = (at: number): Promise<void> =>
    file.write('test', want.subarray(at, at + MAX_PAYLOAD_BYTES), at, 'stream');
  await Promise.all(pieces.map(piece));
  const read = Buffer.alloc(size);
  await file.read('test', read, 0);
  t.ok(read.equals(want), 'streams in parallel');
  for (const [at, length] of [
    [4096, 8192],
    [5000, 4096],
    [8192, 100],
    [size - 4096, MAX_PAYLOAD_BYTES + 4096],
    [size - 100, MAX_PAYLOAD_BYTES],
  ] as const) {
    const bytes = randomBytes(length);
    const before = Buffer.alloc(64);
    file.writeSync('test', Buffer.alloc(64, 2), at - 64);
    await file.write('test', bytes, at, 'stream');
    const back = Buffer.alloc(length);
    t.equal(await file.read('test', back, at), length);
    t.ok(back.equals(bytes), `${length} bytes at ${at}`);
    file.readSync('test', before, at - 64);
    t.ok(before.equals(Buffer.alloc(64, 2)), 'what the page cache held stays');
  }
  await file.datasync('test');
  await file.close();
}

t.test('streams go past the page cache where the file system has direct I/O, the bytes are the same', async (t) => {
  const path = join(directory, 'stream');
  await mixedWrites(t, path);
  const file = await disk.open('test', path, 'existing');
  await file.write('test', Buffer.alloc(4096), 0);
  t.equal(directDescriptors(path), 0, 'not for other writes');
  await file.write('test', Buffer.alloc(4096), 0, 'stream');
  const direct = directDescriptors(path);
  if (direct === 0) t.comment(`${directory} has no direct I/O`);
  await file.close();
  t.equal(directDescriptors(path), 0, 'closed with the file');
});

t.test('streams to a file system without direct I/O take the page cache', async (t) => {
  const shm = mkdtempSync('/dev/shm/cairn-node-disk-');
  t.teardown(() => rmSync(shm, { recursive: true }));
  await mixedWrites(t, join(shm, 'stream'));
});

/** Until the test ends, writes past the page cache fail with `code` from the `from`th on; returns how many did. */
function refuseDirectWrites(t: Test, code: string, from: number): () => number {
  const original = nodeFs.write;
  let [seen, refused] = [0, 0];
  const isDirect = (fd: number): boolean => {
    const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0';
    return (parseInt(flags, 8) & constants.O_DIRECT) !== 0;
  };
  const fake = (fd: number, ...rest: unknown[]): void => {
    const answer = rest.at(-1) as (error: Error) => void;
    if (!isDirect(fd) || seen++ < from) return Reflect.apply(original, nodeFs, [fd, ...rest]) as undefined;
    refused++;
    setImmediate(() => answer(Object.assign(new Error('refused'), { code })));
  };
  nodeFs.write = fake as unknown as typeof original;
  syncBuiltinESMExports();
  t.teardown(() => {
    nodeFs.write = original;
    syncBuiltinESMExports();
  });
  return () => refused;
}

for (const code of ['EINVAL', 'EOPNOTSUPP']) {
  for (const from of [0, 5]) {
    t.test(
      `a file system that refuses direct writes with ${code} after ${from}: the page cache takes them`,
      async (t) => {
        const path = join(directory, `refusing-${code}-${from}`);
        const probe = await disk.open('test', path, 'create');
        await probe.write('test', Buffer.alloc(4096), 0, 'stream');
        const hasDirect = directDescriptors(path) > 0;
        await probe.close();
        if (!hasDirect) return t.comment(`${directory} has no direct I/O`);
        const refused = refuseDirectWrites(t, code, from);
        await mixedWrites(t, path);
        t.ok(
          refused() > 0 && refused() <= 16,
          `${refused()} were refused: those under way, and none was tried after them`,
        );
        t.equal(directDescriptors(path), 0, 'closed with the file');
      },
    );
  }
}

t.test('a direct write that fails otherwise is a failure', async (t) => {
  const path = join(directory, 'failing');
  const file = await disk.open('test', path, 'create');
  await file.write('test', Buffer.alloc(MAX_PAYLOAD_BYTES), 0, 'stream');
  if (directDescriptors(path) === 0) return t.comment(`${directory} has no direct I/O`);
  for (const code of ['ENOSPC', 'EIO'] as const) {
    await t.test(code, async (t) => {
      refuseDirectWrites(t, code, 0);
      await t.rejects(file.write('test', Buffer.alloc(MAX_PAYLOAD_BYTES), 0, 'stream'), { code });
    });
  }
  await file.close();
});

t.test('errors keep their errno and name what was tried', async (t) => {
  const missing = join(directory, 'missing');
  await t.rejects(disk.open('chunk.open', missing, 'existing'), { code: 'ENOENT', message: /^chunk\.open .*missing/ });
  await t.rejects(disk.open('test', join(directory, 'a'), 'exclusive'), { code: 'EEXIST' });
  await t.rejects(disk.unlink('test', missing), { code: 'ENOENT' });
  await t.rejects(disk.space('test', missing), { code: 'ENOENT' });
  symlinkSync('/dev/full', join(directory, 'full'));
  const full = await disk.open('test', join(directory, 'full'), 'existing');
  await t.rejects(full.write('test', Buffer.from('x'), 0), { code: 'ENOSPC' });
  try {
    full.writeSync('test', Buffer.from('x'), 0);
    t.fail('a full disk must refuse');
  } catch (error) {
    t.ok(hasCode(error, 'ENOSPC'));
  }
  await full.close();
});

t.test('directories: make, list, rename, sync, space', async (t) => {
  const sub = join(directory, 'sub');
  await disk.mkdir('test', sub);
  await t.rejects(disk.mkdir('test', sub), { code: 'EEXIST' });
  for (const name of ['one', 'two']) await (await disk.open('test', join(sub, name), 'exclusive')).close();
  await disk.rename('test', join(sub, 'two'), join(sub, 'three'));
  await disk.syncDirectory('test', sub);
  const names: string[] = [];
  for await (const name of disk.list('test', sub)) names.push(name);
  t.same(names.sort(), ['one', 'three']);
  await disk.unlink('test', join(sub, 'one'));
  const space = await disk.space('test', sub);
  t.ok(space.totalBytes >= space.freeBytes && space.freeBytes > 0);
  t.match(disk.bootId(), /^[0-9a-f-]{36}$/);
});

t.test('a directory has one holder', async (t) => {
  const release = await disk.lock('test', directory);
  await t.rejects(new NodeDisk().lock('test', directory), { code: 'EBUSY', message: /another process/ });
  await release();
  await (
    await disk.lock('test', directory)
  )();
});

t.test('nobody else can take the lock of a directory that he cannot open, and none outlives its holder', async (t) => {
  // What an earlier release took for the lock, anybody could take.
  const { dev, ino } = await stat(directory);
  const stranger = createServer().listen(`\0cairnfs-${dev}-${ino}`);
  t.teardown(() => stranger.close());
  await (
    await disk.lock('test', directory)
  )();
  const other = join(directory, 'by-another-name');
  await symlink(directory, other);
  const module = new URL('../../src/core/disk/node-disk.js', import.meta.url).href;
  const code = `import { NodeDisk } from '${module}'; await new NodeDisk().lock('test', '${other}'); console.log('has it'); setTimeout(() => 0, 60000);`;
  const holder = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.teardown(() => holder.kill('SIGKILL'));
  await once(holder.stdout, 'data');
  await t.rejects(disk.lock('test', directory), { code: 'EBUSY' });
  holder.kill('SIGKILL');
  await once(holder, 'close');
  await (
    await disk.lock('test', directory)
  )();
  await t.rejects(disk.lock('test', join(directory, 'none')), { code: 'ENOENT' });
  const path = process.env['PATH'];
  process.env['PATH'] = '/nonexistent';
  await t.rejects(disk.lock('test', directory), { code: 'EOPNOTSUPP', message: /install the package util-linux/ });
  process.env['PATH'] = path;
});

t.test('a disk that is not reached, or cannot read a sector, fails with EIO, whatever it says', async (t) => {
  const file = await disk.open('test', join(directory, 'unreached'), 'create');
  const original = nodeFs.writeSync;
  t.teardown(() => {
    nodeFs.writeSync = original;
    syncBuiltinESMExports();
  });
  for (const [code, expected] of [
    ...['ENOTCONN', 'ESTALE', 'ETIMEDOUT', 'ENODATA', 'EUCLEAN'].map((each) => [each, 'EIO'] as const),
    ...['ENOSPC', 'EROFS', 'EACCES'].map((each) => [each, each] as const),
  ]) {
    nodeFs.writeSync = () => {
      throw Object.assign(new Error('planted'), { code });
    };
    syncBuiltinESMExports();
    t.throws(() => file.writeSync('test', Buffer.alloc(1), 0), { code: expected });
  }
  await file.close();
});
