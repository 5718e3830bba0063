/**
 * Who is who between this machine and the cluster: ranges of user and group ids that have other numbers there, and callers
 * whose wishes the cluster shall not take for root's (root squash), as exports(5) of NFS has it.
 *
 * The mapping is one to one. An id that no range names keeps its number, unless that number is taken on the other side
 * by a range: then it has none. Nobody there gets the rights of somebody here by coincidence.
 */
import { CairnError } from '../core/errors.js';
import { MAX_ID_RANGES } from '../core/limits.js';
import type { Credentials } from './filesystem.js';

export interface IdRange {
  /** The first id on this machine, and the one that it is in the cluster. */
  readonly local: number;
  readonly remote: number;
  /** So many ids that follow each other. */
  readonly count: number;
}

export type Squash = 'none' | 'root' | 'all';

export interface IdMappingOptions {
  readonly uids: readonly IdRange[];
  readonly gids: readonly IdRange[];
  /** Which callers act as `anonymous` in the cluster. 'root': uid 0, and gid 0, each for itself. */
  readonly squash: Squash;
  /** Ids of the cluster. Also whom a caller is taken for whose uid has no number there. */
  readonly anonymous: { readonly uid: number; readonly gid: number };
}

/** The greatest id; the next number means "none" to chown(2). */
export const MAX_ID = 0xfffffffe;
/** What Linux shows for an id that has no number here: /proc/sys/kernel/overflowuid. */
export const OVERFLOW_ID = 65_534;

export class IdMapping {
  readonly uids: IdTable;
  readonly gids: IdTable;

  /** EINVAL for ranges that overlap or leave the numbers that there are. */
  constructor(private readonly options: IdMappingOptions) {
    this.uids = new IdTable(options.uids);
    this.gids = new IdTable(options.gids);
  }

  get squash(): Squash {
    return this.options.squash;
  }

  /** Whether the owner that a caller sees says what he may do: not when the cluster takes everybody for the same. */
  get ownersTell(): boolean {
    return this.options.squash !== 'all';
  }

  /** Nothing is mapped: no need to do anything. */
  get isIdentity(): boolean {
    return this.options.squash === 'none' && this.uids.isIdentity && this.gids.isIdentity;
  }

  /** Who the caller is in the cluster. */
  callerOf({ uid, gid, groups }: Credentials): Credentials {
    const { squash, anonymous } = this.options;
    if (squash === 'all') return { ...anonymous, groups: [] };
    const isRoot = (id: number): boolean => squash === 'root' && id === 0;
    const remoteGid = isRoot(gid) ? anonymous.gid : this.gids.toRemote(gid);
    return {
      uid: (isRoot(uid) ? anonymous.uid : this.uids.toRemote(uid)) ?? anonymous.uid,
      gid: remoteGid ?? anonymous.gid,
      // A group that the cluster does not know gives no rights there, and neither does root's.
      groups: groups.flatMap((group) => (isRoot(group) ? [] : (this.gids.toRemote(group) ?? []))),
    };
  }
}

/** Ranges of uids, or of gids, in both directions. */
export class IdTable {
  constructor(private readonly ranges: readonly IdRange[]) {
    if (ranges.length > MAX_ID_RANGES) {
      throw new CairnError('EINVAL', `${ranges.length} ranges of ids, more than ${MAX_ID_RANGES}`);
    }
    for (const [i, range] of ranges.entries()) {
      checkRange(range);
      for (const other of ranges.slice(0, i)) {
        if (overlap(range.local, other.local, range, other) || overlap(range.remote, other.remote, range, other)) {
          throw new CairnError('EINVAL', `the ids ${describe(other)} and ${describe(range)} overlap`);
        }
      }
    }
  }

  get isIdentity(): boolean {
    return this.ranges.every(({ local, remote }) => local === remote);
  }

  /** Undefined when the id has no number in the cluster. */
  toRemote(id: number): number | undefined {
    for (const { local, remote, count } of this.ranges) if (isIn(id, local, count)) return id - local + remote;
    return this.ranges.some(({ remote, count }) => isIn(id, remote, count)) ? undefined : id;
  }

  /** As this machine shows it: OVERFLOW_ID when it has no number here. */
  toLocal(id: number): number {
    for (const { local, remote, count } of this.ranges) if (isIn(id, remote, count)) return id - remote + local;
    return this.ranges.some(({ local, count }) => isIn(id, local, count)) ? OVERFLOW_ID : id;
  }

  /** For what is to be kept (chown, an ACL's entry): EINVAL when the id has no number in the cluster. */
  keep(id: number): number {
    const remote = this.toRemote(id);
    if (remote === undefined) throw new CairnError('EINVAL', `the id ${id} is not one that the cluster knows`);
    return remote;
  }
}

const isIn = (id: number, first: number, count: number): boolean => id >= first && id < first + count;

const overlap = (a: number, b: number, { count }: IdRange, other: IdRange): boolean =>
  a < b + other.count && b < a + count;

function checkRange(range: IdRange): void {
  const { local, remote, count } = range;
  const isId = (id: number): boolean => Number.isInteger(id) && id >= 0 && id <= MAX_ID;
  if (![local, remote].every(isId) || count < 1 || !isId(local + count - 1) || !isId(remote + count - 1)) {
    throw new CairnError('EINVAL', `the ids ${describe(range)} are not all from 0 to ${MAX_ID}`);
  }
}

const describe = ({ local, remote, count }: IdRange): string => `${local}:${remote}:${count}`;
