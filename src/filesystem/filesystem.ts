/**
 * The file system as the client library offers it: inode-based, asynchronous, POSIX in meaning. The mount's drivers,
 * the path-based library (`connect`) and the conformance suite all sit on this interface; `ClusterFileSystem` is the
 * real one, the test suite's `ModelFileSystem` an in-memory one to compare it with.
 *
 * Every failure is a CairnError; codes that POSIX gives for the call are used. Names are bytes without '/' and NUL.
 */
import type { ChunkHandle, ChunkVersion, InodeId } from '../core/ids.js';
import type { Timespec } from '../core/clock.js';
import type { Loan } from './loan.js';

/** On whose behalf a call is made. uid 0 passes permission checks, as CAP_DAC_OVERRIDE does. */
export interface Credentials {
  readonly uid: number;
  readonly gid: number;
  /** Supplementary groups. */
  readonly groups: readonly number[];
}

/** Which reads move atime, by relatime: of everything, of all but directories, or of nothing. */
export type ReadNotes = 'all' | 'files' | 'none';

export const ROOT_CREDENTIALS: Credentials = { uid: 0, gid: 0, groups: [] };

export type FileKind = 'file' | 'directory' | 'symlink' | 'fifo' | 'socket' | 'characterDevice' | 'blockDevice';

export interface Attributes {
  readonly inode: InodeId;
  /** st_mode: type and permission bits. */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  /** st_blocks times 512. */
  readonly allocatedBytes: number;
  readonly atime: Timespec;
  readonly mtime: Timespec;
  readonly ctime: Timespec;
  readonly rdev: number;
  /** Grows with every change of data or metadata. */
  readonly change: number;
  /** An ACL says more than the permission bits. Not known of a file system that does not tell. */
  readonly hasAcl?: boolean;
}

/** What to change; 'now' is the time of the server. */
export interface AttributeChanges {
  /** Permission bits, 0 to 0o7777. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly atime?: Timespec | 'now';
  readonly mtime?: Timespec | 'now';
  /** Also drops setuid, setgid and security.capability, as a write without CAP_FSETID does. Default: for a size, by uid. */
  readonly killPrivileges?: boolean;
}

export interface OpenFlags {
  readonly read: boolean;
  readonly write: boolean;
  readonly truncate?: boolean;
  /** Every write goes to the end of file as it is then, in this client. */
  readonly append?: boolean;
  /** Every write is durable before it returns (O_SYNC). */
  readonly sync?: boolean;
  /** Reads leave atime alone (O_NOATIME). */
  readonly noAtime?: boolean;
}

export interface DirectoryEntry {
  readonly name: Buffer;
  readonly inode: InodeId;
  readonly kind: FileKind;
  /** To go on after this entry; stays valid while entries come and go. */
  readonly cookie: number;
  readonly attributes?: Attributes;
}

export interface DirectoryPage {
  readonly entries: readonly DirectoryEntry[];
  /** True when no entry follows. */
  readonly end: boolean;
  readonly parent: InodeId;
  /** What is made after this page has this cookie or a later one. A listing ends there, or renames could go on for ever. */
  readonly nextCookie: number;
}

export interface NewNode {
  readonly kind: Exclude<FileKind, 'symlink'>;
  /** Permission bits. */
  readonly mode: number;
  /** Taken off `mode` unless the directory has a default ACL. Left out: `mode` has it applied already. */
  readonly umask?: number;
  /** Of a device: 32 bits, as mknod(2) has them. */
  readonly rdev?: number;
}

/** What open(2) with O_CREAT, or with O_TMPFILE, is to make. */
export interface NewFile {
  /** Permission bits. */
  readonly mode: number;
  /** As of NewNode. */
  readonly umask?: number;
  readonly flags: OpenFlags;
  /** O_EXCL: no file of this name may exist; a temporary file may never get a name. */
  readonly exclusive?: boolean;
}

/** What fallocate(2) does; at most one of punchHole and zeroRange. */
export interface AllocateMode {
  /** The size stays also when the range ends behind it. */
  readonly keepSize?: boolean;
  /** The range reads as zeros and gives its space back. Needs keepSize. */
  readonly punchHole?: boolean;
  /** The range reads as zeros. */
  readonly zeroRange?: boolean;
}

/** 'posix': fcntl(2) record locks and open file description locks, which differ in their owners; 'flock': flock(2). */
export type LockKind = 'posix' | 'flock';

export interface LockRange {
  /** First byte. 0 for flock. */
  readonly start: number;
  /** Last byte, itself included; MAX_LOCK_END reaches to the end of file, wherever that goes. */
  readonly end: number;
}

export interface LockRequest extends LockRange {
  readonly kind: LockKind;
  readonly type: 'read' | 'write' | 'unlock';
  /** Unique in this client: a process, or an open file description. */
  readonly owner: string;
  /** For F_GETLK. */
  readonly pid: number;
}

export interface LockOptions {
  readonly wait: boolean;
  readonly signal?: AbortSignal;
  /** What comes between the grant and its being told. If it fails, so does the request, and what was held before is held. */
  readonly onGranted?: () => Promise<void>;
}

/** A lock that is in the way of another (F_GETLK). */
export interface LockHolder extends LockRange {
  readonly type: 'read' | 'write';
  /** 0 when the holder is of another client. */
  readonly pid: number;
}

/** A name in a directory. */
export interface EntryName {
  readonly parent: InodeId;
  readonly name: Buffer;
}

export interface RenameFlags {
  readonly noReplace?: boolean;
  readonly exchange?: boolean;
  /** Leaves a character device 0,0 at the old name. Not with `exchange`. */
  readonly whiteout?: boolean;
}

export interface FileSystemStats {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly inodes: number;
  readonly maxNameBytes: number;
}

/** Where a chunk of a file is, for operators and tests. */
export interface ChunkPlacement {
  readonly index: number;
  /** 0 for a hole. */
  readonly handle: ChunkHandle;
  readonly version: ChunkVersion;
  readonly replicas: readonly { readonly serverId: number; readonly address: string }[];
}

export interface WriteOptions {
  /** setuid, setgid and security.capability are dropped; by default unless uid 0 opened the file. */
  readonly killPrivileges?: boolean;
  /** False: at its offset, also through a handle that appends, of which O_APPEND was taken away since. */
  readonly append?: boolean;
}

/** An open file. Reads see this client's own writes at once, flushed or not. */
export interface OpenFile {
  readonly inode: InodeId;
  /** Up to `length` bytes at `offset`; fewer only at the end of the file. May be a view: not to be changed. */
  read(offset: number, length: number): Promise<Buffer>;
  /** As `read`, of bytes that are used up at once and given back. */
  lend(offset: number, length: number): Promise<Loan>;
  /**
   * Writes all of `bytes`, which it copies, and returns the count. May return before the bytes left this machine
   * (write-behind); an error of an earlier write-back is thrown here, by `flush`, `sync` or `close` (P7), once.
   */
  write(offset: number, bytes: Uint8Array, options?: WriteOptions): Promise<number>;
  /** All written bytes are on the chunkservers and the size is published (what close(2) does, P2). */
  flush(): Promise<void>;
  /** As `flush`, and everything survives power loss (fsync(2), P1). */
  sync(): Promise<void>;
  /**
   * ftruncate(2). By it, as by `allocate` and `copyFrom`, whoever calls may take setuid, setgid and security.capability away: `by`,
   * which is who opened the file by default. What is permitted was decided when it was opened.
   */
  truncate(size: number, by?: Credentials): Promise<void>;
  /** lseek(2) with SEEK_DATA or SEEK_HOLE. ENXIO at or past the end of file. */
  seek(offset: number, whence: 'data' | 'hole'): Promise<number>;
  /** fallocate(2). */
  allocate(offset: number, length: number, mode?: AllocateMode, by?: Credentials): Promise<void>;
  /**
   * copy_file_range(2) from `source`, an open file of the same FileSystem: bytes copied, which may be fewer than asked;
   * 0 at the end of the source. EINVAL when the ranges overlap in one file.
   */
  copyFrom(source: OpenFile, sourceOffset: number, offset: number, length: number, by?: Credentials): Promise<number>;
  attributes(): Promise<Attributes>;
  /** Flushes and gives the open back. The file is closed also when this fails. */
  close(): Promise<void>;
}

/** What was lost of a file. */
export type LostListener = (inode: InodeId, what: 'bytes' | 'locks') => void;

/** What others are about to change: from the end of the listener on, nothing of it may be believed. */
export interface Recalled {
  /** A directory, or another inode by itself. */
  readonly inode: InodeId;
  /** Anything about the inode, its names and its files may change from now on. */
  readonly whole: boolean;
  /** Of a directory. */
  readonly names: readonly Buffer[];
  /** Of these inodes. */
  readonly attributes: readonly InodeId[];
  readonly contents: readonly InodeId[];
}

/** The changes wait until it has resolved; at once if it returns none. */
export type RecallListener = (recalled: readonly Recalled[]) => Promise<void> | undefined;

/**
 * What stays as it was told, so that whoever was told may go on believing it: before others change it, it is recalled. To be asked
 * in the same tick in which it is passed on. Times are in milliseconds from now, and 0 for what may have changed by now.
 */
export interface Beliefs {
  /** That `name` in the directory leads to `inode`, or to nothing. */
  nameMs(parent: InodeId, name: Buffer, inode: InodeId | undefined): number;
  /** That the attributes of the inode are those with this `change`. */
  attributesMs(inode: InodeId, change: number): number;
  /** `listener` takes the place of the one before. */
  watchRecalls(listener: RecallListener): void;
}

export interface FileSystem {
  /** None: nothing is known to stay, and how long it is believed is a matter of the mount's time-outs. */
  readonly beliefs?: Beliefs | undefined;
  lookup(credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes>;
  /** Never older than what this client itself did; at most the cache time-out old otherwise. */
  getAttributes(inode: InodeId): Promise<Attributes>;
  setAttributes(credentials: Credentials, inode: InodeId, changes: AttributeChanges): Promise<Attributes>;
  /** access(2); mask of R_OK 4, W_OK 2, X_OK 1. */
  access(credentials: Credentials, inode: InodeId, mask: number): Promise<void>;
  /** mkdir(2) and mknod(2). EEXIST when the name exists. */
  makeNode(credentials: Credentials, parent: InodeId, name: Buffer, node: NewNode): Promise<Attributes>;
  symlink(credentials: Credentials, parent: InodeId, name: Buffer, target: Buffer): Promise<Attributes>;
  readLink(credentials: Credentials, inode: InodeId): Promise<Buffer>;
  link(credentials: Credentials, inode: InodeId, newParent: InodeId, newName: Buffer): Promise<Attributes>;
  unlink(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void>;
  removeDirectory(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void>;
  rename(
    credentials: Credentials,
    from: { readonly parent: InodeId; readonly name: Buffer },
    to: { readonly parent: InodeId; readonly name: Buffer },
    flags?: RenameFlags,
  ): Promise<void>;
  /** open(2) with O_CREAT: opens the file that `name` is, or makes it. A symlink is not followed (ELOOP). */
  create(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    options: NewFile,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes; readonly created: boolean }>;
  /** open(2) with O_TMPFILE: a file without a name. Unless `exclusive`, `link` may give it one while it is open. */
  createTemporary(
    credentials: Credentials,
    parent: InodeId,
    options: NewFile,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }>;
  /**
   * Always asks the master, so that it sees what any client closed before (P2). ESTALE, with nothing changed, unless each of
   * `names` (MAX_OPEN_NAMES at most) leads to the inode then; who came by none of them leaves them out.
   */
  open(
    credentials: Credentials,
    inode: InodeId,
    flags: OpenFlags,
    names?: readonly EntryName[],
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }>;
  /** As `open`, of the entry `name` as the master knows it now. A symlink is not followed (ELOOP). */
  openAt(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    flags: OpenFlags,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }>;
  /** Entries after `cookie` (0: from the start), without '.' and '..'. */
  readDirectory(
    credentials: Credentials,
    inode: InodeId,
    cookie: number,
    options?: { readonly maxEntries?: number; readonly withAttributes?: boolean },
  ): Promise<DirectoryPage>;
  getXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<Buffer>;
  setXattr(
    credentials: Credentials,
    inode: InodeId,
    name: Buffer,
    value: Uint8Array,
    flags?: { readonly create?: boolean; readonly replace?: boolean },
  ): Promise<void>;
  listXattrs(credentials: Credentials, inode: InodeId): Promise<Buffer[]>;
  removeXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<void>;
  /** F_GETLK: a lock that is in the way of `request`, none if it could be had. */
  getLock(inode: InodeId, request: LockRequest): Promise<LockHolder | undefined>;
  /**
   * F_SETLK, F_SETLKW and flock(2). EAGAIN when it is in the way of another and `wait` is off; EINTR when `signal` aborts
   * the wait, and then it is not held; EDEADLK when waiting would never end; ENOLCK when there are too many.
   * The inode must be open in this client.
   */
  setLock(inode: InodeId, request: LockRequest, options: LockOptions): Promise<void>;
  /** Gives up all that `owner` holds or waits for: what closing a file does. */
  releaseLocks(inode: InodeId, kind: LockKind, owner: string): Promise<void>;
  /**
   * Calls `listener`, which takes the place of the one before, when bytes of a file that were taken for written are given up, or
   * locks on it were lost: what is kept of it elsewhere must not be believed any more. With 'locks', for every file that is open
   * for writing when some were lost: nor must what was changed there, and not written yet, be written.
   */
  watchLost?(listener: LostListener): void;
  /**
   * fsync(2) of a directory: every metadata operation that returned before survives power loss (P1). EIO when some may be lost: of
   * all who ask the first is told; and whoever asks first about a `directory` with which, or in which, something was lost.
   */
  syncMetadata(directory?: InodeId): Promise<void>;
  statFs(): Promise<FileSystemStats>;
  /** The chunk map, at most MAX_CHUNKS_PER_PAGE chunks from `firstIndex`; fewer at the end. */
  placement(inode: InodeId, firstIndex: number): Promise<readonly ChunkPlacement[]>;
  /** Flushes every open file and ends the session. */
  close(): Promise<void>;
}
