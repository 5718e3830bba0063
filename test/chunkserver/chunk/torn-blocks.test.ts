/** Blocks of one replica's file that a write was cut short in: they stay so until somebody has settled them. */
import t from 'tap';
import { segmentChecksums } from '../../../src/core/checksum.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES } from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { DATA_OFFSET } from '../../../src/chunkserver/chunk/chunk-format.js';
import { ChunkFile } from '../../../src/chunkserver/chunk/chunk-file.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';

const seed = Number(process.env['CAIRN_SEED'] ?? 1);
const random = new SeededRandom(seed);
const PATH = 'c/7';
const BLOCK = random.bytes(BLOCK_SIZE_BYTES);

const open = (disk: CrashDisk): Promise<ChunkFile> => ChunkFile.open(disk, PATH);
const write = (file: ChunkFile, offset: number, bytes: Buffer): Promise<void> =>
  file.write(offset, bytes, segmentChecksums(bytes, offset));

/** Three blocks; the process is killed in the middle of a write of the second. */
async function tornBlock(): Promise<{ disk: CrashDisk; file: ChunkFile }> {
  const disk = new CrashDisk(random);
  const file = await ChunkFile.create(disk, PATH, chunkHandle(7), chunkVersion(3));
  await write(file, 0, random.bytes(3 * BLOCK_SIZE_BYTES));
  await file.sync();
  await disk.syncDirectory('test', 'c');
  disk.killAtChange(disk.changes + 1, 30_000);
  await write(file, BLOCK_SIZE_BYTES, BLOCK).catch(() => undefined);
  disk.kill();
  return { disk, file: await open(disk) };
}

t.test('P3: a torn block that is cut does not pass for sound after a kill', async (t) => {
  const { disk, file } = await tornBlock();
  await file.truncate(BLOCK_SIZE_BYTES + 50_000);
  t.notOk(await file.isSound(1));
  disk.kill();
  const again = await open(disk);
  t.notOk(await again.isSound(1));
  t.ok(again.isTorn(1));
  t.ok(await again.acceptTorn(1), 'it can still be taken as it stands');
});

t.test('P11: a torn block that a recovery could not mend yet stays one', async (t) => {
  const { disk, file } = await tornBlock();
  await file.adopt(chunkVersion(4));
  t.ok(file.dirty);
  disk.kill();
  const again = await open(disk);
  t.ok(again.isTorn(1), 'after a kill');
  disk.powerLoss();
  const last = await open(disk);
  t.ok(last.suspect, 'and after a power loss');
  t.ok(await last.acceptTorn(1));
});

t.test('P11: a torn block behind the place of a cut that fails stays one', async (t) => {
  const { disk, file } = await tornBlock();
  disk.failOn('chunk.truncate', 0, 'ENOSPC');
  await t.rejects(file.truncate(BLOCK_SIZE_BYTES), { code: 'ENOSPC' });
  t.ok(file.isTorn(1));
  await file.sync();
  disk.kill();
  t.ok((await open(disk)).isTorn(1));
});

t.test('P3: what a write leaves of a block that was known to be damaged does not pass for torn', async (t) => {
  const damaged = async (): Promise<{ disk: CrashDisk; file: ChunkFile }> => {
    const disk = new CrashDisk(random);
    const file = await ChunkFile.create(disk, PATH, chunkHandle(7), chunkVersion(3));
    await write(file, 0, random.bytes(2 * BLOCK_SIZE_BYTES));
    await file.sync();
    const at = DATA_OFFSET + 2 * BLOCK_SIZE_BYTES - 10;
    disk.content(PATH).writeUInt8(disk.content(PATH).readUInt8(at) ^ 4, at);
    t.notOk(await file.isSound(1));
    return { disk, file };
  };
  const failed = await damaged();
  failed.disk.failOn('chunk.write', 0, 'ENOSPC', 30_000);
  await t.rejects(write(failed.file, BLOCK_SIZE_BYTES, BLOCK), { code: 'ENOSPC' });
  t.notOk(await failed.file.acceptTorn(1), 'after a write that failed');
  t.notOk(await failed.file.isSound(1));
  const killed = await damaged();
  killed.disk.killAtChange(killed.disk.changes + 1, 30_000);
  await t.rejects(write(killed.file, BLOCK_SIZE_BYTES, BLOCK));
  killed.disk.kill();
  const again = await open(killed.disk);
  t.notOk(await again.acceptTorn(1), 'after a kill');
  t.notOk(await again.isSound(1));
  await write(again, BLOCK_SIZE_BYTES, BLOCK);
  t.ok(await again.isSound(1), 'until it is written whole');
});

t.test('P2: the mark of a mutation is made durable also when a process was killed before it was', async (t) => {
  for (let round = 0; round < 12; round++) {
    const disk = new CrashDisk(random);
    const file = await ChunkFile.create(disk, PATH, chunkHandle(7), chunkVersion(3));
    await write(file, 0, BLOCK);
    await file.markClean();
    await file.sync();
    await disk.syncDirectory('test', 'c');
    // The mark is in the page cache, and is not synced.
    const killed = write(file, 0, random.bytes(100)).catch(() => undefined);
    disk.kill();
    await killed;
    const again = await open(disk);
    t.ok(again.dirty);
    await write(again, 0, random.bytes(BLOCK_SIZE_BYTES));
    disk.powerLoss();
    t.ok((await open(disk)).suspect, 'it may miss what was acknowledged');
  }
});
