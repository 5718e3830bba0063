/** `cairn down`: unmounts and stops what `up` started. The data stays. */
import { dirname } from 'node:path';
import { CairnError } from '../../core/errors.js';
import { isCairnMount, mountedOn, mountpointPath, probe, unmountPath } from '../../fuse/mountpoint.js';
import { ClusterDirectory } from '../machine/cluster-directory.js';
import { note, print } from '../command.js';
import type { Command } from '../command.js';
import { removeCommandLink } from '../machine/command-link.js';
import { forgetCluster, localClusters } from '../machine/local-clusters.js';
import { findMount, forgetMount } from '../machine/mount-registry.js';
import { defaultDataDirectory } from '../machine/paths.js';
import { cairnCommand, shellWord } from '../machine/program-name.js';
import { stopIn } from '../machine/process-control.js';
import { unmountAndFlush } from './umount.js';
import { DOWN_STOP_GRACE_MS, DOWN_PROBE_TIMEOUT_MS } from '../../core/limits.js';

export const downCommand: Command = {
  name: 'down',
  summary: 'unmount and stop the cluster that `up` started; the data stays',
  arguments: [{ syntax: '<mountpoint>', description: 'as given to up' }],
  options: [
    { flags: '--data <dir>', description: 'where the data is, if that is not known any more' },
    { flags: '--force', description: 'also when programs use the mount, or it does not answer' },
    { flags: '--remove', description: 'also take away the link to the command `cairn`; the data stays' },
  ],
  examples: ['cairn down /mnt/cairn', 'cairn down --force /mnt/cairn', 'cairn down --remove /mnt/cairn'],
  async run([path = ''], options) {
    const mountpoint = await mountpointPath(path);
    const directory = await findDirectory(mountpoint, options.text('data'));
    const description = await directory?.describe();
    if (directory === undefined || description === undefined) {
      throw new CairnError('ENOENT', await whyUnknown(mountpoint));
    }
    if (description.mountpoint !== mountpoint) {
      const right = cairnCommand('down', description.mountpoint);
      throw new CairnError('EINVAL', `the cluster in ${directory.path} is that of ${description.mountpoint}: ${right}`);
    }
    const wasMounted = await takeMountAway(mountpoint, options.flag('force'));
    const stopped = await stopAll(directory, description.chunkservers.length);
    const remove = options.flag('remove');
    if (remove) await removeTraces(directory, mountpoint);
    // Without it, another cluster would be made where the data is by default.
    const data = directory.path === defaultDataDirectory() ? [] : ['--data', directory.path];
    const again = cairnCommand('up', mountpoint, ...data);
    if (!wasMounted && stopped === 0) {
      print(`not up: nothing runs for ${mountpoint}; its data is in ${directory.path}; to use it: ${again}`);
    } else print(`down: ${mountpoint} is unmounted, its data stays in ${directory.path}; to use it: ${again}`);
    if (remove) print(`to delete its data for ever: rm -r ${shellWord(directory.path)}`);
    return 0;
  },
};

/** What `up` put outside the data directory. The link stays while another cluster of this user runs. */
async function removeTraces(directory: ClusterDirectory, mountpoint: string): Promise<void> {
  await forgetMount(mountpoint);
  await forgetCluster(directory);
  const other = (await localClusters()).find(({ running }) => running);
  if (other !== undefined) {
    print(`the link stays, since the cluster on ${other.description.mountpoint} runs`);
    return;
  }
  const link = await removeCommandLink();
  if (link !== undefined) print(`removed the link ${link}`);
}

async function findDirectory(mountpoint: string, given: string | undefined): Promise<ClusterDirectory | undefined> {
  if (given !== undefined) return new ClusterDirectory(given);
  const record = await findMount(mountpoint);
  if (record !== undefined) {
    const directory = new ClusterDirectory(dirname(record.processDirectory));
    if ((await directory.describe())?.mountpoint === mountpoint) return directory;
  }
  return (await localClusters()).find(({ description }) => description.mountpoint === mountpoint)?.directory;
}

async function whyUnknown(mountpoint: string): Promise<string> {
  const entry = await mountedOn(mountpoint);
  if (entry !== undefined && isCairnMount(entry)) {
    const unmount = cairnCommand('umount', mountpoint);
    return `${mountpoint} is a mount that up did not start, or another user: ${unmount}, or run this as that user`;
  }
  const known = (await localClusters()).map(({ description }) => cairnCommand('down', description.mountpoint));
  const instead = known.length === 0 ? 'none was started by this user' : `there is: ${known.join(', ')}`;
  return `no cluster is known for ${mountpoint}: ${instead}; or give the --data that was given to up`;
}

/** Returns whether there was a mount. Fails, with everything left as it is, when it is in use. */
async function takeMountAway(mountpoint: string, force: boolean): Promise<boolean> {
  const entry = await mountedOn(mountpoint);
  if (entry === undefined || !isCairnMount(entry)) return false;
  const health = await probe(mountpoint, DOWN_PROBE_TIMEOUT_MS);
  if (health === 'dead' || (force && health === 'silent')) {
    await unmountPath(mountpoint, 'lazy');
  } else if (health === 'silent') {
    throw new CairnError(
      'ETIMEDOUT',
      `the mount ${mountpoint} does not answer: ${cairnCommand('down', '--force', mountpoint)}`,
    );
  } else {
    await unmountAndFlush(mountpoint, force, cairnCommand('down', '--force', mountpoint));
  }
  return true;
}

/** The mount first, because its last writes need the others; the master last. Returns how many ran. */
async function stopAll(directory: ClusterDirectory, chunkservers: number): Promise<number> {
  const numbers = Array.from({ length: chunkservers }, (_, i) => i + 1);
  let count = 0;
  for (const group of [[directory.mount], numbers.map((i) => directory.chunkserver(i)), [directory.master]]) {
    const outcomes = await Promise.all(
      group.map(async (where) => [where, await stopIn(where, DOWN_STOP_GRACE_MS)] as const),
    );
    for (const [where, outcome] of outcomes) {
      if (outcome !== 'not running') count++;
      if (outcome === 'killed') note(`cairn down: ${where} did not stop by itself and was killed; see its log`);
    }
  }
  return count;
}
