/**
 * Directory entries. Each has two keys: 'D' by name, for look-ups, and 'C' by cookie, the order of readdir. A cookie is
 * given once per directory and never again, so a listing goes on correctly while entries come and go.
 */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_NAME_BYTES } from '../../core/limits.js';
import { S_IFMT } from '../../core/mode.js';
import { CookieRecord, DentryRecord } from '../../protocol/generated/messages.js';
import type { InodeRecord } from '../../protocol/generated/messages.js';
import { keys } from '../state/keys.js';
import type { Mutation, StateReader } from '../state/state.js';

const DOT = 0x2e;
const SLASH = 0x2f;

/** ENAMETOOLONG, ENOENT for the empty name, EINVAL for bytes that no name has. */
export function checkName(name: Uint8Array): void {
  if (name.length === 0) throw new CairnError('ENOENT', 'a name is empty');
  if (name.length > MAX_NAME_BYTES) {
    throw new CairnError('ENAMETOOLONG', `a name has ${name.length} bytes, more than ${MAX_NAME_BYTES}`);
  }
  if (name.includes(SLASH) || name.includes(0)) throw new CairnError('EINVAL', 'a name contains "/" or NUL');
}

export const isDot = (name: Uint8Array): boolean => name.length === 1 && name[0] === DOT;
export const isDotDot = (name: Uint8Array): boolean => name.length === 2 && name[0] === DOT && name[1] === DOT;

export interface Dentry {
  readonly inode: InodeId;
  /** Type bits of the inode. */
  readonly type: number;
  readonly cookie: number;
}

/** What an entry is made for. */
export interface EntryTarget {
  readonly inode: InodeId;
  /** With the type bits. */
  readonly mode: number;
}

/** The entry `name` of a directory; '.' and '..' are not entries. */
export function findEntry(reader: StateReader, parent: InodeId, name: Uint8Array): Dentry | undefined {
  const value = reader.get(keys.dentry(parent, name));
  if (value === undefined) return undefined;
  const record = DentryRecord.decode(value);
  return { inode: inodeId(record.inode), type: record.mode, cookie: record.cookie };
}

export function requireEntry(reader: StateReader, parent: InodeId, name: Uint8Array): Dentry {
  const entry = findEntry(reader, parent, name);
  if (entry === undefined) throw new CairnError('ENOENT', `directory ${parent} has no such entry`);
  return entry;
}

/** Adds an entry at the end of the listing. The caller saves `directory`, whose counters change. */
export function addEntry(
  m: Mutation,
  place: { readonly parent: InodeId; readonly directory: InodeRecord; readonly name: Uint8Array },
  target: EntryTarget,
): void {
  const cookie = place.directory.nextCookie++;
  place.directory.entryCount++;
  putEntry(m, place.parent, place.name, { inode: target.inode, type: target.mode & S_IFMT, cookie });
}

/** Makes an existing entry lead to another inode; it keeps its place in the listing. */
export function replaceEntry(
  m: Mutation,
  place: { readonly parent: InodeId; readonly name: Uint8Array; readonly cookie: number },
  target: EntryTarget,
): void {
  putEntry(m, place.parent, place.name, { inode: target.inode, type: target.mode & S_IFMT, cookie: place.cookie });
}

/** Removes an entry. The caller saves `directory`, whose counters change. */
export function deleteEntry(
  m: Mutation,
  place: { readonly parent: InodeId; readonly directory: InodeRecord; readonly name: Uint8Array },
  cookie: number,
): void {
  place.directory.entryCount--;
  m.delete(keys.dentry(place.parent, place.name));
  m.delete(keys.cookie(place.parent, cookie));
}

function putEntry(m: Mutation, parent: InodeId, name: Uint8Array, { inode, type, cookie }: Dentry): void {
  m.put(keys.dentry(parent, name), DentryRecord.encode({ inode, mode: type, cookie }).finish());
  m.put(keys.cookie(parent, cookie), CookieRecord.encode({ name, inode, mode: type }).finish());
}
