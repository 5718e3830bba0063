/** Data directories fill up: ENOSPC reaches the application (P7), and nothing that was there is lost. */
import t, { type Test } from 'tap';
import { execFileSync } from 'node:child_process';
import { mkdtemp, mkdir, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { asCairnError } from '../../src/core/errors.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { MIB } from '../../src/core/limits.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { eventually } from '../support/eventually.js';
import { content, list, readFile, stat, unlink, writeFile } from '../support/files.js';

const skip = process.getuid?.() === 0 ? false : 'mounting small disks needs root';

async function mountDisk(path: string, mib: number): Promise<void> {
  await mkdir(path);
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'cairn-test', path]);
}

/** A disk of 96 MiB. */
async function smallDisk(t: Test, directory: string, name: string): Promise<string> {
  const path = join(directory, name);
  await mountDisk(path, 96);
  t.teardown(() => execFileSync('umount', ['-l', path]));
  return path;
}

/** Another program takes all that is left. */
async function fillUp(path: string): Promise<void> {
  const file = await open(join(path, 'filler'), 'a');
  try {
    for (const size of [MIB, 4096]) {
      for (;;) {
        try {
          if ((await file.write(Buffer.alloc(size))).bytesWritten < size) break;
        } catch (error) {
          if (asCairnError(error).code === 'ENOSPC') break;
          throw error;
        }
      }
    }
  } finally {
    await file.close();
  }
}

/** Far below what a client tries on for when nobody answers. */
const PROMPT_MS = 20_000;

async function promptly<T>(what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} hangs`)), PROMPT_MS);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

const filler = (i: number): Buffer => content(i, 8 * MIB);

t.test(
  'P7: a full cluster says ENOSPC, keeps what it has, and takes writes again after a removal',
  { skip },
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), 'cairn-small-'));
    const disks = await Promise.all(['0', '1', '2'].map((name) => smallDisk(t, directory, name)));
    const cluster = await ProcessCluster.start(t, { diskOf: (index) => disks[index] });
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
    const cluster = await ProcessCluster.start(t, { diskOf: (index) => (index === 0 ? disk : undefined) });
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

t.test(
  'P1, P6, P10: the disk of the master fills up: ENOSPC at once, removing and reading go on, also after a restart on it',
  { skip },
  async (t) => {
    const cluster = await ProcessCluster.start(t, { prepare: ({ master }) => mountDisk(master, 64) });
    const disk = cluster.directory.master;
    t.teardown(async () => {
      await cluster.stopMaster();
      execFileSync('umount', ['-l', disk]);
    });
    const fs = await cluster.client();
    const count = 60;
    for (let i = 0; i < count; i++) await writeFile(fs, `file-${i}`, content(i, 10_000), { sync: true });
    const refuse = async (): Promise<void> => {
      // The last block of the log may have room for a few.
      let tried = 0;
      const create = async (): Promise<void> => {
        while (tried < 200) await promptly('a create', writeFile(fs, `more-${tried++}`, content(1, 1000)));
      };
      await eventually('the operator sees it', async () => {
        await t.rejects(create(), { code: 'ENOSPC' });
        return (await fs.status()).masterShortOfSpace;
      });
      for (let i = 0; i < tried; i++) {
        // Of the last, the name may have found room, and the bytes not.
        const removal = unlink(fs, `more-${i}`).catch((error: unknown) => t.match(error, { code: 'ENOENT' }));
        await promptly('a removal', removal);
      }
    };
    await fillUp(disk);
    await refuse();
    const check = async (first: number): Promise<void> => {
      const names = (await promptly('a listing', list(fs, ROOT_INODE))).filter((name) => name !== '.' && name !== '..');
      t.strictSame(names.sort(), Array.from({ length: count - first }, (_, i) => `file-${i + first}`).sort());
      for (let i = first; i < count; i++) {
        if (!(await promptly('a read', readFile(fs, `file-${i}`))).equals(content(i, 10_000)))
          t.fail(`file-${i} differs`);
      }
    };
    await check(0);
    for (let i = 0; i < 20; i++) await promptly('a removal', unlink(fs, `file-${i}`));
    await fillUp(disk);
    await check(20);
    await cluster.killMaster();
    await cluster.startMaster();
    await check(20);
    for (let i = 20; i < 40; i++) await promptly('a removal', unlink(fs, `file-${i}`));
    await refuse();
    await rm(join(disk, 'filler'));
    await eventually('there is room again, without a restart', async () => {
      await writeFile(fs, 'file-40', content(40, 10_000), { sync: true });
      return true;
    });
    t.notOk((await fs.status()).masterShortOfSpace);
    await check(40);
    await cluster.killMaster();
    await cluster.startMaster();
    await check(40);
  },
);
