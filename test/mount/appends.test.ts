/** O_APPEND by programs on two mounts at once: every record is there once, whole, with nothing between them. */
import { execFile } from 'node:child_process';
import { open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { KIB, MIB } from '../../src/core/limits.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { checkRecords, readRecords, record } from '../support/records.js';
import { testSeed } from '../support/seed.js';

const skip = process.getuid?.() !== 0 && 'only root may mount by itself';
const WORKER = fileURLToPath(new URL('append-worker.js', import.meta.url));

/** Resolves when the program has ended well. */
function append(path: string, ...args: readonly (string | number)[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const options = { timeout: 100_000, killSignal: 'SIGKILL' } as const;
    execFile(process.execPath, [WORKER, path, ...args.map(String)], options, (error, _stdout, stderr) => {
      if (error === null) resolve();
      else reject(new Error(`append-worker: ${error.message} ${stderr}`));
    });
  });
}

t.test('appends of two mounts', { skip }, async (t) => {
  t.setTimeout(280_000);
  const seed = testSeed(t);
  const cluster = await ProcessCluster.start(t, { driver: 'kernel', limitMs: 270_000 });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const writers = [1, 2, 3, 4];

  for (const [how, maxBytes, count] of [
    ['plain', 4 * KIB, 1500],
    ['plain', 900 * KIB, 40],
    ['sync', 2 * KIB, 200],
    ['reopen', 2 * KIB, 150],
  ] as const) {
    await t.test(`${count} records of up to ${maxBytes} bytes each, ${how}`, async () => {
      const name = `${how}-${maxBytes}`;
      await Promise.all(
        writers.map((writer) =>
          append(join(writer % 2 === 0 ? a : b, name), writer, count, maxBytes, seed + writer, how),
        ),
      );
      for (const mount of [a, b]) checkRecords(await readFile(join(mount, name)), writers, count);
    });
  }

  await t.test('P2: a reader of another mount sees whole records up to its end, at any time', async (t) => {
    await writeFile(join(a, 'followed'), '');
    let isDone = false;
    const work = Promise.all(
      writers.map((writer) => append(join(writer % 2 === 0 ? a : b, 'followed'), writer, 400, 20 * KIB, seed, 'sync')),
    ).then(() => (isDone = true));
    let reads = 0;
    while (!isDone) {
      const bytes = await readFile(join(reads % 2 === 0 ? a : b, 'followed'));
      // The last one may be on its way; zeros would be no record.
      const whole = lastWhole(bytes);
      readRecords(bytes.subarray(0, whole));
      reads++;
    }
    await work;
    t.ok(reads > 3, `${reads} reads`);
    checkRecords(await readFile(join(a, 'followed')), writers, 400);
  });

  await t.test('P7, P11: chunkservers are killed meanwhile', async () => {
    let isDone = false;
    const work = Promise.all(
      writers.map((writer) => append(join(writer % 2 === 0 ? a : b, 'troubled'), writer, 600, 8 * KIB, seed, 'sync')),
    ).then(() => (isDone = true));
    for (const index of cluster.chunkserverIndexes) {
      if (isDone) break;
      await pause(700);
      await cluster.killChunkserver(index);
      await pause(700);
      await cluster.startChunkserver(index);
      await cluster.waitUntilWhole();
    }
    await work;
    for (const mount of [a, b]) checkRecords(await readFile(join(mount, 'troubled')), writers, 600);
  });

  await t.test('P10: the master is killed meanwhile', async () => {
    let isDone = false;
    const work = Promise.all(
      writers.map((writer) => append(join(writer % 2 === 0 ? a : b, 'orphaned'), writer, 400, 8 * KIB, seed, 'sync')),
    ).then(() => (isDone = true));
    for (let i = 0; i < 3 && !isDone; i++) {
      await pause(500);
      await cluster.killMaster();
      await cluster.startMaster();
    }
    await work;
    for (const mount of [a, b]) checkRecords(await readFile(join(mount, 'orphaned')), writers, 400);
  });

  await t.test('a file that another mount cuts, or writes to past its end, goes on from there', async (t) => {
    const log = await open(join(a, 'log'), 'a');
    await log.write('before\n');
    await truncate(join(b, 'log'), 0);
    t.equal((await stat(join(b, 'log'))).size, 0);
    await log.write('after\n');
    await log.sync();
    t.equal(await readFile(join(b, 'log'), 'utf8'), 'after\n', 'cut');
    const other = await open(join(b, 'log'), 'r+');
    await other.write('further\n', 6);
    await other.close();
    await log.write('last\n');
    await log.close();
    t.equal(await readFile(join(b, 'log'), 'utf8'), 'after\nfurther\nlast\n', 'extended');
    await writeFile(join(b, 'log'), 'new\n');
    const again = await open(join(a, 'log'), 'a');
    await again.write('end\n');
    await again.close();
    t.equal(await readFile(join(b, 'log'), 'utf8'), 'new\nend\n', 'replaced by O_TRUNC');
  });

  await t.test(
    'a write of up to 1 MiB is one record; longer ones stay together unless their writer stops',
    async () => {
      const big = (writer: number) =>
        append(join(writer === 1 ? a : b, 'big'), writer, 12, 3 * MIB, seed + writer, 'plain');
      await Promise.all([big(1), big(2)]);
      checkRecords(await readFile(join(a, 'big')), [1, 2], 12);
    },
  );

  await t.test('P11: a mount that is killed while it appends lets others go on', async (t) => {
    await writeFile(join(a, 'left'), '');
    const file = await open(join(b, 'left'), 'a');
    for (let sequence = 0; sequence < 50; sequence++) await file.write(record(1, sequence, 1000));
    await cluster.killMount(1);
    await file.close().catch(() => undefined);
    const before = Date.now();
    await append(join(a, 'left'), 2, 20, 1000, seed, 'plain');
    t.ok(Date.now() - before < 40_000, `${Date.now() - before} ms`);
    const found = readRecords(await readFile(join(a, 'left')));
    t.equal(found.get(2)?.length, 20);
  });
});

/** Where the last record that is there whole ends. */
function lastWhole(bytes: Buffer): number {
  for (let at = 0; ;) {
    if (bytes.length - at < 16) return at;
    const length = bytes.readUInt32LE(at + 12);
    if (length < 16) return bytes.length;
    if (at + length > bytes.length) return at;
    at += length;
  }
}
