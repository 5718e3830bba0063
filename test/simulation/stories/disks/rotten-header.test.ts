/** P1: the header of a chunk's file has rotted, both of its slots, and the bytes behind it are whole: they are not given up for that. */
import assert from 'node:assert/strict';
import t from 'tap';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { BLOCK_SIZE_BYTES, LEASE_TTL_MS } from '../../../../src/core/limits.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';

t.setTimeout(0);

const SIZE = 200_000;
const REST_MS = LEASE_TTL_MS + 15_000;
const bytes = pattern(SIZE, 1);

async function fileOf(s: Story, server: string, file: OpenFile): Promise<string> {
  const { handle } = await s.chunk(file);
  const name = handle.toString(16).padStart(14, '0');
  const paths = s.world.disk(server).files('/data/chunks');
  return paths.find((path) => path.includes(name)) ?? assert.fail(`${server} has no file of chunk ${handle}`);
}

async function rotHeader(s: Story, server: string, file: OpenFile): Promise<void> {
  s.world.disk(server).corrupt(await fileOf(s, server, file), 0, Buffer.alloc(4096, 7));
}

async function readAnew(s: Story, content = bytes): Promise<void> {
  const reader = await s.openAt('f', await s.world.connect(`reader-${s.world.clock.nowUs}`));
  equalBytes(await reader.read(0, content.length), content, 'read anew');
  await reader.close();
}

/** Its processes are killed, or its machine lost power. */
for (const [what, goesDown, comesBack] of [
  ['is killed', 'kill', 'start'],
  ['loses power', 'powerOff', 'powerOn'],
] as const) {
  story(`a server ${what}, and the disk of the other one is lost`, async (s) => {
    const { world } = s;
    const file = await s.createAtRest('f', bytes);
    const [rotten = '', lost = ''] = await s.holders(file);
    await world[goesDown](rotten);
    await rotHeader(s, rotten, file);
    await world.kill(lost);
    world.disk(lost).format('/data');
    await world[comesBack](rotten);
    await world.start(lost);
    await world.sleep(120_000);
    await readAnew(s);
    const content = pattern(SIZE, 2);
    await file.write(0, content);
    await file.sync();
    await world.sleep(REST_MS);
    await world.powerOff(rotten);
    await world.powerOn(rotten);
    await world.sleep(60_000);
    await s.check('f', content);
    await file.close();
  });
}

story(
  'the only replica, at rest and while it is written, is found by a probe',
  async (s) => {
    const { world } = s;
    const file = await s.createAtRest('f', bytes);
    const [holder = ''] = await s.holders(file);
    await rotHeader(s, holder, file);
    await world.sleep(120_000);
    await readAnew(s);
    const content = Buffer.from(bytes);
    for (let i = 0; i < 60; i++) {
      if (i === 10) await rotHeader(s, holder, file);
      content.fill(i, i * 1_000, i * 1_000 + 1_000);
      await file.write(i * 1_000, content.subarray(i * 1_000, i * 1_000 + 1_000));
      await file.sync();
      await world.sleep(1_000);
    }
    await world.kill(holder);
    await world.start(holder);
    await world.sleep(60_000);
    await readAnew(s, content);
    await file.close();
  },
  { chunkservers: 2, wantedReplicas: 1 },
);

story(
  'P3: a block has rotted as well, and does not pass for one that was being written',
  async (s) => {
    const { world } = s;
    const file = await s.createAtRest('f', bytes);
    const [holder = ''] = await s.holders(file);
    await world.kill(holder);
    const path = await fileOf(s, holder, file);
    await rotHeader(s, holder, file);
    world.disk(holder).corrupt(path, 16_384 + BLOCK_SIZE_BYTES + 100, Buffer.from('rot'));
    await world.start(holder);
    await world.sleep(120_000);
    const reader = await s.openAt('f', s.two);
    equalBytes(await reader.read(0, BLOCK_SIZE_BYTES), bytes.subarray(0, BLOCK_SIZE_BYTES), 'a sound block');
    await assert.rejects(reader.read(BLOCK_SIZE_BYTES, 1_000), { code: 'EIO' });
    await reader.close();
    await file.close();
  },
  { chunkservers: 2, wantedReplicas: 1 },
);

story(
  'the newer header has rotted, and the older one is of before a recovery',
  async (s) => {
    const { world } = s;
    const file = await s.create('f', bytes);
    await file.sync();
    const [holder = ''] = await s.holders(file);
    await world.kill(holder);
    await world.start(holder);
    await world.sleep(REST_MS);
    const { version } = await s.chunk(file);
    assert.ok(version > 1, 'recovered');
    const path = await fileOf(s, holder, file);
    await world.kill(holder);
    const disk = world.disk(holder);
    const generationAt = (offset: number): bigint => disk.content(path).readBigUInt64LE(offset + 32);
    disk.corrupt(path, generationAt(0) > generationAt(2048) ? 0 : 2048, Buffer.alloc(128, 7));
    await world.start(holder);
    await world.sleep(60_000);
    await readAnew(s);
    await file.close();
  },
  { chunkservers: 2, wantedReplicas: 1 },
);
