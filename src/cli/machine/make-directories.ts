import { constants } from 'node:fs';
import { chmod, lstat, mkdir, readdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';

/**
 * Makes a directory and those above it; those that are there stay. In place of Node's own recursive mkdir, which goes on for ever
 * where a file system says ENOENT to every mkdir, as /proc does.
 */
export async function makeDirectories(path: string): Promise<void> {
  const missing: string[] = [];
  for (let at = resolve(path); !(await isDirectory(at)); at = dirname(at)) missing.push(at);
  for (const each of missing.reverse()) {
    await mkdir(each).catch(async (error: unknown) => {
      // Another process may have made it meanwhile.
      if (!hasCode(asCairnError(error), 'EEXIST') || !(await isDirectory(each))) throw error;
    });
  }
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    if ((await stat(path)).isDirectory()) return true;
  } catch (error) {
    if (hasCode(asCairnError(error), 'ENOENT')) return false;
    throw error;
  }
  throw new CairnError('ENOTDIR', `${path} is no directory`);
}

/** What a server keeps in its directory: what else is there is not touched. */
const STATE = /^(store|oplog|secret|pid|running|log.*)$/;

/**
 * Makes the state of a server its own user's only, also what an earlier release or a copy left open to others: the directory
 * and those in it 0700, files 0600. A directory that many share (/tmp) stays as it is. No link is followed.
 */
export async function makePrivate(directory: string): Promise<void> {
  if (((await stat(directory)).mode & 0o1000) === 0) await chmod(directory, 0o700);
  for (const name of await readdir(directory)) if (STATE.test(name)) await restrict(join(directory, name));
}

/** As `makePrivate`, for a data directory of a chunkserver: what is below its directories nobody else reaches then. */
export async function makeDiskPrivate(path: string): Promise<void> {
  await makePrivate(path);
  for (const name of ['chunks', 'incoming', 'aside']) {
    await chmod(join(path, name), 0o700).catch((error: unknown) => {
      if (!hasCode(asCairnError(error), 'ENOENT')) throw error;
    });
  }
}

async function restrict(path: string): Promise<void> {
  try {
    const { mode } = await lstat(path);
    const kind = mode & constants.S_IFMT;
    if (kind === constants.S_IFDIR) {
      await chmod(path, 0o700);
      for (const name of await readdir(path)) await restrict(join(path, name));
    } else if (kind === constants.S_IFREG) await chmod(path, 0o600);
  } catch (error) {
    // Removed meanwhile.
    if (!hasCode(asCairnError(error), 'ENOENT')) throw error;
  }
}
