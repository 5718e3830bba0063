/** Writes that were given up while they were still on their way: they must not come behind what others wrote afterwards. */
import assert from 'node:assert/strict';
import t from 'tap';
import { MAX_LOCK_END } from '../../../../src/core/lock-ranges.js';
import { CairnError } from '../../../../src/core/errors.js';
import { KIB, LEASE_TTL_MS, SESSION_TTL_MS } from '../../../../src/core/limits.js';
import type { LockRequest, OpenFile } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, fails } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const SIZE = 100 * KIB;
const of = (letter: string): Buffer => Buffer.alloc(SIZE, letter);
const lockOf = (owner: string): LockRequest => ({
  ...{ kind: 'posix', owner, type: 'write', start: 0, end: MAX_LOCK_END, pid: 1 },
});

/** What is still on its way from the first client arrives now. */
async function healAndCheck(s: Story, content: Buffer): Promise<void> {
  for (const server of s.world.chunkservers) s.world.network.heal('client-3', server);
  for (let round = 0; round < 10; round++) {
    const third = await s.world.connect(`client-${10 + round}`);
    const reader = await s.openAt('f', third);
    equalBytes(await reader.read(0, content.length), content, 'what was synced');
    await reader.close();
    await third.close();
    await s.world.sleep(500);
  }
}

for (const operationTimeoutMs of [5_000, 60_000]) {
  for (const isLocked of [false, true]) {
    const after = isLocked ? 'the lock was given up' : 'the file was closed';
    story(`P7: a write that was given up after ${operationTimeoutMs} ms does not come after ${after}`, async (s) => {
      const fs = await s.world.connect('client-3', { operationTimeoutMs });
      const file = await s.create('f', of('o'), fs);
      await file.sync();
      if (isLocked) await fs.setLock(file.inode, lockOf('one'), { wait: false });
      const other = isLocked ? await s.openAt('f', s.two) : undefined;
      for (const server of s.world.chunkservers) s.world.network.partition('client-3', server, true);
      await file.write(0, of('A'));
      const outcome = await file.flush().catch((error: unknown) => error);
      assert.ok(outcome instanceof CairnError);
      if (isLocked) await fs.releaseLocks(file.inode, 'posix', 'one').catch(() => undefined);
      else await file.close().catch(() => undefined);

      const next = other ?? (await s.openAt('f', s.two));
      if (isLocked) await s.two.setLock(next.inode, lockOf('two'), { wait: true });
      await next.write(0, of('B'));
      await next.sync();
      await healAndCheck(s, of('B'));
    });
  }
}

story('P7: a write whose answer comes after its session ended is not taken for kept', async (s) => {
  const fs = await s.world.connect('client-3');
  const file = await s.create('f', of('o'), fs);
  await file.sync();
  // What it sends arrives, and the answer is late.
  for (const server of s.world.chunkservers) s.world.network.partition(server, 'client-3', true);
  await file.write(SIZE, of('N'));
  const flushed = file.flush().catch((error: unknown) => error);
  await s.world.sleep(100);
  s.world.freeze('client-3', 'suspended');
  await s.world.sleep(SESSION_TTL_MS + 10_000);
  s.world.thaw('client-3');
  await s.world.sleep(2_000);
  for (const server of s.world.chunkservers) s.world.network.heal(server, 'client-3');
  const outcome = (await flushed) ?? (await file.sync().catch((error: unknown) => error));
  const reader = await s.openAt('f', s.two);
  const { size } = await reader.attributes();
  if (outcome === undefined) {
    equalBytes(await reader.read(0, 2 * SIZE), Buffer.concat([of('o'), of('N')]), 'what was synced');
  } else assert.ok(outcome instanceof CairnError && size <= 2 * SIZE);
  await file.close().catch(() => undefined);
});

story('P7: the size of a file that others have cut is not told again in the next session', async (s) => {
  const fs = await s.world.connect('client-3');
  const file = await s.create('f', Buffer.concat([of('o'), of('o')]), fs);
  await file.sync();
  s.world.network.refuse('client-3', MASTER);
  await file.write(SIZE, of('N'));
  await s.world.sleep(SESSION_TTL_MS + 10_000);
  const next = await s.openAt('f', s.two);
  await next.truncate(0);
  await next.write(0, of('B'));
  await next.sync();
  s.world.network.heal('client-3', MASTER);
  await fails('EIO', file.sync());
  await s.world.sleep(5_000);
  await file.close();
  await next.close();
  await s.check('f', of('B'));
});

story('P7: what others have cut is told also to who has made the file longer in the next session', async (s) => {
  const fs = await s.world.connect('client-3');
  const file = await s.create('f', Buffer.concat([of('o'), of('o')]), fs);
  await file.sync();
  s.world.network.refuse('client-3', MASTER);
  const next = await s.openAt('f', s.two);
  await next.truncate(SIZE / 2);
  await next.close();
  // Behind the end of which it does not know.
  await file.write(SIZE, of('N'));
  await s.world.sleep(LEASE_TTL_MS);
  // For this it has no lease before it has its next session.
  await file.write(2 * SIZE, of('M'));
  await s.world.sleep(SESSION_TTL_MS - LEASE_TTL_MS + 10_000);
  s.world.network.heal('client-3', MASTER);
  const outcome = await file.sync().catch((error: unknown) => error);
  if (outcome === undefined) equalBytes(await file.read(SIZE, SIZE), of('N'), 'what was synced');
  else assert.ok(outcome instanceof CairnError);
  await file.sync();
  await file.close();
  const reader = await s.openAt('f', s.two);
  equalBytes(await reader.read(2 * SIZE, 2 * SIZE), of('M'), 'what was synced in the next session');
  await reader.close();
});

story(
  'P7: what some replicas have of writes that were given up shows, or not, to all who read after the closes',
  async (s) => {
    const fs = await s.world.connect('client-3', { operationTimeoutMs: 8_000 });
    const files = new Map<string, OpenFile>();
    for (const name of 'fghijklm') files.set(name, await s.create(name, of('o'), fs));
    for (const file of files.values()) await file.sync();
    for (const from of s.world.chunkservers)
      for (const to of s.world.chunkservers) if (from !== to) s.world.network.partition(from, to, true);
    for (const file of files.values()) await file.write(0, of('A'));
    await Promise.allSettled([...files.values()].map((file) => file.close()));
    const seen = new Map<string, number>();
    for (let round = 0; round < 30; round++) {
      const fresh = await s.world.connect(`client-${10 + round}`);
      for (const name of files.keys()) {
        const reader = await s.openAt(name, fresh);
        const content = await reader.read(0, SIZE);
        if (!seen.has(name)) seen.set(name, content[0] ?? 0);
        equalBytes(content, Buffer.alloc(SIZE, seen.get(name)), `what all see of ${name}, round ${round}`);
        await reader.close();
      }
      await fresh.close();
      if (round === 20) s.world.network.healAll();
      await s.world.sleep(500);
    }
  },
);
