/** `cairn mount`: serves a mountpoint, in the background unless told otherwise. */
import { join, resolve } from 'node:path';
import { asCairnError, CairnError } from '../../core/errors.js';
import { ROOT_INODE } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { isDirectory } from '../../core/mode.js';
import type { Credentials, FileSystem } from '../../filesystem/filesystem.js';
import { MappedFileSystem } from '../../filesystem/mapped-filesystem.js';
import { PathResolver } from '../../filesystem/paths.js';
import type { Driver, DriverOptions } from '../../fuse/driver.js';
import { serveMount } from '../../fuse/mount.js';
import {
  checkFuseDevice,
  isCairnMount,
  mayMount,
  mountedOn,
  mountpointPath,
  prepareMountpoint,
  remount,
} from '../../fuse/mountpoint.js';
import { clusterAddress, CLUSTER_OPTIONS } from '../cluster-address.js';
import type { ClusterAddress } from '../cluster-address.js';
import { print, UsageError } from '../command.js';
import type { Command, Options } from '../command.js';
import { clock, connectTo, LOG_LEVEL_OPTION, makeLogger } from '../compose.js';
import { tuneForStreaming } from '../machine/garbage-collection.js';
import { parseMountOptions } from '../mount-options.js';
import type { MountOptions } from '../mount-options.js';
import { recordMount } from '../machine/mount-registry.js';
import { defaultDataDirectory } from '../machine/paths.js';
import { claimDirectory, leaveDirectory, startInBackground, tellReady } from '../machine/process-control.js';
import { cairnCommand } from '../machine/program-name.js';
import { DEFAULT_LEASES, LEASES, type Leases } from '../../client/session/holdings.js';
import { onStopSignal, watchForFaults } from '../machine/service.js';
import { DEFAULT_ENTRY_TIMEOUT_MS, MOUNT_START_TIMEOUT_MS } from '../../core/limits.js';

export const DRIVERS = ['kernel', 'fuse-native'] as const;
export type DriverName = (typeof DRIVERS)[number];

export const mountCommand: Command = {
  name: 'mount',
  summary: 'mount a cluster on a directory',
  arguments: [{ syntax: '<mountpoint>', description: 'an existing directory' }],
  options: [
    ...CLUSTER_OPTIONS,
    { flags: '-f, --foreground', description: 'stay in the foreground and log to stderr' },
    { flags: '--data <dir>', description: "directory for the mount's pid and log" },
    { flags: '--allow-other', description: 'other users may use the mount (default for root)' },
    { flags: '--no-allow-other', description: 'only this user may use the mount' },
    {
      flags: '--attribute-timeout <seconds>',
      description:
        'how long the kernel may answer stat from memory (default: 1, and 0 for files written here; with fuse-native 0)',
    },
    { flags: '--driver <name>', description: `${DRIVERS.join(' or ')} (default: kernel for root, who may mount)` },
    { flags: '--entry-timeout <seconds>', description: 'how long the kernel may believe a name (default: 1)' },
    {
      flags: '--cache-timeout <seconds>',
      description: 'how long the mount itself may believe names and attributes (default: 1)',
    },
    {
      flags: '--leases <which>',
      description: `none, or shared: what is remembered is recalled before others change it, and never old (default: ${DEFAULT_LEASES})`,
    },
    {
      flags: '-o, --options <list>',
      description: 'as mount(8): ro, noatime, …, subdir=DIRECTORY of the cluster, and the options above without --',
      repeatable: true,
    },
    LOG_LEVEL_OPTION,
  ],
  examples: [
    'cairn mount /mnt/cairn --master 10.0.0.1:9420 --secret /etc/cairn.secret',
    'cairn mount ~/files --foreground',
    'cairn mount /mnt/home -o ro,noatime,subdir=/home',
  ],
  async run([path = ''], given) {
    const wanted = parseMountOptions(given.texts('options').join(','));
    if (wanted.remount) return remountWith(path, wanted);
    const options = given.withDefaults(wanted.options);
    const logger = makeLogger('mount', options, resolve(options.text('data') ?? '.'));
    const cluster = await clusterAddress(options);
    const timeouts = {
      attributeTimeoutMs: options.seconds('attributeTimeout'),
      entryTimeoutMs: options.seconds('entryTimeout') ?? DEFAULT_ENTRY_TIMEOUT_MS,
    };
    const cacheTtlMs = options.seconds('cacheTimeout');
    const leases = parseLeases(options.text('leases'));
    const driver = await chooseDriver(parseDriver(options.text('driver')));
    if (driver === 'fuse-native' && wanted.ids.squash !== 'none') {
      throw new UsageError(
        `-o ${wanted.ids.squash}_squash needs the kernel driver: fuse-native does not know who calls`,
      );
    }
    const allowOther = options.choice('allowOther') ?? process.getuid?.() === 0;
    await checkFuseDevice();
    const mountpoint = await prepareMountpoint(path, logger);
    const directory = resolve(options.text('data') ?? defaultProcessDirectory(mountpoint));
    if (!options.flag('foreground')) return mountInBackground(mountpoint, directory, cluster, options);

    tuneForStreaming();
    watchForFaults(logger);
    await claimDirectory(directory);
    try {
      const { subdirectory, noteReads, ids } = wanted;
      const cairn = await connectTo(cluster, logger, {
        noteReads,
        ...(cacheTtlMs !== undefined && { cacheTtlMs }),
        ...(leases !== undefined && { leases }),
      });
      const fileSystem = ids.isIdentity ? cairn : new MappedFileSystem(cairn, ids);
      const credentials = ownCredentials();
      const root = await directoryAt(cairn, credentials, subdirectory);
      const served = { source: cluster.master, mountpoint, fileSystem, root, credentials };
      const driverOptions = {
        ...served,
        allowOther,
        kernelChecks: ids.ownersTell,
        flags: wanted.flags,
        ...timeouts,
        clock,
        logger,
      };
      await recordMount({ mountpoint, ...cluster, subdirectory, processDirectory: directory });
      const end = await serveMount(await makeDriver(driver, driverOptions), mountpoint, {
        fileSystem,
        logger,
        onSignal: onStopSignal,
        onReady: () => tellReady(''),
      });
      if (end === 'detached') {
        await leaveDirectory(directory);
        // All is flushed. A usual exit would wait for the threads that wait for the kernel's requests.
        process.kill(process.pid, 'SIGKILL');
      }
      return 0;
    } catch (error) {
      logger.error({ code: asCairnError(error).code, mountpoint }, asCairnError(error).message);
      throw error;
    } finally {
      await leaveDirectory(directory);
    }
  },
};

/** ENOENT or ENOTDIR unless `path` leads to a directory of the cluster. */
async function directoryAt(fileSystem: FileSystem, credentials: Credentials, path: string): Promise<InodeId> {
  if (path === '/') return ROOT_INODE;
  const { attributes } = await new PathResolver(fileSystem, credentials).resolve(path, true);
  if (!isDirectory(attributes.mode))
    throw new CairnError('ENOTDIR', `subdir=${path} is not a directory of the cluster`);
  return attributes.inode;
}

async function remountWith(path: string, { flags }: MountOptions): Promise<number> {
  const mountpoint = await mountpointPath(path);
  const entry = await mountedOn(mountpoint);
  if (entry === undefined || !isCairnMount(entry)) {
    throw new CairnError('EINVAL', `no CairnFS is mounted on ${mountpoint}`);
  }
  await remount(mountpoint, flags);
  return 0;
}

function parseLeases(text: string | undefined): Leases | undefined {
  if (text === undefined) return undefined;
  const leases = LEASES.find((name) => name === text);
  if (leases === undefined) throw new UsageError(`--leases must be ${LEASES.join(' or ')}, not '${text}'`);
  return leases;
}

/** Undefined when none was asked for. */
export function parseDriver(text: string | undefined): DriverName | undefined {
  if (text === undefined) return undefined;
  const driver = DRIVERS.find((name) => name === text);
  if (driver === undefined) throw new UsageError(`--driver must be ${DRIVERS.join(' or ')}, not '${text}'`);
  return driver;
}

async function chooseDriver(asked: DriverName | undefined): Promise<DriverName> {
  return asked ?? ((await mayMount()) ? 'kernel' : 'fuse-native');
}

/** Loads only the driver that is used: libfuse may be missing, and `up` starts mounts without being one. */
async function makeDriver(name: DriverName, options: DriverOptions): Promise<Driver> {
  options.logger.info({ driver: name }, 'driver of the mount');
  if (name === 'kernel') return new (await import('../../fuse/kernel/driver.js')).KernelDriver(options);
  return new (await import('../../fuse/native/fuse-native-driver.js')).FuseNativeDriver(options);
}

function defaultProcessDirectory(mountpoint: string): string {
  return join(defaultDataDirectory(), 'mounts', encodeURIComponent(mountpoint).slice(-200));
}

async function mountInBackground(
  mountpoint: string,
  directory: string,
  cluster: ClusterAddress,
  options: Options,
): Promise<number> {
  await startMount(mountpoint, directory, cluster, [
    ...passOn(options, 'attributeTimeout', '--attribute-timeout'),
    ...passOn(options, 'entryTimeout', '--entry-timeout'),
    ...passOn(options, 'cacheTimeout', '--cache-timeout'),
    ...passOn(options, 'leases', '--leases'),
    ...passOn(options, 'driver', '--driver'),
    ...options.texts('options').flatMap((text) => ['--options', text]),
    ...passOn(options, 'logLevel', '--log-level'),
    ...{ true: ['--allow-other'], false: ['--no-allow-other'], undefined: [] }[`${options.choice('allowOther')}`],
  ]);
  print(`mounted on ${mountpoint}; log ${join(directory, 'log')}; to end: ${cairnCommand('umount', mountpoint)}`);
  return 0;
}

function passOn(options: Options, name: string, flag: string): string[] {
  const value = options.text(name);
  return value === undefined ? [] : [flag, value];
}

/** Starts the process that serves the mount, and returns when the kernel has it. */
export async function startMount(
  mountpoint: string,
  directory: string,
  cluster: ClusterAddress,
  extra: readonly string[] = [],
): Promise<void> {
  const { master, secretFile } = cluster;
  const target = ['--data', directory, '--master', master, '--secret', resolve(secretFile), '--foreground', ...extra];
  await startInBackground(directory, ['mount', ...target, '--', mountpoint], MOUNT_START_TIMEOUT_MS);
}

function ownCredentials(): Credentials {
  return { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, groups: process.getgroups?.() ?? [] };
}
