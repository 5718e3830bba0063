/** Rules of single operations that the conformance suite and the random comparison with the model leave out. */
import t from 'tap';
import type { Test } from 'tap';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { Credentials } from '../../../src/filesystem/filesystem.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import type { InodeId } from '../../../src/core/ids.js';
import { MAX_LINKS, MAX_READDIR_ENTRIES, MAX_XATTR_VALUE_BYTES, MAX_XATTRS_BYTES } from '../../../src/core/limits.js';
import { keys } from '../../../src/master/state/keys.js';
import * as namespace from '../../../src/master/namespace/namespace.js';
import * as messages from '../../../src/protocol/generated/messages.js';
import type { NamespaceFileSystem } from '../../support/filesystems/namespace-filesystem.js';
import { openNamespace, tickingTime } from '../../support/filesystems/namespace-host.js';

const root = ROOT_CREDENTIALS;
const alice: Credentials = { uid: 1, gid: 1, groups: [9] };
const bob: Credentials = { uid: 2, gid: 2, groups: [] };
const name = (text: string): Buffer => Buffer.from(text);
const permissions = (mode: number): string => (mode & 0o7777).toString(8);

async function open(test: Test): Promise<NamespaceFileSystem> {
  const { fs, state } = await openNamespace({ now: tickingTime(), onFailure: (error) => test.fail(error.message) });
  test.teardown(() => state.stop());
  await fs.setAttributes(root, ROOT_INODE, { mode: 0o1777 });
  return fs;
}

async function file(fs: NamespaceFileSystem, text: string, as = root, mode = 0o666): Promise<InodeId> {
  return (await fs.makeNode(as, ROOT_INODE, name(text), { kind: 'file', mode })).inode;
}

void t.test('P12: setuid and setgid go when another writes, truncates or owns', async (test) => {
  const fs = await open(test);
  const f = await file(fs, 'f', alice);
  const set = async (mode: number): Promise<void> => void (await fs.setAttributes(root, f, { mode }));
  const now = async (): Promise<string> => permissions((await fs.getAttributes(f)).mode);

  await set(0o6777);
  await fs.setAttributes(bob, f, { size: 5 });
  test.equal(await now(), '777', 'truncate by another');
  await set(0o6777);
  await fs.setAttributes(root, f, { size: 6 });
  test.equal(await now(), '6777', 'uid 0 has CAP_FSETID');
  const opened = await fs.openAt(bob, ROOT_INODE, name('f'), { read: false, write: true, truncate: true });
  await opened.file.close();
  test.equal(await now(), '777', 'O_TRUNC by another');
  await set(0o6777);
  await fs.setAttributes(alice, f, { gid: 9 });
  test.equal(await now(), '777', 'chown');
  await set(0o6767);
  await fs.setAttributes(root, f, { uid: 1 });
  test.equal(await now(), '2767', 'setgid without group execute is mandatory locking: it stays');

  await set(0o6777);
  await test.rejects(fs.setAttributes(bob, f, { mode: 0o777 }), { code: 'EPERM' }, 'though a write would do as much');
  await fs.setAttributes(bob, f, { killPrivileges: true });
  test.equal(await now(), '777', 'as a write does');
  await set(0o6777);
  await test.rejects(fs.setAttributes(bob, f, { mode: 0o755 }), { code: 'EPERM' });
  await test.rejects(fs.setAttributes(bob, f, { mode: 0o6777 }), { code: 'EPERM' });
  await set(0o6755);
  await test.rejects(fs.setAttributes(bob, f, { mode: 0o755 }), { code: 'EPERM' }, 'not without write permission');
  await fs.setAttributes(root, f, { gid: 2 });
  await fs.setAttributes(alice, f, { mode: 0o2755 });
  test.equal(await now(), '755', 'no setgid for a group that the owner is not in');
});

void t.test('bounds: links, names of symlinks, xattrs', async (test) => {
  const fs = await open(test);
  const f = await file(fs, 'f');
  fs.mutate((m) => {
    const record = namespace.requireInode(m, f);
    record.nlink = MAX_LINKS;
    namespace.saveInode(m, f, record);
  });
  await test.rejects(fs.link(root, f, ROOT_INODE, name('more')), { code: 'EMLINK' });
  await test.rejects(fs.symlink(root, ROOT_INODE, name('s'), Buffer.alloc(4096, 97)), { code: 'ENAMETOOLONG' });
  await test.rejects(fs.symlink(root, ROOT_INODE, name('s'), Buffer.from('a\0b')), { code: 'EINVAL' });
  test.equal((await fs.symlink(root, ROOT_INODE, name('s'), Buffer.alloc(4095, 97))).size, 4095);

  const g = await file(fs, 'g');
  const value = Buffer.alloc(MAX_XATTR_VALUE_BYTES);
  await fs.setXattr(root, g, name('user.1'), value);
  await test.rejects(fs.setXattr(root, g, name('user.2'), Buffer.alloc(value.length + 1)), { code: 'E2BIG' });
  const rest = MAX_XATTRS_BYTES - value.length - 12;
  await test.rejects(fs.setXattr(root, g, name('user.2'), Buffer.alloc(rest + 1)), { code: 'ENOSPC' });
  await fs.setXattr(root, g, name('user.1'), value.subarray(1));
  await fs.setXattr(root, g, name('user.2'), Buffer.alloc(Math.min(rest, value.length)));
  await fs.removeXattr(root, g, name('user.1'));
  await fs.removeXattr(root, g, name('user.2'));
  const long = 'user.'.padEnd(250, 'n');
  await test.rejects(
    async () => {
      for (let i = 0; ; i++) await fs.setXattr(root, g, name(`${long}${i}`), Buffer.alloc(0));
    },
    { code: 'ENOSPC' },
  );
  test.ok((await fs.listXattrs(root, g)).length > 250);
  await fs.unlink(root, ROOT_INODE, name('g'));
  test.strictSame([...fs.state.range({ start: 'X', end: 'Y' })], [], 'they go with their inode');
});

void t.test('an inode without names is an orphan until it is removed', async (test) => {
  const fs = await open(test);
  const before = (await fs.statFs()).inodes;
  const { file: held, attributes } = await fs.create(root, ROOT_INODE, name('f'), {
    mode: 0o600,
    flags: { read: true, write: true },
  });
  await fs.unlink(root, ROOT_INODE, name('f'));
  test.ok(fs.state.get(keys.orphan(attributes.inode)));
  test.equal((await fs.statFs()).inodes, before + 1);
  await held.close();
  test.equal(fs.state.get(keys.orphan(attributes.inode)), undefined);
  test.equal((await fs.statFs()).inodes, before);
  await test.rejects(fs.getAttributes(attributes.inode), { code: 'ESTALE' });
  fs.mutate((m) => namespace.removeInode(m, attributes.inode));
  test.equal((await fs.statFs()).inodes, before, 'removing it again changes nothing');
  const next = await file(fs, 'f');
  test.ok(next > attributes.inode, 'numbers are not used again');
});

void t.test('a removed directory that is still open takes nothing in', async (test) => {
  const fs = await open(test);
  const { inode } = await fs.makeNode(root, ROOT_INODE, name('d'), { kind: 'directory', mode: 0o777 });
  const f = await file(fs, 'f');
  fs.files.opens.set(inode, 1);
  await fs.removeDirectory(root, ROOT_INODE, name('d'));
  await test.rejects(fs.makeNode(root, inode, name('x'), { kind: 'file', mode: 0o600 }), { code: 'ENOENT' });
  await test.rejects(fs.link(root, f, inode, name('x')), { code: 'ENOENT' });
  const from = { parent: ROOT_INODE, name: name('f') };
  await test.rejects(fs.rename(root, from, { parent: inode, name: name('x') }), { code: 'ENOENT' });
  test.strictSame((await fs.readDirectory(root, inode, 0)).entries, []);
  test.equal((await fs.lookup(root, inode, name('..'))).inode, ROOT_INODE);
});

void t.test('P8: a page of a large directory costs the page: cookies lead straight to it', async (test) => {
  const fs = await open(test);
  for (let i = 0; i < 3000; i++) await file(fs, `f${i}`);
  let reads = 0;
  const counting = {
    // But for counters of the whole cluster, which are always in memory.
    get: (key: string) => ((reads += key.startsWith('M') ? 0 : 1), fs.state.get(key)),
    *range(range: { start: string; end: string }): Iterable<readonly [string, Uint8Array]> {
      for (const entry of fs.state.range(range)) {
        reads++;
        yield entry;
      }
    },
  };
  const init = { caller: root, inode: ROOT_INODE, cookie: 2500, maxEntries: 10, withAttributes: true };
  const request = messages.ReadDirectoryRequest.decode(messages.ReadDirectoryRequest.encode(init).finish());
  const page = namespace.readDirectory(counting, request);
  test.equal(page.entries?.length, 10);
  test.ok(reads <= 22, `${reads} reads`);
  const all = await fs.readDirectory(root, ROOT_INODE, 0, { maxEntries: 100_000 });
  test.equal(all.entries.length, MAX_READDIR_ENTRIES, 'a page is bounded whatever is asked for');
  const encoded = messages.ReadDirectoryReply.encode(page).finish();
  test.ok(encoded.length < 2000);
});

void t.test('an entry that a rename replaces keeps its place in a listing that goes on', async (test) => {
  const fs = await open(test);
  for (const each of ['a', 'b', 'c', 'd']) await file(fs, each);
  const first = await fs.readDirectory(root, ROOT_INODE, 0, { maxEntries: 2 });
  const cookie = first.entries.at(-1)?.cookie ?? 0;
  await fs.rename(root, { parent: ROOT_INODE, name: name('c') }, { parent: ROOT_INODE, name: name('b') });
  const rest = await fs.readDirectory(root, ROOT_INODE, cookie);
  const names = [...first.entries, ...rest.entries].map((entry) => entry.name.toString());
  test.strictSame(names, ['a', 'b', 'd'], 'b was there all the time and is listed once');
  test.equal(rest.end, true);
});

void t.test('requests that make no sense are refused', async (test) => {
  const fs = await open(test);
  const create = (init: messages.CreateRequestInit): unknown =>
    fs.mutate((m, context) =>
      namespace.create(m, context, messages.CreateRequest.decode(messages.CreateRequest.encode(init).finish())),
    );
  test.throws(() => create({ parent: 1, name: name('x'), mode: 0o100644 }), { code: 'PROTOCOL' }, 'no caller');
  const caller = { uid: 0, gid: 0, groups: [] };
  const crowd = { uid: 0, gid: 0, groups: Array.from({ length: 2000 }, (_, i) => i) };
  test.throws(() => create({ caller: crowd, parent: 1, name: name('x') }), { code: 'PROTOCOL' });
  test.throws(() => create({ caller, parent: 1, name: name('x'), mode: 0o170000 }), { code: 'EINVAL' });
  test.throws(() => create({ caller, parent: 1, name: name('a/b'), mode: 0o100644 }), { code: 'EINVAL' });
  test.throws(() => create({ caller, parent: 99, name: name('x'), mode: 0o100644 }), { code: 'ESTALE' });
  const rename = messages.RenameRequest.encode({ caller, parent: 1, name: name('x'), newParent: 1, flags: 3 }).finish();
  test.throws(() => fs.mutate((m, context) => namespace.rename(m, context, messages.RenameRequest.decode(rename))), {
    code: 'EINVAL',
  });
  await test.rejects(fs.access(root, ROOT_INODE, 8), { code: 'EINVAL' });
});

void t.test('chmod, chown and times of one request are all or nothing', async (test) => {
  const fs = await open(test);
  const f = await file(fs, 'f', alice);
  const before = await fs.getAttributes(f);
  await test.rejects(fs.setAttributes(alice, f, { mode: 0o600, size: 10, uid: 2 }), { code: 'EPERM' });
  test.strictSame(await fs.getAttributes(f), before);
  const after = await fs.setAttributes(root, f, { mode: 0o600, uid: 2, gid: 2, size: 10 });
  test.match(after, { mode: 0o100600, uid: 2, gid: 2, size: 10 });
  test.ok(after.change > before.change);
});
