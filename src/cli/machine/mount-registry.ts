/** Which cluster each mountpoint of this user belongs to: written by every mount, read by `down`, `info` and others. */
import { createHash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { readJson, writeJson } from './json-file.js';
import { defaultDataDirectory } from './paths.js';

export interface MountRecord {
  readonly mountpoint: string;
  /** host:port */
  readonly master: string;
  readonly secretFile: string;
  /** The directory of the cluster that is the root of the mount: '/' if it is all of it. */
  readonly subdirectory: string;
  /** With the mount's `pid` and `log`. */
  readonly processDirectory: string;
}

const fileOf = (mountpoint: string): string =>
  join(defaultDataDirectory(), 'mounts', `${createHash('sha256').update(mountpoint).digest('hex').slice(0, 32)}.json`);

/** Stays after a crash, so that what is left can be found and stopped. */
export async function recordMount(record: MountRecord): Promise<void> {
  await writeJson(fileOf(record.mountpoint), record);
}

export async function findMount(mountpoint: string): Promise<MountRecord | undefined> {
  const value = await readJson(fileOf(mountpoint));
  if (value === undefined) return undefined;
  const { master, secretFile, processDirectory, subdirectory } = value;
  if (typeof master !== 'string' || typeof secretFile !== 'string' || typeof processDirectory !== 'string') {
    return undefined;
  }
  return {
    mountpoint,
    master,
    secretFile,
    processDirectory,
    subdirectory: typeof subdirectory === 'string' ? subdirectory : '/',
  };
}

export async function forgetMount(mountpoint: string): Promise<void> {
  await rm(fileOf(mountpoint), { force: true });
}
