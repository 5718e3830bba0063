/** renameat2(2): atomic over existing targets and across directories, with the flags of Linux. */
import { CairnError } from '../../core/errors.js';
import { inodeId, ROOT_INODE } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { S_IFCHR, W_OK, X_OK, isDirectory } from '../../core/mode.js';
import type { InodeRecord, RenameRequest } from '../../protocol/generated/messages.js';
import { alreadyExists, inherit, requireLiving } from './create.js';
import { addEntry, checkName, deleteEntry, findEntry, isDot, isDotDot, replaceEntry } from '../tables/dentries.js';
import type { Dentry, EntryTarget } from '../tables/dentries.js';
import { allocateInode, dropLink, requireDirectory, requireInode, saveInode } from '../tables/inodes.js';
import type { OperationContext } from '../tables/inodes.js';
import { credentialsOf, requireAccess, requireRemovable } from './permissions.js';
import type { Credentials } from './permissions.js';
import { requireEmpty } from './remove.js';
import type { Mutation, StateReader } from '../state/state.js';

export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;
/** Leaves a character device 0,0 of mode 0 at the old name, which tells layers of containers that it was removed. */
export const RENAME_WHITEOUT = 4;

/** A name in a directory, with what it leads to. Both sides of a rename share `directory` when it is the same one. */
interface Side {
  readonly parent: InodeId;
  readonly directory: InodeRecord;
  readonly name: Uint8Array;
}
interface Found extends Side {
  readonly entry: Dentry;
  readonly record: InodeRecord;
}

/**
 * Errors, in the order in which Linux finds them: ENOTDIR, EACCES (search), ENAMETOOLONG, EBUSY ('.', '..'), ENOENT,
 * EEXIST (NOREPLACE), EINVAL (a directory into itself), EACCES and EPERM (write, sticky), ENOTDIR, EISDIR,
 * EACCES (write to a directory that moves), ENOTEMPTY.
 */
export function rename(m: Mutation, context: OperationContext, request: RenameRequest): Record<string, never> {
  const credentials = credentialsOf(request.caller);
  const { flags } = request;
  const exchange = flags === RENAME_EXCHANGE;
  if (!exchange && (flags & ~(RENAME_NOREPLACE | RENAME_WHITEOUT)) !== 0) {
    throw new CairnError('EINVAL', `rename knows no flags ${flags}`);
  }
  const from = findSide(m, credentials, inodeId(request.parent), request.name);
  const sameDirectory = request.parent === request.newParent;
  const to = sameDirectory
    ? { parent: from.parent, directory: from.directory, name: request.newName }
    : findSide(m, credentials, inodeId(request.newParent), request.newName);
  for (const side of [from, to]) {
    checkName(side.name);
    if (isDot(side.name) || isDotDot(side.name)) throw new CairnError('EBUSY', '"." and ".." cannot be renamed');
  }

  const source = found(m, from);
  if (source === undefined) throw new CairnError('ENOENT', 'the name to rename does not exist');
  requireLiving(to.parent, to.directory);
  const target = found(m, to);
  if (target === undefined && exchange) throw new CairnError('ENOENT', 'the name to exchange with does not exist');
  if (target !== undefined && (flags & RENAME_NOREPLACE) !== 0) throw alreadyExists();
  if (!sameDirectory) {
    if (isDirectory(source.record.mode)) refuseCycle(m, source.entry.inode, to.parent);
    if (target !== undefined && isDirectory(target.record.mode)) {
      if (exchange) refuseCycle(m, target.entry.inode, from.parent);
      // An ancestor of the source is not empty; as Linux does, say so before permissions are looked at.
      else if (isAncestor(m, target.entry.inode, from.parent)) requireEmpty(target.record);
    }
  }
  if (source.entry.inode === target?.entry.inode) return {};

  checkPermissions(credentials, source, to, target, exchange);
  if (exchange && target !== undefined) swap(m, context, source, target);
  else move(m, context, source, to, target, whiteoutFor(m, context, credentials, source, flags));
  return {};
}

/** Made before anything moves, as running out of inodes must change nothing. */
function whiteoutFor(
  m: Mutation,
  context: OperationContext,
  credentials: Credentials,
  source: Found,
  flags: number,
): EntryTarget | undefined {
  if ((flags & RENAME_WHITEOUT) === 0) return undefined;
  const record = inherit(source.directory, credentials, S_IFCHR, { mode: 0 }, context);
  record.parent = source.parent;
  return { inode: allocateInode(m, record), mode: record.mode };
}

function findSide(m: Mutation, credentials: Credentials, parent: InodeId, name: Uint8Array): Side {
  const directory = requireDirectory(m, parent);
  requireAccess(directory, credentials, X_OK);
  return { parent, directory, name };
}

function found(m: Mutation, side: Side): Found | undefined {
  const entry = findEntry(m, side.parent, side.name);
  return entry === undefined ? undefined : { ...side, entry, record: requireInode(m, entry.inode) };
}

function checkPermissions(
  credentials: Credentials,
  source: Found,
  to: Side,
  target: Found | undefined,
  exchange: boolean,
): void {
  requireRemovable(source.directory, source.record, credentials);
  if (target === undefined) {
    requireAccess(to.directory, credentials, W_OK | X_OK);
  } else {
    requireRemovable(to.directory, target.record, credentials);
    if (!exchange) checkReplaceable(source.record, target.record);
  }
  if (source.parent !== to.parent) {
    // A directory that moves changes its own '..'.
    if (isDirectory(source.record.mode)) requireAccess(source.record, credentials, W_OK);
    if (exchange && target !== undefined && isDirectory(target.record.mode)) {
      requireAccess(target.record, credentials, W_OK);
    }
  }
  if (!exchange && target !== undefined && isDirectory(target.record.mode)) requireEmpty(target.record);
}

function checkReplaceable(source: InodeRecord, target: InodeRecord): void {
  if (isDirectory(source.mode)) {
    if (!isDirectory(target.mode)) throw new CairnError('ENOTDIR', 'a directory cannot replace what is none');
  } else if (isDirectory(target.mode)) {
    throw new CairnError('EISDIR', 'only a directory can replace a directory');
  }
}

function move(
  m: Mutation,
  context: OperationContext,
  source: Found,
  to: Side,
  target: Found | undefined,
  whiteout: EntryTarget | undefined,
): void {
  const link = { inode: source.entry.inode, mode: source.record.mode };
  if (whiteout === undefined) deleteEntry(m, source, source.entry.cookie);
  else replaceEntry(m, { parent: source.parent, name: source.name, cookie: source.entry.cookie }, whiteout);
  if (target === undefined) {
    addEntry(m, to, link);
  } else {
    replaceEntry(m, { parent: to.parent, name: to.name, cookie: target.entry.cookie }, link);
    if (isDirectory(target.record.mode)) to.directory.nlink--;
    dropLink(m, context, target.entry.inode, target.record);
  }
  moveTo(source, to);
  stamp(m, context, source);
  saveDirectories(m, context, source, to);
}

function swap(m: Mutation, context: OperationContext, a: Found, b: Found): void {
  const link = (of: Found): EntryTarget => ({ inode: of.entry.inode, mode: of.record.mode });
  replaceEntry(m, { parent: a.parent, name: a.name, cookie: a.entry.cookie }, link(b));
  replaceEntry(m, { parent: b.parent, name: b.name, cookie: b.entry.cookie }, link(a));
  moveTo(a, b);
  moveTo(b, a);
  stamp(m, context, a);
  stamp(m, context, b);
  saveDirectories(m, context, a, b);
}

/** Notes the directory that a directory, or a file with one name, is in; moves a directory's '..' link. */
function moveTo(child: Found, to: Side): void {
  if (child.record.nlink === 1 || isDirectory(child.record.mode)) child.record.parent = to.parent;
  if (!isDirectory(child.record.mode)) return;
  child.directory.nlink--;
  to.directory.nlink++;
}

function stamp(m: Mutation, context: OperationContext, moved: Found): void {
  moved.record.ctime = context.now;
  saveInode(m, moved.entry.inode, moved.record);
}

function saveDirectories(m: Mutation, context: OperationContext, from: Side, to: Side): void {
  for (const side of from.parent === to.parent ? [from] : [from, to]) {
    side.directory.mtime = context.now;
    side.directory.ctime = context.now;
    saveInode(m, side.parent, side.directory);
  }
}

function refuseCycle(m: Mutation, moved: InodeId, newParent: InodeId): void {
  if (isAncestor(m, moved, newParent)) throw new CairnError('EINVAL', 'a directory cannot be moved into itself');
}

/** Whether `ancestor` is `inode` or above it. Costs a look-up per level. */
function isAncestor(reader: StateReader, ancestor: InodeId, inode: InodeId): boolean {
  for (let at = inode; ; at = inodeId(requireInode(reader, at).parent)) {
    if (at === ancestor) return true;
    if (at === ROOT_INODE) return false;
  }
}
