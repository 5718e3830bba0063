/** stat, access, chmod, chown, utimensat, truncate, and what writers publish. */
import { compareTimespec } from '../../core/clock.js';
import type { Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_FILE_BYTES } from '../../core/limits.js';
import { isReadToNote } from '../../core/relatime.js';
import { PERMISSION_BITS, S_IFMT, S_ISGID, W_OK, isDirectory, isRegular } from '../../core/mode.js';
import type {
  AccessRequest,
  AttributesInit,
  GetAttributesRequest,
  PublishRequest,
  SetAttributesRequest,
} from '../../protocol/generated/messages.js';
import { InodeRecord } from '../../protocol/generated/messages.js';
import { encodeAcl, parseAcl, withMode } from './acl.js';
import { truncateChunkMap } from '../tables/chunk-map.js';
import { markSynced } from '../tables/chunk-records.js';
import { attributesOf, readInode, requireInode, saveInode } from '../tables/inodes.js';
import { cutPutBackEnd } from '../tables/put-back-ends.js';
import type { OperationContext } from '../tables/inodes.js';
import { keys } from '../state/keys.js';
import { credentialsOf, inGroup, isOwner, requireAccess, requireOwner, withoutPrivileges } from './permissions.js';
import type { Credentials } from './permissions.js';
import type { Mutation, StateReader } from '../state/state.js';
import { dropCapability } from './xattrs.js';

export function getAttributes(reader: StateReader, request: Pick<GetAttributesRequest, 'inode'>): AttributesInit {
  const inode = inodeId(request.inode);
  return attributesOf(inode, requireInode(reader, inode));
}

/** access(2). EACCES, or EINVAL for a mask of other bits. */
export function access(reader: StateReader, request: AccessRequest): Record<string, never> {
  if ((request.mask & ~7) !== 0) throw new CairnError('EINVAL', `access knows no mask ${request.mask}`);
  requireAccess(requireInode(reader, inodeId(request.inode)), credentialsOf(request.caller), request.mask);
  return {};
}

/**
 * Any of chmod(2), chown(2), utimensat(2) and truncate(2), all or nothing. Errors: EPERM (not the owner), EACCES (no
 * permission to write), EISDIR, EINVAL, EFBIG, ESTALE.
 */
export function setAttributes(m: Mutation, context: OperationContext, request: SetAttributesRequest): AttributesInit {
  const credentials = credentialsOf(request.caller);
  const inode = inodeId(request.inode);
  const record = requireInode(m, inode);
  let changed = false;
  if (request.size !== null) {
    requireTruncatable(record);
    if (!request.openedForWriting) requireAccess(record, credentials, W_OK);
    changeSize(m, context, { inode, record, size: request.size, credentials });
    changed = true;
  }
  if (request.killPrivileges) {
    if (!isOwner(record, credentials) && !request.openedForWriting) requireAccess(record, credentials, W_OK);
    if (isRegular(record.mode)) killPrivileges(m, inode, record, credentials);
    changed = true;
  }
  if (request.uid !== null || request.gid !== null) {
    changeOwner(m, inode, record, credentials, request.uid ?? record.uid, request.gid ?? record.gid);
    changed = true;
  }
  if (request.mode !== null) {
    changeMode(record, credentials, request.mode & PERMISSION_BITS);
    changed = true;
  }
  if (changeTimes(context, record, credentials, request)) changed = true;
  if (changed) {
    record.ctime = context.now;
    saveInode(m, inode, record);
  }
  return attributesOf(inode, record);
}

/**
 * What a writer tells: the size grows to `end`, the times are those of its last accesses. It does so also when the file
 * was truncated since the bytes were written (`layoutVersion` is older): what was cut reads as zeros, what was written
 * after the cut is kept, as if the writes had come one by one. The file changed also when neither size nor times do: who has
 * its bytes from before learns that by its change attribute (P2).
 */
export function publish(m: Mutation, context: OperationContext, request: PublishRequest): AttributesInit {
  const inode = inodeId(request.inode);
  const record = requireInode(m, inode);
  if (!isRegular(record.mode)) throw new CairnError('EINVAL', `inode ${inode} is no regular file`);
  checkSize(request.end);
  markSynced(m, request.syncedChunks);
  const grows = request.end > record.size;
  if (grows) {
    cutPutBackEnd(m, { inode, record }, context.isWrittenSinceBefore ?? NOBODY);
    record.size = request.end;
  }
  if (request.mtime !== null) {
    checkTime(request.mtime);
    record.ctime = ctimeOfWrite(record, request.mtime, context.now);
    // Two writers may publish in another order than they wrote in; but what utimensat set into the future is over.
    const { mtime } = record;
    const isFuture = mtime !== null && compareTimespec(mtime, context.now) > 0;
    if (mtime === null || isFuture || compareTimespec(request.mtime, mtime) > 0) record.mtime = request.mtime;
  } else if (grows) record.ctime = context.now;
  // Also when times were set by hand since the bytes were written.
  if (request.killPrivileges) killPrivileges(m, inode, record);
  else dropCapability(m, inode, record);
  if (request.atime !== null) {
    checkTime(request.atime);
    if (record.atime === null || compareTimespec(request.atime, record.atime) > 0) record.atime = request.atime;
  }
  saveInode(m, inode, record);
  return attributesOf(inode, record);
}

/** What the writer saw already, so that closing a file is no change of it; unless its clock is not to be trusted. */
function ctimeOfWrite({ ctime }: InodeRecord, written: Timespec, now: Timespec): Timespec {
  // A write may be published twice.
  const isNewest = ctime === null || compareTimespec(written, ctime) >= 0;
  return isNewest && compareTimespec(written, now) <= 0 ? written : now;
}

/** A read of the inode at `atime`; noted only if relatime says so. The change attribute stays: nothing changed. */
export function noteRead(m: Mutation, inode: InodeId, atime: Timespec): void {
  const record = readInode(m, inode);
  if (record === undefined || !needsNote(record, checkTime(atime))) return;
  m.put(keys.inode(inode), InodeRecord.encode({ ...record, atime }).finish());
}

/** Whether `noteRead` would change anything. */
export function isReadNoted(reader: StateReader, inode: InodeId, atime: Timespec): boolean {
  const record = readInode(reader, inode);
  return record === undefined || !needsNote(record, atime);
}

function needsNote({ atime, mtime, ctime }: InodeRecord, now: Timespec): boolean {
  return isReadToNote({ atime: atime ?? EPOCH, mtime: mtime ?? EPOCH, ctime: ctime ?? EPOCH }, now);
}

const NOBODY = (): boolean => false;
const EPOCH: Timespec = { seconds: 0, nanoseconds: 0 };

/** Sets the size of a regular file, and mtime and ctime; a caller other than uid 0 loses it setuid and setgid. */
export function changeSize(
  m: Mutation,
  context: OperationContext,
  change: {
    readonly inode: InodeId;
    readonly record: InodeRecord;
    readonly size: number;
    readonly credentials: Credentials;
  },
): void {
  const { inode, record, size, credentials } = change;
  requireTruncatable(record);
  checkSize(size);
  // Also at the same size: bytes that another writer put behind it and has not published must not show later.
  if (size <= record.size) truncateChunkMap(m, inode, record, size);
  else cutPutBackEnd(m, { inode, record }, context.isWrittenSinceBefore ?? NOBODY);
  record.size = size;
  record.mtime = context.now;
  record.ctime = context.now;
  if (credentials.uid !== 0) killPrivileges(m, inode, record, credentials);
  else dropCapability(m, inode, record);
}

/** What a program may do by setuid, setgid and its capabilities ends when its content or its owner changes. */
function killPrivileges(m: Mutation, inode: InodeId, record: InodeRecord, credentials?: Credentials): void {
  record.mode = withoutPrivileges(record, credentials);
  dropCapability(m, inode, record);
}

function requireTruncatable(record: InodeRecord): void {
  if (isDirectory(record.mode)) throw new CairnError('EISDIR', 'a directory cannot be truncated');
  if (!isRegular(record.mode)) throw new CairnError('EINVAL', 'only a regular file can be truncated');
}

function checkSize(size: number): void {
  if (!Number.isSafeInteger(size) || size < 0) throw new CairnError('EINVAL', `no file has ${size} bytes`);
  if (size > MAX_FILE_BYTES) throw new CairnError('EFBIG', `a file of ${size} bytes is above ${MAX_FILE_BYTES}`);
}

function changeOwner(
  m: Mutation,
  inode: InodeId,
  record: InodeRecord,
  credentials: Credentials,
  uid: number,
  gid: number,
): void {
  if (credentials.uid !== 0) {
    const mayGroup = gid === record.gid || inGroup(credentials, gid);
    if (credentials.uid !== record.uid || uid !== record.uid || !mayGroup) {
      throw new CairnError('EPERM', `uid ${credentials.uid} may not give the inode of uid ${record.uid} away`);
    }
  }
  // As Linux does, for uid 0 too; by the group that it had.
  if (!isDirectory(record.mode)) killPrivileges(m, inode, record, credentials);
  record.uid = uid;
  record.gid = gid;
}

function changeMode(record: InodeRecord, credentials: Credentials, permissions: number): void {
  requireOwner(record, credentials);
  let bits = permissions;
  if (credentials.uid !== 0 && !inGroup(credentials, record.gid)) bits &= ~S_ISGID;
  record.mode = (record.mode & S_IFMT) | bits;
  const acl = record.accessAcl.length > 0 ? parseAcl(record.accessAcl) : undefined;
  if (acl !== undefined) record.accessAcl = encodeAcl(withMode(acl, bits));
}

/**
 * Explicit times need the owner; "now" for both needs write permission, for one alone the owner (utimensat(2)). A kernel
 * sends the mtime of a truncate along.
 */
function changeTimes(
  context: OperationContext,
  record: InodeRecord,
  credentials: Credentials,
  request: SetAttributesRequest,
): boolean {
  const isOneAlone = request.atimeNow !== request.mtimeNow && request.size === null;
  if (request.atime !== null || request.mtime !== null || isOneAlone) requireOwner(record, credentials);
  else if (!request.atimeNow && !request.mtimeNow) return false;
  else if (!isOwner(record, credentials)) requireAccess(record, credentials, W_OK);
  if (request.atimeNow) record.atime = context.now;
  else if (request.atime !== null) record.atime = checkTime(request.atime);
  if (request.mtimeNow) record.mtime = context.now;
  else if (request.mtime !== null) record.mtime = checkTime(request.mtime);
  return true;
}

function checkTime(time: Timespec): Timespec {
  if (!Number.isSafeInteger(time.seconds) || time.nanoseconds > 999_999_999) {
    throw new CairnError('EINVAL', `${time.seconds} s and ${time.nanoseconds} ns are no time`);
  }
  return time;
}
