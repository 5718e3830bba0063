/**
 * P1: the file system of a data directory fails, the chunkserver ends, and the file system is unmounted and mounted again. What was
 * not synced is gone, and the machine has not booted.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { asCairnError } from '../../../../src/core/errors.js';
import { KIB } from '../../../../src/core/limits.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { pattern } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';

t.setTimeout(0);

const LENGTH = 200 * KIB;
const synced = pattern(LENGTH, 1);
const later = pattern(LENGTH, 2);

/** A file whose second content is on its chunkservers, and on no disk. */
async function unsyncedFile(s: Story): Promise<OpenFile> {
  const file = await s.create('f', synced);
  await file.sync();
  await file.write(0, later);
  await file.flush();
  return file;
}

const syncCode = (file: OpenFile): Promise<string> =>
  file.sync().then(
    () => 'success',
    (error: unknown) => asCairnError(error).code,
  );

const isData = (path: string): boolean => path.startsWith('/data');

/** Meets the failure, and ends; what was not synced is gone. */
async function failAndRemount(s: Story, names: readonly string[], when: 'running' | 'at its start'): Promise<void> {
  const { world } = s;
  const failing = names.map((name) => world.disk(name).plant((_, path) => isData(path), { failWith: 'EIO' }));
  if (when === 'running') await world.sleep(12_000);
  for (const name of names) await world.kill(name);
  if (when === 'at its start') for (const name of names) assert.ok(!(await world.tryStart(name)), 'it does not start');
  let lost = 0;
  for (const name of names) {
    for (const fault of failing) world.disk(name).lift(fault);
    lost += world.disk(name).remount('/data', 'nothing');
    await world.start(name);
  }
  assert.ok(lost > 0, 'something is lost');
  await world.sleep(5_000);
}

for (const when of ['running', 'at its start'] as const) {
  story(`a replica that was not synced is not believed after a remount: it failed ${when}`, async (s) => {
    const file = await unsyncedFile(s);
    const [victim = ''] = await s.holders(file);
    await failAndRemount(s, [victim], when);
    await file.sync();
    await file.close();
    await s.world.sleep(60_000);
    for (const name of s.world.chunkservers)
      assert.equal(s.world.notes(name).notes.size, 0, `the note of ${name} is gone`);
    await s.check('f', later);
  });

  story(`P1: an fsync of what a remount lost everywhere fails: it failed ${when}`, async (s) => {
    const file = await unsyncedFile(s);
    await failAndRemount(s, s.world.chunkservers, when);
    assert.equal(await syncCode(file), 'EIO');
    await file.write(0, later);
    await file.sync();
    await file.close();
    await s.world.sleep(60_000);
    await s.check('f', later);
  });
}

story('a disk that failed at one file and passes its probe is as it was', async (s) => {
  const file = await unsyncedFile(s);
  const [victim = ''] = await s.holders(file);
  const disk = s.world.disk(victim);
  const failing = disk.plant((label, path) => label === 'chunk.sync' && isData(path), { failWith: 'EIO' });
  await file.sync();
  assert.ok(failing.hits > 0);
  disk.lift(failing);
  await s.world.sleep(15_000);
  assert.equal(s.world.notes(victim).notes.size, 0, 'no note is left');
  await file.close();
  await s.check('f', later);
});

story('P1: the start that failed is followed by one on the empty mount point', async (s) => {
  const { world } = s;
  const file = await unsyncedFile(s);
  let lost = 0;
  for (const name of world.chunkservers) {
    const disk = world.disk(name);
    await world.kill(name);
    const failing = disk.plant((_, path) => isData(path), { failWith: 'EIO' });
    assert.ok(!(await world.tryStart(name)));
    disk.lift(failing);
    lost += disk.remount('/data', 'nothing');
    disk.unmount('/data');
    await world.start(name);
    await world.sleep(5_000);
    await world.kill(name);
    disk.mount('/data');
  }
  assert.ok(lost > 0, 'something is lost');
  for (const name of world.chunkservers) await world.start(name);
  await world.sleep(5_000);
  assert.equal(await syncCode(file), 'EIO');
});

for (const change of ['they change places', 'it hung at that start, and fails later'] as const) {
  story(
    `P1: of two disks one fails at a start: ${change}`,
    async (s) => {
      const { world } = s;
      const file = await unsyncedFile(s);
      for (const name of world.chunkservers) await world.kill(name);
      for (const name of world.chunkservers) {
        const disk = world.disk(name);
        const swap = change === 'they change places';
        const isSession = (label: string, path: string): boolean => label === 'directory.session' && path === '/data';
        const failing = disk.plant((label, path) => (swap ? path.startsWith('/data/') : isSession(label, path)), {
          ...(swap ? { failWith: 'EIO' } : { hangs: true }),
        });
        await world.start(name);
        assert.ok(failing.hits > 0);
        disk.lift(failing);
        await world.sleep(1_000);
        await world.kill(name);
        disk.remount('/data', 'nothing');
        if (!swap) continue;
        disk.unmount('/data');
        disk.unmount('/data-2');
        disk.mount('/data', '/data-2');
        disk.mount('/data-2', '/data');
      }
      for (const name of world.chunkservers) await world.start(name);
      await world.sleep(5_000);
      const code = await syncCode(file);
      // It may be on the other disk. If they change places, both are doubted: one by its id, the other by its path.
      const isThere = Buffer.from(later).equals(await (await s.openAt('f', s.two)).read(0, LENGTH));
      assert.equal(code, isThere && change !== 'they change places' ? 'success' : 'EIO');
    },
    { dataDirectories: 2 },
  );
}

for (const how of ['mounted again', 'without power'] as const) {
  for (const until of ['looked at all', 'mended all'] as const) {
    story(`P1: all were ${how}, and the next start is killed before it has ${until}`, async (s) => {
      const { world } = s;
      for (let i = 0; i < 40; i++) await s.create(`other ${i}`, synced);
      const file = await unsyncedFile(s);
      for (const name of world.chunkservers) {
        const disk = world.disk(name);
        if (how === 'without power') {
          await world.powerOff(name, 'nothing');
          world.network.hostUp(name);
        } else {
          const failing = disk.plant((_, path) => isData(path), { failWith: 'EIO' });
          await world.kill(name);
          assert.ok(!(await world.tryStart(name)));
          disk.lift(failing);
          disk.remount('/data', 'nothing');
        }
      }
      // Two of them mend what is on both.
      for (const name of world.chunkservers) {
        const disk = world.disk(name);
        const slow =
          until === 'looked at all' ? disk.plant((label) => label === 'chunk.peek', { delayUs: 400_000 }) : undefined;
        const started = world.start(name);
        if (until === 'mended all') await started;
        await world.sleep(250);
        await world.kill(name);
        await started;
        // Those of the next start are so in each case, as where there are many.
        if (slow === undefined) disk.plant((label) => label === 'chunk.peek', { delayUs: 400_000 });
      }
      for (const name of world.chunkservers) world.background(() => world.start(name));
      await world.sleep(500);
      assert.equal(await syncCode(file), 'EIO');
    });
  }
}

story('a disk without space does not fail: an fsync after a kill everywhere succeeds', async (s) => {
  const { world } = s;
  const file = await unsyncedFile(s);
  const full = world.chunkservers.map((name) =>
    // As where each write over a file needs room.
    world.disk(name).plant((label) => ['directory.probe', 'directory.session'].includes(label), { failWith: 'ENOSPC' }),
  );
  await world.sleep(12_000);
  assert.ok(full.every(({ hits }) => hits > 0));
  for (const name of world.chunkservers) await world.kill(name);
  for (const [index, name] of world.chunkservers.entries()) {
    for (const fault of full.slice(index, index + 1)) world.disk(name).lift(fault);
    await world.start(name);
  }
  await world.sleep(5_000);
  assert.equal(await syncCode(file), 'success');
  await file.close();
  await s.check('f', later);
});
