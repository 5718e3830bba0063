/**
 * The clusters that this user started by `up` on this machine, so that other commands find them without being told. A small file in
 * the default data directory; an entry whose cluster is gone is passed over.
 */
import { join } from 'node:path';
import { MAX_LOCAL_CLUSTERS } from '../../core/limits.js';
import { ClusterDirectory } from './cluster-directory.js';
import type { ClusterDescription } from './cluster-directory.js';
import { readJson, writeJson } from './json-file.js';
import { defaultDataDirectory } from './paths.js';
import { runningIn } from './process-control.js';

export const LOCAL_CLUSTERS_FILE = 'clusters.json';

export interface LocalCluster {
  readonly directory: ClusterDirectory;
  readonly description: ClusterDescription;
  /** Its master runs. */
  readonly running: boolean;
}

const fileIn = (defaultDirectory: string): string => join(defaultDirectory, LOCAL_CLUSTERS_FILE);

/** Puts the cluster in front: it was started last. */
export async function recordCluster(directory: ClusterDirectory): Promise<void> {
  const others = (await recorded(defaultDataDirectory())).filter((path) => path !== directory.path);
  await writeRecorded([directory.path, ...others]);
}

export async function forgetCluster(directory: ClusterDirectory): Promise<void> {
  const paths = await recorded(defaultDataDirectory());
  if (paths.includes(directory.path)) await writeRecorded(paths.filter((path) => path !== directory.path));
}

/** Those that still exist: the running ones first, and of equals the one that was started last. */
export async function localClusters(defaultDirectory = defaultDataDirectory()): Promise<LocalCluster[]> {
  const paths = new Set([...(await recorded(defaultDirectory)), defaultDirectory]);
  const found: LocalCluster[] = [];
  for (const path of paths) {
    const directory = new ClusterDirectory(path);
    const description = await directory.describe().catch(() => undefined); // another user's, or spoilt: not to be taken unasked
    if (description === undefined) continue;
    const running = (await runningIn(directory.master).catch(() => undefined)) !== undefined;
    found.push({ directory, description, running });
  }
  return [...found.filter(({ running }) => running), ...found.filter(({ running }) => !running)];
}

async function recorded(defaultDirectory: string): Promise<string[]> {
  const value = await readJson(fileIn(defaultDirectory)).catch(() => undefined);
  const paths = value?.['clusters'];
  return Array.isArray(paths) ? paths.filter((path) => typeof path === 'string').slice(0, MAX_LOCAL_CLUSTERS) : [];
}

async function writeRecorded(paths: readonly string[]): Promise<void> {
  await writeJson(fileIn(defaultDataDirectory()), { clusters: paths.slice(0, MAX_LOCAL_CLUSTERS) });
}
