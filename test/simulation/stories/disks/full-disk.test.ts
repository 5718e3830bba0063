/** P1: the chunk goes on without a member whose disk is full, but not without bytes that only this member has whole. */
import assert from 'node:assert/strict';
import t from 'tap';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { story } from '../../world/story.js';

t.setTimeout(0);

const SIZE = 37_000;
const synced = pattern(SIZE, 1);
const more = pattern(8_000, 2);

for (const which of [0, 1] as const) {
  for (const lasting of ['for a moment', 'for long'] as const) {
    story(
      `holder ${which} cannot give back what it took, and the disk of the other one is full ${lasting}`,
      async (s) => {
        const { world } = s;
        const file = await s.createAtRest('f', synced);
        const holders = await s.holders(file);
        const [failing, full] = [holders[which], holders[1 - which]];
        assert.ok(failing !== undefined && full !== undefined);
        const [bad] = world.disk(failing).files('/data/chunks');
        world.disk(failing).plant((label, path) => path === bad && label === 'chunk.read', { failWith: 'EIO' });
        const noSpace = world
          .disk(full)
          .plant(
            (label, path) =>
              label === 'chunk.table' &&
              path.startsWith('/data/chunks') &&
              (lasting === 'for long' || noSpace.hits === 0),
            { failWith: 'ENOSPC' },
          );
        // Behind what is there, so that it needs not be read.
        await file.write(SIZE, more);
        const outcome = await file.sync().then(
          () => 'synced',
          () => 'refused',
        );
        assert.ok(noSpace.hits > 0);
        if (lasting === 'for a moment') assert.equal(outcome, 'synced');
        const reader = await s.openAt('f', s.two);
        equalBytes(await reader.read(0, SIZE), synced, 'what was synced before');
        if (outcome === 'synced') equalBytes(await reader.read(SIZE, more.length), more, 'and then');
        await reader.close();
        world.disk(full).lift(noSpace);
        await file.close().catch(() => undefined);
        await world.sleep(180_000);
        const status = await s.two.status();
        assert.deepEqual([status.damagedChunks, status.underReplicatedChunks], [0, 0]);
        await s.check('f', outcome === 'synced' ? Buffer.concat([synced, more]) : synced);
      },
    );
  }
}
