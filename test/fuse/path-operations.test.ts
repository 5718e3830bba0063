import t from 'tap';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { toMs } from '../../src/fuse/native/native-encoding.js';
import { PathOperations } from '../../src/fuse/native/path-operations.js';
import { ModelFileSystem } from '../support/models/model-filesystem.js';
import { setAudits } from '../../src/core/invariant.js';

setAudits(true);
const O_RDWR = 2;
const HIDDEN = '.fuse_hidden0000000a00000001';

function setUp(callersUnknown = false): { fileSystem: ModelFileSystem; operations: PathOperations } {
  const fileSystem = new ModelFileSystem();
  return {
    fileSystem,
    operations: new PathOperations(fileSystem, ROOT_CREDENTIALS, { root: ROOT_INODE, callersUnknown, toMs }),
  };
}

async function writeFile(operations: PathOperations, path: string, text: string): Promise<void> {
  const handle = await operations.create(path, 0o644);
  await operations.write(handle, Buffer.from(text), 0);
  await operations.flush(handle);
  await operations.release(handle);
}

async function readFile(operations: PathOperations, handle: number): Promise<string> {
  const into = Buffer.alloc(100);
  return into.toString('utf8', 0, await operations.read(handle, into, 0));
}

const names = async (operations: PathOperations, path: string): Promise<string[]> =>
  (await operations.readdir(path)).map((entry) => entry.name.toString());

t.test('paths lead to inodes, component by component', async (t) => {
  const { operations } = setUp();
  await operations.mkdir('/a', 0o755);
  await operations.mkdir('/a/b', 0o755);
  await writeFile(operations, '/a/b/file', 'text');
  t.equal((await operations.getattr('/')).inode, ROOT_INODE);
  t.equal((await operations.getattr('/a/b/file')).size, 4);
  t.same(await names(operations, '/a/b'), ['.', '..', 'file']);
  t.equal((await operations.readdir('/a/b'))[1]?.inode, (await operations.getattr('/a')).inode);
  await t.rejects(operations.getattr('/a/none/file'), { code: 'ENOENT' });
  await t.rejects(operations.getattr('/a/b/file/x'), { code: 'ENOTDIR' });
  await t.rejects(operations.getattr(`/${'n'.repeat(256)}`), { code: 'ENAMETOOLONG' });
  await t.rejects(operations.rmdir('/'), { code: 'EBUSY' });
});

t.test('a name that is not UTF-8 is refused rather than changed', async (t) => {
  const { operations } = setUp();
  await t.rejects(operations.mkdir('/\uFFFD', 0o755), { code: 'EINVAL' });
});

t.test(
  'an open file that is removed lives on by handle and by its hidden path, and no directory shows it',
  async (t) => {
    const { operations } = setUp();
    await operations.mkdir('/d', 0o755);
    await writeFile(operations, '/d/f', 'kept');
    const handle = await operations.open('/d/f', O_RDWR);
    await operations.rename('/d/f', `/d/${HIDDEN}`);
    t.same(await names(operations, '/d'), ['.', '..']);
    t.equal((await operations.getattr(`/d/${HIDDEN}`)).nlink, 0);
    t.equal(await readFile(operations, handle), 'kept');
    await operations.ftruncate(handle, 2);
    t.equal((await operations.fgetattr(handle)).attributes.size, 2);
    await operations.chmod(`/d/${HIDDEN}`, 0o600);
    const again = await operations.open(`/d/${HIDDEN}`, O_RDWR);
    t.equal(await readFile(operations, again), 'ke', 'as through /proc/self/fd');

    await t.rejects(operations.rmdir('/d'), { code: 'ESTALE' }, 'the kernel asks once more, behind a close on its way');
    await t.rejects(operations.rmdir('/d'), { code: 'ENOTEMPTY' });
    await operations.release(handle);
    await operations.release(again);
    await operations.rmdir('/d');
    t.equal(operations.openFiles, 0);
  },
);

t.test('libfuse removes the hidden path itself after the last close', async (t) => {
  const { operations } = setUp();
  await writeFile(operations, '/f', 'x');
  const handle = await operations.open('/f', O_RDWR);
  await operations.rename('/f', `/${HIDDEN}`);
  await operations.unlink(`/${HIDDEN}`);
  await t.rejects(operations.getattr(`/${HIDDEN}`), { code: 'ENOENT' });
  await operations.release(handle);
});

t.test('a file that is not open is renamed even to a hidden name', async (t) => {
  const { operations } = setUp();
  await writeFile(operations, '/f', 'x');
  await operations.rename('/f', `/${HIDDEN}`);
  t.same(await names(operations, '/'), ['.', '..', HIDDEN]);
});

t.test('a create that another mount won is ESTALE, so that the kernel looks again', async (t) => {
  const { operations } = setUp();
  await writeFile(operations, '/f', 'x');
  await t.rejects(operations.create('/f', 0o644), { code: 'ESTALE' });
  t.equal(operations.openFiles, 0);
});

t.test('P12: where callers are not known, new files are not set-user-id', async (t) => {
  const { operations } = setUp(true);
  await operations.release(await operations.create('/f', 0o6755));
  t.equal((await operations.getattr('/f')).mode & 0o7777, 0o755);
  await operations.mknod('/g', 0o106755, 0);
  t.equal((await operations.getattr('/g')).mode & 0o7777, 0o755);
});

t.test('P2: pages are dropped at an open when only the change counter tells that the bytes differ', async (t) => {
  const { fileSystem, operations } = setUp();
  await writeFile(operations, '/f', 'old');
  const { inode, mtime } = await operations.getattr('/f');
  // As libfuse decides it.
  const node: { isValid: boolean; mtimeMs: number | undefined } = { isValid: false, mtimeMs: undefined };
  const stat = async (handle: number): Promise<number> => {
    const { mtimeMs } = await operations.fgetattr(handle);
    if (node.mtimeMs !== mtimeMs) node.isValid = false;
    node.mtimeMs = mtimeMs;
    return mtimeMs;
  };
  const open = async (): Promise<{ readonly handle: number; readonly drops: boolean }> => {
    const handle = await operations.open('/f', O_RDWR);
    if (node.isValid) await stat(handle);
    const drops = !node.isValid;
    node.isValid = true;
    return { handle, drops };
  };
  const close = async (handle: number): Promise<void> => {
    await operations.flush(handle);
    await operations.release(handle);
  };
  const dropsAtOpen = async (): Promise<boolean> => {
    const { handle, drops } = await open();
    t.equal(await stat(handle), toMs(mtime), 'only the first answer is for libfuse');
    node.isValid = true;
    await close(handle);
    return drops;
  };
  await dropsAtOpen();
  t.equal(await dropsAtOpen(), false);
  // Another mount writes as many bytes and sets the time back, as rsync does.
  const change = async (): Promise<void> => {
    const { file } = await fileSystem.open(ROOT_CREDENTIALS, inode, { read: false, write: true });
    await file.write(0, Buffer.from('new'));
    await file.close();
    await fileSystem.setAttributes(ROOT_CREDENTIALS, inode, { mtime });
  };
  await change();
  t.equal(await dropsAtOpen(), true);
  await dropsAtOpen();
  t.equal(await dropsAtOpen(), false);
  await change();
  const [first, second, third] = [await open(), await open(), await open()];
  t.same(
    [first.drops, second.drops, third.drops],
    [true, true, true],
    'the kernel may have yet to drop what is to go with the first',
  );
  await operations.read(second.handle, Buffer.alloc(1), 0);
  await stat(second.handle);
  node.isValid = true;
  t.equal(await dropsAtOpen(), false, 'its use says that its open returned');
  for (const { handle } of [first, second, third]) await close(handle);

  // Opens that overlap: libfuse asks about each in any order.
  await change();
  const handles: number[] = [];
  for (let count = 0; count < 5; count++) handles.push(await operations.open('/f', O_RDWR));
  for (const handle of [1, 3, 0, 2, 4].map((index) => handles[index] ?? -1)) {
    await stat(handle);
    t.notOk(node.isValid, 'what one was told does not pass for the answer to another');
    node.isValid = true;
  }
  for (const handle of handles) await close(handle);

  // And where the time says it too, after a look-up has told that time.
  const { file } = await fileSystem.open(ROOT_CREDENTIALS, inode, { read: false, write: true });
  await file.write(0, Buffer.from('now'));
  await file.close();
  await fileSystem.setAttributes(ROOT_CREDENTIALS, inode, { mtime: { ...mtime, seconds: mtime.seconds + 1 } });
  node.isValid = false;
  node.mtimeMs = toMs((await operations.getattr('/f')).mtime);
  const [earlier, later] = [await operations.open('/f', O_RDWR), await operations.open('/f', O_RDWR)];
  // The later one is answered first, without a question, as nothing is valid.
  node.isValid = true;
  await stat(earlier);
  t.notOk(node.isValid, 'the first open drops pages whichever is answered first');
  for (const handle of [earlier, later]) await close(handle);
});

t.test('P2: and so when a directory above it was renamed, or it was removed while it is open', async (t) => {
  const { fileSystem, operations } = setUp();
  await operations.mkdir('/d', 0o755);
  await writeFile(operations, '/d/f', 'old');
  const { inode, mtime } = await operations.getattr('/d/f');
  const read = async (path: string): Promise<{ readonly handle: number; readonly mtimeMs: number }> => {
    const handle = await operations.open(path, O_RDWR);
    const { mtimeMs } = await operations.fgetattr(handle);
    await operations.read(handle, Buffer.alloc(1), 0);
    return { handle, mtimeMs };
  };
  // By another mount, which sets the time back.
  const change = async (): Promise<void> => {
    const { file } = await fileSystem.open(ROOT_CREDENTIALS, inode, { read: false, write: true });
    await file.write(0, Buffer.from('new'));
    await file.close();
    await fileSystem.setAttributes(ROOT_CREDENTIALS, inode, { mtime });
  };
  const first = await read('/d/f');
  await operations.release(first.handle);
  await operations.rename('/d', '/e');
  await change();
  const { handle, mtimeMs } = await read('/e/f');
  t.not(mtimeMs, toMs(mtime), 'libfuse is told that it has changed');
  await operations.rename('/e/f', `/e/${HIDDEN}`);
  await change();
  const hidden = await read(`/e/${HIDDEN}`);
  t.not(hidden.mtimeMs, toMs(mtime), 'also by its hidden path');
  for (const open of [handle, hidden.handle]) await operations.release(open);
});

t.test('extended attributes: what the kernel asks before each write is answered without the cluster', async (t) => {
  const { operations } = setUp();
  await writeFile(operations, '/f', 'x');
  await operations.setxattr('/f', 'user.a', Buffer.from('b'), 0);
  t.equal((await operations.getxattr('/f', 'user.a')).toString(), 'b');
  t.same((await operations.listxattr('/f')).map(String), ['user.a']);
  await t.rejects(operations.setxattr('/f', 'user.a', Buffer.from('c'), 1), { code: 'EEXIST' });
  await operations.removexattr('/f', 'user.a');
  await t.rejects(operations.getxattr('/f', 'user.a'), { code: 'ENODATA' });
  await t.rejects(operations.getxattr('/missing', 'security.capability'), { code: 'ENODATA' });
  await t.rejects(operations.setxattr('/f', 'system.posix_acl_access', Buffer.from('c'), 0), { code: 'EOPNOTSUPP' });
});

t.test('an fsync of a directory says which, unless it was removed since it was opened', async (t) => {
  const { fileSystem, operations } = setUp();
  const synced: (number | undefined)[] = [];
  fileSystem.syncMetadata = (directory?: number) => Promise.resolve(void synced.push(directory));
  await operations.mkdir('/d', 0o755);
  const { inode } = await operations.getattr('/d');
  await operations.fsyncdir('/d');
  await operations.rmdir('/d');
  await operations.fsyncdir('/d');
  t.same(synced, [inode, undefined]);
});

t.test('a directory of many entries is listed whole', async (t) => {
  const { operations } = setUp();
  const wanted = Array.from({ length: 1300 }, (_, i) => `file-${i}`);
  for (const name of wanted) await operations.mknod(`/${name}`, 0o100644, 0);
  t.same((await names(operations, '/')).sort(), ['.', '..', ...wanted].sort());
});
