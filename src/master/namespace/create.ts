/** Making names: open with O_CREAT, mkdir, mknod, symlink (one message, told apart by the mode) and link. */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_LINKS, MAX_PATH_BYTES } from '../../core/limits.js';
import * as mode from '../../core/mode.js';
import type {
  AttributesInit,
  CreateReplyInit,
  CreateRequest,
  InodeRecord,
  LinkRequest,
} from '../../protocol/generated/messages.js';
import { OpenFlagsBit } from '../../protocol/generated/messages.js';
import { encodeAcl, inheritAcl, isMinimal, modeOfAcl, parseAcl } from './acl.js';
import { addEntry, checkName, findEntry, isDot, isDotDot } from '../tables/dentries.js';
import {
  allocateInode,
  attributesOf,
  newInodeRecord,
  requireDirectory,
  requireInode,
  saveInode,
} from '../tables/inodes.js';
import type { OperationContext } from '../tables/inodes.js';
import { keys } from '../state/keys.js';
import { openExisting } from './open.js';
import { credentialsOf, inGroup, requireAccess } from './permissions.js';
import type { Credentials } from './permissions.js';
import type { Mutation } from '../state/state.js';

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
  if (request.temporary) return createTemporary(m, context, request, { parent, directory, credentials });
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
  // Linux lets everybody make the device 0,0, which no driver has: it says "removed" in layers of containers.
  const isWhiteout = type === mode.S_IFCHR && request.rdev === 0;
  if ((type === mode.S_IFCHR || type === mode.S_IFBLK) && credentials.uid !== 0 && !isWhiteout) {
    throw new CairnError('EPERM', `uid ${credentials.uid} may not make a device`);
  }

  const record = inherit(directory, credentials, type, request, context);
  if (type === mode.S_IFCHR || type === mode.S_IFBLK) record.rdev = request.rdev;
  if (type === mode.S_IFLNK) {
    record.symlinkTarget = request.symlinkTarget;
    record.size = request.symlinkTarget.length;
  }
  record.parent = parent;
  if (type === mode.S_IFDIR) directory.nlink++;
  const inode = allocateInode(m, record);
  addName(m, context, { parent, directory, name: request.name }, { inode, mode: record.mode });
  return { attributes: attributesOf(inode, record), created: true };
}

/**
 * open(2) with O_TMPFILE: an orphan from its beginning, kept while it is open, and until its client has the answer; `link` may
 * give it a name.
 */
function createTemporary(
  m: Mutation,
  context: OperationContext,
  request: CreateRequest,
  place: { readonly parent: InodeId; readonly directory: InodeRecord; readonly credentials: Credentials },
): CreateReplyInit {
  const { parent, directory, credentials } = place;
  if (typeOf(request.mode) !== mode.S_IFREG || (request.openFlags & OpenFlagsBit.WRITE) === 0) {
    throw new CairnError('EINVAL', 'a temporary file is a regular file opened for writing');
  }
  requireLiving(parent, directory);
  requireAccess(directory, credentials, mode.W_OK | mode.X_OK);
  const record = inherit(directory, credentials, mode.S_IFREG, request, context);
  record.nlink = 0;
  record.linkable = !request.exclusive;
  const inode = allocateInode(m, record);
  const { session } = context;
  const reply = session === undefined ? '' : keys.reply(session, request.operation?.sequence ?? 0);
  m.put(keys.orphan(inode), Buffer.from(reply, 'latin1'));
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
  if (record.nlink === 0) {
    if (!record.linkable) throw new CairnError('ENOENT', `inode ${inode} has no name any more`);
    record.linkable = false;
    m.delete(keys.orphan(inode));
  }
  // With its first name it is a file of that directory; one with several names is of none.
  record.parent = record.nlink === 0 ? parent : 0;
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

/**
 * Owner, group, mode and ACLs of a new inode. A setgid directory passes on its group, and the bit to directories. A
 * default ACL takes the place of the umask, and directories have it too.
 */
export function inherit(
  directory: InodeRecord,
  credentials: Credentials,
  type: number,
  request: { readonly mode: number; readonly umask?: number | null },
  context: OperationContext,
): InodeRecord {
  const isLink = type === mode.S_IFLNK;
  const defaultAcl = isLink || directory.defaultAcl.length === 0 ? undefined : parseAcl(directory.defaultAcl);
  const acl = defaultAcl === undefined ? undefined : inheritAcl(defaultAcl, request.mode & 0o777);
  let bits = isLink ? 0o777 : request.mode & mode.PERMISSION_BITS;
  if (acl !== undefined) bits = (bits & ~0o777) | modeOfAcl(acl);
  else if (!isLink) bits &= ~((request.umask ?? 0) & 0o777);
  let gid = credentials.gid;
  if ((directory.mode & mode.S_ISGID) !== 0) {
    gid = directory.gid;
    if (type === mode.S_IFDIR) bits |= mode.S_ISGID;
    // As Linux, by the mode asked for: nobody gets a setgid program of a group that is not theirs.
    else if ((request.mode & mode.S_IXGRP) !== 0 && credentials.uid !== 0 && !inGroup(credentials, gid))
      bits &= ~mode.S_ISGID;
  }
  const record = newInodeRecord({ mode: type | bits, uid: credentials.uid, gid, now: context.now });
  if (acl !== undefined && !isMinimal(acl)) record.accessAcl = encodeAcl(acl);
  if (type === mode.S_IFDIR) record.defaultAcl = directory.defaultAcl;
  return record;
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
  if (target.includes(0)) throw new CairnError('EINVAL', 'the target of a symlink contains NUL');
}
