/** readdir(3), in pages. */
import { inodeId } from '../../core/ids.js';
import { MAX_READDIR_ENTRIES } from '../../core/limits.js';
import { R_OK, X_OK } from '../../core/mode.js';
import { CookieRecord } from '../../protocol/generated/messages.js';
import type {
  DirectoryEntryInit,
  ReadDirectoryReplyInit,
  ReadDirectoryRequest,
} from '../../protocol/generated/messages.js';
import { attributesOf, readInode, requireDirectory } from '../tables/inodes.js';
import { keys, prefixRange, PREFIX_LENGTH, unpackNumber } from '../state/keys.js';
import { credentialsOf, mayAccess, requireAccess } from './permissions.js';
import type { StateReader } from '../state/state.js';

/**
 * The entries after `cookie`, in the order in which they were made. Costs what the page holds, whatever the size of
 * the directory. Attributes come only to a caller that may search the directory. Errors: ENOTDIR, EACCES, ESTALE.
 */
export function readDirectory(reader: StateReader, request: ReadDirectoryRequest): ReadDirectoryReplyInit {
  const credentials = credentialsOf(request.caller);
  const inode = inodeId(request.inode);
  const directory = requireDirectory(reader, inode);
  requireAccess(directory, credentials, R_OK);
  const withAttributes = request.withAttributes && mayAccess(directory, credentials, X_OK);
  const wanted = Math.min(request.maxEntries === 0 ? MAX_READDIR_ENTRIES : request.maxEntries, MAX_READDIR_ENTRIES);
  const entries: DirectoryEntryInit[] = [];
  const range = {
    start: keys.cookie(inode, request.cookie + 1),
    end: prefixRange(keys.cookie(inode, 0).slice(0, PREFIX_LENGTH)).end,
  };
  let end = true;
  // A directory that was removed, and a cookie past every number, have no more entries.
  if (directory.entryCount > 0 && Number.isSafeInteger(request.cookie + 1)) {
    for (const [key, value] of reader.range(range)) {
      if (entries.length === wanted) {
        end = false;
        break;
      }
      const record = CookieRecord.decode(value);
      const entry: DirectoryEntryInit = {
        name: record.name,
        inode: record.inode,
        mode: record.mode,
        cookie: unpackNumber(key, PREFIX_LENGTH),
      };
      if (withAttributes) {
        const child = inodeId(record.inode);
        const childRecord = readInode(reader, child);
        if (childRecord !== undefined) entry.attributes = attributesOf(child, childRecord);
      }
      entries.push(entry);
    }
  }
  return { entries, end, parent: directory.parent, nextCookie: directory.nextCookie };
}
