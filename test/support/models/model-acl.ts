/** ACLs of the model, after acl(5): a list of entries, each looked at by its name. */
import { fail } from './model-state.js';

export interface ModelAcl {
  owner: number;
  group: number;
  others: number;
  mask: number | undefined;
  users: Map<number, number>;
  groups: Map<number, number>;
  /** The xattr's value, as it was set. */
  order: { readonly tag: number; readonly id: number }[];
}

const TAGS = { owner: 1, user: 2, group: 4, namedGroup: 8, mask: 16, others: 32 } as const;

export function readAcl(value: Uint8Array): ModelAcl | undefined {
  const bytes = Buffer.from(value);
  if (bytes.length < 4 || bytes.length % 8 !== 4) fail('EINVAL', 'length of an ACL');
  if (bytes.readUInt32LE(0) !== 2) fail('EOPNOTSUPP', 'version of an ACL');
  if (bytes.length === 4) return undefined;
  const acl: ModelAcl = {
    ...{ owner: -1, group: -1, others: -1, mask: undefined },
    ...{ users: new Map(), groups: new Map(), order: [] },
  };
  let last = 0;
  for (let at = 4; at < bytes.length; at += 8) {
    const [tag, perm, id] = [bytes.readUInt16LE(at), bytes.readUInt16LE(at + 2), bytes.readUInt32LE(at + 4)];
    const isNamed = tag === TAGS.user || tag === TAGS.namedGroup;
    if (tag < last || (tag === last && !isNamed) || perm > 7) fail('EINVAL', 'entries of an ACL');
    if (isNamed && id === 0xffffffff) fail('EINVAL', 'a name of an ACL');
    last = tag;
    acl.order.push({ tag, id: isNamed ? id : 0xffffffff });
    if (tag === TAGS.owner) acl.owner = perm;
    else if (tag === TAGS.user) acl.users.set(id, acl.users.get(id) ?? perm);
    else if (tag === TAGS.group) acl.group = perm;
    else if (tag === TAGS.namedGroup) acl.groups.set(id, perm);
    else if (tag === TAGS.mask) acl.mask = perm;
    else if (tag === TAGS.others) acl.others = perm;
    else fail('EINVAL', 'a tag of an ACL');
  }
  if (Math.min(acl.owner, acl.group, acl.others) < 0) fail('EINVAL', 'an ACL without owner, group or others');
  if (acl.mask === undefined && acl.users.size + acl.groups.size > 0) fail('EINVAL', 'an ACL without mask');
  return acl;
}

export function writeAcl(acl: ModelAcl): Buffer {
  const parts = acl.order.map(({ tag, id }) => {
    const entry = Buffer.alloc(8);
    entry.writeUInt16LE(tag, 0);
    entry.writeUInt16LE(permOf(acl, tag, id), 2);
    entry.writeUInt32LE(id, 4);
    return entry;
  });
  return Buffer.concat([Buffer.from([2, 0, 0, 0]), ...parts]);
}

function permOf(acl: ModelAcl, tag: number, id: number): number {
  if (tag === TAGS.owner) return acl.owner;
  if (tag === TAGS.user) return acl.users.get(id) ?? 0;
  if (tag === TAGS.group) return acl.group;
  if (tag === TAGS.namedGroup) return acl.groups.get(id) ?? 0;
  return tag === TAGS.mask ? (acl.mask ?? 0) : acl.others;
}

export const bitsOf = (acl: ModelAcl): number => (acl.owner << 6) | ((acl.mask ?? acl.group) << 3) | acl.others;

/** The list after chmod(2). */
export function changed(acl: ModelAcl, bits: number): ModelAcl {
  const group = (bits >> 3) & 7;
  const grouped = acl.mask === undefined ? { group } : { mask: group };
  return { ...acl, ...grouped, owner: (bits >> 6) & 7, others: bits & 7 };
}

export const saysMore = (acl: ModelAcl): boolean => acl.order.length > 3;

/** What the list gives to one who is not the owner. */
export function granted(
  acl: ModelAcl,
  who: { readonly uid: number; readonly isMember: (gid: number) => boolean },
  owningGroup: number,
  wanted: number,
): boolean {
  const mask = acl.mask ?? 7;
  const user = acl.users.get(who.uid);
  if (user !== undefined) return (user & mask & wanted) === wanted;
  const mine = [...(who.isMember(owningGroup) ? [acl.group] : [])];
  for (const [gid, perm] of acl.groups) if (who.isMember(gid)) mine.push(perm);
  if (mine.length > 0) return mine.some((perm) => (perm & mask & wanted) === wanted);
  return (acl.others & wanted) === wanted;
}
