/** A cluster in the shape of `node:fs/promises`: paths, Node's flags and errors, for one user. */
import type { Readable, Writable } from 'node:stream';
import { CairnError } from '../core/errors.js';
import { ROOT_INODE, type InodeId } from '../core/ids.js';
import { PERMISSION_BITS } from '../core/mode.js';
import type { Random } from '../core/random.js';
import type { StatusReply } from '../protocol/generated/messages.js';
import { kindOfMode } from '../filesystem/file-kind.js';
import type { ClusterFileSystem } from '../client/cluster-filesystem.js';
import { copyFile } from './copy-file.js';
import { listEntries } from '../filesystem/listing.js';
import { Dir } from './dir.js';
import { FileHandle } from './file-handle.js';
import { fileInfo, type FileInfo } from './file-info.js';
import type { ReadStreamOptions, WriteStreamOptions } from './file-streams.js';
import { lazyReadStream, lazyWriteStream } from './file-streams.js';
import type { Credentials, RenameFlags } from '../filesystem/filesystem.js';
import { asCall, failedWith } from './node-error.js';
import { parseFlags } from './open-flags.js';
import { openPath } from './open-path.js';
import { PathResolver, type PathLike, type Resolved } from '../filesystem/paths.js';
import { Dirent, Stats, toStatFs, type StatFs } from './stats.js';
import { toTimespec, type Time } from './times.js';
import { makeDirectories, removeTree } from './tree.js';

export interface CairnOptions {
  readonly credentials: Credentials;
  /** Taken from the modes that files and directories are made with. */
  readonly umask: number;
  readonly random: Random;
}

export type FileData = string | Uint8Array | Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>;
type Encoding = BufferEncoding | { readonly encoding?: BufferEncoding | null } | null;
interface WriteOptions {
  readonly mode?: number;
  readonly flag?: string | number;
  /** fsync before it returns. */
  readonly flush?: boolean;
}

const DEFAULT_FILE_MODE = 0o666;
const DEFAULT_DIRECTORY_MODE = 0o777;
const DEFAULT_PRIVATE_MODE = 0o700;
const COPYFILE_EXCL = 1;

/** Made by `connect`. Every failure is a FileSystemError with Node's `code`, `errno`, `syscall` and `path`. */
export class Cairn {
  private readonly resolver: PathResolver;
  private readonly credentials: Credentials;
  private nextFd = 1;

  constructor(
    /** The file system by inodes, underneath. */
    readonly fileSystem: ClusterFileSystem,
    private readonly options: CairnOptions,
  ) {
    this.credentials = options.credentials;
    this.resolver = new PathResolver(fileSystem, options.credentials);
  }

  /** open(2). `flags` as Node's ('r' by default); `mode` of a new file, before the umask. */
  open(path: PathLike, flags: string | number = 'r', mode = DEFAULT_FILE_MODE): Promise<FileHandle> {
    return this.call('open', path, async () => {
      const parsed = parseFlags(flags);
      const file = await openPath(this.resolver, path, parsed, this.masked(mode));
      return new FileHandle({
        fs: this.fileSystem,
        credentials: this.credentials,
        file,
        path: path.toString(),
        fd: this.nextFd++,
        append: parsed.append === true,
      });
    });
  }

  async readFile(path: PathLike, options?: { readonly encoding?: null } | null): Promise<Buffer>;
  async readFile(path: PathLike, options: BufferEncoding | { readonly encoding: BufferEncoding }): Promise<string>;
  async readFile(path: PathLike, options?: Encoding): Promise<Buffer | string> {
    const handle = await this.open(path);
    try {
      const bytes = await handle.readFile();
      const encoding = typeof options === 'string' ? options : options?.encoding;
      return encoding === undefined || encoding === null ? bytes : bytes.toString(encoding);
    } finally {
      await handle.close();
    }
  }

  /** Replaces the content, or makes the file. Visible to every client when it returns. */
  async writeFile(path: PathLike, data: FileData, options: WriteOptions = {}): Promise<void> {
    const handle = await this.open(path, options.flag ?? 'w', options.mode);
    try {
      await handle.writeFile(data);
      if (options.flush === true) await handle.sync();
    } finally {
      await handle.close();
    }
  }

  appendFile(path: PathLike, data: string | Uint8Array, options: WriteOptions = {}): Promise<void> {
    return this.writeFile(path, data, { flag: 'a', ...options });
  }

  /** Opens when the first bytes are wanted; an error of opening comes as the stream's. */
  createReadStream(path: PathLike, options: ReadStreamOptions & { readonly flags?: string | number } = {}): Readable {
    return lazyReadStream(() => this.open(path, options.flags ?? 'r'), { start: 0, ...options });
  }

  createWriteStream(
    path: PathLike,
    options: WriteStreamOptions & { readonly flags?: string | number; readonly mode?: number } = {},
  ): Writable {
    return lazyWriteStream(() => this.open(path, options.flags ?? 'w', options.mode), options);
  }

  stat(path: PathLike): Promise<Stats> {
    return this.call('stat', path, async () => new Stats((await this.resolver.resolve(path, true)).attributes));
  }

  lstat(path: PathLike): Promise<Stats> {
    return this.call('lstat', path, async () => new Stats((await this.resolver.resolve(path, false)).attributes));
  }

  /** Whether the user may: `mode` of F_OK 0, R_OK 4, W_OK 2, X_OK 1. */
  access(path: PathLike, mode = 0): Promise<void> {
    return this.call('access', path, async () => {
      const { attributes } = await this.resolver.resolve(path, true);
      if (mode !== 0) await this.fileSystem.access(this.credentials, attributes.inode, mode);
    });
  }

  async readdir(
    path: PathLike,
    options?:
      | BufferEncoding
      | { readonly recursive?: boolean; readonly withFileTypes?: false; readonly encoding?: BufferEncoding },
  ): Promise<string[]>;
  async readdir(
    path: PathLike,
    options: { readonly encoding: 'buffer'; readonly withFileTypes?: false; readonly recursive?: false },
  ): Promise<Buffer[]>;
  async readdir(
    path: PathLike,
    options: { readonly withFileTypes: true; readonly recursive?: boolean; readonly encoding?: BufferEncoding },
  ): Promise<Dirent[]>;
  /**
   * The entries of a directory, without '.' and '..'. With `recursive` those of all directories below it too, as paths
   * from it. All in memory: for a directory of any size use `opendir`.
   */
  readdir(
    path: PathLike,
    options?:
      | BufferEncoding
      | {
          readonly recursive?: boolean;
          readonly withFileTypes?: boolean;
          readonly encoding?: BufferEncoding | 'buffer';
        },
  ): Promise<string[] | Buffer[] | Dirent[]> {
    return this.call('scandir', path, async () => {
      const { recursive, withFileTypes, encoding } = typeof options === 'object' ? options : {};
      const inode = await this.directory(path);
      const base = path.toString().replace(/\/+$/, '') || '/';
      if (encoding === 'buffer') {
        const names: Buffer[] = [];
        for await (const entry of listEntries(this.fileSystem, this.credentials, inode)) names.push(entry.name);
        return names;
      }
      const dirents: Dirent[] = [];
      const names: string[] = [];
      const below = async (directory: InodeId, parentPath: string, prefix: string): Promise<void> => {
        for await (const entry of listEntries(this.fileSystem, this.credentials, directory)) {
          const name = entry.name.toString();
          if (withFileTypes === true) dirents.push(new Dirent(name, parentPath, entry.kind));
          else names.push(prefix + name);
          if (recursive === true && entry.kind === 'directory') {
            await below(entry.inode, `${parentPath === '/' ? '' : parentPath}/${name}`, `${prefix}${name}/`);
          }
        }
      };
      await below(inode, base, '');
      return withFileTypes === true ? dirents : names;
    });
  }

  /** An open directory, to be read entry by entry in constant memory. */
  opendir(path: PathLike): Promise<Dir> {
    return this.call('opendir', path, async () => {
      const inode = await this.directory(path);
      await this.fileSystem.access(this.credentials, inode, 4);
      return new Dir(this.fileSystem, this.credentials, inode, path.toString());
    });
  }

  /** With `recursive`, makes what is missing above too and does not mind that it exists; returns the first made. */
  mkdir(
    path: PathLike,
    options: number | { readonly recursive?: boolean; readonly mode?: number } = {},
  ): Promise<string | undefined> {
    const { recursive, mode } = typeof options === 'number' ? { recursive: false, mode: options } : options;
    const bits = this.masked(mode ?? DEFAULT_DIRECTORY_MODE);
    return this.call('mkdir', path, async () => {
      if (recursive === true) return makeDirectories(this.resolver, path, bits);
      const { parent, name } = await this.resolver.place(path).catch((error: unknown) => {
        // The root and '..' are there.
        throw failedWith(error, 'EBUSY', 'EINVAL') ? new CairnError('EEXIST', 'it exists', { cause: error }) : error;
      });
      await this.fileSystem.makeNode(this.credentials, parent, name, { kind: 'directory', mode: bits });
      return undefined;
    });
  }

  /** A new directory with six random characters behind `prefix`; its path is returned. */
  async mkdtemp(prefix: string): Promise<string> {
    const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789';
    for (let attempt = 0; ; attempt++) {
      let path = prefix;
      for (let i = 0; i < 6; i++) path += letters.charAt(this.options.random.below(letters.length));
      try {
        await this.mkdir(path, DEFAULT_PRIVATE_MODE);
        return path;
      } catch (error) {
        if (!failedWith(error, 'EEXIST') || attempt >= 100) throw error;
      }
    }
  }

  rmdir(path: PathLike): Promise<void> {
    return this.call('rmdir', path, async () => {
      const { parent, name } = await this.resolver.place(path);
      await this.fileSystem.removeDirectory(this.credentials, parent, name);
    });
  }

  unlink(path: PathLike): Promise<void> {
    return this.call('unlink', path, async () => {
      const { parent, name } = await this.resolver.place(path);
      await this.fileSystem.unlink(this.credentials, parent, name);
    });
  }

  /** Removes a file, or with `recursive` a directory with all in it; with `force` nothing missing is an error. */
  rm(path: PathLike, options: { readonly recursive?: boolean; readonly force?: boolean } = {}): Promise<void> {
    return this.call('rm', path, async () => {
      try {
        const { parent, name, attributes } = await this.resolver.resolve(path, false);
        if (kindOfMode(attributes.mode) !== 'directory') {
          await this.fileSystem.unlink(this.credentials, parent, name);
        } else {
          if (options.recursive !== true) throw new CairnError('EISDIR', 'it is a directory: use recursive');
          if (name.length === 0) throw new CairnError('EBUSY', 'the root cannot be removed');
          await removeTree(this.fileSystem, this.credentials, { parent, name, inode: attributes.inode });
        }
      } catch (error) {
        if (options.force !== true || !failedWith(error, 'ENOENT')) throw error;
      }
    });
  }

  rename(from: PathLike, to: PathLike, flags: RenameFlags = {}): Promise<void> {
    return this.call(
      'rename',
      from,
      async () => {
        const [source, target] = await Promise.all([this.resolver.place(from), this.resolver.place(to)]);
        await this.fileSystem.rename(this.credentials, source, target, flags);
      },
      to,
    );
  }

  link(existing: PathLike, path: PathLike): Promise<void> {
    return this.call(
      'link',
      existing,
      async () => {
        const { attributes } = await this.resolver.resolve(existing, false);
        const { parent, name } = await this.resolver.place(path);
        await this.fileSystem.link(this.credentials, attributes.inode, parent, name);
      },
      path,
    );
  }

  symlink(target: PathLike, path: PathLike): Promise<void> {
    return this.call(
      'symlink',
      target,
      async () => {
        const { parent, name } = await this.resolver.place(path);
        await this.fileSystem.symlink(this.credentials, parent, name, Buffer.from(target));
      },
      path,
    );
  }

  async readlink(path: PathLike, options?: BufferEncoding | { readonly encoding?: BufferEncoding }): Promise<string>;
  async readlink(path: PathLike, options: { readonly encoding: 'buffer' }): Promise<Buffer>;
  readlink(
    path: PathLike,
    options?: BufferEncoding | { readonly encoding?: BufferEncoding | 'buffer' },
  ): Promise<string | Buffer> {
    return this.call('readlink', path, async () => {
      const { attributes } = await this.resolver.resolve(path, false);
      const target = await this.fileSystem.readLink(this.credentials, attributes.inode);
      const encoding = typeof options === 'object' ? options.encoding : options;
      return encoding === 'buffer' ? target : target.toString(encoding);
    });
  }

  realpath(path: PathLike): Promise<string> {
    return this.call('realpath', path, async () => (await this.resolver.resolve(path, true)).realPath.toString());
  }

  chmod(path: PathLike, mode: number): Promise<void> {
    return this.change('chmod', path, { mode: mode & PERMISSION_BITS });
  }

  chown(path: PathLike, uid: number, gid: number): Promise<void> {
    return this.change('chown', path, { uid, gid });
  }

  lchown(path: PathLike, uid: number, gid: number): Promise<void> {
    return this.change('lchown', path, { uid, gid }, false);
  }

  /** Times in seconds since the epoch, or as Date. */
  utimes(path: PathLike, atime: Time, mtime: Time): Promise<void> {
    return this.change('utime', path, () => ({ atime: toTimespec(atime), mtime: toTimespec(mtime) }));
  }

  lutimes(path: PathLike, atime: Time, mtime: Time): Promise<void> {
    return this.change('lutime', path, () => ({ atime: toTimespec(atime), mtime: toTimespec(mtime) }), false);
  }

  truncate(path: PathLike, length = 0): Promise<void> {
    return this.change('truncate', path, { size: length });
  }

  /** Content and permission bits; `mode` COPYFILE_EXCL fails when `to` exists. The bytes go through this process. */
  async copyFile(from: PathLike, to: PathLike, mode = 0): Promise<void> {
    await asCall({ syscall: 'copyfile', path: from.toString(), dest: to.toString() }, () =>
      copyFile(this, from, to, (mode & COPYFILE_EXCL) !== 0),
    );
  }

  statfs(path: PathLike = '/'): Promise<StatFs> {
    return this.call('statfs', path, async () => {
      await this.resolver.resolve(path, true);
      return toStatFs(await this.fileSystem.statFs());
    });
  }

  /** The value of an extended attribute, such as 'user.mime_type'. ENODATA when there is none. */
  getxattr(path: PathLike, name: string): Promise<Buffer> {
    return this.call('getxattr', path, async () =>
      this.fileSystem.getXattr(this.credentials, await this.inode(path), Buffer.from(name)),
    );
  }

  setxattr(
    path: PathLike,
    name: string,
    value: string | Uint8Array,
    flags: { readonly create?: boolean; readonly replace?: boolean } = {},
  ): Promise<void> {
    return this.call('setxattr', path, async () =>
      this.fileSystem.setXattr(this.credentials, await this.inode(path), Buffer.from(name), Buffer.from(value), flags),
    );
  }

  listxattr(path: PathLike): Promise<string[]> {
    return this.call('listxattr', path, async () => {
      const names = await this.fileSystem.listXattrs(this.credentials, await this.inode(path));
      return names.map((name) => name.toString());
    });
  }

  removexattr(path: PathLike, name: string): Promise<void> {
    return this.call('removexattr', path, async () =>
      this.fileSystem.removeXattr(this.credentials, await this.inode(path), Buffer.from(name)),
    );
  }

  /** Every change of names and attributes that returned before survives power loss: fsync(2) of a directory. */
  sync(): Promise<void> {
    return asCall({ syscall: 'fsync' }, () => this.fileSystem.syncMetadata());
  }

  /** The health of the cluster, as the master sees it. */
  status(): Promise<StatusReply> {
    return asCall({ syscall: 'status' }, () => this.fileSystem.status());
  }

  /** Inode, chunks and their replicas. */
  info(path: PathLike): Promise<FileInfo> {
    return this.call('info', path, async () => {
      const { attributes, realPath } = await this.resolver.resolve(path, true);
      return fileInfo(this.fileSystem, attributes, realPath.toString());
    });
  }

  /** Flushes and closes what is open, and ends the session. */
  close(): Promise<void> {
    return asCall({ syscall: 'close' }, () => this.fileSystem.close());
  }

  private async inode(path: PathLike): Promise<InodeId> {
    return (await this.resolver.resolve(path, true)).attributes.inode;
  }

  private async directory(path: PathLike): Promise<InodeId> {
    const { attributes }: Resolved = await this.resolver.resolve(path, true);
    if (kindOfMode(attributes.mode) !== 'directory') throw new CairnError('ENOTDIR', 'it is no directory');
    return attributes.inode;
  }

  private change(syscall: string, path: PathLike, changes: Changes | (() => Changes), follow = true): Promise<void> {
    return this.call(syscall, path, async () => {
      const { attributes } = await this.resolver.resolve(path, follow);
      const wanted = typeof changes === 'function' ? changes() : changes;
      await this.fileSystem.setAttributes(this.credentials, attributes.inode, wanted);
    });
  }

  private masked(mode: number): number {
    return mode & PERMISSION_BITS & ~this.options.umask;
  }

  private call<T>(syscall: string, path: PathLike, run: () => Promise<T>, dest?: PathLike): Promise<T> {
    return asCall({ syscall, path: path.toString(), dest: dest?.toString() }, run);
  }
}

type Changes = Parameters<ClusterFileSystem['setAttributes']>[2];

/** For `access` and `copyFile`. */
export const constants = { F_OK: 0, R_OK: 4, W_OK: 2, X_OK: 1, COPYFILE_EXCL, ROOT_INODE } as const;
