/** rename(2) and renameat2(2). */
import assert from 'node:assert/strict';
import { S_IFCHR } from '../../../../src/core/mode.js';
import { alice, bob, fails, name, root } from '../../case.js';
import type { ConformanceCase } from '../../case.js';

export const renameCases: readonly ConformanceCase[] = [
  {
    name: 'rename: every kind, within and across directories',
    run: async (c) => {
      const to = await c.mkdir('to');
      const nodes = {
        f: await c.file('f', name('data')),
        d: await c.mkdir('d'),
        s: (await c.fs.symlink(root, c.dir, name('s'), name('target'))).inode,
        p: (await c.fs.makeNode(root, c.dir, name('p'), { kind: 'fifo', mode: 0o600 })).inode,
      };
      await c.file('inside', undefined, { parent: nodes.d });
      for (const [text, inode] of Object.entries(nodes)) {
        await c.rename(text, `${text}2`);
        assert.equal(await c.exists(text), false);
        await c.rename(`${text}2`, text, { toParent: to });
        assert.equal((await c.lookup(text, to)).inode, inode);
      }
      assert.deepEqual(await c.names(), ['to']);
      assert.deepEqual(await c.names(to), ['d', 'f', 'p', 's']);
      assert.deepEqual(await c.names(nodes.d), ['inside']);
      assert.equal((await c.fs.readDirectory(root, nodes.d, 0)).parent, to);
      assert.equal((await c.attributes(c.dir)).nlink, 3);
      assert.equal((await c.attributes(to)).nlink, 3);
      assert.equal((await c.content(nodes.f)).toString(), 'data');
    },
  },
  {
    name: 'rename over existing: files, empty directories, and what is refused',
    run: async (c) => {
      const a = await c.file('a', name('a'));
      await c.file('b', name('b'));
      await c.rename('a', 'b');
      assert.equal((await c.lookup('b')).inode, a);
      assert.deepEqual(await c.names(), ['b']);
      const d1 = await c.mkdir('d1');
      const d2 = await c.mkdir('d2');
      await fails('EISDIR', c.rename('b', 'd1'));
      await fails('ENOTDIR', c.rename('d1', 'b'));
      await c.file('x', undefined, { parent: d2 });
      await fails(['ENOTEMPTY', 'EEXIST'], c.rename('d1', 'd2'));
      await c.rename('d2', 'd1');
      assert.equal((await c.lookup('d1')).inode, d2);
      assert.deepEqual(await c.names(d2), ['x']);
      assert.equal((await c.attributes(c.dir)).nlink, 3);
      assert.ok(await c.isGone(d1));
      await c.fs.symlink(root, c.dir, name('s'), name('b'));
      await c.rename('b', 's');
      assert.equal((await c.lookup('s')).inode, a);
    },
  },
  {
    name: 'rename over a hard link: of the same inode nothing happens, of another it loses a link',
    run: async (c) => {
      const inode = await c.file('a');
      await c.fs.link(root, inode, c.dir, name('b'));
      await c.rename('a', 'b');
      assert.deepEqual(await c.names(), ['a', 'b']);
      assert.equal((await c.attributes(inode)).nlink, 2);
      await c.rename('a', 'a');
      await c.file('c');
      await c.rename('c', 'b');
      assert.equal((await c.attributes(inode)).nlink, 1);
      assert.deepEqual(await c.names(), ['a', 'b']);
    },
  },
  {
    name: 'rename: ENOENT, ENOTDIR, and EINVAL into its own subtree',
    run: async (c) => {
      const d = await c.mkdir('d');
      const below = await c.mkdir('below', 0o755, root, d);
      const file = await c.file('f');
      await fails('ENOENT', c.rename('none', 'x'));
      await fails('ENOTDIR', c.rename('f', 'x', { toParent: file }));
      await fails('ENOTDIR', c.rename('x', 'y', { fromParent: file }));
      await fails('EINVAL', c.rename('d', 'x', { toParent: d }));
      await fails('EINVAL', c.rename('d', 'x', { toParent: below }));
      await fails(['ENOTEMPTY', 'EEXIST'], c.rename('below', 'd', { fromParent: d, toParent: c.dir }));
      const gone = await c.mkdir('gone');
      await c.fs.removeDirectory(root, c.dir, name('gone'));
      await fails(['ENOENT', 'ESTALE', 'ENOTDIR'], c.rename('f', 'x', { toParent: gone }));
      assert.deepEqual(await c.names(), ['d', 'f']);
      assert.deepEqual(await c.names(d), ['below']);
    },
  },
  {
    name: 'rename NOREPLACE and EXCHANGE',
    run: async (c) => {
      const d = await c.mkdir('d');
      const f = await c.file('f', name('f'));
      const g = await c.file('g', name('g'), { parent: d });
      await fails('EEXIST', c.rename('f', 'd', { flags: { noReplace: true } }));
      await fails('EEXIST', c.rename('f', 'g', { toParent: d, flags: { noReplace: true } }));
      await fails('EINVAL', c.rename('f', 'x', { flags: { noReplace: true, exchange: true } }));
      await fails('ENOENT', c.rename('f', 'none', { flags: { exchange: true } }));
      await c.rename('f', 'f2', { flags: { noReplace: true } });
      await c.rename('f2', 'g', { toParent: d, flags: { exchange: true } });
      assert.equal((await c.lookup('f2')).inode, g);
      assert.equal((await c.lookup('g', d)).inode, f);
      const e = await c.mkdir('e');
      const inE = await c.mkdir('sub', 0o755, root, e);
      await c.rename('f2', 'sub', { toParent: e, flags: { exchange: true } });
      assert.equal((await c.lookup('f2')).inode, inE);
      assert.equal((await c.lookup('sub', e)).inode, g);
      assert.equal((await c.attributes(e)).nlink, 2);
      assert.equal((await c.attributes(c.dir)).nlink, 5);
      assert.equal((await c.fs.readDirectory(root, inE, 0)).parent, c.dir);
      await fails(['EINVAL', 'ENOENT'], c.rename('e', 'x', { toParent: e, flags: { exchange: true } }));
      const below = await c.mkdir('below', 0o755, root, e);
      await c.mkdir('deep', 0o755, root, below);
      await fails('EINVAL', c.rename('e', 'below', { toParent: e, flags: { exchange: true } }));
      await fails('EINVAL', c.rename('deep', 'e', { fromParent: below, toParent: c.dir, flags: { exchange: true } }));
    },
  },
  {
    name: 'rename WHITEOUT leaves a device 0,0 at the old name',
    run: async (c) => {
      const setgid = await c.mkdir('d', 0o777);
      await c.fs.setAttributes(root, setgid, { gid: bob.gid });
      await c.fs.setAttributes(root, setgid, { mode: 0o2777 });
      const file = await c.file('f', name('f'), { as: alice, parent: setgid });
      const sub = await c.mkdir('sub', 0o755, alice, setgid);
      await c.rename('f', 'g', { as: alice, fromParent: setgid, flags: { whiteout: true } });
      assert.equal((await c.lookup('g', setgid)).inode, file);
      const left = await c.lookup('f', setgid);
      assert.deepEqual(
        { mode: left.mode, rdev: left.rdev, nlink: left.nlink, uid: left.uid, gid: left.gid },
        { mode: S_IFCHR, rdev: 0, nlink: 1, uid: alice.uid, gid: bob.gid },
      );
      assert.deepEqual(await c.names(setgid), ['f', 'g', 'sub']);
      const closed = await c.mkdir('closed', 0o755, bob);
      const intoClosed = { as: alice, fromParent: setgid, toParent: closed, flags: { whiteout: true } };
      await fails('EACCES', c.rename('sub', 'sub', intoClosed));
      assert.deepEqual(await c.names(setgid), ['f', 'g', 'sub'], 'and nothing is left of it');
      await c.rename('sub', 'moved', { fromParent: setgid, toParent: c.dir, flags: { whiteout: true } });
      assert.equal((await c.lookup('moved')).inode, sub);
      assert.equal((await c.lookup('sub', setgid)).mode, S_IFCHR);
      assert.equal((await c.attributes(setgid)).nlink, 2);
      await c.rename('g', 'f', { as: alice, fromParent: setgid, flags: { whiteout: true } });
      assert.equal((await c.lookup('f', setgid)).inode, file, 'over a whiteout');
      assert.equal((await c.lookup('g', setgid)).mode, S_IFCHR);
      await fails('EEXIST', c.rename('f', 'g', { fromParent: setgid, flags: { whiteout: true, noReplace: true } }));
      await fails('EINVAL', c.rename('f', 'g', { fromParent: setgid, flags: { whiteout: true, exchange: true } }));
      await fails('ENOENT', c.rename('none', 'x', { fromParent: setgid, flags: { whiteout: true } }));
    },
  },
  {
    name: 'rename: permissions on both directories and on a directory that moves',
    run: async (c) => {
      const mine = await c.mkdir('mine', 0o755, alice);
      const closed = await c.mkdir('closed', 0o755, bob);
      await c.file('f', undefined, { as: alice, parent: mine });
      await c.file('theirs', undefined, { as: bob, parent: closed });
      await fails('EACCES', c.rename('f', 'x', { as: alice, fromParent: mine, toParent: closed }));
      await fails('EACCES', c.rename('theirs', 'x', { as: alice, fromParent: closed, toParent: mine }));
      await fails('EACCES', c.rename('f', 'x', { as: bob, fromParent: mine }));
      await c.rename('f', 'f2', { as: alice, fromParent: mine });
      const from = await c.mkdir('from', 0o777);
      await c.fs.setAttributes(root, from, { mode: 0o777 });
      await c.mkdir('sub', 0o755, bob, from);
      await c.rename('sub', 'sub2', { as: alice, fromParent: from });
      await fails(['EACCES', 'EPERM'], c.rename('sub2', 'sub', { as: alice, fromParent: from, toParent: mine }));
      await c.rename('sub2', 'sub', { as: bob, fromParent: from, toParent: c.dir });
    },
  },
  {
    name: 'rename of a directory that may not be written, over what is there: which error comes first',
    run: async (c) => {
      const from = await c.mkdir('from', 0o755, alice);
      const to = await c.mkdir('to', 0o755, alice);
      const d = await c.mkdir('d', 0o555, alice, from);
      await c.file('file', undefined, { parent: to, as: alice });
      const full = await c.mkdir('full', 0o755, alice, to);
      await c.file('inside', undefined, { parent: full, as: alice });
      const moving = { as: alice, fromParent: from, toParent: to };
      await fails('ENOTDIR', c.rename('d', 'file', moving));
      await fails('EACCES', c.rename('d', 'full', moving));
      await c.fs.setAttributes(alice, d, { mode: 0o755 });
      await fails(['ENOTEMPTY', 'EEXIST'], c.rename('d', 'full', moving));
    },
  },
  {
    name: 'rename in sticky directories: only owners',
    run: async (c) => {
      const sticky = await c.mkdir('sticky');
      await c.fs.setAttributes(root, sticky, { mode: 0o1777 });
      await c.file('a', undefined, { as: alice, parent: sticky });
      await c.file('b', undefined, { as: bob, parent: sticky });
      const refused = ['EPERM', 'EACCES'] as const;
      await fails(refused, c.rename('a', 'x', { as: bob, fromParent: sticky, toParent: sticky }));
      await fails(refused, c.rename('a', 'x', { as: bob, fromParent: sticky, toParent: c.dir }));
      await fails(refused, c.rename('b', 'a', { as: bob, fromParent: sticky, toParent: sticky }));
      await c.rename('a', 'a2', { as: alice, fromParent: sticky, toParent: sticky });
      await c.rename('a2', 'b', { as: root, fromParent: sticky, toParent: sticky });
      assert.deepEqual(await c.names(sticky), ['b']);
    },
  },
];
