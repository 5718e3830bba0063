/**
 * The link by which the shell finds the `cairn` of a clone. `scripts/up` makes it, `down --remove` takes it away. It belongs to the
 * clone that made it, and what another made is never touched; only a link that leads nowhere, since its clone is gone, is made anew.
 */
import { lstat, readlink, rm, stat, symlink } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { asCairnError, hasCode } from '../../core/errors.js';
import { makeDirectories } from './make-directories.js';
import { cairnCommand, forgetProgramName, foundByShell, isOurs, SCRIPT, shellWord } from './program-name.js';

/** Where the link goes; CAIRN_BIN_DIR overrules it, and when it is empty there is to be none. */
function linkDirectory(): string | undefined {
  const given = process.env['CAIRN_BIN_DIR'];
  if (given !== undefined) return given === '' ? undefined : resolve(given);
  return process.getuid?.() === 0 ? '/usr/local/bin' : join(homedir(), '.local/bin');
}

/** Makes the link when the shell does not find a `cairn`. Returns what a person is to know of it, as lines. */
export async function makeCommandLink(mountpoint: string): Promise<string[]> {
  const directory = linkDirectory();
  const found = foundByShell('cairn');
  if (directory === undefined || (found !== undefined && isOurs(found))) return [];
  const other = (path: string): string[] => [
    `${path} is another program, or another clone's: it stays. This clone's command is ${shellWord(SCRIPT)}`,
  ];
  if (found !== undefined) return other(found);
  const link = join(directory, 'cairn');
  try {
    const there = await what(link);
    if (there === 'something else') return other(link);
    let line = `${link} is a link to ${SCRIPT}`;
    if (there !== 'our link') {
      await makeDirectories(directory);
      if (there === 'a link to nothing') await rm(link);
      await symlink(SCRIPT, link);
      forgetProgramName();
      line += `, made now; to take it away: ${cairnCommand('down', '--remove', mountpoint)}`;
    }
    if (foundByShell('cairn') !== undefined) return [line];
    return [line, `for this shell: export PATH="${directory}${delimiter}$PATH"`];
  } catch (error) {
    // The cluster is up all the same.
    return [`${shellWord(SCRIPT)}; no link in ${directory}: ${asCairnError(error).message}`];
  }
}

/** Returns the link that was taken away; undefined when there is none of this clone. */
export async function removeCommandLink(): Promise<string | undefined> {
  const directory = linkDirectory();
  if (directory === undefined) return undefined;
  const link = join(directory, 'cairn');
  if ((await what(link)) !== 'our link') return undefined;
  await rm(link);
  forgetProgramName();
  return link;
}

async function what(link: string): Promise<'nothing' | 'our link' | 'a link to nothing' | 'something else'> {
  try {
    if (!(await lstat(link)).isSymbolicLink()) return 'something else';
    const target = resolve(link, '..', await readlink(link));
    if (target === SCRIPT || isOurs(link)) return 'our link';
    return target.endsWith('/scripts/cairn') && !(await exists(target)) ? 'a link to nothing' : 'something else';
  } catch (error) {
    if (hasCode(asCairnError(error), 'ENOENT')) return 'nothing';
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (hasCode(asCairnError(error), 'ENOENT', 'ENOTDIR')) return false;
    throw error;
  }
}
