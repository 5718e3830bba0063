/** An fsync makes durable what is there, and makes nothing: a hole stays a hole, also while there is no space for a chunk. */
import assert from 'node:assert/strict';
import t from 'tap';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { CHUNK_SIZE_BYTES, KIB, LEASE_TTL_MS, MIB } from '../../../../src/core/limits.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { READ_WRITE, root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';

t.setTimeout(0);

const PUNCH = { punchHole: true, keepSize: true };

/** A file whose first two chunks were written and closed, and never synced. */
async function writtenAndClosed(s: Story): Promise<OpenFile> {
  const file = await s.create('f', pattern(1_000, 1));
  await file.write(CHUNK_SIZE_BYTES, pattern(1_000, 2));
  await file.close();
  return s.openAt('f');
}

/** Power fails at all chunkservers, and takes what is not synced. */
async function loseAll({ world }: Story): Promise<void> {
  for (const name of world.chunkservers) await world.powerOff(name, 'nothing');
  await world.sleep(2_000);
  for (const name of world.chunkservers) await world.powerOn(name);
  await world.sleep(5_000);
}

const chunks = async (s: Story, file: OpenFile): Promise<number[]> =>
  (await s.two.placement(file.inode, 0)).flatMap(({ index, handle }) => (handle === 0 ? [] : [index]));

story('a hole in what was written through a handle that is closed stays one', async (s) => {
  const file = await writtenAndClosed(s);
  await file.allocate(0, CHUNK_SIZE_BYTES, PUNCH);
  await file.sync();
  assert.deepEqual(await chunks(s, file), [1]);
  await file.sync();
  await file.write(10, pattern(10, 3));
  await file.sync();
  assert.deepEqual(await chunks(s, file), [0, 1], 'what is written after that is');
  await file.close();
});

story('a hole that another client has made stays one', async (s) => {
  const file = await writtenAndClosed(s);
  await file.write(10, pattern(10, 3));
  await file.write(CHUNK_SIZE_BYTES, pattern(10, 4));
  await file.flush();
  const theirs = await s.openAt('f', s.two);
  await theirs.allocate(0, CHUNK_SIZE_BYTES, PUNCH);
  await theirs.close();
  await file.sync();
  assert.deepEqual(await chunks(s, file), [1]);
  await file.close();
});

story('what another client has cut off does not come back', async (s) => {
  const file = await writtenAndClosed(s);
  await file.write(CHUNK_SIZE_BYTES, pattern(10, 4));
  await file.flush();
  await s.two.setAttributes(root, file.inode, { size: 1_000 });
  // Until then its lease is believed, and its servers have not heard that it is gone.
  await s.world.sleep(LEASE_TTL_MS + 15_000);
  await file.sync();
  assert.deepEqual(await chunks(s, file), [0]);
  await file.close();
});

story('P7: a write that found no space for its chunk is told once', async (s) => {
  const file = await s.create('f', pattern(1_000, 1));
  await file.truncate(21 * CHUNK_SIZE_BYTES);
  await file.sync();
  for (const name of s.world.chunkservers) s.world.disk(name).fill(0);
  // More than there are chunks that were made ahead.
  for (let index = 1; index <= 20; index++) await file.write(index * CHUNK_SIZE_BYTES, pattern(MIB, 2));
  await assert.rejects(file.sync(), { code: 'ENOSPC' });
  assert.ok((await chunks(s, file)).length < 21, 'some are holes');
  await file.sync();
  await file.sync();
  const other = (await s.one.open(root, file.inode, READ_WRITE)).file;
  await other.sync();
  await other.close();
  await file.close();
});

story(
  'P7: a chunk that lost something, which was told, and in place of which another client made a hole, fails no fsync',
  async (s) => {
    const file = await s.create('f', pattern(1_000, 1));
    await file.flush();
    await loseAll(s);
    await assert.rejects(file.sync(), { code: 'EIO' });
    await file.write(0, pattern(1_000, 2));
    await file.flush();
    const theirs = await s.openAt('f', s.two);
    await theirs.truncate(CHUNK_SIZE_BYTES);
    await theirs.allocate(0, CHUNK_SIZE_BYTES, PUNCH);
    await theirs.close();
    await file.write(0, pattern(1_000, 3));
    await file.sync();
    await file.write(0, pattern(1_000, 4));
    await file.flush();
    await loseAll(s);
    await assert.rejects(file.sync(), { code: 'EIO' }, 'it is told of what is lost after that');
    await file.close();
  },
);

for (const how of ['punched', 'copied from a hole'] as const) {
  story(
    `P1: zeros that another client had written just now are durable where they are ${how} and synced`,
    async (s) => {
      const bytes = pattern(256 * KIB, 1);
      await (await s.createAtRest('f', bytes)).close();
      const theirs = await s.openAt('f', s.two);
      await theirs.write(64 * KIB, Buffer.alloc(64 * KIB));
      await theirs.flush();
      const file = await s.openAt('f');
      if (how === 'punched') await file.allocate(64 * KIB, 64 * KIB, PUNCH);
      else {
        const hole = await s.create('hole');
        await hole.truncate(64 * KIB);
        await file.copyFrom(hole, 0, 64 * KIB, 64 * KIB);
      }
      await file.sync();
      await loseAll(s);
      equalBytes(await file.read(64 * KIB, 64 * KIB), Buffer.alloc(64 * KIB), 'after the power loss');
      await file.close();
    },
  );
}
