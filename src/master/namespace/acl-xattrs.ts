/** The xattrs that ACLs are read and set by; see acl(5). They are kept in the inode, where permissions are checked. */
import { CairnError } from '../../core/errors.js';
import { PERMISSION_BITS, S_IFMT, S_ISGID, isDirectory, isSymlink } from '../../core/mode.js';
import type { InodeRecord } from '../../protocol/generated/messages.js';
import { encodeAcl, isMinimal, modeOfAcl, parseAcl } from './acl.js';
import { inGroup, requireOwner } from './permissions.js';
import type { Credentials } from './permissions.js';

export const ACCESS_ACL = 'system.posix_acl_access';
export const DEFAULT_ACL = 'system.posix_acl_default';

export type AclName = typeof ACCESS_ACL | typeof DEFAULT_ACL;

const NONE = new Uint8Array(0);

export function aclOf(record: InodeRecord, name: AclName): Uint8Array | undefined {
  const value = name === ACCESS_ACL ? record.accessAcl : record.defaultAcl;
  return value.length === 0 ? undefined : value;
}

/** The names of the lists that the inode has. */
export function aclNames(record: InodeRecord): AclName[] {
  return ([ACCESS_ACL, DEFAULT_ACL] as const).filter((name) => aclOf(record, name) !== undefined);
}

/**
 * Sets a list, or with an empty value takes it away. Changes `record`, which the caller saves. Errors: EPERM (not the
 * owner), EACCES (a default list of what is no directory), EOPNOTSUPP (a symlink), and those of `parseAcl`.
 */
export function setAcl(record: InodeRecord, credentials: Credentials, name: AclName, value: Uint8Array): void {
  if (isSymlink(record.mode)) throw new CairnError('EOPNOTSUPP', 'a symlink has no ACL');
  const acl = value.length === 0 ? undefined : parseAcl(value);
  requireOwner(record, credentials);
  if (name === DEFAULT_ACL) {
    if (acl !== undefined && !isDirectory(record.mode)) {
      throw new CairnError('EACCES', 'only a directory has a default ACL');
    }
    record.defaultAcl = acl === undefined ? NONE : encodeAcl(acl);
    return;
  }
  if (acl === undefined) {
    record.accessAcl = NONE;
    return;
  }
  record.accessAcl = isMinimal(acl) ? NONE : encodeAcl(acl);
  let bits = (record.mode & PERMISSION_BITS & ~0o777) | modeOfAcl(acl);
  if (credentials.uid !== 0 && !inGroup(credentials, record.gid)) bits &= ~S_ISGID;
  record.mode = (record.mode & S_IFMT) | bits;
}
