/** One replica's file: content against a model, every crash point of a write, power loss, damage, holes, truncation. */
import t from 'tap';
import type { Test } from 'tap';
import { segmentChecksums } from '../../../src/core/checksum.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES } from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { DATA_OFFSET } from '../../../src/chunkserver/chunk/chunk-format.js';
import { ChunkFile } from '../../../src/chunkserver/chunk/chunk-file.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';

const seed = Number(process.env['CAIRN_SEED'] ?? 1);
const handle = chunkHandle(7);
const version = chunkVersion(3);
const PATH = 'c/7';

const create = (disk: CrashDisk): Promise<ChunkFile> => ChunkFile.create(disk, PATH, handle, version);
const write = (file: ChunkFile, offset: number, bytes: Buffer): Promise<void> =>
  file.write(offset, bytes, segmentChecksums(bytes, offset));

async function content(file: ChunkFile): Promise<Buffer> {
  const { bytes, checksums } = await file.read(0, Math.max(file.length, 1));
  t.same(checksums, segmentChecksums(bytes, 0), 'checksums are those of the bytes');
  return bytes;
}

/** What recovery does when no replica has them whole. After a write that was acknowledged there is none. */
async function acceptAllTorn(t: Test, file: ChunkFile, isAcknowledged: boolean): Promise<void> {
  for (const block of await file.damagedBlocks()) {
    t.ok(file.isTorn(block) && !isAcknowledged);
    t.ok(await file.acceptTorn(block));
    t.notOk(file.isTorn(block));
  }
}

/** Writes and truncates `model` as the file is. */
class Model {
  bytes = Buffer.alloc(0);
  write(offset: number, bytes: Buffer): void {
    const grown = Buffer.alloc(Math.max(this.bytes.length, offset + bytes.length));
    this.bytes.copy(grown);
    bytes.copy(grown, offset);
    this.bytes = grown;
  }
  truncate(length: number): void {
    const changed = Buffer.alloc(length);
    this.bytes.copy(changed);
    this.bytes = changed;
  }
}

t.test(`P3, P5: random work against a model, closed, killed and reopened (CAIRN_SEED=${seed})`, async (t) => {
  const random = new SeededRandom(seed);
  for (let round = 0; round < 12; round++) {
    const disk = new CrashDisk(random);
    let file = await create(disk);
    const model = new Model();
    for (let step = 0; step < 40; step++) {
      const choice = random.below(10);
      const offset = random.below(random.below(2) === 0 ? 300_000 : model.bytes.length + 1);
      if (choice < 2) {
        const writes = Array.from({ length: 1 + random.below(20) }, () => {
          const [at, bytes] = [Math.max(0, offset - random.below(200_000)), random.bytes(1 + random.below(5_000))];
          model.write(at, bytes);
          return { offset: at, bytes, checksums: segmentChecksums(bytes, at) };
        });
        await file.writeAll(writes);
      } else if (choice < 6) {
        const bytes = random.below(4) === 0 ? Buffer.alloc(70_000) : random.bytes(1 + random.below(100_000));
        await write(file, offset, bytes);
        model.write(offset, bytes);
      } else if (choice < 8) {
        await file.truncate(offset);
        model.truncate(offset);
      } else if (choice < 9) {
        await file.close();
        file = await ChunkFile.open(disk, PATH);
      } else {
        disk.kill();
        file = await ChunkFile.open(disk, PATH);
        t.notOk(file.suspect);
      }
      if (file.length !== model.bytes.length || !(await content(file)).equals(model.bytes)) {
        t.fail(`differs after round ${round} step ${step}, choice ${choice}`);
        return;
      }
    }
  }
  t.pass('alike');
});

t.test(
  'P3: killed at every point of a write, a block is old, new, or torn by it, and recovery can take it',
  async (t) => {
    const random = new SeededRandom(seed);
    const before = random.bytes(150_000);
    const after = random.bytes(100_000);
    for (const offset of [100, 60_000, 140_000, 300_000]) {
      for (let at = 0; ; at++) {
        const counts: number[] = [];
        let finished = false;
        for (const keepBytes of [0, 1, 5, 13, 40_000, 99_999]) {
          const disk = new CrashDisk(random);
          const file = await create(disk);
          await write(file, 0, before);
          const first = disk.changes;
          disk.killAtChange(first + at, keepBytes);
          const result = await write(file, offset, after).then(
            () => 'done',
            () => 'killed',
          );
          counts.push(disk.changes - first);
          finished = result === 'done';
          disk.kill();
          const reopened = await ChunkFile.open(disk, PATH);
          await acceptAllTorn(t, reopened, finished);
          const now = await content(reopened);
          const whole = new Model();
          whole.write(0, before);
          const old = Buffer.from(whole.bytes);
          whole.write(offset, after);
          if (finished) t.ok(now.equals(whole.bytes), 'an acknowledged write is there');
          for (let i = 0; i < now.length; i++) {
            if (now[i] !== (old[i] ?? 0) && now[i] !== whole.bytes[i]) {
              t.fail(`byte ${i} is neither old nor new, write at ${offset} killed at change ${at} after ${keepBytes}`);
              return;
            }
          }
          // Settled once, it stays so, and takes writes again.
          await write(reopened, offset, after);
          disk.kill();
          const last = await content(await ChunkFile.open(disk, PATH));
          t.ok(last.equals(whole.bytes));
        }
        if (finished) break;
      }
    }
  },
);

t.test('P3: what rots after a write, or before a kill, does not pass for torn by it', async (t) => {
  const random = new SeededRandom(seed);
  const bytes = random.bytes(2 * BLOCK_SIZE_BYTES);
  const disk = new CrashDisk(random);
  const file = await create(disk);
  await write(file, 0, random.bytes(2 * BLOCK_SIZE_BYTES));
  await write(file, 0, bytes);
  disk.kill();
  const at = DATA_OFFSET + 90_000;
  disk.content(PATH).writeUInt8(disk.content(PATH).readUInt8(at) ^ 4, at);
  for (let opened = 0; opened < 3; opened++) {
    const again = await ChunkFile.open(disk, PATH);
    t.ok(again.isTorn(1) && !again.isTorn(0));
    await t.rejects(again.read(70_000, 100), { code: 'CORRUPT', block: 1, isTorn: true });
    t.same(await again.damagedBlocks(), [1]);
    await t.rejects(again.markClean(), { code: 'UNAVAILABLE' }, 'as long as it is not settled');
    t.ok(again.dirty);
    disk.kill();
  }
  const mended = await ChunkFile.open(disk, PATH);
  await write(mended, BLOCK_SIZE_BYTES, bytes.subarray(BLOCK_SIZE_BYTES));
  t.same(await mended.damagedBlocks(), []);
  t.ok((await content(mended)).equals(bytes));
  disk.kill();
  t.ok((await content(await ChunkFile.open(disk, PATH))).equals(bytes));
});

t.test('P3: damage on disk is never served, by reads, appends or partial overwrites', async (t) => {
  const random = new SeededRandom(seed);
  const disk = new CrashDisk(random);
  const file = await create(disk);
  await write(file, 0, random.bytes(4 * BLOCK_SIZE_BYTES));
  await file.sync();
  disk.content(PATH).writeUInt8(disk.content(PATH).readUInt8(DATA_OFFSET + 70_000) ^ 4, DATA_OFFSET + 70_000);
  await t.rejects(file.read(70_000, 10), { code: 'CORRUPT', block: 1 });
  await t.rejects(file.read(0, 4 * BLOCK_SIZE_BYTES), { code: 'CORRUPT' });
  await t.rejects(write(file, 65_600, Buffer.from('partial')), { code: 'CORRUPT' });
  t.equal((await file.read(0, BLOCK_SIZE_BYTES)).bytes.length, BLOCK_SIZE_BYTES, 'other blocks are served');
  disk.kill();
  const reopened = await ChunkFile.open(disk, PATH);
  t.notOk(await reopened.isSound(1), 'a kill does not launder it');
  await reopened.truncate(80_000);
  t.notOk(await reopened.isSound(1), 'nor does a cut within the block');
  await reopened.truncate(65_000);
  await reopened.truncate(131_072);
  t.same((await reopened.read(65_536, 65_536)).bytes, Buffer.alloc(65_536), 'P5: zeros after cut and extension');
  await write(reopened, 65_536, random.bytes(BLOCK_SIZE_BYTES));
  t.ok(await reopened.isSound(1), 'a whole new block replaces it');
});

t.test('P3: a write that fails, or a kill after one, does not launder damage beside what it wrote', async (t) => {
  const random = new SeededRandom(seed);
  const before = random.bytes(10_000);
  const more = random.bytes(5_000);
  const damaged = async (): Promise<{ disk: CrashDisk; file: ChunkFile }> => {
    const disk = new CrashDisk(random);
    const file = await create(disk);
    await write(file, 0, before);
    await file.sync();
    disk.content(PATH).writeUInt8(disk.content(PATH).readUInt8(DATA_OFFSET + 7_000) ^ 4, DATA_OFFSET + 7_000);
    return { disk, file };
  };
  const actions: Readonly<Record<string, (file: ChunkFile) => Promise<void>>> = {
    append: (file) => write(file, 10_000, more),
    'write behind a gap': (file) => write(file, 12_000, more),
    'write in another block': (file) => write(file, 150_000, more),
    extension: (file) => file.truncate(20_000),
    cut: (file) => file.truncate(9_000),
  };
  for (const [name, action] of Object.entries(actions)) {
    for (const label of ['chunk.write', 'chunk.truncate']) {
      const { disk, file } = await damaged();
      disk.failOn(label, 0, 'ENOSPC');
      await action(file).catch(() => undefined);
      t.notOk(await file.isSound(0), `${name}, failing ${label}`);
    }
    const { disk, file } = await damaged();
    await action(file);
    t.notOk(await file.isSound(0), `${name} alone`);
    disk.kill();
    const reopened = await ChunkFile.open(disk, PATH);
    t.notOk(await reopened.isSound(0), `${name} and a kill`);
    if (name !== 'append') continue;
    const right = segmentChecksums(Buffer.concat([before, more]), 0);
    t.same(reopened.checksums(), right, 'it is known what the block should be');
  }
});

t.test(
  'P3: the rest of a damaged block does not pass for sound when the write in its place fails half-way',
  async (t) => {
    const random = new SeededRandom(seed);
    const before = random.bytes(BLOCK_SIZE_BYTES);
    const after = random.bytes(BLOCK_SIZE_BYTES + 20_000);
    for (const length of [BLOCK_SIZE_BYTES, after.length]) {
      const disk = new CrashDisk(random);
      let file = await create(disk);
      await write(file, 0, before);
      await file.sync();
      disk.content(PATH).writeUInt8(disk.content(PATH).readUInt8(DATA_OFFSET + 60_000) ^ 4, DATA_OFFSET + 60_000);
      for (let turn = 0; turn < 2; turn++) {
        disk.failOn('chunk.write', 0, 'ENOSPC', 30_000);
        await t.rejects(write(file, 0, after.subarray(0, length)), { code: 'ENOSPC' });
        t.notOk(await file.isSound(0), `${length} bytes, turn ${turn}`);
        t.ok(file.isTorn(0), 'recovery takes it from another replica, or as it stands');
      }
      await file.close();
      file = await ChunkFile.open(disk, PATH);
      t.notOk(await file.isSound(0), 'opened anew');
      t.ok(file.isTorn(0));
      disk.failOn('chunk.write', 0, 'ENOSPC');
      t.ok(await file.acceptTorn(0), 'needs no space');
      t.notOk(file.isTorn(0));
      disk.clearFaults();
      t.ok((await content(file)).subarray(0, 30_000).equals(after.subarray(0, 30_000)));
      await write(file, 0, after.subarray(0, length));
      t.ok((await content(file)).equals(after.subarray(0, length)));
      await file.markClean();
      t.notOk(file.dirty);
    }
  },
);

t.test('P3: after power loss, blocks are what was synced or later, or are known to be damaged', async (t) => {
  for (let round = 0; round < 60; round++) {
    const random = new SeededRandom(seed * 1000 + round);
    const disk = new CrashDisk(random);
    const file = await create(disk);
    const states = new Model();
    const base = random.bytes(200_000);
    await write(file, 0, base);
    states.write(0, base);
    await file.sync();
    await disk.syncDirectory('test', 'c');
    const allowed = [Buffer.from(states.bytes)];
    for (let i = 0; i < 3; i++) {
      const offset = random.below(250_000);
      const bytes = random.bytes(1 + random.below(90_000));
      await write(file, offset, bytes);
      states.write(offset, bytes);
      allowed.push(Buffer.from(states.bytes));
    }
    disk.powerLoss();
    const reopened = await ChunkFile.open(disk, PATH);
    t.ok(reopened.suspect, 'a replica under mutation is suspect');
    const damaged = new Set(await reopened.damagedBlocks());
    for (let block = 0; block * BLOCK_SIZE_BYTES < reopened.length; block++) {
      if (damaged.has(block)) continue;
      const { bytes } = await reopened.read(block * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES);
      const start = block * BLOCK_SIZE_BYTES;
      const known = allowed.some((state) => {
        const was = Buffer.alloc(bytes.length);
        if (start < state.length) state.copy(was, 0, start, start + bytes.length);
        return was.equals(bytes);
      });
      if (!known) {
        t.fail(`block ${block} holds bytes that no write left, round ${round}`);
        return;
      }
    }
    await reopened.adopt(chunkVersion(4));
    disk.powerLoss();
    const clean = await ChunkFile.open(disk, PATH);
    t.notOk(clean.suspect, 'an adopted version is clean and durable');
    t.equal(clean.version, 4);
    for (const block of damaged) t.notOk(await clean.isSound(block), 'damage stays known');
  }
});

t.test(
  'P1: what was synced survives power loss; a clean replica is not suspect; a dirty mark comes first',
  async (t) => {
    const random = new SeededRandom(seed);
    const disk = new CrashDisk(random);
    const file = await create(disk);
    const bytes = random.bytes(100_000);
    await write(file, 5, bytes);
    await Promise.all([file.sync(), file.sync()]);
    await disk.syncDirectory('test', 'c');
    await file.markClean();
    await file.close();
    const clean = await ChunkFile.open(disk, PATH);
    await clean.adopt(version);
    t.notOk(clean.dirty);
    disk.powerLoss();
    const reopened = await ChunkFile.open(disk, PATH);
    t.notOk(reopened.suspect);
    t.same((await content(reopened)).subarray(5), bytes);
    await write(reopened, 0, Buffer.from('x'));
    disk.powerLoss();
    t.ok((await ChunkFile.open(disk, PATH)).suspect, 'the mark was durable before the write');
  },
);

t.test('a failed write leaves readable blocks, a failed sync none', async (t) => {
  const random = new SeededRandom(seed);
  const disk = new CrashDisk(random);
  const file = await create(disk);
  const bytes = random.bytes(100_000);
  await write(file, 0, bytes);
  disk.failOn('chunk.write', 0, 'ENOSPC');
  await t.rejects(write(file, 50_000, random.bytes(100_000)), { code: 'ENOSPC' });
  t.same(await content(file), bytes);
  disk.failOn('chunk.table', 0, 'ENOSPC');
  await t.rejects(write(file, 50_000, Buffer.from('y')), { code: 'ENOSPC' });
  t.same(await content(file), bytes);
  disk.failOn('chunk.sync');
  await t.rejects(file.sync(), { code: 'EIO' });
  await t.rejects(file.read(0, 1), { code: 'EIO' }, 'what is on disk is not known any more');
});

t.test('bounds, and a file cut short while it was made', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  const file = await create(disk);
  await t.rejects(write(file, CHUNK_SIZE_BYTES - 1, Buffer.from('ab')), { code: 'EFBIG' });
  await write(file, CHUNK_SIZE_BYTES - 1, Buffer.from('a'));
  t.equal(file.length, CHUNK_SIZE_BYTES);
  t.same((await file.read(CHUNK_SIZE_BYTES - 4, 100)).bytes, Buffer.from('\0\0\0a'));
  t.equal((await file.read(20 * 1024 * 1024, 4)).bytes.readUInt32LE(0), 0);
  await (await disk.open('test', 'c/empty', 'create')).close();
  await t.rejects(ChunkFile.open(disk, 'c/empty'), { code: 'NO_REPLICA' });
});

t.test('P1: a sync that goes on beside a write does not stand for one that comes after it', async (t) => {
  const random = new SeededRandom(seed);
  for (let round = 0; round < 150; round++) {
    const later = round % 15;
    const disk = new CrashDisk(random);
    const file = await create(disk);
    await write(file, 0, random.bytes(100_000));
    await file.sync();
    await disk.syncDirectory('test', 'c');
    const bytes = random.bytes(100_000);
    const writing = write(file, 0, bytes);
    for (let i = 0; i < later; i++) await Promise.resolve();
    await Promise.all([file.sync(), writing]);
    await file.sync();
    disk.powerLoss();
    const again = await ChunkFile.open(disk, PATH);
    const found = await again.readSound(0, bytes.length);
    t.ok(found.damaged.length === 0 && found.bytes.equals(bytes), `sync ${later} steps after the write began`);
  }
});

t.test('P1: power fails beside the first write after the file was clean', async (t) => {
  const random = new SeededRandom(seed);
  for (let round = 0; round < 200; round++) {
    const disk = new CrashDisk(random);
    let file = await create(disk);
    const bytes = random.bytes(100);
    await write(file, 0, bytes);
    await file.markClean();
    await disk.syncDirectory('test', 'c');
    if (round % 2 === 0) file = await ChunkFile.open(disk, PATH);
    const writing = write(file, 0, random.bytes(100)).catch(() => undefined);
    disk.powerLoss();
    await writing;
    const again = await ChunkFile.open(disk, PATH);
    t.ok((await again.read(0, bytes.length)).bytes.equals(bytes));
  }
});

t.test('P1: power fails after the sync of the first mark of a file failed', async (t) => {
  const random = new SeededRandom(seed);
  for (let round = 0; round < 200; round++) {
    const disk = new CrashDisk(random);
    const file = await create(disk);
    const bytes = random.bytes(100);
    await write(file, 0, bytes);
    await file.markClean();
    await disk.syncDirectory('test', 'c');
    disk.failOn('chunk.sync');
    await t.rejects(write(file, 0, random.bytes(100)));
    disk.powerLoss();
    const again = await ChunkFile.open(disk, PATH);
    t.ok((await again.read(0, bytes.length)).bytes.equals(bytes));
  }
});

t.test('P1: a sync that fails fails for those who wait for the next one', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  const file = await create(disk);
  await write(file, 0, Buffer.alloc(100, 1));
  disk.failOn('chunk.sync');
  const results = await Promise.allSettled([file.sync(), file.sync(), file.sync()]);
  t.same(
    results.map(({ status }) => status),
    ['rejected', 'rejected', 'rejected'],
    'the next one would succeed, without what the first one did not write',
  );
});
