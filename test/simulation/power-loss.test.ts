/** Power loss at every replica of a chunk that was not synced, told as stories (docs/failure-model.md). */
import assert from 'node:assert/strict';
import t from 'tap';
import { asCairnError } from '../../src/core/errors.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { KIB } from '../../src/core/limits.js';
import type { OpenFile } from '../../src/client/filesystem.js';
import { equalBytes, pattern } from '../conformance/case.js';
import { root, story } from './story.js';
import type { Story } from './story.js';
import { MASTER } from './world.js';

t.setTimeout(0);

const LENGTH = 200 * KIB;
const BLOCK = 64 * KIB;

/** Fails with EIO, and within the time that a healthy cluster answers in. */
async function failsSoon(s: Story, what: string, action: () => Promise<unknown>): Promise<void> {
  const began = s.world.clock.nowUs;
  const code = await action().then(
    () => 'success',
    (error: unknown) => asCairnError(error).code,
  );
  assert.equal(code, 'EIO', what);
  const tookMs = (s.world.clock.nowUs - began) / 1000;
  assert.ok(tookMs < 5000, `${what} took ${tookMs} ms`);
}

/** All of these go down at once, lose all that was not synced, and come back. */
async function powerCycle(s: Story, names: readonly string[]): Promise<void> {
  for (const name of names) await s.world.powerOff(name, 'nothing');
  await s.world.sleep(2000);
  for (const name of names) await s.world.powerOn(name);
  await s.world.sleep(5000);
}

/** A file whose size is published and durable, and whose chunk went with the power. */
async function lostFile(s: Story): Promise<OpenFile> {
  const file = await s.create('f', pattern(LENGTH, 1));
  await file.close();
  await s.one.syncMetadata();
  await powerCycle(s, s.world.chunkservers);
  return s.openAt('f', s.two);
}

story('P3: a chunk that was lost before it was ever synced is EIO at once, never zeros', async (s) => {
  const file = await lostFile(s);
  assert.equal((await file.attributes()).size, LENGTH);
  await failsSoon(s, 'read', () => file.read(0, LENGTH));
  await file.close();
  await s.two.unlink(root, ROOT_INODE, Buffer.from('f'));
});

story('P3: written anew, a lost chunk is good again, block by block', async (s) => {
  const file = await lostFile(s);
  const newer = pattern(LENGTH, 2);
  await file.write(BLOCK, newer.subarray(BLOCK, 2 * BLOCK));
  await file.sync();
  equalBytes(await file.read(BLOCK, BLOCK), newer.subarray(BLOCK, 2 * BLOCK), 'the block written');
  await failsSoon(s, 'read of what was not written', () => file.read(0, BLOCK));
  await failsSoon(s, 'write of a part of a lost block', async () => {
    await file.write(10, Buffer.from('x'));
    await file.sync();
  });
  await powerCycle(s, s.world.chunkservers);
  await failsSoon(s, 'read after another power loss', () => file.read(2 * BLOCK, BLOCK));
  await file.write(0, newer);
  await file.sync();
  await file.close();
  await s.world.sleep(60_000);
  await s.check('f', newer);
});

story('A lost chunk that is truncated away, or whose file is, is forgotten', async (s) => {
  const file = await lostFile(s);
  await file.truncate(0);
  const bytes = pattern(5000, 3);
  await file.write(0, bytes);
  await file.sync();
  await file.close();
  await s.world.sleep(30_000);
  await s.check('f', bytes);
});

for (const when of ['open', 'closed'] as const) {
  story(`P1: an fsync after a power loss at every replica tells of bytes that it cost (${when})`, async (s) => {
    let file = await s.create('f', pattern(LENGTH, 1));
    await file.sync();
    const newer = pattern(LENGTH, 2);
    await file.write(0, newer);
    await file.flush();
    if (when === 'closed') {
      await file.close();
      file = await s.openAt('f');
    }
    await powerCycle(s, s.world.chunkservers);
    await failsSoon(s, 'fsync', () => file.sync());
    await file.sync();
    await file.write(0, newer);
    await file.sync();
    await file.close();
    await powerCycle(s, s.world.chunkservers);
    await s.world.sleep(60_000);
    await s.check('f', newer);
  });
}

story('P1: with one replica that kept its power nothing is lost, and fsync succeeds', async (s) => {
  for (const turn of [0, 1]) {
    const name = `f${turn}`;
    const file = await s.create(name, pattern(LENGTH, 1));
    await file.flush();
    await powerCycle(s, [(await s.holders(file))[turn] ?? assert.fail('two replicas were wanted')]);
    await file.sync();
    await file.close();
    await powerCycle(s, s.world.chunkservers);
    await s.world.sleep(60_000);
    await s.check(name, pattern(LENGTH, 1));
  }
});

for (const when of ['open', 'closed'] as const) {
  story(`P1: an fsync after a power loss of the master tells of what it cost (${when})`, async (s) => {
    const bytes = pattern(LENGTH, 1);
    let file = await s.create('f', bytes);
    await s.one.syncMetadata();
    await file.flush();
    if (when === 'closed') await file.close();
    await powerCycle(s, [MASTER]);
    if (when === 'closed') file = await s.openAt('f');
    await failsSoon(s, 'fsync', () => file.sync());
    await file.write(0, bytes);
    await file.sync();
    await file.close();
    await powerCycle(s, [MASTER, ...s.world.chunkservers]);
    await s.world.sleep(60_000);
    await s.check('f', bytes);
  });
}

story('P1: an fsync of a directory after a power loss of the master tells of what it cost', async (s) => {
  await (await s.create('f', pattern(LENGTH, 1))).close();
  await powerCycle(s, [MASTER]);
  await failsSoon(s, 'fsync', () => s.one.syncMetadata());
  await s.one.syncMetadata();
  // Who changed nothing lost nothing.
  await s.two.syncMetadata();
});

story('P1: a master that was stopped in an orderly way, or only killed, cost nothing', async (s) => {
  const file = await s.create('f', pattern(LENGTH, 1));
  await file.flush();
  await s.world.kill(MASTER);
  await s.world.start(MASTER);
  await file.sync();
  await s.one.syncMetadata();
  await file.close();
  await powerCycle(s, [MASTER]);
  // Until the servers have found the master again.
  await s.world.sleep(60_000);
  await s.check('f', pattern(LENGTH, 1));
});
