/** A disk that hangs, without an error: one pause, and then service by the others, until it answers again. */
import assert from 'node:assert/strict';
import t from 'tap';
import { KIB, MAX_CHUNK_COPIES } from '../../../../src/core/limits.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import type { Story } from '../../world/story.js';

t.setTimeout(0);

const LENGTH = 100 * KIB;

/** Calls on the data of `name` come back only when the returned function has been called. */
function hang(s: Story, name: string): () => void {
  const disk = s.world.disk(name);
  const fault = disk.plant((_label, path) => path.startsWith('/data'), { hangs: true });
  return () => disk.lift(fault);
}

async function seconds(s: Story, action: () => Promise<unknown>): Promise<number> {
  const began = s.world.clock.nowUs;
  await action();
  return (s.world.clock.nowUs - began) / 1e6;
}

for (const turn of [0, 1]) {
  story(`P11: a hung disk costs one pause (member ${turn})`, async (s) => {
    const file = await s.create('f', pattern(LENGTH, 1));
    await file.sync();
    // Nobody writes to these while it hangs.
    const atRest = [];
    for (let i = 0; i < 6; i++) atRest.push(await s.create(`r${i}`, pattern(LENGTH, i)));
    for (const each of atRest) await each.sync();
    await s.world.sleep(75_000);
    const hung = (await s.holders(file))[turn] ?? assert.fail();
    const answer = hang(s, hung);
    const first = await seconds(s, async () => {
      await file.write(0, pattern(LENGTH, 2));
      await file.sync();
    });
    assert.ok(first < 15, `the first write took ${first} s`);
    for (let i = 0; i < 6; i++) {
      const next = await seconds(s, async () => {
        const other = await s.create(`n${i}`, pattern(LENGTH, i));
        await other.sync();
        await other.close();
      });
      assert.ok(next < (i === 0 ? 10 : 1), `new file ${i} took ${next} s`);
    }
    const read = await seconds(s, async () => {
      const other = await s.openAt('f', s.two);
      equalBytes(await other.read(0, LENGTH), pattern(LENGTH, 2), 'f');
      await other.close();
    });
    assert.ok(read < 3, `a read took ${read} s`);
    // What it has is made anew elsewhere, and it serves again when it answers.
    await s.world.sleep(60_000);
    assert.ok(!(await s.holders(file)).includes(hung));
    for (const each of atRest) {
      const others = (await s.holders(each)).filter((name) => name !== hung);
      assert.equal(others.length, 2);
      await each.close();
    }
    answer();
    await s.world.sleep(20_000);
    const status = await (await s.world.connect('operator')).status();
    assert.ok(status.servers.every(({ alive, freeBytes }) => alive && freeBytes > 0));
    assert.equal(status.underReplicatedChunks, 0);
    const used = new Set<string>();
    for (let i = 0; i < 12; i++) {
      const other = await s.create(`m${i}`, pattern(LENGTH, i));
      await other.flush();
      for (const name of await s.holders(other)) used.add(name);
      await other.close();
    }
    assert.ok(used.has(hung), 'it is used again');
    await file.close();
    await s.check('f', pattern(LENGTH, 2));
  });
}

story(
  'P11: of two disks of a machine one may hang: the other one serves, and what the first had is made anew',
  async (s) => {
    const names = Array.from({ length: 12 }, (_, i) => `f${i}`);
    for (const [i, name] of names.entries()) {
      const file = await s.create(name, pattern(LENGTH, i));
      await file.sync();
      await file.close();
    }
    const [victim] = s.world.chunkservers;
    assert.ok(victim !== undefined);
    const disk = s.world.disk(victim);
    const fault = disk.plant((_label, path) => path.startsWith('/data-2'), { hangs: true });
    await s.world.sleep(90_000);
    const used = new Set<string>();
    for (let i = 0; i < 12; i++) {
      const took = await seconds(s, async () => {
        const other = await s.create(`n${i}`, pattern(LENGTH, i));
        await other.sync();
        for (const name of await s.holders(other)) used.add(name);
        await other.close();
      });
      assert.ok(took < 1, `new file ${i} took ${took} s`);
    }
    assert.ok(used.has(victim), 'its other disk is used');
    const status = await (await s.world.connect('operator')).status();
    assert.equal(status.underReplicatedChunks, 0);
    disk.lift(fault);
    await s.world.sleep(60_000);
    for (const [i, name] of names.entries()) await s.check(name, pattern(LENGTH, i));
  },
  { dataDirectories: 2 },
);

story(
  'P11: what was being written on a disk that hangs is not made anew beside it, to wait for it again and again',
  async (s) => {
    const file = await s.create('f', pattern(LENGTH, 1));
    await file.sync();
    await s.world.sleep(75_000);
    const [name] = await s.holders(file);
    assert.ok(name !== undefined);
    const disk = s.world.disk(name);
    const volume = disk.files('/data/chunks').length > 0 ? '/data/' : '/data-2/';
    const hung = disk.plant((label, path) => label === 'chunk.write' && path.startsWith(volume), { hangs: true });
    for (let i = 0; i < 20; i++) {
      const took = await seconds(s, async () => {
        await file.write(0, pattern(LENGTH, 2 + i));
        await file.sync();
      });
      assert.ok(took < (i === 0 ? 15 : 2), `write ${i} took ${took} s`);
      await s.world.sleep(5_000);
    }
    disk.lift(hung);
    await s.world.sleep(90_000);
    assert.equal((await (await s.world.connect('operator')).status()).underReplicatedChunks, 0);
    await file.close();
    await s.check('f', pattern(LENGTH, 21));
  },
  { chunkservers: 2, dataDirectories: 2 },
);

story(
  'P11: copies that hang in one disk of a server do not keep others from its other disk',
  async (s) => {
    const { world } = s;
    const [stays, leaves, target] = world.chunkservers;
    assert.ok(stays !== undefined && leaves !== undefined && target !== undefined);
    await world.kill(target);
    await world.sleep(12_000);
    for (let i = 0; i < 60; i++) {
      const file = await s.create(`f${i}`, pattern(1000, i));
      await file.sync();
      await file.close();
    }
    await world.powerOff(leaves);
    await world.sleep(75_000);
    const disk = world.disk(target);
    const hung = disk.plant((label, path) => label === 'chunk.sync' && path.startsWith('/data-2/incoming'), {
      hangs: true,
    });
    await world.start(target);
    await world.sleep(120_000);
    const { underReplicatedChunks } = await (await world.connect('operator')).status();
    assert.ok(hung.hits > 0);
    assert.ok(underReplicatedChunks <= MAX_CHUNK_COPIES, `${underReplicatedChunks} chunks were not copied`);
    disk.lift(hung);
    await world.powerOff(stays);
    await world.powerOn(leaves);
    await world.sleep(10_000);
    await world.powerOn(stays);
    await world.sleep(120_000);
    for (let i = 0; i < 60; i++) await s.check(`f${i}`, pattern(1000, i));
  },
  { dataDirectories: 2 },
);

story(
  'P1, P2: what lost power is not taken for the chunk while the disk of the other member hangs for a moment',
  async (s) => {
    const { world } = s;
    const file = await s.create('f', pattern(LENGTH, 1));
    await file.sync();
    const [one = '', other = ''] = await s.holders(file);
    await file.write(0, pattern(LENGTH, 2));
    await file.flush();
    const answer = hang(s, other);
    await world.powerOff(one, 'nothing');
    await world.sleep(1_000);
    await world.powerOn(one);
    await world.sleep(20_000);
    answer();
    await world.sleep(90_000);
    await s.check('f', pattern(LENGTH, 2));
    await file.close();
  },
);
