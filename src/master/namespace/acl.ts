/**
 * Access control lists of POSIX.1e, as acl(5) has them: their form in the xattrs system.posix_acl_access and
 * system.posix_acl_default, what they allow, and how they and the permission bits follow each other. A list is kept in
 * that form; one that says no more than the permission bits is not kept at all.
 */
import { CairnError } from '../../core/errors.js';
import { MAX_ACL_ENTRIES } from '../../core/limits.js';

const VERSION = 2;
const HEADER_BYTES = 4;
const ENTRY_BYTES = 8;
const NO_ID = 0xffffffff;

/** The tags, in the order in which entries stand. */
const USER_OBJ = 0x01;
const USER = 0x02;
const GROUP_OBJ = 0x04;
const GROUP = 0x08;
const MASK = 0x10;
const OTHER = 0x20;

interface AclEntry {
  readonly tag: number;
  /** Of read 4, write 2, execute 1. */
  perm: number;
  /** Of a named user or group. */
  readonly id: number;
}

export type Acl = readonly AclEntry[];

/**
 * The list in an xattr's value; undefined for one without entries, which stands for no list. Fails with EOPNOTSUPP for
 * another version, EINVAL for what is no valid list, ENOSPC for too many entries.
 */
export function parseAcl(value: Uint8Array): Acl | undefined {
  const view = new DataView(value.buffer, value.byteOffset, value.length);
  if (value.length < HEADER_BYTES || (value.length - HEADER_BYTES) % ENTRY_BYTES !== 0) throw invalid('its length');
  if (view.getUint32(0, true) !== VERSION) throw new CairnError('EOPNOTSUPP', 'an ACL of another version');
  const count = (value.length - HEADER_BYTES) / ENTRY_BYTES;
  if (count === 0) return undefined;
  if (count > MAX_ACL_ENTRIES) throw new CairnError('ENOSPC', `an ACL has at most ${MAX_ACL_ENTRIES} entries`);
  const acl: AclEntry[] = [];
  for (let at = HEADER_BYTES; at < value.length; at += ENTRY_BYTES) {
    const [tag, perm] = [view.getUint16(at, true), view.getUint16(at + 2, true)];
    const isNamed = tag === USER || tag === GROUP;
    acl.push({ tag, perm, id: isNamed ? view.getUint32(at + 4, true) : NO_ID });
  }
  checkAcl(acl);
  return acl;
}

/** One each of owner, group and others; a mask where there are names; in order. */
function checkAcl(acl: Acl): void {
  let before = 0;
  const seen = new Map<number, number>();
  for (const { tag, perm, id } of acl) {
    if (![USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].includes(tag)) throw invalid(`tag ${tag}`);
    if (tag < before) throw invalid('the order of its entries');
    if ((perm & ~7) !== 0) throw invalid(`permissions ${perm}`);
    if ((tag === USER || tag === GROUP) && id === NO_ID) throw invalid('a name that is none');
    before = tag;
    seen.set(tag, (seen.get(tag) ?? 0) + 1);
  }
  for (const tag of [USER_OBJ, GROUP_OBJ, OTHER]) if (seen.get(tag) !== 1) throw invalid('owner, group or others');
  const masks = seen.get(MASK) ?? 0;
  if (masks > 1 || (masks === 0 && (seen.has(USER) || seen.has(GROUP)))) throw invalid('its mask');
}

export function encodeAcl(acl: Acl): Buffer {
  const value = Buffer.alloc(HEADER_BYTES + acl.length * ENTRY_BYTES);
  value.writeUInt32LE(VERSION, 0);
  acl.forEach(({ tag, perm, id }, index) => {
    const at = HEADER_BYTES + index * ENTRY_BYTES;
    value.writeUInt16LE(tag, at);
    value.writeUInt16LE(perm, at + 2);
    value.writeUInt32LE(id, at + 4);
  });
  return value;
}

/** A list that has no more than owner, group and others. */
export const isMinimal = (acl: Acl): boolean => acl.length === 3;

const permOf = (acl: Acl, tag: number): number | undefined => acl.find((entry) => entry.tag === tag)?.perm;

/** The nine permission bits that stat(2) shows: the mask, where there is one, stands for the group. */
export function modeOfAcl(acl: Acl): number {
  const group = permOf(acl, MASK) ?? permOf(acl, GROUP_OBJ) ?? 0;
  return ((permOf(acl, USER_OBJ) ?? 0) << 6) | (group << 3) | (permOf(acl, OTHER) ?? 0);
}

/** chmod(2): the list with the permission bits in it. */
export function withMode(acl: Acl, mode: number): Acl {
  const groupTag = permOf(acl, MASK) === undefined ? GROUP_OBJ : MASK;
  return acl.map((entry) => {
    if (entry.tag === USER_OBJ) return { ...entry, perm: (mode >> 6) & 7 };
    if (entry.tag === groupTag) return { ...entry, perm: (mode >> 3) & 7 };
    if (entry.tag === OTHER) return { ...entry, perm: mode & 7 };
    return entry;
  });
}

/**
 * The access list of a new inode from its directory's default list: what the mode asked for does not have is taken off.
 * The mode to give it is `modeOfAcl` of the result.
 */
export function inheritAcl(defaultAcl: Acl, mode: number): Acl {
  return withMode(defaultAcl, modeOfAcl(defaultAcl) & mode);
}

/** Who asks: their user and whether they are of a group. */
export interface AclCaller {
  readonly uid: number;
  inGroup(gid: number): boolean;
}

/** Whether the list allows `mask` to somebody, by the first entry that fits; of the groups, any. */
export function aclAllows(
  acl: Acl,
  owner: { readonly uid: number; readonly gid: number },
  caller: AclCaller,
  mask: number,
): boolean {
  const limit = permOf(acl, MASK) ?? 7;
  let isMember = false;
  for (const { tag, perm, id } of acl) {
    switch (tag) {
      case USER_OBJ:
        if (caller.uid === owner.uid) return (mask & ~perm) === 0;
        break;
      case USER:
        if (caller.uid === id) return (mask & ~(perm & limit)) === 0;
        break;
      case GROUP_OBJ:
      case GROUP:
        if (!caller.inGroup(tag === GROUP ? id : owner.gid)) break;
        isMember = true;
        if ((mask & ~perm) === 0) return (mask & ~limit) === 0;
        break;
      case OTHER:
        return !isMember && (mask & ~perm) === 0;
      default:
        break;
    }
  }
  return false;
}

function invalid(what: string): CairnError {
  return new CairnError('EINVAL', `no valid ACL: ${what}`);
}
