/** What each request does, as the kernel sees it, on a model of a file system. */
import t from 'tap';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type {
  Attributes,
  Credentials,
  LockHolder,
  LockKind,
  LockOptions,
  LockRequest,
} from '../../../src/filesystem/filesystem.js';
import { CairnError } from '../../../src/core/errors.js';
import { inodeId, ROOT_INODE, type InodeId } from '../../../src/core/ids.js';
import { Callers } from '../../../src/fuse/kernel/callers.js';
import { cstrings, u32, u64 } from '../../support/fakes/fake-kernel.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';
import { must, number64, O_APPEND, O_DSYNC, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY, TestMount } from './served-mount.js';

const [ENOENT, EACCES, EEXIST, EINVAL, ERANGE, ENAMETOOLONG, ESTALE] = [2, 13, 17, 22, 34, 36, 116];
const DIRECT_IO = 1;

t.test('names: made, looked up, listed, renamed, removed; any bytes but NUL and slash', async (t) => {
  const { kernel } = await TestMount.start(t);
  const name = Buffer.from([0xff, 0xfe, 0x0a]);
  const made = must(await kernel.request('MKDIR', 1, Buffer.concat([u32(0o777, 0o26), cstrings(name)])));
  const nodeid = number64(made, 0);
  t.equal(made.readUInt32LE(40 + 60), 0o40751, 'with the umask applied');
  t.equal(number64(made, 16) * 1e9 + made.readUInt32LE(32), 1.5e9, 'how long the name holds');
  t.equal(number64(must(await kernel.request('LOOKUP', 1, cstrings(name))), 0), nodeid);
  t.equal((await kernel.request('LOOKUP', 1, cstrings('x'.repeat(256)))).error, ENAMETOOLONG);
  must(await kernel.request('SYMLINK', nodeid, cstrings('link', 'to/target')));
  const link = must(await kernel.request('LOOKUP', nodeid, cstrings('link')));
  t.equal(must(await kernel.request('READLINK', number64(link, 0))).toString(), 'to/target');
  const rename = (flags: number, from: string, to: string) =>
    kernel.request('RENAME2', nodeid, Buffer.concat([u64(1), u32(flags, 0), cstrings(from, to)]));
  t.equal((await rename(8, 'link', 'moved')).error, EINVAL, 'a flag that there is not');
  t.equal((await rename(6, 'link', 'moved')).error, EINVAL, 'RENAME_WHITEOUT with RENAME_EXCHANGE');
  must(await rename(1, 'link', 'moved'));
  must(await kernel.request('LINK', 1, Buffer.concat([u64(number64(link, 0)), cstrings('again')])));
  must(await kernel.request('UNLINK', 1, cstrings('again')));
  must(await kernel.request('RMDIR', 1, cstrings(name)));
  t.equal((await kernel.request('LOOKUP', 1, cstrings(name))).error, ENOENT);
});

t.test('a listing goes on where it ended, whatever the buffer', async (t) => {
  const { kernel, served } = await TestMount.start(t);
  const names = Array.from({ length: 60 }, (_, i) => `entry-${'y'.repeat(i)}`);
  for (const name of names) must(await kernel.request('MKDIR', 1, Buffer.concat([u32(0o755, 0), cstrings(name)])));
  served.nodes.forget(2, 0);
  for (const [opcode, head, size] of [
    ['READDIR', 0, 512],
    ['READDIRPLUS', 128, 512],
    ['READDIRPLUS', 128, 65536],
  ] as const) {
    const seen: string[] = [];
    const handle = number64(must(await kernel.request('OPENDIR', 1, u32(0, 0))), 0);
    for (let offset = 0; ;) {
      const bytes = must(
        await kernel.request(opcode, 1, Buffer.concat([u64(handle, offset), u32(size, 0), u64(0), u32(0, 0)])),
      );
      t.ok(bytes.length <= size);
      if (bytes.length === 0) break;
      for (let at = 0; at < bytes.length;) {
        const length = bytes.readUInt32LE(at + head + 16);
        seen.push(bytes.toString('latin1', at + head + 24, at + head + 24 + length));
        offset = number64(bytes, at + head + 8);
        at += Math.ceil((head + 24 + length) / 8) * 8;
      }
    }
    t.same(seen, ['.', '..', ...names], `${opcode} in pieces of ${size}`);
  }
});

t.test('a listing ends although each name that it told is renamed, until it begins anew', async (t) => {
  const { kernel } = await TestMount.start(t);
  for (let i = 0; i < 40; i++)
    must(await kernel.request('MKNOD', 1, Buffer.concat([u32(0o644, 0, 0, 0), cstrings(`f${i}`)])));
  const handle = number64(must(await kernel.request('OPENDIR', 1, u32(0, 0))), 0);
  for (const suffix of ['.a', '.b']) {
    let count = 0;
    for (let offset = 0; ;) {
      const body = Buffer.concat([u64(handle, offset), u32(512, 0), u64(0), u32(0, 0)]);
      const bytes = must(await kernel.request('READDIR', 1, body));
      if (bytes.length === 0) break;
      for (let at = 0; at < bytes.length;) {
        const length = bytes.readUInt32LE(at + 16);
        const name = bytes.toString('latin1', at + 24, at + 24 + length);
        offset = number64(bytes, at + 8);
        at += Math.ceil((24 + length) / 8) * 8;
        if (name === '.' || name === '..') continue;
        count++;
        must(await kernel.request('RENAME2', 1, Buffer.concat([u64(1), u32(0, 0), cstrings(name, name + suffix)])));
      }
      if (count > 80) break;
    }
    t.equal(count, 40);
  }
  must(await kernel.request('LOOKUP', 1, cstrings('f39.a.b')));
});

t.test('an fsync of a directory says which', async (t) => {
  const model = new ModelFileSystem();
  const { kernel } = await TestMount.start(t, model);
  const synced: (InodeId | undefined)[] = [];
  model.syncMetadata = (directory?: InodeId) => Promise.resolve(void synced.push(directory));
  const made = must(await kernel.request('MKDIR', 1, Buffer.concat([u32(0o755, 0), cstrings('d')])));
  const nodeid = number64(made, 0);
  const handle = number64(must(await kernel.request('OPENDIR', nodeid, u32(0, 0))), 0);
  must(await kernel.request('FSYNCDIR', nodeid, Buffer.concat([u64(handle), u32(0, 0)])));
  t.same(synced, [(await model.lookup(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('d'))).inode]);
});

t.test('a file handle leads to a node that the kernel has forgotten', async (t) => {
  const { kernel, served } = await TestMount.start(t);
  const made = must(await kernel.request('MKDIR', 1, Buffer.concat([u32(0o755, 0), cstrings('d')])));
  const directory = number64(made, 0);
  const file = must(await kernel.request('MKNOD', directory, Buffer.concat([u32(0o100644, 0, 0, 0), cstrings('f')])));
  const nodeid = number64(file, 0);
  for (const node of [nodeid, directory]) kernel.tell('FORGET', node, u64(1));
  const of = async (node: number, name: string): Promise<number> =>
    number64(must(await kernel.request('LOOKUP', node, cstrings(name))), 0);
  t.equal(await of(nodeid, '.'), nodeid);
  t.equal(await of(directory, '.'), directory);
  t.equal(await of(directory, '..'), 1);
  t.equal(await of(directory, 'f'), nodeid);
  t.equal(served.nodes.size, 2, 'they count as looked up');
  must(await kernel.request('UNLINK', directory, cstrings('f')));
  for (const gone of [nodeid, 12345, 2 ** 52 + 1, 2 ** 60]) {
    const { error } = await kernel.request('LOOKUP', gone, cstrings('.'));
    t.ok(error === ENOENT || error === ESTALE, `${gone}`);
  }
});

t.test('P2: attributes of a listing are believed, until an open finds that the file has changed', async (t) => {
  const fileSystem = new ModelFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { kernel } = mount;
  const { nodeid, handle } = await mount.create('f');
  await mount.release(handle);
  const directory = number64(must(await kernel.request('OPENDIR', 1, u32(0, 0))), 0);
  const list = Buffer.concat([u64(directory, 0), u32(4096, 0), u64(0), u32(0, 0)]);
  const listing = must(await kernel.request('READDIRPLUS', 1, list));
  const entry = 2 * 160; // behind '.' and '..'
  t.equal(number64(listing, entry), nodeid);
  t.equal(number64(listing, entry + 16), 1, 'seconds that the attributes hold');
  await mount.release((await mount.open(nodeid, O_RDONLY)).handle);
  t.equal(kernel.notifications.length, 0, 'nothing has changed');
  await new ModelFileSystem(fileSystem.state).setAttributes(ROOT_CREDENTIALS, inodeId(nodeid), { mode: 0o600 });
  await mount.release((await mount.open(nodeid, O_RDONLY)).handle);
  t.same(kernel.notifications, [{ code: 2, body: u64(nodeid, -1, 0) }]);
  await mount.release((await mount.open(nodeid, O_RDONLY)).handle);
  t.equal(kernel.notifications.length, 1, 'once');
});

t.test('P2: attributes are believed, but not of a file that is open for writing here', async (t) => {
  const mount = await TestMount.start(t, new ModelFileSystem(), { attributeTimeoutMs: 1000 });
  const { kernel } = mount;
  const seconds = async (nodeid: number): Promise<number> =>
    number64(must(await kernel.request('GETATTR', nodeid, Buffer.concat([u32(0, 0), u64(0)]))), 0);
  const { nodeid, handle } = await mount.create('f');
  t.equal(await seconds(nodeid), 0, 'its creator may write');
  const second = await mount.open(nodeid, O_WRONLY);
  await mount.release(handle);
  t.equal(await seconds(nodeid), 0, 'so may the other');
  await mount.release(second.handle);
  t.equal(await seconds(nodeid), 1);
  await mount.release((await mount.open(nodeid, O_RDONLY)).handle);
  t.equal(kernel.notifications.length, 0);
  const third = await mount.open(nodeid, O_RDWR);
  t.same(kernel.notifications, [{ code: 2, body: u64(nodeid, -1, 0) }], 'what was believed is not any more');
  await mount.release(third.handle);
});

t.test('a directory that another client moved has an alias for a thread that looks it up twice', async (t) => {
  const state = new ModelFileSystem();
  const mount = await TestMount.start(t, state);
  const { kernel, served } = mount;
  const other = new ModelFileSystem(state.state);
  const mkdir = async (parent: number, name: string): Promise<number> =>
    number64(must(await kernel.request('MKDIR', parent, Buffer.concat([u32(0o755, 0), cstrings(name)]))), 0);
  const lookUp = async (parent: number, name: string, pid: number): Promise<Buffer> =>
    must(await kernel.request('LOOKUP', parent, cstrings(name), { pid }));
  const [a, b] = [await mkdir(1, 'a'), await mkdir(1, 'b')];
  const [d, e] = [await mkdir(a, 'd'), await mkdir(a, 'e')];
  const move = async (from: [number, string], to: [number, string]): Promise<void> => {
    const [source, target] = [from, to].map(([parent, name]) => ({
      ...{ parent: inodeId(parent), name: Buffer.from(name) },
    }));
    if (source !== undefined && target !== undefined) await other.rename(ROOT_CREDENTIALS, source, target);
  };
  for (let i = 0; i < 3; i++) t.equal(number64(await lookUp(a, 'd', 7), 0), d, 'where it was made');
  await move([a, 'd'], [b, 'd']);
  await move([a, 'e'], [b, 'e']);
  t.equal(number64(await lookUp(b, 'd', 7), 0), d, 'the first time');
  const second = await lookUp(b, 'd', 7);
  const alias = number64(second, 0);
  t.not(alias, d);
  t.same([number64(second, 16), second.readUInt32LE(32), number64(second, 40)], [0, 0, d], 'not to be believed');
  t.not(number64(await lookUp(b, 'e', 7), 0), e, 'the target of a rename is looked up once');
  t.equal(number64(await lookUp(b, 'e', 8), 0), e, 'another thread');
  const file = must(await kernel.request('MKNOD', alias, Buffer.concat([u32(0o100644, 0, 0, 0), cstrings('f')])));
  t.equal(number64(file, 16), 0, 'a name in it is not to be believed: it may be removed by the other nodeid');
  t.equal(number64(await lookUp(d, 'f', 9), 0), number64(file, 0), 'the same directory');
  const getattr = async (nodeid: number): Promise<number> =>
    number64(must(await kernel.request('GETATTR', nodeid, Buffer.concat([u32(0, 0), u64(0)]))), 0);
  t.same([await getattr(alias), (await getattr(d)) > 0], [0, true], 'nor what it is, whoever asks');
  t.equal(number64(await lookUp(b, 'd', 7), 0), d, 'the next call');
  t.not(number64(await lookUp(b, 'd', 7), 0), d, 'is a rename as well');
  kernel.tell('FORGET', alias, u64(1));
  t.equal((await kernel.request('LOOKUP', alias, cstrings('f'))).error, ESTALE);
  const known = served.nodes.size;

  const rename = Buffer.concat([u64(a), u32(0, 0), cstrings('d', 'd')]);
  const told = kernel.notifications.length;
  must(await kernel.request('RENAME2', b, rename));
  t.same(
    kernel.notifications.slice(told),
    [{ code: 2, body: u64(d, -1, 0) }],
    'moved by its alias: who has it open is not told the old attributes',
  );
  for (let i = 0; i < 3; i++) t.equal(number64(await lookUp(a, 'd', 10), 0), d, 'moved by this mount');
  t.equal(served.nodes.size, known, 'by no new nodeid');
  await move([a, 'd'], [b, 'd']);
  await lookUp(b, 'd', 13);
  must(await kernel.request('GETATTR', d, Buffer.concat([u32(0, 0), u64(0)]), { pid: 13 }));
  t.equal(number64(await lookUp(b, 'd', 13), 0), d, 'the thread went on with it: the kernel has taken it there');
  await move([b, 'd'], [a, 'd']);
  await lookUp(a, 'd', 14);
  kernel.tell('FORGET', d, u64(1));
  t.equal(number64(await lookUp(a, 'd', 14), 0), d, 'the kernel gave the first answer back, and looks it up now');
  t.not(number64(await lookUp(a, 'd', 14), 0), d, 'in vain');

  await move([b, 'e'], [1, 'e']);
  await move([a, 'd'], [e, 'd']);
  await lookUp(1, 'e', 11);
  await lookUp(e, 'd', 11);
  await move([e, 'd'], [1, 'd']);
  await move([1, 'e'], [d, 'e']);
  t.not(number64(await lookUp(d, 'e', 12), 0), e, 'below itself, as far as the kernel knows: at once');
});

t.test('P12: a name that is new to the kernel does not keep an old ACL alive', async (t) => {
  const model = new ModelFileSystem();
  let hasAcl = false;
  const told = async (answer: Promise<Attributes>): Promise<Attributes> => ({ ...(await answer), hasAcl });
  const fileSystem = Object.assign(Object.create(model) as ModelFileSystem, {
    lookup: (...args: Parameters<ModelFileSystem['lookup']>) => told(model.lookup(...args)),
    readDirectory: async (...args: Parameters<ModelFileSystem['readDirectory']>) => {
      const page = await model.readDirectory(...args);
      const entries = page.entries.map((entry) =>
        entry.attributes === undefined ? entry : { ...entry, attributes: { ...entry.attributes, hasAcl } },
      );
      return { ...page, entries };
    },
  });
  const mount = await TestMount.start(t, fileSystem);
  const { kernel } = mount;
  const { nodeid, handle } = await mount.create('f');
  await mount.release(handle);
  const lookUp = async (): Promise<number> => {
    const before = kernel.notifications.length;
    must(await kernel.request('LOOKUP', 1, cstrings('f')));
    return kernel.notifications.length - before;
  };
  const change = async (): Promise<unknown> => model.setAttributes(ROOT_CREDENTIALS, inodeId(nodeid), { mode: 0o640 });
  await lookUp();
  await change();
  t.equal(await lookUp(), 0, 'never had one');
  await change();
  hasAcl = true;
  t.equal(await lookUp(), 1, 'has one now');
  t.same(kernel.notifications.at(-1), { code: 2, body: u64(nodeid, -1, 0) });
  t.equal(await lookUp(), 0, 'nothing has changed');
  await change();
  hasAcl = false;
  t.equal(await lookUp(), 1, 'had one');
  await change();
  t.equal(await lookUp(), 0);
  await change();
  hasAcl = true;
  const directory = number64(must(await kernel.request('OPENDIR', 1, u32(0, 0))), 0);
  const before = kernel.notifications.length;
  const list = Buffer.concat([u64(directory, 0), u32(4096, 0), u64(0), u32(0, 0)]);
  must(await kernel.request('READDIRPLUS', 1, list));
  t.equal(kernel.notifications.length - before, 1, 'by a listing');
});

t.test('nodes are forgotten when the kernel forgot them as often as it was told of them', async (t) => {
  const mount = await TestMount.start(t);
  const { kernel, served } = mount;
  const { nodeid, handle } = await mount.create('f');
  for (let i = 0; i < 2; i++) must(await kernel.request('LOOKUP', 1, cstrings('f')));
  await mount.release(handle);
  kernel.tell('FORGET', nodeid, u64(1));
  kernel.tell('BATCH_FORGET', 0, Buffer.concat([u32(2, 0), u64(nodeid, 1), u64(99, 7)]));
  await kernel.request('STATFS', 1);
  t.equal(served.nodes.size, 1, 'two of three');
  kernel.tell('BATCH_FORGET', 0, Buffer.concat([u32(1000, 0), u64(nodeid, 1)]));
  await kernel.request('STATFS', 1);
  t.equal(served.nodes.size, 0);
  t.same(kernel.strayReplies, [], 'no answers to FORGET');
});

t.test('files: written, read, cut, and appended to', async (t) => {
  const mount = await TestMount.start(t);
  const { kernel } = mount;
  const { nodeid, handle } = await mount.create('f', O_RDWR | O_EXCL);
  t.equal((await mount.write(handle, 0, 'hello world')).body.readUInt32LE(0), 11);
  t.equal(await mount.read(handle, 6, 100), 'world');
  const setSize = Buffer.concat([u32((1 << 3) | (1 << 6), 0), u64(handle, 5), Buffer.alloc(64)]);
  t.equal(number64(must(await kernel.request('SETATTR', nodeid, setSize)), 16 + 8), 5);
  const again = await kernel.request('CREATE', 1, Buffer.concat([u32(O_EXCL, 0o644, 0, 0), cstrings('f')]));
  t.equal(again.error, EEXIST);

  const append = await mount.open(nodeid, O_WRONLY | O_APPEND);
  t.equal(append.openFlags & DIRECT_IO, DIRECT_IO);
  must(await mount.write(append.handle, 2, '+end', 0, O_APPEND));
  t.equal(await mount.read(handle, 0, 100), 'hello+end', 'appended, wherever the kernel thought that the end is');
  must(await mount.write(append.handle, 0, 'J', 1));
  t.equal(await mount.read(handle, 0, 100), 'Jello+end', 'a page of a mapping stays where it is');
  await mount.release(handle);
  must(await mount.write(append.handle, 1, 'E', 1));
  const reader = await mount.open(nodeid, O_RDONLY);
  t.equal(await mount.read(reader.handle, 0, 100), 'JEllo+end', 'also when only the appending handle is left');
  must(await kernel.request('FLUSH', nodeid, Buffer.concat([u64(reader.handle), u32(0, 0), u64(1)])));
});

t.test(
  'a write goes by what fcntl made of the flags of its handle, and is synced when the program asks for that',
  async (t) => {
    const fileSystem = new ModelFileSystem();
    let syncs = 0;
    const { open } = fileSystem;
    fileSystem.open = async (...options) => {
      const opened = await open.apply(fileSystem, options);
      const { sync } = opened.file;
      opened.file.sync = async () => {
        syncs++;
        await sync.apply(opened.file);
      };
      return opened;
    };
    const mount = await TestMount.start(t, fileSystem);
    const { nodeid, handle } = await mount.create('f');
    must(await mount.write(handle, 0, '0123456789'));
    const append = await mount.open(nodeid, O_RDWR | O_APPEND);
    must(await mount.write(append.handle, 0, 'A', 0, O_RDWR | O_APPEND));
    must(await mount.write(append.handle, 2, 'x', 0, O_RDWR));
    must(await mount.write(append.handle, 0, 'B', 0, O_RDWR | O_APPEND));
    t.equal(await mount.read(handle, 0, 100), '01x3456789AB');
    t.equal(syncs, 0);
    must(await mount.write(append.handle, 0, 'C', 0, O_RDWR | O_APPEND | O_DSYNC));
    t.equal(syncs, 1, 'P1: by RWF_DSYNC');
    const plain = await mount.open(nodeid, O_RDWR);
    must(await mount.write(plain.handle, 0, '0', 0, O_RDWR | O_DSYNC));
    t.equal(syncs, 1, 'the kernel sends an FSYNC behind it');
  },
);

t.test('extended attributes: with room, without, and only asked for their size', async (t) => {
  const mount = await TestMount.start(t);
  const { kernel } = mount;
  const { nodeid } = await mount.create('f');
  const set = (flags: number) =>
    kernel.request(
      'SETXATTR',
      nodeid,
      Buffer.concat([u32(5, flags, 0, 0), cstrings('user.x'), Buffer.from('a\0b\0c')]),
    );
  must(await set(1));
  t.equal((await set(1)).error, EEXIST);
  const get = (size: number) => kernel.request('GETXATTR', nodeid, Buffer.concat([u32(size, 0), cstrings('user.x')]));
  t.equal(must(await get(0)).readUInt32LE(0), 5);
  t.equal((await get(4)).error, ERANGE);
  t.same(must(await get(5)), Buffer.from('a\0b\0c'));
  t.same(must(await kernel.request('LISTXATTR', nodeid, u32(100, 0))), Buffer.from('user.x\0'));
});

/** Notes what was asked of the locks. */
class LockingFileSystem extends ModelFileSystem {
  readonly calls: string[] = [];
  holder: LockHolder | undefined;

  override async getLock(): Promise<LockHolder | undefined> {
    return this.holder;
  }
  override async setLock(
    _inode: InodeId,
    { kind, type, start, end, owner }: LockRequest,
    { onGranted }: LockOptions,
  ): Promise<void> {
    if (type !== 'unlock') await onGranted?.();
    this.calls.push(`${kind} ${type} ${start}-${end === MAX_LOCK_END ? 'end' : end} ${owner}`);
  }
  override async releaseLocks(_inode: InodeId, kind: LockKind, owner: string): Promise<void> {
    this.calls.push(`release ${kind} ${owner}`);
  }
}

t.test('locks: of processes, of open files, and of flock', async (t) => {
  const fileSystem = new LockingFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { kernel } = mount;
  const { handle } = await mount.create('f');
  const lock = (owner: bigint, start: bigint, end: bigint, type: number, flags = 0): Buffer =>
    Buffer.concat([u64(handle, owner, start, end), u32(type, 9, flags, 0)]);
  const end = 2n ** 63n - 1n;
  must(await kernel.request('SETLK', 1, lock(2n ** 64n - 1n, 5n, end, 1)));
  must(await kernel.request('SETLK', 1, lock(0xabn, 0n, 9n, 0)));
  must(await kernel.request('SETLKW', 1, lock(0xcdn, 0n, end, 1, 1)));
  must(await kernel.request('SETLK', 1, lock(2n ** 64n - 1n, 5n, 6n, 2)));
  must(await kernel.request('FLUSH', 1, Buffer.concat([u64(handle), u32(0, 0), u64(2n ** 64n - 1n)])));
  must(await kernel.request('RELEASE', 1, Buffer.concat([u64(handle), u32(0, 2), u64(0xcd)])));
  t.same(fileSystem.calls.splice(0), [
    'posix write 5-end ffffffffffffffff',
    'posix read 0-9 ab',
    'flock write 0-end cd',
    'posix unlock 5-6 ffffffffffffffff',
    'release posix ffffffffffffffff',
    'release flock cd',
    'release posix ab',
  ]);
});

t.test('F_GETLK: what is in the way, or that nothing is', async (t) => {
  const fileSystem = new LockingFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { handle } = await mount.create('f');
  const body = Buffer.concat([u64(handle, 1, 0, 99), u32(1, 9, 0, 0)]);
  t.equal(must(await mount.kernel.request('GETLK', 1, body)).readUInt32LE(16), 2, 'F_UNLCK');
  fileSystem.holder = { type: 'read', start: 3, end: MAX_LOCK_END, pid: 42 };
  t.same(must(await mount.kernel.request('GETLK', 1, body)), Buffer.concat([u64(3, 2n ** 63n - 1n), u32(0, 42)]));
});

t.test('P2: a lock makes the kernel drop what is old', async (t) => {
  const fileSystem = new LockingFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { kernel } = mount;
  const { nodeid, handle } = await mount.create('f');
  must(await mount.write(handle, 0, 'a'));
  const lock = Buffer.concat([u64(handle, 1, 0, 99), u32(1, 9, 0, 0)]);
  must(await kernel.request('SETLK', 1, lock));
  kernel.notifications.splice(0);
  must(await kernel.request('SETLK', 1, lock));
  t.equal(kernel.notifications.length, 0, 'nothing has changed');
  const other = await new ModelFileSystem(fileSystem.state).open(ROOT_CREDENTIALS, inodeId(nodeid), {
    ...{ read: false, write: true },
  });
  await other.file.write(0, Buffer.from('x'));
  must(await kernel.request('SETLK', 1, lock));
  t.same(kernel.notifications, [{ code: 2, body: u64(nodeid, 0, 0) }]);
  must(await kernel.request('SETLK', 1, lock));
  t.equal(kernel.notifications.length, 1);
  // Where that cannot be done the lock is not taken.
  fileSystem.calls.length = 0;
  fileSystem.getAttributes = async () => {
    throw new CairnError('TIMEOUT', 'no answer');
  };
  t.not((await kernel.request('SETLK', 1, lock)).error, 0);
  t.same(fileSystem.calls, []);
});

t.test('the caller: its uid and gid; its groups when it was refused without them, or when they decide', async (t) => {
  const asked: number[] = [];
  const callers = new Callers((pid) => {
    asked.push(pid);
    return 'Groups:\t7 8\n';
  }, ROOT_CREDENTIALS);
  const caller = { uid: 5, gid: 6, pid: 77, groups: [] };
  const tries: Credentials[] = [];
  const refuseWithout = async (credentials: Credentials): Promise<string> => {
    tries.push(credentials);
    if (!credentials.groups.includes(8)) throw new CairnError('EACCES', 'no');
    return 'done';
  };
  t.equal(await callers.run(caller, refuseWithout), 'done');
  t.same(tries, [
    { uid: 5, gid: 6, groups: [] },
    { uid: 5, gid: 6, groups: [7, 8] },
  ]);
  t.same(asked.splice(0), [77]);
  await callers.run(caller, async () => 'granted');
  await t.rejects(callers.run({ ...caller, uid: 0 }, refuseWithout), { code: 'EACCES' });
  await t.rejects(callers.run({ ...caller, pid: 0 }, refuseWithout), { code: 'EACCES' });
  const missing = async (): Promise<never> => {
    throw new CairnError('ENOENT', 'none');
  };
  await t.rejects(callers.run(caller, missing), { code: 'ENOENT' });
  t.same(asked, [], 'not asked where nothing depends on them');
  t.same(callers.known({ ...caller, uid: 0xffffffff }), ROOT_CREDENTIALS, 'the kernel by itself');
  t.same(callers.withGroups(caller).groups, [7, 8]);
});

t.test('P12: what is made belongs to the caller; others are refused', async (t) => {
  const { kernel } = await TestMount.start(t);
  const mine = must(await kernel.request('MKDIR', 1, Buffer.concat([u32(0o700, 0), cstrings('d')]), { uid: 0 }));
  const directory = number64(mine, 0);
  const refused = await kernel.request('MKDIR', directory, Buffer.concat([u32(0o700, 0), cstrings('x')]), { uid: 5 });
  t.equal(refused.error, EACCES);
  must(await kernel.request('SETATTR', 1, Buffer.concat([u32(1, 0), Buffer.alloc(60), u32(0o777), Buffer.alloc(16)])));
  const theirs = must(
    await kernel.request('MKDIR', 1, Buffer.concat([u32(0o700, 0), cstrings('e')]), { uid: 5, gid: 6 }),
  );
  t.equal(theirs.readUInt32LE(40 + 68), 5);
  t.equal(theirs.readUInt32LE(40 + 72), 6);
});

t.test('a file that may be executed but not read is opened to be executed', async (t) => {
  class OnlyExecutable extends ModelFileSystem {
    readonly openedBy: number[] = [];
    override open(credentials: Credentials, ...rest: [InodeId, { read: boolean; write: boolean }]) {
      this.openedBy.push(credentials.uid);
      return super.open(credentials, ...rest);
    }
    override async access(_credentials: Credentials, _inode: InodeId, mask: number): Promise<void> {
      if (mask !== 1) throw new CairnError('EACCES', 'execute only');
    }
  }
  const fileSystem = new OnlyExecutable();
  const mount = await TestMount.start(t, fileSystem);
  const { nodeid } = await mount.create('f', O_RDWR, 0o711);
  const plain = await mount.kernel.request('OPEN', nodeid, u32(O_RDONLY, 0), { uid: 5, gid: 5 });
  t.equal(plain.error, EACCES);
  must(await mount.kernel.request('OPEN', nodeid, u32(O_RDONLY | 0x20, 0), { uid: 5, gid: 5 }));
  t.equal(fileSystem.openedBy.at(-1), 0);
  const { mode }: Attributes = await fileSystem.getAttributes(ROOT_INODE);
  t.ok(mode);
});

t.test('a kernel that takes set-user-id away itself may do so by a chmod of who wrote', async (t) => {
  const { kernel } = await TestMount.start(t, undefined, { attributeTimeoutMs: 0, killsByItself: true });
  const made = must(await kernel.request('CREATE', 1, Buffer.concat([u32(O_RDWR, 0o6777, 0, 0), cstrings('f')])));
  const nodeid = number64(made, 0);
  const chmod = Buffer.concat([u32(1, 0), u64(0, 0, 0), u64(0, 0, 0), u32(0, 0, 0), u32(0o100777, 0, 0, 0, 0)]);
  const reply = must(await kernel.request('SETATTR', nodeid, chmod, { uid: 1000, gid: 1000 }));
  t.equal(reply.readUInt32LE(16 + 60), 0o100777);
});
