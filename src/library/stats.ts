/** What stat and readdir give, in the shape of Node's `fs.Stats`, `fs.Dirent` and `fs.StatFs`. */
import type { Timespec } from '../core/clock.js';
import { MIB } from '../core/limits.js';
import { kindOfMode } from '../filesystem/file-kind.js';
import type { Attributes, FileKind, FileSystemStats } from '../filesystem/filesystem.js';

const BLOCK_BYTES = 512;

const toMs = ({ seconds, nanoseconds }: Timespec): number => seconds * 1000 + nanoseconds / 1e6;

/** Tells the kinds of files apart. */
abstract class Kind {
  protected abstract readonly kind: FileKind;

  isFile(): boolean {
    return this.kind === 'file';
  }
  isDirectory(): boolean {
    return this.kind === 'directory';
  }
  isSymbolicLink(): boolean {
    return this.kind === 'symlink';
  }
  isFIFO(): boolean {
    return this.kind === 'fifo';
  }
  isSocket(): boolean {
    return this.kind === 'socket';
  }
  isCharacterDevice(): boolean {
    return this.kind === 'characterDevice';
  }
  isBlockDevice(): boolean {
    return this.kind === 'blockDevice';
  }
}

/** As `fs.Stats`: sizes in bytes, `*Ms` in milliseconds since the epoch with fractions. */
export class Stats extends Kind {
  readonly dev = 0;
  readonly ino: number;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: number;
  /** Bytes that are best read and written at once. */
  readonly blksize = MIB;
  /** Units of 512 bytes. */
  readonly blocks: number;
  readonly atimeMs: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
  /** CairnFS keeps no time of birth: the earliest of the others. */
  readonly birthtimeMs: number;
  protected readonly kind: FileKind;

  constructor(attributes: Attributes) {
    super();
    this.kind = kindOfMode(attributes.mode);
    this.ino = attributes.inode;
    this.mode = attributes.mode;
    this.nlink = attributes.nlink;
    this.uid = attributes.uid;
    this.gid = attributes.gid;
    this.rdev = attributes.rdev;
    this.size = attributes.size;
    this.blocks = Math.ceil(attributes.allocatedBytes / BLOCK_BYTES);
    this.atimeMs = toMs(attributes.atime);
    this.mtimeMs = toMs(attributes.mtime);
    this.ctimeMs = toMs(attributes.ctime);
    this.birthtimeMs = Math.min(this.atimeMs, this.mtimeMs, this.ctimeMs);
  }

  get atime(): Date {
    return new Date(this.atimeMs);
  }
  get mtime(): Date {
    return new Date(this.mtimeMs);
  }
  get ctime(): Date {
    return new Date(this.ctimeMs);
  }
  get birthtime(): Date {
    return new Date(this.birthtimeMs);
  }
}

/** As `fs.Dirent`. The name is a Buffer where the listing was asked for with `encoding: 'buffer'`. */
export class Dirent<N extends string | Buffer = string> extends Kind {
  constructor(
    readonly name: N,
    /** Path of the directory that it is in. */
    readonly parentPath: string,
    protected readonly kind: FileKind,
  ) {
    super();
  }
}

/** As `fs.StatFs`: counts of blocks of `bsize` bytes, and of inodes. */
export interface StatFs {
  readonly type: number;
  readonly bsize: number;
  readonly blocks: number;
  readonly bfree: number;
  readonly bavail: number;
  readonly files: number;
  readonly ffree: number;
}

export function toStatFs({ totalBytes, freeBytes, inodes }: FileSystemStats): StatFs {
  const bsize = 4096;
  const bfree = Math.floor(freeBytes / bsize);
  return {
    type: 0,
    bsize,
    blocks: Math.floor(totalBytes / bsize),
    bfree,
    bavail: bfree,
    files: inodes,
    ffree: Number.MAX_SAFE_INTEGER - inodes,
  };
}
