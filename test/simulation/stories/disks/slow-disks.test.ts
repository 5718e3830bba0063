/** Disks on which what was given up is done later, or in part: what they hold then must not be taken for what the chunk is. */
import assert from 'node:assert/strict';
import t from 'tap';
import type { DiskLabel } from '../../../../src/core/disk/disk.js';
import { BLOCK_SIZE_BYTES, LEASE_TTL_MS, MIB } from '../../../../src/core/limits.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { Inspector } from '../../world/inspector.js';
import type { DiskFault } from '../../machine/simulated-disk.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const hostOf = ({ address }: { readonly address: string }): string => address.split(':')[0] ?? '';

/** A file at rest, and who has its chunk; a recovery begins at the first of them. */
async function atRest(s: Story, size: number): Promise<{ file: OpenFile; first: string; second: string }> {
  const file = await s.createAtRest('f', pattern(size, 1));
  const [first, second] = (await s.chunk(file)).replicas.map(hostOf);
  assert.ok(first !== undefined && second !== undefined);
  return { file, first, second };
}

story('P9: a replica that was left out while it took a lease serves nobody when that comes to its end', async (s) => {
  const { world } = s;
  const size = 2 * BLOCK_SIZE_BYTES;
  const { file, first, second } = await atRest(s, 3 * BLOCK_SIZE_BYTES);
  const before = await s.chunk(file);
  // The next lease makes the cut, which takes three calls there.
  await file.truncate(size);
  world.disk(second).plant((label) => label === 'chunk.sync' || label === 'chunk.truncate', { delayUs: 7e6 });
  // Its replica is kept until the other one was read.
  world.disk(first).plant((label) => label === 'chunk.read', { delayUs: 2e6 });
  const inspector = await Inspector.connect(world);
  const began = world.clock.nowUs;
  await file.write(0, pattern(size, 2));
  await file.sync();
  assert.deepEqual(await s.holders(file), [first]);
  const tookMs = (world.clock.nowUs - began) / 1000;
  assert.ok(tookMs < 21_000, `the writer waited for ${tookMs} ms`);
  await world.sleep(21_100 - tookMs);
  assert.ok(world.disk(second).files('/data/chunks').length > 0, 'it is there');
  assert.equal(await inspector.read(`${second}:7000`, before), 'STALE_VERSION');
  inspector.close();
  await file.close();
  await world.sleep(120_000);
  await s.check('f', pattern(size, 2));
});

story('P9: nor does one that its report found to be left out meanwhile', async (s) => {
  const { world } = s;
  const size = 2 * BLOCK_SIZE_BYTES;
  const { file, first, second } = await atRest(s, 3 * BLOCK_SIZE_BYTES);
  const before = await s.chunk(file);
  await file.truncate(size);
  const slow = world
    .disk(second)
    .plant((label) => label === 'chunk.sync' || label === 'chunk.truncate', { delayUs: 7.5e6 });
  // Its replica is kept until the other one was read.
  const reads = world.disk(first).plant((label) => label === 'chunk.read', { delayUs: 7.5e6 });
  const inspector = await Inspector.connect(world);
  const written = file.write(0, pattern(size, 2)).then(() => file.sync());
  await world.sleep(1_000);
  assert.ok(slow.hits > 0, 'it takes the lease');
  world.network.partition(MASTER, second);
  for (const host of [MASTER, second]) world.network.breakConnection(host, host === second ? MASTER : second);
  await world.sleep(16_000);
  assert.deepEqual(await s.holders(file), [first]);
  world.network.heal(MASTER, second);
  await world.sleep(7_000);
  assert.equal(slow.hits, 3, 'it has taken the lease');
  await world.sleep(500);
  assert.ok(world.disk(second).files('/data/chunks').length > 0, 'it is there');
  assert.equal(await inspector.read(`${second}:7000`, before), 'STALE_VERSION');
  inspector.close();
  world.disk(first).lift(reads);
  world.disk(second).lift(slow);
  await written;
  await file.close();
  await world.sleep(120_000);
  await s.check('f', pattern(size, 2));
});

const UNHEARD: readonly (readonly [how: string, fault: DiskFault, isCopyAway: boolean])[] = [
  ['whose directory failed', { failWith: 'EIO' }, false],
  ['whose disk hung', { hangs: true }, false],
  ['whose disk hung, and the copy is not there,', { hangs: true }, true],
];

for (const [how, fault, isCopyAway] of UNHEARD) {
  story(
    `P1: a replica ${how} while it was recovered is not taken for the copy that was made in its place`,
    async (s) => {
      const { world } = s;
      const size = 100_000;
      const { file, first, second } = await atRest(s, size);
      const third = world.chunkservers.find((name) => name !== first && name !== second) ?? assert.fail();
      await world.kill(third);
      const disk = world.disk(second);
      const volume = world.dataDirectories.find((path) => disk.files(`${path}/chunks`).length > 0) ?? assert.fail();
      const other = world.dataDirectories.find((path) => path !== volume) ?? assert.fail();
      await file.write(0, pattern(10, 2));
      // A recovery, whose new version is on that disk, and which nobody hears of.
      const isEntry = (label: DiskLabel, path: string): boolean =>
        label === 'directory.sync' && path.startsWith(`${volume}/chunks/`);
      const planted = disk.plant(isEntry, fault);
      await world.kill(second);
      await world.start(second);
      await file.write(0, pattern(size, 3));
      await file.sync();
      assert.deepEqual(await s.holders(file), [first]);
      disk.fill(100 * MIB, volume);
      await world.sleep(25_000);
      disk.lift(planted);
      while ((await s.holders(file)).length < 2) await world.sleep(1_000);
      assert.equal(disk.files(`${volume}/chunks`).length, 1);
      await file.write(0, pattern(size, 4));
      await file.sync();
      await file.close();
      await world.kill(second);
      await world.kill(first);
      disk.makeRoom();
      if (isCopyAway) disk.unmount(other);
      await world.start(second);
      await world.sleep(30_000);
      const reader = await s.openAt('f', await world.connect('client-3'));
      if (isCopyAway) {
        await assert.rejects(reader.read(0, size), { code: 'EIO' });
        await world.start(first);
        await world.sleep(10_000);
      }
      equalBytes(await reader.read(0, size), pattern(size, 4), 'what was synced last');
      await reader.close();
    },
    { dataDirectories: 2 },
  );
}

story('a writer does not wait for the deletion of a replica that nobody needs', async (s) => {
  const { world } = s;
  const size = 100_000;
  const { file, second } = await atRest(s, size);
  await world.kill(second);
  await file.write(0, pattern(size, 2));
  await file.sync();
  await world.sleep(LEASE_TTL_MS + 30_000);
  const slow = world.disk(second).plant((label) => label === 'chunk.unlink', { delayUs: 7e6 });
  await world.start(second);
  while (slow.hits === 0) await world.sleep(20);
  const began = world.clock.nowUs;
  await file.write(0, pattern(size, 3));
  await file.sync();
  const took = (world.clock.nowUs - began) / 1e6;
  assert.ok(took < 3, `the writer waited for ${took} s`);
  await file.close();
  await world.sleep(LEASE_TTL_MS + 30_000);
  assert.equal(world.disk(second).files('/data/chunks').length, 0);
  await s.check('f', pattern(size, 3));
});
