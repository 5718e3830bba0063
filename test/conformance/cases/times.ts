/** Which calls move mtime and ctime, utimensat(2), and times far from now. */
import assert from 'node:assert/strict';
import type { Timespec } from '../../../src/core/clock.js';
import { alice, bob, fails, isLater, name, READ_ONLY, root } from '../case.js';
import type { ConformanceCase } from '../case.js';

export const timeCases: readonly ConformanceCase[] = [
  {
    name: 'times: changes of entries move mtime and ctime of the directory',
    run: async (c) => {
      const d = await c.mkdir('d');
      const e = await c.mkdir('e');
      const f = await c.file('f');
      const both = { mtime: true, ctime: true };
      assert.deepEqual(await c.times(d, () => c.file('a', undefined, { parent: d })), both);
      assert.deepEqual(await c.times(d, () => c.mkdir('b', 0o755, root, d)), both);
      assert.deepEqual(await c.times(d, () => c.fs.symlink(root, d, name('s'), name('t'))), both);
      assert.deepEqual(await c.times(d, () => c.fs.link(root, f, d, name('l'))), both);
      assert.deepEqual(await c.times(d, () => c.fs.unlink(root, d, name('l'))), both);
      assert.deepEqual(await c.times(d, () => c.fs.removeDirectory(root, d, name('b'))), both);
      assert.deepEqual(await c.times(d, () => c.rename('a', 'a2', { fromParent: d, toParent: d })), both);
      assert.deepEqual(await c.times(d, () => c.rename('a2', 'a', { fromParent: d, toParent: e })), both);
      assert.deepEqual(await c.times(d, () => c.rename('a', 'a', { fromParent: e, toParent: d })), both);
      assert.deepEqual(await c.times(d, () => c.lookup('a', d)), { mtime: false, ctime: false });
      assert.deepEqual(await c.times(d, () => c.fs.readDirectory(root, d, 0)), { mtime: false, ctime: false });
    },
  },
  {
    name: 'times: what is known about an inode moves its ctime alone',
    run: async (c) => {
      const f = await c.file('f', name('x'));
      const alone = { mtime: false, ctime: true };
      assert.deepEqual(await c.times(f, () => c.fs.setAttributes(root, f, { mode: 0o600 })), alone);
      assert.deepEqual(await c.times(f, () => c.fs.setAttributes(root, f, { uid: 5 })), alone);
      assert.deepEqual(await c.times(f, () => c.fs.link(root, f, c.dir, name('g'))), alone);
      assert.deepEqual(await c.times(f, () => c.fs.unlink(root, c.dir, name('g'))), alone);
      assert.deepEqual(await c.times(f, () => c.rename('f', 'h')), alone);
      assert.deepEqual(await c.times(f, () => c.fs.setXattr(root, f, name('user.a'), name('v'))), alone);
      assert.deepEqual(await c.times(f, () => c.fs.removeXattr(root, f, name('user.a'))), alone);
      const before = await c.attributes(f);
      await fails('EPERM', c.fs.setAttributes(alice, f, { mode: 0 }));
      assert.deepEqual((await c.attributes(f)).ctime, before.ctime, 'a refused change changes nothing');
      assert.equal((await c.attributes(f)).change, before.change);
    },
  },
  {
    name: 'times: writing and truncating move mtime and ctime',
    run: async (c) => {
      const f = await c.file('f', name('x'));
      const both = { mtime: true, ctime: true };
      const write = async (): Promise<void> => {
        const file = await c.opened(f);
        await file.write(0, name('y'));
        await file.close();
      };
      assert.deepEqual(await c.times(f, write), both);
      assert.deepEqual(await c.times(f, () => c.fs.setAttributes(root, f, { size: 0 })), both);
      assert.deepEqual(await c.times(f, () => c.fs.setAttributes(root, f, { size: 100 })), both);
      assert.deepEqual(await c.times(f, () => c.content(f)), { mtime: false, ctime: false });
      const openTruncate = async (): Promise<void> =>
        (await c.opened(f, { read: true, write: true, truncate: true })).close();
      assert.deepEqual(await c.times(f, openTruncate), both);
      const change = (await c.attributes(f)).change;
      await write();
      assert.ok((await c.attributes(f)).change > change, 'the change attribute grows');
    },
  },
  {
    name: 'times: a flush is no change: the times are those of the write',
    run: async (c) => {
      const file = await c.opened(await c.file('f', name('x')));
      await c.tick();
      await file.write(0, name('y'));
      const { mtime, ctime } = await file.attributes();
      await c.tick();
      await file.flush();
      const flushed = await file.attributes();
      assert.deepEqual({ mtime: flushed.mtime, ctime: flushed.ctime }, { mtime, ctime });
      await file.sync();
      await file.close();
      const closed = await c.attributes(file.inode);
      assert.deepEqual({ mtime: closed.mtime, ctime: closed.ctime }, { mtime, ctime });
    },
  },
  {
    name: 'times: a write takes an mtime that was set into the future back to now',
    run: async (c) => {
      const file = await c.opened(await c.file('f', name('x')));
      const future = { seconds: 5_000_000_000, nanoseconds: 1 };
      await c.fs.setAttributes(root, file.inode, { mtime: future });
      await c.tick();
      await file.write(0, name('y'));
      assert.ok(isLater(future, (await file.attributes()).mtime));
      await file.close();
      assert.ok(isLater(future, (await c.attributes(file.inode)).mtime));
    },
  },
  {
    name: 'times: a new node has one time, and moves its parent',
    run: async (c) => {
      const parent = await c.attributes(c.dir);
      await c.tick();
      const made = await c.fs.makeNode(root, c.dir, name('n'), { kind: 'file', mode: 0o600 });
      assert.deepEqual(made.atime, made.mtime);
      assert.deepEqual(made.mtime, made.ctime);
      assert.ok(made.ctime.seconds >= parent.ctime.seconds);
      assert.notDeepEqual((await c.attributes(c.dir)).mtime, parent.mtime);
    },
  },
  {
    name: 'utimensat: nanoseconds, before 1970, after 2106, now',
    run: async (c) => {
      const f = await c.file('f');
      const far = [
        { seconds: 0, nanoseconds: 0 },
        { seconds: 1_234_567_890, nanoseconds: 123_456_789 },
        { seconds: -1, nanoseconds: 999_999_999 },
        { seconds: -2_000_000_000, nanoseconds: 1 },
        { seconds: 2 ** 33, nanoseconds: 7 },
      ];
      for (const [index, mtime] of far.entries()) {
        const atime = far[(index + 1) % far.length] ?? mtime;
        await c.tick();
        const before = await c.attributes(f);
        const set = await c.fs.setAttributes(root, f, { atime, mtime });
        assert.deepEqual([set.atime, set.mtime], [atime, mtime]);
        const seen = await c.attributes(f);
        assert.deepEqual([seen.atime, seen.mtime], [atime, mtime]);
        assert.notDeepEqual(seen.ctime, before.ctime);
      }
      const only = { seconds: 42, nanoseconds: 24 };
      const kept = (await c.attributes(f)).atime;
      assert.deepEqual((await c.fs.setAttributes(root, f, { mtime: only })).atime, kept);
      const touched = await c.fs.setAttributes(root, f, { atime: 'now', mtime: 'now' });
      assert.deepEqual(touched.mtime, touched.atime);
      assert.ok(touched.mtime.seconds > 1_000_000);
    },
  },
  {
    name: 'utimensat: the owner sets any time, who may write sets now, others nothing',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice, mode: 0o644 });
      const time = { seconds: 5, nanoseconds: 6 };
      await c.fs.setAttributes(alice, f, { mtime: time });
      await fails('EPERM', c.fs.setAttributes(bob, f, { mtime: time }));
      await fails('EACCES', c.fs.setAttributes(bob, f, { mtime: 'now', atime: 'now' }));
      await c.fs.setAttributes(alice, f, { mode: 0o646 });
      await c.fs.setAttributes(bob, f, { mtime: 'now', atime: 'now' });
      await fails('EPERM', c.fs.setAttributes(bob, f, { mtime: time, atime: time }));
    },
  },
  {
    name: 'utimensat: now for one time alone is for the owner',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice, mode: 0o666 });
      await fails('EPERM', c.fs.setAttributes(bob, f, { mtime: 'now' }));
      await fails('EPERM', c.fs.setAttributes(bob, f, { atime: 'now' }));
      await c.fs.setAttributes(bob, f, { mtime: 'now', size: 0 });
      await c.fs.setAttributes(alice, f, { atime: 'now' });
    },
  },
  {
    name: 'atime: moves with the first read after a change, and is not lost with the close',
    run: async (c) => {
      const f = await c.file('f', name('content'));
      const atime = async (fs = c.fs): Promise<Timespec> => (await fs.getAttributes(f)).atime;
      const reads = async (): Promise<boolean> => {
        const before = await atime();
        await c.tick();
        const change = (await c.attributes(f)).change;
        const file = await c.opened(f, READ_ONLY);
        await file.read(0, 3);
        const read = (await file.attributes()).atime;
        await file.close();
        assert.deepEqual(await atime(), read, 'also after the close');
        assert.equal((await c.attributes(f)).change, change, 'nothing changed');
        return isLater(read, before);
      };
      await c.tick();
      assert.equal(await reads(), true);
      assert.equal(await reads(), false, 'once');
      const { file, attributes } = await c.other.open(root, f, READ_ONLY);
      assert.deepEqual(attributes.atime, await atime(), 'for all');
      await file.close();
      await c.tick();
      await c.fs.setAttributes(root, f, { mode: 0o600 });
      assert.equal(await reads(), true, 'after a change');
      const old = { seconds: 1000, nanoseconds: 1 };
      await c.fs.setAttributes(root, f, { atime: old, mtime: old });
      assert.deepEqual(await atime(), old);
      const kept = await c.opened(f);
      await kept.read(0, 1);
      await c.fs.setAttributes(root, f, { atime: old });
      await kept.close();
      assert.deepEqual(await atime(), old, 'what is set by hand after the read stays');
      const empty = await c.file('empty');
      const before = (await c.attributes(empty)).atime;
      await c.tick();
      assert.equal((await c.content(empty)).length, 0);
      assert.deepEqual((await c.attributes(empty)).atime, before);
    },
  },
  {
    name: 'atime: of directories that are listed and symlinks that are read',
    run: async (c) => {
      const d = await c.mkdir('d');
      const s = (await c.fs.symlink(root, c.dir, name('s'), name('t'))).inode;
      const [dBefore, sBefore] = [await c.attributes(d), await c.attributes(s)];
      await c.tick();
      await c.fs.readDirectory(root, d, 0);
      await c.fs.readLink(root, s);
      const [dAfter, sAfter] = [await c.attributes(d), await c.attributes(s)];
      assert.ok(isLater(dAfter.atime, dBefore.atime), 'the directory');
      assert.ok(isLater(sAfter.atime, sBefore.atime), 'the symlink');
      assert.deepEqual([dAfter.ctime, dAfter.mtime], [dBefore.ctime, dBefore.mtime]);
    },
  },
  {
    name: 'utimensat after a write and before its close is not undone by the close',
    run: async (c) => {
      const f = await c.file('f');
      const time = { seconds: 1_000_000_001, nanoseconds: 5 };
      const file = await c.opened(f);
      await file.write(0, name('data'));
      await c.fs.setAttributes(root, f, { mtime: time });
      await file.close();
      assert.deepEqual((await c.attributes(f)).mtime, time);
      assert.equal((await c.attributes(f)).size, 4);
    },
  },
];
