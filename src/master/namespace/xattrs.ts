/** Extended attributes: xattr(7). Each value has its own key, so that a look-up of the inode does not read it. */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import {
  MAX_XATTR_LIST_BYTES,
  MAX_XATTR_NAME_BYTES,
  MAX_XATTR_VALUE_BYTES,
  MAX_XATTRS_BYTES,
} from '../../core/limits.js';
import { R_OK, S_ISVTX, W_OK, isDirectory, isRegular, isSymlink } from '../../core/mode.js';
import type {
  GetXattrReplyInit,
  GetXattrRequest,
  InodeRecord,
  ListXattrsReplyInit,
  ListXattrsRequest,
  RemoveXattrRequest,
  SetXattrRequest,
} from '../../protocol/generated/messages.js';
import { ACCESS_ACL, DEFAULT_ACL, aclNames, aclOf, setAcl } from './acl-xattrs.js';
import type { AclName } from './acl-xattrs.js';
import { requireInode, saveInode } from '../tables/inodes.js';
import type { OperationContext } from '../tables/inodes.js';
import { keys, keyToName, nameToKey, PREFIX_LENGTH, prefixRange } from '../state/keys.js';
import { credentialsOf, isOwner, requireAccess } from './permissions.js';
import type { Credentials } from './permissions.js';
import type { Mutation, StateReader } from '../state/state.js';

export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;

type XattrSpace = 'user' | 'trusted' | 'security';
const CAPABILITY = Buffer.from('security.capability');
const SPACES: readonly XattrSpace[] = ['user', 'trusted', 'security'];

/**
 * setxattr(2). Errors: EEXIST, ENODATA, EINVAL (flags, name), ERANGE (length of the name), E2BIG (of the value), ENOSPC
 * (bounds of the inode), EPERM and EACCES by name space, EOPNOTSUPP (another name space); and those of `setAcl`.
 */
export function setXattr(m: Mutation, context: OperationContext, request: SetXattrRequest): Record<string, never> {
  const acl = aclNameOf(request.name);
  const { inode, record } = forWriting(m, request, acl);
  // As Linux, whatever the flags.
  if (acl !== undefined) {
    setAcl(record, credentialsOf(request.caller), acl, request.value);
    record.ctime = context.now;
    saveInode(m, inode, record);
    return {};
  }
  if ((request.flags & ~(XATTR_CREATE | XATTR_REPLACE)) !== 0 || request.flags === (XATTR_CREATE | XATTR_REPLACE)) {
    throw new CairnError('EINVAL', `setxattr knows no flags ${request.flags}`);
  }
  if (request.value.length > MAX_XATTR_VALUE_BYTES) {
    throw new CairnError('E2BIG', `an xattr of ${request.value.length} bytes is above ${MAX_XATTR_VALUE_BYTES}`);
  }
  const key = keys.xattr(inode, request.name);
  const before = m.get(key);
  if (before !== undefined && request.flags === XATTR_CREATE) throw new CairnError('EEXIST', 'the xattr exists');
  if (before === undefined && request.flags === XATTR_REPLACE) throw missing();
  record.xattrBytes += request.value.length - (before?.length ?? 0);
  if (before === undefined) {
    record.xattrBytes += request.name.length;
    const listed = namesBytes(m, inode) + request.name.length + 1;
    if (listed > MAX_XATTR_LIST_BYTES) throw new CairnError('ENOSPC', `the xattrs' names would have ${listed} bytes`);
  }
  if (record.xattrBytes > MAX_XATTRS_BYTES) {
    throw new CairnError('ENOSPC', `the xattrs would have ${record.xattrBytes} bytes, more than ${MAX_XATTRS_BYTES}`);
  }
  // A copy: the value is a view of a larger message.
  m.put(key, Uint8Array.prototype.slice.call(request.value));
  record.ctime = context.now;
  saveInode(m, inode, record);
  return {};
}

/** removexattr(2). ENODATA, and the errors of `setXattr` by name space. */
export function removeXattr(
  m: Mutation,
  context: OperationContext,
  request: RemoveXattrRequest,
): Record<string, never> {
  const acl = aclNameOf(request.name);
  const { inode, record } = forWriting(m, request, acl);
  if (acl !== undefined) {
    setAcl(record, credentialsOf(request.caller), acl, NO_NAME);
    record.ctime = context.now;
    saveInode(m, inode, record);
    return {};
  }
  const key = keys.xattr(inode, request.name);
  const before = m.get(key);
  if (before === undefined) throw missing();
  m.delete(key);
  record.xattrBytes -= request.name.length + before.length;
  record.ctime = context.now;
  saveInode(m, inode, record);
  return {};
}

/** getxattr(2). ENODATA, EACCES, EPERM, ERANGE, EOPNOTSUPP. */
export function getXattr(reader: StateReader, request: GetXattrRequest): GetXattrReplyInit {
  const credentials = credentialsOf(request.caller);
  const inode = inodeId(request.inode);
  const record = requireInode(reader, inode);
  const acl = aclNameOf(request.name);
  if (acl !== undefined) {
    if (isSymlink(record.mode)) throw new CairnError('EOPNOTSUPP', 'a symlink has no ACL');
    const list = aclOf(record, acl);
    if (list === undefined) throw missing();
    return { value: list };
  }
  const space = spaceOf(request.name);
  if (space === 'trusted' && credentials.uid !== 0) throw missing();
  if (space === 'user') {
    if (!isRegular(record.mode) && !isDirectory(record.mode)) throw missing();
    requireAccess(record, credentials, R_OK);
  }
  const value = reader.get(keys.xattr(inode, request.name));
  if (value === undefined) throw missing();
  return { value };
}

/** listxattr(2): trusted. names only to uid 0. */
export function listXattrs(reader: StateReader, request: ListXattrsRequest): ListXattrsReplyInit {
  const credentials = credentialsOf(request.caller);
  const inode = inodeId(request.inode);
  const record = requireInode(reader, inode);
  const names: Buffer[] = aclNames(record).map((name) => Buffer.from(name));
  if (record.xattrBytes === 0) return { names };
  for (const [key] of reader.range(prefixRange(keys.xattr(inode, NO_NAME)))) {
    if (credentials.uid !== 0 && key.startsWith('trusted.', PREFIX_LENGTH)) continue;
    names.push(keyToName(key, PREFIX_LENGTH));
  }
  return { names };
}

const NO_NAME = new Uint8Array(0);

/** What a program may do by its capabilities ends when it is written to. The caller saves `record`. */
export function dropCapability(m: Mutation, inode: InodeId, record: InodeRecord): void {
  if (record.xattrBytes === 0) return;
  const key = keys.xattr(inode, CAPABILITY);
  const before = m.get(key);
  if (before === undefined) return;
  m.delete(key);
  record.xattrBytes -= CAPABILITY.length + before.length;
}

function aclNameOf(name: Uint8Array): AclName | undefined {
  const text = nameToKey(name);
  return text === ACCESS_ACL || text === DEFAULT_ACL ? text : undefined;
}

/** `acl`: the name is that of an ACL, which has rules of its own. */
function forWriting(
  m: Mutation,
  request: SetXattrRequest | RemoveXattrRequest,
  acl: AclName | undefined,
): { readonly inode: InodeId; readonly record: InodeRecord } {
  const credentials = credentialsOf(request.caller);
  const inode = inodeId(request.inode);
  const record = requireInode(m, inode);
  if (acl === undefined) requireWritable(record, credentials, spaceOf(request.name));
  return { inode, record };
}

function requireWritable(record: InodeRecord, credentials: Credentials, space: XattrSpace): void {
  if (space !== 'user') {
    if (credentials.uid !== 0) throw new CairnError('EPERM', `uid ${credentials.uid} may not set xattrs in ${space}.`);
    return;
  }
  if (!isRegular(record.mode) && !isDirectory(record.mode)) {
    throw new CairnError('EPERM', 'only regular files and directories have xattrs in user.');
  }
  if (isDirectory(record.mode) && (record.mode & S_ISVTX) !== 0 && !isOwner(record, credentials)) {
    throw new CairnError('EPERM', 'only its owner may set xattrs in user. on a sticky directory');
  }
  requireAccess(record, credentials, W_OK);
}

function spaceOf(name: Uint8Array): XattrSpace {
  if (name.length === 0 || name.length > MAX_XATTR_NAME_BYTES) {
    throw new CairnError('ERANGE', `the name of an xattr has 1 to ${MAX_XATTR_NAME_BYTES} bytes, not ${name.length}`);
  }
  if (name.includes(0)) throw new CairnError('EINVAL', 'the name of an xattr contains NUL');
  const text = nameToKey(name);
  const space = SPACES.find((candidate) => text.startsWith(`${candidate}.`));
  if (space === undefined)
    throw new CairnError('EOPNOTSUPP', 'xattrs are supported in user., trusted. and security., and as ACLs');
  if (text.length === space.length + 1) throw new CairnError('EINVAL', 'the name of an xattr is only a name space');
  return space;
}

/** Bytes that listxattr(2) would return: each name with its NUL. */
function namesBytes(reader: StateReader, inode: InodeId): number {
  let total = 0;
  for (const [key] of reader.range(prefixRange(keys.xattr(inode, NO_NAME)))) total += key.length - PREFIX_LENGTH + 1;
  return total;
}

function missing(): CairnError {
  return new CairnError('ENODATA', 'the inode has no such xattr');
}
