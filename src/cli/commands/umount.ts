/** `cairn umount`: takes a mount away; its process flushes and ends. */
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';
import { isCairnMount, mountedOn, mountpointPath, unmountPath } from '../../fuse/mountpoint.js';
import { print } from '../command.js';
import type { Command } from '../command.js';
import { findMount, forgetMount } from '../machine/mount-registry.js';
import { usersOf } from '../machine/mount-users.js';
import { cairnCommand } from '../machine/program-name.js';
import { tellToStop, waitUntilEnded } from '../machine/process-control.js';
import { UMOUNT_NOTICE_TIMEOUT_MS, UMOUNT_FLUSH_TIMEOUT_MS } from '../../core/limits.js';

export const umountCommand: Command = {
  name: 'umount',
  summary: 'unmount, after everything written is on the chunkservers',
  arguments: [{ syntax: '<mountpoint>', description: 'where it is mounted' }],
  options: [{ flags: '-l, --lazy', description: 'detach it now, and let programs that use it finish' }],
  examples: ['cairn umount /mnt/cairn', 'cairn umount --lazy /mnt/cairn'],
  async run([path = ''], options) {
    const mountpoint = await mountpointPath(path);
    const entry = await mountedOn(mountpoint);
    if (entry === undefined || !isCairnMount(entry)) {
      throw new CairnError('EINVAL', `no CairnFS is mounted on ${mountpoint}`);
    }
    const lazy = options.flag('lazy');
    await unmountAndFlush(mountpoint, lazy, cairnCommand('umount', '--lazy', mountpoint));
    await forgetMount(mountpoint);
    print(`${lazy ? 'detached' : 'unmounted'} ${mountpoint}`);
    return 0;
  },
};

/** Returns when the process that served the mount has flushed and ended; a lazy one may go on serving open files. */
export async function unmountAndFlush(mountpoint: string, lazy: boolean, forcing: string): Promise<void> {
  try {
    await unmountPath(mountpoint, lazy ? 'lazy' : 'clean');
  } catch (error) {
    if (!hasCode(error, 'EBUSY')) throw error;
    const users = await usersOf(mountpoint);
    const who = users.length > 0 ? ` by ${users.join(', ')}` : '';
    throw new CairnError('EBUSY', `${mountpoint} is in use${who}: end that first, or force it: ${forcing}`, {
      cause: asCairnError(error),
    });
  }
  const record = await findMount(mountpoint);
  if (lazy || record === undefined) return;
  // Another mount namespace (a container that started meanwhile) keeps a copy of the mount, and its process serving.
  if (!(await waitUntilEnded(record.processDirectory, UMOUNT_NOTICE_TIMEOUT_MS)))
    await tellToStop(record.processDirectory);
  if (!(await waitUntilEnded(record.processDirectory, UMOUNT_FLUSH_TIMEOUT_MS))) {
    throw new CairnError('ETIMEDOUT', `unmounted, but its process still flushes: see ${record.processDirectory}/log`);
  }
}
