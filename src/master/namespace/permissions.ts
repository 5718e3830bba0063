/** Who may do what: the rules of path_resolution(7), chmod(2) and unlink(2) over inode records (P12). */
import { CairnError } from '../../core/errors.js';
import { MAX_GROUPS } from '../../core/limits.js';
import { S_ISGID, S_ISUID, S_ISVTX, S_IXGRP, W_OK, X_OK, isDirectory } from '../../core/mode.js';
import { aclAllows, parseAcl } from './acl.js';
import type { Caller, InodeRecord } from '../../protocol/generated/messages.js';

/** On whose behalf an operation runs. uid 0 has all capabilities. */
export interface Credentials {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/** The credentials in a request. Every request that needs them must carry them. */
export function credentialsOf(caller: Caller | null): Credentials {
  if (caller === null) throw new CairnError('PROTOCOL', 'the request names no caller');
  if (caller.groups.length > MAX_GROUPS) {
    throw new CairnError('PROTOCOL', `the caller has ${caller.groups.length} groups, more than ${MAX_GROUPS}`);
  }
  return caller;
}

export function inGroup(credentials: Credentials, gid: number): boolean {
  return credentials.gid === gid || credentials.groups.includes(gid);
}

/** Whether `mask` (R_OK, W_OK, X_OK) is allowed on an inode. uid 0 may execute a file only if someone may. */
export function mayAccess(record: InodeRecord, credentials: Credentials, mask: number): boolean {
  if (credentials.uid === 0) return (mask & X_OK) === 0 || isDirectory(record.mode) || (record.mode & 0o111) !== 0;
  // As Linux does, a list whose mask allows nothing is not asked.
  if (record.accessAcl.length > 0 && credentials.uid !== record.uid && (record.mode & 0o070) !== 0) {
    const acl = parseAcl(record.accessAcl);
    const caller = { uid: credentials.uid, inGroup: (gid: number) => inGroup(credentials, gid) };
    if (acl !== undefined) return aclAllows(acl, record, caller, mask);
  }
  let granted = record.mode & 7;
  if (credentials.uid === record.uid) granted = (record.mode >> 6) & 7;
  else if (inGroup(credentials, record.gid)) granted = (record.mode >> 3) & 7;
  return (mask & ~granted) === 0;
}

export function requireAccess(record: InodeRecord, credentials: Credentials, mask: number): void {
  if (!mayAccess(record, credentials, mask)) {
    throw new CairnError('EACCES', `uid ${credentials.uid} lacks access ${mask} under mode ${record.mode.toString(8)}`);
  }
}

export function isOwner(record: InodeRecord, credentials: Credentials): boolean {
  return credentials.uid === 0 || credentials.uid === record.uid;
}

/** Fails with EPERM unless the caller owns the inode or is uid 0. */
export function requireOwner(record: InodeRecord, credentials: Credentials): void {
  if (!isOwner(record, credentials)) {
    throw new CairnError('EPERM', `uid ${credentials.uid} does not own the inode of uid ${record.uid}`);
  }
}

/** May the caller remove or replace an entry that is `target` in `directory`: write permission and the sticky bit. */
export function requireRemovable(directory: InodeRecord, target: InodeRecord, credentials: Credentials): void {
  requireAccess(directory, credentials, W_OK | X_OK);
  if ((directory.mode & S_ISVTX) === 0 || credentials.uid === 0) return;
  if (credentials.uid !== target.uid && credentials.uid !== directory.uid) {
    throw new CairnError('EPERM', `uid ${credentials.uid} owns neither the sticky directory nor the entry`);
  }
}

/**
 * The mode without setuid, and without setgid where it means "run as the group": what a write or chown leaves. Setgid
 * alone goes too for who is not of the group, as Linux does.
 */
export function withoutPrivileges(record: InodeRecord, credentials: Credentials | undefined): number {
  const cleared = record.mode & ~S_ISUID;
  const isMember = credentials === undefined || credentials.uid === 0 || inGroup(credentials, record.gid);
  return (cleared & S_IXGRP) !== 0 || !isMember ? cleared & ~S_ISGID : cleared;
}
