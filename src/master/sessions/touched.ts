/**
 * What a mutation changes of what clients hold: seen from the keys that it writes, so that nothing which changes a name or an inode
 * can be left out. A read that is noted (atime) does not count.
 */
import { compareTimespec } from '../../core/clock.js';
import type { Timespec } from '../../core/clock.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { isDirectory, isRegular } from '../../core/mode.js';
import { InodeRecord } from '../../protocol/generated/messages.js';
import type { RecallInit } from '../../protocol/generated/messages.js';
import { keyToName, PREFIX_LENGTH, unpackNumber } from '../state/keys.js';
import type { Mutation, StateReader } from '../state/state.js';
import { holdingOf, readInode } from '../tables/inodes.js';

/** What is changed of what the holding of `inode` covers. */
export interface Touched {
  readonly inode: InodeId;
  /** Changes alike have keys alike. */
  readonly key: string;
  readonly item: RecallInit;
}

const INODE = 'I'.charCodeAt(0);
const DENTRY = 'D'.charCodeAt(0);

/** Whether a mutation touches anything of which `isHeld`. Cheap, as every mutation is asked. */
export function isConcerned(before: StateReader, m: Mutation, isHeld: (inode: InodeId) => boolean): boolean {
  for (const key of m.changes.keys()) {
    const table = key.charCodeAt(0);
    if (table !== INODE && table !== DENTRY) continue;
    const inode = inodeId(unpackNumber(key, 1));
    if (isHeld(inode)) return true;
    if (table === DENTRY) continue;
    const record = readInode(before, inode);
    if (record !== undefined && isHeld(holdingOf(inode, record))) return true;
  }
  return false;
}

/** What a mutation touches, by the inodes of the holdings. `before` does not have its changes yet. */
export function touchedBy(before: StateReader, m: Mutation): Touched[] {
  const found = new Map<InodeId, Parts>();
  const partsOf = (inode: InodeId): Parts => {
    let parts = found.get(inode);
    if (parts === undefined) found.set(inode, (parts = { self: false, names: [], attributes: [], contents: [] }));
    return parts;
  };
  for (const [key, value] of m.changes) {
    const table = key.charCodeAt(0);
    if (table === DENTRY) partsOf(inodeId(unpackNumber(key, 1))).names.push(keyToName(key, PREFIX_LENGTH));
    if (table !== INODE) continue;
    const inode = inodeId(unpackNumber(key, 1));
    const old = readInode(before, inode);
    if (old === undefined) continue;
    const parts = partsOf(holdingOf(inode, old));
    const now = value === null ? undefined : InodeRecord.decode(value);
    if (now?.change === old.change) continue;
    if (isDirectory(old.mode)) {
      parts.self = true;
      continue;
    }
    parts.attributes.push(inode);
    if (now === undefined || isOtherContent(inode, old, now)) parts.contents.push(inode);
  }
  const touched: Touched[] = [];
  for (const [inode, parts] of found) {
    if (!parts.self && parts.names.length === 0 && parts.attributes.length === 0) continue;
    touched.push(touchedOf(inode, parts));
  }
  return touched;
}

/** A file whose content, and with that its attributes, may change. */
export function touchedFile(reader: StateReader, inode: InodeId): Touched | undefined {
  const record = readInode(reader, inode);
  if (record === undefined) return undefined;
  const parts = { self: false, names: [], attributes: [inode], contents: [inode] };
  return touchedOf(holdingOf(inode, record), parts);
}

/** A file whose attributes change, and nothing else. */
export function touchedAttributes(reader: StateReader, inode: InodeId): Touched | undefined {
  const record = readInode(reader, inode);
  if (record === undefined) return undefined;
  return touchedOf(holdingOf(inode, record), { self: false, names: [], attributes: [inode], contents: [] });
}

interface Parts {
  self: boolean;
  readonly names: Uint8Array[];
  readonly attributes: InodeId[];
  readonly contents: InodeId[];
}

function touchedOf(inode: InodeId, { self, names, attributes, contents }: Parts): Touched {
  const named = names.map((name) => Buffer.from(name).toString('latin1')).join('/');
  const key = [inode, self, attributes.join(), contents.join(), named].join(' ');
  return { inode, key, item: { inode, self, names, attributes, contents } };
}

/**
 * Whether readers may find other bytes now, or those of this inode are covered by another holding from now on. A change that shows
 * nowhere else counts: a client published what it had written over (`publish`), or went without doing so.
 */
function isOtherContent(inode: InodeId, old: InodeRecord, now: InodeRecord): boolean {
  if (holdingOf(inode, old) !== holdingOf(inode, now)) return true;
  if (!isRegular(old.mode)) return false;
  if (old.size !== now.size || old.layoutVersion !== now.layoutVersion || !isSame(old.mtime, now.mtime)) return true;
  return (
    old.mode === now.mode &&
    old.uid === now.uid &&
    old.gid === now.gid &&
    old.nlink === now.nlink &&
    old.xattrBytes === now.xattrBytes
  );
}

const isSame = (a: Timespec | null, b: Timespec | null): boolean =>
  a === null || b === null ? a === b : compareTimespec(a, b) === 0;
