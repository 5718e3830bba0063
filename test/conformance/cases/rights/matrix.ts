/**
 * The same questions asked of every kind of file, by everybody: owner, member of the group, stranger, uid 0. What each
 * call does in detail is in its own file.
 */
import assert from 'node:assert/strict';
import type { InodeId } from '../../../../src/core/ids.js';
import type { AttributeChanges, Attributes, Credentials, FileKind } from '../../../../src/filesystem/filesystem.js';
import { alice, bob, carol, fails, isLater, name, READ_ONLY, READ_WRITE, root, SHARED_GROUP } from '../../case.js';
import type { CaseContext, ConformanceCase } from '../../case.js';

const KINDS = ['file', 'directory', 'symlink', 'fifo', 'socket', 'characterDevice', 'blockDevice'] as const;
const REFUSED = ['EPERM', 'EACCES'] as const;
/** Major 0xabc, minor 0xfedcb, as Linux puts them together. */
const LARGE_DEVICE = 0xfedabccb;

/** A node of any kind, of `owner`. */
async function make(
  c: CaseContext,
  kind: FileKind,
  text: string,
  options: { readonly parent?: InodeId; readonly owner?: Credentials; readonly mode?: number } = {},
): Promise<InodeId> {
  const { parent = c.dir, owner = root, mode = 0o644 } = options;
  const { inode } =
    kind === 'symlink'
      ? await c.fs.symlink(root, parent, name(text), name('target'))
      : await c.fs.makeNode(root, parent, name(text), { kind, mode, rdev: LARGE_DEVICE });
  const { uid, gid } = owner;
  await c.fs.setAttributes(root, inode, { uid, gid, ...(kind !== 'symlink' && { mode }) });
  return inode;
}

const remove = (c: CaseContext, kind: FileKind, parent: InodeId, text: string, as: Credentials): Promise<void> =>
  kind === 'directory' ? c.fs.removeDirectory(as, parent, name(text)) : c.fs.unlink(as, parent, name(text));

/** Refused, and nothing about the inode moved. */
async function refusedWithoutTrace(c: CaseContext, inode: InodeId, attempt: () => Promise<unknown>): Promise<void> {
  const before = await c.attributes(inode);
  await c.tick();
  await fails(REFUSED, attempt());
  const after = await c.attributes(inode);
  assert.deepEqual(
    [after.ctime, after.mode, after.uid, after.gid],
    [before.ctime, before.mode, before.uid, before.gid],
  );
}

export const matrixCases: readonly ConformanceCase[] = [
  {
    name: 'every kind: device numbers of 32 bits, one link, its own times; hard links of all but directories',
    run: async (c) => {
      for (const kind of KINDS) {
        const inode = await make(c, kind, kind);
        const seen = await c.attributes(inode);
        assert.equal(seen.rdev, kind === 'characterDevice' || kind === 'blockDevice' ? LARGE_DEVICE : 0, kind);
        if (kind === 'directory') {
          await fails('EPERM', c.fs.link(root, inode, c.dir, name('linked')));
          continue;
        }
        await c.tick();
        const linked = await c.fs.link(root, inode, c.dir, name('linked'));
        assert.deepEqual([linked.inode, linked.nlink, linked.mode], [inode, 2, seen.mode], kind);
        assert.ok(isLater(linked.ctime, seen.ctime), kind);
        await c.fs.unlink(root, c.dir, name(kind));
        assert.equal((await c.lookup('linked')).nlink, 1);
        await c.fs.unlink(root, c.dir, name('linked'));
        assert.ok(await c.isGone(inode), kind);
      }
    },
  },
  {
    name: 'P12: every kind: chmod, chown and utimensat by the owner and uid 0, by nobody else, who leaves no trace',
    run: async (c) => {
      const time = { seconds: 123, nanoseconds: 456 };
      for (const kind of KINDS) {
        const inode = await make(c, kind, kind, { owner: alice });
        const changes: AttributeChanges[] = [
          { gid: SHARED_GROUP },
          { mtime: time },
          { atime: time, mtime: time },
          ...(kind === 'symlink' ? [] : [{ mode: 0o600 }]),
        ];
        for (const change of changes) {
          for (const who of [bob, carol]) {
            await refusedWithoutTrace(c, inode, () => c.fs.setAttributes(who, inode, change));
          }
          for (const who of [alice, root]) {
            const before = await c.attributes(inode);
            await c.tick();
            const after = await c.fs.setAttributes(who, inode, change);
            assert.ok(isLater(after.ctime, before.ctime), `${kind} ${JSON.stringify(change)}`);
          }
        }
        await refusedWithoutTrace(c, inode, () => c.fs.setAttributes(alice, inode, { uid: bob.uid }));
        await refusedWithoutTrace(c, inode, () => c.fs.setAttributes(alice, inode, { gid: 7777 }));
        assert.equal((await c.fs.setAttributes(root, inode, { uid: 70_000, gid: 2 ** 32 - 2 })).gid, 2 ** 32 - 2);
      }
    },
  },
  {
    name: 'every kind: chown clears setuid and setgid of what is no directory, by whom ever',
    run: async (c) => {
      for (const kind of KINDS) {
        if (kind === 'symlink') continue;
        for (const who of [alice, root]) {
          const inode = await make(c, kind, `${kind}-${who.uid}`, { owner: alice });
          await c.fs.setAttributes(root, inode, { mode: 0o6775 });
          const after = await c.fs.setAttributes(who, inode, { gid: SHARED_GROUP });
          assert.equal(after.mode & 0o7777, kind === 'directory' ? 0o6775 : 0o775, kind);
          await c.fs.setAttributes(root, inode, { mode: 0o2745 });
          const again = await c.fs.setAttributes(root, inode, { uid: alice.uid, gid: SHARED_GROUP });
          assert.equal(again.mode & 0o7777, 0o2745, 'setgid without x of the group says something else');
        }
      }
    },
  },
  {
    name: 'P12: sticky directories: rename and removal of every kind by its owner, the directory’s, and uid 0',
    run: async (c) => {
      const place = await c.mkdir('place');
      await c.fs.setAttributes(root, place, { mode: 0o777 });
      for (const kind of KINDS) {
        // Who owns the directory, who the entry, who tries, and whether that may be.
        for (const [holder, owner, who, allowed] of [
          [carol, alice, alice, true],
          [bob, alice, bob, true],
          [carol, alice, bob, false],
          [carol, root, bob, false],
          [alice, alice, bob, false],
          [carol, alice, root, true],
        ] as const) {
          const sticky = await c.mkdir('sticky');
          await c.fs.setAttributes(root, sticky, { uid: holder.uid, gid: SHARED_GROUP, mode: 0o1777 });
          await make(c, kind, 'entry', { parent: sticky, owner, mode: 0o777 });
          const renaming = { as: who, fromParent: sticky, toParent: sticky };
          if (!allowed) {
            await fails(REFUSED, c.rename('entry', 'other', renaming));
            await fails(REFUSED, c.rename('entry', 'other', { ...renaming, toParent: place }));
            await fails(REFUSED, remove(c, kind, sticky, 'entry', who));
            await make(c, kind, 'mine', { parent: sticky, owner: who, mode: 0o777 });
            await fails(REFUSED, c.rename('mine', 'entry', renaming));
            await fails(REFUSED, c.rename('mine', 'entry', { ...renaming, flags: { exchange: true } }));
            await remove(c, kind, sticky, 'mine', who);
            await remove(c, kind, sticky, 'entry', root);
          } else {
            await c.rename('entry', 'other', renaming);
            // A directory that moves changes its '..', for which it must be writable.
            await c.rename('other', 'entry', { ...renaming, toParent: place });
            await remove(c, kind, place, 'entry', who);
          }
          await c.fs.removeDirectory(root, c.dir, name('sticky'));
        }
      }
    },
  },
  {
    name: 'P12: a supplementary group counts as the group, for entries and for content',
    run: async (c) => {
      const d = await c.mkdir('d');
      await c.fs.setAttributes(root, d, { uid: 4242, gid: SHARED_GROUP, mode: 0o770 });
      const f = await make(c, 'file', 'f', {
        parent: d,
        owner: { uid: 4242, gid: SHARED_GROUP, groups: [] },
        mode: 0o660,
      });
      for (const who of [alice, bob]) {
        await (await c.fs.openAt(who, d, name('f'), READ_WRITE)).file.close();
        await c.fs.makeNode(who, d, name('n'), { kind: 'fifo', mode: 0o600 });
        await c.fs.unlink(who, d, name('n'));
        await fails('EPERM', c.fs.setAttributes(who, f, { mode: 0o666 }));
      }
      await fails('EACCES', c.fs.openAt(carol, d, name('f'), READ_ONLY));
      await fails('EACCES', c.fs.makeNode(carol, d, name('n'), { kind: 'fifo', mode: 0o600 }));
      const many = { uid: 5000, gid: 5000, groups: [...Array.from({ length: 40 }, (_, i) => 6000 + i), SHARED_GROUP] };
      await (await c.fs.openAt(many, d, name('f'), READ_WRITE)).file.close();
    },
  },
  {
    name: 'create with mode 0 opens for its maker, and for nobody afterwards but uid 0',
    run: async (c) => {
      const { file, attributes } = await c.fs.create(alice, c.dir, name('f'), { mode: 0, flags: READ_WRITE });
      assert.equal(attributes.mode, 0o100000);
      await file.write(0, name('written'));
      assert.equal((await file.read(0, 10)).toString(), 'written');
      await file.close();
      for (const who of [alice, bob]) await fails('EACCES', c.fs.open(who, file.inode, READ_ONLY));
      await (await c.fs.open(root, file.inode, READ_WRITE)).file.close();
    },
  },
  {
    name: 'every kind: what is made has the times of now, the owner of its maker, and moves its directory',
    run: async (c) => {
      for (const kind of KINDS) {
        if (kind === 'characterDevice' || kind === 'blockDevice') continue;
        const before = await c.attributes(c.dir);
        await c.tick();
        // mkdir(2) takes no setuid and setgid.
        const bits = kind === 'directory' ? 0o1777 : 0o7777;
        const made: Attributes =
          kind === 'symlink'
            ? await c.fs.symlink(alice, c.dir, name(kind), name('t'))
            : await c.fs.makeNode(alice, c.dir, name(kind), { kind, mode: bits, umask: 0o022 });
        assert.deepEqual([made.uid, made.gid], [alice.uid, alice.gid], kind);
        assert.equal(made.mode & 0o7777, kind === 'symlink' ? 0o777 : bits & ~0o022, kind);
        const after = await c.attributes(c.dir);
        assert.ok(isLater(made.ctime, before.ctime) && isLater(after.mtime, before.mtime), kind);
        assert.deepEqual(after.mtime, after.ctime);
        await c.tick();
        await remove(c, kind, c.dir, kind, alice);
        assert.ok(isLater((await c.attributes(c.dir)).mtime, after.mtime), kind);
      }
    },
  },
];
