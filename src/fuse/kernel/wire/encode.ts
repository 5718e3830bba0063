/** Replies to the kernel, in the structures of its header file. Each function returns one structure. */
import { typeBitsOf, blockCounts } from '../../linux.js';
import type { Timespec } from '../../../core/clock.js';
import { MAX_LOCK_END } from '../../../core/lock-ranges.js';
import type { Attributes, DirectoryEntry, FileSystemStats, LockRequest } from '../../../filesystem/filesystem.js';
import { EXPIRE_ONLY, F_RDLCK, F_UNLCK, F_WRLCK, OUT_HEADER_BYTES } from './protocol.js';

const WORD = 2 ** 32;
/** As the kernel writes the end of a lock that has none. */
const LARGEST_OFFSET = 2n ** 63n - 1n;
const ATTR_BYTES = 88;
export const ENTRY_BYTES = 128;
const DIRENT_BYTES = 24;
/** What programs read and write at a time when they ask stat(2). stdio takes a buffer of this size for each file. */
const PREFERRED_IO_BYTES = 128 * 1024;
/** Counts that statfs(2) may say: any that are safe integers. */
const STATFS_LIMIT = 2 ** 52;

/** How long the kernel may believe an answer. */
export interface Validity {
  readonly entryMs: number;
  readonly attributesMs: number;
}

export function putU64(into: Buffer, at: number, value: number): void {
  // Negative values come out in two's complement.
  into.writeUInt32LE(((value % WORD) + WORD) % WORD, at);
  into.writeInt32LE(Math.floor(value / WORD) | 0, at + 4);
}

/** `error` is a positive errno, or 0. */
export function outHeader(unique: number, error: number, payloadBytes: number): Buffer {
  const header = Buffer.allocUnsafe(OUT_HEADER_BYTES);
  header.writeUInt32LE(OUT_HEADER_BYTES + payloadBytes, 0);
  header.writeInt32LE(-error, 4);
  putU64(header, 8, unique);
  return header;
}

function putAttributes(into: Buffer, at: number, a: Attributes): void {
  putU64(into, at, a.inode);
  putU64(into, at + 8, a.size);
  putU64(into, at + 16, Math.ceil(a.allocatedBytes / 512));
  putTime(into, at + 24, at + 48, a.atime);
  putTime(into, at + 32, at + 52, a.mtime);
  putTime(into, at + 40, at + 56, a.ctime);
  into.writeUInt32LE(a.mode, at + 60);
  into.writeUInt32LE(a.nlink, at + 64);
  into.writeUInt32LE(a.uid, at + 68);
  into.writeUInt32LE(a.gid, at + 72);
  into.writeUInt32LE(a.rdev, at + 76);
  into.writeUInt32LE(PREFERRED_IO_BYTES, at + 80);
  into.writeUInt32LE(0, at + 84);
}

function putTime(into: Buffer, secondsAt: number, nanosecondsAt: number, time: Timespec): void {
  putU64(into, secondsAt, time.seconds);
  into.writeUInt32LE(time.nanoseconds, nanosecondsAt);
}

function putDuration(into: Buffer, secondsAt: number, nanosecondsAt: number, ms: number): void {
  putU64(into, secondsAt, Math.floor(ms / 1000));
  into.writeUInt32LE((ms % 1000) * 1e6, nanosecondsAt);
}

/** fuse_attr_out */
export function attributesOut(attributes: Attributes, attributesMs: number): Buffer {
  const out = Buffer.alloc(16 + ATTR_BYTES);
  putDuration(out, 0, 8, attributesMs);
  putAttributes(out, 16, attributes);
  return out;
}

/** fuse_entry_out. `into` has room for it. */
function putEntry(into: Buffer, at: number, nodeid: number, attributes: Attributes, validity: Validity): void {
  putU64(into, at, nodeid);
  // Inode numbers are never used again, so one generation is enough.
  putU64(into, at + 8, 0);
  putDuration(into, at + 16, at + 32, validity.entryMs);
  putDuration(into, at + 24, at + 36, validity.attributesMs);
  putAttributes(into, at + 40, attributes);
}

export function entryOut(nodeid: number, attributes: Attributes, validity: Validity): Buffer {
  const out = Buffer.allocUnsafe(ENTRY_BYTES);
  putEntry(out, 0, nodeid, attributes, validity);
  return out;
}

/** fuse_entry_out of a name that leads to nothing, which is to be believed so long. */
export function missingOut(entryMs: number): Buffer {
  const out = Buffer.alloc(ENTRY_BYTES);
  putDuration(out, 16, 32, entryMs);
  return out;
}

/** fuse_open_out */
export function openOut(handle: number, flags: number): Buffer {
  const out = Buffer.alloc(16);
  putU64(out, 0, handle);
  out.writeUInt32LE(flags, 8);
  return out;
}

/** fuse_write_out, fuse_getxattr_out: one 32-bit count. */
export function countOut(count: number): Buffer {
  const out = Buffer.alloc(8);
  out.writeUInt32LE(count, 0);
  return out;
}

/** fuse_lseek_out, fuse_copy_file_range_out: one 64-bit number. */
export function offsetOut(offset: number): Buffer {
  const out = Buffer.allocUnsafe(8);
  putU64(out, 0, offset);
  return out;
}

/** fuse_statfs_out */
export function statfsOut(stats: FileSystemStats): Buffer {
  const { blockSize, blocks, free } = blockCounts(stats, STATFS_LIMIT);
  // There is no limit on the number of inodes but the room for them; programs want one.
  const freeInodes = Math.floor(stats.freeBytes / 4096);
  const out = Buffer.alloc(80);
  for (const [index, value] of [blocks, free, free, stats.inodes + freeInodes, freeInodes].entries()) {
    putU64(out, index * 8, value);
  }
  out.writeUInt32LE(blockSize, 40);
  out.writeUInt32LE(stats.maxNameBytes, 44);
  out.writeUInt32LE(blockSize, 48);
  return out;
}

export type ListedEntry = Pick<DirectoryEntry, 'name' | 'inode' | 'kind'>;

/**
 * Entries of a directory in the buffer that answers READDIR or READDIRPLUS. Each `add…` returns false when there is no
 * room for it any more.
 */
export class DirectoryBuffer {
  private readonly bytes: Buffer;
  private used = 0;

  constructor(size: number) {
    this.bytes = Buffer.alloc(size);
  }

  get content(): Buffer {
    return this.bytes.subarray(0, this.used);
  }

  /** `next` is what the kernel sends to go on after this entry. */
  add(entry: ListedEntry, next: number): boolean {
    const size = aligned(DIRENT_BYTES + entry.name.length);
    if (size > this.bytes.length - this.used) return false;
    this.putDirent(this.used, entry, next);
    this.used += size;
    return true;
  }

  /** With attributes the kernel takes the entry as if it had looked it up; without, as `add` would give it. */
  addPlus(
    entry: ListedEntry,
    next: number,
    known?: { readonly nodeid: number; readonly attributes: Attributes; readonly validity: Validity },
  ): boolean {
    const size = aligned(ENTRY_BYTES + DIRENT_BYTES + entry.name.length);
    if (size > this.bytes.length - this.used) return false;
    if (known !== undefined) putEntry(this.bytes, this.used, known.nodeid, known.attributes, known.validity);
    this.putDirent(this.used + ENTRY_BYTES, entry, next);
    this.used += size;
    return true;
  }

  private putDirent(at: number, { name, inode, kind }: ListedEntry, next: number): void {
    putU64(this.bytes, at, inode);
    putU64(this.bytes, at + 8, next);
    this.bytes.writeUInt32LE(name.length, at + 16);
    // As d_type of readdir(3): the type bits of st_mode.
    this.bytes.writeUInt32LE(typeBitsOf(kind) >> 12, at + 20);
    name.copy(this.bytes, at + DIRENT_BYTES);
  }
}

/** The most entries that a buffer of `size` may hold, if each name has `nameBytes`. */
export function entriesWithin(size: number, plus: boolean, nameBytes: number): number {
  return Math.ceil(size / aligned((plus ? ENTRY_BYTES : 0) + DIRENT_BYTES + nameBytes));
}

const aligned = (size: number): number => Math.ceil(size / 8) * 8;

/** fuse_lk_out */
export function lockOut(lock: Pick<LockRequest, 'start' | 'end' | 'type' | 'pid'>): Buffer {
  const out = Buffer.alloc(24);
  putU64(out, 0, lock.start);
  if (lock.end === MAX_LOCK_END) out.writeBigUInt64LE(LARGEST_OFFSET, 8);
  else putU64(out, 8, lock.end);
  out.writeUInt32LE({ read: F_RDLCK, write: F_WRLCK, unlock: F_UNLCK }[lock.type], 16);
  out.writeUInt32LE(lock.pid, 20);
  return out;
}

/** Of a message that answers no request: its code stands where a reply has its error. */
export function notificationHeader(code: number, payloadBytes: number): Buffer {
  const header = Buffer.alloc(OUT_HEADER_BYTES);
  header.writeUInt32LE(OUT_HEADER_BYTES + payloadBytes, 0);
  header.writeInt32LE(code, 4);
  return header;
}

/** fuse_notify_inval_inode_out: the kernel forgets attributes, and the pages from `offset` on unless it is negative. */
export function invalidateInode(nodeid: number, offset: number, length = 0): Buffer {
  const out = Buffer.allocUnsafe(24);
  putU64(out, 0, nodeid);
  putU64(out, 8, offset);
  putU64(out, 16, length);
  return out;
}

/** fuse_notify_inval_entry_out: the kernel does not believe what it knows of a name, or forgets it. */
export function invalidateEntry(directory: number, name: Buffer, expireOnly: boolean): Buffer {
  const out = Buffer.alloc(16 + name.length + 1);
  putU64(out, 0, directory);
  out.writeUInt32LE(name.length, 8);
  out.writeUInt32LE(expireOnly ? EXPIRE_ONLY : 0, 12);
  name.copy(out, 16);
  return out;
}

/** fuse_notify_store_out, before bytes that the kernel takes into its pages: the file has at least these. */
export function storedBytes(nodeid: number, offset: number, length: number): Buffer {
  const out = Buffer.alloc(24);
  putU64(out, 0, nodeid);
  putU64(out, 8, offset);
  out.writeUInt32LE(length, 16);
  return out;
}
