import { mkdir, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { asCairnError, CairnError, hasCode } from '../core/errors.js';

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
