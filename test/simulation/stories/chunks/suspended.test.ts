/**
 * P9, P2: the machine of a chunkserver is suspended, and does not know it when it goes on: its monotonic clock stood still.
 * Readers know more of the master's time than it can, so it serves none of them what was overwritten meanwhile.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import type { ClusterFileSystem } from '../../../../src/client/cluster-filesystem.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const SIZE = 200_000;
const before = pattern(SIZE, 1);
const after = pattern(SIZE, 2);
const SLEEP_MS = 25_000;

/** A file at rest, and the server that the second client asks first: it knows where the file is. */
async function fileAtRest(s: Story): Promise<{ file: OpenFile; first: string }> {
  const file = await s.createAtRest('f', before);
  const { handle, replicas } = await s.chunk(file);
  await readsOf(s, before);
  return { file, first: replicas[handle % 2]?.address.split(':')[0] ?? assert.fail('two replicas were wanted') };
}

async function readsOf(s: Story, expected: Uint8Array, fs = s.two): Promise<void> {
  const reader = await s.openAt('f', fs);
  equalBytes(await reader.read(0, SIZE), expected, 'what the second client reads');
  await reader.close();
}

/** The file is written anew while `first` sleeps, which then goes on. */
async function sleepsThrough(s: Story, file: OpenFile, first: string, meanwhile = async () => {}): Promise<void> {
  s.world.freeze(first, 'suspended');
  const awake = s.world.sleep(SLEEP_MS);
  await meanwhile();
  await file.write(0, after);
  await file.sync();
  await awake;
  s.world.thaw(first);
}

async function isWellAgain(s: Story, file: OpenFile): Promise<void> {
  await s.world.sleep(60_000);
  await file.close();
  await s.check('f', after);
}

story('a reader with a chunk map of before opens the file at once', async (s) => {
  const { file, first } = await fileAtRest(s);
  await sleepsThrough(s, file, first);
  for (let round = 0; round < 40; round++) {
    await readsOf(s, after);
    await s.world.sleep(30);
  }
  await isWellAgain(s, file);
});

story('the master was restarted meanwhile', async (s) => {
  const { file, first } = await fileAtRest(s);
  await sleepsThrough(s, file, first, async () => {
    await s.world.kill(MASTER);
    await s.world.sleep(300);
    await s.world.start(MASTER);
    await s.world.sleep(5_000);
  });
  for (let round = 0; round < 40; round++) {
    await readsOf(s, after);
    await s.world.sleep(30);
  }
  await isWellAgain(s, file);
});

async function readsOften(s: Story, expected: Uint8Array, everyMs: number): Promise<void> {
  for (let round = 0; round < 40; round++) {
    await readsOf(s, expected);
    await s.world.sleep(everyMs);
  }
}

story('the master is restarted after the write, and cannot be reached by who slept', async (s) => {
  const { network } = s.world;
  const { file, first } = await fileAtRest(s);
  await sleepsThrough(s, file, first, async () => network.partition(MASTER, first));
  await s.world.kill(MASTER);
  await s.world.start(MASTER);
  await readsOften(s, after, 30);
  network.heal(MASTER, first);
  await isWellAgain(s, file);
});

story('who slept has joined again, and its report takes long', async (s) => {
  const { network } = s.world;
  const { file, first } = await fileAtRest(s);
  // Each learns by its first read where the file is now.
  const readers: ClusterFileSystem[] = [];
  for (let number = 3; number < 23; number++) {
    readers.push(await s.world.connect(`client-${number}`));
    await readsOf(s, before, readers.at(-1));
  }
  await sleepsThrough(s, file, first, async () => {
    network.slow(MASTER, first, 1_000);
    // It has been given up before anybody writes, so it is asked for nothing.
    await s.world.sleep(12_000);
  });
  for (const reader of readers) {
    await readsOf(s, after, reader);
    await s.world.sleep(200);
  }
  network.heal(MASTER, first);
  await isWellAgain(s, file);
});

story('a copy on the chunkservers reads the file', async (s) => {
  const { file, first } = await fileAtRest(s);
  const target = await s.create('g', undefined, s.two);
  await target.write(0, pattern(1_000, 3));
  await target.sync();
  await sleepsThrough(s, file, first);
  const source = await s.openAt('f', s.two);
  assert.equal(await target.copyFrom(source, 0, 0, SIZE), SIZE);
  equalBytes(await target.read(0, SIZE), after, 'what was copied');
  await source.close();
  await target.close();
  await isWellAgain(s, file);
});
