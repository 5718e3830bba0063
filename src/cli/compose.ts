/** The real world, for the parts that take it by constructor. */
import { hostname } from 'node:os';
import type { Chunkserver } from '../chunkserver/chunkserver.js';
import { ClusterFileSystem } from '../client/cluster-filesystem.js';
import type { ClusterFileSystemConfig } from '../client/connect.js';
import { SystemClock } from '../core/clock.js';
import { descriptorLimit, shareDescriptors, SpareDescriptors } from '../core/disk/descriptors.js';
import { MAX_UNPROVEN_OF_ADDRESS } from '../core/limits.js';
import { createLogger, silentLogger } from '../core/logging/logger.js';
import type { Logger, LogLevel } from '../core/logging/logger.js';
import { NodeBootNotes } from '../core/disk/node-boot-notes.js';
import { NodeDisk } from '../core/disk/node-disk.js';
import { SystemRandom } from '../core/random.js';
import type { LmdbStore } from '../master/store/lmdb-store.js';
import type { Master } from '../master/master.js';
import { WebSocketNetwork } from '../protocol/websocket.js';
import { UsageError } from './command.js';
import type { Options, OptionSpec } from './command.js';
import { logFile } from './machine/process-control.js';
import type { ClusterAddress } from './cluster-address.js';
import { readSecret } from './machine/secret.js';

export const clock = new SystemClock();

interface World {
  readonly clock: SystemClock;
  readonly random: SystemRandom;
  readonly network: WebSocketNetwork;
  readonly logger: Logger;
}

function world(logger: Logger): World {
  const { connections, unproven } = shareDescriptors(descriptorLimit());
  const unprovenOfAddress = Math.min(MAX_UNPROVEN_OF_ADDRESS, unproven);
  const network = new WebSocketNetwork({ connections, unproven, unprovenOfAddress });
  return { clock, random: new SystemRandom(), network, logger };
}

/** The world of a server: when its files want for descriptors, strangers' connections go. */
function serverWorld(logger: Logger): World & { readonly disk: NodeDisk; readonly bootNotes: NodeBootNotes } {
  const all = world(logger);
  const disk = new NodeDisk(new SpareDescriptors(() => all.network.shed()));
  return { ...all, disk, bootNotes: new NodeBootNotes() };
}

export async function makeMaster(
  logger: Logger,
  options: {
    readonly listen: string;
    readonly secret: Buffer;
    readonly storePath: string;
    readonly logDirectory: string;
    readonly wantedReplicas: number;
    readonly minReplicas: number;
    readonly checksState: boolean;
  },
): Promise<{ master: Master; store: LmdbStore }> {
  const { storePath, ...config } = options;
  // The roles are loaded by the commands that are one.
  const { LmdbStore } = await import('../master/store/lmdb-store.js');
  const { Master } = await import('../master/master.js');
  const deps = serverWorld(logger);
  const store = LmdbStore.open(storePath, deps.disk);
  return { master: new Master({ ...deps, store }, config), store };
}

export async function makeChunkserver(
  logger: Logger,
  config: {
    readonly listen: string;
    readonly advertise?: string;
    readonly master: string;
    readonly secret: Buffer;
    readonly dataDirectories: string[];
    readonly forgetDisks: readonly string[];
  },
): Promise<Chunkserver> {
  const { Chunkserver } = await import('../chunkserver/chunkserver.js');
  const maxOpenChunkFiles = shareDescriptors(descriptorLimit()).chunkFiles;
  return new Chunkserver(serverWorld(logger), { ...config, maxOpenChunkFiles });
}

/** A session with the cluster. Without `logger` it is silent, for commands that speak to a person. */
export async function connectTo(
  cluster: ClusterAddress,
  logger: Logger = silentLogger,
  tunables: Omit<ClusterFileSystemConfig, 'master' | 'secret' | 'clientName'> = {},
): Promise<ClusterFileSystem> {
  const secret = await readSecret(cluster.secretFile);
  const clientName = `${hostname()}:${process.pid}`;
  return ClusterFileSystem.connect(world(logger), { ...tunables, master: cluster.master, secret, clientName });
}

/** Runs `work` with a session, and ends the session whatever comes. */
export async function withCluster<T>(
  cluster: ClusterAddress,
  work: (fileSystem: ClusterFileSystem) => Promise<T>,
): Promise<T> {
  const fileSystem = await connectTo(cluster);
  try {
    return await work(fileSystem);
  } finally {
    await fileSystem.close();
  }
}

export const LOG_LEVEL_OPTION: OptionSpec = {
  flags: '--log-level <level>',
  description: 'debug, info, warn or error (default: info)',
};

/** `directory`: of the process, where its log is when it runs in the background. */
export function makeLogger(role: string, options: Options, directory: string): Logger {
  const level = options.text('logLevel') ?? 'info';
  if (!isLevel(level)) throw new UsageError(`--log-level must be debug, info, warn or error, not '${level}'`);
  return createLogger({ role, level, file: logFile(directory) });
}

const isLevel = (text: string): text is LogLevel => ['debug', 'info', 'warn', 'error'].includes(text);
