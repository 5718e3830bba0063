/** The judges of the runs under faults, judged: each must find what is planted for it, and nothing where all is well. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { SeededRandom } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { OpenFile } from '../../../src/filesystem/filesystem.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';
import { pattern } from '../../conformance/case.js';
import { FaultCounts } from '../faults/fault-counts.js';
import { LongAbsences } from '../faults/long-absences.js';
import { demandQuiet } from './final-check.js';
import { Health } from './health.js';
import { VersionedFiles } from '../workloads/versioned-files.js';
import { World } from '../world/world.js';

t.setTimeout(0);

/** Versioned files on a file system of which one client's files are changed by `plant`. */
async function versionedWork(seed: number, plant: (file: OpenFile) => void): Promise<void> {
  const world = new World({ seed });
  await world.run(async () => {
    const honest = new ModelFileSystem();
    const liar = new ModelFileSystem(honest.state);
    const openAt = liar.openAt.bind(liar);
    liar.openAt = async (...args) => {
      const opened = await openAt(...args);
      plant(opened.file);
      return opened;
    };
    const clients = [
      { host: 'honest', fs: honest },
      { host: 'liar', fs: liar },
    ];
    const versioned = new VersionedFiles({ world, random: new SeededRandom(seed), clients, files: 4 });
    await versioned.start();
    await world.sleep(120_000);
    await versioned.stop();
    await versioned.check(honest);
    assert.ok(versioned.counts.reads > 0 && versioned.counts.writes > 0);
  });
  world.stop();
}

t.test('versioned files: nothing is wrong where all is well', async () => {
  for (let seed = 1; seed <= 5; seed++) await versionedWork(seed, () => undefined);
});

/** What was read before, by the file: some of it comes again. */
const remembered = new Map<number, Buffer>();

const LIES: Record<string, (file: OpenFile, random: SeededRandom) => void> = {
  'old bytes that are read now and then': (file, random) => {
    const read = file.read.bind(file);
    file.read = async (offset, length) => {
      const bytes = Buffer.from(await read(offset, length));
      const before = remembered.get(file.inode);
      if (before?.length === bytes.length && random.below(4) === 0) return before;
      remembered.set(file.inode, bytes);
      return bytes;
    };
  },
  'a write that is dropped now and then': (file, random) => {
    const write = file.write.bind(file);
    file.write = async (offset, bytes) => (random.below(8) === 0 ? bytes.length : write(offset, bytes));
  },
  'a page that is zeros now and then': (file, random) => {
    const read = file.read.bind(file);
    file.read = async (offset, length) => {
      const bytes = Buffer.from(await read(offset, length));
      if (random.below(8) === 0) bytes.fill(0, 0, 4096);
      return bytes;
    };
  },
  'the bytes of another place': (file, random) => {
    const read = file.read.bind(file);
    file.read = async (offset, length) => read(random.below(8) === 0 ? offset + 4096 : offset, length);
  },
  'a file that ends early now and then': (file, random) => {
    const read = file.read.bind(file);
    file.read = async (offset, length) => (await read(offset, length)).subarray(0, length - random.below(2));
  },
  'an error that nobody may be told': (file, random) => {
    const read = file.read.bind(file);
    file.read = async (offset, length) => {
      if (random.below(20) === 0) throw Object.assign(new Error('no such file'), { code: 'ENOENT' });
      return read(offset, length);
    };
  },
};

for (const [lie, plant] of Object.entries(LIES)) {
  t.test(`versioned files catch: ${lie}`, async (t) => {
    let caught = 0;
    for (let seed = 1; seed <= 3; seed++) {
      remembered.clear();
      const random = new SeededRandom(seed);
      await versionedWork(seed, (file) => plant(file, random)).catch(() => caught++);
    }
    t.ok(caught >= 2, `by ${caught} of 3 seeds`);
  });
}

async function cluster(body: (world: World, fs: ClusterFileSystem) => Promise<void>): Promise<void> {
  const world = new World({ seed: 1, chunkservers: 2 });
  await world.run(
    async () => {
      await world.startAll();
      const fs = await world.connect('client-1');
      const options = { mode: 0o644, flags: { read: true, write: true } };
      const { file } = await fs.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('f'), options);
      await file.write(0, pattern(100_000, 1));
      await file.sync();
      await file.close();
      await body(world, fs);
    },
    { limitMs: 3_600_000 },
  );
  world.stop();
}

t.test('health: it is whole, it never becomes whole, it is said to be', async () => {
  await cluster(async (world, fs) => {
    const health = new Health(world, fs);
    await health.demandHealthy('at first');
    await world.kill('chunkserver-1');
    await assert.rejects(health.demandHealthy('with one of two servers'), { message: /not healthy .* are alive/ });
    const status = await fs.status();
    const servers = status.servers.map((server) => ({ ...server, alive: true }));
    fs.status = () => Promise.resolve({ ...status, servers, underReplicatedChunks: 0, unavailableChunks: 0 });
    await assert.rejects(health.demandHealthy('with a lie'), { message: /status is not true/ });
  });
});

t.test('quiet: it is, a log grows, versions rise', async () => {
  await cluster(async (world, fs) => {
    await world.sleep(120_000);
    await demandQuiet(world, fs);
    const chatter = { isStopped: false };
    world.background(async () => {
      while (!chatter.isStopped) {
        await world.sleep(500);
        world.processDependencies('client-1').logger.info({}, 'here I am');
      }
    });
    await assert.rejects(demandQuiet(world, fs), { message: /client-1 logged \d+ lines/ });
    chatter.isStopped = true;
    const placement = fs.placement.bind(fs);
    let risen = 0;
    fs.placement = async (...args) =>
      (await placement(...args)).map((chunk) => ({
        ...chunk,
        version: (chunk.version + risen++) as typeof chunk.version,
      }));
    await assert.rejects(demandQuiet(world, fs), { message: /versions of chunks at rest/ });
    risen = 1000;
    await assert.rejects(demandQuiet(world, fs), { message: /recovered time and again/ });
  });
});

t.test('counts: a kind that never took effect is missing', async (t) => {
  const counts = new FaultCounts(['rot', 'resets', 'kill']);
  counts.note('rot', true);
  counts.note('kill', false);
  t.same(counts.missing(), ['resets', 'kill']);
  t.match(counts.toString(), /0 of 1 kill/);
});

/** How often unsynced writes may be lost while these are down at once for `awayMs`, and others have had a loss. */
async function absencesOf(down: readonly number[], awayMs: number, lost: readonly number[], wantedReplicas: number) {
  const world = new World({ seed: 1, chunkservers: 4, wantedReplicas });
  const name = (number: number): string => `chunkserver-${number}`;
  let count = 0;
  await world.run(async () => {
    await world.startAll();
    const absences = new LongAbsences(world, lost.map(name), () => count++);
    world.background(() => absences.watch());
    for (const number of down) await world.kill(name(number));
    await world.sleep(awayMs);
    for (const number of down) await world.start(name(number));
    await world.sleep(60_000);
    absences.stop();
  });
  world.stop();
  return count;
}

t.test('long absences: of those that alone may have unsynced writes, for as long as the cluster waits', async (t) => {
  t.equal(await absencesOf([2], 25_000, [1], 2), 0, 'it was back in time');
  t.equal(await absencesOf([2], 40_000, [1], 2), 1, 'it was away for too long');
  t.equal(await absencesOf([1], 40_000, [1], 2), 0, 'others have what was lost there');
  t.equal(await absencesOf([2], 40_000, [1], 3), 0, 'a third one has it');
  t.equal(await absencesOf([2, 3], 40_000, [1], 3), 1, 'both others were away');
  t.equal(await absencesOf([3], 40_000, [1, 2], 3), 1, 'two had a loss, and the third was away');
});
