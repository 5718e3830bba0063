/** Which processes keep a mount busy, as far as this user may see. Reads /proc only: never the mount itself. */
import { readdir, readFile, readlink } from 'node:fs/promises';

const SHOWN = 5;

/** As 'bash (1234)'; at most a few. */
export async function usersOf(mountpoint: string): Promise<string[]> {
  const users: string[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid) || !(await uses(pid, mountpoint))) continue;
    users.push(`${await nameOf(pid)} (${pid})`);
    if (users.length === SHOWN) break;
  }
  return users;
}

async function uses(pid: string, mountpoint: string): Promise<boolean> {
  const links = [`/proc/${pid}/cwd`, `/proc/${pid}/root`, `/proc/${pid}/exe`];
  for (const descriptor of await namesIn(`/proc/${pid}/fd`)) links.push(`/proc/${pid}/fd/${descriptor}`);
  for (const link of links) {
    const target = await linkTarget(link);
    if (target === mountpoint || target.startsWith(`${mountpoint}/`)) return true;
  }
  return false;
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch {
    return []; // ended, or another user's
  }
}

async function linkTarget(path: string): Promise<string> {
  try {
    return await readlink(path);
  } catch {
    return ''; // ended, closed, or another user's
  }
}

async function nameOf(pid: string): Promise<string> {
  try {
    return (await readFile(`/proc/${pid}/comm`, 'utf8')).trim();
  } catch {
    return '?'; // ended meanwhile
  }
}
