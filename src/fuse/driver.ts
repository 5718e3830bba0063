/**
 * The seam between CairnFS and the kernel. A driver serves one mountpoint: it receives the kernel's requests and answers
 * them from a `FileSystem`, whose operations are inode-based, typed, and take the caller's credentials, just as the
 * kernel's are. So a driver is a translation and nothing else:
 *
 *   kernel request ──► driver: decode ──► FileSystem call ──► driver: encode, or `errnoOf` the error ──► kernel
 *
 * Whatever all drivers need is beside this file: `HandleTable` (open files by the number that the kernel holds),
 * linux.ts (flags, modes and kinds as Linux writes them), fault.ts (errors to errno), mountpoint.ts (what is mounted
 * where). mount.ts owns the life of a mount and knows drivers only by this interface.
 *
 * What a driver cannot get from its kernel interface (fuse-native: the caller, locks, fallocate …) it does without and
 * says so in docs. What no driver can answer yet belongs into `FileSystem` first, because locks, allocation and
 * change notifications are matters of the master; a driver then only passes them on.
 */
import type { Clock } from '../core/clock.js';
import type { InodeId } from '../core/ids.js';
import type { Logger } from '../core/logging/logger.js';
import type { Credentials, FileSystem } from '../filesystem/filesystem.js';

export interface DriverOptions {
  /** What mount(8) shows to be mounted: host:port of the master. */
  readonly source: string;
  /** An absolute path to an existing directory. */
  readonly mountpoint: string;
  readonly fileSystem: FileSystem;
  /** The directory that is the root of the mount. */
  readonly root: InodeId;
  /** On whose behalf calls are made when the driver does not learn the caller: those of this process. */
  readonly credentials: Credentials;
  /** Whether other users than the one who mounts may use it. */
  readonly allowOther: boolean;
  /**
   * Whether the kernel checks permissions too (default_permissions). Off where the owners that it sees say nothing of who
   * the caller is to the cluster.
   */
  readonly kernelChecks: boolean;
  /** Options of mount(8) for the kernel, such as 'ro': the last of a pair counts. */
  readonly flags: readonly string[];
  /**
   * How long the kernel may answer stat(2) from memory; the driver knows what is right when it is undefined. 0: it asks
   * each time, and the client's cache answers.
   */
  readonly attributeTimeoutMs: number | undefined;
  /** How long the kernel may believe that a name stands for the inode it knows. */
  readonly entryTimeoutMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface Driver {
  /** Resolves when the kernel has the mount and requests are served. */
  mount(): Promise<Mounted>;
}

export interface Mounted {
  /** Resolves when the kernel will send no more requests, whoever unmounted. Never rejects. */
  readonly closed: Promise<void>;
  /** Files that programs have open, for the operator. */
  openFiles(): number;
  /**
   * Asks the kernel to unmount; `closed` follows. 'clean' fails with EBUSY while a program uses the mount; 'lazy'
   * takes it out of the tree at once and lets open files finish.
   */
  unmount(mode: UnmountMode): Promise<void>;
}

export type UnmountMode = 'clean' | 'lazy';
