/** P3, P11: blocks that rotted, where no server, or only one that is away, has them whole. */
import assert from 'node:assert/strict';
import t from 'tap';
import { BLOCK_SIZE_BYTES, LEASE_TTL_MS } from '../../../../src/core/limits.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const SIZE = 900_000;
const ROTTEN = 10;
const LAST = Math.floor(SIZE / BLOCK_SIZE_BYTES);
const REST_MS = LEASE_TTL_MS + 15_000;
const bytes = pattern(SIZE, 1);

/** A file at rest, with one block flipped at the first of the two servers that have it. */
async function withRottenBlock(s: Story, block = ROTTEN): Promise<{ file: OpenFile; rotten: string; sound: string }> {
  const file = await s.create('f', bytes);
  await file.sync();
  await s.world.sleep(REST_MS);
  const [rotten, sound] = await s.holders(file);
  assert.ok(rotten !== undefined && sound !== undefined);
  rot(s, rotten, block);
  return { file, rotten, sound };
}

function rot(s: Story, server: string, block = ROTTEN): void {
  const disk = s.world.disk(server);
  const at = block * BLOCK_SIZE_BYTES + 1_000;
  for (const path of disk.files('/data/chunks')) {
    const place = disk.content(path).indexOf(bytes.subarray(at, at + 60));
    if (place >= 0) disk.corrupt(path, place, Buffer.from('rot'));
  }
}

/** What a fresh client reads: right, but for the block that is lost. */
async function readsAllButOne(s: Story, file: OpenFile, name: string): Promise<void> {
  const fs = await s.world.connect(name);
  const reader = (await fs.open(root, file.inode, { read: true, write: false })).file;
  for (let block = 0; block * BLOCK_SIZE_BYTES < SIZE; block++) {
    const start = block * BLOCK_SIZE_BYTES;
    const part = bytes.subarray(start, start + BLOCK_SIZE_BYTES);
    if (block === ROTTEN) await assert.rejects(reader.read(start, part.length), { code: 'EIO' });
    else equalBytes(await reader.read(start, part.length), part, `block ${block}`);
  }
  await reader.close();
  await fs.close();
}

story(
  'the machine with the only whole replica is lost: what is sound is copied, once, and the rest is told',
  async (s) => {
    const { world } = s;
    const { file, rotten, sound } = await withRottenBlock(s);
    await world.powerOff(sound);
    await world.sleep(60_000);
    const { version } = await s.chunk(file);
    assert.equal((await s.holders(file)).length, 2);
    const lines = world.trace.count;
    await world.sleep(300_000);
    assert.equal((await s.chunk(file)).version, version, 'nothing is recovered again and again');
    assert.ok(world.trace.count - lines < 40_000, `${world.trace.count - lines} lines of trace`);
    await readsAllButOne(s, file, 'client-3');
    // Whoever reads it on and on makes nothing worse.
    for (let i = 0; i < 60; i++) {
      const reader = await s.openAt('f', s.two);
      await assert.rejects(reader.read(ROTTEN * BLOCK_SIZE_BYTES, 100), { code: 'EIO' });
      await reader.close();
      await world.sleep(1_000);
    }
    assert.ok((await s.chunk(file)).version <= version + 8, `version ${(await s.chunk(file)).version}`);
    // From the copy alone, also when its machine lost power.
    const copy = (await s.holders(file)).find((name) => name !== rotten) ?? assert.fail();
    await world.powerOff(copy);
    await world.powerOn(copy);
    await world.sleep(20_000);
    await world.powerOff(rotten);
    await world.sleep(15_000);
    await readsAllButOne(s, file, 'client-4');
    assert.equal((await s.two.status()).damagedChunks, 1);
    await world.kill(MASTER);
    await world.start(MASTER);
    await world.sleep(60_000);
    assert.equal((await s.two.status()).damagedChunks, 1, 'a later master knows');
    const start = ROTTEN * BLOCK_SIZE_BYTES;
    await file.write(start, bytes.subarray(start, start + BLOCK_SIZE_BYTES));
    await file.sync();
    await world.sleep(600_000);
    assert.equal((await s.two.status()).damagedChunks, 0, 'what was written anew is whole');
    const reader = await s.openAt('f', s.two);
    equalBytes(await reader.read(0, SIZE), bytes, 'written anew');
    await reader.close();
    await file.close();
  },
);

story('what is damaged everywhere is read again when somebody has written it, and not before', async (s) => {
  const { world } = s;
  const { file, rotten, sound } = await withRottenBlock(s);
  rot(s, sound);
  await assert.rejects((await s.openAt('f', s.two)).read(0, SIZE), { code: 'EIO' });
  await world.sleep(120_000);
  assert.equal((await s.two.status()).damagedChunks, 1);
  const reads = [rotten, sound].map((name) => world.disk(name).plant((label) => label === 'chunk.read', {}));
  await world.sleep(600_000);
  assert.deepEqual(
    reads.map(({ hits }) => hits),
    [0, 0],
  );
  const start = ROTTEN * BLOCK_SIZE_BYTES;
  await file.write(start, bytes.subarray(start, start + BLOCK_SIZE_BYTES));
  await file.close();
  await world.sleep(800_000);
  assert.equal((await s.two.status()).damagedChunks, 0);
});

/** The files of the chunk, wherever. */
function replicaFiles(s: Story): string[] {
  return s.world.chunkservers.flatMap((name) =>
    s.world
      .disk(name)
      .files('/data/chunks')
      .map((path) => `${name}${path}`),
  );
}

story(
  'a member rotted unread while the machine of the whole one was away: when it is back, all is read right',
  async (s) => {
    const { world } = s;
    const { file, rotten, sound } = await withRottenBlock(s);
    await world.kill(sound);
    await world.sleep(75_000);
    await world.start(sound);
    await world.sleep(30_000);
    const fs = await world.connect('client-3');
    const reader = (await fs.open(root, file.inode, { read: true, write: false })).file;
    equalBytes(await reader.read(0, SIZE), bytes, 'a little later');
    await reader.close();
    await world.sleep(120_000);
    assert.equal((await s.holders(file)).length, 2);
    assert.equal(replicaFiles(s).length, 2, 'what is not needed any more is gone');
    await file.close();
    await s.check('f', bytes);
    // Each member is whole by itself.
    for (const holder of [rotten, ...world.chunkservers]) {
      const holders = await s.holders(file);
      if (!holders.includes(holder)) continue;
      const others = holders.filter((name) => name !== holder);
      for (const other of others) await world.kill(other);
      const alone = await world.connect(`alone-${holder}`);
      const again = (await alone.open(root, file.inode, { read: true, write: false })).file;
      equalBytes(await again.read(0, SIZE), bytes, `from ${holder} alone`);
      await again.close();
      for (const other of others) await world.start(other);
      await world.sleep(10_000);
    }
  },
);

story('a member rotted unread, and the whole one comes back with an older version of other blocks', async (s) => {
  const { world } = s;
  const { file, sound } = await withRottenBlock(s);
  await world.kill(sound);
  await world.sleep(12_000);
  const newer = pattern(BLOCK_SIZE_BYTES, 9);
  await file.write(0, newer);
  await file.sync();
  await world.sleep(75_000);
  await world.start(sound);
  await world.sleep(120_000);
  const expected = Buffer.from(bytes);
  expected.set(newer);
  await file.close();
  await s.check('f', expected);
  assert.equal(replicaFiles(s).length, 2, 'what is not needed any more is gone');
});

story('a reader who remembers only one of the replicas, which has rotted, asks where the other is (P11)', async (s) => {
  const { world } = s;
  const file = await s.create('f', bytes);
  await file.sync();
  const [only, other] = await s.holders(file);
  assert.ok(only !== undefined && other !== undefined);
  await world.kill(other);
  const writer = await s.openAt('f');
  await writer.write(0, bytes.subarray(0, 10));
  await writer.sync();
  assert.deepEqual(await s.holders(file), [only]);
  const reader = await s.openAt('f', s.two);
  do {
    await world.sleep(100);
    equalBytes(await reader.read(300_000, 10), bytes.subarray(300_000, 300_010), 'elsewhere');
  } while ((await s.holders(file)).length < 2);
  rot(s, only);
  const start = ROTTEN * BLOCK_SIZE_BYTES;
  equalBytes(await reader.read(start, 1_000), bytes.subarray(start, start + 1_000), 'what rotted');
  await reader.close();
});

story(
  'what was appended to a block that had rotted does not keep the whole replica from mending it, at once',
  async (s) => {
    const { world } = s;
    const { file, sound } = await withRottenBlock(s, LAST);
    await world.kill(sound);
    await world.sleep(12_000);
    const more = pattern(6_000, 4);
    await file.write(SIZE, more.subarray(0, 3_000));
    await file.sync();
    await world.sleep(60_000);
    await file.write(SIZE + 3_000, more.subarray(3_000));
    await file.sync();
    const reader = await s.openAt('f', s.two);
    for (let look = 0; look < 20; look++) {
      await assert.rejects(reader.read(SIZE - 100, 10), { code: 'EIO' });
      await world.sleep(15_000);
    }
    await world.start(sound);
    await world.sleep(5_000);
    equalBytes(await reader.read(SIZE - 100, 7_000), Buffer.concat([bytes.subarray(-100), more]), 'what rotted');
    await reader.close();
    await file.close();
    await world.sleep(REST_MS);
    await s.check('f', Buffer.concat([bytes, more]));
  },
);

story('nor does it when the whole replica gives way to a copy', async (s) => {
  const { world } = s;
  const { file, rotten, sound } = await withRottenBlock(s, LAST);
  const third = world.chunkservers.find((name) => name !== rotten && name !== sound) ?? assert.fail();
  await world.kill(third);
  await world.kill(sound);
  await world.sleep(12_000);
  const more = pattern(3_000, 4);
  await file.write(SIZE, more);
  await file.sync();
  await file.close();
  await world.sleep(REST_MS);
  await world.start(sound);
  await world.sleep(30_000);
  await world.start(third);
  await world.sleep(5_000);
  await s.check('f', Buffer.concat([bytes, more]));
});

for (const turn of [0, 1]) {
  story(`a block rots at a server that is killed before its row was settled (member ${turn})`, async (s) => {
    const file = await s.create('f', bytes);
    await file.flush();
    const name = (await s.holders(file))[turn] ?? assert.fail();
    rot(s, name);
    await s.world.kill(name);
    await s.world.start(name);
    for (let i = 0; i < 4; i++) {
      const reader = await s.openAt('f', s.two);
      equalBytes(await reader.read(0, SIZE), bytes, `read ${i}`);
      await reader.close();
      await s.world.sleep(5_000);
    }
    await file.close();
    await s.check('f', bytes);
  });
}

story('P11: what all servers were writing when they were killed can be read when they are back', async (s) => {
  const file = await s.create('f', bytes);
  await file.sync();
  let last = bytes;
  for (let round = 0; round < 8; round++) {
    const before = last;
    last = pattern(SIZE, 2 + round);
    const writing = file.write(0, last).then(() => file.sync());
    await s.world.sleep(s.world.random.below(40));
    for (const name of s.world.chunkservers) await s.world.kill(name);
    for (const name of s.world.chunkservers) await s.world.start(name);
    const reader = await s.openAt('f', s.two);
    const found = await reader.read(0, SIZE);
    for (let at = 0; at < SIZE; at++) {
      if (found[at] !== before[at] && found[at] !== last[at]) assert.fail(`byte ${at} is neither old nor new`);
    }
    await reader.close();
    await writing;
  }
  await file.close();
  await s.check('f', last);
});

story(
  'P1: a file is cut while its last block, torn when all machines lost power, waits for its recovery',
  async (s) => {
    const keep = LAST * BLOCK_SIZE_BYTES + 9_000;
    for (let round = 0; round < 5; round++) {
      const name = `f${round}`;
      const file = await s.create(name, bytes);
      await file.sync();
      const other = await s.openAt(name, s.two);
      // In the last block, behind what is looked at.
      await file.write(keep + 1_000, pattern(SIZE - keep - 1_000, 2 + round));
      const flushing = file.flush().catch(() => undefined);
      await s.world.sleep(s.world.random.below(6));
      for (const server of s.world.chunkservers) await s.world.powerOff(server);
      await other.truncate(keep);
      for (const server of s.world.chunkservers) await s.world.powerOn(server);
      await flushing;
      await file.close().catch(() => undefined);
      equalBytes(await other.read(0, keep), bytes.subarray(0, keep), name);
      await other.close();
    }
  },
);
