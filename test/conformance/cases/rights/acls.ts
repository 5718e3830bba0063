/** Access control lists, acl(5): what they allow, how they and the mode follow each other, and who inherits them. */
import assert from 'node:assert/strict';
import type { InodeId } from '../../../../src/core/ids.js';
import type { Credentials } from '../../../../src/filesystem/filesystem.js';
import { alice, bob, carol, fails, name, READ_ONLY, READ_WRITE, root, SHARED_GROUP, WRITE_ONLY } from '../../case.js';
import type { CaseContext, ConformanceCase } from '../../case.js';

const ACCESS = name('system.posix_acl_access');
const DEFAULT = name('system.posix_acl_default');
const NO_ID = 0xffffffff;
const TAGS: Readonly<Record<string, number>> = { u: 1, 'u:': 2, g: 4, 'g:': 8, m: 16, o: 32 };

/** An ACL from words like u:rw- u:1001:r-- g:r-- m:rwx o:---, in the order in which they are written. */
function acl(text: string): Buffer {
  const parts = [Buffer.from([2, 0, 0, 0])];
  for (const word of text.split(' ').filter((part) => part !== '')) {
    const fields = word.split(':');
    const id = fields.length === 3 ? Number(fields[1]) : NO_ID;
    const perms = fields.at(-1) ?? '';
    const entry = Buffer.alloc(8);
    entry.writeUInt16LE(TAGS[(fields[0] ?? '') + (fields.length === 3 ? ':' : '')] ?? 0, 0);
    entry.writeUInt16LE(
      [...perms].reduce((sum, letter) => sum + ({ r: 4, w: 2, x: 1 }[letter] ?? 0), 0),
      2,
    );
    entry.writeUInt32LE(id, 4);
    parts.push(entry);
  }
  return Buffer.concat(parts);
}

/** The same words, from an xattr's value. */
function words(value: Buffer): string {
  const found: string[] = [];
  for (let at = 4; at < value.length; at += 8) {
    const tag = Object.keys(TAGS).find((key) => TAGS[key] === value.readUInt16LE(at)) ?? '?';
    const perm = value.readUInt16LE(at + 2);
    const id = value.readUInt32LE(at + 4);
    const letters = ['r', 'w', 'x'].map((letter, index) => ((perm & (4 >> index)) !== 0 ? letter : '-')).join('');
    found.push(tag.endsWith(':') ? `${tag}${id}:${letters}` : `${tag}:${letters}`);
  }
  return found.join(' ');
}

const set = (c: CaseContext, inode: InodeId, text: string, as: Credentials = root, which = ACCESS): Promise<void> =>
  c.fs.setXattr(as, inode, which, acl(text));

const get = async (c: CaseContext, inode: InodeId, which = ACCESS): Promise<string> =>
  words(await c.fs.getXattr(root, inode, which));

const modeOf = async (c: CaseContext, inode: InodeId): Promise<string> =>
  ((await c.attributes(inode)).mode & 0o7777).toString(8);

/** What each of three people may do, as r, w, x. */
async function rights(c: CaseContext, inode: InodeId): Promise<string> {
  const found: string[] = [];
  for (const who of [alice, bob, carol]) {
    let letters = '';
    for (const [letter, mask] of [
      ['r', 4],
      ['w', 2],
      ['x', 1],
    ] as const) {
      try {
        await c.fs.access(who, inode, mask);
        letters += letter;
      } catch {
        letters += '-';
      }
    }
    found.push(letters);
  }
  return found.join(' ');
}

export const aclCases: readonly ConformanceCase[] = [
  {
    name: 'P12: an ACL decides by owner, named user, any group that fits, others',
    run: async (c) => {
      const f = await c.file('f', name('x'), { as: alice, mode: 0o640 });
      assert.equal(await rights(c, f), 'rw- --- ---');
      await set(c, f, 'u:rw- u:1002:r-- g:--- m:r-- o:---', alice);
      assert.equal(await rights(c, f), 'rw- r-- ---');
      await (await c.fs.open(bob, f, READ_ONLY)).file.close();
      await fails('EACCES', c.fs.open(bob, f, READ_WRITE));
      await set(c, f, 'u:--x u:1002:rwx g:--- m:rw- o:---');
      assert.equal(await rights(c, f), '--x rw- ---', 'the mask bounds names, and not the owner');
      await set(c, f, `u:rwx g:r-- g:${SHARED_GROUP}:-w- m:rwx o:--x`);
      assert.equal(await rights(c, f), 'rwx -w- --x', 'who is in a group gets nothing of others');
      await c.fs.setAttributes(root, f, { uid: 5, gid: SHARED_GROUP });
      await set(c, f, 'u:rwx g:r-- g:1002:-w- m:rwx o:---');
      assert.equal(await rights(c, f), 'r-- rw- ---', 'each wanted right by one of the groups');
      await fails('EACCES', c.fs.access(bob, f, 6));
      await set(c, f, 'u:rwx u:1002:--- g:rwx m:rwx o:rwx');
      assert.equal(await rights(c, f), 'rwx --- rwx', 'a name comes before groups and others');
      await fails('EACCES', c.fs.open(bob, f, WRITE_ONLY));
      await (await c.other.open(alice, f, READ_WRITE)).file.close();
      await fails('EACCES', c.other.open(bob, f, READ_ONLY));
    },
  },
  {
    name: 'P12: an ACL on a directory opens and shuts what is below',
    run: async (c) => {
      const d = await c.mkdir('d', 0o700, alice);
      await c.file('f', undefined, { as: alice, mode: 0o666, parent: d });
      await fails('EACCES', c.fs.lookup(bob, d, name('f')));
      await set(c, d, 'u:rwx u:1002:r-x g:--- m:rwx o:---', alice);
      await c.fs.lookup(bob, d, name('f'));
      await c.fs.readDirectory(bob, d, 0);
      await fails('EACCES', c.fs.lookup(carol, d, name('f')));
      await fails('EACCES', c.fs.create(bob, d, name('g'), { mode: 0o600, flags: READ_WRITE }));
      await set(c, d, 'u:rwx u:1002:rwx g:--- m:rwx o:---', alice);
      await (await c.fs.create(bob, d, name('g'), { mode: 0o600, flags: READ_WRITE })).file.close();
      await c.fs.unlink(bob, d, name('f'));
      await c.fs.setAttributes(alice, d, { mode: 0o750 });
      await fails('EACCES', c.fs.unlink(bob, d, name('g')));
      await c.fs.lookup(bob, d, name('g'));
    },
  },
  {
    name: 'ACL: the mode and the list follow each other',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice, mode: 0o640 });
      await fails('ENODATA', c.fs.getXattr(root, f, ACCESS));
      await set(c, f, 'u:rwx g:r-x o:--x', alice);
      assert.equal(await modeOf(c, f), '751');
      await fails('ENODATA', c.fs.getXattr(root, f, ACCESS));
      assert.deepEqual(await c.fs.listXattrs(root, f), []);
      await set(c, f, 'u:rw- u:7:rwx g:r-- m:rw- o:---', alice);
      assert.equal(await modeOf(c, f), '660', 'the mask shows as the group');
      assert.equal(await get(c, f), 'u:rw- u:7:rwx g:r-- m:rw- o:---');
      assert.deepEqual((await c.fs.listXattrs(bob, f)).map(String), [ACCESS.toString()]);
      await c.fs.setAttributes(alice, f, { mode: 0o4715 });
      assert.equal(await get(c, f), 'u:rwx u:7:rwx g:r-- m:--x o:r-x', 'chmod sets the mask');
      assert.equal(await modeOf(c, f), '4715');
      await set(c, f, 'u:rw- u:7:rwx g:r-- m:rwx o:---', alice);
      assert.equal(await modeOf(c, f), '4670', 'the other bits stay');
      await c.fs.removeXattr(alice, f, ACCESS);
      assert.equal(await modeOf(c, f), '4670');
      await fails('ENODATA', c.fs.getXattr(root, f, ACCESS));
      const times = await c.times(f, () => set(c, f, 'u:rw- u:7:r-- g:r-- m:r-- o:---'));
      assert.deepEqual(times, { mtime: false, ctime: true });
      await set(c, f, '', alice);
      await fails('ENODATA', c.fs.getXattr(root, f, ACCESS));
    },
  },
  {
    name: 'ACL: what is no list is refused, and who is no owner',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice, mode: 0o666 });
      const bad = [
        acl('u:rwx g:rwx'),
        acl('u:rwx g:rwx o:rwx o:rwx'),
        acl('g:rwx u:rwx o:rwx'),
        acl('u:rwx u:7:rwx g:rwx o:rwx'),
        acl(`u:rwx u:${NO_ID}:rwx g:rwx m:rwx o:rwx`),
        acl('u:rwx g:rwx m:rwx m:rwx o:rwx'),
        acl('u:rwx g:rwx o:rwx').subarray(0, 27),
        Buffer.from([2, 0]),
      ];
      for (const value of bad) await fails('EINVAL', c.fs.setXattr(alice, f, ACCESS, value));
      const strange = acl('u:rwx g:rwx o:rwx');
      strange.writeUInt16LE(9, 6);
      await fails('EINVAL', c.fs.setXattr(alice, f, ACCESS, strange));
      strange.writeUInt32LE(1, 0);
      await fails('EOPNOTSUPP', c.fs.setXattr(alice, f, ACCESS, strange));
      await fails('EPERM', set(c, f, 'u:rwx u:1002:rwx g:rwx m:rwx o:rwx', bob));
      await fails('EPERM', c.fs.removeXattr(bob, f, ACCESS));
      await fails('EACCES', set(c, f, 'u:rwx g:rwx o:rwx', alice, DEFAULT));
      const s = await c.fs.symlink(root, c.dir, name('s'), name('f'));
      await fails('EOPNOTSUPP', set(c, s.inode, 'u:rwx g:rwx o:rwx'));
      assert.equal(await modeOf(c, f), '666');
    },
  },
  {
    name: 'ACL: an owner outside the group loses setgid by setting a list',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice });
      await c.fs.setAttributes(root, f, { gid: 4242 });
      await c.fs.setAttributes(root, f, { mode: 0o2755 });
      await set(c, f, 'u:rwx u:7:rwx g:r-x m:rwx o:---', alice);
      assert.equal(await modeOf(c, f), '770');
      await c.fs.setAttributes(root, f, { mode: 0o2755 });
      await set(c, f, 'u:rwx u:7:rwx g:r-x m:rwx o:---', root);
      assert.equal(await modeOf(c, f), '2770');
    },
  },
  {
    name: 'ACL: a write before a list is set takes nothing away after it',
    run: async (c) => {
      const f = await c.file('f', undefined, { as: alice });
      await c.fs.setAttributes(root, f, { mode: 0o2644 });
      const { file } = await c.fs.open(alice, f, READ_WRITE);
      await file.write(0, name('x'));
      await set(c, f, 'u:rwx g:r-x o:---', alice);
      await file.close();
      assert.equal(await modeOf(c, f), '2750');
    },
  },
  {
    name: 'ACL: a default list is inherited in place of the umask',
    run: async (c) => {
      const d = await c.mkdir('d', 0o777);
      const make = (text: string, mode: number, umask: number, parent = d): Promise<InodeId> =>
        c.fs.makeNode(alice, parent, name(text), { kind: 'file', mode, umask }).then(({ inode }) => inode);
      assert.equal(await modeOf(c, await make('plain', 0o666, 0o027)), '640');
      const list = 'u:rwx u:1002:rw- g:r-x m:rwx o:---';
      await set(c, d, list, root, DEFAULT);
      assert.equal(await modeOf(c, d), '777', 'a default list says nothing of its directory');
      assert.equal(await get(c, d, DEFAULT), list);
      const f = await make('f', 0o666, 0o077);
      assert.equal(await get(c, f), 'u:rw- u:1002:rw- g:r-x m:rw- o:---');
      assert.equal(await modeOf(c, f), '660');
      await fails('ENODATA', c.fs.getXattr(root, f, DEFAULT));
      const created = await c.fs.create(alice, d, name('c'), { mode: 0o644, umask: 0o022, flags: READ_WRITE });
      await created.file.close();
      assert.equal(await get(c, created.file.inode), 'u:rw- u:1002:rw- g:r-x m:r-- o:---');
      const node = { kind: 'directory', mode: 0o777, umask: 0o022 } as const;
      const sub = (await c.fs.makeNode(alice, d, name('sub'), node)).inode;
      assert.equal(await get(c, sub), list);
      assert.equal(await get(c, sub, DEFAULT), list);
      assert.equal(await modeOf(c, sub), '770');
      assert.equal(await modeOf(c, await make('deep', 0o600, 0, sub)), '600');
      const s = await c.fs.symlink(alice, d, name('s'), name('f'));
      assert.equal(s.mode & 0o7777, 0o777);
      await set(c, d, 'u:rwx g:r-x o:r--', root, DEFAULT);
      const minimal = await make('minimal', 0o666, 0o077);
      assert.equal(await modeOf(c, minimal), '644');
      await fails('ENODATA', c.fs.getXattr(root, minimal, ACCESS));
      await c.fs.removeXattr(root, d, DEFAULT);
      assert.equal(await modeOf(c, await make('again', 0o666, 0o027)), '640');
    },
  },
];
