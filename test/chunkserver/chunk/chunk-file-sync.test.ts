/** P1 of one replica's file: syncs that begin while writes, cuts and closings go on, disk calls that fail, then kills and power losses. */
import t from 'tap';
import { segmentChecksums } from '../../../src/core/checksum.js';
import type { Disk } from '../../../src/core/disk/disk.js';
import { asCairnError } from '../../../src/core/errors.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES } from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { ChunkFile } from '../../../src/chunkserver/chunk/chunk-file.js';
import { decodeHeaders, headerSlotOffset } from '../../../src/chunkserver/chunk/chunk-format.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { slowDisk } from '../../support/fakes/slow-disk.js';

const seed = Number(process.env['CAIRN_FIRST_SEED'] ?? process.env['CAIRN_SEED'] ?? 1);
const rounds = Number(process.env['CAIRN_SEEDS'] ?? 15);
const PATH = 'c/7';
const MAX_LENGTH = 4 * BLOCK_SIZE_BYTES;
const LABELS = ['chunk.write', 'chunk.table', 'chunk.truncate', 'chunk.header', 'chunk.sync', 'chunk.read'];

/** As `slowDisk`, a few turns of promises at a time. */
function slow(disk: Disk, random: SeededRandom): Disk {
  return slowDisk(disk, random, async () => {
    for (let i = random.below(8); i > 0; i--) await Promise.resolve();
  });
}

interface Change {
  readonly offset: number;
  readonly bytes: Buffer;
  done: boolean;
}

/** What each byte may be after a power loss. */
class Expected {
  base: Buffer = Buffer.alloc(MAX_LENGTH);
  changes: Change[] = [];

  begin(offset: number, bytes: Buffer): Change {
    const change = { offset, bytes, done: false };
    this.changes.push(change);
    return change;
  }

  /** Those that are durable once a sync that begins now has returned. */
  covered(): () => void {
    const covers = new Set(this.changes.filter(({ done }) => done));
    return () => {
      // In their order: one that is not covered keeps those behind it, of which it may be a part.
      while (this.changes[0] !== undefined && covers.has(this.changes[0])) {
        const [{ offset, bytes }] = this.changes.splice(0, 1) as [Change];
        bytes.copy(this.base, offset);
      }
    };
  }

  fault(content: Buffer, isPowerLoss: boolean): string | undefined {
    for (let at = 0; at < MAX_LENGTH; at++) {
      const value = content[at] ?? 0;
      let fits = value === this.base[at];
      for (const { offset, bytes, done } of this.changes) {
        if (at < offset || at >= offset + bytes.length) continue;
        if (done && !isPowerLoss) fits = false;
        if (bytes[at - offset] === value) fits = true;
      }
      if (!fits) return `byte ${at} is ${value}, and was synced as ${this.base[at] ?? 0}`;
    }
    return undefined;
  }

  settled(content: Buffer): void {
    this.changes = [];
    this.base = content;
  }
}

t.test(`P1: syncs beside writes and cuts, power loss after them (CAIRN_SEED=${seed})`, async (t) => {
  let losses = 0;
  for (let round = 0; round < rounds; round++) {
    const random = new SeededRandom(seed * 100_000 + round);
    const bare = new CrashDisk(random);
    const disk = slow(bare, random);
    const expected = new Expected();
    const fails = round % 2 === 1;
    const steps: string[] = [];
    let file = await ChunkFile.create(disk, PATH, chunkHandle(7), chunkVersion(3));
    await file.sync();
    await disk.syncDirectory('test', 'c');
    const place = (): number => {
      const at = random.below(MAX_LENGTH);
      return random.below(2) === 0 ? at : Math.round(at / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES;
    };
    const mutate = async (): Promise<void> => {
      const places = [place(), place()];
      const from = Math.min(...places, MAX_LENGTH - 1);
      const to = Math.max(...places, from + 1);
      if (random.below(5) === 0) {
        if (file.length <= from) return;
        const change = expected.begin(from, Buffer.alloc(MAX_LENGTH - from));
        steps.push(`cut to ${from}`);
        await file.truncate(from);
        change.done = true;
        return;
      }
      const bytes = random.bytes(random.below(3) === 0 ? Math.min(to - from, 1 + random.below(5000)) : to - from);
      const change = expected.begin(from, bytes);
      steps.push(`write ${from} to ${from + bytes.length}`);
      await file.write(from, bytes, segmentChecksums(bytes, from));
      change.done = true;
      steps.push('written');
    };
    const sync = async (): Promise<void> => {
      for (let i = random.below(80); i > 0; i--) await Promise.resolve();
      const done = expected.covered();
      steps.push('sync');
      await file.sync();
      done();
      steps.push('synced');
    };
    for (let i = 0; i < 40; i++) {
      let how: 'ok' | 'kill' | 'power' = 'ok';
      let isLive = false;
      const works: Promise<void>[] = [];
      if (fails && random.below(2) === 0) {
        const label = LABELS[random.below(LABELS.length)] ?? '';
        const code = random.below(2) === 0 ? 'EIO' : 'ENOSPC';
        bare.failOn(label, random.below(4), code, random.below(2) * random.below(BLOCK_SIZE_BYTES));
        steps.push(`plant ${code} ${label}`);
      }
      const mutations = async (): Promise<void> => {
        for (let n = 1 + random.below(3); n > 0; n--) await mutate();
        if (random.below(8) === 0) {
          steps.push('clean');
          await file.markClean();
          steps.push('cleaned');
        } else if (random.below(8) === 0) {
          const done = expected.covered();
          await file.adopt(chunkVersion(file.version + 1));
          done();
          steps.push('adopted');
        }
      };
      works.push(mutations());
      for (let n = random.below(4); n > 0; n--) works.push(sync());
      const crash = random.below(6);
      if (crash < 3) {
        how = crash === 0 ? 'kill' : 'power';
        if (random.below(2) === 0) {
          await Promise.allSettled(works);
          if (random.below(2) === 0) await sync().catch(() => undefined);
        } else for (let n = random.below(120); n > 0; n--) await Promise.resolve();
        steps.push(how);
        if (how === 'kill') bare.kill();
        else bare.powerLoss();
        losses++;
        const frozen = expected.changes.map((change) => ({ ...change }));
        const base = Buffer.from(expected.base);
        await Promise.allSettled(works);
        expected.changes = frozen;
        expected.base = base;
      } else {
        const ends = await Promise.allSettled(works);
        for (const end of ends) {
          if (end.status === 'fulfilled') continue;
          steps.push(String(end.reason));
          if (!fails) {
            t.fail(`round ${round}: ${String(end.reason)}`, { steps });
            return;
          }
        }
        // Who failed does not go on: the server recovers it.
        if (crash !== 3 && ends.every(({ status }) => status === 'fulfilled')) continue;
        how = 'kill';
        isLive = crash === 5;
        if (!isLive) {
          steps.push('close');
          await file.close().catch(() => undefined);
        }
      }
      bare.clearFaults();
      const wasKilled = how === 'kill';
      let wrong: string | undefined;
      const content = Buffer.alloc(MAX_LENGTH);
      try {
        if (!isLive || (await file.sync().catch(() => 'broken')) === 'broken') file = await ChunkFile.open(disk, PATH);
        for (let block = 0; block * BLOCK_SIZE_BYTES < file.length; block++) {
          if (!(await file.isSound(block)) && !(await file.acceptTorn(block))) {
            wrong = `block ${block} is neither sound nor torn`;
            break;
          }
          (await file.read(block * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES)).bytes.copy(content, block * BLOCK_SIZE_BYTES);
        }
        wrong ??= expected.fault(content, !wasKilled);
        await file.adopt(chunkVersion(file.version + 1));
      } catch (error) {
        wrong ??= asCairnError(error).stack;
      }
      if (wrong !== undefined) {
        t.fail(`round ${round}: ${wrong}`, { steps: steps.slice(-40) });
        return;
      }
      expected.settled(content);
      steps.push('settled');
    }
  }
  t.comment(`${losses} crashes`);
  t.pass('all that was synced is there');
});

t.test('P9: a file whose newer header has rotted is not believed after a power loss', async (t) => {
  for (let round = 0; round < 20; round++) {
    const disk = new CrashDisk(new SeededRandom(seed + round));
    const bytes = Buffer.alloc(1000, 1);
    let file = await ChunkFile.create(disk, PATH, chunkHandle(7), chunkVersion(3));
    await disk.syncDirectory('', 'c');
    await file.write(0, bytes, segmentChecksums(bytes, 0));
    await file.adopt(chunkVersion(4));
    await file.write(0, bytes.fill(2), segmentChecksums(bytes, 0));
    const [newer] = decodeHeaders(disk.content(PATH));
    t.equal(newer?.dirty, true);
    await file.close();
    const slot = headerSlotOffset(newer?.generation ?? 0);
    disk.powerLoss();
    disk.content(PATH).fill(round % 3, slot, slot + 512);
    file = await ChunkFile.open(disk, PATH);
    t.equal(file.suspect, true, `round ${round}`);
    await file.close();
  }
});
