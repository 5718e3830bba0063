/**
 * P9, P2: a member that a recovery leaves out serves no reader any more when the writer is told that his bytes are
 * written, whatever keeps the master from it: readers with a chunk map of before go to the others.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { CHUNKSERVER_DEAD_MS } from '../../../../src/core/limits.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const SIZE = 200_000;
const before = pattern(SIZE, 1);
const after = pattern(SIZE, 2);

/** A file at rest on two servers, and the one that readers ask first. The second client knows where it is. */
async function fileAtRest(s: Story): Promise<{ file: OpenFile; first: string; other: string }> {
  const file = await s.createAtRest('f', before);
  const { handle, replicas } = await s.chunk(file);
  const names = replicas.map((replica) => replica.address.split(':')[0] ?? '');
  const [first, other] = [names[handle % 2] ?? assert.fail(), names[(handle + 1) % 2] ?? assert.fail()];
  await readsOf(s, before);
  return { file, first, other };
}

async function readsOf(s: Story, expected: Uint8Array): Promise<void> {
  const reader = await s.openAt('f', s.two);
  equalBytes(await reader.read(0, SIZE), expected, 'what the second client reads');
  await reader.close();
}

async function overwrite(s: Story, file: OpenFile): Promise<number> {
  const began = s.world.clock.nowUs;
  await file.write(0, after);
  await file.sync();
  return (s.world.clock.nowUs - began) / 1000;
}

async function staysNew(s: Story): Promise<void> {
  for (let round = 0; round < 20; round++) {
    await readsOf(s, after);
    await s.world.sleep(700);
  }
}

story('the disk of a member hangs, so that its replica cannot even be deleted', async (s) => {
  const { file, first } = await fileAtRest(s);
  s.world.disk(first).onCall = (label) => (label === 'chunk.sync' ? { delayUs: 200e6 } : undefined);
  const state = { done: false };
  const reading = (async () => {
    while (!state.done) {
      const reader = await s.openAt('f', s.two);
      await reader.read(0, SIZE);
      await reader.close();
      await s.world.sleep(3_000);
    }
  })();
  // The writer may be told that it took too long, and writes again.
  for (let attempts = 1, written = false; !written; attempts++) {
    try {
      await overwrite(s, file);
      written = true;
    } catch (error) {
      if (attempts === 3) throw error;
    }
  }
  state.done = true;
  await staysNew(s);
  await reading;
  s.world.disk(first).onCall = undefined;
  await s.world.sleep(240_000);
  await file.close();
  await s.check('f', after);
});

story('a member is cut off by resets from all but a reader', async (s) => {
  const { file, first } = await fileAtRest(s);
  for (const host of [MASTER, 'client-1', ...s.world.chunkservers]) {
    if (host === first) continue;
    s.world.network.partition(host, first);
    for (let i = 0; i < 4; i++) {
      s.world.network.breakConnection(host, first);
      s.world.network.breakConnection(first, host);
    }
  }
  await overwrite(s, file);
  await staysNew(s);
  s.world.network.healAll();
  await s.world.sleep(30_000);
  await file.close();
  await s.check('f', after);
});

story('a member is cut off from the others alone, and again and again from the master', async (s) => {
  const { file, first, other } = await fileAtRest(s);
  s.world.network.partition(other, first);
  s.world.network.partition('client-1', first);
  const state = { done: false };
  const breaking = (async () => {
    while (!state.done) {
      s.world.network.breakConnection(first, MASTER);
      await s.world.sleep(400);
    }
  })();
  await overwrite(s, file);
  await staysNew(s);
  state.done = true;
  await breaking;
  s.world.network.healAll();
  await s.world.sleep(60_000);
  await file.close();
  await s.check('f', after);
});

story('a member that was killed is back soon: the writer does not wait until it is taken for dead', async (s) => {
  const { file, first } = await fileAtRest(s);
  await s.world.kill(first);
  const returning = s.world.sleep(1_000).then(() => s.world.start(first));
  const tookMs = await overwrite(s, file);
  assert.ok(tookMs < CHUNKSERVER_DEAD_MS / 2, `took ${tookMs} ms`);
  await returning;
  await staysNew(s);
  await file.close();
  await s.check('f', after);
});
