/** P9: a server has two disks, and a copy that came to nothing is left on one of them, when the next one is made on the other. */
import assert from 'node:assert/strict';
import t from 'tap';
import { BRIEF_COPY_BYTES, LEASE_TTL_MS } from '../../../../src/core/limits.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const TWO_DISKS = { dataDirectories: 2, chunkservers: 3 } as const;
const VOLUMES = ['/data', '/data-2'] as const;
const REST_MS = LEASE_TTL_MS + 15_000;
const SIZE = 200_000;

const isEntrySync = (label: string, path: string): boolean => label === 'directory.sync' && /\/chunks\/..$/.test(path);

/** The server that has none of it. */
async function otherServer(s: Story, file: OpenFile): Promise<string> {
  const holders = await s.holders(file);
  return s.world.chunkservers.find((name) => !holders.includes(name)) ?? assert.fail();
}

/** One replica more is wanted. */
async function wantThree(s: Story): Promise<void> {
  await s.world.kill(MASTER);
  s.world.wantedReplicas = 3;
  await s.world.start(MASTER);
}

/** The file is written anew; then the server comes back with the first disk, and without the other one. Nobody reads what was before. */
async function comesBackWith(s: Story, server: string, first: string, file: OpenFile, size: number): Promise<void> {
  const { world } = s;
  const bytes = pattern(size, 2);
  await file.write(0, bytes);
  await file.sync();
  await world.sleep(REST_MS);
  await world.kill(server);
  world.disk(server).unmount(VOLUMES.find((volume) => volume !== first) ?? assert.fail());
  await world.start(server);
  await world.sleep(10_000);
  for (let i = 0; i < 8; i++) {
    const reader = await s.openAt('f', await world.connect(`reader-${i}`));
    equalBytes(await reader.read(0, size), bytes, `reader ${i}`);
    await reader.close();
  }
  await file.close();
}

story(
  'the disk of a copy fails in its last step',
  async (s) => {
    const { world } = s;
    const file = await s.createAtRest('f', pattern(SIZE, 1));
    const target = await otherServer(s, file);
    const disk = world.disk(target);
    let first: string | undefined;
    const failing = disk.plant(
      (label, path) => {
        first ??= VOLUMES.find((volume) => disk.files(`${volume}/chunks`).length > 0);
        return isEntrySync(label, path) && first !== undefined && path.startsWith(`${first}/`);
      },
      { failWith: 'EIO' },
    );
    await wantThree(s);
    await world.sleep(60_000);
    disk.lift(failing);
    assert.ok(failing.hits > 0);
    assert.ok((await s.holders(file)).includes(target), 'there is a copy on its other disk');
    await comesBackWith(s, target, first ?? '', file, SIZE);
  },
  TWO_DISKS,
);

story(
  'a copy comes too late, as the chunk was written meanwhile, and its disk does not let go of it',
  async (s) => {
    const { world } = s;
    const size = BRIEF_COPY_BYTES + 100_000;
    const file = await s.createAtRest('f', pattern(size, 1));
    const target = await otherServer(s, file);
    const disk = world.disk(target);
    const slow = disk.plant((label, path) => label === 'chunk.sync' && path.includes('/incoming/'), { delayUs: 1e6 });
    const copies = (): string[] => VOLUMES.flatMap((volume) => disk.files(`${volume}/chunks`));
    const stuck = disk.plant((label, path) => label === 'chunk.unlink' && copies().includes(path), {
      failWith: 'EROFS',
    });
    await wantThree(s);
    for (let seconds = 0; seconds < 300 && slow.hits === 0; seconds++) await world.sleep(100);
    await file.write(0, pattern(1_000, 3));
    await file.sync();
    for (let seconds = 0; seconds < 30 && copies().length === 0; seconds++) await world.sleep(1_000);
    const first = VOLUMES.find((volume) => copies()[0]?.startsWith(`${volume}/`)) ?? assert.fail();
    disk.lift(slow);
    await world.sleep(300_000);
    disk.lift(stuck);
    assert.ok((await s.holders(file)).includes(target), 'there is a copy on its other disk');
    await comesBackWith(s, target, first, file, size);
  },
  TWO_DISKS,
);
