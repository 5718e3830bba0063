/** The master is killed with -9 while clients work: P10 (no returned operation is lost) and P6 (each took effect once). */
import { chmod, cp, readdir, rename as renameFile, rm, stat as statFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { setTimeout as pause } from 'node:timers/promises';
import { ROOT_INODE } from '../../src/core/ids.js';
import { SeededRandom } from '../../src/core/random.js';
import { ROOT_CREDENTIALS, type FileSystem } from '../../src/filesystem/filesystem.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { content, list, mkdir, readFile, rename, stat, unlink, writeFile } from '../support/files.js';
import { testSeed } from '../support/seed.js';

t.setTimeout(0);

/** Makes, links, renames and removes in a directory of its own, and keeps the names that must be there. */
class Worker {
  readonly names = new Set<string>();
  /** Of each name, the number of names its inode must have. */
  readonly links = new Map<string, number>();
  operations = 0;

  constructor(
    private readonly fs: FileSystem,
    readonly directory: string,
    private readonly random: SeededRandom,
  ) {}

  async run(stopped: () => boolean): Promise<void> {
    await mkdir(this.fs, this.directory);
    for (let i = 0; !stopped(); i++) {
      await this.step(`n${i}`);
      this.operations++;
    }
  }

  private async step(fresh: string): Promise<void> {
    const old = [...this.names][this.random.below(Math.max(1, this.names.size))];
    const path = (name: string): string => `${this.directory}/${name}`;
    const choice = this.random.below(10);
    // A retry that took effect twice would fail: EEXIST for the first two, ENOENT for the others.
    if (old === undefined || choice < 4) {
      await mkdir(this.fs, path(fresh));
      this.names.add(fresh);
    } else if (choice < 7) {
      await rename(this.fs, path(old), path(fresh));
      this.names.delete(old);
      this.names.add(fresh);
    } else if (choice < 9) {
      await writeFile(this.fs, path(`${fresh}-file`), content(this.operations, 100));
      await unlink(this.fs, path(`${fresh}-file`));
    } else {
      const name = `${fresh}-linked`;
      const parent = (await stat(this.fs, this.directory)).inode;
      const { inode } = await this.fs.makeNode(ROOT_CREDENTIALS, parent, Buffer.from(name), {
        kind: 'file',
        mode: 0o600,
      });
      await this.fs.link(ROOT_CREDENTIALS, inode, parent, Buffer.from(`${name}-2`));
      this.names.add(name).add(`${name}-2`);
    }
  }
}

t.test(
  'P10, P6: kill -9 of the master under load loses no operation that returned, and none takes effect twice',
  async (t) => {
    const seed = testSeed(t);
    const cluster = await ProcessCluster.start(t);
    const clients = [await cluster.client(), await cluster.client()];
    const workers = clients.flatMap((fs, c) =>
      [0, 1].map((w) => new Worker(fs, `worker-${c}-${w}`, new SeededRandom(seed + 10 * c + w))),
    );
    let stopped = false;
    const work = Promise.all(workers.map((worker) => worker.run(() => stopped)));
    // A failure of a worker is reported by the await below; here it must not go unhandled before that.
    work.catch(() => undefined);

    const random = new SeededRandom(seed);
    for (let round = 0; round < 4; round++) {
      await pause(300 + random.below(700));
      await cluster.killMaster();
      await cluster.startMaster();
    }
    await pause(1000);
    stopped = true;
    await work;
    t.ok(
      workers.every((worker) => worker.operations > 20),
      `operations: ${workers.map((w) => w.operations).join()}`,
    );

    const verify = async (when: string): Promise<void> => {
      const fs = await cluster.client();
      for (const worker of workers) {
        const inode = (await stat(fs, worker.directory)).inode;
        t.same(await list(fs, inode), [...worker.names].sort(), `${worker.directory} ${when}`);
        const attributes = await fs.getAttributes(inode);
        const directories = [...worker.names].filter((name) => !name.includes('linked'));
        const linked = [...worker.names].find((name) => /linked$/.test(name));
        if (linked !== undefined)
          t.ok((await stat(fs, `${worker.directory}/${linked}`)).nlink <= 2, 'links counted once');
        t.ok(attributes.nlink <= directories.length + worker.names.size + 2);
      }
      t.same(await list(fs, ROOT_INODE), workers.map((worker) => worker.directory).sort(), when);
      await fs.close();
    };
    await verify('after the load');
    await cluster.killMaster();
    await cluster.startMaster();
    await verify('after one more kill');
  },
);

t.test(
  'P10: data that was closed is there after the master was killed, and a writer in the middle goes on',
  async (t) => {
    const cluster = await ProcessCluster.start(t);
    const fs = await cluster.client();
    const bytes = content(1, 3_000_000);
    await writeFile(fs, 'closed', bytes);
    const { file } = await fs.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('open'), {
      mode: 0o644,
      flags: { read: true, write: true },
    });
    await file.write(0, bytes.subarray(0, 1_000_000));
    await cluster.killMaster();
    await file.write(1_000_000, bytes.subarray(1_000_000, 2_000_000));
    const flushed = file.sync();
    await pause(200);
    await cluster.startMaster();
    await flushed;
    await file.write(2_000_000, bytes.subarray(2_000_000));
    await file.close();
    const other = await cluster.client();
    for (const name of ['closed', 'open']) t.ok((await readFile(other, name)).equals(bytes), name);
  },
);

t.test(
  "P12: the master's state is its own user's only, also what an earlier release left open to others",
  async (t) => {
    const cluster = await ProcessCluster.start(t);
    const where = cluster.directory.master;
    const open = async (): Promise<string[]> => {
      const names = await readdir(where, { recursive: true });
      const modes = await Promise.all(
        ['', ...names].map(async (name) => ({ name, mode: (await statFile(join(where, name))).mode & 0o077 })),
      );
      return modes.filter(({ mode }) => mode !== 0).map(({ name }) => name);
    };
    t.same(await open(), []);
    for (const name of ['', 'store', 'oplog']) await chmod(join(where, name), 0o755);
    for (const name of ['pid', 'log', 'store/data.mdb']) await chmod(join(where, name), 0o644);
    await cluster.killMaster();
    await cluster.startMaster();
    t.same(await open(), []);
  },
);

t.test(
  'P10: a copy of a killed master is whole; one that was taken while it ran is whole too, or refused',
  async (t) => {
    const cluster = await ProcessCluster.start(t);
    const where = cluster.directory.master;
    const fs = await cluster.client();
    const made = async (): Promise<string[]> => list(await cluster.client(), ROOT_INODE);
    await mkdir(fs, 'before');
    await cluster.killMaster();
    await cp(where, `${where}.killed`, { recursive: true });
    await renameFile(where, `${where}.original`);
    await renameFile(`${where}.killed`, where);
    await cluster.startMaster();
    t.same(await made(), ['before'], 'of a killed one');

    let stopped = false;
    const work = (async () => {
      for (let i = 0; !stopped; i++) await mkdir(fs, `d${i}`);
    })();
    work.catch(() => undefined);
    let outcomes = '';
    for (let round = 0; round < 3; round++) {
      await pause(1_500);
      const known = await made();
      // The store first, as it takes longest.
      await cp(join(where, 'store'), `${where}.hot/store`, { recursive: true });
      await pause(1_500);
      await cp(where, `${where}.hot`, {
        recursive: true,
        filter: (source) => !source.startsWith(join(where, 'store')),
      });
      await cluster.killMaster();
      await renameFile(where, `${where}.live`);
      await renameFile(`${where}.hot`, where);
      try {
        await cluster.startMaster();
        const there = new Set(await made());
        t.same(
          known.filter((name) => !there.has(name)),
          [],
          'nothing of before the copy is missing',
        );
        outcomes += ' whole';
        await cluster.killMaster();
      } catch (error) {
        t.match((error as Error).message, /of one moment|of the same moment|cannot open the metadata|ended with/);
        outcomes += ' refused';
      }
      await rm(where, { recursive: true });
      await renameFile(`${where}.live`, where);
      await cluster.startMaster();
    }
    stopped = true;
    await work;
    t.comment(`copies of a running master:${outcomes}`);
  },
);
