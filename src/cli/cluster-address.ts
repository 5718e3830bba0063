/** Which cluster a command means: its options, the environment, or what runs on this machine. */
import { CairnError } from '../core/errors.js';
import { ClusterDirectory } from './cluster-directory.js';
import { checkAddress } from './command.js';
import type { Options, OptionSpec } from './command.js';
import { defaultDataDirectory } from './paths.js';

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
  { flags: '--data <dir>', description: `data directory of a local cluster (default: ${defaultDataDirectory()})` },
];

export function clientCluster(options: Options): Promise<ClusterAddress> {
  return clusterAddress(options, options.text('data'));
}

export async function clusterAddress(
  options: Options,
  localDirectory = defaultDataDirectory(),
): Promise<ClusterAddress> {
  const master = options.address('master') ?? fromEnvironment('CAIRN_MASTER');
  if (master !== undefined) checkAddress(master, 'CAIRN_MASTER');
  const secretFile = options.text('secret') ?? fromEnvironment('CAIRN_SECRET_FILE');
  if (master !== undefined && secretFile !== undefined) return { master, secretFile };
  const directory = new ClusterDirectory(localDirectory);
  const local = await directory.describe();
  if (local === undefined && master === undefined) {
    throw new CairnError('ENOENT', `which cluster? None was started in ${directory.path}: give --master and --secret`);
  }
  if (local === undefined && secretFile === undefined) {
    throw new CairnError('ENOENT', `the master ${master ?? ''} wants the cluster's secret: give --secret FILE`);
  }
  return { master: master ?? local?.master ?? '', secretFile: secretFile ?? directory.secretFile };
}

function fromEnvironment(name: string): string | undefined {
  return process.env[name] || undefined;
}
