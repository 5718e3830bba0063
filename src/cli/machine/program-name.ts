/** How a person calls `cairn` here: messages name commands that work as they are printed. */
import { accessSync, constants, realpathSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../main.js', import.meta.url));
/** The script of this clone that builds what changed, and runs main.js. */
export const SCRIPT = fileURLToPath(new URL('../../../../scripts/cairn', import.meta.url));

/** A command line for a shell: `cairn` with these words, by its name if the shell finds this `cairn` by it, else by its path. */
export function cairnCommand(...words: readonly string[]): string {
  return [programName(), ...words.map(shellWord)].join(' ');
}

let name: string | undefined;

function programName(): string {
  name ??= findName();
  return name;
}

/** After the link was made or removed. */
export function forgetProgramName(): void {
  name = undefined;
}

function findName(): string {
  const found = foundByShell('cairn');
  if (found !== undefined && isOurs(found)) return 'cairn';
  return isExecutable(SCRIPT) ? shellWord(SCRIPT) : `node ${shellWord(MAIN)}`;
}

/** Whether a program, or what the link leads to, is this `cairn`. */
export function isOurs(path: string): boolean {
  const target = realPath(path);
  return target !== undefined && [realPath(SCRIPT), realPath(MAIN)].includes(target);
}

/** The first executable of that name in the PATH. */
export function foundByShell(program: string): string | undefined {
  const directories = (process.env['PATH'] ?? '').split(delimiter).filter(Boolean);
  return directories.map((directory) => join(directory, program)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // not there, or not for this user
  }
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined; // a link that leads nowhere, or a directory that this user may not look into
  }
}

/** Quoted for a shell if it must be. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./~-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
