/** Attributes and callers, between the wire and the file system's terms. */
import { CairnError } from '../../core/errors.js';
import { inodeId, type InodeId } from '../../core/ids.js';
import type { Timespec } from '../../core/clock.js';
import type * as wire from '../../protocol/generated/messages.js';
import type { Attributes, Credentials } from '../../filesystem/filesystem.js';

/** Attributes with what only the client's own caches need. */
export interface InodeAttributes extends Attributes {
  /** Changes when chunks were dropped or cut: cached chunk maps are void. */
  readonly layoutVersion: number;
  /** The permission bits do not say all: only the master knows who may do what. */
  readonly hasAcl: boolean;
  /** There is an xattr or an ACL. */
  readonly hasXattrs: boolean;
  /** The inode whose holding covers this one, and the grant under which it was told; 0: under none. */
  readonly heldBy: InodeId;
  readonly grant: number;
}

const ZERO_TIME: Timespec = { seconds: 0, nanoseconds: 0 };

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
    heldBy: inodeId(attributes.grant === 0 ? attributes.inode : attributes.heldBy),
    grant: attributes.grant,
  };
}

/** What an answer always has, though the schema lets it be left out. */
export function present<T>(value: T | null): T {
  if (value === null) throw new CairnError('PROTOCOL', 'the master left attributes out of its answer');
  return value;
}

/** What the master needs to know of a caller. */
export function toWireCaller(credentials: Credentials): wire.CallerInit {
  return { uid: credentials.uid, gid: credentials.gid, groups: credentials.groups };
}
