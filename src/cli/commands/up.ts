/**
 * `cairn up`: a whole cluster on this machine, in the background, mounted. Again: brings back what is missing. Three steps: `observe`
 * what runs, decide what is missing (machine/up-plan.ts), `carryOut`.
 */
import { access, constants } from 'node:fs/promises';
import { createServer } from 'node:net';
import { sleep } from '../../core/clock.js';
import { ROOT_CREDENTIALS } from '../../filesystem/filesystem.js';
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';
import { ROOT_INODE } from '../../core/ids.js';
import {
  MAX_LOCAL_CHUNKSERVERS,
  MAX_REPLICAS,
  UP_REGISTERED_TIMEOUT_MS,
  UP_START_TIMEOUT_MS,
  UP_STOP_GRACE_MS,
} from '../../core/limits.js';
import {
  checkFuseDevice,
  isCairnMount,
  mountedOn,
  mountpointPath,
  prepareMountpoint,
  probe,
} from '../../fuse/mountpoint.js';
import { silentLogger } from '../../core/logging/logger.js';
import { watched } from '../../core/sync.js';
import { ClusterDirectory } from '../machine/cluster-directory.js';
import type { ClusterDescription } from '../machine/cluster-directory.js';
import type { ClusterAddress } from '../cluster-address.js';
import { describe, note, print } from '../command.js';
import type { Command } from '../command.js';
import { makeCommandLink } from '../machine/command-link.js';
import { clock, withCluster } from '../compose.js';
import { LOCAL_CLUSTERS_FILE, localClusters, recordCluster } from '../machine/local-clusters.js';
import { callerCredentials } from '../trees/locations.js';
import { parseDriver, startMount } from './mount.js';
import { defaultDataDirectory } from '../machine/paths.js';
import { runningIn, startInBackground, stopIn } from '../machine/process-control.js';
import { cairnCommand } from '../machine/program-name.js';
import { readOrCreateSecret } from '../machine/secret.js';
import { nothingToDo, planUp } from '../machine/up-plan.js';
import type { Observed, Plan, Wanted } from '../machine/up-plan.js';
import { makeDirectories } from '../machine/make-directories.js';

const POLL_MS = 100;

export const upCommand: Command = {
  name: 'up',
  summary: 'start a cluster on this machine and mount it; keeps and brings back its data',
  arguments: [{ syntax: '<mountpoint>', description: 'an empty directory; it is made if need be' }],
  options: [
    { flags: '--chunkservers <n>', description: 'how many (default: 3, or as before)' },
    { flags: '--replicas <r>', description: 'chunkservers that keep each file (default: 2, or as before)' },
    { flags: '--data <dir>', description: `where the data is (default: ${defaultDataDirectory()})` },
    { flags: '--driver <name>', description: 'of the mount: kernel or fuse-native (see cairn mount --help)' },
    { flags: '--port <port>', description: "the master's port on 127.0.0.1 (default: 9420, or as before)" },
  ],
  examples: ['cairn up /mnt/cairn', 'cairn up /mnt/cairn --chunkservers 5 --replicas 3 --data /srv/cairn'],
  async run([path = ''], options) {
    const asked = {
      chunkservers: options.whole('chunkservers', { min: 1, max: MAX_LOCAL_CHUNKSERVERS }),
      replicas: options.whole('replicas', { min: 1, max: MAX_REPLICAS }),
      port: options.whole('port', { min: 1, max: 65_535 }),
    };
    const driver = parseDriver(options.text('driver'));
    await checkFuseDevice();
    const mountpoint = await madeMountpoint(path);
    const directory = new ClusterDirectory(options.text('data') ?? (await dataOf(mountpoint)));
    const wanted: Wanted = { directory: directory.path, mountpoint, ...dropUndefined(asked) };
    const plan = planUp(wanted, await observe(directory, mountpoint));
    const driverOptions = driver === undefined ? [] : ['--driver', driver];
    const description = nothingToDo(plan) ? plan.description : await carryOut(plan, directory, driverOptions);
    await recordCluster(directory);
    // Only `scripts/up` of a clone has a command that the shell may not find.
    const link = process.env['CAIRN_SCRIPT'] ? await makeCommandLink(mountpoint) : [];
    print(`${nothingToDo(plan) ? 'already up' : 'up'}: ${describeCluster(directory, description, link)}`);
    return 0;
  },
};

/** Where the data of a mountpoint is that was used before; else where it is by default. */
async function dataOf(mountpoint: string): Promise<string> {
  const known = (await localClusters()).find(({ description }) => description.mountpoint === mountpoint);
  return known?.directory.path ?? defaultDataDirectory();
}

async function madeMountpoint(path: string): Promise<string> {
  try {
    return await mountpointPath(path);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    await makeDirectories(path).catch((error: unknown) => {
      const { code } = asCairnError(error);
      const remedy =
        code === 'EACCES' ? 'choose a directory of yours, such as ~/cairn, or run this as root' : describe(error);
      throw new CairnError(code, `cannot make the directory ${path}: ${remedy}`, { cause: error });
    });
    return mountpointPath(path);
  }
}

function dropUndefined<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

function describeCluster(
  directory: ClusterDirectory,
  { master, mountpoint, chunkservers, replicas }: ClusterDescription,
  link: readonly string[],
): string {
  const servers = `${chunkservers.length} chunkserver${chunkservers.length === 1 ? '' : 's'}`;
  return [
    `${mountpoint} is CairnFS on ${servers}, each file on ${replicas}`,
    `  master         ${master}`,
    `  data and logs  ${directory.path}`,
    `  health         ${cairnCommand('status')}`,
    `  to stop        ${cairnCommand('down', mountpoint)}`,
    ...link.map((line, i) => (i === 0 ? `  the command    ${line}` : `                 ${line}`)),
  ].join('\n');
}

async function observe(directory: ClusterDirectory, mountpoint: string): Promise<Observed> {
  const before = await directory.describe();
  const known = ['cluster.secret', 'mounts', LOCAL_CLUSTERS_FILE];
  const foreignFiles = before === undefined && (await directory.names()).some((name) => !known.includes(name));
  const chunkserversRun: boolean[] = [];
  for (const i of before?.chunkservers.keys() ?? []) {
    chunkserversRun.push((await runningIn(directory.chunkserver(i + 1))) !== undefined);
  }
  const mountRuns = (await runningIn(directory.mount)) !== undefined;
  const masterRuns = (await runningIn(directory.master)) !== undefined;
  const state = { before, foreignFiles, masterRuns, chunkserversRun, mountRuns };
  const entry = await mountedOn(mountpoint);
  if (entry === undefined || mountpoint === '/') return { ...state, mounted: 'nothing' };
  if (!isCairnMount(entry)) return { ...state, mounted: 'another file system' };
  const mountHealth = await probe(mountpoint);
  if (mountHealth === 'dead') return { ...state, mounted: 'a dead mount' };
  const ours = mountRuns && before?.mountpoint === mountpoint;
  return { ...state, mounted: ours ? 'this cluster' : 'another file system', mountHealth };
}

/** Starts what the plan says. When a step fails, or somebody interrupts it, what this call started is stopped again. */
async function carryOut(
  plan: Plan,
  directory: ClusterDirectory,
  mountOptions: readonly string[],
): Promise<ClusterDescription> {
  const interrupted = noteInterrupts();
  const started: string[] = [];
  const start = async (where: string, args: readonly string[]): Promise<string> => {
    const address = await startInBackground(where, args, UP_START_TIMEOUT_MS);
    started.push(where);
    return address;
  };
  try {
    await makeWritable(directory.path);
    await readOrCreateSecret(directory.secretFile);
    if (plan.mount) await prepareMountpoint(plan.description.mountpoint, silentLogger);
    const master = plan.startMaster
      ? await addressForMaster(plan.description.master, plan.anyPort)
      : plan.description.master;
    // From here on `down` and the next `up` know what there is, whatever becomes of this one.
    await directory.write({ ...plan.description, master });
    const startMaster = async (): Promise<void> => {
      const replicas = ['--replicas', String(plan.description.replicas)];
      const args = ['master', ...common(directory.master, directory), '--listen', master, ...replicas];
      await start(directory.master, args);
    };
    const chunkservers = [...plan.description.chunkservers];
    const startChunkserver = async (number: number): Promise<void> => {
      const where = directory.chunkserver(number);
      const listen = await freeAddress(chunkservers[number - 1] ?? '127.0.0.1:0');
      const args = ['chunkserver', ...common(where, directory), '--master', master, '--listen', listen];
      chunkservers[number - 1] = await start(where, args);
    };
    // Servers try until they reach the master: nobody waits for another to start.
    await all([...(plan.startMaster ? [watched(startMaster())] : []), ...plan.startChunkservers.map(startChunkserver)]);
    const description = { ...plan.description, master, chunkservers };
    await directory.write(description);
    interrupted.check();
    const cluster = { master, secretFile: directory.secretFile };
    const mount = async (): Promise<void> => {
      await startMount(description.mountpoint, directory.mount, cluster, mountOptions);
      started.push(directory.mount);
    };
    await all([waitForChunkservers(cluster, chunkservers.length), ...(plan.mount ? [watched(mount())] : [])]);
    if (plan.startMaster) await giveRootToUser(cluster);
    interrupted.check();
    const health = await probe(description.mountpoint, UP_START_TIMEOUT_MS);
    if (health !== 'serving') {
      throw new CairnError('ETIMEDOUT', `the mount does not answer (${health}): see ${directory.mount}/log`);
    }
    return description;
  } catch (error) {
    for (const where of started.reverse()) await stopIn(where, UP_STOP_GRACE_MS);
    throw error;
  } finally {
    interrupted.ignore();
  }
}

/** Of the signals that end a program: what is being started would go on without it. A second one ends it all the same. */
function noteInterrupts(): { check(): void; ignore(): void } {
  let came: string | undefined;
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const listener = (signal: string): void => {
    if (came !== undefined) process.exit(1);
    came = signal;
    note('cairn up: interrupted: stopping what it started');
  };
  for (const name of names) process.on(name, listener);
  return {
    check: () => {
      if (came !== undefined) throw new CairnError('CANCELLED', `ended by ${came}; what it started is stopped`);
    },
    ignore: () => {
      for (const name of names) process.off(name, listener);
    },
  };
}

/** Waits for all to end, so that nothing is under way any more when the first failure is told. */
async function all(work: readonly Promise<void>[]): Promise<void> {
  const failure = (await Promise.allSettled(work)).find((result) => result.status === 'rejected');
  if (failure !== undefined) throw failure.reason;
}

const common = (where: string, directory: ClusterDirectory): string[] => [
  ...['--data', where],
  ...['--secret', directory.secretFile],
];

async function makeWritable(path: string): Promise<void> {
  try {
    await makeDirectories(path);
    await access(path, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code } = asCairnError(error);
    const why = describe(error).replace(/ \(\w+\)$/, '');
    throw new CairnError(code, `cannot write in ${path}: give another --data, or run as its owner (${why})`);
  }
}

/** Where the master can listen: there, or, when nobody chose that port, at any free one. */
async function addressForMaster(address: string, anyPort: boolean): Promise<string> {
  if (await canListen(address)) return address;
  if (anyPort) return address.replace(/:\d+$/, `:${await freePort()}`);
  const port = address.slice(address.lastIndexOf(':') + 1);
  throw new CairnError(
    'EBUSY',
    `another program listens on port ${port}: see 'ss -ltnp', or choose another with --port`,
  );
}

/** The address when nobody has it, else any free port of its host. */
async function freeAddress(address: string): Promise<string> {
  return (await canListen(address)) ? address : address.replace(/:\d+$/, ':0');
}

function freePort(): Promise<number> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

function canListen(address: string): Promise<boolean> {
  const colon = address.lastIndexOf(':');
  const server = createServer();
  return new Promise((resolve) => {
    server.on('error', () => resolve(false));
    server.listen(Number(address.slice(colon + 1)), address.slice(0, colon), () => {
      server.close(() => resolve(true));
    });
  });
}

/** The root of a new cluster is root's. What an ordinary user starts is that user's, who could not create anything otherwise. */
async function giveRootToUser(cluster: ClusterAddress): Promise<void> {
  const { uid, gid } = callerCredentials();
  if (uid === 0) return;
  await withCluster(cluster, async (fileSystem) => {
    const root = await fileSystem.getAttributes(ROOT_INODE);
    if (root.uid !== 0) return;
    await fileSystem.setAttributes(ROOT_CREDENTIALS, ROOT_INODE, { uid, gid });
  });
}

async function waitForChunkservers(cluster: ClusterAddress, count: number): Promise<void> {
  await withCluster(cluster, async (fileSystem) => {
    const deadline = clock.monotonicMs() + UP_REGISTERED_TIMEOUT_MS;
    for (;;) {
      const alive = (await fileSystem.status()).servers.filter((server) => server.alive).length;
      if (alive >= count) return;
      if (clock.monotonicMs() > deadline) {
        throw new CairnError('ETIMEDOUT', `only ${alive} of ${count} chunkservers registered: see their logs`);
      }
      await sleep(clock, POLL_MS);
    }
  });
}
