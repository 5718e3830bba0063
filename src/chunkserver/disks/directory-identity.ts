/**
 * What a data directory says of itself: the file `identity`. It knows the other data directories of its chunkserver, so
 * that a disk which is not mounted is missed, and its empty mount point is not taken for a new disk.
 */
import { CairnError } from '../../core/errors.js';

export interface Identity {
  readonly clusterId: string;
  readonly serverId: number;
  /** The id that it had before it was removed from the cluster and joined anew. */
  readonly before?: number;
}

/** A data directory of this server: the one with this id, and where it was last. */
export interface KnownDisk {
  readonly id: string;
  readonly path: string;
}

/** All data directories of a server. Of two lists the one that was changed more often is the newer one. */
export interface DiskList {
  readonly changes: number;
  readonly disks: readonly KnownDisk[];
}

/** `disk` and `list` are missing in what older versions wrote. */
export interface StoredIdentity extends Identity {
  readonly disk: string | undefined;
  readonly list: DiskList | undefined;
}

/** Of a data directory. What older versions wrote is taken over, and refused by them from then on. */
const FORMAT = 2;
const KNOWN_FORMATS: readonly unknown[] = [1, FORMAT];

export function encodeIdentity({ clusterId, serverId, before, disk, list }: StoredIdentity): object {
  return { format: FORMAT, clusterId, serverId, before, disk, changes: list?.changes, disks: list?.disks };
}

export function parseIdentity(
  value: Readonly<Record<string, unknown>> | undefined,
  path: string,
): StoredIdentity | undefined {
  if (value === undefined) return undefined;
  const { format, clusterId, serverId, before, disk, changes, disks } = value;
  const isKnown = KNOWN_FORMATS.includes(format) && typeof clusterId === 'string' && Number.isSafeInteger(serverId);
  if (!isKnown) throw new CairnError('EINVAL', `${path}/identity was not written by this version of CairnFS`);
  const renewed = typeof before === 'number' ? { before } : {};
  const identity = { clusterId, serverId: Number(serverId), ...renewed };
  if (disk === undefined) return { ...identity, disk: undefined, list: undefined };
  if (typeof disk !== 'string' || !Number.isSafeInteger(changes) || !Array.isArray(disks) || !disks.every(isDisk)) {
    throw new CairnError('EINVAL', `${path}/identity has no list of disks that can be read`);
  }
  return { ...identity, disk, list: { changes: Number(changes), disks } };
}

function isDisk(value: unknown): value is KnownDisk {
  if (typeof value !== 'object' || value === null) return false;
  const { id, path } = value as Record<string, unknown>;
  return typeof id === 'string' && typeof path === 'string';
}
