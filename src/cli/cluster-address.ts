/** Which cluster a command means: its options, the environment, or what runs on this machine. */
import { CairnError } from '../core/errors.js';
import { ClusterDirectory } from './machine/cluster-directory.js';
import { checkAddress, note } from './command.js';
import type { Options, OptionSpec } from './command.js';
import { localClusters } from './machine/local-clusters.js';
import type { LocalCluster } from './machine/local-clusters.js';
import { MACHINE_DATA_DIRECTORY } from './machine/paths.js';
import { runningIn } from './machine/process-control.js';
import { cairnCommand } from './machine/program-name.js';

export interface ClusterAddress {
  /** host:port */
  readonly master: string;
  readonly secretFile: string;
}

export const CLUSTER_OPTIONS: readonly OptionSpec[] = [
  { flags: '--master <host:port>', description: 'where the master is (default: $CAIRN_MASTER, or the local cluster)' },
  { flags: '--secret <file>', description: "file with the cluster's secret (default: $CAIRN_SECRET_FILE)" },
];

/** For commands of a client: a local cluster may be named by its directory, too. */
export const CLIENT_OPTIONS: readonly OptionSpec[] = [
  ...CLUSTER_OPTIONS,
  { flags: '--data <dir>', description: 'data directory of a local cluster (default: of the one that runs)' },
];

/** The options that name the cluster, as they were given: for commands that messages tell to run. */
export function clusterWords(options: Options): string[] {
  return ['master', 'secret', 'data'].flatMap((name) => {
    const value = options.text(name);
    return value === undefined ? [] : [`--${name}`, value];
  });
}

export function clientCluster(options: Options): Promise<ClusterAddress> {
  return clusterAddress(options, options.text('data'));
}

export async function clusterAddress(options: Options, localDirectory?: string): Promise<ClusterAddress> {
  const master = options.address('master') ?? fromEnvironment('CAIRN_MASTER');
  if (master !== undefined) checkAddress(master, 'CAIRN_MASTER');
  const secretFile = options.text('secret') ?? fromEnvironment('CAIRN_SECRET_FILE');
  if (master !== undefined && secretFile !== undefined) return { master, secretFile };
  if (master !== undefined) return { master, secretFile: await secretOfLocal(master, localDirectory) };
  const { directory, description, running } = await chooseLocal(localDirectory);
  if (!running) {
    const again = cairnCommand('up', description.mountpoint, '--data', directory.path);
    throw new CairnError('UNAVAILABLE', `the cluster in ${directory.path} does not run: start it with ${again}`);
  }
  return { master: description.master, secretFile: secretFile ?? directory.secretFile };
}

async function chooseLocal(given: string | undefined): Promise<LocalCluster> {
  if (given !== undefined) {
    const directory = new ClusterDirectory(given);
    const description = await directory.describe();
    if (description === undefined) {
      const start = cairnCommand('up', 'MOUNTPOINT', '--data', directory.path);
      throw new CairnError('ENOENT', `no cluster was started in ${directory.path}: start one with ${start}`);
    }
    return { directory, description, running: (await runningIn(directory.master)) !== undefined };
  }
  const clusters = await localClusters();
  const [chosen, ...others] = clusters.some(({ running }) => running)
    ? clusters.filter(({ running }) => running)
    : clusters;
  if (chosen === undefined) throw new CairnError('ENOENT', await whyNone());
  if (others.length > 0) {
    const list = others.map(({ directory }) => directory.path).join(', ');
    note(`taking the cluster in ${chosen.directory.path}, started last; to take another give --data: ${list}`);
  }
  return chosen;
}

async function whyNone(): Promise<string> {
  const start = `start one with ${cairnCommand('up', 'MOUNTPOINT')}, or give --master HOST:PORT and --secret FILE`;
  const machines = process.getuid?.() === 0 ? [] : await localClusters(MACHINE_DATA_DIRECTORY);
  if (!machines.some(({ running }) => running)) return `which cluster? You started none on this machine: ${start}`;
  return `which cluster? The one that runs on this machine is root's: run this as root; or ${start}`;
}

/** A master of this machine needs no --secret: its directory has it. */
async function secretOfLocal(master: string, given: string | undefined): Promise<string> {
  const directories = given === undefined ? await localClusters() : [await chooseLocal(given)];
  const local = directories.find(({ description }) => description.master === master) ?? directories[0];
  if (local !== undefined) return local.directory.secretFile;
  throw new CairnError('ENOENT', `the master ${master} wants the cluster's secret: give --secret FILE`);
}

function fromEnvironment(name: string): string | undefined {
  return process.env[name] || undefined;
}
