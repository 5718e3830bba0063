/**
 * Numbers of Linux' FUSE protocol, version 7.31 to 7.45 (include/uapi/linux/fuse.h). Only what this driver uses. Structures
 * are read in decode.ts and written in encode.ts.
 *
 * Every message begins with a header that has its length. Numbers are in the byte order of the machine, which is little
 * endian wherever CairnFS runs (`os.endianness` is checked when a driver mounts).
 */

export const PROTOCOL_MAJOR = 7;
/** Linux 5.4: later ones only add. */
export const OLDEST_MINOR = 31;
export const NEWEST_MINOR = 45;

/** Bytes of the header of a request: len, opcode, unique, nodeid, uid, gid, pid, extension length. */
export const IN_HEADER_BYTES = 40;
/** Bytes of the header of a reply: len, error, unique. */
export const OUT_HEADER_BYTES = 16;

export const OPCODES = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  GETLK: 31,
  SETLK: 32,
  SETLKW: 33,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  SYNCFS: 50,
  TMPFILE: 51,
  COPY_FILE_RANGE_64: 53,
} as const;
export type Opcode = keyof typeof OPCODES;

/** Names of opcodes, for logs. */
export const OPCODE_NAMES: ReadonlyMap<number, Opcode> = new Map(
  (Object.keys(OPCODES) as Opcode[]).map((name) => [OPCODES[name], name]),
);

/** Bits of INIT's flags, which has two words of 32 bits. */
export const INIT_FLAGS = {
  ASYNC_READ: 0,
  POSIX_LOCKS: 1,
  ATOMIC_O_TRUNC: 3,
  /** Look-ups of '.' and '..' in a node that the kernel has forgotten: what a file handle leads to. */
  EXPORT_SUPPORT: 4,
  BIG_WRITES: 5,
  DONT_MASK: 6,
  FLOCK_LOCKS: 10,
  DO_READDIRPLUS: 13,
  ASYNC_DIO: 15,
  PARALLEL_DIROPS: 18,
  POSIX_ACL: 20,
  MAX_PAGES: 22,
  CACHE_SYMLINKS: 23,
  HANDLE_KILLPRIV_V2: 28,
  SETXATTR_EXT: 29,
  /** The second word is there. */
  INIT_EXT: 30,
  CREATE_SUPP_GROUP: 34,
  /** NOTIFY_INVAL_ENTRY knows EXPIRE_ONLY. */
  HAS_EXPIRE_ONLY: 35,
  DIRECT_IO_ALLOW_MMAP: 36,
} as const;
export type InitFlag = keyof typeof INIT_FLAGS;

/** Which fields of SETATTR are meant. */
export const SET_MODE = 1 << 0;
export const SET_UID = 1 << 1;
export const SET_GID = 1 << 2;
export const SET_SIZE = 1 << 3;
export const SET_ATIME = 1 << 4;
export const SET_MTIME = 1 << 5;
export const SET_HANDLE = 1 << 6;
export const SET_ATIME_NOW = 1 << 7;
export const SET_MTIME_NOW = 1 << 8;
export const SET_KILL_SUIDGID = 1 << 11;

export const GETATTR_HANDLE = 1 << 0;

/** Flags of a reply to OPEN and CREATE. */
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;

/** Flags of READ and WRITE: whose locks count is told, which the kernel does when it goes past its pages, and only then. */
export const READ_LOCKOWNER = 1 << 1;
export const WRITE_LOCKOWNER = 1 << 1;
/** Flags of WRITE: from the page cache, not from a write(2); clear set-user-id. */
export const WRITE_CACHE = 1 << 0;
export const WRITE_KILL_SUIDGID = 1 << 2;

export const RELEASE_FLOCK_UNLOCK = 1 << 1;
/** GETLK, SETLK, SETLKW are about flock(2), not fcntl(2). */
export const LK_FLOCK = 1 << 0;
/** fcntl(2) */
export const F_RDLCK = 0;
export const F_WRLCK = 1;
export const F_UNLCK = 2;

/** Kind of an extension to a request: one supplementary group of the caller. Below 32, security contexts. */
export const EXT_GROUPS = 32;

/** Notifications have unique 0 and their code where a reply has its error. */
export const NOTIFY_INVAL_INODE = 2;
export const NOTIFY_INVAL_ENTRY = 3;
export const NOTIFY_STORE = 4;
/** Of NOTIFY_INVAL_ENTRY: the name is asked about before it is believed again; else it is forgotten, with what is mounted there. */
export const EXPIRE_ONLY = 1 << 0;

/** uid and gid of a request that the kernel makes by itself. */
export const NO_ID = 0xffffffff;
