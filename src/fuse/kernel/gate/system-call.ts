/**
 * The system call that a thread is in, as /proc/TID/syscall tells it: whether the kernel came to a directory by a path, which it walks
 * once more when it is told ESTALE, or by a descriptor.
 */
import type { ReadStatus } from '../callers.js';

/**
 * `path`: it walks, and holds no directory meanwhile. `new`, `old`: at the end it holds the last directory, to make a name there, which
 * it always looks up, or to change one that it may remember. `descriptor`: it does not walk. `running`: it is not waiting yet.
 */
export type SystemCallKind = 'path' | 'new' | 'old' | 'descriptor' | 'running' | 'unknown';

export interface SystemCall {
  readonly kind: SystemCallKind;
  /** The same for all that is asked within one call, and for another call only when that is made in the same place with the same arguments. */
  readonly identity: string;
  /** It opens what it finds. */
  readonly opens: boolean;
  /** Where its paths are in the memory of the thread. */
  readonly paths: readonly bigint[];
}

interface Row {
  /** Numbers on x86-64 and on arm64. */
  readonly numbers: readonly [x64: number | undefined, arm64: number | undefined];
  readonly kind: 'path' | 'new' | 'old' | 'descriptor';
  /** Arguments that point to paths. */
  readonly paths: readonly number[];
  /** Argument with flags of which AT_EMPTY_PATH makes it a call by descriptor. */
  readonly mayBeEmpty?: number;
  /** Argument with flags of open(2), of which O_CREAT makes a name. */
  readonly openFlags?: number;
}

const AT_EMPTY_PATH = 0x1000n;
const O_CREAT = 0o100n;
const none = undefined;

const ROWS: readonly Row[] = [
  // open, openat, creat, openat2 (whose flags are in memory), execve, execveat
  { numbers: [2, none], kind: 'path', paths: [0], openFlags: 1 },
  { numbers: [257, 56], kind: 'path', paths: [1], openFlags: 2 },
  { numbers: [85, none], kind: 'new', paths: [0] },
  { numbers: [437, 437], kind: 'new', paths: [1] },
  { numbers: [59, 221], kind: 'path', paths: [0] },
  { numbers: [322, 281], kind: 'path', paths: [1], mayBeEmpty: 4 },
  // stat, lstat, newfstatat, statx, access, faccessat, faccessat2, readlink, readlinkat, statfs
  { numbers: [4, none], kind: 'path', paths: [0] },
  { numbers: [6, none], kind: 'path', paths: [0] },
  { numbers: [262, 79], kind: 'path', paths: [1], mayBeEmpty: 3 },
  { numbers: [332, 291], kind: 'path', paths: [1], mayBeEmpty: 2 },
  { numbers: [21, none], kind: 'path', paths: [0] },
  { numbers: [269, 48], kind: 'path', paths: [1] },
  { numbers: [439, 439], kind: 'path', paths: [1], mayBeEmpty: 3 },
  { numbers: [89, none], kind: 'path', paths: [0] },
  { numbers: [267, 78], kind: 'path', paths: [1] },
  { numbers: [137, 43], kind: 'path', paths: [0] },
  // chdir, chroot, chmod, fchmodat, fchmodat2, chown, lchown, fchownat, truncate, utime, utimes, futimesat, utimensat
  { numbers: [80, 49], kind: 'path', paths: [0] },
  { numbers: [161, 51], kind: 'path', paths: [0] },
  { numbers: [90, none], kind: 'path', paths: [0] },
  { numbers: [268, 53], kind: 'path', paths: [1] },
  { numbers: [452, 452], kind: 'path', paths: [1], mayBeEmpty: 3 },
  { numbers: [92, none], kind: 'path', paths: [0] },
  { numbers: [94, none], kind: 'path', paths: [0] },
  { numbers: [260, 54], kind: 'path', paths: [1], mayBeEmpty: 4 },
  { numbers: [76, 45], kind: 'path', paths: [0] },
  { numbers: [132, none], kind: 'path', paths: [0] },
  { numbers: [235, none], kind: 'path', paths: [0] },
  { numbers: [261, none], kind: 'path', paths: [1] },
  { numbers: [280, 88], kind: 'path', paths: [1], mayBeEmpty: 3 },
  // (l)setxattr, (l)getxattr, (l)listxattr, (l)removexattr
  { numbers: [188, 5], kind: 'path', paths: [0] },
  { numbers: [189, 6], kind: 'path', paths: [0] },
  { numbers: [191, 8], kind: 'path', paths: [0] },
  { numbers: [192, 9], kind: 'path', paths: [0] },
  { numbers: [194, 11], kind: 'path', paths: [0] },
  { numbers: [195, 12], kind: 'path', paths: [0] },
  { numbers: [197, 14], kind: 'path', paths: [0] },
  { numbers: [198, 15], kind: 'path', paths: [0] },
  // mount, umount2, inotify_add_watch, name_to_handle_at, connect
  { numbers: [165, 40], kind: 'path', paths: [0, 1] },
  { numbers: [166, 39], kind: 'path', paths: [0] },
  { numbers: [254, 27], kind: 'path', paths: [1] },
  { numbers: [303, 264], kind: 'path', paths: [1], mayBeEmpty: 4 },
  { numbers: [42, 203], kind: 'path', paths: [] },
  // mkdir, mkdirat, mknod, mknodat, symlink, symlinkat, link, linkat, bind
  { numbers: [83, none], kind: 'new', paths: [0] },
  { numbers: [258, 34], kind: 'new', paths: [1] },
  { numbers: [133, none], kind: 'new', paths: [0] },
  { numbers: [259, 33], kind: 'new', paths: [1] },
  { numbers: [88, none], kind: 'new', paths: [1] },
  { numbers: [266, 36], kind: 'new', paths: [2] },
  { numbers: [86, none], kind: 'new', paths: [0, 1] },
  { numbers: [265, 37], kind: 'new', paths: [1, 3] },
  { numbers: [49, 200], kind: 'new', paths: [] },
  // unlink, rmdir, unlinkat, rename, renameat, renameat2
  { numbers: [87, none], kind: 'old', paths: [0] },
  { numbers: [84, none], kind: 'old', paths: [0] },
  { numbers: [263, 35], kind: 'old', paths: [1] },
  { numbers: [82, none], kind: 'old', paths: [0, 1] },
  { numbers: [264, 38], kind: 'old', paths: [1, 3] },
  { numbers: [316, 276], kind: 'old', paths: [1, 3] },
  // fstat, fchdir, fchmod, fchown, ftruncate, fstatfs, getdents, getdents64, fsetxattr, fgetxattr, flistxattr, fremovexattr, open_by_handle_at
  ...(
    [
      [5, 80],
      [81, 50],
      [91, 52],
      [93, 55],
      [77, 46],
      [138, 44],
      [78, none],
      [217, 61],
      [190, 7],
      [193, 10],
      [196, 13],
      [199, 16],
      [304, 265],
    ] as const
  ).map((numbers): Row => ({ numbers, kind: 'descriptor', paths: [] })),
];

const OPENS = new Set<number | undefined>([2, 257, 85, 437, 59, 322]);
const ARM_OPENS = new Set<number | undefined>([56, 437, 221, 281]);
const isArm = process.arch === 'arm64';
const BY_NUMBER = new Map(ROWS.map((row) => [row.numbers[isArm ? 1 : 0], row]));

/** `text` as /proc/TID/syscall has it: number, six arguments, stack pointer, program counter; or "running". */
export function parseSystemCall(text: string): SystemCall {
  const identity = text.trim();
  const nothing = { identity, opens: false, paths: [] };
  if (identity === 'running') return { ...nothing, kind: 'running' };
  const [number, ...words] = identity.split(' ');
  if (number === undefined || !/^\d+$/.test(number) || !words.every((word) => /^0x[0-9a-f]+$/.test(word))) {
    return { ...nothing, kind: 'unknown' };
  }
  const row = BY_NUMBER.get(Number(number));
  if (row === undefined) return { ...nothing, kind: 'unknown' };
  const argument = (index: number): bigint => BigInt(words[index] ?? '0x0');
  const paths = row.paths.map(argument);
  const opens = (isArm ? ARM_OPENS : OPENS).has(Number(number));
  const { mayBeEmpty, openFlags } = row;
  const isEmpty = mayBeEmpty !== undefined && ((argument(mayBeEmpty) & AT_EMPTY_PATH) !== 0n || paths[0] === 0n);
  if (isEmpty) return { ...nothing, kind: 'descriptor' };
  const creates = openFlags !== undefined && (argument(openFlags) & O_CREAT) !== 0n;
  return { kind: creates ? 'new' : row.kind, identity, opens, paths };
}

/** What a thread does, and the text at an address of it; '' when that cannot be told. */
export interface Threads {
  readonly systemCall: ReadStatus;
  readonly textAt: (pid: number, address: bigint) => string;
}

/** Whether a walk along the call's paths may ask in one directory twice, or not look it up, but for symlinks. */
export const mayTurnBack = (threads: Threads, pid: number, call: SystemCall): boolean =>
  call.paths.some((address) =>
    threads
      .textAt(pid, address)
      .split('/')
      .some((name) => name === '.' || name === '..'),
  );
