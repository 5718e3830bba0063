/** The conformance suite on mounts, over each driver: two mounts of one cluster are its two clients. */
import { chmod } from 'node:fs/promises';
import t from 'tap';
import { DRIVERS } from '../../src/cli/commands/mount.js';
import { lockCases } from '../conformance/cases/locks.js';
import { DESCRIPTION_LOCK_DEVIATIONS, DRIVER_DEVIATIONS, ONE_MACHINE_DEVIATIONS } from '../conformance/deviations.js';
import { directoryHost } from '../conformance/directory-host.js';
import { fileSystemConformance } from '../conformance/filesystem-suite.js';
import { ProcessCluster } from '../support/process-cluster.js';

const skip = process.getuid?.() !== 0 && 'only root may become other users';

for (const driver of DRIVERS) {
  await t.test(`${driver}: the conformance suite`, { skip }, async (t) => {
    const cluster = await ProcessCluster.start(t, { chunkservers: 2, driver });
    const [one, two] = [await cluster.mount(0), await cluster.mount(1)];
    // Other users must be able to reach the mounts for their permissions in it to be tried.
    await chmod(cluster.directory.path, 0o711);
    await fileSystemConformance(t, () => directoryHost(one, two), { deviations: DRIVER_DEVIATIONS[driver] });
    if (driver === 'kernel') {
      const options = { deviations: DESCRIPTION_LOCK_DEVIATIONS, only: lockCases, prefix: 'description' };
      await fileSystemConformance(t, () => directoryHost(one, two, { locks: 'description' }), options);
    } else {
      const options = { deviations: ONE_MACHINE_DEVIATIONS, only: lockCases, prefix: 'one-mount' };
      await fileSystemConformance(t, () => directoryHost(one, one), options);
    }
  });
}
