/** Open files without names, several opens of one file, operations at the same time. */
import assert from 'node:assert/strict';
import { KIB } from '../../../../src/core/limits.js';
import { alice, equalBytes, fails, name, pattern, READ_ONLY, READ_WRITE, root } from '../../case.js';
import type { ConformanceCase } from '../../case.js';

export const openFileCases: readonly ConformanceCase[] = [
  {
    name: 'open-unlinked: reads, writes and attributes go on until the last close',
    run: async (c) => {
      const f = await c.file('f', name('before'));
      const one = await c.opened(f);
      const two = await c.opened(f, READ_ONLY);
      await c.fs.unlink(root, c.dir, name('f'));
      assert.equal(await c.exists('f'), false);
      assert.equal((await one.attributes()).nlink, 0);
      await one.write(6, pattern(200 * KIB, 3));
      await one.sync();
      equalBytes(await two.read(6, 300 * KIB), pattern(200 * KIB, 3), 'through the other open');
      await one.truncate(3);
      assert.equal((await two.read(0, 10)).toString(), 'bef');
      await one.close();
      assert.equal((await two.read(0, 10)).toString(), 'bef');
      await two.close();
      assert.ok(await c.isGone(f));
    },
  },
  {
    name: 'open-unlinked: it outlives the removal of others, which is when the master looks for what to remove',
    run: async (c) => {
      const kept = await c.opened(await c.file('kept', pattern(100 * KIB, 1)));
      await c.fs.unlink(root, c.dir, name('kept'));
      for (let round = 0; round < 4; round++) {
        const file = await c.opened(await c.file('other', name('x')));
        await c.fs.unlink(root, c.dir, name('other'));
        await file.close();
        await c.settle();
      }
      await kept.write(0, name('alive'));
      await kept.sync();
      assert.equal((await kept.read(0, 5)).toString(), 'alive');
      assert.equal((await kept.attributes()).nlink, 0);
      await kept.close();
    },
  },
  {
    name: 'open files follow renames and replaced names',
    run: async (c) => {
      const a = await c.file('a', name('aaa'));
      await c.file('b', name('bbb'));
      const old = await c.opened((await c.lookup('b')).inode);
      const moved = await c.opened(a);
      await c.rename('a', 'b');
      await moved.write(3, name('+'));
      await old.write(3, name('-'));
      assert.equal((await old.read(0, 10)).toString(), 'bbb-');
      assert.equal((await old.attributes()).nlink, 0);
      await old.close();
      await moved.close();
      assert.equal((await c.content((await c.lookup('b')).inode)).toString(), 'aaa+');
    },
  },
  {
    name: 'open files after rmdir of their directory',
    run: async (c) => {
      const d = await c.mkdir('d');
      const f = await c.file('f', name('x'), { parent: d });
      const file = await c.opened(f);
      await c.fs.unlink(root, d, name('f'));
      await c.fs.removeDirectory(root, c.dir, name('d'));
      assert.equal((await file.read(0, 1)).toString(), 'x');
      await file.close();
    },
  },
  {
    name: 'two opens in one client see each other at once',
    run: async (c) => {
      const f = await c.file('f');
      const one = await c.opened(f);
      const two = await c.opened(f);
      await one.write(0, name('one'));
      assert.equal((await two.read(0, 10)).toString(), 'one');
      await two.write(3, name('two'));
      assert.equal((await one.read(0, 10)).toString(), 'onetwo');
      assert.equal((await c.attributes(f)).size, 6, 'attributes know own unflushed writes');
      assert.equal((await c.lookup('f')).size, 6);
      await two.truncate(4);
      assert.equal((await one.read(0, 10)).toString(), 'onet');
      await one.close();
      assert.equal((await two.read(0, 10)).toString(), 'onet');
      await two.close();
    },
  },
  {
    name: 'truncate by path under an open file with unflushed writes',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      await file.write(0, pattern(90 * KIB, 8));
      await c.fs.setAttributes(root, f, { size: 10 });
      equalBytes(await file.read(0, 100), pattern(10, 8), 'cut');
      await file.write(20, name('x'));
      await file.close();
      const expected = Buffer.concat([pattern(10, 8), Buffer.alloc(10), name('x')]);
      equalBytes(await c.content(f), expected, 'after close');
    },
  },
  {
    name: 'a closed file is EBADF; sync and flush of clean files succeed',
    run: async (c) => {
      const f = await c.file('f', name('x'));
      const file = await c.opened(f);
      await file.flush();
      await file.sync();
      await file.flush();
      await file.close();
      await fails('EBADF', file.read(0, 1));
      await fails('EBADF', file.write(0, name('y')));
    },
  },
  {
    name: 'O_SYNC writes',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f, { ...READ_WRITE, sync: true });
      await file.write(0, pattern(70 * KIB, 1));
      assert.equal((await c.other.getAttributes(f)).size, 70 * KIB, 'published with the write');
      await file.write(70 * KIB, name('tail'));
      await file.close();
      equalBytes(await c.content(f), Buffer.concat([pattern(70 * KIB, 1), name('tail')]), 'content');
    },
  },
  {
    name: 'many writes in flight at once, in disjoint places',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      const bytes = pattern(64 * 3000, 12);
      const pieces = Array.from({ length: 64 }, (_, index) => index);
      await Promise.all(pieces.map((i) => file.write(i * 3000, bytes.subarray(i * 3000, (i + 1) * 3000))));
      const parts = await Promise.all(pieces.map((i) => file.read(i * 3000, 3000)));
      equalBytes(Buffer.concat(parts), bytes, 'read at once');
      await Promise.all([file.flush(), file.sync(), file.flush()]);
      await file.close();
      equalBytes(await c.content(f), bytes, 'after close');
    },
  },
  {
    name: 'many namespace operations in flight at once',
    run: async (c) => {
      const texts = Array.from({ length: 50 }, (_, index) => `f${index}`);
      const made = await Promise.allSettled([
        ...texts.map((text) => c.fs.makeNode(alice, c.dir, name(text), { kind: 'file', mode: 0o644 })),
        ...texts.map((text) => c.fs.makeNode(alice, c.dir, name(text), { kind: 'directory', mode: 0o755 })),
      ]);
      assert.equal(made.filter((each) => each.status === 'fulfilled').length, 50, 'each name once');
      assert.deepEqual(await c.names(), [...texts].sort());
      const creates = Array.from({ length: 10 }, () =>
        c.fs.create(root, c.dir, name('once'), { mode: 0o644, flags: READ_WRITE }),
      );
      const files = await Promise.all(creates);
      assert.equal(files.filter((each) => each.created).length, 1);
      assert.equal(new Set(files.map((each) => each.file.inode)).size, 1);
      for (const each of files) await each.file.close();
    },
  },
];
