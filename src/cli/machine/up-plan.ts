/**
 * What `cairn up` has to do, decided from what was asked for, what the data directory says, and what runs. Pure: up.ts looks
 * and acts. What cannot work is refused here, with the remedy.
 */
import { CairnError } from '../../core/errors.js';
import type { MountHealth } from '../../fuse/mountpoint.js';
import type { ClusterDescription } from './cluster-directory.js';
import { DEFAULT_MASTER_PORT } from './paths.js';
import { cairnCommand } from './program-name.js';

export const DEFAULT_CHUNKSERVERS = 3;
export const DEFAULT_REPLICAS = 2;

export interface Wanted {
  readonly directory: string;
  readonly mountpoint: string;
  readonly chunkservers?: number;
  readonly replicas?: number;
  readonly port?: number;
}

export interface Observed {
  /** What was started in the directory before; undefined for a new cluster. */
  readonly before: ClusterDescription | undefined;
  /** The directory holds files, though no cluster was started there. */
  readonly foreignFiles: boolean;
  readonly masterRuns: boolean;
  /** For chunkserver 1, 2 … of `before`. */
  readonly chunkserversRun: readonly boolean[];
  readonly mountRuns: boolean;
  /** What is on the mountpoint now. */
  readonly mounted: 'nothing' | 'this cluster' | 'another file system' | 'a dead mount';
  /** Of the mount of this cluster. */
  readonly mountHealth?: MountHealth;
}

export interface Plan {
  readonly description: ClusterDescription;
  readonly startMaster: boolean;
  /** Nobody chose the master's port: if another program has it, another one will do. */
  readonly anyPort: boolean;
  /** Numbers from 1. */
  readonly startChunkservers: readonly number[];
  readonly mount: boolean;
}

/** True when everything runs already. */
export const nothingToDo = (plan: Plan): boolean =>
  !plan.startMaster && plan.startChunkservers.length === 0 && !plan.mount;

export function planUp(wanted: Wanted, observed: Observed): Plan {
  const { before } = observed;
  const { directory, mountpoint } = wanted;
  if (before === undefined && observed.foreignFiles) {
    refuse('ENOTEMPTY', `${directory} has files that are not a cluster's: give another --data`);
  }
  const count =
    wanted.chunkservers ?? before?.chunkservers.length ?? Math.max(DEFAULT_CHUNKSERVERS, wanted.replicas ?? 0);
  const replicas = wanted.replicas ?? before?.replicas ?? Math.min(DEFAULT_REPLICAS, count);
  if (before !== undefined && count < before.chunkservers.length) {
    const had = before.chunkservers.length;
    refuse(
      'EINVAL',
      `the data in ${directory} lies on ${had} chunkservers: give --chunkservers ${had} or more, or another --data`,
    );
  }
  if (replicas > count) {
    refuse('EINVAL', `${replicas} replicas need as many chunkservers, not ${count}: give --chunkservers ${replicas}`);
  }
  const remedy = cairnCommand('down', before?.mountpoint ?? mountpoint);
  if (before !== undefined && before.mountpoint !== mountpoint && observed.mountRuns) {
    refuse(
      'EBUSY',
      `the cluster in ${directory} is mounted on ${before.mountpoint}: ${remedy} first, or give another --data`,
    );
  }
  if (before !== undefined && observed.masterRuns) {
    if (replicas !== before.replicas) {
      refuse(
        'EBUSY',
        `the master runs with ${before.replicas} replicas: ${remedy} first, then up with --replicas ${replicas}`,
      );
    }
    if (wanted.port !== undefined && portOf(before.master) !== wanted.port) {
      refuse('EBUSY', `the master listens at ${before.master}: ${remedy} first, then up with --port ${wanted.port}`);
    }
  }
  if (observed.mounted === 'another file system') {
    refuse('EBUSY', `something else is mounted on ${mountpoint}: unmount it, or choose another directory`);
  }
  const mountServes = observed.mounted === 'this cluster' && observed.mountRuns;
  if (
    mountServes &&
    observed.mountHealth === 'silent' &&
    observed.masterRuns &&
    !observed.chunkserversRun.includes(false)
  ) {
    refuse('ETIMEDOUT', `the mount ${mountpoint} does not answer: see ${directory}/mount/log, then ${remedy}`);
  }
  const keep = wanted.port === undefined && before !== undefined;
  const chunkservers = Array.from({ length: count }, (_, i) => before?.chunkservers[i] ?? '127.0.0.1:0');
  return {
    description: {
      master: keep ? before.master : `127.0.0.1:${wanted.port ?? DEFAULT_MASTER_PORT}`,
      replicas,
      chunkservers,
      mountpoint,
    },
    startMaster: !observed.masterRuns,
    anyPort: wanted.port === undefined && before === undefined,
    startChunkservers: chunkservers
      .map((_, i) => i + 1)
      .filter((number) => observed.chunkserversRun[number - 1] !== true),
    mount: !mountServes,
  };
}

const portOf = (address: string): number => Number(address.slice(address.lastIndexOf(':') + 1));

function refuse(code: CairnError['code'], message: string): never {
  throw new CairnError(code, message);
}
