/**
 * On whose behalf a request is made. The kernel tells uid and gid of the caller, and has checked permissions with all
 * its groups; the master checks again, and asks for the groups only where they decide. They stand in /proc, and are
 * read when the master refused without them, or when an answer depends on them without being refused (set-group-id).
 */
import { hasCode } from '../../core/errors.js';
import { MAX_GROUPS } from '../../core/limits.js';
import type { Credentials } from '../../filesystem/filesystem.js';
import { NO_ID } from './wire/protocol.js';
import type { Caller } from './wire/request.js';

/** The text of /proc/PID/status, or '' when the process is gone. */
export type ReadStatus = (pid: number) => string;

export class Callers {
  constructor(
    private readonly readStatus: ReadStatus,
    /** For what the kernel does by itself. */
    private readonly own: Credentials,
  ) {}

  /** What the request's header says. */
  known(caller: Caller): Credentials {
    if (caller.uid === NO_ID) return this.own;
    return { uid: caller.uid, gid: caller.gid, groups: caller.groups };
  }

  withGroups(caller: Caller): Credentials {
    const known = this.known(caller);
    if (known.uid === 0 || caller.pid === 0) return known;
    return { ...known, groups: parseGroups(this.readStatus(caller.pid)) };
  }

  /** Runs `action`, and once more with the caller's groups when it was refused without them: a refusal changes nothing. */
  async run<T>(caller: Caller, action: (credentials: Credentials) => Promise<T>): Promise<T> {
    const known = this.known(caller);
    try {
      return await action(known);
    } catch (error) {
      if (known.uid === 0 || caller.pid === 0 || !hasCode(error, 'EACCES', 'EPERM')) throw error;
      const full = this.withGroups(caller);
      if (full.groups.every((group) => group === known.gid || known.groups.includes(group))) throw error;
      return action(full);
    }
  }
}

export function parseGroups(status: string): number[] {
  const line = /^Groups:[ \t]*([0-9 ]*)$/m.exec(status)?.[1] ?? '';
  return line
    .split(' ')
    .filter((word) => word !== '')
    .slice(0, MAX_GROUPS)
    .map(Number);
}
