/** unlink(2) and rmdir(2). What a removed inode holds is collected later: see `dropLink`. */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import { X_OK, isDirectory } from '../../core/mode.js';
import type { InodeRecord, UnlinkRequest } from '../../protocol/generated/messages.js';
import { checkName, deleteEntry, isDot, isDotDot, requireEntry } from '../tables/dentries.js';
import { dropLink, requireDirectory, requireInode, saveInode } from '../tables/inodes.js';
import type { OperationContext } from '../tables/inodes.js';
import { credentialsOf, requireAccess, requireRemovable } from './permissions.js';
import type { Mutation } from '../state/state.js';

/**
 * Removes a name: of a directory with `directory`, of anything else without. Errors: ENOENT, ENOTDIR, EISDIR,
 * ENOTEMPTY, EACCES, EPERM (sticky directory), ENAMETOOLONG, EINVAL.
 */
export function unlink(m: Mutation, context: OperationContext, request: UnlinkRequest): Record<string, never> {
  const credentials = credentialsOf(request.caller);
  const parent = inodeId(request.parent);
  const directory = requireDirectory(m, parent);
  requireAccess(directory, credentials, X_OK);
  checkName(request.name);
  refuseDots(request);
  const entry = requireEntry(m, parent, request.name);
  const record = requireInode(m, entry.inode);
  requireRemovable(directory, record, credentials);
  if (request.directory) {
    if (!isDirectory(record.mode)) throw new CairnError('ENOTDIR', 'the entry is not a directory');
    requireEmpty(record);
    directory.nlink--;
  } else if (isDirectory(record.mode)) {
    throw new CairnError('EISDIR', 'the entry is a directory');
  }
  deleteEntry(m, { parent, directory, name: request.name }, entry.cookie);
  directory.mtime = context.now;
  directory.ctime = context.now;
  saveInode(m, parent, directory);
  dropLink(m, context, entry.inode, record);
  return {};
}

export function requireEmpty(directory: InodeRecord): void {
  if (directory.entryCount > 0) {
    throw new CairnError('ENOTEMPTY', `the directory has ${directory.entryCount} entries`);
  }
}

/** rmdir(2) names these errors; unlink(2) sees a directory. */
function refuseDots(request: UnlinkRequest): void {
  const dot = isDot(request.name);
  if (!dot && !isDotDot(request.name)) return;
  if (!request.directory) throw new CairnError('EISDIR', '"." and ".." are directories');
  if (dot) throw new CairnError('EINVAL', 'a directory cannot be removed by its name "."');
  throw new CairnError('ENOTEMPTY', 'a directory cannot be removed by the name ".."');
}
