/** Two misfortunes that overlap: each of these courses of events once lost what was synced, or brought back old bytes. */
import assert from 'node:assert/strict';
import t from 'tap';
import { LEASE_TTL_MS, MIB } from '../../../../src/core/limits.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { backUp, idAt, removeServer, restore } from '../../world/administrator.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

async function overwrite(s: Story, name: string, bytes: Uint8Array, host: string): Promise<void> {
  const fs = await s.world.connect(host);
  for (let attempt = 0; ; attempt++) {
    try {
      const file = await s.openAt(name, fs);
      await file.write(0, bytes);
      await file.sync();
      await file.close();
      break;
    } catch (error) {
      if (attempt === 20) throw error;
      await s.world.sleep(1_000);
    }
  }
  await fs.close();
}

story('P9: a machine that slept through a restore of the master serves nobody by what it knew before', async (s) => {
  const { world } = s;
  const size = 100_000;
  await (await s.createAtRest('f', pattern(size, 1))).close();
  const backup = backUp(world);
  // Later starts, which the backup does not know of.
  for (let i = 0; i < 3; i++) {
    await world.kill(MASTER);
    await world.start(MASTER);
    await world.sleep(12_000);
  }
  const { handle, replicas } = await s.chunk(await s.openAt('f'));
  const first = replicas[handle % 2]?.address.split(':')[0] ?? assert.fail();
  world.freeze(first, 'suspended');
  await restore(world, backup);
  await world.sleep(3_000);
  const reads = async (version: number): Promise<void> => {
    const reader = await s.openAt('f', s.two);
    equalBytes(await reader.read(0, size), pattern(size, version), 'what is read');
    await reader.close();
  };
  await reads(1);
  await overwrite(s, 'f', pattern(size, 2), 'client-3');
  await world.sleep(20_000);
  world.thaw(first);
  for (let round = 0; round < 40; round++) {
    await reads(2);
    await world.sleep(30);
  }
  await world.sleep(60_000);
  await s.check('f', pattern(size, 2));
});

story('P3: a copy that came to nothing is not taken for a chunk that went with removed servers', async (s) => {
  const { world } = s;
  const size = 5 * MIB;
  const file = await s.createAtRest('f', pattern(size, 1));
  const [gone, last] = await s.holders(file);
  const third = world.chunkservers.find((name) => name !== gone && name !== last);
  assert.ok(gone !== undefined && last !== undefined && third !== undefined);
  await world.kill(third);
  await world.kill(gone);
  await file.write(0, pattern(1000, 2));
  await file.sync();
  await world.sleep(LEASE_TTL_MS + 15_000);
  const slow = world.disk(third).plant((label) => label === 'chunk.write', { delayUs: 2e6 });
  await world.start(third);
  await world.sleep(3_500);
  await file.write(0, pattern(1000, 3));
  await file.sync();
  await file.close();
  // Made, and of no use: power fails before it is deleted, or made again.
  while (world.disk(third).files('/data/chunks').length === 0) await world.sleep(10);
  await world.sleep(20);
  await world.powerOff(third, 'nothing');
  assert.equal(world.disk(third).files('/data/chunks').length, 1);
  await world.kill(last);
  world.disk(third).lift(slow);
  await world.sleep(12_000);
  const status = await s.two.status();
  for (const name of [gone, last]) await removeServer(s, idAt(status, name), true);
  await world.powerOn(third);
  await world.sleep(60_000);
  const reader = await s.openAt('f', s.two);
  await assert.rejects(reader.read(0, 100), { code: 'EIO' });
  await reader.close();
  // Its own servers bring it back, under whatever name they come.
  await world.start(last);
  await world.sleep(60_000);
  const again = await s.openAt('f', await world.connect('client-3'));
  equalBytes(await again.read(0, 1000), pattern(1000, 3), 'what was written last');
});

story(
  'P1: a disk that was put back is not believed because its server was started some times without a master',
  async (s) => {
    const { world } = s;
    const size = 50_000;
    const file = await s.createAtRest('f', pattern(size, 1));
    const [, behind] = await s.holders(file);
    assert.ok(behind !== undefined);
    const before = world.disk(behind).snapshot('/data');
    await world.sleep(20_000);
    await file.write(0, pattern(size, 2));
    await file.sync();
    await file.close();
    await world.sleep(90_000);
    await world.kill(MASTER);
    await world.kill(behind);
    world.disk(behind).putBack('/data', before);
    for (let i = 0; i < 12; i++) {
      await world.start(behind);
      await world.sleep(1_000);
      await world.kill(behind);
    }
    await world.start(MASTER);
    await world.start(behind);
    for (let round = 0; round < 10; round++) {
      const fs = await world.connect(`reader-${round}`);
      const reader = await s.openAt('f', fs);
      equalBytes(await reader.read(0, size), pattern(size, 2), `round ${round}`);
      await reader.close();
      await world.sleep(500);
    }
    assert.ok(world.errorLines.some((line) => line.includes('older state')));
    await world.sleep(60_000);
    await s.check('f', pattern(size, 2));
  },
  { chunkservers: 2 },
);

story(
  'P1: what comes back from aside, on a disk that was put back, is compared with others before it is read',
  async (s) => {
    const { world } = s;
    const size = 50_000;
    await world.sleep(10_000);
    const yesterday = backUp(world);
    await (await s.createAtRest('f', pattern(size, 1))).close();
    const today = backUp(world);
    await restore(world, yesterday);
    await world.sleep(30_000);
    const [behind] = world.chunkservers;
    assert.ok(behind !== undefined);
    const before = world.disk(behind).snapshot('/data');
    await restore(world, today);
    await world.sleep(30_000);
    await overwrite(s, 'f', pattern(size, 2), 'client-3');
    await world.sleep(90_000);
    await world.kill(behind);
    world.disk(behind).putBack('/data', before);
    await world.start(behind);
    for (let round = 0; round < 20; round++) {
      const fs = await world.connect(`reader-${round}`);
      const reader = await s.openAt('f', fs);
      equalBytes(await reader.read(0, size), pattern(size, 2), `round ${round}`);
      await reader.close();
      await world.sleep(250);
    }
    await world.sleep(60_000);
    await s.check('f', pattern(size, 2));
  },
  { chunkservers: 2 },
);

for (const late of ['those of the backup', 'the newest']) {
  story(
    `P1: of a chunk that has moved since the backup the newest replica counts, also when ${late} come late`,
    async (s) => {
      const { world } = s;
      const size = 50_000;
      const file = await s.createAtRest('f', pattern(size, 1));
      const backup = backUp(world);
      const before = await s.holders(file);
      const spare = world.chunkservers.filter((name) => !before.includes(name));
      // One after the other they go, each before a write, and the chunk is copied to the next.
      for (const name of spare) await world.kill(name);
      for (const [i, name] of before.entries()) {
        await world.kill(name);
        await file.write(0, pattern(size, 2 + i));
        await file.sync();
        await world.start(spare[i] ?? assert.fail());
        await world.sleep(LEASE_TTL_MS + 15_000);
      }
      await file.close();
      assert.deepEqual(await s.holders(file), [...spare].sort());
      const cut = late === 'the newest' ? spare : before;
      for (const name of cut) world.network.partition(MASTER, name);
      await restore(world, backup);
      for (const name of before) await world.start(name);
      await world.sleep(4_000);
      world.network.healAll();
      await world.sleep(60_000);
      await s.check('f', pattern(size, 3));
    },
    { chunkservers: 4 },
  );
}

story('P11: what was there at the backup is written again long before all is aside that was not', async (s) => {
  const { world } = s;
  const make = async (name: string, version: number): Promise<void> => {
    const file = await s.create(name, pattern(20_000, version));
    await file.sync();
    await file.close();
  };
  await make('f', 1);
  await world.sleep(LEASE_TTL_MS + 15_000);
  const backup = backUp(world);
  for (let i = 0; i < 40; i++) await make(`g${i}`, i);
  await world.sleep(5_000);
  for (const name of world.chunkservers) {
    world.disk(name).plant((label) => label === 'aside.rename', { delayUs: 6e6 });
  }
  await restore(world, backup);
  await world.sleep(2_000);
  const began = world.clock.nowUs;
  await overwrite(s, 'f', pattern(20_000, 2), 'client-3');
  const took = (world.clock.nowUs - began) / 1e6;
  assert.ok(took < 20, `it took ${took} s`);
  await world.sleep(300_000);
  await s.check('f', pattern(20_000, 2));
});

story(
  'P3: what was on a disk that is replaced after a power cut is lost for good, and does not read as a hole',
  async (s) => {
    const { world } = s;
    const names = Array.from({ length: 10 }, (_, i) => `f${i}`);
    for (const [i, name] of names.entries()) {
      const file = await s.create(name, pattern(50_000, 1 + i));
      await file.close();
    }
    await world.sleep(LEASE_TTL_MS + 15_000);
    const [server] = world.chunkservers;
    assert.ok(server !== undefined);
    const { disk } = JSON.parse(world.disk(server).content('/data-2/identity').toString()) as { disk: string };
    await world.powerOff(server);
    world.disk(server).replaceVolume('/data-2');
    world.forgottenDisks.push(disk);
    await world.powerOn(server);
    await world.sleep(60_000);
    const reader = await world.connect('client-3');
    let lost = 0;
    for (const [i, name] of names.entries()) {
      const file = await s.openAt(name, reader);
      try {
        equalBytes(await file.read(0, 50_000), pattern(50_000, 1 + i), name);
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'EIO', String(error));
        lost++;
      }
      await file.close();
    }
    assert.ok(lost > 0 && lost < names.length);
  },
  { chunkservers: 1, wantedReplicas: 1, dataDirectories: 2 },
);

story(
  'P11: a replica that was left out in a past which the master does not have is judged, and not refused for ever',
  async (s) => {
    const { world } = s;
    const size = 50_000;
    const file = await s.createAtRest('f', pattern(size, 1));
    const backup = backUp(world);
    const [one, another] = await s.holders(file);
    assert.ok(one !== undefined && another !== undefined);
    world.network.partition(one, another);
    await file.write(0, pattern(size, 2));
    await file.sync();
    const [other, none] = await s.holders(file);
    assert.ok(other !== undefined && none === undefined);
    await world.kill(other);
    world.network.healAll();
    await restore(world, backup);
    // The newest one is away: what there is has missed something, and is taken only when none better comes.
    await world.sleep(60_000);
    const reader = await s.openAt('f', await world.connect('client-3'));
    // It may have got the bytes of the write that was not forwarded.
    const left = Buffer.from(await reader.read(0, size));
    assert.ok([1, 2].some((version) => left.equals(pattern(size, version))));
    await reader.close();
    await world.start(other);
    await world.sleep(60_000);
    await s.check('f', left);
  },
  { chunkservers: 2 },
);

story(
  'P11: a chunkserver that starts on a disk that hangs comes up with its other disks, and says which is not there',
  async (s) => {
    const { world } = s;
    const names = Array.from({ length: 12 }, (_, i) => `f${i}`);
    for (const [i, name] of names.entries()) {
      const file = await s.create(name, pattern(50_000, i));
      await file.sync();
      await file.close();
    }
    await world.sleep(LEASE_TTL_MS + 15_000);
    const [victim] = world.chunkservers;
    assert.ok(victim !== undefined);
    await world.kill(victim);
    const hung = world.disk(victim).plant((_, path) => path.startsWith('/data-2'), { hangs: true });
    const began = world.clock.nowUs;
    await world.start(victim);
    assert.ok(world.clock.nowUs - began < 60e6, 'it took long to start');
    await world.sleep(100_000);
    const status = await s.two.status();
    const told = status.servers.find(({ address }) => address.startsWith(victim))?.disks ?? [];
    assert.deepEqual(
      told.map(({ path, problem }) => [path, problem !== '']),
      [
        ['/data', false],
        ['/data-2', true],
      ],
    );
    assert.equal(status.underReplicatedChunks, 0);
    assert.equal(status.unavailableChunks, 0);
    for (const [i, name] of names.entries()) await s.check(name, pattern(50_000, i));
    world.disk(victim).lift(hung);
    await world.sleep(30_000);
    await world.kill(victim);
    await world.start(victim);
    await world.sleep(60_000);
    for (const [i, name] of names.entries()) await s.check(name, pattern(50_000, i));
    const after = (await s.two.status()).servers.find(({ address }) => address.startsWith(victim))?.disks ?? [];
    assert.ok(after.every(({ problem }) => problem === ''));
  },
  { dataDirectories: 2 },
);

story('a disk that hangs in a running chunkserver is named, and no more once it answers', async (s) => {
  const { world } = s;
  const [victim] = world.chunkservers;
  assert.ok(victim !== undefined);
  const problem = async (): Promise<string> => {
    const { servers } = await s.two.status();
    return servers.find(({ address }) => address.startsWith(victim))?.disks[0]?.problem ?? 'no disk';
  };
  await world.sleep(15_000);
  assert.equal(await problem(), '');
  const hung = world.disk(victim).plant((_, path) => path.startsWith('/data'), { hangs: true });
  await world.sleep(30_000);
  assert.match(await problem(), /does not answer/);
  world.disk(victim).lift(hung);
  await world.sleep(15_000);
  assert.equal(await problem(), '');
});
