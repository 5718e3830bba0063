/** The frozen format of chunk files: files written by this version must be read by every later one. */
import t from 'tap';
import { segmentChecksums } from '../../../src/core/checksum.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import { SeededRandom } from '../../../src/core/random.js';
import {
  DATA_OFFSET,
  decodeHeaders,
  encodeHeader,
  headersByName,
  isMadeUp,
  TABLE_OFFSET,
} from '../../../src/chunkserver/chunk/chunk-format.js';
import { ChunkFile } from '../../../src/chunkserver/chunk/chunk-file.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';

/** Format 1: chunk 0x1234567890 at version 42, "hello" at 65,534, left clean under boot-1. Without trailing zeros. */
const FROZEN: readonly (readonly [offset: number, hex: string])[] = [
  [0, '434149524e43484b010000000100000090785634120000002a'],
  [32, '000000000000000006626f6f742d31'],
  [96, '0000000000000000000000000000000000000000000000000000000075a5716b'],
  [2048, '434149524e43484b010000000000000090785634120000002a'],
  [2080, '010000000000000006626f6f742d31'],
  [2144, '000000000000000000000000000000000000000000000000000000007bb6934a'],
  [4096, '7874fc907874fc90df3d5e7ddf3d5e7d'],
  [81888, '0000000000000000000000000000000000000000000000000000000000006865'],
  [81920, '6c6c6f'],
];

const handle = chunkHandle(0x1234567890);
const version = chunkVersion(42);

async function written(disk: CrashDisk): Promise<Buffer> {
  const file = await ChunkFile.create(disk, 'f/1', handle, version);
  const hello = Buffer.from('hello');
  await file.write(65_534, hello, segmentChecksums(hello, 65_534));
  await file.markClean();
  await file.close();
  return disk.content('f/1');
}

t.test('a chunk file of format 1 is written as it always was', async (t) => {
  const bytes = await written(new CrashDisk(new SeededRandom(1)));
  const expected = Buffer.alloc(DATA_OFFSET + 65_539);
  for (const [offset, hex] of FROZEN) Buffer.from(hex, 'hex').copy(expected, offset);
  const differing = bytes.findIndex((byte, at) => byte !== expected[at]);
  t.equal(bytes.length, expected.length);
  t.equal(differing, -1, 'no byte differs');
});

t.test('a chunk file of format 1 is read', async (t) => {
  const disk = new CrashDisk(new SeededRandom(1));
  const raw = await disk.open('test', 'f/1', 'create');
  await raw.truncate('test', DATA_OFFSET + 65_539);
  for (const [offset, hex] of FROZEN) await raw.write('test', Buffer.from(hex, 'hex'), offset);
  const file = await ChunkFile.open(disk, 'f/1');
  t.equal(file.handle, handle);
  t.equal(file.version, version);
  t.equal(file.dirty, false);
  const { bytes } = await file.read(0, 100_000);
  t.equal(bytes.length, 65_539);
  t.equal(bytes.toString('latin1', 65_534), 'hello');
  t.ok(
    bytes.subarray(0, 65_534).every((byte) => byte === 0),
    'P5: zeros before it',
  );
});

t.test('headers: a torn slot leaves the other, a newer format is refused', (t) => {
  const page = Buffer.alloc(TABLE_OFFSET);
  t.equal(decodeHeaders(page)[0], undefined);
  const header = { handle, version, generation: 4, dirty: true, syncFailed: false, bootId: 'a-boot' };
  encodeHeader(header).copy(page, 0);
  encodeHeader({ ...header, generation: 5, dirty: false }).copy(page, 2048);
  t.match(decodeHeaders(page)[0], { generation: 5, dirty: false, bootId: 'a-boot' });
  page.fill(0xff, 2060, 2062);
  t.match(decodeHeaders(page)[0], { generation: 4, dirty: true });
  encodeHeader({ ...header, generation: 6, syncFailed: true }).copy(page, 2048);
  t.match(decodeHeaders(page)[0], { generation: 6, dirty: true, syncFailed: true });
  page.fill(0, 2048, 2052);
  page.fill(0, 0, 4);
  t.equal(decodeHeaders(page)[0], undefined);
  t.end();
});

t.test(
  'P1: where headers have rotted the name counts, and the replica is doubted; not of what was never finished',
  (t) => {
    const page = Buffer.alloc(TABLE_OFFSET);
    const name = { handle, version: chunkVersion(version + 1) };
    const header = { handle, version, generation: 0, dirty: true, syncFailed: false, bootId: 'a-boot' };
    t.same(headersByName(page, name), [], 'cut short before its header');
    page.fill(1, 0, 128);
    t.same(headersByName(page, name), [], 'cut short in its header');
    page.fill(1, 2048, 2176);
    const [madeUp] = headersByName(page, name);
    t.match(madeUp, { ...name, dirty: true, bootId: '' });
    t.ok(madeUp !== undefined && isMadeUp(madeUp));
    encodeHeader({ ...header, generation: 4 }).copy(page, 0);
    t.match(
      headersByName(page, name),
      [{ ...name, generation: 4, dirty: true, bootId: '' }],
      'the newer one has rotted',
    );
    encodeHeader({ ...header, generation: 5, version: name.version }).copy(page, 2048);
    t.match(headersByName(page, name), [{ generation: 5, bootId: 'a-boot' }, { generation: 4 }]);
    t.match(headersByName(page, { handle, version }), [{ version: name.version }, {}], 'the name follows the header');
    t.end();
  },
);
