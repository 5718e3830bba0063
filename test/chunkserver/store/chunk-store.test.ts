/** The replicas of a server on its disks: what it does by itself. */
import t, { type Test } from 'tap';
import { ChunkFile } from '../../../src/chunkserver/chunk/chunk-file.js';
import { ChunkStore } from '../../../src/chunkserver/store/chunk-store.js';
import type { Disk } from '../../../src/core/disk/disk.js';
import { segmentChecksums } from '../../../src/core/checksum.js';
import { CairnError } from '../../../src/core/errors.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import {
  BLOCK_SIZE_BYTES,
  DISK_STALLED_MS,
  DISK_WATCH_INTERVAL_MS,
  MIB,
  SYNC_BEHIND_BYTES,
} from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { DiskWatch } from '../../../src/chunkserver/disks/disk-watch.js';
import { SeededRandom } from '../../../src/core/random.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { eventually } from '../../support/eventually.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';

const seed = Number(process.env['CAIRN_SEED'] ?? 1);
const handle = chunkHandle(7);
const version = chunkVersion(1);

async function start(
  disk: CrashDisk,
  directories: readonly string[] = ['d'],
  bootNotes = new MemoryNotes(),
): Promise<ChunkStore> {
  const store = await open(disk, directories, seed, new ManualClock(), bootNotes);
  await store.arrivals.create(handle, version);
  return store;
}

async function open(
  disk: Disk,
  directories: readonly string[],
  choice = seed,
  clock = new ManualClock(),
  bootNotes = new MemoryNotes(),
): Promise<ChunkStore> {
  const watch = new DiskWatch({ disk, clock, logger: silentLogger, paths: directories });
  const store = new ChunkStore({
    ...{ disk: watch.disk, watch, clock, random: new SeededRandom(choice), logger: silentLogger, directories },
    bootNotes,
    forgetDisks: [],
    onLost: () => undefined,
    onBadReplica: () => undefined,
  });
  await store.start();
  return store;
}

async function stream(store: ChunkStore, bytes: number): Promise<void> {
  const unit = new SeededRandom(seed).bytes(MIB);
  for (let offset = 0; offset < bytes; offset += MIB) {
    await store.mutate(handle, (file) => file.write(offset, unit, segmentChecksums(unit, offset)));
  }
}

t.test('a stream of writes is synced while it goes on', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  const store = await start(disk);
  const unsynced = (): Promise<number> => store.use(handle, (file) => Promise.resolve(file.unsyncedBytes));
  await stream(store, SYNC_BEHIND_BYTES - MIB);
  t.equal(await unsynced(), SYNC_BEHIND_BYTES - MIB, 'not yet');
  await stream(store, SYNC_BEHIND_BYTES + MIB);
  await eventually('the sync of what was written', async () => (await unsynced()) < SYNC_BEHIND_BYTES);
  await store.stop();
});

t.test('P1: when that fails, the next sync does not say that all is well', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  const store = await start(disk);
  disk.failOn('chunk.sync', 0, 'EIO');
  await stream(store, SYNC_BEHIND_BYTES).catch(() => undefined);
  await eventually('the doubt, without anybody asking for a sync', () => store.entry(handle).suspect);
  await t.rejects(store.sync(handle));
  await store.stop();
});

for (const how of ['goes on', 'is killed and starts again'] as const) {
  t.test(`P1: nor where the file cannot be marked, and the server ${how}`, async (t) => {
    const disk = new CrashDisk(new SeededRandom(seed));
    const notes = new MemoryNotes();
    let store = await start(disk, ['d'], notes);
    await stream(store, MIB);
    disk.failOn('chunk.sync');
    disk.failOn('chunk.header');
    await t.rejects(store.sync(handle), { code: 'EIO' });
    if (how === 'goes on') await t.rejects(store.sync(handle), { code: 'EIO' });
    else {
      await new Promise(setImmediate);
      disk.kill();
      store = await open(disk, ['d'], seed, new ManualClock(), notes);
    }
    t.equal(store.entry(handle).suspect, true);
    await store.stop();
  });
}

t.test('P9: of two files of a chunk at one version none is believed, and none is deleted', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  const directories = ['d', 'e'];
  const store = await start(disk, directories);
  await stream(store, MIB);
  const name = '/chunks/00/00000000000007.1';
  const isAt = (directory: string): boolean => disk.paths().includes(directory + name);
  const other = (isAt('d') ? 'e' : 'd') + name;
  const file = await ChunkFile.create(disk, other, handle, version);
  await file.markClean();
  await file.close();
  disk.kill();
  const again = await open(disk, directories);
  t.equal(again.entry(handle).suspect, true);
  t.ok(isAt('d') && isAt('e'));
  t.equal(await again.use(handle, ({ length }) => Promise.resolve(length)), MIB, 'rather what was written to');
  await again.stop();
});

/** A copy at `version` of the chunk, whose bytes are all `value`, in any of the directories. */
async function copy(store: ChunkStore, value: number, confirm: () => void = () => undefined): Promise<void> {
  const bytes = Buffer.alloc(1000, value);
  await store.arrivals.replace(handle, version, (file) => file.write(0, bytes, segmentChecksums(bytes, 0)), confirm);
}

const files = (disk: CrashDisk): string[] => disk.paths().filter((path) => path.includes('/chunks/'));

/** After a power loss, or a kill, the replica is what was copied last. */
async function demandLast(
  t: Test,
  disk: CrashDisk,
  value: number,
  what: string,
  how: 'powerLoss' | 'kill' = 'powerLoss',
): Promise<void> {
  disk[how]();
  const store = await open(disk, ['d', 'e']);
  t.equal(store.entry(handle).suspect, false, `${what}: one file alone`);
  const [first] = await store.use(handle, async (file) => (await file.read(0, 1)).bytes);
  t.equal(first, value, what);
  await store.stop();
}

t.test('P1: a copy that was given up in its last moment does not come back beside the next one', async (t) => {
  for (let round = 0; round < 10; round++) {
    const disk = new CrashDisk(new SeededRandom(seed + round));
    const store = await open(disk, ['d', 'e'], round);
    let asked = 0;
    const giveUp = (): void => {
      if (asked++ > 0) throw new CairnError('CANCELLED', 'not wanted any more');
    };
    await t.rejects(copy(store, 1, giveUp));
    t.same(files(disk), []);
    await copy(store, 2);
    await demandLast(t, disk, 2, `round ${round}`);
  }
});

t.test('P1: nor does one that was removed while the removal of another chunk was synced', async (t) => {
  for (let round = 0; round < 10; round++) {
    const disk = new CrashDisk(new SeededRandom(seed + round));
    const store = await open(disk, ['d', 'e'], round);
    await copy(store, 1);
    const [removed = ''] = files(disk);
    const goOn = disk.holdUnlink(removed);
    const removal = store.departures.remove(handle, version);
    await new Promise(setImmediate);
    // Some of them are made in the other directory, and this one is synced for them.
    for (let neighbour = 8; neighbour < 14; neighbour++) {
      const at = chunkHandle(neighbour);
      await store.arrivals.replace(
        at,
        version,
        () => Promise.resolve(),
        () => undefined,
      );
    }
    t.ok(files(disk).includes(removed), 'it takes its time');
    goOn();
    await removal;
    t.notOk(files(disk).includes(removed));
    await copy(store, 2);
    await demandLast(t, disk, 2, `round ${round}`);
  }
});

t.test('P1: nor one that was removed by an earlier process', async (t) => {
  for (let round = 0; round < 10; round++) {
    const disk = new CrashDisk(new SeededRandom(seed + round));
    const store = await open(disk, ['d', 'e'], round);
    await copy(store, 1);
    await store.departures.remove(handle, version);
    disk.kill();
    await copy(await open(disk, ['d', 'e'], round + 1), 2);
    await demandLast(t, disk, 2, `round ${round}`);
  }
});

t.test('P1: nor one that could not be removed', async (t) => {
  for (let round = 0; round < 10; round++) {
    const disk = new CrashDisk(new SeededRandom(seed + round));
    const store = await open(disk, ['d', 'e'], round);
    await copy(store, 1);
    disk.failOn('chunk.unlink');
    await store.departures.remove(handle, version);
    t.equal(files(disk).length, 1);
    disk.failOn('chunk.unlink');
    // It says so, or is made in its place.
    await copy(store, 2).catch(() => copy(store, 2));
    await demandLast(t, disk, 2, `round ${round}`, round % 2 === 0 ? 'kill' : 'powerLoss');
  }
});

t.test('P1: a recovery that failed after its cut leaves no replica that a clean stop forgets', async (t) => {
  for (let round = 0; round < 10; round++) {
    const disk = new CrashDisk(new SeededRandom(seed + round));
    const store = await open(disk, ['d'], round);
    await store.arrivals.create(handle, version);
    const bytes = Buffer.alloc(100_000, 1);
    await store.mutate(handle, (file) => file.write(0, bytes, segmentChecksums(bytes, 0)));
    await store.sync(handle);
    await store.clean((_, section) => section(), -1);
    disk.failOn('chunk.table', 1, 'ENOSPC');
    await t.rejects(store.adopt(handle, chunkVersion(2), (file) => file.truncate(70_000)));
    disk.clearFaults();
    await store.stop();
    disk.powerLoss();
    const again = await open(disk, ['d'], round);
    const damaged = await again.use(handle, async (file) => {
      const sound = await Promise.all([0, 1].map((block) => file.isSound(block)));
      return sound.includes(false) && !file.suspect;
    });
    t.equal(damaged, false, `round ${round}`);
    await again.stop();
  }
});

/** `disk`, of which the directory `of` takes no changes from the moment on in which the returned function is called. */
function failing(disk: CrashDisk, of: string, code: 'EROFS' | 'EIO'): { disk: Disk; fail: () => void } {
  let fails = false;
  const refuse = (path: string): void => {
    if (fails && path.startsWith(`${of}/`)) throw new CairnError(code, `${path}: its disk takes no changes`);
  };
  const watched = Object.assign(Object.create(disk) as CrashDisk, {
    open: async (...[label, path, mode]: Parameters<Disk['open']>) => {
      if (mode !== 'existing') refuse(path);
      return disk.open(label, path, mode);
    },
    rename: async (...[label, from, to]: Parameters<Disk['rename']>) => {
      refuse(to);
      return disk.rename(label, from, to);
    },
    unlink: async (...[label, path]: Parameters<Disk['unlink']>) => {
      refuse(path);
      return disk.unlink(label, path);
    },
  });
  return { disk: watched, fail: () => (fails = true) };
}

for (const code of ['EROFS', 'EIO'] as const) {
  t.test(`P11: a disk that fails (${code}) takes no other out of service when copies are made there`, async (t) => {
    for (let round = 0; round < 10; round++) {
      const whole = new CrashDisk(new SeededRandom(seed));
      const { disk, fail } = failing(whole, 'e', code);
      const store = await open(disk, ['d', 'e'], round);
      for (let at = 8; at < 20; at++) await store.arrivals.create(chunkHandle(at), version);
      const before = files(whole).filter((path) => path.startsWith('d/')).length;
      fail();
      for (let tries = 0; tries < 10; tries++) await copy(store, 1).catch(() => undefined);
      const problems = store.directories
        .states(true)
        .map(({ path, problem }) => `${path} ${problem === '' ? 'serves' : 'is out'}`);
      t.same(problems, ['d serves', 'e is out'], `round ${round}`);
      t.equal(store.index.size, before + 1, 'what is on the other disk, and the copy, are there');
      const left = whole.paths().filter((path) => path.startsWith('d/incoming/'));
      t.same(left, [], 'nothing is left of what came to nothing');
      await store.stop();
    }
  });
}

t.test('P11: a copy does not wait for another disk that hangs', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  const clock = new ManualClock();
  const store = await open(disk, ['d', 'e'], seed, clock);
  await copy(store, 1);
  const [removed = ''] = files(disk);
  const goOn = disk.holdUnlink(removed);
  const removal = store.departures.remove(handle, version);
  await new Promise(setImmediate);
  clock.advance(DISK_STALLED_MS + 2 * DISK_WATCH_INTERVAL_MS);
  const neighbour = chunkHandle(8);
  const beside = removed.replace('7.1', '8.1');
  const goOnBeside = disk.holdUnlink(beside);
  const fill = (): Promise<void> => Promise.resolve();
  const isDone = store.arrivals.replace(neighbour, version, fill, () => undefined).then(() => true);
  await eventually('the copy', () => store.index.get(neighbour) !== undefined);
  t.ok(await isDone);
  t.notOk(files(disk).includes(beside), 'on the other disk');
  goOn();
  goOnBeside();
  await removal;
  await store.stop();
});

/** A disk on which the next write of data takes until the returned function is called. */
function holdingNextWrite(disk: CrashDisk): { disk: Disk; goOn: () => void; isHeld: () => boolean } {
  let goOn = (): void => undefined;
  let held = false;
  const gate = new Promise<void>((resolve) => (goOn = resolve));
  const watched = Object.assign(Object.create(disk) as CrashDisk, {
    open: async (...args: Parameters<Disk['open']>) => {
      const file = await disk.open(...args);
      const write = file.write.bind(file);
      file.write = async (label, ...rest) => {
        if (label === 'chunk.write' && !held) {
          held = true;
          await gate;
        }
        await write(label, ...rest);
      };
      return file;
    },
  });
  return { disk: watched, goOn: () => goOn(), isHeld: () => held };
}

t.test('P1: a file that is given up in the middle of a write is not opened anew before its end', async (t) => {
  const whole = new CrashDisk(new SeededRandom(seed));
  const { disk, goOn, isHeld } = holdingNextWrite(whole);
  const store = await open(disk, ['d']);
  await copy(store, 1);
  const bytes = Buffer.alloc(4 * BLOCK_SIZE_BYTES, 2);
  const write = store.mutate(handle, (file) => file.write(0, bytes, segmentChecksums(bytes, 0)));
  await eventually('the write', isHeld);
  whole.failOn('chunk.peek');
  await t.rejects(store.check(handle), { code: 'EIO' });
  const first = store.use(handle, async (file) => (await file.read(0, 1)).bytes[0]);
  await new Promise(setImmediate);
  goOn();
  await write;
  await store.sync(handle);
  t.equal(await first, 2);
  const all = await store.use(handle, async (file) => (await file.read(0, bytes.length)).bytes);
  t.ok(bytes.equals(all), 'what was synced');
  await store.stop();
});

t.test(
  'a copy that comes to nothing fails with its own error, also where what there is of it cannot be deleted',
  async (t) => {
    const disk = new CrashDisk(new SeededRandom(seed));
    const store = await open(disk, ['d']);
    disk.failOn('chunk.discard');
    const fill = (): Promise<void> => Promise.reject(new CairnError('CANCELLED', 'not wanted any more'));
    await t.rejects(
      store.arrivals.replace(handle, version, fill, () => undefined),
      { code: 'CANCELLED' },
    );
    await copy(store, 2);
    await store.stop();
  },
);
