/** open(2) with O_TMPFILE, and linkat(2) of such a file. */
import assert from 'node:assert/strict';
import { alice, bob, fails, name, READ_ONLY, READ_WRITE, root, WRITE_ONLY } from '../../case.js';
import type { ConformanceCase } from '../../case.js';

export const temporaryCases: readonly ConformanceCase[] = [
  {
    name: 'O_TMPFILE: a file without a name, which goes with its last close',
    run: async (c) => {
      const before = await c.attributes(c.dir);
      const { file, attributes } = await c.fs.createTemporary(alice, c.dir, { mode: 0o640, flags: READ_WRITE });
      assert.deepEqual([attributes.nlink, attributes.mode, attributes.uid], [0, 0o100640, alice.uid]);
      assert.deepEqual(await c.names(), []);
      assert.deepEqual((await c.attributes(c.dir)).mtime, before.mtime);
      await file.write(0, name('scratch'));
      assert.equal((await file.read(0, 100)).toString(), 'scratch');
      assert.equal((await file.attributes()).size, 7);
      const again = await c.opened(file.inode, READ_ONLY);
      await file.close();
      assert.equal((await again.read(0, 100)).toString(), 'scratch');
      await again.close();
      await c.tick();
      assert.ok(await c.isGone(file.inode));
    },
  },
  {
    name: 'O_TMPFILE: link gives it a name, once it has one it is a file like any',
    run: async (c) => {
      const { file } = await c.fs.createTemporary(root, c.dir, { mode: 0o600, flags: WRITE_ONLY });
      await file.write(0, name('complete'));
      await file.sync();
      const linked = await c.fs.link(root, file.inode, c.dir, name('f'));
      assert.equal(linked.nlink, 1);
      await file.close();
      await c.tick();
      assert.equal((await c.content((await c.lookup('f')).inode, c.other)).toString(), 'complete');
      await c.fs.link(root, file.inode, c.dir, name('g'));
      await c.fs.unlink(root, c.dir, name('f'));
      const held = await c.opened(file.inode);
      await c.fs.unlink(root, c.dir, name('g'));
      await fails('ENOENT', c.fs.link(root, file.inode, c.dir, name('h')));
      await held.close();
      assert.ok(await c.isGone(file.inode));
    },
  },
  {
    name: 'O_TMPFILE: refusals: O_EXCL forbids a name, the directory decides who may',
    run: async (c) => {
      const options = { mode: 0o600, flags: READ_WRITE, exclusive: true };
      const { file } = await c.fs.createTemporary(root, c.dir, options);
      await fails('ENOENT', c.fs.link(root, file.inode, c.dir, name('f')));
      await file.close();
      await fails('EINVAL', c.fs.createTemporary(root, c.dir, { mode: 0o600, flags: READ_ONLY }));
      const shut = await c.mkdir('shut', 0o755, alice);
      await fails('EACCES', c.fs.createTemporary(bob, shut, { mode: 0o600, flags: READ_WRITE }));
      await fails('ENOTDIR', c.fs.createTemporary(root, await c.file('f'), { mode: 0o600, flags: READ_WRITE }));
      const umasked = await c.fs.createTemporary(alice, shut, { mode: 0o666, umask: 0o027, flags: READ_WRITE });
      assert.equal(umasked.attributes.mode, 0o100640);
      await umasked.file.close();
    },
  },
];
