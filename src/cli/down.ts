/** `cairn down`: unmounts and stops what `up` started. The data stays. */
import { dirname } from 'node:path';
import { CairnError } from '../core/errors.js';
import { isCairnMount, mountedOn, mountpointPath, probe, unmountPath } from '../fuse/mountpoint.js';
import { ClusterDirectory } from './cluster-directory.js';
import { note, print } from './command.js';
import type { Command } from './command.js';
import { findMount } from './mount-registry.js';
import { defaultDataDirectory } from './paths.js';
import { stopIn } from './process-control.js';
import { unmountAndFlush } from './umount.js';

/** After it a process is killed, which loses nothing that was acknowledged. */
const STOP_GRACE_MS = 20_000;
const PROBE_TIMEOUT_MS = 5_000;

export const downCommand: Command = {
  name: 'down',
  summary: 'unmount and stop the cluster that `up` started; the data stays',
  arguments: [{ syntax: '<mountpoint>', description: 'as given to up' }],
  options: [
    { flags: '--data <dir>', description: 'where the data is, if that is not known any more' },
    { flags: '--force', description: 'also when programs use the mount, or it does not answer' },
  ],
  examples: ['cairn down /mnt/cairn', 'cairn down --force /mnt/cairn'],
  async run([path = ''], options) {
    const mountpoint = await mountpointPath(path);
    const directory = await findDirectory(mountpoint, options.text('data'));
    const description = await directory?.describe();
    if (directory === undefined || description === undefined) {
      throw new CairnError('ENOENT', `no cluster is known for ${mountpoint}: is it the directory given to up?`);
    }
    if (description.mountpoint !== mountpoint) {
      throw new CairnError('EINVAL', `the cluster in ${directory.path} was mounted on ${description.mountpoint}`);
    }
    const wasMounted = await takeMountAway(mountpoint, options.flag('force'));
    const stopped = await stopAll(directory, description.chunkservers.length);
    if (!wasMounted && stopped === 0) print(`not up: nothing runs for ${mountpoint}; its data is in ${directory.path}`);
    else {
      // Without it, another cluster would be made where the data is by default.
      const data = directory.path === defaultDataDirectory() ? '' : ` --data ${directory.path}`;
      const again = `cairn up ${mountpoint}${data}`;
      print(`down: ${mountpoint} is unmounted, its data stays in ${directory.path}; to use it: ${again}`);
    }
    return 0;
  },
};

async function findDirectory(mountpoint: string, given: string | undefined): Promise<ClusterDirectory | undefined> {
  if (given !== undefined) return new ClusterDirectory(given);
  const record = await findMount(mountpoint);
  for (const path of [...(record === undefined ? [] : [dirname(record.processDirectory)]), defaultDataDirectory()]) {
    const directory = new ClusterDirectory(path);
    if ((await directory.describe())?.mountpoint === mountpoint) return directory;
  }
  return undefined;
}

/** Returns whether there was a mount. Fails, with everything left as it is, when it is in use. */
async function takeMountAway(mountpoint: string, force: boolean): Promise<boolean> {
  const entry = await mountedOn(mountpoint);
  if (entry === undefined || !isCairnMount(entry)) return false;
  const health = await probe(mountpoint, PROBE_TIMEOUT_MS);
  if (health === 'dead' || (force && health === 'silent')) {
    await unmountPath(mountpoint, 'lazy');
  } else if (health === 'silent') {
    throw new CairnError('ETIMEDOUT', `the mount ${mountpoint} does not answer: 'cairn down --force ${mountpoint}'`);
  } else {
    await unmountAndFlush(mountpoint, force, `cairn down --force ${mountpoint}`);
  }
  return true;
}

/** The mount first, because its last writes need the others; the master last. Returns how many ran. */
async function stopAll(directory: ClusterDirectory, chunkservers: number): Promise<number> {
  const numbers = Array.from({ length: chunkservers }, (_, i) => i + 1);
  let count = 0;
  for (const group of [[directory.mount], numbers.map((i) => directory.chunkserver(i)), [directory.master]]) {
    const outcomes = await Promise.all(
      group.map(async (where) => [where, await stopIn(where, STOP_GRACE_MS)] as const),
    );
    for (const [where, outcome] of outcomes) {
      if (outcome !== 'not running') count++;
      if (outcome === 'killed') note(`cairn down: ${where} did not stop by itself and was killed; see its log`);
    }
  }
  return count;
}
