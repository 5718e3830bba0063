/** Whole files and paths over `FileSystem`, for tests: as root, a path is names joined by '/'. */
import { ROOT_INODE, type InodeId } from '../../src/core/ids.js';
import { MIB } from '../../src/core/limits.js';
import { SeededRandom } from '../../src/core/random.js';
import { ROOT_CREDENTIALS, type Attributes, type FileSystem } from '../../src/filesystem/filesystem.js';

const root = ROOT_CREDENTIALS;

async function parentOf(fs: FileSystem, path: string): Promise<{ parent: InodeId; name: Buffer }> {
  const names = path.split('/').filter((name) => name !== '');
  const last = names.pop();
  if (last === undefined) throw new RangeError(`'${path}' has no last name`);
  let parent = ROOT_INODE;
  for (const name of names) parent = (await fs.lookup(root, parent, Buffer.from(name))).inode;
  return { parent, name: Buffer.from(last) };
}

export async function stat(fs: FileSystem, path: string): Promise<Attributes> {
  const { parent, name } = await parentOf(fs, path);
  return fs.lookup(root, parent, name);
}

export async function mkdir(fs: FileSystem, path: string): Promise<Attributes> {
  const { parent, name } = await parentOf(fs, path);
  return fs.makeNode(root, parent, name, { kind: 'directory', mode: 0o755 });
}

export async function rename(fs: FileSystem, from: string, to: string): Promise<void> {
  await fs.rename(root, await parentOf(fs, from), await parentOf(fs, to));
}

export async function unlink(fs: FileSystem, path: string): Promise<void> {
  const { parent, name } = await parentOf(fs, path);
  await fs.unlink(root, parent, name);
}

/** Writes `bytes` as the file's whole content; with `sync` it is durable (P1) before this returns. */
export async function writeFile(
  fs: FileSystem,
  path: string,
  bytes: Uint8Array,
  options: { sync?: boolean } = {},
): Promise<void> {
  const { parent, name } = await parentOf(fs, path);
  const flags = { read: false, write: true, truncate: true };
  const { file } = await fs.create(root, parent, name, { mode: 0o644, flags });
  try {
    for (let at = 0; at < bytes.length; at += MIB) await file.write(at, bytes.subarray(at, at + MIB));
    if (options.sync === true) await file.sync();
  } finally {
    await file.close();
  }
}

export async function readFile(fs: FileSystem, path: string): Promise<Buffer> {
  const { parent, name } = await parentOf(fs, path);
  const { file, attributes } = await fs.openAt(root, parent, name, { read: true, write: false });
  try {
    const parts: Buffer[] = [];
    for (let at = 0; at < attributes.size;) {
      const part = await file.read(at, Math.min(MIB, attributes.size - at));
      if (part.length === 0) break;
      parts.push(part);
      at += part.length;
    }
    return Buffer.concat(parts);
  } finally {
    await file.close();
  }
}

/** Names in a directory, sorted. */
export async function list(fs: FileSystem, inode: InodeId): Promise<string[]> {
  const names: string[] = [];
  for (let cookie = 0; ;) {
    const page = await fs.readDirectory(root, inode, cookie);
    for (const entry of page.entries) names.push(entry.name.toString());
    const last = page.entries.at(-1);
    if (page.end || last === undefined) return names.sort();
    cookie = last.cookie;
  }
}

/** Bytes that only `seed` gives. Quick: a kilobyte of noise, repeated with a counter in each. */
export function content(seed: number, length: number): Buffer {
  const noise = new SeededRandom(seed).bytes(1024);
  const bytes = Buffer.alloc(length, noise);
  for (let at = 0; at + 4 <= length; at += 1024) bytes.writeUInt32LE(((at / 1024) ^ seed) >>> 0, at);
  return bytes;
}
