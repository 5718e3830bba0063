/** Disks that fail, are away, or come back as they were before, told as stories. */
import assert from 'node:assert/strict';
import t from 'tap';
import { MIB } from '../../src/core/limits.js';
import { equalBytes, pattern } from '../conformance/case.js';
import { story } from './story.js';

t.setTimeout(0);

story('P11: blocks that cannot be read or written at one server end no other, while they are made good', async (s) => {
  const bytes = pattern(12 * MIB, 1);
  const file = await s.create('f', bytes);
  await file.sync();
  await file.close();
  await s.world.sleep(75_000);
  const [failing] = await s.holders(file);
  assert.ok(failing !== undefined);
  s.world.disk(failing).onCall = (label) =>
    label === 'chunk.read' || label === 'chunk.write' ? { failWith: 'EIO' } : undefined;
  // Read everywhere, so that the damage is seen; the other holder then tries to mend it, in more pieces than it sends at once.
  for (const name of ['client-3', 'client-4', 'client-5', 'client-6']) {
    const fs = await s.world.connect(name);
    const reader = await s.openAt('f', fs);
    equalBytes(await reader.read(0, bytes.length), bytes, name);
    await reader.close();
  }
  await s.world.sleep(30_000);
  s.world.disk(failing).onCall = undefined;
  await s.check('f', bytes);
});
