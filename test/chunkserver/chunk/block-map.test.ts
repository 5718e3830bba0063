/** Which blocks of a replica have data: exactly those that are not zeros, whatever their checksums say. */
import t from 'tap';
import { segmentChecksums, checksum } from '../../../src/core/checksum.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, KIB } from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { mapBlocks } from '../../../src/chunkserver/chunk/block-map.js';
import { DATA_OFFSET, ZERO_BLOCK_SUM } from '../../../src/chunkserver/chunk/chunk-format.js';
import { ChunkFile } from '../../../src/chunkserver/chunk/chunk-file.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { testSeed } from '../../support/seed.js';

const BLOCK = BLOCK_SIZE_BYTES;
const PATH = '/chunk';

async function makeFile(seed: number): Promise<{ file: ChunkFile; disk: CrashDisk }> {
  const disk = new CrashDisk(new SeededRandom(seed));
  return { disk, file: await ChunkFile.create(disk.forProcess(), PATH, chunkHandle(1), chunkVersion(1)) };
}

async function blocks(file: ChunkFile): Promise<number[]> {
  const { dataBlocks, length } = await mapBlocks(file);
  t.equal(length, file.length);
  return Array.from({ length: dataBlocks.length * 8 }, (_, i) => i).filter(
    (i) => (((dataBlocks[i >> 3] ?? 0) >> (i & 7)) & 1) === 1,
  );
}

const write = (file: ChunkFile, offset: number, bytes: Buffer): Promise<void> =>
  file.write(offset, bytes, segmentChecksums(bytes, offset));

/** A block that is not zeros and has their checksum: the checksum is linear in the last four bytes, but for a constant. */
function impostor(random: SeededRandom): Buffer {
  const block = random.bytes(BLOCK);
  block.fill(0, BLOCK - 4);
  const base = checksum(block);
  const rows: { effect: number; bits: number }[] = [];
  for (let bit = 0; bit < 32; bit++) {
    block.writeUInt32LE(2 ** bit, BLOCK - 4);
    let row = { effect: (checksum(block) ^ base) >>> 0, bits: 2 ** bit };
    for (const known of rows) {
      const isSet = (row.effect & leading(known.effect)) !== 0;
      if (isSet) row = { effect: (row.effect ^ known.effect) >>> 0, bits: (row.bits ^ known.bits) >>> 0 };
    }
    if (row.effect !== 0) rows.push(row);
  }
  let wanted = (base ^ ZERO_BLOCK_SUM) >>> 0;
  let bits = 0;
  for (const row of rows) {
    if ((wanted & leading(row.effect)) === 0) continue;
    wanted = (wanted ^ row.effect) >>> 0;
    bits = (bits ^ row.bits) >>> 0;
  }
  block.writeUInt32LE(bits, BLOCK - 4);
  return block;
}

const leading = (word: number): number => 2 ** (31 - Math.clz32(word));

t.test('random writes, zeros among them, and truncates', async (t) => {
  const seed = testSeed(t);
  const random = new SeededRandom(seed);
  const { file } = await makeFile(seed);
  let bytes = Buffer.alloc(0);
  for (let step = 0; step < 150; step++) {
    if (random.below(6) === 0) {
      const length = random.below(40 * BLOCK);
      await file.truncate(length);
      const cut = Buffer.alloc(length);
      bytes.copy(cut);
      bytes = cut;
    } else {
      const offset = random.below(40) * BLOCK + (random.below(2) === 0 ? 0 : random.below(BLOCK));
      const part = Buffer.alloc(1 + random.below(3 * BLOCK));
      if (random.below(2) === 0) random.bytes(part.length).copy(part);
      await write(file, offset, part);
      const grown = Buffer.alloc(Math.max(bytes.length, offset + part.length));
      bytes.copy(grown);
      part.copy(grown, offset);
      bytes = grown;
    }
    const expected: number[] = [];
    for (let at = 0; at < bytes.length; at += BLOCK) {
      if (bytes.subarray(at, at + BLOCK).some((byte) => byte !== 0)) expected.push(at / BLOCK);
    }
    const found = await blocks(file);
    if (found.join() !== expected.join()) t.fail(`step ${step}: ${found.join()}, not ${expected.join()}`);
  }
  t.ok(bytes.length > 0);
});

t.test('P3: a block with the checksum of zeros is not taken for a hole; nor is a damaged one', async (t) => {
  const seed = testSeed(t);
  const { file, disk } = await makeFile(seed);
  const block = impostor(new SeededRandom(seed));
  t.equal(checksum(block), ZERO_BLOCK_SUM);
  await write(file, 3 * BLOCK, block);
  await file.truncate(10 * BLOCK + 5);
  t.same(await blocks(file), [3]);
  disk.content(PATH).fill(1, DATA_OFFSET + 5 * BLOCK, DATA_OFFSET + 5 * BLOCK + 1);
  const found = await blocks(file);
  t.ok(found.includes(5) && found.includes(3));
});

t.test('a whole chunk of holes', async (t) => {
  const { file } = await makeFile(1);
  await file.truncate(CHUNK_SIZE_BYTES);
  t.same(await blocks(file), []);
  await write(file, CHUNK_SIZE_BYTES - KIB, Buffer.alloc(KIB, 7));
  t.same(await blocks(file), [CHUNK_SIZE_BYTES / BLOCK - 1]);
});
