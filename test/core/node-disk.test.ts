import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { hasCode } from '../../src/core/errors.js';
import { NodeDisk } from '../../src/core/node-disk.js';

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
