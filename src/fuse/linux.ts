/** Flags, modes and limits as Linux writes them (asm-generic/fcntl.h, sys/stat.h, statvfs(3)). */
import { CairnError } from '../core/errors.js';
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from '../core/mode.js';
import type { FileKind, FileSystemStats, OpenFlags } from '../filesystem/filesystem.js';

const O_ACCMODE = 0o3;
const O_WRONLY = 0o1;
const O_RDWR = 0o2;
const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_DSYNC = 0o10000;
const O_NOATIME = 0o1000000;
/** Some architectures have their own number for it. */
const OWN_O_DIRECT: Partial<Record<NodeJS.Architecture, number>> = { arm: 0o200000, arm64: 0o200000, ppc64: 0o400000 };
export const O_DIRECT = OWN_O_DIRECT[process.arch] ?? 0o40000;

/** setxattr(2) */
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;

/** O_SYNC contains O_DSYNC, so both are durable writes; we do not tell them apart. */
export function openFlagsOf(flags: number): OpenFlags {
  const access = flags & O_ACCMODE;
  return {
    read: access !== O_WRONLY,
    write: access === O_WRONLY || access === O_RDWR,
    truncate: (flags & O_TRUNC) !== 0,
    append: (flags & O_APPEND) !== 0,
    sync: (flags & O_DSYNC) !== 0,
    noAtime: (flags & O_NOATIME) !== 0,
  };
}

export function kindOfMode(mode: number): FileKind {
  switch (mode & S_IFMT) {
    case 0: // mknod(2): no type means a regular file
    case S_IFREG:
      return 'file';
    case S_IFDIR:
      return 'directory';
    case S_IFLNK:
      return 'symlink';
    case S_IFIFO:
      return 'fifo';
    case S_IFSOCK:
      return 'socket';
    case S_IFCHR:
      return 'characterDevice';
    case S_IFBLK:
      return 'blockDevice';
    default:
      throw new CairnError('EINVAL', `mode 0o${mode.toString(8)} names no kind of file`);
  }
}

export function typeBitsOf(kind: FileKind): number {
  switch (kind) {
    case 'file':
      return S_IFREG;
    case 'directory':
      return S_IFDIR;
    case 'symlink':
      return S_IFLNK;
    case 'fifo':
      return S_IFIFO;
    case 'socket':
      return S_IFSOCK;
    case 'characterDevice':
      return S_IFCHR;
    case 'blockDevice':
      return S_IFBLK;
  }
}

export interface BlockCounts {
  readonly blockSize: number;
  readonly blocks: number;
  readonly free: number;
}

/** Capacity in blocks, each count below `limit`: the block size is raised from 4 KiB for as long as they are not. */
export function blockCounts(stats: FileSystemStats, limit: number): BlockCounts {
  let blockSize = 4096;
  while (stats.totalBytes / blockSize >= limit && blockSize < 2 ** 30) blockSize *= 2;
  const count = (bytes: number): number => Math.min(limit - 1, Math.floor(Math.max(0, bytes) / blockSize));
  return { blockSize, blocks: count(stats.totalBytes), free: count(stats.freeBytes) };
}
