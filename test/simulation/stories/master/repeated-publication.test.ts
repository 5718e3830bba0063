/**
 * P1, P2: the size of a file is told while the master does not answer, more is written meanwhile, and it is told again. The
 * answer may be that to the first time, and says nothing of what was written since.
 */
import t from 'tap';
import { REQUEST_TIMEOUT_MS } from '../../../../src/core/limits.js';
import { pattern } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const PIECE = 50_000;
const all = pattern(3 * PIECE, 1);
const piece = (number: number): Uint8Array => all.subarray(number * PIECE, (number + 1) * PIECE);

async function writeWhileSilent(s: Story): Promise<Awaited<ReturnType<Story['create']>>> {
  const { world } = s;
  const file = await s.create('f', piece(0));
  await file.sync();
  await file.write(PIECE, piece(1));
  world.freeze(MASTER, 'stopped');
  // It is sent, and its end told; then comes more, before the end is told again.
  await world.sleep(2_500);
  await file.write(2 * PIECE, piece(2));
  await world.sleep(REQUEST_TIMEOUT_MS + 500);
  world.thaw(MASTER);
  return file;
}

story('all is there for others after fsync', async (s) => {
  const file = await writeWhileSilent(s);
  await file.sync();
  await s.check('f', all);
  await file.close();
});

story('and after a while without it', async (s) => {
  const file = await writeWhileSilent(s);
  await s.world.sleep(30_000);
  await s.check('f', all);
  await file.close();
  await s.check('f', all);
});
