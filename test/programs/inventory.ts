/** Everything that a copy of a tree must keep, as lines to compare: what lstat says to the nanosecond, contents, xattrs. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { lstat, readdir, readlink } from 'node:fs/promises';
import type { BigIntStats } from 'node:fs';
import type { Test } from 'tap';
import { shell } from '../support/shell.js';

export interface InventoryOptions {
  /** Of files; directories' always count. Default true. */
  readonly times?: boolean;
}

/**
 * One line for each entry below `root`, itself included, in the order of names; names are bytes. Link counts of
 * directories, sizes of directories, atime and ctime are the file system's own business.
 */
export async function inventory(root: string, options: InventoryOptions = {}): Promise<string[]> {
  const lines: string[] = [];
  const firstName = new Map<bigint, string>();
  const visit = async (path: Buffer, name: string): Promise<void> => {
    const stats = await lstat(path, { bigint: true });
    const parts = [name, kindOf(stats), (stats.mode & 0o7777n).toString(8), `${stats.uid}:${stats.gid}`];
    if (options.times !== false || stats.isDirectory()) parts.push(`mtime ${stats.mtimeNs}`);
    if (!stats.isDirectory()) {
      parts.push(`${stats.size} bytes, ${stats.nlink} names`);
      const first = firstName.get(stats.ino);
      if (first === undefined) firstName.set(stats.ino, name);
      else parts.push(`is ${first}`);
    }
    if (stats.isCharacterDevice() || stats.isBlockDevice()) parts.push(`device ${stats.rdev}`);
    if (stats.isSymbolicLink()) parts.push(`to ${(await readlink(path, 'buffer')).toString('latin1')}`);
    if (stats.isFile()) parts.push(await digest(path));
    lines.push(parts.join(' | '));
    if (!stats.isDirectory()) return;
    const entries = await readdir(path, { encoding: 'buffer' });
    for (const entry of entries.sort((a, b) => Buffer.compare(a, b))) {
      await visit(Buffer.concat([path, Buffer.from('/'), entry]), `${name}/${entry.toString('latin1')}`);
    }
  };
  await visit(Buffer.from(root), '.');
  return lines;
}

/** All xattrs of all namespaces, ACLs among them, as getfattr prints them in hexadecimal; one string an entry. */
export async function xattrs(root: string): Promise<string[]> {
  const text = await shell('getfattr --absolute-names -hRPd -m - -e hex .', { directory: root, timeoutMs: 120_000 });
  const blocks = text.split('\n\n').map((block) => block.trim().split('\n'));
  return blocks
    .filter((block) => block.length > 1)
    .map(([name = '', ...values]) => [name, ...values.sort()].join('\n'))
    .sort();
}

/** Fails with the entries that differ, not with both trees. */
export async function isSameTree(t: Test, actual: string, expected: string, what: string): Promise<void> {
  const [is, should] = [
    [...(await inventory(actual)), ...(await xattrs(actual))],
    [...(await inventory(expected)), ...(await xattrs(expected))],
  ];
  const [has, wants] = [new Set(is), new Set(should)];
  t.ok(should.length > 0);
  t.same(
    { missing: should.filter((line) => !has.has(line)), unexpected: is.filter((line) => !wants.has(line)) },
    { missing: [], unexpected: [] },
    what,
  );
  t.equal(is.length, should.length, `${what}: so many entries`);
}

function kindOf(stats: BigIntStats): string {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'directory';
  if (stats.isSymbolicLink()) return 'symlink';
  if (stats.isFIFO()) return 'fifo';
  if (stats.isSocket()) return 'socket';
  return stats.isCharacterDevice() ? 'character device' : 'block device';
}

async function digest(path: Buffer): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece as Buffer);
  return hash.digest('hex');
}
