/** The words of `-o` that say who is who in the cluster; IdMapping has their meaning, exports(5) of NFS the names. */
import { asCairnError } from '../core/errors.js';
import { IdMapping, MAX_ID, OVERFLOW_ID } from '../filesystem/id-mapping.js';
import type { IdRange, Squash } from '../filesystem/id-mapping.js';
import { UsageError } from './command.js';

export const ID_OPTIONS: readonly string[] = [
  ...['root_squash', 'no_root_squash', 'all_squash', 'no_all_squash', 'anonuid=', 'anongid='],
  ...['uidmap=LOCAL:REMOTE[:COUNT]', 'gidmap=LOCAL:REMOTE[:COUNT]'],
];

export class IdOptions {
  private readonly uids: IdRange[] = [];
  private readonly gids: IdRange[] = [];
  private squash: Squash = 'none';
  private anonymous = { uid: OVERFLOW_ID, gid: OVERFLOW_ID };

  /** False when it is no word of ours. Of words that take each other back the last counts; ranges add up. */
  take(name: string, value: string | undefined): boolean {
    if (value === undefined) return this.takeSwitch(name);
    switch (name) {
      case 'uidmap':
        this.uids.push(parseRange(name, value));
        return true;
      case 'gidmap':
        this.gids.push(parseRange(name, value));
        return true;
      case 'anonuid':
        this.anonymous = { ...this.anonymous, uid: parseId(name, value) };
        return true;
      case 'anongid':
        this.anonymous = { ...this.anonymous, gid: parseId(name, value) };
        return true;
      default:
        return false;
    }
  }

  mapping(): IdMapping {
    const { uids, gids, squash, anonymous } = this;
    try {
      return new IdMapping({ uids, gids, squash, anonymous });
    } catch (error) {
      throw new UsageError(`-o uidmap or gidmap: ${asCairnError(error).message}`);
    }
  }

  private takeSwitch(name: string): boolean {
    if (name === 'root_squash') this.squash = this.squash === 'all' ? 'all' : 'root';
    else if (name === 'all_squash') this.squash = 'all';
    else if (name === 'no_root_squash' || name === 'no_all_squash') this.squash = 'none';
    else return false;
    return true;
  }
}

function parseRange(name: string, value: string): IdRange {
  const [, local, remote, count = '1'] = /^(\d{1,10}):(\d{1,10})(?::(\d{1,10}))?$/.exec(value) ?? [];
  if (local === undefined || remote === undefined) {
    throw new UsageError(`-o ${name} must be LOCAL:REMOTE or LOCAL:REMOTE:COUNT, such as 1000:5000:10, not '${value}'`);
  }
  return { local: Number(local), remote: Number(remote), count: Number(count) };
}

function parseId(name: string, value: string): number {
  const id = /^\d{1,10}$/.test(value) ? Number(value) : NaN;
  if (!(id <= MAX_ID)) throw new UsageError(`-o ${name} must be a number up to ${MAX_ID}, not '${value}'`);
  return id;
}
