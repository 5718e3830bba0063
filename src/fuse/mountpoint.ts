/** Where a mount can be, what is mounted where, and unmounting: mountinfo of proc(5), fusermount(1) and umount(8). */
import { execFile } from 'node:child_process';
import { access, constants, readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { asCairnError, CairnError, hasCode } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { UnmountMode } from './driver.js';

const FUSE_DEVICE = '/dev/fuse';

export interface MountEntry {
  readonly mountpoint: string;
  /** As 'fuse' or 'fuse.cairn'. */
  readonly type: string;
  /** The first field of mount(8)'s output. */
  readonly source: string;
}

/** Lines of /proc/PID/mountinfo, in the order of mounting: the last on a mountpoint is the one that is seen. */
export function parseMountInfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    // 36 35 98:0 /root /mountpoint options optional-fields… - type source super-options
    const [before, after] = line.split(' - ', 2);
    const mountpoint = before?.split(' ')[4];
    const [type, source] = after?.split(' ') ?? [];
    if (mountpoint === undefined || type === undefined || source === undefined) continue;
    entries.push({ mountpoint: unescapeOctal(mountpoint), type, source: unescapeOctal(source) });
  }
  return entries;
}

/** The kernel writes space, tab, newline and backslash of a path as \ooo, and a path is bytes. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8)));
}

/** What is mounted on `mountpoint` (absolute, without symlinks), or undefined. Asks the kernel, not the file system. */
export async function mountedOn(mountpoint: string): Promise<MountEntry | undefined> {
  const entries = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  return entries.findLast((entry) => entry.mountpoint === mountpoint);
}

/** Mounts of CairnFS on this machine, by any process. */
export async function cairnMounts(): Promise<MountEntry[]> {
  return parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')).filter(isCairnMount);
}

export const MOUNT_SOURCE = 'cairn';
export const isCairnMount = (entry: MountEntry): boolean =>
  entry.type.startsWith('fuse') && entry.source === MOUNT_SOURCE;

/**
 * Unmounts whatever is on `mountpoint`: root with umount, others with the setuid fusermount. EBUSY when 'clean' finds it
 * in use, EPERM when it is another's mount.
 */
export async function unmountPath(mountpoint: string, mode: UnmountMode): Promise<void> {
  const lazy = mode === 'lazy';
  const attempts: [string, string[]][] =
    process.getuid?.() === 0
      ? [['umount', ['-c', '-i', ...(lazy ? ['-l'] : []), '--', mountpoint]]]
      : ['fusermount3', 'fusermount'].map((tool) => [tool, ['-u', ...(lazy ? ['-z'] : []), '--', mountpoint]]);
  for (const [tool, args] of attempts) {
    const outcome = await run(tool, args);
    if (outcome === 'missing') continue;
    if (outcome === '') return;
    if (/busy/i.test(outcome)) throw new CairnError('EBUSY', `${mountpoint} is in use`);
    if (/not mounted|not found|no mount point/i.test(outcome)) {
      throw new CairnError('EINVAL', `${mountpoint} is not mounted`);
    }
    throw new CairnError('EPERM', `cannot unmount ${mountpoint}: ${outcome}`);
  }
  throw new CairnError('ENOENT', `cannot unmount ${mountpoint}: install fuse3, which has fusermount3`);
}

/** Runs without a shell: '' on success, else what it said. */
function run(tool: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    execFile(tool, args, { env: { ...process.env, LC_ALL: 'C' } }, (error, _stdout, stderr) => {
      if (error === null) resolve('');
      else if (error.code === 'ENOENT') resolve('missing');
      else resolve(stderr.trim() || error.message);
    });
  });
}

/** Fails with the remedy in the message when this machine or user cannot mount. */
export async function checkFuseDevice(): Promise<void> {
  try {
    await access(FUSE_DEVICE, constants.R_OK | constants.W_OK);
  } catch (error) {
    const cause = asCairnError(error);
    const remedy =
      cause.code === 'EACCES'
        ? `you may not use it: run as root, or 'chmod 666 ${FUSE_DEVICE}' as root`
        : `it is missing: 'modprobe fuse' as root; a container needs --device ${FUSE_DEVICE} --cap-add SYS_ADMIN`;
    throw new CairnError(cause.code, `cannot mount without ${FUSE_DEVICE}: ${remedy}`, { cause: error });
  }
}

/**
 * The mountpoint's absolute path without symlinks, when something can be mounted there. A mount whose process crashed is
 * taken away first. Must not be called by the process that serves a mount there: it could not answer.
 */
export async function prepareMountpoint(path: string, logger: Logger): Promise<string> {
  for (let attempt = 0; ; attempt++) {
    try {
      const mountpoint = await realpath(path);
      const entry = await mountedOn(mountpoint);
      if (entry === undefined || entry.mountpoint === '/') return await checkDirectory(mountpoint);
      await stat(mountpoint); // ENOTCONN when nobody serves it
      throw new CairnError('EBUSY', `${path} is a mount of ${entry.source} already: unmount it or choose another`);
    } catch (error) {
      if (attempt > 0 || !hasCode(asUnmounted(error), 'ENOTCONN')) throw missingRemedy(asCairnError(error), path);
      logger.warn({ mountpoint: path }, 'clearing the mount of a crashed process');
      await unmountPath(await lexicalPath(path), 'lazy');
    }
  }
}

/** Node gives system errors that it has no name for as UNKNOWN. */
function asUnmounted(error: unknown): CairnError {
  if (error instanceof Error && 'errno' in error && error.errno === -107) {
    return new CairnError('ENOTCONN', error.message, { cause: error });
  }
  return asCairnError(error);
}

function missingRemedy(error: CairnError, path: string): CairnError {
  if (error.code !== 'ENOENT') return error;
  return new CairnError('ENOENT', `the mountpoint ${path} does not exist: mkdir -p it first`, { cause: error });
}

/** The real path of a directory that itself cannot be looked at: by its parent. */
async function lexicalPath(path: string): Promise<string> {
  const absolute = resolve(path);
  return join(await realpath(dirname(absolute)), basename(absolute));
}

async function checkDirectory(mountpoint: string): Promise<string> {
  const status = await stat(mountpoint);
  if (!status.isDirectory()) throw new CairnError('ENOTDIR', `the mountpoint ${mountpoint} is not a directory`);
  return mountpoint;
}
