/** Power loss at every replica of a chunk that was not synced, told as stories (docs/failure-model.md). */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { KIB, SUSPECT_GRACE_MS } from '../../../../src/core/limits.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import type { StatusReply } from '../../../../src/protocol/generated/messages.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { READ_WRITE, root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';
import { failsSoon, powerCycle } from '../power-cycle.js';

t.setTimeout(0);

const LENGTH = 200 * KIB;
const BLOCK = 64 * KIB;

const statusOf = async (s: Story): Promise<StatusReply> => (await s.world.connect('operator')).status();

/** A file whose size is published and durable, and whose chunk was never synced and went with the power. */
async function unsyncedLostFile(s: Story): Promise<OpenFile> {
  const file = await s.create('f', pattern(LENGTH, 1));
  await file.close();
  await s.one.syncMetadata();
  await powerCycle(s, s.world.chunkservers);
  return s.openAt('f', s.two);
}

/** A file that was synced, and whose replicas were all deleted behind the back of their servers. */
async function syncedLostFile(s: Story, sync: (file: OpenFile) => Promise<void> = (file) => file.sync()) {
  const file = await s.create('f', pattern(LENGTH, 1));
  await sync(file);
  for (const name of s.world.chunkservers) await s.world.powerOff(name, 'nothing');
  for (const name of s.world.chunkservers) {
    const disk = s.world.disk(name);
    for (const path of disk.files('/data/chunks')) disk.remove(path);
  }
  for (const name of s.world.chunkservers) await s.world.powerOn(name);
  await s.world.sleep(5000);
  await file.close().catch(() => undefined);
  return s.openAt('f', s.two);
}

story('P3: a chunk that was synced and is lost everywhere is EIO at once, never zeros', async (s) => {
  const file = await syncedLostFile(s);
  assert.equal((await file.attributes()).size, LENGTH);
  await failsSoon(s, 'read', () => file.read(0, LENGTH));
  assert.equal((await statusOf(s)).unavailableChunks, 1);
  await file.close();
  await s.two.unlink(root, ROOT_INODE, Buffer.from('f'));
});

const SYNCS: Record<string, (file: OpenFile, s: Story) => Promise<void>> = {
  'an fsync with nothing left to publish': async (file) => {
    await file.flush();
    await file.sync();
  },
  'an fsync through another handle': async (_file, s) => {
    const other = (await s.one.openAt(root, ROOT_INODE, Buffer.from('f'), { read: true, write: false })).file;
    await other.sync();
    await other.close();
  },
  'an fsync after the handle that wrote was closed': async (file, s) => {
    await file.close();
    const other = await s.openAt('f');
    await other.sync();
    await other.close();
  },
  'an O_SYNC write': async (_file, s) => {
    const flags = { ...READ_WRITE, sync: true };
    const { file: other } = await s.one.openAt(root, ROOT_INODE, Buffer.from('f'), flags);
    await other.write(0, pattern(10, 1));
    await other.close();
  },
  'an O_SYNC append': async (_file, s) => {
    const flags = { ...READ_WRITE, sync: true, append: true };
    const { file: other } = await s.one.openAt(root, ROOT_INODE, Buffer.from('f'), flags);
    await other.write(0, Buffer.from('x'));
    await other.close();
  },
  'an fsync of what the chunkservers copied': async (file, s) => {
    const source = await s.create('source', pattern(1 << 20, 1));
    await file.copyFrom(source, 0, 0, 1 << 20);
    await source.close();
    await file.sync();
  },
  'an fsync of another client that wrote to the chunk': async (file, s) => {
    await file.flush();
    const other = await s.openAt('f', s.two);
    await other.write(0, Buffer.from('x'));
    await other.sync();
    await other.close();
  },
};
for (const [what, sync] of Object.entries(SYNCS)) {
  story(`P3: ${what} makes the loss of the chunk an error`, async (s) => {
    const file = await syncedLostFile(s, (written) => sync(written, s));
    await failsSoon(s, 'read', () => file.read(0, LENGTH));
    await file.close();
  });
}

story('A chunk that was never synced and is lost with the power reads as a hole, and is as a new one', async (s) => {
  const file = await unsyncedLostFile(s);
  const began = s.world.clock.nowUs;
  equalBytes(await file.read(0, LENGTH), Buffer.alloc(LENGTH), 'zeros');
  assert.ok(s.world.clock.nowUs - began < 5e6);
  const status = await statusOf(s);
  assert.equal(status.unavailableChunks, 0);
  assert.equal(status.underReplicatedChunks, 0);
  assert.equal(await file.seek(0, 'hole'), 0);
  await assert.rejects(file.seek(0, 'data'), { code: 'ENXIO' });
  await file.write(10, Buffer.from('x'));
  await file.sync();
  await file.close();
  await powerCycle(s, s.world.chunkservers);
  await s.world.sleep(60_000);
  const content = Buffer.alloc(LENGTH);
  content.write('x', 10);
  await s.check('f', content);
});

story(
  'So does one whose disks were not mounted when the machines came up again',
  async (s) => {
    // With several, some are on each of the two disks.
    const names = Array.from({ length: 8 }, (_, i) => `f${i}`);
    for (const name of names) await (await s.create(name, pattern(LENGTH, 1))).close();
    await s.one.syncMetadata();
    const machines = s.world.chunkservers;
    for (const name of machines) await s.world.powerOff(name, 'nothing');
    for (const name of machines) s.world.disk(name).unmount('/data-2');
    for (const name of machines) await s.world.powerOn(name);
    await s.world.sleep(20_000);
    for (const name of machines) await s.world.kill(name);
    for (const name of machines) s.world.disk(name).mount('/data-2');
    for (const name of machines) await s.world.start(name);
    await s.world.sleep(20_000);
    for (const name of names) {
      const file = await s.openAt(name, s.two);
      equalBytes(await file.read(0, LENGTH), Buffer.alloc(LENGTH), name);
      await file.close();
    }
    assert.equal((await statusOf(s)).unavailableChunks, 0);
  },
  { dataDirectories: 2 },
);

story(
  'A chunk that was never synced reads as a hole also if the master is killed between the reports of its servers',
  async (s) => {
    const { world } = s;
    const file = await s.create('f', pattern(LENGTH, 1));
    await file.close();
    await s.one.syncMetadata();
    for (const name of world.chunkservers) await world.powerOff(name, 'nothing');
    await world.sleep(2000);
    const [holder = ''] = await s.holders(file);
    await world.powerOn(holder);
    await world.sleep(1000);
    await world.kill(MASTER);
    await world.start(MASTER);
    for (const name of world.chunkservers) if (name !== holder) await world.powerOn(name);
    await world.sleep(5000);
    const again = await s.openAt('f', s.two);
    equalBytes(await again.read(0, LENGTH), Buffer.alloc(LENGTH), 'a hole');
    assert.equal((await statusOf(s)).unavailableChunks, 0);
    await again.close();
  },
);

story('What was never synced may be torn in any way, but is never EIO', async (s) => {
  const names = Array.from({ length: 8 }, (_, i) => `f${i}`);
  for (const name of names) {
    const file = await s.create(name, pattern(LENGTH, 1));
    await file.flush();
    await file.write(1000, pattern(LENGTH, 2));
    await file.close();
  }
  await s.one.syncMetadata();
  for (const name of s.world.chunkservers) await s.world.powerOff(name, 'some');
  for (const name of s.world.chunkservers) await s.world.powerOn(name);
  await s.world.sleep(5000);
  for (const name of names) {
    const file = await s.openAt(name, s.two);
    const began = s.world.clock.nowUs;
    await file.read(0, LENGTH + 1000);
    assert.ok(s.world.clock.nowUs - began < 5e6, `${name} took long`);
    await file.close();
  }
});

story('P3: written anew, a lost chunk is good again, block by block', async (s) => {
  const file = await syncedLostFile(s);
  const newer = pattern(LENGTH, 2);
  await file.write(BLOCK, newer.subarray(BLOCK, 2 * BLOCK));
  await file.sync();
  equalBytes(await file.read(BLOCK, BLOCK), newer.subarray(BLOCK, 2 * BLOCK), 'the block written');
  await failsSoon(s, 'read of what was not written', () => file.read(0, BLOCK));
  await failsSoon(s, 'write of a part of a lost block', async () => {
    await file.write(10, Buffer.from('x'));
    await file.sync();
  });
  await powerCycle(s, s.world.chunkservers);
  await failsSoon(s, 'read after another power loss', () => file.read(2 * BLOCK, BLOCK));
  await file.write(0, newer);
  await file.sync();
  await file.close();
  await s.world.sleep(60_000);
  await s.check('f', newer);
});

story('A lost chunk that is truncated away, or whose file is, is forgotten', async (s) => {
  const file = await syncedLostFile(s);
  await file.truncate(0);
  const bytes = pattern(5000, 3);
  await file.write(0, bytes);
  await file.sync();
  await file.close();
  await s.world.sleep(30_000);
  await s.check('f', bytes);
});

for (const when of ['open', 'closed'] as const) {
  story(`P1: an fsync after a power loss at every replica tells of bytes that it cost (${when})`, async (s) => {
    let file = await s.create('f', pattern(LENGTH, 1));
    await file.sync();
    const newer = pattern(LENGTH, 2);
    await file.write(0, newer);
    await file.flush();
    if (when === 'closed') {
      await file.close();
      file = await s.openAt('f');
    }
    await powerCycle(s, s.world.chunkservers);
    await failsSoon(s, 'fsync', () => file.sync());
    await file.sync();
    await file.write(0, newer);
    await file.sync();
    await file.close();
    await powerCycle(s, s.world.chunkservers);
    await s.world.sleep(60_000);
    await s.check('f', newer);
  });
}

story('P1: with one replica that kept its power nothing is lost, and fsync succeeds', async (s) => {
  for (const turn of [0, 1]) {
    const name = `f${turn}`;
    const file = await s.create(name, pattern(LENGTH, 1));
    await file.flush();
    await powerCycle(s, [(await s.holders(file))[turn] ?? assert.fail('two replicas were wanted')]);
    await file.sync();
    await file.close();
    await powerCycle(s, s.world.chunkservers);
    await s.world.sleep(60_000);
    await s.check(name, pattern(LENGTH, 1));
  }
});

/**
 * A file is synced, written again and flushed; one holder of it loses power, the other one is killed and away for `awayMs`. Returns
 * what a reader gets who has waited since, and the writer's file, when all are back.
 */
async function oneWithoutPowerAndOneAway(s: Story, awayMs: number): Promise<{ bytes: Buffer; file: OpenFile }> {
  const { world } = s;
  const file = await s.create('f', pattern(LENGTH, 1));
  await file.sync();
  await file.write(0, pattern(LENGTH, 2));
  await file.flush();
  const [one = '', other = ''] = await s.holders(file);
  await world.powerOff(one, 'nothing');
  await world.kill(other);
  await world.powerOn(one);
  world.background(async () => {
    await world.sleep(awayMs);
    await world.start(other);
  });
  const reader = await s.openAt('f', s.two);
  const bytes = Buffer.from(await reader.read(0, LENGTH));
  await reader.close();
  await world.sleep(awayMs);
  return { bytes, file };
}

story('P2, P9: what lost power does not stand for the chunk while the other member may come back', async (s) => {
  const { bytes, file } = await oneWithoutPowerAndOneAway(s, SUSPECT_GRACE_MS - 4_000);
  equalBytes(bytes, pattern(LENGTH, 2), 'what was flushed');
  await file.sync();
  await file.close();
  await s.world.sleep(60_000);
  await s.check('f', pattern(LENGTH, 2));
});

const logged: string[] = [];

story(
  'P1, P7, P11: when the other one does not come back, what was synced is there, and fsync and the log tell of the rest',
  async (s) => {
    logged.length = 0;
    const { bytes, file } = await oneWithoutPowerAndOneAway(s, 2 * SUSPECT_GRACE_MS);
    equalBytes(bytes, pattern(LENGTH, 1), 'what was synced');
    assert.equal(logged.filter((line) => line.includes('unsynced writes may be lost')).length, 1);
    await failsSoon(s, 'fsync', () => file.sync());
    await file.sync();
    await file.close();
    await s.world.sleep(60_000);
    await s.check('f', pattern(LENGTH, 1));
  },
  { onLine: (line) => line.includes(' log warn master: ') && logged.push(line) },
);

story(
  'P1: a chunk that was lost, which was told, and that is written, closed and lost again, is told of again',
  async (s) => {
    const lose = async (version: number): Promise<void> => {
      const file = version === 1 ? await s.create('f') : await s.openAt('f');
      await file.write(0, pattern(LENGTH, version));
      await file.close();
      await powerCycle(s, s.world.chunkservers);
      const again = await s.openAt('f');
      await failsSoon(s, `fsync ${version}`, () => again.sync());
      await again.close();
    };
    await lose(1);
    await lose(2);
  },
);

story(
  'P7: what is lost of one chunk is told once, if some of it was written through a handle that is closed',
  async (s) => {
    const closed = await s.create('f', pattern(LENGTH, 1));
    await closed.close();
    const file = await s.openAt('f');
    await file.write(10, pattern(10, 2));
    await file.flush();
    await powerCycle(s, s.world.chunkservers);
    await failsSoon(s, 'fsync', () => file.sync());
    await file.sync();
    await file.close();
  },
);
