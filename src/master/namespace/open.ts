/** open(2) of what exists: permission, and O_TRUNC. Who has it open is the sessions' concern, not the namespace's. */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_OPEN_NAMES } from '../../core/limits.js';
import { R_OK, W_OK, X_OK, isDirectory, isRegular, isSymlink } from '../../core/mode.js';
import { OpenFlagsBit } from '../../protocol/generated/messages.js';
import type { AttributesInit, InodeRecord, OpenRequest } from '../../protocol/generated/messages.js';
import { changeSize } from './attributes.js';
import { checkName, findEntry, isDot, requireEntry } from '../tables/dentries.js';
import { attributesOf, requireDirectory, requireInode, saveInode } from '../tables/inodes.js';
import type { OperationContext } from '../tables/inodes.js';
import { credentialsOf, requireAccess } from './permissions.js';
import type { Credentials } from './permissions.js';
import type { Mutation, StateReader } from '../state/state.js';

export interface OpenTarget {
  readonly inode: InodeId;
  readonly credentials: Credentials;
  /** OpenFlags of the protocol. */
  readonly flags: number;
}

/** The inode that an OpenRequest names: by number, or by name in a directory. Nothing is followed. */
export function resolveOpen(reader: StateReader, request: OpenRequest): OpenTarget {
  const credentials = credentialsOf(request.caller);
  if (request.inode !== 0) {
    const inode = inodeId(request.inode);
    if (request.names.length > MAX_OPEN_NAMES) {
      throw new CairnError('PROTOCOL', `an open comes by ${MAX_OPEN_NAMES} names at most`);
    }
    for (const { parent, name } of request.names) requireLeadsTo(reader, inodeId(parent), name, inode);
    return { inode, credentials, flags: request.flags };
  }
  const parent = inodeId(request.parent);
  requireAccess(requireDirectory(reader, parent), credentials, X_OK);
  checkName(request.name);
  const inode = isDot(request.name) ? parent : requireEntry(reader, parent, request.name).inode;
  return { inode, credentials, flags: request.flags };
}

/**
 * Opens without O_TRUNC: changes nothing. Errors: ENOENT, ENOTDIR, EACCES, EISDIR, ELOOP (a symlink), ENXIO (a FIFO,
 * socket or device: the kernel opens those), ENAMETOOLONG, ESTALE.
 */
export function open(reader: StateReader, request: OpenRequest): AttributesInit {
  const target = resolveOpen(reader, request);
  if ((target.flags & OpenFlagsBit.TRUNCATE) !== 0) {
    throw new CairnError('INTERNAL', 'an open with TRUNCATE is a mutation: openTruncating serves it');
  }
  return attributesOf(target.inode, checkOpen(reader, target));
}

/** Opens with O_TRUNC: errors as `open`. */
export function openTruncating(m: Mutation, context: OperationContext, request: OpenRequest): AttributesInit {
  return openExisting(m, context, resolveOpen(m, request));
}

export function openExisting(m: Mutation, context: OperationContext, target: OpenTarget): AttributesInit {
  const record = checkOpen(m, target);
  if ((target.flags & OpenFlagsBit.TRUNCATE) !== 0) {
    changeSize(m, context, { inode: target.inode, record, size: 0, credentials: target.credentials });
    saveInode(m, target.inode, record);
  }
  return attributesOf(target.inode, record);
}

/** Who came by a name that another client has replaced or removed since must look it up again. */
function requireLeadsTo(reader: StateReader, parent: InodeId, name: Uint8Array, inode: InodeId): void {
  checkName(name);
  if (findEntry(reader, parent, name)?.inode === inode) return;
  throw new CairnError('ESTALE', `a name in directory ${parent} does not lead to inode ${inode} any more`);
}

function checkOpen(reader: StateReader, { inode, credentials, flags }: OpenTarget): InodeRecord {
  const record = requireInode(reader, inode);
  if (flags === 0) return record;
  if (isSymlink(record.mode)) throw new CairnError('ELOOP', 'a symlink cannot be opened');
  if (isDirectory(record.mode)) throw new CairnError('EISDIR', 'a directory cannot be opened as a file');
  if (!isRegular(record.mode)) throw new CairnError('ENXIO', 'only regular files have content to open');
  const writes = (flags & (OpenFlagsBit.WRITE | OpenFlagsBit.TRUNCATE)) !== 0;
  requireAccess(record, credentials, ((flags & OpenFlagsBit.READ) !== 0 ? R_OK : 0) | (writes ? W_OK : 0));
  return record;
}
