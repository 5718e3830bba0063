/** Extended attributes and ACLs of the model: who may use them, and what they change. */
import { MAX_XATTR_NAME_BYTES } from '../../../src/core/limits.js';
import type { Credentials } from '../../../src/filesystem/filesystem.js';
import { demand, fail, inGroup, isOwner, nameKey, SET_GID, STICKY, WRITE } from './model-state.js';
import { bitsOf, saysMore } from './model-acl.js';
import type { ModelAcl } from './model-acl.js';
import type { ModelInode } from './model-state.js';

export const ACL_NAMES = { acl: 'system.posix_acl_access', defaultAcl: 'system.posix_acl_default' } as const;

export function aclName(inode: ModelInode, name: Buffer): keyof typeof ACL_NAMES | undefined {
  const found = (['acl', 'defaultAcl'] as const).find((list) => ACL_NAMES[list] === nameKey(name));
  if (found !== undefined && inode.kind === 'symlink') fail('EOPNOTSUPP', 'a symlink has no ACL');
  return found;
}

export function setAcl(
  credentials: Credentials,
  inode: ModelInode,
  list: keyof typeof ACL_NAMES,
  acl: ModelAcl | undefined,
): void {
  if (!isOwner(credentials, inode)) fail('EPERM', 'not the owner');
  if (list === 'defaultAcl') {
    if (acl !== undefined && inode.kind !== 'directory') fail('EACCES', 'no directory');
    inode.defaultAcl = acl;
    return;
  }
  inode.acl = acl !== undefined && saysMore(acl) ? acl : undefined;
  if (acl === undefined) return;
  inode.permissions = (inode.permissions & ~0o777) | bitsOf(acl);
  if (credentials.uid !== 0 && !inGroup(credentials, inode.gid)) inode.permissions &= ~SET_GID;
}

/** xattr(7): the namespaces and who may use them. */
export function checkXattr(credentials: Credentials, inode: ModelInode, name: Buffer, mask: number): string {
  if (name.length === 0 || name.length > MAX_XATTR_NAME_BYTES) fail('ERANGE', 'the length of the name');
  const key = nameKey(name);
  if (key.startsWith('user.')) {
    const isWrite = mask === WRITE;
    if (inode.kind !== 'file' && inode.kind !== 'directory') fail(isWrite ? 'EPERM' : 'ENODATA', key);
    const isShared = inode.kind === 'directory' && (inode.permissions & STICKY) !== 0;
    if (isWrite && isShared && !isOwner(credentials, inode)) fail('EPERM', key);
    demand(credentials, inode, mask);
  } else if (key.startsWith('trusted.')) {
    if (credentials.uid !== 0) fail(mask === WRITE ? 'EPERM' : 'ENODATA', key);
  } else if (key.startsWith('security.')) {
    if (mask === WRITE && credentials.uid !== 0) fail('EPERM', key);
  } else {
    fail('EOPNOTSUPP', `the namespace of ${key}`);
  }
  return key;
}
