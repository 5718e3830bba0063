/**
 * The namespace: every operation is a pure, synchronous function over the state. Those that change something take a
 * `Mutation` and run inside `State.mutate`, so an operation that throws has changed nothing; the others take a
 * `StateReader`. Requests and replies are the protocol's messages; errors are CairnError with the code that POSIX
 * gives, in the order in which Linux would find them.
 *
 * Not here: who has a file open (sessions), where its chunks are (chunk map), and retries (P6), which wrap these.
 */
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_NAME_BYTES } from '../../core/limits.js';
import { X_OK, isSymlink } from '../../core/mode.js';
import { CairnError } from '../../core/errors.js';
import type {
  EntryInit,
  LookupRequest,
  ReadLinkReplyInit,
  ReadLinkRequest,
} from '../../protocol/generated/messages.js';
import { checkName, findEntry, isDot, isDotDot, requireEntry } from '../tables/dentries.js';
import { readCounter } from '../state/counters.js';
import { attributesOf, readInode, requireDirectory, requireInode } from '../tables/inodes.js';
import { credentialsOf, requireAccess } from './permissions.js';
import type { StateReader } from '../state/state.js';

export { access, getAttributes, isReadNoted, noteRead, publish, setAttributes } from './attributes.js';
export { create, link } from './create.js';
export { ensureRoot, removeInode, requireInode, saveInode } from '../tables/inodes.js';
export type { OperationContext } from '../tables/inodes.js';
export { open, openTruncating } from './open.js';
export { punchChunks } from './punch.js';
export { readDirectory } from './read-directory.js';
export { unlink } from './remove.js';
export { rename } from './rename.js';
export { getXattr, listXattrs, removeXattr, setXattr } from './xattrs.js';

/**
 * The inode that a name leads to; nothing is followed. Errors: ENOENT (with `hold`, a missing name is an answer), ENOTDIR, EACCES,
 * ENAMETOOLONG, ESTALE.
 */
export function lookup(reader: StateReader, request: LookupRequest): EntryInit {
  const parent = inodeId(request.parent);
  const directory = requireDirectory(reader, parent);
  requireAccess(directory, credentialsOf(request.caller), X_OK);
  checkName(request.name);
  let inode;
  if (isDot(request.name)) inode = parent;
  else if (isDotDot(request.name)) inode = inodeId(directory.parent);
  else if (!request.hold) inode = requireEntry(reader, parent, request.name).inode;
  else inode = findEntry(reader, parent, request.name)?.inode;
  if (inode === undefined) return { missing: true };
  return { attributes: attributesOf(inode, requireInode(reader, inode)) };
}

/** The inode that a name leads to, 0 for none: for a guess before the operation itself. */
export function inodeNamed(reader: StateReader, parent: number, name: Uint8Array): number {
  if (parent === 0 || name.length === 0 || name.length > MAX_NAME_BYTES) return 0;
  return findEntry(reader, inodeId(parent), name)?.inode ?? 0;
}

/** The published size; 0 for what does not exist. */
export function sizeOf(reader: StateReader, inode: InodeId): number {
  return readInode(reader, inode)?.size ?? 0;
}

/** readlink(2). EINVAL when the inode is no symlink. */
export function readLink(reader: StateReader, request: ReadLinkRequest): ReadLinkReplyInit {
  const record = requireInode(reader, inodeId(request.inode));
  if (!isSymlink(record.mode)) throw new CairnError('EINVAL', `inode ${request.inode} is no symlink`);
  return { target: record.symlinkTarget };
}

/** Inodes that exist, orphans included: for statfs(2). */
export function countInodes(reader: StateReader): number {
  return readCounter(reader, 'inode-count', 0);
}
