/** What the model file system keeps: inodes in memory, and the rules of POSIX about who may do what to them. */
import { CairnError } from '../../../src/core/errors.js';
import type { ErrorCode } from '../../../src/core/errors.js';
import { compareTimespec } from '../../../src/core/clock.js';
import type { Timespec } from '../../../src/core/clock.js';
import { inodeId, ROOT_INODE } from '../../../src/core/ids.js';
import type { InodeId } from '../../../src/core/ids.js';
import { MAX_NAME_BYTES } from '../../../src/core/limits.js';
import type { Attributes, Credentials, FileKind } from '../../../src/filesystem/filesystem.js';
import { granted } from './model-acl.js';
import type { ModelAcl } from './model-acl.js';
import { ModelLockTable } from './model-locks.js';
import { SparseBytes } from '../sparse-bytes.js';

export const READ = 4;
export const WRITE = 2;
export const EXECUTE = 1;

export const SET_UID = 0o4000;
export const SET_GID = 0o2000;
export const STICKY = 0o1000;

export const TYPE_BITS: Readonly<Record<FileKind, number>> = {
  file: 0o100000,
  directory: 0o040000,
  symlink: 0o120000,
  fifo: 0o010000,
  socket: 0o140000,
  characterDevice: 0o020000,
  blockDevice: 0o060000,
};

export function fail(code: ErrorCode, what: string): never {
  throw new CairnError(code, `model: ${what}`);
}

/** A map key for a name of bytes, and back. */
export const nameKey = (name: Uint8Array): string => Buffer.from(name).toString('latin1');
export const keyName = (key: string): Buffer => Buffer.from(key, 'latin1');

export interface ModelEntry {
  readonly inode: ModelInode;
  readonly cookie: number;
}

export class ModelInode {
  permissions: number;
  nlink = 1;
  uid: number;
  gid: number;
  rdev = 0;
  atime: Timespec;
  mtime: Timespec;
  ctime: Timespec;
  change = 1;
  opens = 0;
  readonly content = new SparseBytes();
  target = Buffer.alloc(0);
  /** Directories: in the order of their cookies, since a Map keeps the order of insertion. */
  readonly entries = new Map<string, ModelEntry>();
  nextCookie = 1;
  /** Directories: where '..' leads. */
  parent: ModelInode;
  readonly xattrs = new Map<string, Buffer>();
  acl: ModelAcl | undefined;
  defaultAcl: ModelAcl | undefined;
  /** Made by O_TMPFILE, and has no name yet. */
  linkable = false;

  constructor(
    readonly id: InodeId,
    readonly kind: FileKind,
    init: { permissions: number; uid: number; gid: number; now: Timespec; parent?: ModelInode },
  ) {
    this.permissions = init.permissions;
    this.uid = init.uid;
    this.gid = init.gid;
    this.atime = this.mtime = this.ctime = init.now;
    this.parent = init.parent ?? this;
    if (kind === 'directory') this.nlink = 2;
  }

  get size(): number {
    if (this.kind === 'file') return this.content.size;
    if (this.kind === 'symlink') return this.target.length;
    return 0;
  }

  attributes(): Attributes {
    return {
      inode: this.id,
      mode: TYPE_BITS[this.kind] | this.permissions,
      nlink: this.nlink,
      uid: this.uid,
      gid: this.gid,
      size: this.size,
      allocatedBytes: this.content.allocatedBytes,
      atime: this.atime,
      mtime: this.mtime,
      ctime: this.ctime,
      rdev: this.rdev,
      change: this.change,
    };
  }
}

export function inGroup(credentials: Credentials, gid: number): boolean {
  return credentials.gid === gid || credentials.groups.includes(gid);
}

/** path_resolution(7), "Permissions": whether `credentials` have all of `mask` on `inode`. */
export function may(credentials: Credentials, inode: ModelInode, mask: number): boolean {
  if (credentials.uid === 0) {
    // Root executes a file only when somebody may.
    return (mask & EXECUTE) === 0 || inode.kind === 'directory' || (inode.permissions & 0o111) !== 0;
  }
  let shift = 0;
  // Linux does not ask a list whose mask gives nothing.
  if (inode.acl !== undefined && credentials.uid !== inode.uid && (inode.permissions & 0o070) !== 0) {
    const who = { uid: credentials.uid, isMember: (gid: number) => inGroup(credentials, gid) };
    return granted(inode.acl, who, inode.gid, mask);
  }
  if (credentials.uid === inode.uid) shift = 6;
  else if (inGroup(credentials, inode.gid)) shift = 3;
  return ((inode.permissions >> shift) & mask) === mask;
}

export function demand(credentials: Credentials, inode: ModelInode, mask: number): void {
  if (!may(credentials, inode, mask)) fail('EACCES', `uid ${credentials.uid} may not ${mask} inode ${inode.id}`);
}

export function isOwner(credentials: Credentials, inode: ModelInode): boolean {
  return credentials.uid === 0 || credentials.uid === inode.uid;
}

/** A program loses what it could do by set-user-ID, set-group-ID and capabilities. */
export function dropPrivileges(credentials: Credentials, inode: ModelInode): void {
  inode.permissions &= ~SET_UID;
  const isMember = credentials.uid === 0 || inGroup(credentials, inode.gid);
  if ((inode.permissions & 0o010) !== 0 || !isMember) inode.permissions &= ~SET_GID;
  inode.xattrs.delete('security.capability');
}

/** The restricted deletion flag: who may remove or rename `child` of `directory`. */
export function demandDeletion(credentials: Credentials, directory: ModelInode, child: ModelInode): void {
  demand(credentials, directory, WRITE | EXECUTE);
  if ((directory.permissions & STICKY) !== 0 && !isOwner(credentials, directory) && !isOwner(credentials, child)) {
    fail('EPERM', `directory ${directory.id} is sticky`);
  }
}

export function checkName(name: Buffer): string {
  if (name.length === 0) fail('ENOENT', 'a name is empty');
  if (name.length > MAX_NAME_BYTES) fail('ENAMETOOLONG', 'a name is too long');
  const key = nameKey(name);
  if (key === '.' || key === '..' || key.includes('/') || key.includes('\0')) fail('EINVAL', 'not a name');
  return key;
}

/** The state that the clients of one model cluster share. */
export class ModelState {
  private readonly inodes = new Map<number, ModelInode>();
  private nextInode: number = ROOT_INODE;
  private ticks = 0;
  readonly locks = new ModelLockTable();
  readonly root: ModelInode;

  /** `clock` gives the time of the server; without one, each look at the time is a microsecond later. */
  constructor(private readonly clock?: () => Timespec) {
    this.root = this.make('directory', { permissions: 0o755, uid: 0, gid: 0 });
  }

  now(): Timespec {
    if (this.clock !== undefined) return this.clock();
    this.ticks++;
    return { seconds: 1_700_000_000 + Math.floor(this.ticks / 1e6), nanoseconds: (this.ticks % 1e6) * 1000 };
  }

  make(kind: FileKind, init: { permissions: number; uid: number; gid: number; parent?: ModelInode }): ModelInode {
    const inode = new ModelInode(inodeId(this.nextInode++), kind, { ...init, now: this.now() });
    this.inodes.set(inode.id, inode);
    return inode;
  }

  get inodeCount(): number {
    return this.inodes.size;
  }

  has(id: InodeId): boolean {
    return this.inodes.has(id);
  }

  inode(id: InodeId): ModelInode {
    return this.inodes.get(id) ?? fail('ENOENT', `no inode ${id}`);
  }

  directory(id: InodeId): ModelInode {
    const inode = this.inode(id);
    if (inode.kind !== 'directory') fail('ENOTDIR', `inode ${id} is a ${inode.kind}`);
    return inode;
  }

  /** The entry `name` of `directory`, for a caller who may search it. */
  child(credentials: Credentials, directory: ModelInode, key: string): ModelInode {
    demand(credentials, directory, EXECUTE);
    return directory.entries.get(key)?.inode ?? fail('ENOENT', `no ${key} in ${directory.id}`);
  }

  /** Checks that `credentials` may add the entry `key` to `directory`. */
  demandNewEntry(credentials: Credentials, directory: ModelInode, key: string): void {
    demand(credentials, directory, EXECUTE);
    if (directory.entries.has(key)) fail('EEXIST', `${key} exists in ${directory.id}`);
    if (directory.nlink === 0) fail('ENOENT', `directory ${directory.id} was removed`);
    // Together: of an ACL, one entry must give both.
    demand(credentials, directory, WRITE | EXECUTE);
  }

  addEntry(directory: ModelInode, key: string, inode: ModelInode): void {
    directory.entries.set(key, { inode, cookie: directory.nextCookie++ });
    if (inode.kind === 'directory') {
      inode.parent = directory;
      directory.nlink++;
    }
    this.touchContent(directory);
  }

  /** Takes the entry out; the links of the inode are the caller's to count. */
  removeEntry(directory: ModelInode, key: string): void {
    const entry = directory.entries.get(key) ?? fail('ENOENT', key);
    directory.entries.delete(key);
    if (entry.inode.kind === 'directory') directory.nlink--;
    this.touchContent(directory);
  }

  /** One name fewer. A directory loses its last name and its own '.' together. */
  dropLink(inode: ModelInode): void {
    inode.nlink = inode.kind === 'directory' ? 0 : inode.nlink - 1;
    this.touchMetadata(inode);
    this.reap(inode);
  }

  /** Forgets an inode that has neither a name nor an open. */
  reap(inode: ModelInode): void {
    if (inode.nlink === 0 && inode.opens === 0) this.inodes.delete(inode.id);
  }

  /** The content was read: atime, when it is not newer than the last change, or a day old. */
  touchRead(inode: ModelInode): void {
    const now = this.now();
    const isNewer = (than: Timespec): boolean => compareTimespec(inode.atime, than) > 0;
    const isRecent = now.seconds - inode.atime.seconds < 86_400;
    if (compareTimespec(now, inode.atime) > 0 && !(isNewer(inode.mtime) && isNewer(inode.ctime) && isRecent)) {
      inode.atime = now;
    }
  }

  /** mtime and ctime: the content changed. */
  touchContent(inode: ModelInode): void {
    inode.mtime = inode.ctime = this.now();
    inode.change++;
  }

  /** ctime alone: what is known about the inode changed. */
  touchMetadata(inode: ModelInode): void {
    inode.ctime = this.now();
    inode.change++;
  }
}
