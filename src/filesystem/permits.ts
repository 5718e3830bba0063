/** What the permission bits allow whom (path_resolution(7), inode(7)). */
import { kindOfMode } from './file-kind.js';
import type { Attributes, Credentials } from './filesystem.js';

/**
 * Whether the permission bits allow `mask` (R_OK 4, W_OK 2, X_OK 1): path_resolution(7), "Permissions".
 * uid 0 may do all, but executes a file only when somebody may. False also when an ACL decides.
 */
export function permits(
  attributes: Attributes & { readonly hasAcl: boolean },
  credentials: Credentials,
  mask: number,
): boolean {
  const { mode } = attributes;
  if (credentials.uid === 0) {
    return (mask & 1) === 0 || kindOfMode(mode) === 'directory' || (mode & 0o111) !== 0;
  }
  if (attributes.hasAcl) return false;
  let granted = mode & 7;
  if (credentials.uid === attributes.uid) granted = (mode >> 6) & 7;
  else if (credentials.gid === attributes.gid || credentials.groups.includes(attributes.gid)) granted = (mode >> 3) & 7;
  return (granted & mask) === mask;
}

/** Whether a write by `credentials` takes setuid or setgid away. */
export function losesPrivileges({ mode, gid }: Attributes, credentials: Credentials): boolean {
  if ((mode & 0o4000) !== 0) return true;
  const isMember = credentials.uid === 0 || credentials.gid === gid || credentials.groups.includes(gid);
  return (mode & 0o2000) !== 0 && ((mode & 0o010) !== 0 || !isMember);
}
