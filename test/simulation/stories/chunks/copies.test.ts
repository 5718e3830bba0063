/** P9, P11: what becomes of copies that the master gave up or never heard of, and of what it wants deleted meanwhile. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { LEASE_TTL_MS, MIB } from '../../../../src/core/limits.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { root, story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const SIZE = 100_000;
const REST_MS = LEASE_TTL_MS + 15_000;
const fileOf = (handle: number): string => handle.toString(16).padStart(14, '0');

story('copies hang in the disk of their target until long after the master gave them up', async (s) => {
  const { world } = s;
  const [stays, leaves, target] = world.chunkservers;
  assert.ok(stays !== undefined && leaves !== undefined && target !== undefined);
  await world.powerOff(leaves);
  await world.kill(target);
  await world.sleep(12_000);
  const files: OpenFile[] = [];
  for (let i = 0; i < 24; i++) {
    const file = await s.create(`f${i}`, pattern(SIZE, i));
    await file.sync();
    files.push(file);
  }
  await world.sleep(REST_MS);
  const releaseUs = world.clock.nowUs + 20e6;
  world.disk(target).onCall = (label, path) => {
    if (label !== 'chunk.sync' || !path.includes('/incoming/') || world.clock.nowUs >= releaseUs) return undefined;
    return { delayUs: releaseUs - world.clock.nowUs + world.random.below(3_000_000) };
  };
  await world.start(target);
  await world.sleep(1_000);
  await Promise.all(
    files.map(async (file, i) => {
      await file.write(0, pattern(SIZE, 100 + i));
      await file.sync();
    }),
  );
  await world.sleep(120_000);
  world.disk(target).onCall = undefined;
  for (const file of files) assert.deepEqual(await s.holders(file), [stays, target].sort());
  const kept = world.disk(target).files('/data/chunks');
  assert.equal(kept.length, files.length, 'none is left over');
  await world.kill(stays);
  const reader = await world.connect('client-3');
  for (const [i, { inode }] of files.entries()) {
    const { file } = await reader.open(root, inode, { read: true, write: false });
    equalBytes(await file.read(0, SIZE), pattern(SIZE, 100 + i), `f${i} at the target`);
    await file.close();
  }
});

story('a server deletes what its report named while it is made a member of another chunk', async (s) => {
  const { world } = s;
  const [stays, leaves, returns] = world.chunkservers;
  assert.ok(stays !== undefined && leaves !== undefined && returns !== undefined);
  const old = Array.from({ length: 60 }, (_, i) => `old-${i}`);
  await world.powerOff(leaves);
  await world.sleep(12_000);
  for (const name of old) {
    const file = await s.create(name, pattern(1_000, 1));
    await file.close();
  }
  await world.sleep(REST_MS);
  await world.kill(returns);
  await world.sleep(12_000);
  const bytes = pattern(SIZE, 7);
  const file = await s.create('precious', bytes);
  await file.sync();
  await world.sleep(REST_MS);
  const { handle } = await s.chunk(file);
  const copyOf = (): string | undefined =>
    world
      .disk(returns)
      .files('/data/chunks')
      .find((path) => path.includes(fileOf(handle)));
  // It makes a copy, and dies before the master hears of it.
  world.disk(returns).onCall = (label, path) => {
    if (label === 'chunk.rename' && path.includes(fileOf(handle))) world.network.partition(returns, MASTER, true);
    return undefined;
  };
  await world.start(returns);
  while (copyOf() === undefined) await world.sleep(50);
  await world.sleep(200);
  world.disk(returns).onCall = undefined;
  world.network.breakConnection(returns, MASTER);
  await world.kill(returns);
  world.network.heal(returns, MASTER);
  for (const name of old) await s.one.unlink(root, ROOT_INODE, Buffer.from(name));
  await world.sleep(40_000);
  world.disk(returns).onCall = (label) => (label === 'chunk.unlink' ? { delayUs: 100_000 } : undefined);
  await world.start(returns);
  await world.sleep(60_000);
  world.disk(returns).onCall = undefined;
  assert.deepEqual(await s.holders(file), [stays, returns].sort());
  assert.notEqual(copyOf(), undefined, 'a member has its replica');
  await world.kill(stays);
  const reader = await world.connect('client-3');
  const again = (await reader.open(root, file.inode, { read: true, write: false })).file;
  equalBytes(await again.read(0, SIZE), bytes, 'at the server that came back');
});

story(
  'P3: a copy that came to nothing is not taken for the chunk when what was written since is lost',
  async (s) => {
    const { world } = s;
    const size = 6 * MIB;
    const file = await s.create('f', pattern(size, 1));
    await file.sync();
    await world.sleep(75_000);
    const [only] = await s.holders(file);
    const other = world.chunkservers.find((name) => name !== only);
    assert.ok(only !== undefined && other !== undefined);
    await world.kill(MASTER);
    world.wantedReplicas = 2;
    await world.start(MASTER);
    world.network.slow(only, other, 300);
    while (world.disk(other).files('/data/incoming').length === 0) await world.sleep(100);
    // Beside the copy, which is of no use then.
    await file.write(0, pattern(100_000, 2));
    await file.sync();
    await file.close();
    while (world.disk(other).files('/data/chunks').length === 0) await world.sleep(20);
    await world.kill(other);
    assert.deepEqual(await s.holders(file), [only]);
    await world.kill(only);
    for (const path of world.disk(only).files('/data/chunks')) world.disk(only).remove(path);
    await world.start(only);
    await world.sleep(10_000);
    await world.start(other);
    await world.sleep(30_000);
    const reader = await s.openAt('f', s.two);
    await assert.rejects(reader.read(0, 100), { code: 'EIO' });
    await reader.close();
  },
  { chunkservers: 2, wantedReplicas: 1 },
);

story(
  'P9: a copy that is given up while its target deletes what was there before does not come to be there',
  async (s) => {
    const { world } = s;
    const [target = ''] = world.chunkservers;
    const disk = world.disk(target);
    const file = await s.create('f', pattern(SIZE, 1));
    await file.sync();
    await world.kill(target);
    await file.write(0, pattern(SIZE, 2));
    await file.sync();
    await file.close();
    await world.sleep(REST_MS);
    let isWhole = false;
    let isCut = false;
    disk.onCall = (label, path) => {
      if (label === 'chunk.sync' && path.includes('/incoming/')) isWhole = true;
      if (label !== 'chunk.unlink' || !isWhole) return undefined;
      isCut = true;
      return { delayUs: 3e6 };
    };
    // The copy comes before the members are read to delete what is old.
    for (const member of world.chunkservers) {
      if (member !== target)
        world.disk(member).onCall = (label) => (label === 'chunk.read' ? { delayUs: 2e6 } : undefined);
    }
    await world.start(target);
    while (!isCut) await world.sleep(10);
    for (const member of world.chunkservers) if (member !== target) world.disk(member).onCall = undefined;
    await world.sleep(500);
    world.network.partition(target, MASTER);
    world.network.breakConnection(target, MASTER);
    await world.sleep(3_500);
    await s.check('f', pattern(SIZE, 2));
    disk.onCall = undefined;
    world.network.heal(target, MASTER);
    await world.sleep(120_000);
    await s.check('f', pattern(SIZE, 2));
  },
  { wantedReplicas: 3 },
);
