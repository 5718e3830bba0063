/** Ids that have other numbers in the cluster: the rules, and the whole conformance suite through a mapping. */
import t from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import type { Credentials, OpenFile } from '../../src/filesystem/filesystem.js';
import { IdMapping, IdTable, MAX_ID, OVERFLOW_ID } from '../../src/filesystem/id-mapping.js';
import type { IdMappingOptions } from '../../src/filesystem/id-mapping.js';
import { MappedFileSystem } from '../../src/filesystem/mapped-filesystem.js';
import { fileSystemConformance } from '../conformance/filesystem-suite.js';
import { ModelFileSystem } from '../support/models/model-filesystem.js';

const nobody = { uid: OVERFLOW_ID, gid: OVERFLOW_ID };
const mapping = (options: Partial<IdMappingOptions>): IdMapping =>
  new IdMapping({ uids: [], gids: [], squash: 'none', anonymous: nobody, ...options });
const range = (local: number, remote: number, count = 1) => ({ local, remote, count });
const user = (uid: number, gid = uid, groups: number[] = []): Credentials => ({ uid, gid, groups });

t.test('ranges map both ways, one to one', async (t) => {
  const table = new IdTable([range(1000, 5000, 10), range(0, 100)]);
  for (const [local, remote] of [
    [1000, 5000],
    [1009, 5009],
    [1010, 1010],
    [999, 999],
    [0, 100],
    [MAX_ID, MAX_ID],
  ] as const) {
    t.equal(table.toRemote(local), remote);
    t.equal(table.toLocal(remote), local);
  }
  for (const taken of [5000, 5009, 100]) t.equal(table.toRemote(taken), undefined, 'is somebody else there');
  for (const taken of [1000, 1009, 0]) t.equal(table.toLocal(taken), OVERFLOW_ID, 'is somebody else here');
  t.throws(() => table.keep(5000), { code: 'EINVAL' });
});

t.test('ranges that make no mapping are refused', async (t) => {
  const bad = [
    [range(1, 10, 5), range(5, 100)],
    [range(1, 10), range(2, 10)],
    [range(0, MAX_ID, 2)],
    [range(MAX_ID + 1, 0)],
    [range(1, 1, 0)],
    [range(-1, 1)],
    [range(1.5, 1)],
    Array.from({ length: 341 }, (_, i) => range(i, i)),
  ];
  for (const uids of bad) t.throws(() => mapping({ uids }), { code: 'EINVAL' }, JSON.stringify(uids.slice(0, 2)));
});

t.test('squash: root or all, uid and gid each for itself', async (t) => {
  const anonymous = { uid: 99, gid: 98 };
  const root = mapping({ squash: 'root', anonymous, gids: [range(7, 70)] });
  t.same(root.callerOf(user(0, 0, [0, 7, 8])), { uid: 99, gid: 98, groups: [70, 8] });
  t.same(root.callerOf(user(5, 0)), { uid: 5, gid: 98, groups: [] });
  t.same(root.callerOf(user(0, 5)), { uid: 99, gid: 5, groups: [] });
  t.same(mapping({ squash: 'all', anonymous }).callerOf(user(5, 6, [7])), { ...anonymous, groups: [] });
  const taken = mapping({ uids: [range(1, 50)], gids: [range(1, 50)], anonymous });
  t.same(taken.callerOf(user(50, 50, [50, 1])), { ...anonymous, groups: [50] }, 'who has no number there is nobody');
  t.equal(mapping({ uids: [range(5, 5, 3)] }).isIdentity, true);
  t.equal(root.isIdentity, false);
});

t.test('owners, chown and ACLs through a mapping', async (t) => {
  const below = new ModelFileSystem();
  const fs = new MappedFileSystem(
    below,
    mapping({ uids: [range(1000, 5000)], gids: [range(1000, 6000)], squash: 'root' }),
  );
  await below.setAttributes(ROOT_CREDENTIALS, ROOT_INODE, { mode: 0o777 });
  const name = Buffer.from('file');
  const made = await fs.create(user(1000), ROOT_INODE, name, { mode: 0o640, flags: { read: true, write: true } });
  const { inode } = made.attributes;
  const owners = ({ uid, gid }: { uid: number; gid: number }) => [uid, gid];
  const remote = async () => owners(await below.getAttributes(inode));
  t.same(owners(made.attributes), [1000, 1000]);
  t.same(owners(await made.file.attributes()), [1000, 1000]);
  t.same(await remote(), [5000, 6000]);
  const { entries } = await fs.readDirectory(user(1000), ROOT_INODE, 0, { withAttributes: true });
  t.same(
    entries.map((entry) => entry.attributes && owners(entry.attributes)),
    [[1000, 1000]],
  );

  // Local root is nobody there: not who it was, and not the owner.
  await t.rejects(fs.setAttributes(user(0), inode, { mode: 0o600 }), { code: 'EPERM' });
  await t.rejects(fs.open(user(0), inode, { read: true, write: false }), { code: 'EACCES' });
  await t.rejects(
    fs.setAttributes(user(5000), inode, { mode: 0o600 }),
    { code: 'EPERM' },
    'a number of the other side',
  );
  await fs.open(ROOT_CREDENTIALS, inode, { read: true, write: false });

  await fs.setAttributes(ROOT_CREDENTIALS, inode, { uid: 7, gid: 1000 });
  t.same(await remote(), [7, 6000]);
  await t.rejects(fs.setAttributes(ROOT_CREDENTIALS, inode, { uid: 5000 }), { code: 'EINVAL' });

  const acl = (id: number, group: number): Buffer => {
    const value = Buffer.alloc(4 + 6 * 8);
    value.writeUInt32LE(2, 0);
    const rows = [
      [1, 6, -1],
      [2, 4, id],
      [4, 4, -1],
      [8, 4, group],
      [16, 4, -1],
      [32, 0, -1],
    ] as const;
    rows.forEach(([tag, perm, named], i) => {
      value.writeUInt16LE(tag, 4 + i * 8);
      value.writeUInt16LE(perm, 6 + i * 8);
      value.writeInt32LE(named, 8 + i * 8);
    });
    return value;
  };
  const access = Buffer.from('system.posix_acl_access');
  await fs.setXattr(ROOT_CREDENTIALS, inode, access, acl(1000, 1000));
  t.same(await below.getXattr(ROOT_CREDENTIALS, inode, access), acl(5000, 6000));
  t.same(await fs.getXattr(ROOT_CREDENTIALS, inode, access), acl(1000, 1000));
  await fs.open(user(1000), inode, { read: true, write: false });
  await t.rejects(fs.setXattr(ROOT_CREDENTIALS, inode, access, acl(5000, 1)), { code: 'EINVAL' });
  await t.rejects(fs.setXattr(ROOT_CREDENTIALS, inode, access, Buffer.alloc(9)), { code: /EINVAL|EOPNOTSUPP/ });
  await made.file.close();
});

t.test('a copy goes on between the files below, which know each other', async (t) => {
  const [files, sources]: OpenFile[][] = [[], []];
  class Recording extends ModelFileSystem {
    override async open(...args: Parameters<ModelFileSystem['open']>): ReturnType<ModelFileSystem['open']> {
      const opened = await super.open(...args);
      const copyFrom = (source: OpenFile): Promise<number> => Promise.resolve(sources?.push(source) ?? 0);
      const file = Object.assign(Object.create(opened.file) as OpenFile, { copyFrom });
      files?.push(file);
      return { ...opened, file };
    }
  }
  const fs = new MappedFileSystem(new Recording(), mapping({ squash: 'all' }));
  const flags = { read: true, write: true };
  const made = await fs.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('file'), { mode: 0o600, flags });
  const [from, to] = [
    await fs.open(ROOT_CREDENTIALS, made.attributes.inode, flags),
    await fs.open(ROOT_CREDENTIALS, made.attributes.inode, flags),
  ];
  await to.file.copyFrom(from.file, 0, 0, 1);
  t.equal(sources?.[0], files?.[0]);
});

await fileSystemConformance(t, async () => {
  const ids = { uids: [range(1001, 101_001, 100)], gids: [range(1001, 201_001, 100), range(2000, 2001)] };
  const below = new ModelFileSystem();
  const fs = new MappedFileSystem(below, mapping(ids));
  const other = new MappedFileSystem(new ModelFileSystem(below.state), mapping(ids));
  return { fs, other, tick: async () => undefined, stop: () => fs.close() };
});
