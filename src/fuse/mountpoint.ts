/** Where a mount can be, what is mounted where, and unmounting: mountinfo of proc(5), fusermount(1) and umount(8). */
import { execFile } from 'node:child_process';
import { access, constants, opendir, readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { asCairnError, CairnError } from '../core/errors.js';
import type { Logger } from '../core/logging/logger.js';
import type { UnmountMode } from './driver.js';

const FUSE_DEVICE = '/dev/fuse';

export interface MountEntry {
  readonly mountpoint: string;
  /** major:minor, as st_dev of its files. */
  readonly device: string;
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
    const [, , device, , mountpoint] = before?.split(' ') ?? [];
    const [type, source] = after?.split(' ') ?? [];
    if (device === undefined || mountpoint === undefined || type === undefined || source === undefined) continue;
    entries.push({ mountpoint: unescapeOctal(mountpoint), device, type, source: unescapeOctal(source) });
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

/**
 * What stands between a mount's own process and unmounting it by its path: EINVAL when it is not in the tree any more,
 * EBUSY when something else is mounted over it. So nobody else's mount is ever taken away.
 */
export async function requireVisible(mountpoint: string, device: string | undefined): Promise<void> {
  const entries = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  const seen = entries.findLast((entry) => entry.mountpoint === mountpoint);
  if (seen !== undefined && seen.device === device) return;
  const covered = entries.some((entry) => entry.mountpoint === mountpoint && entry.device === device);
  if (covered) throw new CairnError('EBUSY', `${seen?.source ?? 'something'} is mounted over ${mountpoint}`);
  throw new CairnError('EINVAL', `${mountpoint} is not mounted`);
}

/** The mount of CairnFS that a file is in, and the file's path without symlinks. */
export async function enclosingMount(file: string): Promise<{ mountpoint: string; path: string }> {
  const path = await realpath(file).catch((error: unknown) => {
    const fault = asCairnError(error);
    throw fault.code === 'ENOENT' ? new CairnError('ENOENT', `${file} does not exist`, { cause: error }) : fault;
  });
  const inside = (mountpoint: string): boolean => mountpoint === '/' || `${path}/`.startsWith(`${mountpoint}/`);
  let found: MountEntry | undefined;
  for (const entry of parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'))) {
    if (inside(entry.mountpoint) && entry.mountpoint.length >= (found?.mountpoint.length ?? 0)) found = entry;
  }
  if (found === undefined || !isCairnMount(found)) {
    const other = `for a path of the cluster write cairn:/PATH`;
    throw new CairnError('EINVAL', `${file} is not in a mount of CairnFS: ${other}`);
  }
  return { mountpoint: found.mountpoint, path };
}

export const MOUNT_TYPE = 'fuse.cairn';
export const isCairnMount = (entry: MountEntry): boolean => entry.type === MOUNT_TYPE;

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
      // fusermount finds none but its caller's.
      if (process.getuid?.() !== 0 && (await mountedOn(mountpoint)) !== undefined) {
        throw new CairnError('EPERM', `${mountpoint} is another user's mount: run this as that user, or as root`);
      }
      throw new CairnError('EINVAL', `${mountpoint} is not mounted`);
    }
    // Some containers have none.
    const remedy = outcome.includes('/etc/mtab') ? ": as root, 'ln -s /proc/self/mounts /etc/mtab'" : '';
    throw new CairnError('EPERM', `cannot unmount ${mountpoint}: ${outcome}${remedy}`);
  }
  throw new CairnError('ENOENT', `cannot unmount ${mountpoint}: install fuse3, which has fusermount3`);
}

/** Changes flags of a mount that there is: mount(8) with `-o remount`, which leaves out those that are not named. */
export async function remount(mountpoint: string, flags: readonly string[]): Promise<void> {
  const said = await run('mount', ['-i', '-o', ['remount', ...flags].join(','), '--', mountpoint]);
  if (said !== '') throw new CairnError('EPERM', `cannot remount ${mountpoint}: ${said}`);
}

/** Runs without a shell: '' on success, else what it said. */
function run(tool: string, args: readonly string[], timeoutMs = 0): Promise<string> {
  const options = { env: { ...process.env, LC_ALL: 'C' }, timeout: timeoutMs, killSignal: 'SIGKILL' } as const;
  return new Promise((resolve) => {
    execFile(tool, args, options, (error, _stdout, stderr) => {
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
 * taken away first.
 */
export async function prepareMountpoint(path: string, logger: Logger): Promise<string> {
  const mountpoint = await mountpointPath(path, 'mkdir -p it first');
  const entry = await mountedOn(mountpoint);
  if (entry !== undefined && mountpoint !== '/') {
    if ((await probe(mountpoint)) !== 'dead') {
      throw new CairnError('EBUSY', `${path} is a mount of ${entry.source} already: unmount it or choose another`);
    }
    logger.warn({ mountpoint }, 'clearing the mount of a crashed process');
    await unmountPath(mountpoint, 'lazy');
  }
  return checkDirectory(mountpoint);
}

export type MountHealth = 'serving' | 'dead' | 'silent';

/**
 * Whether a mount answers: 'dead' when its process is gone, 'silent' when nothing came in time. Asks from a child process,
 * since whoever asks about a mount that does not answer may wait for ever.
 */
export async function probe(mountpoint: string, timeoutMs = 5000): Promise<MountHealth> {
  // Of the file system: attributes of its root the kernel may answer from memory, also for a process that is gone.
  const outcome = await run('stat', ['-f', '--', mountpoint], timeoutMs);
  if (outcome === '') return 'serving';
  return /not connected|connection abort/i.test(outcome) ? 'dead' : 'silent';
}

/**
 * The absolute path of a directory without symlinks. A path that is a mountpoint as it stands is not looked at, because
 * that can fail or hang when the mount is dead. `remedy`: what to do when it does not exist.
 */
export async function mountpointPath(path: string, remedy?: string): Promise<string> {
  const absolute = resolve(path);
  try {
    const lexical = join(await realpath(dirname(absolute)), basename(absolute));
    if ((await mountedOn(lexical)) !== undefined) return lexical;
    return await realpath(absolute);
  } catch (error) {
    const fault = asCairnError(error);
    if (fault.code !== 'ENOENT') throw fault;
    // What Node.js makes of an argument that is not UTF-8.
    const why = path.includes('\uFFFD') ? 'its name is not UTF-8: take another' : remedy;
    throw new CairnError('ENOENT', `${path} does not exist${why === undefined ? '' : `: ${why}`}`, { cause: error });
  }
}

async function checkDirectory(mountpoint: string): Promise<string> {
  const status = await stat(mountpoint);
  if (!status.isDirectory()) throw new CairnError('ENOTDIR', `the mountpoint ${mountpoint} is not a directory`);
  for await (const entry of await opendir(mountpoint)) {
    const message = `${mountpoint} is not empty (it has ${entry.name}), and a mount would hide that: choose an empty directory`;
    throw new CairnError('ENOTEMPTY', message);
  }
  return mountpoint;
}

/** CAP_SYS_ADMIN, by its number in capabilities(7). */
const MOUNT_CAPABILITY = 21n;

/** Whether this process may call mount(2) itself; others mount through the setuid fusermount. */
export async function mayMount(): Promise<boolean> {
  const status = await readFile('/proc/self/status', 'utf8');
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  return process.getuid?.() === 0 && ((BigInt(`0x${effective}`) >> MOUNT_CAPABILITY) & 1n) === 1n;
}
