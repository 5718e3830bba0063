/** What the past that a restore took away left on the chunkservers and with clients. */
import assert from 'node:assert/strict';
import t from 'tap';
import { MAX_LOCK_END } from '../../../../src/core/lock-ranges.js';
import type { LockRequest } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { backUp, restore } from '../../world/administrator.js';
import { powerCycle } from '../power-cycle.js';
import { story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const zeros = (n: number): Buffer => Buffer.alloc(n);

for (const how of ['truncate', 'write', 'write of the same client'] as const) {
  story(`P5: what was appended after the backup does not show when the file is made longer, by ${how}`, async (s) => {
    const { world } = s;
    const file = await s.create('f', pattern(1000, 1));
    await file.sync();
    await file.close();
    await world.sleep(90_000);
    const backup = backUp(world);
    const more = await s.openAt('f');
    await more.write(1000, pattern(4000, 2));
    await more.sync();
    await more.close();
    await world.sleep(90_000);
    await restore(world, backup);
    await world.sleep(20_000);
    const fs = how === 'write of the same client' ? s.one : s.two;
    const longer = await s.openAt('f', fs);
    assert.equal((await fs.getAttributes(longer.inode)).size, 1000);
    const expected = Buffer.concat([pattern(1000, 1), zeros(3000)]);
    if (how === 'truncate') await longer.truncate(4000);
    else {
      await longer.write(3999, Buffer.from([7]));
      expected[3999] = 7;
    }
    await longer.sync().catch(() => undefined);
    await longer.sync();
    await longer.close();
    await s.check('f', expected);
    equalBytes(await (await s.openAt('f', await world.connect('client-9'))).read(0, 5000), expected, 'f');
  });
}

story('what a client appended that has the file open stays, as far as it is there', async (s) => {
  const { world } = s;
  const file = await s.create('f', pattern(1000, 1));
  await file.sync();
  await world.sleep(90_000);
  const backup = backUp(world);
  await file.write(1000, pattern(4000, 2));
  await file.flush();
  await world.sleep(5_000);
  await restore(world, backup);
  await world.sleep(5_000);
  await file.write(0, pattern(100, 3));
  await assert.rejects(file.sync(), { code: 'EIO' });
  await file.sync();
  await file.close();
  await s.check('f', Buffer.concat([pattern(100, 3), pattern(1000, 1).subarray(100), pattern(4000, 2)]));
});

story(
  "P2: a lock of a session that the backup does not have is nobody else's after another restart either",
  async (s) => {
    const { world } = s;
    const made = await s.create('f', pattern(5000, 1));
    await made.sync();
    await made.close();
    await world.sleep(90_000);
    const backup = backUp(world);
    const lock: LockRequest = { kind: 'flock', owner: 'a', type: 'write', start: 0, end: MAX_LOCK_END, pid: 1 };
    const three = await world.connect('client-3');
    const held = await s.openAt('f', three);
    await three.setLock(held.inode, lock, { wait: true });
    await held.write(0, pattern(5000, 2));
    await held.sync();
    await world.sleep(5_000);
    world.network.partition(MASTER, 'client-3');
    await restore(world, backup);
    await world.sleep(3_000);
    await world.kill(MASTER);
    await world.start(MASTER);
    const mine = await s.openAt('f', s.two);
    const seen = s.two.setLock(mine.inode, lock, { wait: true }).then(() => mine.read(0, 5000));
    // It does not know yet, and its leases are good.
    await world.sleep(3_000);
    await held.write(0, pattern(5000, 3));
    await assert.rejects(held.flush(), 'it cannot be told of');
    const content = Buffer.from(await seen);
    world.network.healAll();
    await world.sleep(10_000);
    await s.check('f', content);
  },
);

for (const what of ['was put back', 'lost power'] as const) {
  story(`P2: who kept what a file was does not take it for what it is after the master ${what}`, async (s) => {
    const { world } = s;
    const made = await s.create('f', pattern(5000, 1));
    await made.sync();
    await made.close();
    await world.sleep(90_000);
    // A kernel keeps its pages of the file as long as this does not change.
    const kept = await s.openAt('f', s.two);
    equalBytes(await kept.read(0, 5000), pattern(5000, 1), 'before');
    const { change } = await kept.attributes();
    await kept.close();
    const backup = backUp(world);
    const other = await world.connect('client-3');
    const file = await s.openAt('f', other);
    await file.write(0, pattern(5000, 2));
    if (what === 'was put back') await file.sync();
    await file.close();
    await other.close();
    if (what === 'was put back') {
      await world.sleep(5_000);
      await restore(world, backup);
      await world.sleep(5_000);
    } else await powerCycle(s, [MASTER]);
    const now = await s.openAt('f', s.two);
    const isSame = (await now.attributes()).change === change;
    equalBytes(
      isSame ? pattern(5000, 1) : await now.read(0, 5000),
      await (await s.openAt('f', s.one)).read(0, 5000),
      'f',
    );
    await now.close();
  });
}
