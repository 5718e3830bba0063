/** One replica's file under everything at once: what rots is never read, and what did not rot is not given up. */
import t from 'tap';
import { segmentChecksums } from '../../../src/core/checksum.js';
import { asCairnError } from '../../../src/core/errors.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES } from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { DATA_OFFSET } from '../../../src/chunkserver/chunk/chunk-format.js';
import { ChunkFile } from '../../../src/chunkserver/chunk/chunk-file.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';

const seed = Number(process.env['CAIRN_FIRST_SEED'] ?? process.env['CAIRN_SEED'] ?? 1);
const rounds = Number(process.env['CAIRN_SEEDS'] ?? 20);
const PATH = 'c/7';
const MAX_LENGTH = 4 * BLOCK_SIZE_BYTES;
/** Only what rotted has this bit. */
const ROTTEN = 0x80;

/** Bytes that did not rot. */
function fresh(random: SeededRandom, length: number): Buffer {
  const bytes = random.bytes(length);
  for (let i = 0; i < length; i++) bytes[i] = (bytes[i] ?? 0) & ~ROTTEN;
  return bytes;
}

/** Often at the bounds of blocks. */
function place(random: SeededRandom): number {
  const at = random.below(MAX_LENGTH);
  return random.below(2) === 0 ? at : Math.round(at / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES;
}

/** Does something. `settles` is told which bytes of which blocks count from then on, if it succeeds. */
async function step(
  random: SeededRandom,
  file: ChunkFile,
  settles: (from: number, to: number) => void,
  accepts: boolean,
): Promise<string> {
  const places = [place(random), place(random)];
  const from = Math.min(...places);
  const to = Math.max(...places, from + 1);
  switch (random.below(8)) {
    case 0:
      await file.truncate(from);
      return `truncate to ${from}`;
    case 1:
      await file.sync();
      return 'sync';
    case 2:
      await file.markClean();
      return 'clean';
    case 3:
      // Recovery does something about these first.
      if (file.suspect && (await file.damagedBlocks()).length > 0) return 'damaged';
      await file.adopt(chunkVersion(file.version + 1));
      return 'adopt';
    case 4: {
      const more = fresh(random, 1 + random.below(20_000));
      await file.write(file.length, more, segmentChecksums(more, file.length));
      return `append ${more.length}`;
    }
    case 5: {
      const block = random.below(MAX_LENGTH / BLOCK_SIZE_BYTES);
      if (!accepts || !file.isTorn(block) || file.suspect || !(await file.acceptTorn(block))) return 'nothing';
      settles(block * BLOCK_SIZE_BYTES, (block + 1) * BLOCK_SIZE_BYTES);
      return `accept ${block}`;
    }
    default: {
      const bytes = fresh(random, to - from);
      settles(from, to);
      await file.write(from, bytes, segmentChecksums(bytes, from));
      return `write ${from} to ${to}`;
    }
  }
}

/** Why the file is not as it may be. */
async function fault(file: ChunkFile, rotted: ReadonlySet<number>): Promise<string | undefined> {
  for (let block = 0; block * BLOCK_SIZE_BYTES < file.length; block++) {
    try {
      const { bytes } = await file.read(block * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES);
      if (bytes.some((byte) => (byte & ROTTEN) !== 0)) return `block ${block} rotted, and can be read`;
    } catch (error) {
      const { code, message } = asCairnError(error);
      if (code !== 'CORRUPT') return message;
      if (!rotted.has(block) && !file.isTorn(block) && !file.suspect) return `block ${block} is damaged by nothing`;
    }
  }
  return undefined;
}

t.test(`P3: rot under writes that fail, kills, power loss and openings (CAIRN_SEED=${seed})`, async (t) => {
  for (let round = 0; round < rounds; round++) {
    const random = new SeededRandom(seed * 100_000 + round);
    const disk = new CrashDisk(random);
    let file = await ChunkFile.create(disk, PATH, chunkHandle(7), chunkVersion(3));
    await file.sync();
    await disk.syncDirectory('test', 'c');
    const steps: string[] = [];
    const accepts = round % 2 === 0;
    const rotted = new Set<number>();
    /** Which were torn, and how long they were, before the last step. */
    let torn = new Map<number, number>();
    for (let i = 0; i < 60; i++) {
      const trouble = random.below(12);
      const label = random.below(5) === 0 ? 'chunk.table' : random.below(4) === 0 ? 'chunk.truncate' : 'chunk.write';
      if (trouble === 0) disk.failOn(label, 0, 'ENOSPC', 1 + random.below(BLOCK_SIZE_BYTES));
      if (trouble === 1) disk.killAtChange(disk.changes + random.below(4), random.below(2 * BLOCK_SIZE_BYTES));
      if (trouble === 2 && file.length > 0 && round % 3 > 0) {
        const at = random.below(file.length);
        const content = disk.content(PATH);
        const block = Math.floor(at / BLOCK_SIZE_BYTES);
        if (content.length > DATA_OFFSET + at && !(accepts && file.isTorn(block))) {
          content.writeUInt8((content[DATA_OFFSET + at] ?? 0) | ROTTEN, DATA_OFFSET + at);
          rotted.add(block);
          steps.push(`rot at ${at}`);
          // What nobody has noticed may be taken for torn.
          if (accepts && (await file.isSound(block).catch(() => false))) steps.push('not noticed');
          if (accepts) await file.sync().catch(() => undefined);
        }
      }
      const settles = (from: number, to: number): void => {
        for (const [block, end] of torn) if (from <= block * BLOCK_SIZE_BYTES && to >= end) torn.delete(block);
      };
      const what = await step(random, file, settles, accepts).catch((error: unknown) => asCairnError(error).message);
      steps.push(what);
      disk.clearFaults();
      const end = random.below(8);
      if (end === 0) await file.close().catch(() => undefined);
      if (end === 1) disk.kill();
      if (end === 2) disk.powerLoss();
      if (end < 3 || trouble === 1) {
        if (trouble === 1) disk.kill();
        steps.push(['closed', 'killed', 'lost power'][end] ?? 'killed');
        file = await ChunkFile.open(disk, PATH);
      }
      if (end === 2 || file.suspect) torn.clear();
      const settled = [...torn.keys()].find((block) => block * BLOCK_SIZE_BYTES < file.length && !file.isTorn(block));
      torn = new Map();
      for (let block = 0; block * BLOCK_SIZE_BYTES < file.length; block++) {
        if (file.isTorn(block)) torn.set(block, Math.min((block + 1) * BLOCK_SIZE_BYTES, file.length));
      }
      const wrong =
        settled === undefined ? await fault(file, rotted) : `block ${settled} was torn, and nothing has settled it`;
      if (wrong !== undefined) {
        t.fail(`round ${round}: ${wrong}`, { steps });
        return;
      }
    }
  }
  t.pass('never read');
});

t.test('damage that is read in the middle of a search is looked for by the next one', async (t) => {
  const disk = new CrashDisk(new SeededRandom(seed));
  let beforeRead: ((offset: number) => Promise<void>) | undefined;
  const watched = Object.assign(Object.create(disk) as CrashDisk, {
    open: async (...args: Parameters<CrashDisk['open']>) => {
      const file = await disk.open(...args);
      const read = file.read.bind(file);
      file.read = async (label, into, offset) => {
        await beforeRead?.(offset);
        return read(label, into, offset);
      };
      return file;
    },
  });
  const file = await ChunkFile.create(watched, PATH, chunkHandle(7), chunkVersion(1));
  const bytes = Buffer.alloc(MAX_LENGTH, 1);
  await file.write(0, bytes, segmentChecksums(bytes, 0));
  const flip = (block: number): void => {
    const at = DATA_OFFSET + block * BLOCK_SIZE_BYTES;
    disk.content(PATH).writeUInt8((disk.content(PATH)[at] ?? 0) ^ ROTTEN, at);
  };
  flip(2);
  await t.rejects(file.read(0, MAX_LENGTH), { code: 'CORRUPT' });
  flip(2);
  beforeRead = async (offset) => {
    if (offset !== DATA_OFFSET + 3 * BLOCK_SIZE_BYTES) return;
    beforeRead = undefined;
    flip(0);
    await t.rejects(file.read(0, 1), { code: 'CORRUPT' }, 'of what the search has behind it');
  };
  t.same(await file.damagedBlocks(), []);
  t.same(await file.damagedBlocks(), [0]);
  flip(0);
  t.same(await file.damagedBlocks(), []);
  await file.close();
});
