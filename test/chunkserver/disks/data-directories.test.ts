/** Which disks a chunkserver has: those that are missed, those that are new, those that are gone for good. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join as joinPath } from 'node:path';
import t from 'tap';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';
import { DataDirectory } from '../../../src/chunkserver/disks/data-directory.js';
import { NodeDisk } from '../../../src/core/disk/node-disk.js';
import { ChunkStore } from '../../../src/chunkserver/store/chunk-store.js';
import { DiskWatch } from '../../../src/chunkserver/disks/disk-watch.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { SeededRandom } from '../../../src/core/random.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { eventually } from '../../support/eventually.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const seed = Number(process.env['CAIRN_SEED'] ?? 1);
/** One for all, or the ids of disks would come again. */
const random = new SeededRandom(seed);
const IDENTITY = { clusterId: 'cluster', serverId: 7 };

function makeStore(
  disk: CrashDisk,
  directories: string[],
  forgetDisks: string[] = [],
  bootNotes = new MemoryNotes(),
): ChunkStore {
  const clock = new ManualClock();
  const watch = new DiskWatch({ disk: disk.forProcess(), clock, logger: silentLogger, paths: directories });
  return new ChunkStore({
    ...{ disk: watch.disk, watch, bootNotes, clock, random, logger: silentLogger, directories, forgetDisks },
    ...{ onLost: () => undefined, onBadReplica: () => undefined },
  });
}

/** Started and known to the master. */
async function join(disk: CrashDisk, directories: string[], forgetDisks: string[] = []): Promise<ChunkStore> {
  const store = makeStore(disk, directories, forgetDisks);
  await store.start();
  await store.directories.setIdentity(IDENTITY);
  await store.rollbacks.begin([]);
  return store;
}

/** Path and problem of each disk. */
const problems = (store: ChunkStore): (readonly [string, string])[] =>
  store.directories.states(true).map(({ path, problem }) => [path ?? '', problem ?? '']);
const idOf = (store: ChunkStore, path: string): string =>
  store.directories.states(true).find((each) => each.path === path)?.id ?? '';

t.test('a server killed at any change of its first start, or of one with a new disk, misses none', async (t) => {
  for (const first of [['a', 'b', 'c'], ['a']]) {
    for (const how of ['kill', 'power'] as const) {
      for (let change = 0, done = false; !done; change++) {
        const disk = new CrashDisk(new SeededRandom(change));
        if (first.length === 1) await (await join(disk, first)).stop();
        disk.killAtChange(disk.changes + change);
        await join(disk, ['a', 'b', 'c']).then(
          () => (done = true),
          () => undefined,
        );
        if (how === 'kill') disk.kill();
        else disk.powerLoss();
        const store = await join(disk, ['a', 'b', 'c']);
        const bad = problems(store).filter(([, problem]) => problem !== '');
        if (bad.length > 0) t.fail(`${how} at change ${change}: ${JSON.stringify(bad)}`);
        t.equal(new Set(store.directories.states(true).map(({ id }) => id)).size, 3);
        await store.stop();
      }
    }
  }
});

t.test('an empty directory in the place of a disk is not taken for a new one, until that is called gone', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  let store = await join(disk, ['a', 'b']);
  const [a, b] = [idOf(store, 'a'), idOf(store, 'b')];
  for (let handle = 1; handle <= 20; handle++) await store.arrivals.create(chunkHandle(handle), chunkVersion(1));
  const onB =
    [...Array(20).keys()].map((i) => chunkHandle(i + 1)).find((h) => store.entry(h).directory === 1) ?? t.fail();
  await store.stop();
  const mount = disk.unmount('b');

  store = await join(disk, ['a', 'b']);
  t.match(problems(store), [
    ['a', ''],
    ['b', new RegExp(`disk ${b}.*mount.*--forget-disk ${b}`, 'i')],
  ]);
  t.same(
    disk.paths().filter((path) => path.startsWith('b/')),
    [],
    'nothing is written there',
  );
  t.throws(() => store.entry(onB as never), { code: 'UNAVAILABLE' }, 'not lost');
  await store.stop();

  store = await join(disk, ['a']);
  t.match(
    problems(store),
    [
      ['a', ''],
      ['b', /not among/],
    ],
    'nor when it is left out',
  );
  t.throws(() => store.entry(onB as never), { code: 'UNAVAILABLE' });
  await store.stop();

  store = await join(disk, ['a', 'c']);
  t.match(
    problems(store),
    [
      ['a', ''],
      ['c', ''],
      ['b', /not among/],
    ],
    'a disk that was never known is taken in',
  );
  await store.stop();

  mount();
  store = await join(disk, ['a', 'c', 'e/b']);
  t.match(
    problems(store).find(([path]) => path === 'b'),
    ['b', /not among/],
  );
  await store.stop();
  store = await join(disk, ['a', 'b', 'c']);
  t.same(
    problems(store).filter(([, problem]) => problem !== ''),
    [['e/b', 'it is not among the directories that the chunkserver was started with']],
  );
  t.equal(store.entry(onB as never).directory, 1, 'what is back counts again');
  const e = store.directories.states(true).find(({ path }) => path === 'e/b')?.id ?? '';
  await store.stop();

  await t.rejects(join(disk, ['a', 'b', 'c'], [b]), { code: 'EINVAL', message: /not gone/ });
  disk.unmount('b');
  store = await join(disk, ['a', 'b', 'c'], [b, e]);
  t.same(problems(store), [
    ['a', ''],
    ['b', ''],
    ['c', ''],
  ]);
  t.throws(() => store.entry(onB as never), { code: 'NO_REPLICA' }, 'now it is');
  t.equal(idOf(store, 'a'), a);
  t.not(idOf(store, 'b'), b, 'another disk');
  await store.stop();
  store = await join(disk, ['a', 'b', 'c'], [b, e]);
  t.same(
    problems(store),
    [
      ['a', ''],
      ['b', ''],
      ['c', ''],
    ],
    'to say it again does no harm',
  );
  await store.stop();
});

t.test('a directory that was mounted elsewhere is the same; a copy of one is refused', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  let store = await join(disk, ['a', 'b']);
  const b = idOf(store, 'b');
  await store.stop();
  for (const path of disk.paths().filter((each) => each.startsWith('b/'))) {
    await disk.rename('test', path, path.replace('b/', 'd/'));
  }
  store = await join(disk, ['a', 'd']);
  t.same(problems(store), [
    ['a', ''],
    ['d', ''],
  ]);
  t.equal(idOf(store, 'd'), b);
  await store.stop();
  const copy = await disk.open('test', 'c/identity', 'create');
  await copy.write('test', disk.content('a/identity'), 0);
  await t.rejects(join(disk, ['a', 'c', 'd']), { code: 'EINVAL', message: /copies/ });
});

t.test('what an older version left behind is taken over', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  for (const [name, value] of [
    ['a/identity', { format: 1, ...IDENTITY }],
    ['a/session', { bootId: disk.bootId(), clean: true }],
    ['b/identity', { format: 1, ...IDENTITY }],
    ['b/session', { bootId: disk.bootId(), clean: true }],
  ] as const) {
    const file = await disk.open('test', name, 'create');
    await file.write('test', Buffer.from(JSON.stringify(value)), 0);
    await file.datasync('test');
  }
  for (const path of ['a', 'b']) await disk.syncDirectory('test', path);
  let store = await join(disk, ['a', 'b', 'c']);
  t.same(problems(store), [
    ['a', ''],
    ['b', ''],
    ['c', ''],
  ]);
  t.match(store.directories.identity, IDENTITY);
  await store.stop();
  disk.unmount('c');
  store = await join(disk, ['a', 'b', 'c']);
  t.match(problems(store)[2], ['c', /mount/]);
  await store.stop();
});

t.test('a directory counts a generation after each start that a master has seen, and only then', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  let told = -1;
  for (let round = 0; round < 5; round++) {
    const unseen = makeStore(disk, ['a']);
    await unseen.start();
    const before = unseen.directories.states(true)[0]?.generation ?? -1;
    unseen.tend();
    await unseen.stop();
    t.equal(unseen.directories.states(true)[0]?.generation, before, 'no master has seen it');
    const store = await join(disk, ['a']);
    const found = store.directories.states(false)[0]?.generation ?? -1;
    t.ok(found >= told, 'never behind what was told');
    store.tend();
    await eventually('a higher generation', () => (store.directories.states(true)[0]?.generation ?? -1) > found);
    told = store.directories.states(true)[0]?.generation ?? -1;
    if (round % 2 === 0) disk.kill();
    else if (round === 1) disk.powerLoss();
    else await store.stop();
  }
});

t.test('a server whose disks all fail to be read says so, and does not start', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  await (await join(disk, ['a', 'b'])).stop();
  for (let i = 0; i < 2; i++) disk.failOn('directory.identity');
  await t.rejects(join(disk, ['a', 'b']), { code: 'EIO' });
});

t.test('a data directory that many share: who locks the directory itself keeps no server out', async (t) => {
  const path = await mkdtemp(joinPath(tmpdir(), 'cairn-shared-'));
  t.teardown(() => rm(path, { recursive: true }));
  const disk = new NodeDisk();
  const release = await disk.lock('another user', path);
  const serve = (): Promise<void> =>
    new DataDirectory({
      disk,
      bootNotes: new MemoryNotes(),
      path,
      number: 0,
      logger: silentLogger,
      onFailure: () => undefined,
    }).open();
  await serve();
  await t.rejects(serve(), { code: 'EBUSY' }, 'but a second server is kept out');
  await release();
});
