/** Replicas that are kept aside: they are in nobody's way, survive restarts, come back, and go when their time or the space is over. */
import t from 'tap';
import { ChunkStore } from '../../../src/chunkserver/store/chunk-store.js';
import { DiskWatch } from '../../../src/chunkserver/disks/disk-watch.js';
import type { Timespec } from '../../../src/core/clock.js';
import { segmentChecksums } from '../../../src/core/checksum.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import type { ChunkHandle } from '../../../src/core/ids.js';
import { ASIDE_KEEP_MS, KIB } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { SeededRandom } from '../../../src/core/random.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { eventually } from '../../support/eventually.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';

/** Days go by, and nothing is waited for. */
class Calendar extends ManualClock {
  private passedMs = 0;

  pass(ms: number): void {
    this.passedMs += ms;
  }

  override now(): Timespec {
    const { seconds, nanoseconds } = super.now();
    return { seconds: seconds + Math.floor(this.passedMs / 1000), nanoseconds };
  }
}

const HOUR_MS = 3_600_000;
const version = chunkVersion(1);
const bytes = (handle: number): Buffer => Buffer.alloc(4 * KIB, handle);

async function start(disk: CrashDisk, clock: Calendar): Promise<ChunkStore> {
  const watch = new DiskWatch({ disk, clock, logger: silentLogger, paths: ['d'] });
  const store = new ChunkStore({
    ...{ disk: watch.disk, watch, clock, random: new SeededRandom(1), logger: silentLogger, directories: ['d'] },
    bootNotes: new MemoryNotes(),
    forgetDisks: [],
    onLost: () => undefined,
    onBadReplica: () => undefined,
  });
  await store.start();
  return store;
}

async function make(store: ChunkStore, handle: ChunkHandle): Promise<void> {
  await store.arrivals.create(handle, version);
  await store.mutate(handle, (file) => file.write(0, bytes(handle), segmentChecksums(bytes(handle), 0)));
  await store.sync(handle);
}

/** They go by evenly. */
async function hours(store: ChunkStore, clock: Calendar, count: number): Promise<void> {
  for (let i = 0; i < 100 * count; i++) {
    clock.advance(HOUR_MS / 100);
    await new Promise(setImmediate);
    await store.aside.tidy();
  }
}

const content = (store: ChunkStore, handle: ChunkHandle): Promise<Buffer> =>
  store.use(handle, async (file) => Buffer.from((await file.read(0, 4 * KIB)).bytes));

t.test('set aside, over a restart, beside a new chunk of that handle, and back', async (t) => {
  const [disk, clock] = [new CrashDisk(new SeededRandom(1)), new Calendar()];
  const [one, two, empty] = [chunkHandle(1), chunkHandle(2), chunkHandle(3)];
  let store = await start(disk, clock);
  await make(store, one);
  await make(store, two);
  await store.arrivals.create(empty, version);
  for (const handle of [one, two, empty]) await store.departures.setAside(handle, version);
  t.equal(store.index.size, 0);
  t.equal(store.aside.size, 2, 'what holds no byte is not kept');
  t.throws(() => store.entry(one), { code: 'NO_REPLICA' });
  await store.stop();
  store = await start(disk, clock);
  t.equal(store.index.size, 0);
  t.equal(store.aside.size, 2);
  await store.arrivals.create(two, version);
  t.equal(await store.use(two, (file) => Promise.resolve(file.length)), 0, 'a new chunk has nothing of it');
  await store.arrivals.restore(one, version);
  t.ok((await content(store, one)).equals(bytes(one)));
  await store.arrivals.restore(two, version);
  t.equal(await store.use(two, (file) => Promise.resolve(file.length)), 0, 'one that is there as new stays');
  t.equal(store.aside.size, 1);
  await store.stop();
  store = await start(disk, clock);
  t.ok((await content(store, one)).equals(bytes(one)), 'also over a restart');
  await store.stop();
});

t.test('they go when their time is over, and before that when the disk is nearly full, the oldest first', async (t) => {
  const [disk, clock] = [new CrashDisk(new SeededRandom(1)), new Calendar()];
  let store = await start(disk, clock);
  for (const handle of [1, 2, 3, 4].map(chunkHandle)) {
    await make(store, handle);
    await store.departures.setAside(handle, version);
    clock.pass(ASIDE_KEEP_MS / 4);
  }
  await store.aside.tidy();
  t.equal(store.aside.size, 4);
  clock.pass(ASIDE_KEEP_MS / 4 + 2_000);
  await store.stop();
  store = await start(disk, clock);
  await store.aside.tidy();
  t.equal(store.aside.size, 4, 'a clock that is new to it may be wrong');
  await hours(store, clock, 1.1);
  t.same(
    store.aside.page(-1, 9).map(({ handle }) => handle),
    [3, 4],
    'the time goes on while the server is down',
  );
  let isFull = true;
  disk.space = () => Promise.resolve({ totalBytes: 1000 * KIB, freeBytes: isFull ? 10 * KIB : 500 * KIB });
  await eventually('the space is measured', () => {
    clock.advance(1_000);
    store.tend();
    return store.directories.space().freeBytes === 10 * KIB;
  });
  const { unlink } = disk;
  disk.unlink = (label, path) => {
    isFull = false;
    return unlink.call(disk, label, path);
  };
  await store.aside.tidy();
  t.same(
    store.aside.page(-1, 9).map(({ handle }) => handle),
    [4],
    'no more than must go',
  );
  await store.stop();
});

t.test('a clock that jumps deletes nothing, unless it stays there', async (t) => {
  const [disk, clock] = [new CrashDisk(new SeededRandom(1)), new Calendar()];
  const store = await start(disk, clock);
  await make(store, chunkHandle(1));
  await store.departures.setAside(chunkHandle(1), version);
  await hours(store, clock, 2);
  clock.pass(30 * ASIDE_KEEP_MS);
  await hours(store, clock, 0.8);
  t.equal(store.aside.size, 1);
  clock.pass(-30 * ASIDE_KEEP_MS);
  await hours(store, clock, 4);
  t.equal(store.aside.size, 1, 'it was set right');
  clock.pass(ASIDE_KEEP_MS);
  await hours(store, clock, 1.1);
  t.equal(store.aside.size, 0);
  await store.stop();
});

t.test('one whose header cannot be read just now stays aside, and comes back later', async (t) => {
  const [disk, clock] = [new CrashDisk(new SeededRandom(1)), new Calendar()];
  const one = chunkHandle(1);
  const store = await start(disk, clock);
  await make(store, one);
  await store.departures.setAside(one, version);
  disk.failOn('chunk.peek');
  await t.rejects(store.arrivals.restore(one, version), { code: 'EIO' });
  t.equal(store.aside.size, 1);
  await store.arrivals.restore(one, version);
  t.ok((await content(store, one)).equals(bytes(one)));
  await store.stop();
});
