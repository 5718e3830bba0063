/** Data directories fill up: ENOSPC reaches the application (P7), and nothing that was there is lost. */
import t from 'tap';
import { execFileSync } from 'node:child_process';
import { mkdtemp, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MIB } from '../../src/core/limits.js';
import { TestCluster } from '../support/cluster.js';
import { content, readFile, unlink, writeFile } from '../support/files.js';

// Known fault: while one replica is full and another is not, the client tries again until its time-out and gets EIO.
const skip =
  process.env['CAIRN_TEST_FULL_DISK'] === undefined ? 'not fulfilled yet: EIO after a minute, not ENOSPC' : false;

t.test(
  'P7: a full cluster says ENOSPC, keeps what it has, and takes writes again after a removal',
  { skip },
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), 'cairn-small-'));
    const data = [0, 1, 2].map((index) => join(directory, String(index)));
    for (const path of data) {
      await mkdir(path);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96m', 'cairn-test', path]);
      t.teardown(() => execFileSync('umount', ['-l', path]));
    }
    const cluster = await TestCluster.start(t, { diskOf: (index) => data[index] });
    const fs = await cluster.client();
    await writeFile(fs, 'kept', content(1, 4 * MIB), { sync: true });

    let filled = 0;
    await t.rejects(
      (async () => {
        for (; filled < 60; filled++) await writeFile(fs, `filler-${filled}`, content(filled, 8 * MIB), { sync: true });
      })(),
      { code: 'ENOSPC' },
    );
    t.ok(filled > 5, `${filled} files fitted`);
    t.ok((await readFile(fs, 'kept')).equals(content(1, 4 * MIB)));
    for (let i = 0; i < filled; i++) {
      if (!(await readFile(fs, `filler-${i}`)).equals(content(i, 8 * MIB))) t.fail(`filler-${i} differs`);
    }
    for (let i = 0; i <= filled; i++)
      await unlink(fs, `filler-${i}`).catch((error: unknown) => t.match(error, { code: 'ENOENT' }));
  },
);
