/** Making names: open with O_CREAT, mkdir, mknod, symlink (one message, told apart by the mode) and link. */
import { CairnError } from '../core/errors.js';
import { inodeId } from '../core/ids.js';
import type { InodeId } from '../core/ids.js';
import { MAX_LINKS, MAX_PATH_BYTES } from '../core/limits.js';
import * as mode from '../core/mode.js';
import type {
  AttributesInit,
  CreateReplyInit,
  CreateRequest,
  InodeRecord,
  LinkRequest,
} from '../protocol/generated/messages.js';
import { addEntry, checkName, findEntry, isDot, isDotDot } from './directories.js';
import { allocateInode, attributesOf, newInodeRecord, requireDirectory, requireInode, saveInode } from './inodes.js';
import type { OperationContext } from './inodes.js';
import { openExisting } from './open.js';
import { credentialsOf, inGroup, requireAccess } from './permissions.js';
import type { Credentials } from './permissions.js';
import type { Mutation } from './state.js';

/**
 * Makes an inode with a name. A regular file whose name exists is opened instead, unless `exclusive`. Errors: EEXIST,
 * ENOENT (the directory was removed), ENOTDIR, EACCES, EPERM (a device, by another than uid 0), ENAMETOOLONG, EINVAL;
 * and those of `open` for a file that exists.
 */
export function create(m: Mutation, context: OperationContext, request: CreateRequest): CreateReplyInit {
  const credentials = credentialsOf(request.caller);
  const type = typeOf(request.mode);
  checkTarget(type, request.symlinkTarget);
  const parent = inodeId(request.parent);
  const directory = requireDirectory(m, parent);
  requireAccess(directory, credentials, mode.X_OK);
  const existing = findForCreation(m, parent, request.name);
  if (existing !== undefined) {
    if (type !== mode.S_IFREG || request.exclusive) throw alreadyExists();
    if (mode.isDirectory(existing.type)) throw new CairnError('EISDIR', 'open with O_CREAT names a directory');
    const opened = openExisting(m, context, { inode: existing.inode, credentials, flags: request.openFlags });
    return { attributes: opened, created: false };
  }
  requireLiving(parent, directory);
  requireAccess(directory, credentials, mode.W_OK | mode.X_OK);
  if ((type === mode.S_IFCHR || type === mode.S_IFBLK) && credentials.uid !== 0) {
    throw new CairnError('EPERM', `uid ${credentials.uid} may not make a device`);
  }

  const record = inherit(directory, credentials, type, request.mode & mode.PERMISSION_BITS, context);
  if (type === mode.S_IFCHR || type === mode.S_IFBLK) record.rdev = request.rdev;
  if (type === mode.S_IFLNK) {
    record.symlinkTarget = request.symlinkTarget;
    record.size = request.symlinkTarget.length;
  }
  if (type === mode.S_IFDIR) {
    record.parent = parent;
    directory.nlink++;
  }
  const inode = allocateInode(m, record);
  addName(m, context, { parent, directory, name: request.name }, { inode, mode: record.mode });
  return { attributes: attributesOf(inode, record), created: true };
}

/**
 * One more name for an inode that is not a directory. Errors: EPERM (a directory), EEXIST, EMLINK, ENOENT (the inode
 * has no name any more, or the directory was removed), ENOTDIR, EACCES, ENAMETOOLONG.
 */
export function link(m: Mutation, context: OperationContext, request: LinkRequest): AttributesInit {
  const credentials = credentialsOf(request.caller);
  const parent = inodeId(request.parent);
  const directory = requireDirectory(m, parent);
  const inode = inodeId(request.inode);
  const record = requireInode(m, inode);
  requireAccess(directory, credentials, mode.X_OK);
  if (findForCreation(m, parent, request.name) !== undefined) throw alreadyExists();
  requireLiving(parent, directory);
  requireAccess(directory, credentials, mode.W_OK | mode.X_OK);
  if (mode.isDirectory(record.mode)) throw new CairnError('EPERM', 'a directory can have one name only');
  if (record.nlink === 0) throw new CairnError('ENOENT', `inode ${inode} has no name any more`);
  if (record.nlink >= MAX_LINKS) throw new CairnError('EMLINK', `inode ${inode} has ${record.nlink} names already`);
  record.nlink++;
  record.ctime = context.now;
  saveInode(m, inode, record);
  addName(m, context, { parent, directory, name: request.name }, { inode, mode: record.mode });
  return attributesOf(inode, record);
}

/** A directory without a name takes no new entries: it would never be empty, and never be found. */
export function requireLiving(inode: InodeId, directory: InodeRecord): void {
  if (directory.nlink === 0) throw new CairnError('ENOENT', `directory ${inode} was removed`);
}

export function alreadyExists(): CairnError {
  return new CairnError('EEXIST', 'the name exists already');
}

/** The entry that stands in the way of a new one. '.' and '..' always do. */
function findForCreation(m: Mutation, parent: InodeId, name: Uint8Array): ReturnType<typeof findEntry> {
  checkName(name);
  if (isDot(name) || isDotDot(name)) throw alreadyExists();
  return findEntry(m, parent, name);
}

function addName(
  m: Mutation,
  context: OperationContext,
  place: { readonly parent: InodeId; readonly directory: InodeRecord; readonly name: Uint8Array },
  target: { readonly inode: InodeId; readonly mode: number },
): void {
  addEntry(m, place, target);
  place.directory.mtime = context.now;
  place.directory.ctime = context.now;
  saveInode(m, place.parent, place.directory);
}

/** Owner, group and mode of a new inode: a setgid directory passes on its group, and the bit to directories. */
function inherit(
  directory: InodeRecord,
  credentials: Credentials,
  type: number,
  permissions: number,
  context: OperationContext,
): InodeRecord {
  let bits = type === mode.S_IFLNK ? 0o777 : permissions;
  let gid = credentials.gid;
  if ((directory.mode & mode.S_ISGID) !== 0) {
    gid = directory.gid;
    if (type === mode.S_IFDIR) bits |= mode.S_ISGID;
    // As inode_init_owner of Linux: nobody gets a setgid program of a group that is not theirs.
    else if ((bits & mode.S_IXGRP) !== 0 && credentials.uid !== 0 && !inGroup(credentials, gid)) bits &= ~mode.S_ISGID;
  }
  return newInodeRecord({ mode: type | bits, uid: credentials.uid, gid, now: context.now });
}

function typeOf(fullMode: number): number {
  const type = fullMode & mode.S_IFMT;
  switch (type) {
    case 0:
      return mode.S_IFREG;
    case mode.S_IFREG:
    case mode.S_IFDIR:
    case mode.S_IFLNK:
    case mode.S_IFIFO:
    case mode.S_IFSOCK:
    case mode.S_IFCHR:
    case mode.S_IFBLK:
      return type;
    default:
      throw new CairnError('EINVAL', `mode ${fullMode.toString(8)} has no file type that exists`);
  }
}

function checkTarget(type: number, target: Uint8Array): void {
  if (type !== mode.S_IFLNK) return;
  if (target.length === 0) throw new CairnError('ENOENT', 'the target of a symlink is empty');
  if (target.length > MAX_PATH_BYTES) {
    throw new CairnError('ENAMETOOLONG', `the target of a symlink has ${target.length} bytes`);
  }
}
