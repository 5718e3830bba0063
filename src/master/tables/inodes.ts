/** Inode records: reading, writing, allocating and removing them, and how a client sees them. */
import type { Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { inodeId, ROOT_INODE } from '../../core/ids.js';
import type { InodeId, SessionId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES } from '../../core/limits.js';
import { S_IFDIR, isDirectory, isRegular } from '../../core/mode.js';
import { InodeRecord } from '../../protocol/generated/messages.js';
import type { AttributesInit } from '../../protocol/generated/messages.js';
import { addToCounter, readCounter } from '../state/counters.js';
import { keys, packed, prefixRange } from '../state/keys.js';
import { FIRST_INODE, currentChange } from '../state/epochs.js';
import type { Mutation, StateReader } from '../state/state.js';

export { addToCounter, readCounter };

/** What an operation knows beside the state and its request. */
export interface OperationContext {
  /** The time that the operation stamps on what it changes. */
  readonly now: Timespec;
  /** Of its client. */
  readonly session?: SessionId;
  /** See put-back-ends.ts; absent: nobody does. */
  readonly isWrittenSinceBefore?: (inode: InodeId) => boolean;
}

/** What stat(2) shows as the size of a directory, and what a file's allocation is rounded up to. */
const ALLOCATION_UNIT_BYTES = 4096;

export function readInode(reader: StateReader, inode: InodeId): InodeRecord | undefined {
  const value = reader.get(keys.inode(inode));
  if (value === undefined) return undefined;
  const record = InodeRecord.decode(value);
  record.change = currentChange(reader, record.change);
  return record;
}

/** The record of an inode that the caller got from an earlier reply. ESTALE when it is gone. */
export function requireInode(reader: StateReader, inode: InodeId): InodeRecord {
  const record = readInode(reader, inode);
  if (record === undefined) throw new CairnError('ESTALE', `inode ${inode} does not exist any more`);
  return record;
}

/** As `requireInode`, and ENOTDIR unless it is a directory. */
export function requireDirectory(reader: StateReader, inode: InodeId): InodeRecord {
  const record = requireInode(reader, inode);
  if (!isDirectory(record.mode)) throw new CairnError('ENOTDIR', `inode ${inode} is not a directory`);
  return record;
}

/** Stores a record that the caller changed; its change attribute grows. */
export function saveInode(m: Mutation, inode: InodeId, record: InodeRecord): void {
  record.change = currentChange(m, record.change) + 1;
  m.put(keys.inode(inode), InodeRecord.encode(record).finish());
}

/** A new inode number with its record, counted and stored. */
export function allocateInode(m: Mutation, record: InodeRecord): InodeId {
  const inode = inodeId(readCounter(m, 'next-inode', FIRST_INODE));
  m.put(keys.meta('next-inode'), packed(inode + 1));
  addToCounter(m, 'inode-count', 1);
  saveInode(m, inode, record);
  return inode;
}

/** A record with every field at its default, to fill in. */
export function newInodeRecord(fields: {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly now: Timespec;
}): InodeRecord {
  const { mode, uid, gid, now } = fields;
  return {
    mode,
    nlink: isDirectory(mode) ? 2 : 1,
    uid,
    gid,
    size: isDirectory(mode) ? ALLOCATION_UNIT_BYTES : 0,
    atime: now,
    mtime: now,
    ctime: now,
    rdev: 0,
    symlinkTarget: EMPTY,
    parent: 0,
    nextCookie: isDirectory(mode) ? 1 : 0,
    layoutVersion: 0,
    change: 0,
    chunkCount: 0,
    xattrBytes: 0,
    entryCount: 0,
    accessAcl: EMPTY,
    defaultAcl: EMPTY,
    linkable: false,
    pendingCuts: [],
  };
}

const EMPTY = new Uint8Array(0);

/** Makes the root directory of a new cluster. Does nothing when it is there already. */
export function ensureRoot(
  m: Mutation,
  context: OperationContext,
  owner: { readonly mode: number; readonly uid: number; readonly gid: number },
): void {
  if (m.get(keys.inode(ROOT_INODE)) !== undefined) return;
  const record = newInodeRecord({ ...owner, mode: S_IFDIR | owner.mode, now: context.now });
  record.parent = ROOT_INODE;
  saveInode(m, ROOT_INODE, record);
  addToCounter(m, 'inode-count', 1);
}

/**
 * Forgets an inode that has no name and no chunk any more: its record, its xattrs, its orphan mark. Returns the number of
 * xattrs, which is bounded by MAX_XATTR_LIST_BYTES.
 */
export function removeInode(m: Mutation, inode: InodeId): number {
  if (m.get(keys.inode(inode)) === undefined) return 0;
  let xattrs = 0;
  for (const [key] of m.range(prefixRange(keys.xattr(inode, EMPTY)))) {
    m.delete(key);
    xattrs++;
  }
  m.delete(keys.inode(inode));
  m.delete(keys.orphan(inode));
  addToCounter(m, 'inode-count', -1);
  return xattrs;
}

/** One name less. An inode without names is an orphan, reaped when no session has it open. */
export function dropLink(m: Mutation, context: OperationContext, inode: InodeId, record: InodeRecord): void {
  record.nlink = isDirectory(record.mode) ? 0 : record.nlink - 1;
  record.ctime = context.now;
  if (record.nlink === 0) m.put(keys.orphan(inode), EMPTY);
  saveInode(m, inode, record);
}

/** Bytes of storage that stat(2) shows: at most the size, less when chunks are missing (holes). */
export function allocatedBytes(record: InodeRecord): number {
  if (!isRegular(record.mode)) return isDirectory(record.mode) ? ALLOCATION_UNIT_BYTES : 0;
  const rounded = Math.ceil(record.size / ALLOCATION_UNIT_BYTES) * ALLOCATION_UNIT_BYTES;
  return Math.min(rounded, record.chunkCount * CHUNK_SIZE_BYTES);
}

/** The inode whose holding covers this one: the directory of a file that has no other name, or itself. */
export function holdingOf(inode: InodeId, { mode, nlink, parent }: InodeRecord): InodeId {
  return nlink === 1 && parent !== 0 && !isDirectory(mode) ? inodeId(parent) : inode;
}

export function attributesOf(inode: InodeId, record: InodeRecord): AttributesInit {
  return {
    inode,
    mode: record.mode,
    nlink: record.nlink,
    uid: record.uid,
    gid: record.gid,
    size: record.size,
    allocatedBytes: allocatedBytes(record),
    atime: record.atime,
    mtime: record.mtime,
    ctime: record.ctime,
    rdev: record.rdev,
    layoutVersion: record.layoutVersion,
    change: record.change,
    hasAcl: record.accessAcl.length > 0,
    hasXattrs: record.xattrBytes > 0 || record.accessAcl.length > 0 || record.defaultAcl.length > 0,
    heldBy: holdingOf(inode, record),
  };
}
