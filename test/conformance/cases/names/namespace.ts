/** Names, kinds of nodes, hard links, symlinks, and their removal. */
import assert from 'node:assert/strict';
import { inodeId } from '../../../../src/core/ids.js';
import { MAX_NAME_BYTES, MAX_PATH_BYTES } from '../../../../src/core/limits.js';
import { alice, fails, name, READ_WRITE, root, WRITE_ONLY } from '../../case.js';
import type { ConformanceCase } from '../../case.js';

const KINDS = [
  { kind: 'file', type: 0o100000 },
  { kind: 'directory', type: 0o040000 },
  { kind: 'fifo', type: 0o010000 },
  { kind: 'socket', type: 0o140000 },
  { kind: 'characterDevice', type: 0o020000 },
  { kind: 'blockDevice', type: 0o060000 },
] as const;

export const namespaceCases: readonly ConformanceCase[] = [
  {
    name: 'makeNode: every kind, with mode, owner and link count',
    run: async (c) => {
      for (const { kind, type } of KINDS) {
        const made = await c.fs.makeNode(root, c.dir, name(kind), { kind, mode: 0o640, rdev: 0x0103 });
        const seen = await c.lookup(kind);
        assert.equal(seen.inode, made.inode);
        assert.equal(seen.mode, type | 0o640, kind);
        assert.equal(seen.nlink, kind === 'directory' ? 2 : 1);
        assert.equal(seen.uid, 0);
        if (kind === 'characterDevice' || kind === 'blockDevice') assert.equal(seen.rdev, 0x0103);
      }
      assert.equal((await c.attributes(c.dir)).nlink, 3);
      const page = await c.fs.readDirectory(root, c.dir, 0);
      assert.deepEqual(
        new Map(page.entries.map((e) => [e.name.toString(), e.kind])),
        new Map(KINDS.map((k) => [k.kind, k.kind])),
      );
    },
  },
  {
    name: 'makeNode: EEXIST for every kind of existing name, ENOTDIR and ENOENT for the parent',
    run: async (c) => {
      const file = await c.file('f');
      await c.mkdir('d');
      await c.fs.symlink(root, c.dir, name('s'), name('nowhere'));
      for (const existing of ['f', 'd', 's']) {
        for (const kind of ['directory', 'fifo', 'file'] as const) {
          await fails('EEXIST', c.fs.makeNode(root, c.dir, name(existing), { kind, mode: 0o700 }));
        }
        await fails('EEXIST', c.fs.symlink(root, c.dir, name(existing), name('x')));
        await fails('EEXIST', c.fs.link(root, file, c.dir, name(existing)));
      }
      await fails('ENOTDIR', c.fs.makeNode(root, file, name('x'), { kind: 'directory', mode: 0o700 }));
      await fails('ENOTDIR', c.fs.create(root, file, name('x'), { mode: 0o644, flags: READ_WRITE }));
      await fails('ENOTDIR', c.fs.symlink(root, file, name('x'), name('y')));
      await fails('ENOTDIR', c.fs.link(root, file, file, name('x')));
      await fails('ENOTDIR', c.fs.lookup(root, file, name('x')));
      await fails('ENOTDIR', c.fs.unlink(root, file, name('x')));
      await fails('ENOTDIR', c.fs.removeDirectory(root, file, name('x')));
      const missing = inodeId(2 ** 40);
      await fails(['ENOENT', 'ESTALE'], c.fs.makeNode(root, missing, name('x'), { kind: 'file', mode: 0o600 }));
      await fails(['ENOENT', 'ESTALE'], c.fs.getAttributes(missing));
      await fails(['ENOENT', 'ESTALE'], c.fs.open(root, missing, READ_WRITE));
    },
  },
  {
    name: 'names: any bytes but / and NUL, up to NAME_MAX',
    run: async (c) => {
      const odd = [
        Buffer.from([0xff, 0xfe, 0x80]),
        name(' '),
        name('\n'),
        name('...'),
        name('\\'),
        name('\u00e9\u4e2d'),
      ];
      const longest = Buffer.alloc(MAX_NAME_BYTES, 'n');
      for (const each of [...odd, longest]) {
        const { inode } = await c.fs.makeNode(root, c.dir, each, { kind: 'file', mode: 0o600 });
        assert.equal((await c.fs.lookup(root, c.dir, each)).inode, inode);
      }
      const page = await c.fs.readDirectory(root, c.dir, 0);
      assert.deepEqual(
        page.entries.map((e) => e.name.toString('hex')).sort(),
        [...odd, longest].map((each) => each.toString('hex')).sort(),
      );
      for (const each of odd) await c.fs.unlink(root, c.dir, each);
      const tooLong = Buffer.alloc(MAX_NAME_BYTES + 1, 'n');
      const node = { kind: 'file', mode: 0o600 } as const;
      await fails('ENAMETOOLONG', c.fs.makeNode(root, c.dir, tooLong, node));
      await fails('ENAMETOOLONG', c.fs.lookup(root, c.dir, tooLong));
      await fails('ENAMETOOLONG', c.fs.create(root, c.dir, tooLong, { mode: 0o600, flags: READ_WRITE }));
      await fails('ENAMETOOLONG', c.fs.symlink(root, c.dir, tooLong, name('x')));
      await fails('ENAMETOOLONG', c.fs.unlink(root, c.dir, tooLong));
      await fails('ENAMETOOLONG', c.fs.removeDirectory(root, c.dir, tooLong));
      await fails('ENAMETOOLONG', c.rename(longest.toString(), tooLong.toString()));
      const refusals = ['EINVAL', 'EEXIST', 'ENOENT'] as const;
      for (const bad of ['', '.', '..', 'a/b', 'a\0b']) {
        await fails(refusals, c.fs.makeNode(root, c.dir, name(bad), node));
        await fails(['EINVAL', 'EBUSY', 'ENOENT', 'EEXIST'], c.rename(longest.toString(), bad));
        await fails(['EINVAL', 'EISDIR', 'ENOENT'], c.fs.unlink(root, c.dir, name(bad)));
        await fails(['EINVAL', 'ENOTEMPTY', 'ENOENT'], c.fs.removeDirectory(root, c.dir, name(bad)));
      }
    },
  },
  {
    name: 'lookup, unlink, removeDirectory: ENOENT, EISDIR, ENOTDIR, ENOTEMPTY',
    run: async (c) => {
      await c.file('f');
      const d = await c.mkdir('d');
      await c.file('inside', undefined, { parent: d });
      await fails('ENOENT', c.lookup('none'));
      await fails('ENOENT', c.fs.unlink(root, c.dir, name('none')));
      await fails('ENOENT', c.fs.removeDirectory(root, c.dir, name('none')));
      await fails(['EISDIR', 'EPERM'], c.fs.unlink(root, c.dir, name('d')));
      await fails('ENOTDIR', c.fs.removeDirectory(root, c.dir, name('f')));
      await fails(['ENOTEMPTY', 'EEXIST'], c.fs.removeDirectory(root, c.dir, name('d')));
      await c.fs.unlink(root, d, name('inside'));
      await c.fs.removeDirectory(root, c.dir, name('d'));
      await c.fs.unlink(root, c.dir, name('f'));
      await fails('ENOENT', c.lookup('d'));
      await fails('ENOENT', c.lookup('f'));
      assert.deepEqual(await c.names(), []);
      await fails(['ENOENT', 'ESTALE', 'ENOTDIR'], c.file('late', undefined, { parent: d }));
      await fails(['ENOENT', 'ESTALE', 'ENOTDIR'], c.mkdir('late', 0o755, root, d));
    },
  },
  {
    name: 'link: counts, shared inode, EPERM for directories, ENOENT for unlinked',
    run: async (c) => {
      const inode = await c.file('a', name('same'));
      const other = await c.mkdir('other');
      const linked = await c.fs.link(root, inode, other, name('b'));
      assert.equal(linked.inode, inode);
      assert.equal(linked.nlink, 2);
      assert.equal((await c.lookup('a')).nlink, 2);
      await c.fs.unlink(root, c.dir, name('a'));
      assert.equal((await c.lookup('b', other)).nlink, 1);
      assert.equal((await c.content(inode)).toString(), 'same');
      const s = await c.fs.symlink(root, c.dir, name('s'), name('target'));
      assert.equal((await c.fs.link(root, s.inode, c.dir, name('s2'))).nlink, 2);
      await fails('EPERM', c.fs.link(root, other, c.dir, name('dirlink')));
      const file = await c.opened(inode);
      await c.fs.unlink(root, other, name('b'));
      await fails(['ENOENT', 'ESTALE'], c.fs.link(root, inode, c.dir, name('back')));
      await file.close();
    },
  },
  {
    name: 'symlink: any target, its length, EINVAL on others, limits',
    run: async (c) => {
      const targets = [name('t'), Buffer.from([0x2f, 0xff, 0x80]), Buffer.alloc(MAX_PATH_BYTES, 'p')];
      for (const [index, target] of targets.entries()) {
        const made = await c.fs.symlink(alice, c.dir, name(`s${index}`), target);
        assert.equal(made.mode, 0o120777);
        assert.equal(made.size, target.length);
        assert.equal(made.uid, alice.uid);
        assert.deepEqual(await c.fs.readLink(root, made.inode), target);
      }
      await fails('ENAMETOOLONG', c.fs.symlink(root, c.dir, name('x'), Buffer.alloc(MAX_PATH_BYTES + 1, 'p')));
      await fails(['ENOENT', 'EINVAL'], c.fs.symlink(root, c.dir, name('x'), name('')));
      await fails('EINVAL', c.fs.readLink(root, await c.file('f')));
      await fails('EINVAL', c.fs.readLink(root, c.dir));
    },
  },
  {
    name: 'open: symlinks ELOOP, directories EISDIR, special files refused',
    run: async (c) => {
      await c.fs.symlink(root, c.dir, name('s'), name('x'));
      const d = await c.mkdir('d');
      await fails('ELOOP', c.fs.openAt(root, c.dir, name('s'), READ_WRITE));
      await fails('ELOOP', c.fs.create(root, c.dir, name('s'), { mode: 0o600, flags: READ_WRITE }));
      await fails('EISDIR', c.fs.open(root, d, WRITE_ONLY));
      await fails('EISDIR', c.fs.openAt(root, c.dir, name('d'), WRITE_ONLY));
      await fails('EISDIR', c.fs.create(root, c.dir, name('d'), { mode: 0o600, flags: WRITE_ONLY }));
      await fails('ENOENT', c.fs.openAt(root, c.dir, name('none'), READ_WRITE));
    },
  },
  {
    name: 'create: made once, exclusive EEXIST, existing keeps its mode and content',
    run: async (c) => {
      const options = { mode: 0o640, flags: READ_WRITE };
      const first = await c.fs.create(alice, c.dir, name('f'), options);
      assert.equal(first.created, true);
      assert.equal(first.attributes.mode, 0o100640);
      assert.equal(first.attributes.uid, alice.uid);
      assert.equal(first.attributes.gid, alice.gid);
      await first.file.write(0, name('content'));
      await first.file.close();
      const second = await c.fs.create(alice, c.dir, name('f'), { ...options, mode: 0o777 });
      assert.equal(second.created, false);
      assert.equal(second.attributes.mode, 0o100640);
      assert.equal(second.attributes.size, 7);
      await second.file.close();
      await fails('EEXIST', c.fs.create(root, c.dir, name('f'), { ...options, exclusive: true }));
      const third = await c.fs.create(alice, c.dir, name('f'), {
        ...options,
        flags: { ...READ_WRITE, truncate: true },
      });
      assert.equal(third.attributes.size, 0);
      await third.file.close();
      const readOnlyMode = await c.fs.create(alice, c.dir, name('g'), { mode: 0o400, flags: READ_WRITE });
      await readOnlyMode.file.write(0, name('the open that creates may write'));
      await readOnlyMode.file.close();
    },
  },
  {
    name: 'a name can be made again after its removal, as a new inode',
    run: async (c) => {
      const seen = new Set<number>();
      for (let round = 0; round < 5; round++) {
        const file = await c.file('x', name(`round ${round}`));
        assert.equal((await c.content(file)).toString(), `round ${round}`);
        await c.fs.unlink(root, c.dir, name('x'));
        const directory = await c.mkdir('x');
        await c.fs.removeDirectory(root, c.dir, name('x'));
        assert.ok(!seen.has(file) && !seen.has(directory) && file !== directory);
        seen.add(file).add(directory);
      }
    },
  },
  {
    name: 'statFs: sane figures',
    run: async (c) => {
      const stats = await c.fs.statFs();
      assert.ok(stats.totalBytes > 0 && stats.freeBytes >= 0 && stats.freeBytes <= stats.totalBytes);
      assert.equal(stats.maxNameBytes, MAX_NAME_BYTES);
      await c.fs.syncMetadata();
    },
  },
];
