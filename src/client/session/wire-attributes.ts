/** Attributes: from the wire to the file system's terms, and the permission check of access(2) on them. */
import { inodeId } from '../../core/ids.js';
import type { Timespec } from '../../core/clock.js';
import type * as wire from '../../protocol/generated/messages.js';
import type { Attributes, Credentials, FileKind } from '../../filesystem/filesystem.js';

/** Attributes with what only the client's own caches need. */
export interface InodeAttributes extends Attributes {
  /** Changes when chunks were dropped or cut: cached chunk maps are void. */
  readonly layoutVersion: number;
  /** The permission bits do not say all: only the master knows who may do what. */
  readonly hasAcl: boolean;
  /** There is an xattr or an ACL. */
  readonly hasXattrs: boolean;
}

const ZERO_TIME: Timespec = { seconds: 0, nanoseconds: 0 };

const TYPE_MASK = 0o170000;
const KIND_OF_TYPE = new Map<number, FileKind>([
  [0o100000, 'file'],
  [0o040000, 'directory'],
  [0o120000, 'symlink'],
  [0o010000, 'fifo'],
  [0o140000, 'socket'],
  [0o020000, 'characterDevice'],
  [0o060000, 'blockDevice'],
]);
const TYPE_OF_KIND: Readonly<Record<FileKind, number>> = {
  file: 0o100000,
  directory: 0o040000,
  symlink: 0o120000,
  fifo: 0o010000,
  socket: 0o140000,
  characterDevice: 0o020000,
  blockDevice: 0o060000,
};

/** The kind that the type bits of `mode` (st_mode) say. */
export function kindOfMode(mode: number): FileKind {
  return KIND_OF_TYPE.get(mode & TYPE_MASK) ?? 'file';
}

/** The type bits of st_mode for a kind. */
export function typeBits(kind: FileKind): number {
  return TYPE_OF_KIND[kind];
}

const time = (value: wire.Timespec | null): Timespec =>
  value === null ? ZERO_TIME : { seconds: value.seconds, nanoseconds: value.nanoseconds };

export function fromWireAttributes(attributes: wire.Attributes): InodeAttributes {
  return {
    inode: inodeId(attributes.inode),
    mode: attributes.mode,
    nlink: attributes.nlink,
    uid: attributes.uid,
    gid: attributes.gid,
    size: attributes.size,
    allocatedBytes: attributes.allocatedBytes,
    atime: time(attributes.atime),
    mtime: time(attributes.mtime),
    ctime: time(attributes.ctime),
    rdev: attributes.rdev,
    change: attributes.change,
    layoutVersion: attributes.layoutVersion,
    hasAcl: attributes.hasAcl,
    hasXattrs: attributes.hasXattrs,
  };
}

/** Whether a write by `credentials` takes setuid or setgid away. */
export function losesPrivileges({ mode, gid }: Attributes, credentials: Credentials): boolean {
  if ((mode & 0o4000) !== 0) return true;
  const isMember = credentials.uid === 0 || credentials.gid === gid || credentials.groups.includes(gid);
  return (mode & 0o2000) !== 0 && ((mode & 0o010) !== 0 || !isMember);
}

/** What the master needs to know of a caller. */
export function toWireCaller(credentials: Credentials): wire.CallerInit {
  return { uid: credentials.uid, gid: credentials.gid, groups: credentials.groups };
}

/**
 * Whether the permission bits allow `mask` (R_OK 4, W_OK 2, X_OK 1): path_resolution(7), "Permissions".
 * uid 0 may do all, but executes a file only when somebody may. False also when an ACL decides.
 */
export function permits(attributes: InodeAttributes, credentials: Credentials, mask: number): boolean {
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
