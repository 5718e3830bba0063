/** Where things are by default: the same for every command, so that they find each other. */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

export const DEFAULT_MASTER_PORT = 9420;

/** Root's. */
export const MACHINE_DATA_DIRECTORY = '/var/lib/cairnfs';

/** Root's clusters are the machine's, other users' are their own; CAIRN_DATA overrules both. */
export function defaultDataDirectory(): string {
  const given = process.env['CAIRN_DATA'];
  if (given) return resolve(given);
  if (process.getuid?.() === 0) return MACHINE_DATA_DIRECTORY;
  return join(process.env['XDG_DATA_HOME'] || join(homedir(), '.local/share'), 'cairnfs');
}
