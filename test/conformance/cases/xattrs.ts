/** Extended attributes: xattr(7), setxattr(2). */
import assert from 'node:assert/strict';
import { MAX_XATTR_NAME_BYTES, MAX_XATTR_VALUE_BYTES } from '../../../src/core/limits.js';
import { alice, bob, fails, name, pattern, root } from '../case.js';
import type { ConformanceCase } from '../case.js';

export const xattrCases: readonly ConformanceCase[] = [
  {
    name: 'xattrs: set, get, list, remove, flags',
    run: async (c) => {
      const f = await c.file('f');
      const a = name('user.a');
      assert.deepEqual(await c.fs.listXattrs(root, f), []);
      await fails('ENODATA', c.fs.getXattr(root, f, a));
      await fails('ENODATA', c.fs.removeXattr(root, f, a));
      await fails('ENODATA', c.fs.setXattr(root, f, a, name('v'), { replace: true }));
      await c.fs.setXattr(root, f, a, name('one'), { create: true });
      await fails('EEXIST', c.fs.setXattr(root, f, a, name('two'), { create: true }));
      assert.equal((await c.fs.getXattr(root, f, a)).toString(), 'one');
      await c.fs.setXattr(root, f, a, name('two'), { replace: true });
      await c.fs.setXattr(root, f, name('user.empty'), name(''));
      assert.equal((await c.fs.getXattr(root, f, a)).toString(), 'two');
      assert.equal((await c.fs.getXattr(root, f, name('user.empty'))).length, 0);
      const listed = (await c.fs.listXattrs(root, f)).map(String).sort();
      assert.deepEqual(listed, ['user.a', 'user.empty']);
      await c.fs.removeXattr(root, f, a);
      assert.deepEqual((await c.fs.listXattrs(root, f)).map(String), ['user.empty']);
    },
  },
  {
    name: 'xattrs: limits, binary values, and they follow the inode',
    run: async (c) => {
      const f = await c.file('f');
      const d = await c.mkdir('d');
      const long = name('user.' + 'n'.repeat(MAX_XATTR_NAME_BYTES - 5));
      const value = pattern(MAX_XATTR_VALUE_BYTES);
      await c.fs.setXattr(root, f, long, value);
      assert.deepEqual(await c.fs.getXattr(root, f, long), value);
      const tooMuch = pattern(MAX_XATTR_VALUE_BYTES + 1);
      await fails('E2BIG', c.fs.setXattr(root, f, name('user.b'), tooMuch));
      await fails(['ERANGE', 'ENAMETOOLONG'], c.fs.setXattr(root, f, Buffer.concat([long, name('n')]), name('v')));
      await c.rename('f', 'g', { toParent: d });
      assert.deepEqual(await c.fs.getXattr(root, f, long), value);
      await c.fs.setXattr(root, d, name('user.dir'), name('yes'));
      assert.equal((await c.fs.getXattr(root, d, name('user.dir'))).toString(), 'yes');
      await c.fs.unlink(root, d, name('g'));
      const again = await c.file('g', undefined, { parent: d });
      assert.deepEqual(await c.fs.listXattrs(root, again), [], 'a new inode has none');
    },
  },
  {
    name: 'P12: xattrs: user. needs r and w, trusted. is for root, unknown namespaces are refused',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice, mode: 0o640 });
      const a = name('user.a');
      await c.fs.setXattr(alice, f, a, name('v'));
      await fails('EACCES', c.fs.getXattr(bob, f, a));
      await fails('EACCES', c.fs.setXattr(bob, f, a, name('w')));
      await fails('EACCES', c.fs.removeXattr(bob, f, a));
      await c.fs.setXattr(root, f, name('trusted.t'), name('secret'));
      await fails(['EPERM', 'ENODATA'], c.fs.getXattr(alice, f, name('trusted.t')));
      await fails('EPERM', c.fs.setXattr(alice, f, name('trusted.t'), name('x')));
      assert.equal((await c.fs.getXattr(root, f, name('trusted.t'))).toString(), 'secret');
      assert.deepEqual((await c.fs.listXattrs(alice, f)).map(String), ['user.a']);
      await fails(['EOPNOTSUPP', 'EINVAL', 'EPERM'], c.fs.setXattr(root, f, name('other.x'), name('v')));
      const s = await c.fs.symlink(root, c.dir, name('s'), name('f'));
      await fails('EPERM', c.fs.setXattr(root, s.inode, a, name('v')));
      const fifo = await c.fs.makeNode(root, c.dir, name('fifo'), { kind: 'fifo', mode: 0o666 });
      await fails('EPERM', c.fs.setXattr(root, fifo.inode, a, name('v')));
      await fails('ENODATA', c.fs.getXattr(root, fifo.inode, a));
      await c.fs.setXattr(root, s.inode, name('trusted.t'), name('v'));
      const d = await c.mkdir('d', 0o755, alice);
      await c.fs.setAttributes(alice, d, { mode: 0o1777 });
      await fails('EPERM', c.fs.setXattr(bob, d, a, name('v')));
      await c.fs.setXattr(alice, d, a, name('v'));
      await fails('EPERM', c.fs.setXattr(alice, f, name('security.s'), name('v')));
    },
  },
];
