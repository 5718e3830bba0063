/** The replicas of a server on its disks: what it does by itself. */
import t from 'tap';
import { ChunkFile } from '../../src/chunkserver/chunk/chunk-file.js';
import { ChunkStore } from '../../src/chunkserver/store/chunk-store.js';
import { segmentChecksums } from '../../src/core/checksum.js';
import { chunkHandle, chunkVersion } from '../../src/core/ids.js';
import { MIB, SYNC_BEHIND_BYTES } from '../../src/core/limits.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import { DiskWatch } from '../../src/chunkserver/store/disk-watch.js';
import { SeededRandom } from '../../src/core/random.js';
import { CrashDisk } from '../support/crash-disk.js';
import { eventually } from '../support/eventually.js';
import { ManualClock } from '../support/manual-clock.js';

const seed = Number(process.env['CAIRN_SEED'] ?? 1);
const handle = chunkHandle(7);
const version = chunkVersion(1);

async function start(disk: CrashDisk, directories: readonly string[] = ['d']): Promise<ChunkStore> {
  const store = await open(disk, directories);
  await store.create(handle, version);
  return store;
}

async function open(disk: CrashDisk, directories: readonly string[]): Promise<ChunkStore> {
  const clock = new ManualClock();
  const watch = new DiskWatch({ disk, clock, logger: silentLogger, paths: directories });
  const store = new ChunkStore({
    ...{ disk: watch.disk, watch, clock, random: new SeededRandom(seed), logger: silentLogger, directories },
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
