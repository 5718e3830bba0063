/** The control: a local directory passes the suite, so it is right about Linux. */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { LOCAL_DEVIATIONS } from './deviations.js';
import { directoryHost } from './directory-host.js';
import { fileSystemConformance } from './filesystem-suite.js';

const skip = process.getuid?.() !== 0 && 'only root may become other users';

await t.test('a local directory', { skip }, async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'cairn-local-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  // Other users must be able to reach the directory for their permissions in it to be tried.
  await chmod(directory, 0o755);
  await fileSystemConformance(t, () => directoryHost(directory, directory), { deviations: LOCAL_DEVIATIONS });
});
