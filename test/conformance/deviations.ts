/**
 * What a target of the suite cannot do, case by case, and why. docs/posix.md says the same of the drivers. Whatever is not
 * listed here must pass.
 */
export interface Deviation {
  readonly reason: string;
  /** Names of cases. */
  readonly cases: readonly string[];
}

/** A local disk, ext4 or another. */
export const LOCAL_DEVIATIONS: readonly Deviation[] = [
  {
    reason: 'ext4 keeps the xattrs of a file in one block',
    cases: ['xattrs: limits, binary values, and they follow the inode'],
  },
  {
    reason: 'ext4 files are smaller than 16 TiB',
    cases: ['data: large offsets, up to the largest file'],
  },
  {
    reason: 'ext4 allocates what there is before it fails',
    cases: ['fallocate of more than there is room for: ENOSPC, and nothing changed'],
  },
  {
    reason: 'both clients are on one machine',
    cases: ['locks: F_GETLK says pid 0 of who is on another machine'],
  },
];
