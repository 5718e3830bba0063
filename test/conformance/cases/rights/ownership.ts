/** chmod(2), chown(2), truncate(2): who may, and the set-user-ID, set-group-ID and sticky bits. */
import assert from 'node:assert/strict';
import { alice, bob, carol, fails, name, pattern, READ_WRITE, root, SHARED_GROUP } from '../../case.js';
import type { Credentials, OpenFile } from '../../../../src/filesystem/filesystem.js';
import type { ConformanceCase } from '../../case.js';

/** CAP_NET_RAW as a program's xattr says it: version 2, two words of two sets. */
const NET_RAW = Buffer.from('0100000200200000000000000000000000000000', 'hex');

export const ownershipCases: readonly ConformanceCase[] = [
  {
    name: 'chmod: owner and root, every bit, EPERM for others',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice });
      for (const mode of [0, 0o777, 0o4755, 0o2755, 0o1644, 0o7777]) {
        assert.equal((await c.fs.setAttributes(alice, f, { mode })).mode, 0o100000 | mode);
        assert.equal((await c.lookup('f')).mode, 0o100000 | mode);
      }
      await fails('EPERM', c.fs.setAttributes(bob, f, { mode: 0o777 }));
      await c.fs.setAttributes(root, f, { mode: 0o6777 });
      await fails('EPERM', c.fs.setAttributes(bob, f, { mode: 0o777 })); // though writing would do as much
      await c.fs.setAttributes(root, f, { mode: 0o600 });
      assert.equal((await c.attributes(f)).mode, 0o100600);
      const d = await c.mkdir('d', 0o755, alice);
      assert.equal((await c.fs.setAttributes(alice, d, { mode: 0o1777 })).mode, 0o041777);
    },
  },
  {
    name: 'chmod by an owner outside the group clears set-group-ID',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice });
      await c.fs.setAttributes(root, f, { gid: 4242 });
      assert.equal((await c.fs.setAttributes(alice, f, { mode: 0o2755 })).mode, 0o100755);
      assert.equal((await c.fs.setAttributes(root, f, { mode: 0o2755 })).mode, 0o102755);
      await c.fs.setAttributes(root, f, { gid: SHARED_GROUP });
      assert.equal((await c.fs.setAttributes(alice, f, { mode: 0o2755 })).mode, 0o102755);
    },
  },
  {
    name: 'chown: root gives away, owners change to their groups, EPERM otherwise',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice });
      const given = await c.fs.setAttributes(root, f, { uid: 77, gid: 88 });
      assert.deepEqual([given.uid, given.gid], [77, 88]);
      await c.fs.setAttributes(root, f, { uid: alice.uid, gid: alice.gid });
      assert.equal((await c.fs.setAttributes(alice, f, { gid: SHARED_GROUP })).gid, SHARED_GROUP);
      assert.equal((await c.fs.setAttributes(alice, f, { uid: alice.uid, gid: alice.gid })).gid, alice.gid);
      await fails('EPERM', c.fs.setAttributes(alice, f, { gid: 9999 }));
      await fails('EPERM', c.fs.setAttributes(alice, f, { uid: bob.uid }));
      await fails('EPERM', c.fs.setAttributes(bob, f, { uid: bob.uid }));
      await fails('EPERM', c.fs.setAttributes(bob, f, { gid: SHARED_GROUP }));
      const s = await c.fs.symlink(root, c.dir, name('s'), name('f'));
      assert.equal((await c.fs.setAttributes(root, s.inode, { uid: 5, gid: 6 })).uid, 5);
      assert.equal((await c.attributes(f)).uid, alice.uid);
    },
  },
  {
    name: 'chown by the owner clears set-user-ID and set-group-ID of a program',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice });
      await c.fs.setAttributes(root, f, { mode: 0o6755 });
      assert.equal((await c.fs.setAttributes(alice, f, { gid: SHARED_GROUP })).mode & 0o7777, 0o755);
    },
  },
  {
    name: 'writing and truncating by another than root clears set-user-ID, set-group-ID and capabilities',
    run: async (c) => {
      const capability = name('security.capability');
      const f = await c.file('f', name('content'), { as: alice, mode: 0o666 });
      const ready = async (mode: number): Promise<void> => {
        await c.fs.setAttributes(root, f, { mode });
        await c.fs.setXattr(root, f, capability, NET_RAW);
      };
      const after = async (): Promise<string> => {
        const { mode } = await c.attributes(f);
        assert.equal((await c.lookup('f')).mode, mode);
        return (mode & 0o7777).toString(8);
      };
      for (const who of [alice, bob]) {
        await c.fs.setAttributes(root, f, { mode: 0o666 });
        const { file } = await c.fs.open(who, f, READ_WRITE);
        await ready(0o6777);
        await c.tick();
        await file.write(0, name('x'));
        assert.equal(await after(), '777', 'at once');
        await file.flush();
        await fails('ENODATA', c.fs.getXattr(root, f, capability));
        await ready(0o6777);
        await file.truncate(3);
        assert.equal(await after(), '777');
        await fails('ENODATA', c.fs.getXattr(root, f, capability));
        await ready(0o6777);
        await c.fs.setAttributes(who, f, { size: 2 });
        assert.equal(await after(), '777');
        await ready(0o6777);
        await (await c.fs.open(who, f, { ...READ_WRITE, truncate: true })).file.close();
        assert.equal(await after(), '777');
        await file.write(0, name('x'));
        await c.fs.setAttributes(root, f, { mode: 0o4755 });
        await file.close();
        assert.equal(await after(), '4755', 'chmod after the write');
      }
      await ready(0o6777);
      const file = await c.opened(f);
      await file.write(0, name('root'));
      await file.close();
      assert.equal(await after(), '6777');
      await fails('ENODATA', c.fs.getXattr(root, f, capability));
      const killed = await c.opened(f);
      await killed.write(0, name('x'), { killPrivileges: true });
      assert.equal(await after(), '777');
      await killed.close();
    },
  },
  {
    name: 'a write of nothing, and one that is refused, takes no setuid away, nor does a write of root after it',
    run: async (c) => {
      const f = await c.file('f', name('x'), { mode: 0o755 });
      await c.fs.setAttributes(root, f, { uid: alice.uid });
      const { file: hers } = await c.fs.open(alice, f, READ_WRITE);
      const roots = await c.opened(f);
      for (const nothing of [
        () => hers.write(0, Buffer.alloc(0)),
        () => fails(['EFBIG', 'EINVAL'], hers.write(Number.MAX_SAFE_INTEGER - 1, name('x'))),
      ]) {
        await nothing();
        await c.fs.setAttributes(root, f, { mode: 0o4755 });
        await nothing();
        await roots.write(0, name('root'));
        await roots.flush();
        assert.equal((await c.attributes(f)).mode & 0o7777, 0o4755);
      }
      await hers.close();
      await roots.close();
    },
  },
  {
    name: 'chown of the group keeps setgid without x of the group for an owner who is in the group by a supplementary one',
    run: async (c) => {
      const f = await c.file('f', name('x'), { mode: 0o644 });
      await c.fs.setAttributes(root, f, { uid: alice.uid, gid: SHARED_GROUP });
      for (const [mode, left] of [
        [0o2644, 0o2644],
        [0o2654, 0o654],
      ] as const) {
        await c.fs.setAttributes(root, f, { gid: SHARED_GROUP });
        await c.fs.setAttributes(root, f, { mode });
        assert.equal((await c.fs.setAttributes(alice, f, { gid: alice.gid })).mode & 0o7777, left);
      }
    },
  },
  {
    name: 'setgid without x of the group goes when somebody outside the group changes the content, by fallocate too',
    run: async (c) => {
      const f = await c.file('f', name('0123456789'), { mode: 0o666 });
      await c.fs.setAttributes(root, f, { gid: SHARED_GROUP });
      const changes = [
        (file: OpenFile) => file.write(0, name('x')),
        (file: OpenFile) => file.allocate(0, 4, { punchHole: true, keepSize: true }),
        (file: OpenFile) => file.allocate(0, 40),
        (file: OpenFile) => file.truncate(5),
        (_: OpenFile, who: Credentials) => c.fs.setAttributes(who, f, { size: 4 }),
      ];
      for (const [index, change] of changes.entries()) {
        for (const [who, left] of [
          [carol, 0o666],
          [alice, 0o2666],
        ] as const) {
          await c.fs.setAttributes(root, f, { mode: 0o2666 });
          const { file } = await c.fs.open(who, f, READ_WRITE);
          await change(file, who);
          await file.close();
          assert.equal((await c.attributes(f)).mode & 0o7777, left, `change ${index} by uid ${who.uid}`);
        }
      }
    },
  },
  {
    name: 'setuid and setgid go by who changes the content, whoever opened the file',
    run: async (c) => {
      const f = await c.file('f', pattern(600_000, 1), { mode: 0o666 });
      const source = await c.opened(await c.file('source', pattern(600_000, 2)));
      await c.fs.setAttributes(root, f, { gid: SHARED_GROUP });
      const { file: hers } = await c.fs.open(carol, f, READ_WRITE);
      const roots = await c.opened(f);
      const changes = [
        (file: OpenFile, by: Credentials) => file.truncate(590_000, by),
        (file: OpenFile, by: Credentials) => file.allocate(0, 4, { punchHole: true, keepSize: true }, by),
        (file: OpenFile, by: Credentials) => file.allocate(0, 610_000, {}, by),
        (file: OpenFile, by: Credentials) => file.copyFrom(source, 0, 100, 10, by),
        (file: OpenFile, by: Credentials) => file.copyFrom(source, 0, 100, 500_000, by),
      ];
      for (const [index, change] of changes.entries()) {
        for (const [by, mode, left] of [
          [carol, 0o4666, 0o666],
          [carol, 0o2666, 0o666],
          [alice, 0o2666, 0o2666],
          [root, 0o6777, 0o6777],
        ] as const) {
          for (const file of [hers, roots]) {
            await c.fs.setAttributes(root, f, { mode });
            await change(file, by);
            await file.flush();
            assert.equal((await c.attributes(f)).mode & 0o7777, left, `change ${index} by uid ${by.uid}`);
          }
        }
      }
      for (const file of [hers, roots, source]) await file.close();
    },
  },
  {
    name: 'a set-group-ID directory gives its group, and to directories the bit',
    run: async (c) => {
      const d = await c.mkdir('d', 0o755);
      await c.fs.setAttributes(root, d, { gid: SHARED_GROUP, mode: 0o2777 });
      const f = await c.file('f', undefined, { as: alice, parent: d });
      assert.equal((await c.attributes(f)).gid, SHARED_GROUP);
      assert.equal((await c.attributes(f)).mode & 0o2000, 0);
      const sub = await c.attributes(await c.mkdir('sub', 0o755, alice, d));
      assert.deepEqual([sub.gid, sub.mode], [SHARED_GROUP, 0o042755]);
      const link = await c.fs.symlink(alice, d, name('s'), name('t'));
      assert.equal(link.gid, SHARED_GROUP);
      const plain = await c.file('plain', undefined, { as: alice });
      assert.equal((await c.attributes(plain)).gid, alice.gid);
    },
  },
  {
    name: 'truncate: needs w, EISDIR, EINVAL, EFBIG',
    run: async (c) => {
      const f = await c.file('f', name('content'), { as: alice, mode: 0o644 });
      await fails('EACCES', c.fs.setAttributes(bob, f, { size: 0 }));
      assert.equal((await c.fs.setAttributes(alice, f, { size: 3 })).size, 3);
      assert.equal((await c.content(f)).toString(), 'con');
      await c.fs.setAttributes(alice, f, { mode: 0o400 });
      await fails('EACCES', c.fs.setAttributes(alice, f, { size: 0 }));
      await c.fs.setAttributes(root, f, { size: 1 });
      await fails('EISDIR', c.fs.setAttributes(root, await c.mkdir('d'), { size: 0 }));
      const s = await c.fs.symlink(root, c.dir, name('s'), name('f'));
      await fails('EINVAL', c.fs.setAttributes(root, s.inode, { size: 0 }));
      await fails(['EFBIG', 'EINVAL'], c.fs.setAttributes(root, f, { size: 2 ** 52 }));
      await fails('EINVAL', c.fs.setAttributes(root, f, { size: -1 }));
      assert.equal((await c.attributes(f)).size, 1);
    },
  },
  {
    name: 'an open file keeps its rights when the mode or the owner changes',
    run: async (c) => {
      const f = await c.file('f', name('before'), { as: alice });
      const { file } = await c.fs.open(alice, f, { read: true, write: true });
      await c.fs.setAttributes(root, f, { mode: 0, uid: bob.uid });
      await file.write(0, name('after!'));
      assert.equal((await file.read(0, 10)).toString(), 'after!');
      await file.truncate(5);
      await file.close();
      assert.equal((await c.content(f)).toString(), 'after');
    },
  },
];
