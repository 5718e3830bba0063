/** Values as a person reads them. */
import type { Timespec } from '../core/clock.js';
import {
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFSOCK,
  S_ISGID,
  S_ISUID,
  S_ISVTX,
} from '../core/mode.js';

const TYPE_LETTERS = new Map<number, string>([
  ...([
    [S_IFDIR, 'd'],
    [S_IFLNK, 'l'],
    [S_IFIFO, 'p'],
  ] as const),
  ...([
    [S_IFSOCK, 's'],
    [S_IFCHR, 'c'],
    [S_IFBLK, 'b'],
  ] as const),
]);

/** As in ls -l: drwxr-xr-x. */
export function modeText(mode: number): string {
  const bits = (shift: number, special: number, letter: string): string => {
    const executable = (mode & (1 << shift)) !== 0;
    const last = (mode & special) !== 0 ? (executable ? letter : letter.toUpperCase()) : executable ? 'x' : '-';
    return `${mode & (4 << shift) ? 'r' : '-'}${mode & (2 << shift) ? 'w' : '-'}${last}`;
  };
  const type = TYPE_LETTERS.get(mode & S_IFMT) ?? '-';
  return type + bits(6, S_ISUID, 's') + bits(3, S_ISGID, 's') + bits(0, S_ISVTX, 't');
}

/** As '2026-11-23 06:08'. */
export function timeText(time: Timespec): string {
  return new Date(time.seconds * 1000).toISOString().slice(0, 16).replace('T', ' ');
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit] ?? ''}`;
}
