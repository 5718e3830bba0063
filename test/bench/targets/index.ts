/** The targets that the bench makes by itself, by the name of their option. */
import { CairnCluster } from './cairn.js';
import { startLocal } from './directory.js';
import { startMemory } from './memory.js';
import { MooseCluster, moosefsIsInstalled } from './moosefs.js';
import type { DriverName, Started } from './target.js';

export const OWN_TARGETS = ['cairn', 'cairn-fuse-native', 'moosefs', 'local', 'memory', 'memory-fuse-native'] as const;
export type OwnTarget = (typeof OWN_TARGETS)[number];

/** What is measured when nothing is named: all of which the table of docs/performance.md consists, as far as it is there. */
export function defaultTargets(): OwnTarget[] {
  // Only root mounts with the kernel driver, and makes the network that MooseFS gets.
  if (process.getuid?.() !== 0) return ['cairn-fuse-native', 'local', 'memory-fuse-native'];
  return ['cairn', ...(moosefsIsInstalled() ? (['moosefs'] as const) : []), 'local', 'memory'];
}

export interface TargetOptions {
  readonly repository: string;
  readonly chunkservers: number;
  readonly replicas: number;
  /** A directory for profiles of the processes that are programs of Node.js, or undefined. */
  readonly profiles: string | undefined;
}

/** Starts them one after another, in the order of OWN_TARGETS, and adds each to `started` as soon as it is there. */
export async function startTargets(
  names: readonly OwnTarget[],
  options: TargetOptions,
  started: Started[],
): Promise<void> {
  const drivers: DriverName[] = [];
  if (names.includes('cairn')) drivers.push('kernel');
  if (names.includes('cairn-fuse-native')) drivers.push('fuse-native');
  if (drivers.length > 0) started.push(await CairnCluster.start({ ...options, drivers }));
  if (names.includes('moosefs')) started.push(await MooseCluster.start(options));
  if (names.includes('local')) started.push(await startLocal());
  if (names.includes('memory')) started.push(await startMemory('kernel', options.profiles));
  if (names.includes('memory-fuse-native')) started.push(await startMemory('fuse-native', options.profiles));
}
