/**
 * A directory, of a mount or of a local disk, as a `FileSystem`: every call becomes the system calls that a program would
 * make, done by an agent. So what is said about `FileSystem` can be asked of the kernel too.
 *
 * An inode is what the agent has open with O_PATH, by its st_ino. A `FileSystem` that was given an inode's number by
 * another, its peer, finds it by the path that the peer's kernel has for it.
 */
import { realpath } from 'node:fs/promises';
import { CairnError, hasCode } from '../../../src/core/errors.js';
import { inodeId, ROOT_INODE } from '../../../src/core/ids.js';
import type { InodeId } from '../../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type {
  AttributeChanges,
  Attributes,
  ChunkPlacement,
  Credentials,
  DirectoryEntry,
  DirectoryPage,
  FileSystem,
  FileSystemStats,
  LockHolder,
  LockKind,
  LockRequest,
  NewFile,
  NewNode,
  OpenFile,
  OpenFlags,
  RenameFlags,
} from '../../../src/filesystem/filesystem.js';
import { DirectoryLocks } from './directory-locks.js';
import type { PosixLockFlavour } from './directory-locks.js';
import { DirectoryOpenFile } from './directory-open-file.js';
import { SystemCallAgent } from '../system-calls/system-call-agent.js';
import { AT, O, SystemCalls, renameBits } from '../system-calls/system-calls.js';
import type { Stat } from '../system-calls/system-calls.js';
import { Cookies } from './directory-cookies.js';
import { TYPE_OF_KIND, kindOf } from './directory-kinds.js';
/** Room for some entries of the longest names. */
const LISTING_BYTES = 16_384;
/** Descriptors of one inode, by its different names; older ones are given back. */
const MAX_HELD_NAMES = 16;
const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;

/** What else open(2) may be asked for. */
export interface ProgramFlags extends OpenFlags {
  /** O_DIRECT */
  readonly direct?: boolean;
}

export interface DirectoryOptions {
  /** What the locks of the kind 'posix' are. Default: of processes. */
  readonly locks?: PosixLockFlavour;
}

export class DirectoryFileSystem implements FileSystem {
  private readonly held = new Map<InodeId, number[]>();
  private readonly made = new Set<InodeId>();
  private readonly cookies = new Cookies();
  private readonly locks: DirectoryLocks;
  private peer: DirectoryFileSystem | undefined;

  private constructor(
    readonly system: SystemCalls,
    /** Without symlinks, as the kernel tells paths. */
    readonly path: string,
    private readonly root: number,
    private readonly rootInode: InodeId,
    options: DirectoryOptions,
  ) {
    this.locks = new DirectoryLocks(options.locks ?? 'process', async (inode) => {
      return `/proc/${system.agent.pid}/fd/${await this.descriptor(inode)}`;
    });
  }

  /** Starts an agent of its own; `close` ends it. The root of `path` is ROOT_INODE. */
  static async open(path: string, options: DirectoryOptions = {}): Promise<DirectoryFileSystem> {
    const system = new SystemCalls(await SystemCallAgent.start());
    const real = await realpath(path);
    const root = await system.openat(AT.FDCWD, real, O.PATH | O.DIRECTORY);
    const { inode } = await system.stat(root);
    return new DirectoryFileSystem(system, real, root, inodeId(inode), options);
  }

  /** Two that know each other's inodes: of one directory, or of two mounts of one file system. */
  static async pair(
    one: string,
    two: string,
    options: DirectoryOptions = {},
  ): Promise<[DirectoryFileSystem, DirectoryFileSystem]> {
    const [a, b] = [await DirectoryFileSystem.open(one, options), await DirectoryFileSystem.open(two, options)];
    a.peer = b;
    b.peer = a;
    return [a, b];
  }

  /** The agent's descriptor of an inode, O_PATH. */
  async descriptor(inode: InodeId): Promise<number> {
    if (inode === ROOT_INODE || inode === this.rootInode) return this.root;
    const known = this.held.get(inode)?.at(-1);
    if (known !== undefined) return known;
    const path = await this.peer?.pathOf(inode);
    if (path === undefined) throw new CairnError('ESTALE', `nothing is known of inode ${inode}`);
    try {
      const fd = await this.system.openat(this.root, path.length === 0 ? '.' : path, O.PATH | O.NOFOLLOW);
      const seen = await this.hold(fd);
      if (seen.inode === inode) return fd;
    } catch (error) {
      if (!hasCode(error, 'ENOENT', 'ENOTDIR')) throw error;
    }
    throw new CairnError('ESTALE', `inode ${inode} is no more at ${path.toString()}`);
  }

  /** By which calls that take a path reach the inode. */
  async pathTo(inode: InodeId): Promise<string> {
    return `/proc/self/fd/${await this.descriptor(inode)}`;
  }

  /** Gives back the descriptors of all inodes, which are forgotten, and ends all lock owners. Nothing may be under way. */
  async forget(): Promise<void> {
    this.locks.stop();
    const all = [...this.held.values()].flat();
    this.held.clear();
    this.made.clear();
    this.cookies.clear();
    await Promise.all(all.map((fd) => this.system.close(fd)));
  }

  /** The same for one inode. Its locks stay. */
  async forgetInode(inode: InodeId): Promise<void> {
    const descriptors = this.held.get(inode) ?? [];
    this.held.delete(inode);
    this.made.delete(inode);
    await Promise.all(descriptors.map((fd) => this.system.close(fd)));
  }

  async lookup(credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    const directory = await this.descriptor(parent);
    const options = { as: credentials };
    // stat(2) asks again for a name that turns out to be old (ESTALE), which open(2) with O_PATH cannot know.
    await this.system.stat(directory, checked(name), AT.SYMLINK_NOFOLLOW, options);
    return this.hold(await this.system.openat(directory, name, O.PATH | O.NOFOLLOW, 0, options));
  }

  async getAttributes(inode: InodeId): Promise<Attributes> {
    return this.attributesOf(await this.system.stat(await this.descriptor(inode)));
  }

  /** Several changes are several calls; a size that comes with a time of now is one, as it is for truncate(2). */
  async setAttributes(credentials: Credentials, inode: InodeId, changes: AttributeChanges): Promise<Attributes> {
    const fd = await this.descriptor(inode);
    const path = await this.pathTo(inode);
    const options = { as: credentials };
    const { uid, gid, mode, size, atime, mtime } = changes;
    if (uid !== undefined || gid !== undefined) await this.system.fchownat(fd, '', uid ?? -1, gid ?? -1, options);
    if (mode !== undefined) await this.system.fchmodat(AT.FDCWD, path, mode, options);
    if (size !== undefined) await this.system.truncate(path, size, options);
    if ((atime !== undefined || mtime !== undefined) && (size === undefined || mtime !== 'now')) {
      await this.system.utimensat(fd, '', { atime, mtime }, options);
    }
    return this.getAttributes(inode);
  }

  async access(credentials: Credentials, inode: InodeId, mask: number): Promise<void> {
    await this.system.access(await this.descriptor(inode), '', mask, { as: credentials });
  }

  async makeNode(credentials: Credentials, parent: InodeId, name: Buffer, node: NewNode): Promise<Attributes> {
    const fd = await this.descriptor(parent);
    const options = { as: credentials, umask: node.umask };
    if (node.kind === 'directory') await this.system.mkdirat(fd, checked(name), node.mode, options);
    else await this.system.mknodat(fd, checked(name), TYPE_OF_KIND[node.kind] | node.mode, node.rdev ?? 0, options);
    return this.lookup(ROOT_CREDENTIALS, parent, name);
  }

  async symlink(credentials: Credentials, parent: InodeId, name: Buffer, target: Buffer): Promise<Attributes> {
    await this.system.symlinkat(target, await this.descriptor(parent), checked(name), { as: credentials });
    return this.lookup(ROOT_CREDENTIALS, parent, name);
  }

  async readLink(credentials: Credentials, inode: InodeId): Promise<Buffer> {
    try {
      return await this.system.readlinkat(await this.descriptor(inode), '', { as: credentials });
    } catch (error) {
      // What readlinkat(2) says of an empty path to no symlink.
      if (hasCode(error, 'ENOENT')) throw new CairnError('EINVAL', 'no symlink', { cause: error });
      throw error;
    }
  }

  async link(credentials: Credentials, inode: InodeId, newParent: InodeId, newName: Buffer): Promise<Attributes> {
    const to = await this.descriptor(newParent);
    await this.system.linkat(AT.FDCWD, await this.pathTo(inode), to, checked(newName), { as: credentials });
    return this.lookup(ROOT_CREDENTIALS, newParent, newName);
  }

  async unlink(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    await this.system.unlinkat(await this.descriptor(parent), checked(name), 0, { as: credentials });
  }

  async removeDirectory(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    await this.system.unlinkat(await this.descriptor(parent), checked(name), AT.REMOVEDIR, { as: credentials });
  }

  async rename(
    credentials: Credentials,
    from: { readonly parent: InodeId; readonly name: Buffer },
    to: { readonly parent: InodeId; readonly name: Buffer },
    flags: RenameFlags = {},
  ): Promise<void> {
    const [here, there] = [await this.descriptor(from.parent), await this.descriptor(to.parent)];
    const bits = renameBits(flags);
    await this.system.renameat2(here, checked(from.name), there, checked(to.name), bits, { as: credentials });
  }

  async create(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    options: NewFile,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes; readonly created: boolean }> {
    const directory = await this.descriptor(parent);
    // The kernel does not say whether it made the file: it did when there was none, for the first who asks.
    const existed = options.exclusive === true ? false : await this.isThere(directory, name);
    const flags = bitsOf(options.flags) | O.CREAT | O.NOFOLLOW | (options.exclusive === true ? O.EXCL : 0);
    const how = { as: credentials, umask: options.umask };
    const opened = await this.opened(
      credentials,
      await this.system.openat(directory, checked(name), flags, options.mode, how),
    );
    const created = !existed && !this.made.has(opened.file.inode);
    if (created) this.made.add(opened.file.inode);
    return { ...opened, created };
  }

  async createTemporary(
    credentials: Credentials,
    parent: InodeId,
    options: NewFile,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }> {
    const flags = bitsOf(options.flags) | O.TMPFILE | (options.exclusive === true ? O.EXCL : 0);
    const how = { as: credentials, umask: options.umask };
    return this.opened(
      credentials,
      await this.system.openat(await this.descriptor(parent), '.', flags, options.mode, how),
    );
  }

  async open(
    credentials: Credentials,
    inode: InodeId,
    flags: OpenFlags,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }> {
    const path = await this.pathTo(inode);
    return this.opened(credentials, await this.system.openat(AT.FDCWD, path, bitsOf(flags), 0, { as: credentials }));
  }

  async openAt(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    flags: OpenFlags,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }> {
    const bits = bitsOf(flags) | O.NOFOLLOW;
    const directory = await this.descriptor(parent);
    return this.opened(credentials, await this.system.openat(directory, checked(name), bits, 0, { as: credentials }));
  }

  async readDirectory(
    credentials: Credentials,
    inode: InodeId,
    cookie: number,
    options: { readonly maxEntries?: number; readonly withAttributes?: boolean } = {},
  ): Promise<DirectoryPage> {
    const held = await this.descriptor(inode);
    const parent = inode === ROOT_INODE ? ROOT_INODE : this.idOf((await this.system.stat(held, '..')).inode);
    const path = await this.pathTo(inode);
    const fd = await this.system.openat(AT.FDCWD, path, O.RDONLY | O.DIRECTORY, 0, { as: credentials });
    try {
      if (cookie !== 0) await this.system.lseek(fd, this.cookies.offset(cookie), 0);
      const entries: DirectoryEntry[] = [];
      const maxEntries = options.maxEntries ?? Infinity;
      for (;;) {
        const raw = await this.system.getdents(fd, LISTING_BYTES);
        if (raw.length === 0) return { entries, end: true, parent, nextCookie: Infinity };
        for (const { name, inode: number, offset, type } of raw) {
          if (name.equals(Buffer.from('.')) || name.equals(Buffer.from('..'))) continue;
          if (entries.length === maxEntries) return { entries, end: false, parent, nextCookie: Infinity };
          const attributes = options.withAttributes === true ? await this.lookup(credentials, inode, name) : undefined;
          entries.push({
            ...{ name, inode: this.idOf(number), kind: kindOf(type << 12), cookie: this.cookies.number(offset) },
            ...(attributes !== undefined && { attributes }),
          });
        }
      }
    } finally {
      await this.system.close(fd);
    }
  }

  async getXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<Buffer> {
    return this.system.getxattr(await this.pathTo(inode), name, { as: credentials });
  }

  async setXattr(
    credentials: Credentials,
    inode: InodeId,
    name: Buffer,
    value: Uint8Array,
    flags: { readonly create?: boolean; readonly replace?: boolean } = {},
  ): Promise<void> {
    const bits = (flags.create === true ? XATTR_CREATE : 0) | (flags.replace === true ? XATTR_REPLACE : 0);
    await this.system.setxattr(await this.pathTo(inode), name, value, bits, { as: credentials });
  }

  async listXattrs(credentials: Credentials, inode: InodeId): Promise<Buffer[]> {
    const all = await this.system.listxattr(await this.pathTo(inode), { as: credentials });
    const names = all.toString('latin1').split('\0').slice(0, -1);
    return names.map((name) => Buffer.from(name, 'latin1'));
  }

  async removeXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<void> {
    await this.system.removexattr(await this.pathTo(inode), name, { as: credentials });
  }

  getLock(inode: InodeId, request: LockRequest): Promise<LockHolder | undefined> {
    return this.locks.get(inode, request);
  }

  setLock(
    inode: InodeId,
    request: LockRequest,
    options: { readonly wait: boolean; readonly signal?: AbortSignal },
  ): Promise<void> {
    return this.locks.set(inode, request, options);
  }

  releaseLocks(inode: InodeId, kind: LockKind, owner: string): Promise<void> {
    return this.locks.release(inode, kind, owner);
  }

  async syncMetadata(): Promise<void> {
    const fd = await this.system.openat(this.root, '.', O.RDONLY | O.DIRECTORY);
    try {
      await this.system.fsync(fd);
    } finally {
      await this.system.close(fd);
    }
  }

  async statFs(): Promise<FileSystemStats> {
    const { total, available, inodes, maxName } = await this.system.statfs(this.root);
    return { totalBytes: total, freeBytes: available, inodes, maxNameBytes: maxName };
  }

  placement(inode: InodeId): Promise<readonly ChunkPlacement[]> {
    return Promise.reject(new CairnError('EOPNOTSUPP', `the kernel does not tell where inode ${inode} is`));
  }

  close(): Promise<void> {
    this.locks.stop();
    this.system.agent.stop();
    return Promise.resolve();
  }

  /** Where the kernel has the inode, below the root; undefined when it has no name. */
  private async pathOf(inode: InodeId): Promise<Buffer | undefined> {
    for (const fd of [...(this.held.get(inode) ?? [])].reverse()) {
      const path = await this.system.readlinkat(AT.FDCWD, `/proc/self/fd/${fd}`);
      const below = Buffer.from(`${this.path}/`);
      if (path.subarray(0, below.length).equals(below) && !path.toString('latin1').endsWith(' (deleted)')) {
        return path.subarray(below.length);
      }
    }
    return undefined;
  }

  private async isThere(directory: number, name: Buffer): Promise<boolean> {
    try {
      await this.system.stat(directory, checked(name));
      return true;
    } catch (error) {
      if (error instanceof CairnError) return false;
      throw error;
    }
  }

  private async opened(
    credentials: Credentials,
    fd: number,
  ): Promise<{ file: DirectoryOpenFile; attributes: Attributes }> {
    const attributes = await this.hold(await this.system.openat(AT.FDCWD, `/proc/self/fd/${fd}`, O.PATH));
    const attributesOf = async (): Promise<Attributes> => this.attributesOf(await this.system.stat(fd));
    return { file: new DirectoryOpenFile(this.system, fd, attributes.inode, credentials, attributesOf), attributes };
  }

  /** Keeps a descriptor for its inode. */
  private async hold(fd: number): Promise<Attributes> {
    const attributes = this.attributesOf(await this.system.stat(fd));
    const names = this.held.get(attributes.inode);
    if (names === undefined) this.held.set(attributes.inode, [fd]);
    else {
      names.push(fd);
      if (names.length > MAX_HELD_NAMES) await this.system.close(names.shift() ?? -1);
    }
    return attributes;
  }

  private idOf(number: number): InodeId {
    const inode = inodeId(number);
    return inode === this.rootInode ? ROOT_INODE : inode;
  }

  private attributesOf(stat: Stat): Attributes {
    const { inode, blocks, ...rest } = stat;
    return {
      ...rest,
      inode: this.idOf(inode),
      allocatedBytes: 512 * blocks,
      // No call tells the counter; every change of anything moves the ctime.
      change: stat.ctime.seconds * 1e6 + Math.floor(stat.ctime.nanoseconds / 1000),
    };
  }
}

const isDirect = (flags: ProgramFlags): boolean => flags.direct === true;

function bitsOf(flags: OpenFlags): number {
  const access = flags.read ? (flags.write ? O.RDWR : O.RDONLY) : O.WRONLY;
  const chosen = [
    flags.truncate === true && O.TRUNC,
    flags.append === true && O.APPEND,
    flags.sync === true && O.SYNC,
    isDirect(flags) && O.DIRECT,
  ];
  return chosen.reduce<number>((bits, each) => bits | (each === false ? 0 : each), access);
}

/** No path can say such a name. */
function checked(name: Buffer): Buffer {
  if (name.includes(0)) throw new CairnError('EINVAL', 'a name with a NUL');
  return name;
}
