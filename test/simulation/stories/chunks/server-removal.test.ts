/** Chunkservers that do not come back, or come back empty: how a cluster becomes whole again without them. */
import assert from 'node:assert/strict';
import t from 'tap';
import { pattern } from '../../../conformance/case.js';
import { healthOf } from '../../../../src/cli/health.js';
import { idAt, removeServer } from '../../world/administrator.js';
import { seeds } from '../../world/seeds.js';
import { story, Story } from '../../world/story.js';
import { MASTER, World } from '../../world/world.js';

t.setTimeout(0);

async function makeFiles(s: Story, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const file = await s.create(`f-${i}`, pattern(50_000, i));
    await file.sync();
    await file.close();
  }
  await s.world.sleep(70_000);
}

story(
  'P11: a server whose disk was replaced is forgotten once all has its replicas, and status is healthy',
  async (s) => {
    const { world } = s;
    await makeFiles(s, 12);
    const before = idAt(await s.two.status(), 'chunkserver-1');
    await world.kill('chunkserver-1');
    world.disk('chunkserver-1').format('/data');
    await world.start('chunkserver-1');
    await world.sleep(20_000);
    assert.equal(healthOf(await s.two.status()), 'degraded');
    await world.sleep(120_000);
    const status = await s.two.status();
    assert.equal(healthOf(status), 'healthy', JSON.stringify(status));
    assert.equal(status.servers.length, 3);
    assert.ok(!status.servers.some(({ serverId }) => serverId === before));
    for (let i = 0; i < 12; i++) await s.check(`f-${i}`, pattern(50_000, i));
  },
);

story(
  'P11: a server that is gone is removed, also over a restart of the master in the middle; not one that serves',
  async (s) => {
    const { world } = s;
    await makeFiles(s, 12);
    const id = idAt(await s.two.status(), 'chunkserver-1');
    await assert.rejects(removeServer(s, id), { code: 'EBUSY' });
    await assert.rejects(removeServer(s, 77), { code: 'ENOENT' });
    await world.kill('chunkserver-1');
    await assert.rejects(removeServer(s, id), { code: 'EBUSY' }, 'it may still be serving');
    await world.sleep(12_000);
    await s.two.removeServer(id, false);
    await world.sleep(1_100);
    await world.kill(MASTER);
    await world.start(MASTER);
    await world.sleep(30_000);
    const status = await s.two.status();
    assert.deepEqual(
      status.servers.map(({ alive }) => alive),
      [true, true],
    );
    await world.sleep(60_000);
    assert.equal(healthOf(await s.two.status()), 'healthy');
    // It is back after all: under another id, and what it has is not needed.
    await world.start('chunkserver-1');
    await world.sleep(30_000);
    const after = await s.two.status();
    assert.equal(healthOf(after), 'healthy');
    assert.ok(idAt(after, 'chunkserver-1') > id);
    assert.equal(
      after.servers.reduce((sum, { chunks, aside }) => sum + chunks + aside, 0),
      24,
    );
    for (let i = 0; i < 12; i++) await s.check(`f-${i}`, pattern(50_000, i));
    // Over a restart of its own, too.
    await world.kill('chunkserver-1');
    await world.start('chunkserver-1');
    await world.sleep(20_000);
    assert.equal(healthOf(await s.two.status()), 'healthy');
  },
);

t.test('P1: the only replicas are not removed but by force, and are back when their server is', async () => {
  for (const seed of seeds(3, 801)) {
    const world = new World({ seed, chunkservers: 2, wantedReplicas: 1 });
    await world.runReported(async () => {
      await world.startAll();
      const s = new Story(world, await world.connect('client-1'), await world.connect('client-2'));
      await makeFiles(s, 10);
      const before = await s.two.status();
      const id = idAt(before, 'chunkserver-1');
      const there = before.servers.find(({ serverId }) => serverId === id)?.chunks ?? 0;
      assert.ok(there > 0);
      await world.kill('chunkserver-1');
      await world.sleep(12_000);
      const refused = await removeServer(s, id);
      assert.deepEqual([refused.refused, refused.lastReplicas], [true, there]);
      assert.equal((await s.two.status()).servers.length, 2, 'nothing was changed');
      const forced = await removeServer(s, id, true);
      assert.deepEqual([forced.removed, forced.lastReplicas], [true, there]);
      await world.sleep(5_000);
      const without = await s.two.status();
      assert.equal(without.servers.length, 1);
      assert.equal(without.unavailableChunks, there);
      await world.start('chunkserver-1');
      await world.sleep(30_000);
      const after = await s.two.status();
      assert.equal(after.unavailableChunks, 0);
      for (let i = 0; i < 10; i++) await s.check(`f-${i}`, pattern(50_000, i));
    });
    world.stop();
  }
});

t.test('P3: what went with a server that was removed by force is an error, also what nobody had synced', async () => {
  for (const seed of seeds(2, 811)) {
    const world = new World({ seed, chunkservers: 2, wantedReplicas: 1 });
    await world.runReported(async () => {
      await world.startAll();
      const s = new Story(world, await world.connect('client-1'), await world.connect('client-2'));
      const there: string[] = [];
      for (let i = 0; i < 8; i++) {
        const file = await s.create(`f-${i}`, pattern(50_000, i));
        await file.close();
        if ((await s.holders(file)).includes('chunkserver-1')) there.push(`f-${i}`);
      }
      assert.ok(there.length > 0);
      await world.sleep(70_000);
      const id = idAt(await s.two.status(), 'chunkserver-1');
      await world.kill('chunkserver-1');
      await world.sleep(12_000);
      await removeServer(s, id, true);
      await world.sleep(5_000);
      for (const name of there) {
        const file = await s.openAt(name, s.two);
        await assert.rejects(file.read(0, 100), { code: 'EIO' });
        await file.close();
      }
    });
    world.stop();
  }
});

story(
  'P3: what a removed server had is not taken for the chunk when all that was written since is lost',
  async (s) => {
    const { world } = s;
    const file = await s.create('f', pattern(50_000, 1));
    await file.sync();
    await world.sleep(70_000);
    const id = idAt(await s.two.status(), 'chunkserver-1');
    await world.kill('chunkserver-1');
    await world.sleep(12_000);
    await removeServer(s, id);
    await file.write(0, pattern(50_000, 2));
    await file.sync();
    await file.close();
    await world.sleep(70_000);
    const before = idAt(await s.two.status(), 'chunkserver-2');
    await world.kill('chunkserver-2');
    world.disk('chunkserver-2').format('/data');
    await world.start('chunkserver-2');
    await world.sleep(12_000);
    await removeServer(s, before, true);
    await world.start('chunkserver-1');
    await world.sleep(60_000);
    const reader = await s.openAt('f', s.two);
    await assert.rejects(reader.read(0, 100), { code: 'EIO' });
    await reader.close();
  },
  { chunkservers: 2, wantedReplicas: 2 },
);

story(
  'P11: a server that comes back in the middle of its removal serves, however slow the disk of the master is',
  async (s) => {
    const { world } = s;
    const id = idAt(await s.two.status(), 'chunkserver-1');
    await world.kill('chunkserver-1');
    await world.sleep(12_000);
    await s.two.removeServer(id, false);
    const slow = world.disk(MASTER).plant((label) => label === 'oplog.flush', { delayUs: 3_000_000 });
    world.background(() => world.start('chunkserver-1'));
    for (let i = 0; i < 10; i++) {
      await world.sleep(300);
      await s.two.removeServer(id, true).catch(() => undefined);
    }
    world.disk(MASTER).lift(slow);
    await world.sleep(60_000);
    const { servers } = await s.two.status();
    assert.equal(servers.filter(({ alive }) => alive).length, 3, JSON.stringify(servers));
    assert.ok(!servers.some(({ beingRemoved }) => beingRemoved), JSON.stringify(servers));
  },
);

story(
  'P1: a server is not removed for the sake of another that came back and has yet to tell what it has',
  async (s) => {
    const { world } = s;
    const bytes = pattern(50_000, 1);
    const file = await s.createAtRest('file', bytes);
    await file.close();
    const [gone = '', back = ''] = await s.holders(file);
    const id = idAt(await s.two.status(), gone);
    await world.kill(gone);
    await world.sleep(11_000);
    await world.kill(back);
    // Its replica is lost. It registers, and what it says next does not arrive yet.
    const disk = world.disk(back);
    for (const path of disk.files('/data')) if (path.includes('/chunks/')) disk.remove(path);
    const hung = world.disk(MASTER).plant((label) => label === 'oplog.flush', { hangs: true });
    world.background(() => world.start(back));
    await world.sleep(1_000);
    world.network.onMessage = (from, to) => {
      if (from === MASTER && to === back) world.network.partition(back, MASTER, true);
      return false;
    };
    world.disk(MASTER).lift(hung);
    await world.sleep(100);
    const reply = await removeServer(s, id);
    world.network.onMessage = undefined;
    world.network.heal(back, MASTER);
    assert.equal(reply.refused, true);
    await world.start(gone);
    await world.sleep(60_000);
    await s.check('file', bytes);
  },
);
