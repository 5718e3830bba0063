/** System calls by their names and with their structures, over a SystemCallAgent. Descriptors are the agent's. */
import { constants } from 'node:fs';
import type { Timespec } from '../../../src/core/clock.js';
import type { RenameFlags } from '../../../src/filesystem/filesystem.js';
import type { CallOptions, SystemCallAgent } from './system-call-agent.js';

const { O_CREAT, O_DIRECT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } =
  constants;
const { O_APPEND, O_DSYNC, O_SYNC } = constants;
export const O = {
  ...{ RDONLY: O_RDONLY, WRONLY: O_WRONLY, RDWR: O_RDWR, CREAT: O_CREAT, EXCL: O_EXCL, TRUNC: O_TRUNC },
  ...{ APPEND: O_APPEND, DSYNC: O_DSYNC, SYNC: O_SYNC, DIRECT: O_DIRECT, NONBLOCK: O_NONBLOCK },
  ...{ DIRECTORY: O_DIRECTORY, NOFOLLOW: O_NOFOLLOW, PATH: 0o10000000, TMPFILE: 0o20000000 | O_DIRECTORY },
} as const;
export const AT = { FDCWD: -100, SYMLINK_NOFOLLOW: 0x100, EACCESS: 0x200, REMOVEDIR: 0x200 } as const;
const AT_SYMLINK_FOLLOW = 0x400;
const AT_EMPTY_PATH = 0x1000;
export const SEEK = { SET: 0, CUR: 1, END: 2, DATA: 3, HOLE: 4 } as const;
export const FALLOC = { KEEP_SIZE: 1, PUNCH_HOLE: 2, COLLAPSE_RANGE: 8, ZERO_RANGE: 16, INSERT_RANGE: 32 } as const;
const RENAME = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 } as const;
export const renameBits = (flags: RenameFlags): number =>
  (flags.noReplace === true ? RENAME.NOREPLACE : 0) |
  (flags.exchange === true ? RENAME.EXCHANGE : 0) |
  (flags.whiteout === true ? RENAME.WHITEOUT : 0);
export const F = { GETLK: 5, SETLK: 6, SETLKW: 7, OFD_GETLK: 36, OFD_SETLK: 37, OFD_SETLKW: 38 } as const;
export const LOCK = { SH: 1, EX: 2, NB: 4, UN: 8 } as const;
const UTIME_NOW = 0x3fffffff;
const UTIME_OMIT = 0x3ffffffe;
const STATX_BASIC_STATS = 0x7ff;

export type Path = string | Uint8Array;
/** A path as the kernel reads it. */
export const path = (text: Path): Buffer => Buffer.concat([Buffer.from(text as string), Buffer.from([0])]);

export interface Stat {
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly inode: number;
  readonly size: number;
  readonly blocks: number;
  readonly atime: Timespec;
  readonly mtime: Timespec;
  readonly ctime: Timespec;
  /** As mknod(2) takes it. */
  readonly rdev: number;
}

export interface RawEntry {
  readonly inode: number;
  /** Where to go on: lseek(2) takes it. */
  readonly offset: bigint;
  /** DT_*. */
  readonly type: number;
  readonly name: Buffer;
}

export interface FileLock {
  readonly type: 'read' | 'write' | 'unlock';
  readonly start: number;
  /** 0: to the end of file. */
  readonly length: number;
  readonly pid: number;
}

const LOCK_TYPES = ['read', 'write', 'unlock'] as const;

/** Each method is the call of its name; `as` and the rest come last. Failures are thrown. */
export class SystemCalls {
  constructor(readonly agent: SystemCallAgent) {}

  private async do(name: string, args: Parameters<SystemCallAgent['call']>[1], options?: CallOptions): Promise<number> {
    return (await this.agent.call(name, args, options)).value;
  }

  openat(directory: number, name: Path, flags: number, mode = 0, options?: CallOptions): Promise<number> {
    return this.do('openat', [directory, path(name), flags, mode], options);
  }
  close(fd: number, options?: CallOptions): Promise<number> {
    return this.do('close', [fd], options);
  }
  dup(fd: number): Promise<number> {
    return this.do('dup', [fd]);
  }

  async pread(fd: number, offset: number, length: number, options?: CallOptions): Promise<Buffer> {
    const { value, outputs } = await this.agent.call('pread64', [fd, { fill: length }, length, offset], options);
    return value === 0 ? Buffer.alloc(0) : (outputs[0] ?? Buffer.alloc(0));
  }
  pwrite(fd: number, offset: number, bytes: Uint8Array, options?: CallOptions): Promise<number> {
    return this.do('pwrite64', [fd, bytes, bytes.length, offset], options);
  }
  fsync(fd: number): Promise<number> {
    return this.do('fsync', [fd]);
  }
  ftruncate(fd: number, size: number, options?: CallOptions): Promise<number> {
    return this.do('ftruncate', [fd, size], options);
  }
  truncate(name: Path, size: number, options?: CallOptions): Promise<number> {
    return this.do('truncate', [path(name), size], options);
  }
  lseek(fd: number, offset: number | bigint, whence: number): Promise<number> {
    return this.do('lseek', [fd, offset, whence]);
  }
  fallocate(fd: number, mode: number, offset: number, length: number, options?: CallOptions): Promise<number> {
    return this.do('fallocate', [fd, mode, offset, length], options);
  }
  copyFileRange(
    from: { fd: number; offset: number },
    to: { fd: number; offset: number },
    length: number,
    options?: CallOptions,
  ): Promise<number> {
    const place = (offset: number): { change: Buffer } => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigInt64LE(BigInt(offset));
      return { change: bytes };
    };
    return this.do('copy_file_range', [from.fd, place(from.offset), to.fd, place(to.offset), length, 0], options);
  }

  async stat(
    directory: number,
    name: Path = '',
    flags: number = AT.SYMLINK_NOFOLLOW,
    options?: CallOptions,
  ): Promise<Stat> {
    const args = [directory, path(name), flags | AT_EMPTY_PATH, STATX_BASIC_STATS, { fill: 256 }];
    const { outputs } = await this.agent.call('statx', args, options);
    return decodeStat(outputs[0] ?? Buffer.alloc(0));
  }
  mkdirat(directory: number, name: Path, mode: number, options?: CallOptions): Promise<number> {
    return this.do('mkdirat', [directory, path(name), mode], options);
  }
  mknodat(directory: number, name: Path, mode: number, rdev: number, options?: CallOptions): Promise<number> {
    return this.do('mknodat', [directory, path(name), mode, rdev], options);
  }
  symlinkat(target: Path, directory: number, name: Path, options?: CallOptions): Promise<number> {
    return this.do('symlinkat', [path(target), directory, path(name)], options);
  }
  /** A symlink that the first path ends in is followed, so that /proc/self/fd/N names what N is. */
  linkat(from: number, name: Path, to: number, newName: Path, options?: CallOptions): Promise<number> {
    return this.do('linkat', [from, path(name), to, path(newName), AT_SYMLINK_FOLLOW], options);
  }
  unlinkat(directory: number, name: Path, flags = 0, options?: CallOptions): Promise<number> {
    return this.do('unlinkat', [directory, path(name), flags], options);
  }
  renameat2(from: number, name: Path, to: number, newName: Path, flags = 0, options?: CallOptions): Promise<number> {
    return this.do('renameat2', [from, path(name), to, path(newName), flags], options);
  }
  async readlinkat(directory: number, name: Path = '', options?: CallOptions): Promise<Buffer> {
    return (
      (await this.agent.call('readlinkat', [directory, path(name), { fill: 8192 }, 8192], options)).outputs[0] ??
      Buffer.alloc(0)
    );
  }

  fchmodat(directory: number, name: Path, mode: number, options?: CallOptions): Promise<number> {
    return this.do('fchmodat', [directory, path(name), mode], options);
  }
  /** An id of -1 stays. An empty name means the descriptor itself. */
  fchownat(directory: number, name: Path, uid: number, gid: number, options?: CallOptions): Promise<number> {
    return this.do('fchownat', [directory, path(name), uid, gid, AT_EMPTY_PATH | AT.SYMLINK_NOFOLLOW], options);
  }
  utimensat(
    directory: number,
    name: Path,
    times: { readonly atime?: Timespec | 'now' | undefined; readonly mtime?: Timespec | 'now' | undefined },
    options?: CallOptions,
  ): Promise<number> {
    const bytes = Buffer.alloc(32);
    for (const [index, time] of [times.atime, times.mtime].entries()) {
      const seconds = typeof time === 'object' ? time.seconds : 0;
      const nanoseconds = typeof time === 'object' ? time.nanoseconds : time === 'now' ? UTIME_NOW : UTIME_OMIT;
      bytes.writeBigInt64LE(BigInt(seconds), 16 * index);
      bytes.writeBigInt64LE(BigInt(nanoseconds), 16 * index + 8);
    }
    return this.do('utimensat', [directory, path(name), bytes, AT_EMPTY_PATH | AT.SYMLINK_NOFOLLOW], options);
  }
  access(directory: number, name: Path, mask: number, options?: CallOptions): Promise<number> {
    return this.do('faccessat2', [directory, path(name), mask, AT.EACCESS | AT_EMPTY_PATH], options);
  }

  /** The next entries of an open directory, '.' and '..' among them; none at its end. */
  async getdents(fd: number, bytes: number): Promise<RawEntry[]> {
    const { value, outputs } = await this.agent.call('getdents64', [fd, { fill: bytes }, bytes]);
    const all = outputs[0] ?? Buffer.alloc(0);
    const entries: RawEntry[] = [];
    for (let at = 0; at < value;) {
      const length = all.readUInt16LE(at + 16);
      const name = all.subarray(at + 19, at + length);
      entries.push({
        inode: Number(all.readBigUInt64LE(at)),
        offset: all.readBigInt64LE(at + 8),
        type: all.readUInt8(at + 18),
        name: name.subarray(0, name.indexOf(0)),
      });
      at += length;
    }
    return entries;
  }

  async getxattr(name: Path, xattr: Path, options?: CallOptions): Promise<Buffer> {
    const { value, outputs } = await this.agent.call(
      'getxattr',
      [path(name), path(xattr), { fill: 65536 }, 65536],
      options,
    );
    return value === 0 ? Buffer.alloc(0) : (outputs[0] ?? Buffer.alloc(0));
  }
  setxattr(name: Path, xattr: Path, value: Uint8Array, flags = 0, options?: CallOptions): Promise<number> {
    return this.do('setxattr', [path(name), path(xattr), value, value.length, flags], options);
  }
  async listxattr(name: Path, options?: CallOptions): Promise<Buffer> {
    const { value, outputs } = await this.agent.call('listxattr', [path(name), { fill: 65536 }, 65536], options);
    return value === 0 ? Buffer.alloc(0) : (outputs[0] ?? Buffer.alloc(0));
  }
  removexattr(name: Path, xattr: Path, options?: CallOptions): Promise<number> {
    return this.do('removexattr', [path(name), path(xattr)], options);
  }

  async statfs(
    fd: number,
  ): Promise<{ total: number; available: number; free: number; inodes: number; maxName: number }> {
    const all = (await this.agent.call('fstatfs', [fd, { fill: 120 }])).outputs[0] ?? Buffer.alloc(120);
    const at = (index: number): number => Number(all.readBigInt64LE(8 * index));
    const unit = at(9) > 0 ? at(9) : at(1);
    return { total: at(2) * unit, free: at(3) * unit, available: at(4) * unit, inodes: at(5) - at(6), maxName: at(8) };
  }

  /** fcntl(2) with F.*LK; what F_GETLK found, or 'unlock'. */
  async fcntlLock(fd: number, command: number, lock: FileLock, options?: CallOptions): Promise<FileLock> {
    const bytes = Buffer.alloc(32);
    bytes.writeInt16LE(LOCK_TYPES.indexOf(lock.type), 0);
    bytes.writeBigInt64LE(BigInt(lock.start), 8);
    bytes.writeBigInt64LE(BigInt(lock.length), 16);
    bytes.writeInt32LE(lock.pid, 24);
    const found = (await this.agent.call('fcntl', [fd, command, { change: bytes }], options)).outputs[0] ?? bytes;
    return {
      type: LOCK_TYPES[found.readInt16LE(0)] ?? 'unlock',
      start: Number(found.readBigInt64LE(8)),
      length: Number(found.readBigInt64LE(16)),
      pid: found.readInt32LE(24),
    };
  }
  flock(fd: number, operation: number, options?: CallOptions): Promise<number> {
    return this.do('flock', [fd, operation], options);
  }
}

/** struct statx. */
function decodeStat(bytes: Buffer): Stat {
  const time = (at: number): Timespec => ({
    seconds: Number(bytes.readBigInt64LE(at)),
    nanoseconds: bytes.readUInt32LE(at + 8),
  });
  const [major, minor] = [bytes.readUInt32LE(0x80), bytes.readUInt32LE(0x84)];
  return {
    nlink: bytes.readUInt32LE(0x10),
    uid: bytes.readUInt32LE(0x14),
    gid: bytes.readUInt32LE(0x18),
    mode: bytes.readUInt16LE(0x1c),
    inode: Number(bytes.readBigUInt64LE(0x20)),
    size: Number(bytes.readBigUInt64LE(0x28)),
    blocks: Number(bytes.readBigUInt64LE(0x30)),
    atime: time(0x40),
    ctime: time(0x60),
    mtime: time(0x70),
    rdev: ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0,
  };
}
