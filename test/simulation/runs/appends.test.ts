/** O_APPEND by several clients at once, under faults: every record is there once and whole, and nothing between them. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { CairnError } from '../../../src/core/errors.js';
import { HOLDING_TAKEOVER_MS, APPEND_TAKEOVER_MS, KIB, MIB } from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { FileSystem, OpenFile } from '../../../src/filesystem/filesystem.js';
import { checkRecords, readRecords, record } from '../../support/records.js';
import { Faults, PLAIN_KINDS } from '../faults/faults.js';
import { checkReplicas } from '../judges/final-check.js';
import { seeds } from '../world/seeds.js';
import { story } from '../world/story.js';
import { bringBack } from '../workloads/workload.js';
import { MASTER, World } from '../world/world.js';

t.setTimeout(0);

const CLIENTS = ['client-1', 'client-2', 'client-3'];
const RECORDS = 60;
const NAME = Buffer.from('log');

async function openLog(fs: FileSystem): Promise<OpenFile> {
  const flags = { read: true, write: true, append: true };
  return (await fs.create(ROOT_CREDENTIALS, ROOT_INODE, NAME, { mode: 0o644, flags })).file;
}

async function contentOf(fs: FileSystem): Promise<Buffer> {
  const { file, attributes } = await fs.openAt(ROOT_CREDENTIALS, ROOT_INODE, NAME, { read: true, write: false });
  const bytes = await file.read(0, attributes.size + 1);
  await file.close();
  return Buffer.from(bytes);
}

for (const seed of seeds(20)) {
  t.test(`P4, P7: appends by six programs on three clients under faults: seed ${seed}`, async (t) => {
    const world = new World({ seed });
    const random = new SeededRandom(seed ^ 0xa99e);
    await world.runReported(async () => {
      await world.startAll();
      const clients: FileSystem[] = [];
      for (const name of CLIENTS) clients.push(await world.connect(name));
      const observer = await world.connect('observer');
      // A client that is cut off for long enough loses what it appended, and is told: that is a story of its own.
      const faults = new Faults({
        world,
        random,
        clients: CLIENTS,
        observer,
        kinds: PLAIN_KINDS.filter((kind) => kind !== 'partition' && kind !== 'half-partition'),
      });
      const work = async (writer: number): Promise<void> => {
        const fs = clients[writer % clients.length];
        assert.ok(fs !== undefined);
        let file = await openLog(fs);
        for (let sequence = 0; sequence < RECORDS; sequence++) {
          const length = random.below(random.below(4) === 0 ? 60 * KIB : 500);
          await file.write(0, record(writer, sequence, length));
          const next = random.below(10);
          if (next === 0) await file.sync();
          else if (next === 1) await file.flush();
          else if (next === 2) {
            await file.close();
            file = await openLog(fs);
          } else if (next === 3) await world.sleep(random.below(2000));
        }
        await file.close();
      };
      if (seed % 4 !== 0) world.background(() => faults.run());
      // A reader sees records up to its end, whatever is on its way.
      let isDone = false;
      world.background(async () => {
        while (!isDone) {
          await world.sleep(500);
          const { file, attributes } = await observer
            .openAt(ROOT_CREDENTIALS, ROOT_INODE, NAME, { read: true, write: false })
            .catch(() => ({ file: undefined, attributes: undefined }));
          if (file === undefined) continue;
          const bytes = await file.read(0, attributes.size);
          const torn = bytes.length >= 16 && bytes.readUInt32LE(0) === 0;
          assert.ok(!torn, 'zeros where a record is to be');
          await file.close();
        }
      });
      const writers = [1, 2, 3, 4, 5, 6];
      await Promise.all(writers.map(work));
      isDone = true;
      await faults.stop();
      await bringBack(world);
      for (const client of clients) checkRecords(await contentOf(client), writers, RECORDS);
      await world.sleep(90_000);
      const fresh = await world.connect('fresh');
      const content = await contentOf(fresh);
      checkRecords(content, writers, RECORDS);
      const { inode } = await fresh.lookup(ROOT_CREDENTIALS, ROOT_INODE, NAME);
      await checkReplicas(world, fresh, [{ path: 'log', inode, size: content.length }]);
      t.comment(`${content.length} bytes, ${(world.clock.nowUs / 1e6).toFixed(0)} simulated seconds`);
    });
    world.stop();
  });
}

story('P7: a client that is cut off while it appends is told what it lost, and the others go on', async (s) => {
  const file = await openLog(s.one);
  await file.write(0, record(1, 0, 1000));
  await file.sync();
  s.world.network.partition(MASTER, 'client-1');
  for (let sequence = 1; sequence < 5; sequence++) await file.write(0, record(1, sequence, 1000));
  // By then they are on the chunkservers, behind the published size.
  await s.world.sleep(3000);
  const other = await openLog(s.two);
  const before = s.world.clock.nowUs;
  for (let sequence = 0; sequence < 3; sequence++) await other.write(0, record(2, sequence, 700));
  await other.sync();
  const waitedMs = (s.world.clock.nowUs - before) / 1000;
  assert.ok(waitedMs < 20_000, `${waitedMs} ms`);
  s.world.network.heal(MASTER, 'client-1');
  await assert.rejects(file.sync(), (error) => error instanceof CairnError && error.code === 'EIO');
  await file.write(0, record(1, 9, 500));
  await file.sync();
  await other.write(0, record(2, 3, 500));
  await other.close();
  await file.close();
  const found = readRecords(await contentOf(s.two));
  assert.deepEqual(
    [...found],
    [
      [1, [0, 9]],
      [2, [0, 1, 2, 3]],
    ],
  );
});

story('what a client that was cut off sends late does not reach the records of others', async (s) => {
  const file = await openLog(s.one);
  await file.write(0, record(1, 0, 1000));
  await file.sync();
  for (const host of [MASTER, ...s.world.chunkservers]) s.world.network.partition(host, 'client-1');
  await file.write(0, record(1, 1, 5000));
  await s.world.sleep(2000);
  const other = await openLog(s.two);
  for (let sequence = 0; sequence < 5; sequence++) await other.write(0, record(2, sequence, 700));
  await other.sync();
  // It reaches the chunkservers, with a lease of theirs that has time left, but not the master.
  for (const host of s.world.chunkservers) s.world.network.heal(host, 'client-1');
  await s.world.sleep(15_000);
  assert.deepEqual(readRecords(await contentOf(s.two)).get(2), [0, 1, 2, 3, 4]);
  s.world.network.healAll();
  await s.world.sleep(5000);
  await assert.rejects(file.close(), (error) => error instanceof CairnError && error.code === 'EIO');
  await other.close();
  assert.deepEqual(readRecords(await contentOf(s.two)).get(2), [0, 1, 2, 3, 4]);
});

story('P7: an append that waited for room while the end went to others does not reach what they synced', async (s) => {
  const full = await s.world.connect('client-3', { maxDirtyBytes: MIB });
  const file = await openLog(full);
  await file.write(0, record(1, 0, 1000));
  await file.sync();
  for (const host of [MASTER, ...s.world.chunkservers]) s.world.network.partition(host, 'client-3');
  await file.write(0, record(1, 1, 900 * KIB));
  const late = Promise.allSettled([file.write(0, record(1, 2, 200 * KIB))]);
  await s.world.sleep(2000);
  const other = await openLog(s.two);
  for (let sequence = 0; sequence < 3; sequence++) await other.write(0, record(2, sequence, 900 * KIB));
  await other.sync();
  s.world.network.healAll();
  const [outcome] = await late;
  await file.sync().catch(() => undefined);
  await s.world.sleep(5000);
  assert.deepEqual(
    [...readRecords(await contentOf(s.two))],
    [
      [1, [0]],
      [2, [0, 1, 2]],
    ],
  );
  assert.equal(outcome?.status, 'rejected');
});

story('P7: it loses them too when the others are done by the time that it is back', async (s) => {
  const file = await openLog(s.one);
  await file.write(0, record(1, 0, 1000));
  await file.sync();
  s.world.network.partition(MASTER, 'client-1');
  for (let sequence = 1; sequence < 5; sequence++) await file.write(0, record(1, sequence, 1000));
  const other = await openLog(s.two);
  await other.write(0, record(2, 0, 700));
  await other.close();
  await s.world.sleep(20_000);
  s.world.network.heal(MASTER, 'client-1');
  await assert.rejects(file.sync(), (error) => error instanceof CairnError && error.code === 'EIO');
  await file.close();
  assert.deepEqual(
    [...readRecords(await contentOf(s.two))],
    [
      [1, [0]],
      [2, [0]],
    ],
  );
});

story('a client that is cut off while it appends goes on when nobody else did', async (s) => {
  const file = await openLog(s.one);
  await file.write(0, record(1, 0, 1000));
  s.world.network.partition(MASTER, 'client-1');
  for (let sequence = 1; sequence < 5; sequence++) await file.write(0, record(1, sequence, 1000));
  await s.world.sleep(20_000);
  s.world.network.heal(MASTER, 'client-1');
  await file.write(0, record(1, 5, 1000));
  await file.close();
  checkRecords(await contentOf(s.two), [1], 6);
});

story('P10: append leases outlive the master', async (s) => {
  const [one, two] = [await openLog(s.one), await openLog(s.two)];
  await one.write(0, record(1, 0, 1000));
  await s.world.kill(MASTER);
  await s.world.start(MASTER);
  // Nothing was published: the new master knows of it only what the client tells.
  await Promise.all([
    (async () => {
      for (let sequence = 0; sequence < 5; sequence++) await two.write(0, record(2, sequence, 300));
      await two.close();
    })(),
    (async () => {
      for (let sequence = 1; sequence < 5; sequence++) await one.write(0, record(1, sequence, 300));
      await one.close();
    })(),
  ]);
  checkRecords(await contentOf(s.two), [1, 2], 5);
});

story('a client that dies while it appends leaves no bytes between the records of others', async (s) => {
  const file = await openLog(s.one);
  await file.write(0, record(1, 0, 1000));
  await file.sync();
  for (let sequence = 1; sequence < 5; sequence++) await file.write(0, record(1, sequence, 3000));
  await s.world.sleep(900);
  await s.world.kill('client-1');
  const other = await openLog(s.two);
  for (let sequence = 0; sequence < 3; sequence++) await other.write(0, record(2, sequence, 700));
  await other.close();
  assert.deepEqual(readRecords(await contentOf(s.two)).get(2), [0, 1, 2]);
  await s.world.sleep(90_000);
  assert.deepEqual(readRecords(await contentOf(s.two)).get(2), [0, 1, 2], 'and none shows later');
});

story('P5: what a client appended and lost does not show when the file grows over it', async (s) => {
  const file = await openLog(s.one);
  await file.write(0, record(1, 0, 1000));
  await file.sync();
  s.world.network.partition(MASTER, 'client-1');
  for (let sequence = 1; sequence < 5; sequence++) await file.write(0, record(1, sequence, 5000));
  // By then they are on the chunkservers, behind the published size.
  await s.world.sleep(3000);
  const other = await openLog(s.two);
  await other.write(0, record(2, 0, 700));
  await other.close();
  s.world.network.heal(MASTER, 'client-1');
  await assert.rejects(file.close(), (error) => error instanceof CairnError && error.code === 'EIO');
  await s.world.sleep(5000);
  const end = (await contentOf(s.two)).length;
  const { inode } = await s.two.lookup(ROOT_CREDENTIALS, ROOT_INODE, NAME);
  await s.two.setAttributes(ROOT_CREDENTIALS, inode, { size: end + 30_000 });
  const grown = await contentOf(s.two);
  assert.equal(grown.length, end + 30_000);
  assert.ok(grown.subarray(end).equals(Buffer.alloc(30_000)), 'zeros');
});

story('P11: changes go on while one waits for a client that appends and stands still', async (s) => {
  const { world } = s;
  const log = await openLog(s.two);
  await log.write(0, record(2, 0, 1000));
  world.freeze('client-2', 'stopped');
  let isCut = false;
  world.background(async () => {
    await s.one.setAttributes(ROOT_CREDENTIALS, log.inode, { size: 100 });
    isCut = true;
  });
  await world.sleep(100);
  for (let i = 0; i < 5000; i++) {
    const begunMs = world.clock.nowUs / 1000;
    await s.one.makeNode(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from(`d-${i}`), { kind: 'directory', mode: 0o755 });
    // It may hold the root directory: for that it is waited for once.
    const limitMs = i === 0 ? HOLDING_TAKEOVER_MS + 2_000 : 1_000;
    assert.ok(world.clock.nowUs / 1000 - begunMs < limitMs, `directory ${i}`);
  }
  await world.sleep(20_000);
  assert.ok(isCut);
  world.thaw('client-2');
  await world.sleep(10_000);
});

story('P7: nor does it when the master restarts before it is back', async (s) => {
  const { world } = s;
  const file = await openLog(s.one);
  await file.write(0, record(1, 0, 1000));
  await file.sync();
  for (const host of [MASTER, ...world.chunkservers]) world.network.partition(host, 'client-1');
  await file.write(0, record(1, 1, 5000));
  await world.sleep(3000);
  const other = await openLog(s.two);
  for (let sequence = 0; sequence < 3; sequence++) await other.write(0, record(2, sequence, 700));
  await other.close();
  await world.sleep(5_000);
  await world.kill(MASTER);
  await world.start(MASTER);
  for (const host of [MASTER, ...world.chunkservers]) world.network.heal(host, 'client-1');
  await assert.rejects(file.sync(), (error) => error instanceof CairnError && error.code === 'EIO');
  await file.write(0, record(1, 2, 500));
  await file.close();
  const found = readRecords(await contentOf(s.two));
  assert.deepEqual(
    [...found],
    [
      [1, [0, 2]],
      [2, [0, 1, 2]],
    ],
  );
});

for (const awayMs of [2_000, 14_000]) {
  const outcome = awayMs < APPEND_TAKEOVER_MS ? 'comes after what was appended' : 'takes it away';
  story(`P2: a cut just after a restart of the master ${outcome}, by who is away for ${awayMs} ms`, async (s) => {
    const { world } = s;
    const file = await openLog(s.one);
    await file.write(0, record(1, 0, 1000));
    await file.sync();
    await file.write(0, record(1, 1, 5000));
    await world.sleep(700);
    world.network.partition(MASTER, 'client-1');
    await world.kill(MASTER);
    await world.start(MASTER);
    const cut = s.two.lookup(ROOT_CREDENTIALS, ROOT_INODE, NAME).then(async ({ inode, size }) => {
      assert.ok(size < 2000, 'what was appended last is not told of');
      await s.two.setAttributes(ROOT_CREDENTIALS, inode, { size: 0 });
    });
    await world.sleep(awayMs);
    world.network.heal(MASTER, 'client-1');
    await cut;
    if (awayMs < APPEND_TAKEOVER_MS) await file.sync();
    else await assert.rejects(file.sync(), { code: 'EIO' });
    assert.equal((await contentOf(s.two)).length, 0);
    await file.write(0, record(1, 2, 500));
    await file.close();
    assert.deepEqual([...readRecords(await contentOf(s.two))], [[1, [2]]]);
  });
}
