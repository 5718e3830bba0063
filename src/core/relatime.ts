/**
 * When a read is noted in the atime, as the mount option relatime of Linux has it: when nothing was read since the last
 * change, or for a day. So reading costs a change of metadata once, and not each time.
 */
import { compareTimespec } from './clock.js';
import type { Timespec } from './clock.js';

const DAY_SECONDS = 86_400;

export function isReadToNote(
  { atime, mtime, ctime }: { readonly atime: Timespec; readonly mtime: Timespec; readonly ctime: Timespec },
  now: Timespec,
): boolean {
  if (compareTimespec(now, atime) <= 0) return false;
  if (compareTimespec(atime, mtime) <= 0 || compareTimespec(atime, ctime) <= 0) return true;
  return now.seconds - atime.seconds >= DAY_SECONDS;
}
