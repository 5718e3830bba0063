/**
 * What a target of the suite cannot do, case by case, and why. docs/posix.md says the same of the drivers. Whatever is not
 * listed here must pass.
 */
export interface Deviation {
  readonly reason: string;
  /** Names of cases. */
  readonly cases: readonly string[];
}

export const ONE_MACHINE_DEVIATIONS: readonly Deviation[] = [
  {
    reason: 'both clients are on one machine',
    cases: ['locks: F_GETLK says pid 0 of who is on another machine'],
  },
];

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
  ...ONE_MACHINE_DEVIATIONS,
];

/** What a mount by fuse-native cannot do: docs/fuse-native.md. */
const FUSE_NATIVE_DEVIATIONS: readonly Deviation[] = [
  {
    reason: 'the caller is not known',
    cases: [
      'symlink: any target, its length, EINVAL on others, limits',
      'create: made once, exclusive EEXIST, existing keeps its mode and content',
      'rename: permissions on both directories and on a directory that moves',
      'rename of a directory that may not be written, over what is there: which error comes first',
      'rename in sticky directories: only owners',
      'P12: open checks owner, group and others, the first that applies',
      'P12: adding and removing entries needs w and x on the directory',
      'P12: a directory without x hides everything below',
      'P12: sticky directories: unlink and rmdir by owners alone',
      'P12: create of an existing file checks the file, not the directory',
      'chmod: owner and root, every bit, EPERM for others',
      'chmod by an owner outside the group clears set-group-ID',
      'chown by the owner clears set-user-ID and set-group-ID of a program',
      'a set-group-ID directory gives its group, and to directories the bit',
      'setgid without x of the group goes when somebody outside the group changes the content, by fallocate too',
      'setuid and setgid go by who changes the content, whoever opened the file',
      'truncate: needs w, EISDIR, EINVAL, EFBIG',
      'an open file keeps its rights when the mode or the owner changes',
      'utimensat: the owner sets any time, who may write sets now, others nothing',
      'utimensat: now for one time alone is for the owner',
      'P12: xattrs: user. needs r and w, trusted. is for root, unknown namespaces are refused',
      'every kind: what is made has the times of now, the owner of its maker, and moves its directory',
      'P12: open: each of read, write and truncate needs its permission, of a file and of its directory',
    ],
  },
  {
    reason: 'times are whole milliseconds from 1970 on, and one time alone never arrives',
    cases: [
      'P12: every kind: chmod, chown and utimensat by the owner and uid 0, by nobody else, who leaves no trace',
      'utimensat: nanoseconds, before 1970, after 2106, now',
      'utimensat: a time beyond all that is kept becomes the last that is',
      'atime: moves with the first read after a change, and is not lost with the close',
      'utimensat after a write and before its close is not undone by the close',
    ],
  },
  {
    reason: 'an offset above 2^53 is EINVAL: it does not fit the numbers of JavaScript',
    cases: ['offsets up to 2^63: EFBIG for who writes there, the end of the file for who reads'],
  },
  {
    reason: 'the kernel itself takes setuid away before it asks for a write, also for one that is refused then',
    cases: ['a write of nothing, and one that is refused, takes no setuid away, nor does a write of root after it'],
  },
  {
    reason: 'devices are not opened: nodev',
    cases: ['a FIFO and a device that were removed serve whoever has them open'],
  },
  { reason: 'names must be UTF-8', cases: ['names: any bytes but / and NUL, up to NAME_MAX'] },
  {
    reason: 'libfuse goes by paths: hard links are several inodes to it',
    cases: [
      'rename over a hard link: of the same inode nothing happens, of another it loses a link',
      'times: what is known about an inode moves its ctime alone',
    ],
  },
  {
    reason: 'libfuse lists a directory whole when it is opened: a position holds within one open',
    cases: [
      'readDirectory: cookies stay valid while entries come and go',
      'readDirectory while it is emptied: rm -r in pages',
    ],
  },
  {
    reason: 'a directory with a removed file that is still open cannot be removed',
    cases: [
      'open files after rmdir of their directory',
      'a directory that was removed is there for who has it open: without names, and it gets none',
    ],
  },
  {
    reason: 'no flags of rename',
    cases: [
      'rename NOREPLACE and EXCHANGE',
      'rename WHITEOUT leaves a device 0,0 at the old name',
      'NOREPLACE renames onto one name by two clients at once: one gets it, the other keeps its own',
    ],
  },
  {
    reason: 'no lseek for data and holes: all is data to the kernel',
    cases: [
      'P5: seek: data is never called a hole, chunks that are not there are; the end of file is one',
      'P5: seek: what was written by a mapping that nobody synced is data',
    ],
  },
  {
    reason: 'no fallocate',
    cases: [
      'fallocate: extends the size, or keeps it; the bytes stay',
      'fallocate of more than there is room for: ENOSPC, and nothing changed',
      'P5: a punched hole reads as zeros, for all, and again after the size grew over it',
      'P5: whole chunks are punched out of the middle of a file that two clients have open',
      'P5: zero range: zeros, with and without a new size',
      'fallocate clears set-user-ID as a write does',
      'fallocate up to 2^63: EFBIG',
    ],
  },
  {
    reason: 'no file capabilities',
    cases: ['writing and truncating by another than root clears set-user-ID, set-group-ID and capabilities'],
  },
  {
    reason: 'no ACLs',
    cases: [
      'P12: an ACL decides by owner, named user, any group that fits, others',
      'P12: an ACL on a directory opens and shuts what is below',
      'ACL: the mode and the list follow each other',
      'ACL: what is no list is refused, and who is no owner',
      'ACL: an owner outside the group loses setgid by setting a list',
      'ACL: a write before a list is set takes nothing away after it',
      'ACL: a default list is inherited in place of the umask',
    ],
  },
  {
    reason: 'no O_TMPFILE',
    cases: [
      'O_TMPFILE: a file without a name, which goes with its last close',
      'O_TMPFILE: link gives it a name, once it has one it is a file like any',
      'O_TMPFILE: refusals: O_EXCL forbids a name, the directory decides who may',
    ],
  },
  {
    reason: 'locks hold within one mount',
    cases: [
      'locks: readers share, a writer excludes, in one client and between two',
      'locks: F_GETLK tells the lock in the way, and of whom',
      'locks: F_GETLK says pid 0 of who is on another machine',
      'locks: ranges split, merge, change their type',
      'locks: kinds, owners and files do not meet',
      'locks: who waits gets the lock in the order of asking',
      'locks: a wait ends with EINTR, and nothing is held then',
      'locks: EDEADLK only for a circle',
      'flock: shared and exclusive, and a change drops what was held',
      'locks: releasing an owner frees all that it holds, for who waits too',
      'P2: who gets a lock sees what its last holder wrote',
      'P2: a copy ends where the file ends when it is locked, not where it ended before',
    ],
  },
];

/** What open file description locks are not, on whatever file system. */
export const DESCRIPTION_LOCK_DEVIATIONS: readonly Deviation[] = [
  {
    reason: 'an open file description has no pid',
    cases: [
      'locks: F_GETLK tells the lock in the way, and of whom',
      'locks: F_GETLK says pid 0 of who is on another machine',
    ],
  },
  {
    reason: 'an owner is one open file: a circle over two files is none',
    cases: ['locks: EDEADLK only for a circle'],
  },
];

/** What mounts cannot do, by driver. */
export const DRIVER_DEVIATIONS: Readonly<Record<'kernel' | 'fuse-native', readonly Deviation[]>> = {
  kernel: [],
  'fuse-native': FUSE_NATIVE_DEVIATIONS,
};
