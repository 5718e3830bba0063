/** P1: what a chunkserver finds wrong with a replica the master learns, whenever it is found: nobody else would ask for long. */
import assert from 'node:assert/strict';
import t from 'tap';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { pattern } from '../../../conformance/case.js';
import { Inspector } from '../../world/inspector.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';

t.setTimeout(0);

const SIZE = 200_000;
const content = pattern(SIZE, 1);

const hostOf = ({ address }: { readonly address: string }): string => address.split(':')[0] ?? '';

/** A file at rest, and who has its chunk; a recovery begins at the first of them. */
async function atRest(s: Story): Promise<{ file: OpenFile; first: string; second: string }> {
  const file = await s.createAtRest('f', content);
  const [first, second] = (await s.chunk(file)).replicas.map(hostOf);
  assert.ok(first !== undefined && second !== undefined);
  return { file, first, second };
}

/** Nobody reads or writes it meanwhile. */
async function hasTwoReplicas(s: Story, file: OpenFile): Promise<void> {
  const inspector = await Inspector.connect(s.world);
  assert.deepEqual(await inspector.missingReplicas(s.two, [{ path: 'f', inode: file.inode, size: SIZE }]), []);
  inspector.close();
}

story('an error at a replica that has its new version, before the master knows of that version', async (s) => {
  const { world } = s;
  const { file, first, second } = await atRest(s);
  await file.write(0, content.subarray(0, 10));
  await file.flush();
  const before = await s.chunk(file);
  // The first one takes the version last, and long.
  const slow = world
    .disk(first)
    .plant((label) => label === 'chunk.sync' || label === 'directory.sync', { delayUs: 7.6e6 });
  world.network.breakConnection(second, 'master');
  await world.sleep(1_000);
  const failing = world.disk(second).plant((label) => label === 'chunk.peek', { failWith: 'EIO' });
  for (let seconds = 0; seconds < 21 && failing.hits === 0; seconds++) await world.sleep(1_000);
  assert.ok(failing.hits > 0);
  assert.equal((await s.chunk(file)).version, before.version, 'not recovered yet');
  world.disk(second).lift(failing);
  world.disk(first).lift(slow);
  await world.sleep(120_000);
  await hasTwoReplicas(s, file);
  await file.close();
});

for (const [what, isRotten] of [
  ['has rotted', true],
  ['cannot be read', false],
] as const) {
  story(`a header that ${what}, which a start comes to when it has reported all`, async (s) => {
    const { world } = s;
    const { file, second } = await atRest(s);
    const disk = world.disk(second);
    await world.kill(second);
    const [path = ''] = disk.files('/data/chunks');
    if (isRotten) disk.corrupt(path, 0, Buffer.alloc(4096));
    const slow = disk.plant((label) => label === 'chunk.peek', {
      delayUs: 3e6,
      ...(isRotten ? {} : { failWith: 'EIO' }),
    });
    await world.start(second);
    await world.sleep(5_000);
    assert.ok(slow.hits > 0);
    disk.lift(slow);
    await world.sleep(120_000);
    await hasTwoReplicas(s, file);
    await file.close();
  });
}
