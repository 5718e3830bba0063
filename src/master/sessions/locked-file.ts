/** What locks on one file are made of: who holds which ranges, who waits for which, and what stands in whose way. */
import type { InodeId, SessionId } from '../../core/ids.js';
import { IntervalTree } from '../../core/interval-tree.js';
import type { Interval } from '../../core/interval-tree.js';
import { MAX_AUDITED_RANGES } from '../../core/lock-ranges.js';
import type { LockChange, LockedRange, LockRanges } from '../../core/lock-ranges.js';

export type LockKind = 'posix' | 'flock';

/** Whose lock it is, and on what. */
export interface LockPlace {
  readonly session: SessionId;
  readonly inode: InodeId;
  readonly kind: LockKind;
  readonly owner: string;
}

export interface Owner {
  readonly key: string;
  readonly session: SessionId;
  /** Tells owners apart in the trees of the file. */
  readonly order: number;
  readonly ranges: LockRanges;
}

/** A range that somebody holds; `group` is its owner. */
export interface Held extends Interval {
  readonly range: LockedRange;
  readonly session: SessionId;
}

/** `order`: of arrival, of all waiters; `group`: the owner. */
export interface Waiter extends Interval {
  readonly id: number;
  readonly place: LockPlace;
  readonly lock: LockedRange;
  readonly sinceMs: number;
  /** It is looked at again when it was held back for long enough. */
  isTimed: boolean;
}

export type ByType<T extends Interval> = Readonly<Record<'read' | 'write', IntervalTree<T>>>;

/** The locks of one kind on one inode. */
export interface LockedFile {
  readonly key: string;
  readonly owners: Map<string, Owner>;
  /** The ranges of all owners. */
  readonly held: ByType<Held>;
  readonly waiters: ByType<Waiter>;
  /** Owners and waiters of each session that has any. */
  readonly users: Map<SessionId, { readonly owners: Set<Owner>; readonly waiters: Set<Waiter> }>;
}

export interface LockSession {
  readonly id: SessionId;
  /** The number of ranges that its owners hold. */
  ranges: number;
  readonly files: Set<LockedFile>;
  readonly waiters: Map<number, Waiter>;
  /** Waits that were granted and that the client does not know of yet. */
  readonly granted: Set<number>;
}

export function newLockedFile(key: string): LockedFile {
  return {
    key,
    owners: new Map<string, Owner>(),
    users: new Map<SessionId, never>(),
    held: { read: new IntervalTree(), write: new IntervalTree() },
    waiters: { read: new IntervalTree(), write: new IntervalTree() },
  };
}

/** Whether what the file, and a session of it, say of their ranges and owners agrees. */
export function isCounted(file: LockedFile, session: LockSession): boolean {
  const { owners, held, waiters, users } = file;
  const rangesOf = (some: Iterable<Owner>): number => [...some].reduce((sum, { ranges }) => sum + ranges.size, 0);
  if (session.ranges + held.read.size + held.write.size > MAX_AUDITED_RANGES) return true;
  let [ownersOfUsers, waitersOfUsers] = [0, 0];
  for (const user of users.values()) {
    if (user.owners.size + user.waiters.size === 0) return false;
    ownersOfUsers += user.owners.size;
    waitersOfUsers += user.waiters.size;
  }
  let rangesOfSession = 0;
  for (const { users: each } of session.files) {
    rangesOfSession += rangesOf(each.get(session.id)?.owners ?? []);
  }
  return (
    rangesOf(owners.values()) === held.read.size + held.write.size &&
    ownersOfUsers === owners.size &&
    waitersOfUsers === waiters.read.size + waiters.write.size &&
    rangesOfSession === session.ranges
  );
}

/** Whether others may have something now. */
export function givesUp({ removed, added }: LockChange): boolean {
  const [first, last, only] = [removed[0], removed.at(-1), added[0]];
  if (first === undefined || last === undefined) return false;
  if (only === undefined || added.length > 1 || only.start > first.start || only.end < last.end) return true;
  return only.type === 'read' && removed.some(({ type }) => type === 'write');
}

/** The types that a lock cannot stand beside. */
export const inConflict = ({ type }: LockedRange): readonly ('read' | 'write')[] =>
  type === 'write' ? ['write', 'read'] : ['write'];

/** Of others than `owner`, the one with the lowest start. */
export function inTheWay(held: ByType<Held>, lock: LockedRange, owner: string): Held | undefined {
  let found: Held | undefined;
  for (const type of inConflict(lock)) {
    const first = held[type].first(lock.start, lock.end, owner);
    if (first !== undefined && (found === undefined || first.start < found.start)) found = first;
  }
  return found;
}

export const fileKey = ({ inode, kind }: Pick<LockPlace, 'inode' | 'kind'>): string => `${inode}/${kind}`;
export const ownerKey = ({ session, owner }: LockPlace): string => `${session}/${owner}`;
