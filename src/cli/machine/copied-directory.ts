/**
 * Tells a master's directory that was copied while its master ran (or after it was killed): `running` names the file of the
 * store by its inode number, and is removed by an orderly stop. In a copy the store is another file.
 */
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { asCairnError, hasCode } from '../../core/errors.js';

const marker = (directory: string): string => join(directory, 'running');

export async function isCopyOfRunning(directory: string, storeFile: string): Promise<boolean> {
  try {
    const said = (await readFile(marker(directory), 'utf8')).trim();
    return said !== String((await stat(storeFile)).ino);
  } catch (error) {
    if (hasCode(asCairnError(error), 'ENOENT')) return false;
    throw error;
  }
}

/** Over what is there, which needs no space. Best effort: without it a copy is only not looked through. */
export async function markRunning(directory: string, storeFile: string): Promise<void> {
  const { ino } = await stat(storeFile);
  await writeFile(marker(directory), `${ino}\n`, { mode: 0o600 });
}

export async function markStopped(directory: string): Promise<void> {
  await rm(marker(directory), { force: true });
}
