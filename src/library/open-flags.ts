/** Flags of open: Node's strings ('r', 'wx+', …) and the numbers of open(2). */
// eslint-disable-next-line @typescript-eslint/no-restricted-imports -- the numbers of this machine's open(2), no file is touched
import { constants } from 'node:fs';
import { CairnError } from '../core/errors.js';
import type { OpenFlags } from '../filesystem/filesystem.js';

export interface ParsedFlags extends OpenFlags {
  readonly create: boolean;
  readonly exclusive: boolean;
  readonly noFollow: boolean;
  readonly directory: boolean;
}

const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_SYNC, O_DSYNC, O_NOFOLLOW, O_DIRECTORY } =
  constants;

const NUMBER_OF_STRING: Readonly<Record<string, number>> = {
  r: O_RDONLY,
  rs: O_RDONLY | O_SYNC,
  'r+': O_RDWR,
  'rs+': O_RDWR | O_SYNC,
  w: O_WRONLY | O_CREAT | O_TRUNC,
  wx: O_WRONLY | O_CREAT | O_TRUNC | O_EXCL,
  'w+': O_RDWR | O_CREAT | O_TRUNC,
  'wx+': O_RDWR | O_CREAT | O_TRUNC | O_EXCL,
  a: O_WRONLY | O_CREAT | O_APPEND,
  ax: O_WRONLY | O_CREAT | O_APPEND | O_EXCL,
  as: O_WRONLY | O_CREAT | O_APPEND | O_SYNC,
  'a+': O_RDWR | O_CREAT | O_APPEND,
  'ax+': O_RDWR | O_CREAT | O_APPEND | O_EXCL,
  'as+': O_RDWR | O_CREAT | O_APPEND | O_SYNC,
};

/** EINVAL for a string that Node does not know. */
export function parseFlags(flags: string | number): ParsedFlags {
  const bits = typeof flags === 'number' ? flags : NUMBER_OF_STRING[flags];
  if (bits === undefined) throw new CairnError('EINVAL', `unknown open flags '${flags}'`);
  const access = bits & (O_WRONLY | O_RDWR);
  const write = access !== O_RDONLY;
  return {
    read: access !== O_WRONLY,
    write,
    truncate: (bits & O_TRUNC) !== 0,
    append: (bits & O_APPEND) !== 0,
    sync: write && (bits & (O_SYNC | O_DSYNC)) !== 0,
    create: (bits & O_CREAT) !== 0,
    exclusive: (bits & O_EXCL) !== 0,
    noFollow: (bits & O_NOFOLLOW) !== 0,
    directory: (bits & O_DIRECTORY) !== 0,
  };
}
