/** The mount suite on a mount, over each driver; fuse-native does without what its interface does not have. */
import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { DRIVERS } from '../../src/cli/mount.js';
import { TestCluster } from '../support/cluster.js';

const suite = fileURLToPath(new URL('../conformance/mount-suite.js', import.meta.url));
const LACKS = { kernel: '', 'fuse-native': 'identity,nanoseconds,binary-names,devices' } as const;

for (const driver of DRIVERS) {
  const skip = driver === 'kernel' && process.getuid?.() !== 0 && 'only root may mount by itself';
  t.test(`${driver}: the mount suite`, { skip }, async (t) => {
    const cluster = await TestCluster.start(t, { chunkservers: 2, mount: true, driver });
    // Other users must be able to reach the mount for their permissions in it to be tried.
    await chmod(cluster.directory.path, 0o711);
    const directory = join(cluster.mountpoint, 'suite');
    await mkdir(directory);
    await t.spawn(
      process.execPath,
      [suite, directory, `--without=${LACKS[driver]}`],
      {},
      `the mount suite on ${driver}`,
    );
  });
}
