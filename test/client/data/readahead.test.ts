/** Readahead: what is asked for with sequential, reordered and random reads, and that lent bytes stay until given back. */
import t from 'tap';
import { inodeId } from '../../../src/core/ids.js';
import { CHUNK_SIZE_BYTES, KIB, MIB } from '../../../src/core/limits.js';
import { payloadBuffers } from '../../../src/core/disk/payload-buffers.js';
import { SeededRandom } from '../../../src/core/random.js';
import { Readahead, ReadaheadBudget } from '../../../src/client/data/readahead.js';

const seed = Number(process.env['CAIRN_SEED'] ?? Math.floor(Math.random() * 2 ** 32));
const SIZE = 512 * MIB;

/** The bytes of the file: each aligned word says where it is, and in which generation it was written. */
function fill(bytes: Buffer, offset: number, generation: number): Buffer {
  for (let at = (4 - (offset % 4)) % 4; at + 4 <= bytes.length; at += 4) {
    bytes.writeUInt32LE(((offset + at) ^ (generation << 28)) >>> 0, at);
  }
  return bytes;
}

class Source {
  asked: { offset: number; length: number }[] = [];
  /** Answers that wait for `answer`, when they are held back. */
  private held: (() => void)[] = [];
  holdsBack = false;

  readonly readahead = new Readahead(
    inodeId(7),
    {
      readRange: (_inode, index, offset, length) => {
        const at = index * CHUNK_SIZE_BYTES + offset;
        this.asked.push({ offset: at, length });
        const bytes = (): Buffer => fill(payloadBuffers.take(length), at, 0);
        if (!this.holdsBack) return Promise.resolve(bytes());
        return new Promise((resolve) => this.held.push(() => resolve(bytes())));
      },
    },
    new ReadaheadBudget(),
  );

  get askedBytes(): number {
    return this.asked.reduce((sum, { length }) => sum + length, 0);
  }

  answer(which: number): void {
    const [next] = this.held.splice(which % Math.max(1, this.held.length), 1);
    next?.();
  }

  get waiting(): number {
    return this.held.length;
  }

  async read(offset: number, length: number): Promise<void> {
    (await this.readahead.lend(offset, length, SIZE)).release();
  }
}

t.test('random small reads ask for what they need', async (t) => {
  t.comment(`CAIRN_SEED=${seed}`);
  const random = new SeededRandom(seed);
  const source = new Source();
  for (let i = 0; i < 1000; i++) await source.read(4096 * random.below(SIZE / 4096), 4096);
  t.ok(source.askedBytes < 1000 * 4096 + 20 * MIB, `${Math.round(source.askedBytes / KIB)} KiB for 4,000`);
});

t.test('sequential reads ask for each byte once, ahead, also when they come out of order', async (t) => {
  for (const [name, order, length] of [
    ['in order', [0, 1, 2, 3], MIB],
    ['reordered, as by the readahead of the kernel', [1, 0, 3, 2], MIB],
    ['reordered over its whole window', [3, 2, 1, 0], MIB],
    ['small, in order', [0, 1, 2, 3], 4 * KIB],
    ['small, in pairs', [1, 0, 3, 2], 16 * KIB],
  ] as const) {
    const source = new Source();
    const total = Math.max(32 * MIB, 64 * length);
    for (let at = 0; at < total; at += 4 * length) {
      for (const i of order) await source.read(at + i * length, length);
    }
    t.ok(
      source.askedBytes <= total + 9 * MIB,
      `${name}: ${Math.round(source.askedBytes / MIB)} MiB for ${total / MIB}`,
    );
    t.ok(source.askedBytes > total, `${name}: ahead`);
    const starts = new Set(source.asked.map(({ offset }) => Math.floor(offset / MIB)));
    t.ok(source.asked.length <= starts.size + 2, `${name}: no unit twice`);
  }
});

t.test('a short read at the end does not end readahead', async (t) => {
  const source = new Source();
  for (let at = 0; at < 8; at++) await source.read(at * MIB, MIB);
  const before = source.asked.length;
  await source.read(11 * MIB, 100 * KIB);
  for (let at = 8; at < 11; at++) await source.read(at * MIB, MIB);
  const repeated = source.asked.slice(before).filter(({ offset }) => offset < 11 * MIB);
  t.same(repeated, [], 'what was read ahead is there');
});

t.test('small skips forward are one stream', async (t) => {
  const source = new Source();
  for (let at = 0; at < 16 * MIB; at += 100 * KIB) await source.read(at, 4 * KIB);
  t.ok(source.asked.length < 40, `${source.asked.length} requests`);
});

t.test('lent bytes are right until they are given back, whatever is dropped and read meanwhile', async (t) => {
  t.comment(`CAIRN_SEED=${seed}`);
  const random = new SeededRandom(seed);
  const source = new Source();
  source.holdsBack = true;
  const pending = new Set<Promise<void>>();
  const lent: { offset: number; loan: Awaited<ReturnType<Readahead['lend']>> }[] = [];
  const check = ({ offset, loan }: (typeof lent)[number]): boolean => {
    const bytes = Buffer.concat(loan.parts);
    loan.release();
    return bytes.equals(fill(Buffer.from(bytes), offset, 0));
  };
  let wrong = 0;
  let position = 0;
  for (let step = 0; step < 1500; step++) {
    const action = random.below(10);
    if (action < 4) {
      if (random.below(12) === 0) position = 4 * random.below(SIZE / 8);
      const length = 4 * (1 + random.below(MIB / 4));
      const offset = position;
      position += length;
      const read = source.readahead.lend(offset, length, SIZE).then((loan) => {
        lent.push({ offset, loan });
      });
      pending.add(read);
      void read.finally(() => pending.delete(read));
      while (pending.size > 20) (source.answer(random.below(100)), await new Promise(setImmediate));
    } else if (action < 8) {
      source.answer(random.below(100));
    } else if (action === 8) {
      const [loan] = lent.splice(random.below(Math.max(1, lent.length)), 1);
      if (loan !== undefined && !check(loan)) wrong++;
    } else if (random.below(20) === 0) {
      source.readahead.invalidate(position - 3 * MIB, 2 * MIB);
    }
    await Promise.resolve();
    while (lent.length > 24) {
      const loan = lent.shift();
      if (loan !== undefined && !check(loan)) wrong++;
    }
  }
  while (pending.size > 0 || source.waiting > 0) {
    source.answer(0);
    await new Promise(setImmediate);
  }
  for (const loan of lent) if (!check(loan)) wrong++;
  t.equal(wrong, 0);
  source.readahead.dispose();
});
