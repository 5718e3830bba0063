/** Power that goes and comes back, and calls that tell what it cost. */
import assert from 'node:assert/strict';
import { asCairnError } from '../../../src/core/errors.js';
import type { Story } from '../world/story.js';

/** Fails with EIO, and within the time that a healthy cluster answers in. */
export async function failsSoon(s: Story, what: string, action: () => Promise<unknown>): Promise<void> {
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
export async function powerCycle(s: Story, names: readonly string[]): Promise<void> {
  for (const name of names) await s.world.powerOff(name, 'nothing');
  await s.world.sleep(2000);
  for (const name of names) await s.world.powerOn(name);
  await s.world.sleep(5000);
}
