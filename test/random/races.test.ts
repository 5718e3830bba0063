/**
 * P2, P4, P7: programs on two mounts that change one file at the same time, in random rounds, while servers are killed: appends
 * of both through handles of before and after a rename over the file, and O_DIRECT writes of one beside truncates of the other.
 */
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import t from 'tap';
import { pick, SeededRandom } from '../../src/core/random.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { ROOT_CREDENTIALS as root } from '../../src/filesystem/filesystem.js';
import type { FileSystem, OpenFile } from '../../src/filesystem/filesystem.js';
import { equalBytes, name, READ_ONLY, READ_WRITE } from '../conformance/case.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { testSeed } from '../support/seed.js';
import { cannotMount, twoMounts } from './mounts.js';

const SECONDS = Number(process.env['CAIRN_SECONDS'] ?? 20);
const LIMIT_MS = 120_000 + SECONDS * 1000;
t.setTimeout(LIMIT_MS);
const seed = testSeed(t);
const BLOCK = 4096;
const BLOCKS = 40;
const APPEND = { ...READ_WRITE, append: true };

const open = async (fs: FileSystem, text: string, flags = READ_ONLY): Promise<OpenFile> =>
  (await fs.openAt(root, ROOT_INODE, name(text), flags)).file;

async function readAll(file: OpenFile): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = 0; ;) {
    const part = await file.read(at, 1 << 20);
    if (part.length === 0) return Buffer.concat(parts);
    parts.push(part);
    at += part.length;
  }
}

class Races {
  private round = 0;

  constructor(
    private readonly random: SeededRandom,
    private readonly mounts: readonly FileSystem[],
    /** A client of the library. */
    private readonly client: FileSystem,
    private readonly trouble: () => Promise<void>,
  ) {}

  private mount(index: number): FileSystem {
    return this.mounts[index % 2] ?? assert.fail('there are two mounts');
  }

  readonly kinds = {
    appends: () => this.appends(false),
    'appends while it is replaced': () => this.appends(true),
    'direct writes and truncates': () => this.cuts(),
  };

  /** Each record is in the file that its handle was of, once, whole, and nothing else is. */
  private async appends(isReplaced: boolean): Promise<void> {
    const text = `appends-${++this.round}`;
    const versions: { readonly reader: OpenFile; readonly records: Set<string> }[] = [];
    const byInode = new Map<number, Set<string>>();
    let isOver = false;
    const replace = async (): Promise<void> => {
      const fs = this.mount(this.random.below(2));
      const { file } = await fs.create(root, ROOT_INODE, name(`${text}.new`), { mode: 0o644, flags: READ_WRITE });
      const records = new Set<string>();
      versions.push({ reader: await open(fs, `${text}.new`), records });
      byInode.set(file.inode, records);
      await file.close();
      const place = (of: string) => ({ parent: ROOT_INODE, name: name(of) });
      await fs.rename(root, place(`${text}.new`), place(text));
    };
    await replace();
    const appender = async (index: number, random: SeededRandom): Promise<void> => {
      for (let turn = 0; turn < 4; turn++) {
        const file = await open(this.mount(index), text, { ...APPEND, direct: random.below(3) === 0 } as typeof APPEND);
        const records = byInode.get(file.inode) ?? assert.fail('an inode that nobody made');
        const size = pick(random, [30, 500, 5000, 40_000]);
        for (let number = 0; number < 12; number++) {
          const record = `<${index}:${turn}:${number}:`.padEnd(size, String.fromCharCode(97 + random.below(26))) + '>';
          assert.equal(await file.write(0, Buffer.from(record)), record.length);
          records.add(record);
          const next = random.below(8);
          if (next === 0) await file.sync();
          else if (next === 1) await pause(random.below(30));
        }
        await file.close();
      }
    };
    const replacing = (async () => {
      while (isReplaced && !isOver) {
        await pause(this.random.below(150));
        await replace();
      }
    })();
    const troubled = this.random.below(2) === 0 ? this.trouble() : Promise.resolve();
    const forks = Array.from({ length: 2 + this.random.below(3) }, (_, index) => {
      const random = new SeededRandom(this.random.below(1 << 30));
      return appender(index, random);
    });
    await Promise.all(forks).finally(() => {
      isOver = true;
    });
    await replacing;
    await troubled;
    // Who has had the file open all the time believes what it knows of it for so long.
    if (isReplaced) await pause(2_500);
    const last = await readAll(await open(this.mount(0), text));
    for (const fs of [this.mount(1), this.client]) equalBytes(await readAll(await open(fs, text)), last, 'one content');
    for (const { reader, records } of versions) {
      await reader.attributes();
      const content = (reader === versions.at(-1)?.reader ? last : await readAll(reader)).toString();
      const seen: string[] = content.match(/<[^<>]*>/g) ?? [];
      assert.equal(seen.join('').length, content.length, 'nothing but whole records');
      assert.equal(new Set(seen).size, seen.length, 'each once');
      const missing = [...records].filter((one) => !seen.includes(one)).map((one) => one.slice(0, 12));
      const strange = seen.filter((one) => !records.has(one)).map((one) => one.slice(0, 12));
      assert.ok(missing.length + strange.length === 0, `not there: ${missing.join()}; not appended: ${strange.join()}`);
      await reader.close();
    }
  }

  /** At the end all see one content, and each block is of a last write or cut. */
  private async cuts(): Promise<void> {
    const text = `cuts-${++this.round}`;
    interface Change {
      readonly from: number;
      readonly end: number;
      readonly version: number;
      readonly began: number;
      done: number;
    }
    const changes: Change[] = [{ from: 0, end: BLOCKS, version: 0, began: 0, done: 0 }];
    const { file: made } = await this.mount(0).create(root, ROOT_INODE, name(text), { mode: 0o644, flags: READ_WRITE });
    await made.close();
    let version = 0;
    let clock = 0;
    const change = async (from: number, end: number, own: number, work: () => Promise<unknown>): Promise<Change> => {
      const one: Change = { from, end, version: own, began: ++clock, done: Infinity };
      changes.push(one);
      await work();
      return one;
    };
    const stamp = (own: number, index: number): Buffer => Buffer.from(`${own}/${index};`.padEnd(BLOCK, '.'));
    const writer = async (index: number, random: SeededRandom): Promise<void> => {
      const file = await open(this.mount(index), text, { ...READ_WRITE, direct: true } as typeof READ_WRITE);
      const written: Change[] = [];
      // Before that a write is in the client, and what others cut meanwhile may have come before it.
      const flushed = async (flush: Promise<void>): Promise<void> => {
        const these = written.splice(0);
        await flush;
        clock++;
        for (const one of these) one.done = clock;
      };
      for (let number = 0; number < 30; number++) {
        const from = random.below(BLOCKS);
        const count = Math.min(1 + random.below(6), BLOCKS - from);
        const own = ++version;
        const bytes = Buffer.concat(Array.from({ length: count }, (_, at) => stamp(own, from + at)));
        written.push(await change(from, from + count, own, () => file.write(from * BLOCK, bytes)));
        if (random.below(2) === 0) await flushed(file.sync());
        if (random.below(4) === 0) await pause(random.below(20));
      }
      await flushed(file.close());
    };
    const cutter = async (index: number, random: SeededRandom): Promise<void> => {
      const file = await open(this.mount(index), text, READ_WRITE);
      for (let number = 0; number < 12; number++) {
        const to = random.below(BLOCKS);
        (await change(to, BLOCKS, 0, () => file.truncate(to * BLOCK))).done = ++clock;
        if (random.below(2) === 0) await file.truncate(BLOCKS * BLOCK);
        await pause(random.below(25));
      }
      await file.close();
    };
    const troubled = this.random.below(2) === 0 ? this.trouble() : Promise.resolve();
    const randoms = [1, 2, 3].map(() => new SeededRandom(this.random.below(1 << 30)));
    const [a, b, c] = randoms as [SeededRandom, SeededRandom, SeededRandom];
    const side = this.random.below(2);
    await Promise.all([
      writer(side, a),
      cutter(side + 1, b),
      this.random.below(2) === 0 ? writer(side + 1, c) : undefined,
    ]);
    await troubled;
    const grown = await open(this.mount(0), text, READ_WRITE);
    await grown.truncate(BLOCKS * BLOCK);
    await grown.close();
    const seen = await readAll(await open(this.client, text));
    for (let at = 0; at < BLOCKS; at++) {
      const block = seen.subarray(at * BLOCK, (at + 1) * BLOCK);
      const own = block.every((byte) => byte === 0) ? 0 : Number(/^(\d+)\//.exec(block.toString())?.[1] ?? -1);
      if (own !== 0) equalBytes(block, stamp(own, at), `block ${at} is whole`);
      const about = changes.filter(({ from, end }) => from <= at && at < end);
      const wanted = about.filter((one) => one.version === own && !about.some((other) => other.began > one.done));
      const list = about.map((o) => `${o.version}:${o.began}-${o.done}`).join(' ');
      assert.ok(wanted.length > 0, `${text}: block ${at} is of ${own}, but something came after it: ${list}`);
    }
    for (const index of [0, 1]) {
      equalBytes(await readAll(await open(this.mount(index), text)), seen, `mount ${index}`);
      const direct = await open(this.mount(index), text, { ...READ_ONLY, direct: true } as typeof READ_ONLY);
      equalBytes(await readAll(direct), seen, `mount ${index}, O_DIRECT`);
    }
  }
}

t.test('programs on two mounts race at a file', { skip: cannotMount, timeout: LIMIT_MS }, async (t) => {
  const cluster = await ProcessCluster.start(t, { driver: 'kernel', limitMs: LIMIT_MS });
  const { mounts } = await twoMounts(t, cluster);
  const random = new SeededRandom(seed);
  let kills = 0;
  const trouble = async (): Promise<void> => {
    await cluster.waitUntilWhole();
    await pause(random.below(200));
    kills++;
    // The fourth is the master.
    const index = random.below(4);
    if (index === 3) await cluster.killMaster();
    else await cluster.killChunkserver(index);
    await pause(random.below(300));
    if (index === 3) await cluster.startMaster();
    else await cluster.startChunkserver(index);
  };
  const races = new Races(random, mounts, await cluster.client(), trouble);
  const counts: Record<string, number> = {};
  const started = performance.now();
  const kinds = Object.entries(races.kinds);
  // Each kind once at least, however slow the machine is.
  for (let round = 0; round < kinds.length || performance.now() - started < SECONDS * 1000; round++) {
    const [kind, race] = kinds[round] ?? pick(random, kinds);
    await race().catch((error: unknown) => {
      throw new Error(`round ${round}, ${kind}: ${String(error)}`, { cause: error });
    });
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  t.comment(JSON.stringify({ ...counts, kills }));
});
