/** Two mounts of the kernel driver, each with a process that works on it: this one must not wait for a mount. */
import { chmod } from 'node:fs/promises';
import type { Test } from 'tap';
import type { InodeId } from '../../src/core/ids.js';
import type { FileSystem } from '../../src/filesystem/filesystem.js';
import type { ProcessCluster } from '../support/process-cluster.js';
import { DirectoryFileSystem } from '../support/filesystems/directory-filesystem.js';

/** Why this cannot run here, or false. */
export const cannotMount = process.getuid?.() !== 0 && 'only root may mount by itself, and be other users';

/** Names and attributes are not believed at all: what one mount did, the other sees at once. */
export const ASK_ALWAYS = ['--entry-timeout', '0', '--attribute-timeout', '0', '--cache-timeout', '0'] as const;

export async function twoMounts(
  t: Test,
  cluster: ProcessCluster,
  options: readonly string[] = [],
): Promise<{ readonly mounts: FileSystem[]; readonly forget: (mount: number, inode: InodeId) => Promise<void> }> {
  // Other users must be able to reach the mounts.
  await chmod(cluster.directory.path, 0o711);
  const mounts: DirectoryFileSystem[] = [];
  for (const index of [0, 1]) {
    const mount = await DirectoryFileSystem.open(await cluster.mount(index, options));
    t.teardown(() => mount.close());
    mounts.push(mount);
  }
  return { mounts, forget: async (mount, inode) => mounts[mount]?.forgetInode(inode) };
}
