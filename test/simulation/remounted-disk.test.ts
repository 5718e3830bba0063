/**
 * P1: the file system of a data directory fails, the chunkserver ends, and the file system is unmounted and mounted again. What was
 * not synced is gone, and the machine has not booted.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { asCairnError } from '../../src/core/errors.js';
import { KIB } from '../../src/core/limits.js';
import type { OpenFile } from '../../src/filesystem/filesystem.js';
import { pattern } from '../conformance/case.js';
import { story } from './story.js';
import type { Story } from './story.js';

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
    const code = await file.sync().then(
      () => 'success',
      (error: unknown) => asCairnError(error).code,
    );
    assert.equal(code, 'EIO');
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
