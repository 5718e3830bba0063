/** SEEK_DATA and SEEK_HOLE within chunks, on a real cluster: what a program that copies only the data would see. */
import t from 'tap';
import { hasCode } from '../../../src/core/errors.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, MIB } from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS as root, type OpenFile } from '../../../src/filesystem/filesystem.js';
import { MemoryNetwork } from '../../support/fakes/memory-network.js';
import { realCluster } from '../../support/real-cluster.js';
import { testSeed } from '../../support/seed.js';

const BLOCK = BLOCK_SIZE_BYTES;
const READ_WRITE = { read: true, write: true };

/** The blocks that are data, by turns of SEEK_DATA and SEEK_HOLE. */
async function dataBlocks(file: OpenFile, size: number): Promise<number[]> {
  const found: number[] = [];
  for (let at = 0; at < size;) {
    let start: number;
    try {
      start = await file.seek(at, 'data');
    } catch (error) {
      if (hasCode(error, 'ENXIO')) break;
      throw error;
    }
    const end = await file.seek(start, 'hole');
    for (let block = Math.floor(start / BLOCK); block * BLOCK < end; block++) found.push(block);
    at = end;
  }
  return found;
}

t.test('holes of 64 KiB are found, and nothing else is called one', async (t) => {
  const random = new SeededRandom(testSeed(t));
  const cluster = await realCluster(new MemoryNetwork(), { chunkservers: 3, replicas: 2, host: 'memory' });
  const [fs, other] = [await cluster.connect(), await cluster.connect()];
  const { file } = await fs.create(root, ROOT_INODE, Buffer.from('f'), { mode: 0o644, flags: READ_WRITE });
  const size = 2 * CHUNK_SIZE_BYTES + 5 * MIB + 3;
  await file.truncate(size);
  const expected = new Set<number>();
  const sorted = (): number[] => [...expected].sort((a, b) => a - b);
  const put = async (block: number): Promise<void> => {
    await file.write(block * BLOCK + random.below(BLOCK - 10), Buffer.from('data'));
    expected.add(block);
  };
  const last = Math.floor(size / BLOCK);
  for (let i = 0; i < 60; i++) await put(random.below(3) === 0 ? random.below(last) : random.below(300));
  t.same(await dataBlocks(file, size), sorted());
  // At once, though what was asked for a moment ago is remembered.
  for (let i = 0; i < 5; i++) {
    await put(random.below(300));
    t.same(await dataBlocks(file, size), sorted());
  }
  // A punched block is a hole, and so is one that was overwritten with zeros; others see it after an open.
  const [punched = 0, zeroed = 0] = sorted().slice(3);
  await file.allocate(punched * BLOCK, BLOCK, { punchHole: true, keepSize: true });
  await file.write(zeroed * BLOCK, Buffer.alloc(BLOCK));
  expected.delete(punched);
  expected.delete(zeroed);
  await file.flush();
  const theirs = (await other.open(root, file.inode, READ_WRITE)).file;
  t.same(await dataBlocks(theirs, size), sorted());
  await theirs.write(punched * BLOCK + 5, Buffer.from('x'));
  expected.add(punched);
  await theirs.close();
  const again = (await fs.open(root, file.inode, READ_WRITE)).file;
  t.same(await dataBlocks(again, size), sorted(), 'P2');
  await again.truncate(100 * BLOCK + 1);
  await again.truncate(size);
  for (const block of [...expected]) if (block > 100) expected.delete(block);
  const found = await dataBlocks(again, size);
  t.same(
    found.filter((block) => block !== 100),
    sorted().filter((block) => block !== 100),
    'P5: what was cut off is a hole',
  );
  // A copy keeps them.
  const { file: copy } = await fs.create(root, ROOT_INODE, Buffer.from('copy'), { mode: 0o644, flags: READ_WRITE });
  for (let at = 0; at < size;) at += await copy.copyFrom(again, at, at, size - at);
  t.same(await dataBlocks(copy, size), found);
  for (const each of [file, again, copy]) await each.close();
  await cluster.stop();
});
