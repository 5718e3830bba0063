/** Data directories fill up: ENOSPC reaches the application (P7), and nothing that was there is lost. */
import t, { type Test } from 'tap';
import { execFileSync } from 'node:child_process';
import { mkdtemp, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MIB } from '../../src/core/limits.js';
import { TestCluster } from '../support/cluster.js';
import { eventually } from '../support/eventually.js';
import { content, readFile, stat, unlink, writeFile } from '../support/files.js';

const skip = process.getuid?.() === 0 ? false : 'mounting small disks needs root';

/** A disk of 96 MiB. */
async function smallDisk(t: Test, directory: string, name: string): Promise<string> {
  const path = join(directory, name);
  await mkdir(path);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96m', 'cairn-test', path]);
  t.teardown(() => execFileSync('umount', ['-l', path]));
  return path;
}

const filler = (i: number): Buffer => content(i, 8 * MIB);

t.test(
  'P7: a full cluster says ENOSPC, keeps what it has, and takes writes again after a removal',
  { skip },
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), 'cairn-small-'));
    const disks = await Promise.all(['0', '1', '2'].map((name) => smallDisk(t, directory, name)));
    const cluster = await TestCluster.start(t, { diskOf: (index) => disks[index] });
    const fs = await cluster.client();
    await writeFile(fs, 'kept', content(1, 4 * MIB), { sync: true });

    let filled = 0;
    const fill = async (): Promise<void> => {
      for (; filled < 60; filled++) await writeFile(fs, `filler-${filled}`, filler(filled), { sync: true });
    };
    await t.rejects(fill(), { code: 'ENOSPC' });
    t.ok(filled > 5, `${filled} files fitted`);
    t.ok((await readFile(fs, 'kept')).equals(content(1, 4 * MIB)));
    for (let i = 0; i < filled; i++) {
      if (!(await readFile(fs, `filler-${i}`)).equals(filler(i))) t.fail(`filler-${i} differs`);
    }
    for (let i = 0; i <= filled; i++) {
      await unlink(fs, `filler-${i}`).catch((error: unknown) => t.match(error, { code: 'ENOENT' }));
    }
    await eventually('there is room again', async () => {
      await writeFile(fs, 'again', filler(99), { sync: true });
      return true;
    });
    t.ok((await readFile(fs, 'again')).equals(filler(99)));
  },
);

t.test(
  'P11: one full disk among three stops no writer, and every chunk gets its replicas elsewhere',
  { skip },
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), 'cairn-small-'));
    const disk = await smallDisk(t, directory, 'small');
    const cluster = await TestCluster.start(t, { diskOf: (index) => (index === 0 ? disk : undefined) });
    const fs = await cluster.client();
    const count = 20;
    // All chunks are placed while there is room; together they are more than the small disk holds.
    for (let i = 0; i < count; i++) await writeFile(fs, `file-${i}`, filler(i).subarray(0, 1000));
    for (let i = 0; i < count; i++) {
      const { inode } = await stat(fs, `file-${i}`);
      const { file } = await fs.open({ uid: 0, gid: 0, groups: [] }, inode, { read: true, write: true });
      await file.write(0, filler(i));
      await file.sync();
      await file.close();
    }
    await eventually('no chunk lacks a replica', async () => (await fs.status()).underReplicatedChunks === 0);
    for (let i = 0; i < count; i++) {
      if (!(await readFile(fs, `file-${i}`)).equals(filler(i))) t.fail(`file-${i} differs`);
    }
    t.match(await cluster.log('chunkserver-1'), 'ENOSPC', 'it was full in the middle of a write');
  },
);
