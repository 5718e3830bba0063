/**
 * P1, P10: what the master tells others to destroy is destroyed by an operation that is durable. An operation that was answered, and
 * never synced, may be lost with the master's power; then all of it is, and not only its name.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const name = Buffer.from('file');

/** From now on nothing that the master writes gets to the platter, until its power is back. */
async function losePowerAfter(s: Story, lengthMs: number, work: () => Promise<unknown>): Promise<void> {
  const { world } = s;
  const hung = world.disk(MASTER).plant((label) => label === 'oplog.flush', { hangs: true });
  world.background(() => work().catch(() => undefined));
  await world.sleep(lengthMs);
  await world.powerOff(MASTER, 'nothing');
  world.disk(MASTER).lift(hung);
  await world.sleep(1_000);
  await world.powerOn(MASTER);
  await world.sleep(20_000);
}

story('P1: a removal that is lost with the power of the master has not deleted the chunks', async (s) => {
  const bytes = pattern(100_000, 1);
  const file = await s.createAtRest('file', bytes);
  await file.close();
  await s.one.syncMetadata();
  await losePowerAfter(s, 30_000, () => s.one.unlink(root, ROOT_INODE, name));
  const again = await s.openAt('file', s.two);
  equalBytes(await again.read(0, bytes.length + 1), bytes, 'it is there again, and whole');
  await again.close();
});

story('P10: a truncate that is lost with the power of the master has cut nothing', async (s) => {
  const bytes = pattern(100_000, 1);
  const file = await s.create('file', bytes);
  await file.sync();
  await losePowerAfter(s, 500, () => s.two.setAttributes(root, file.inode, { size: 1_000 }));
  const again = await s.openAt('file', s.two);
  const { size } = await again.attributes();
  assert.ok(size === 1_000 || size === bytes.length, `${size} bytes`);
  equalBytes(await again.read(0, size + 1), bytes.subarray(0, size), 'all of one or of the other');
  await again.close();
});

story('P1: a cut of a whole chunk that is lost with the power of the master has not deleted it', async (s) => {
  const { world } = s;
  const bytes = pattern(100_000, 1);
  const file = await s.create('file', bytes);
  await file.sync();
  // The primary does not answer: the lease does not end cleanly.
  const { replicas } = await s.chunk(file);
  const [primary] = replicas.map(({ address }) => address.split(':')[0] ?? '');
  world.background(() => file.write(0, pattern(10, 2)).catch(() => undefined));
  for (const each of replicas) {
    const host = each.address.split(':')[0] ?? '';
    world.disk(host).plant((label) => label === 'chunk.write' && host === primary, { hangs: true });
  }
  await losePowerAfter(s, 60_000, () => s.two.setAttributes(root, file.inode, { size: 0 }));
  await world.sleep(60_000);
  const again = await s.openAt('file', s.two);
  const { size } = await again.attributes();
  if (size > 0) {
    const seen = await again.read(0, size + 1);
    equalBytes(seen.subarray(10), bytes.subarray(10), 'it is there again, and whole');
  }
  await again.close();
});
