/**
 * A cluster on disk, byte for byte, as a build of a format left it: what `frozen-cluster.test.ts` starts again. `freeze`
 * makes one with each table of the metadata in use, `thaw` puts it on the machines of another world, and `describe` says
 * what a client sees of it.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { gunzipSync, gzipSync } from 'node:zlib';
import { ROOT_INODE } from '../../../src/core/ids.js';
import type { InodeId } from '../../../src/core/ids.js';
import type { FileSystem } from '../../../src/filesystem/filesystem.js';
import { findFrames } from '../../../src/master/log/log-record.js';
import { READ_WRITE, root } from '../world/story.js';
import type { Story } from '../world/story.js';
import { MASTER } from '../world/world.js';
import type { World } from '../world/world.js';

export interface FrozenCluster {
  /** Machine, path, content: gzip in base64, as chunk files are zeros for the most part. */
  readonly files: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** The metadata store: key and value, hexadecimal. */
  readonly store: readonly (readonly [key: string, value: string])[];
  /** What a client saw, by path. */
  readonly tree: Readonly<Record<string, SeenInode>>;
}

export interface SeenInode {
  readonly attributes: string;
  readonly content?: string;
  readonly xattrs: Readonly<Record<string, string>>;
}

const LOG_HEADER_BYTES = 64;
const READ = { read: true, write: false, noAtime: true };
const ACL = Buffer.from(
  '0200000001000600ffffffff02000400e903000004000400ffffffff10000600ffffffff20000400ffffffff',
  'hex',
);

/** What is on disk once every kind of operation was done, and all processes were killed in the middle of some. */
export async function freeze(s: Story): Promise<FrozenCluster> {
  const { world, one } = s;
  await makeTree(one);
  const appendOver = await openRemovedLog(s);
  // The first look moves times of access.
  await describe(one);
  const tree = await describe(one);
  await leaveThingsOpen(s, appendOver);
  for (const name of [...world.chunkservers, MASTER]) await world.kill(name);
  const files: Record<string, Record<string, string>> = {};
  for (const name of [...world.chunkservers, MASTER]) {
    const disk = world.disk(name);
    const kept = (path: string): boolean => !path.endsWith('/reserve') && !path.includes('/probe-');
    files[name] = Object.fromEntries(
      disk
        .files()
        .filter(kept)
        .map((path) => [path, gzipSync(disk.content(path), { level: 9 }).toString('base64')]),
    );
  }
  const store = world.store
    .snapshot()
    .map(({ key, value }) => [Buffer.from(key, 'latin1').toString('hex'), hex(value ?? new Uint8Array())] as const);
  return { files, store, tree };
}

/** Puts it on the machines of a world in which nothing runs yet. */
export async function thaw(world: World, frozen: FrozenCluster): Promise<void> {
  for (const [name, files] of Object.entries(frozen.files)) {
    for (const [path, content] of Object.entries(files)) {
      world.disk(name).plantFile(path, gunzipSync(Buffer.from(content, 'base64')));
    }
  }
  await world.store.putBack(
    frozen.store.map(([key, value]) => ({
      key: Buffer.from(key, 'hex').toString('latin1'),
      value: Buffer.from(value, 'hex'),
    })),
  );
}

/** The letters of the tables that store and log have entries of. */
export function tablesOf(frozen: FrozenCluster): string {
  const letters = new Set(frozen.store.map(([key]) => Buffer.from(key.slice(0, 2), 'hex').toString('latin1')));
  for (const [path, content] of Object.entries(frozen.files[MASTER] ?? {})) {
    if (!path.startsWith('/log/oplog-')) continue;
    for (const { record } of findFrames(gunzipSync(Buffer.from(content, 'base64')), LOG_HEADER_BYTES)) {
      for (const key of record.changes.keys()) letters.add(key.charAt(0));
    }
  }
  return [...letters].sort().join('');
}

/** All that a client sees below the root. */
export async function describe(fs: FileSystem): Promise<Record<string, SeenInode>> {
  const tree: Record<string, SeenInode> = {};
  const walk = async (path: string, inode: InodeId): Promise<void> => {
    tree[path] = await look(fs, inode);
    const { entries, end } = await fs.readDirectory(root, inode, 0, { maxEntries: 100 });
    assert.ok(end);
    for (const entry of entries) {
      const at = `${path}/${entry.name.toString('latin1')}`;
      if (entry.kind === 'directory') await walk(at, entry.inode);
      else tree[at] = await look(fs, entry.inode);
    }
  };
  await walk('', ROOT_INODE);
  return tree;
}

async function look(fs: FileSystem, inode: InodeId): Promise<SeenInode> {
  const xattrs: Record<string, string> = {};
  for (const name of await fs.listXattrs(root, inode)) {
    xattrs[name.toString('latin1')] = hex(await fs.getXattr(root, inode, name));
  }
  const attributes = await fs.getAttributes(inode);
  // What a client holds is of its session.
  const shown = JSON.stringify(attributes, (key, value: unknown) =>
    ['heldBy', 'grant'].includes(key) ? undefined : value,
  );
  const seen = { attributes: shown, xattrs };
  const kind = attributes.mode & 0o170000;
  if (kind === 0o120000) return { ...seen, content: (await fs.readLink(root, inode)).toString('latin1') };
  if (kind !== 0o100000) return seen;
  const { file } = await fs.open(root, inode, READ);
  const content = await file.read(0, attributes.size + 1);
  await file.close();
  return { ...seen, content: createHash('sha256').update(content).digest('hex') };
}

async function makeTree(fs: FileSystem): Promise<void> {
  const name = (text: string): Buffer => Buffer.from(text);
  const write = async (parent: InodeId, text: string, offset: number, length: number): Promise<InodeId> => {
    const options = { mode: 0o640, flags: READ_WRITE };
    const { file } = await fs.create({ uid: 1000, gid: 100, groups: [4] }, parent, name(text), options);
    if (length > 0) await file.write(offset, lines(length, text));
    await file.sync();
    await file.close();
    return file.inode;
  };
  const made = await fs.makeNode(root, ROOT_INODE, name('directory'), { kind: 'directory', mode: 0o1777 });
  const inner = await fs.makeNode(root, made.inode, name('inner'), { kind: 'directory', mode: 0o2777 });
  const small = await write(made.inode, 'small', 0, 5000);
  await write(made.inode, 'empty', 0, 0);
  await write(made.inode, 'behind a hole', 70 * 2 ** 20, 3000);
  const cut = await write(inner.inode, 'cut', 0, 200_000);
  await fs.setAttributes(root, cut, { size: 70_001 });
  await fs.link(root, small, inner.inode, name('another name'));
  await fs.symlink(root, ROOT_INODE, Buffer.from('link \xe9', 'latin1'), name('directory/small'));
  await fs.makeNode(root, inner.inode, name('fifo'), { kind: 'fifo', mode: 0o600 });
  await fs.makeNode(root, inner.inode, name('device'), { kind: 'blockDevice', mode: 0o660, rdev: 0x1234 });
  await fs.setXattr(root, small, name('user.note'), Buffer.from([0, 1, 255]));
  await fs.setXattr(root, small, name('system.posix_acl_access'), ACL);
  await fs.setXattr(root, made.inode, name('system.posix_acl_default'), ACL);
  await fs.setAttributes(root, small, {
    mtime: { seconds: -5, nanoseconds: 123_456_789 },
    uid: 70_000,
    gid: 2 ** 32 - 2,
  });
  await write(inner.inode, 'replaced', 0, 100);
  await write(inner.inode, 'replacing', 0, 999);
  const of = (text: string): { parent: InodeId; name: Buffer } => ({ parent: inner.inode, name: name(text) });
  await fs.rename(root, of('replacing'), of('replaced'));
  await write(inner.inode, 'removed', 0, 100);
  await fs.unlink(root, inner.inode, name('removed'));
}

/** A file without a name that two clients have open. What is returned lets one append in place of the other, which is away and does not know. */
async function openRemovedLog({ world, one }: Story): Promise<() => Promise<void>> {
  const flags = { read: true, write: true, append: true };
  const away = await world.connect('client-3');
  const { file } = await one.create(root, ROOT_INODE, Buffer.from('log'), { mode: 0o600, flags });
  const { file: lost } = await away.openAt(root, ROOT_INODE, Buffer.from('log'), flags);
  await one.unlink(root, ROOT_INODE, Buffer.from('log'));
  return async () => {
    await lost.write(0, lines(1000, 'away'));
    world.network.partition(MASTER, 'client-3');
    await file.write(0, lines(1000, 'instead'));
  };
}

/** Every table that is empty at rest has entries then, and nothing that `describe` tells changes. */
async function leaveThingsOpen(s: Story, appendOver: () => Promise<void>): Promise<void> {
  const { world, one, two } = s;
  const temporary = { mode: 0o600, flags: READ_WRITE };
  const write = async (length: number, fs: FileSystem): Promise<Awaited<ReturnType<FileSystem['createTemporary']>>> => {
    const made = await fs.createTemporary(root, ROOT_INODE, temporary);
    await made.file.write(0, lines(length, 'open'));
    await made.file.sync();
    return made;
  };
  // A client that dies leaves a lease, whose end leaves a note that its file was open for writing.
  await write(4000, two);
  await world.kill('client-2');
  const toCut = await write(300_000, one);
  const toRemove = await write(100_000, one);
  await world.sleep(90_000);
  await appendOver();
  await world.kill('chunkserver-1');
  await world.sleep(15_000);
  await toRemove.file.close();
  await world.sleep(2000);
  await write(100_000, one);
  await world.kill('chunkserver-2');
  void toCut.file.truncate(1000).catch(() => undefined);
  await world.sleep(300);
}

/** Bytes that a fixture holds in little room. */
function lines(length: number, of: string): Buffer {
  let text = '';
  for (let at = 0; text.length < length; at++) text += `${of} ${at}`.padEnd(500, '.');
  return Buffer.from(text.slice(0, length));
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
