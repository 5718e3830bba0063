/** Disks that fail, are away, or come back as they were before, told as stories. */
import assert from 'node:assert/strict';
import t from 'tap';
import { hasCode } from '../../../../src/core/errors.js';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES, MIB } from '../../../../src/core/limits.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import type { StatusReply } from '../../../../src/protocol/generated/messages.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { Health } from '../../judges/health.js';
import { root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

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

story('P1: a server starts although its mark of the master has rotted', async (s) => {
  const bytes = pattern(200_000, 1);
  const file = await s.create('f', bytes);
  await file.sync();
  await file.close();
  await s.world.sleep(75_000);
  const [name] = await s.holders(file);
  assert.ok(name !== undefined);
  await s.world.kill(name);
  s.world.disk(name).corrupt('/data/master-mark', 0, Buffer.from('#'));
  await s.world.start(name);
  await s.world.sleep(30_000);
  await new Health(s.world, s.two).demandHealthy('after the start');
  await s.check('f', bytes);
});

const SMALL = 200_000;

/** Files of a chunk each, synced and at rest. */
async function files(s: Story, count: number): Promise<string[]> {
  const names = Array.from({ length: count }, (_, i) => `f${i}`);
  for (const [i, name] of names.entries()) {
    const file = await s.create(name, pattern(SMALL, i));
    await file.sync();
    await file.close();
  }
  await s.world.sleep(75_000);
  return names;
}

async function statusOf(s: Story): Promise<StatusReply> {
  const fs = await s.world.connect('operator');
  const status = await fs.status();
  await fs.close();
  return status;
}

/** All of them are whole, read by a client that knows nothing yet. */
async function checkFiles(s: Story, names: readonly string[]): Promise<void> {
  const fs = await s.world.connect(`client-${s.world.clock.nowUs}`);
  for (const [i, name] of names.entries()) {
    const file = await s.openAt(name, fs);
    equalBytes(await file.read(0, SMALL + 1), pattern(SMALL, i), name);
    await file.close();
  }
}

/** Who holds each file's chunk, by the master. */
async function holders(s: Story, names: readonly string[]): Promise<string[][]> {
  const found: string[][] = [];
  for (const name of names) {
    const file = await s.openAt(name);
    found.push(await s.holders(file));
    await file.close();
  }
  return found;
}

story(
  'P11: what was removed just before the master was restarted, and takes long to delete, keeps no reader away',
  async (s) => {
    const names = await files(s, 80);
    const [kept = '', ...removed] = names;
    const reader = await s.openAt(kept, s.two);
    for (const server of s.world.chunkservers) {
      s.world.disk(server).onCall = (label) => (label === 'chunk.unlink' ? { delayUs: 2e6 } : undefined);
    }
    for (const name of removed) await s.one.unlink(root, ROOT_INODE, Buffer.from(name));
    await s.world.kill(MASTER);
    await s.world.sleep(300);
    await s.world.start(MASTER);
    await s.world.sleep(5_000);
    const read = reader.read(0, 1000).then(() => 'read');
    assert.equal(await Promise.race([read, s.world.sleep(1_000).then(() => 'refused for long')]), 'read');
    assert.ok((await s.one.status()).garbageChunks > 0, 'not all is deleted yet');
    for (const server of s.world.chunkservers) s.world.disk(server).onCall = undefined;
    await reader.close();
    await s.world.sleep(60_000);
    assert.equal((await s.one.status()).garbageChunks, 0);
  },
);

story('P11: a disk that fails while nobody uses it is noticed, and its replicas are made anew', async (s) => {
  const names = await files(s, 8);
  const [victim] = s.world.chunkservers;
  assert.ok(victim !== undefined);
  const before = await holders(s, names);
  assert.ok(before.some((each) => each.includes(victim)));
  s.world.disk(victim).onCall = (_, path) => (path.startsWith('/data') ? { failWith: 'EIO' } : undefined);
  await s.world.sleep(120_000);
  for (const each of await holders(s, names)) {
    assert.ok(!each.includes(victim), 'nothing is believed to be there');
    assert.equal(each.length, 2, 'made up for');
  }
  await s.world.powerOff(s.world.chunkservers[1] ?? '');
  await checkFiles(s, names);
});

story('P11: chunks that were made ahead and went with a disk become no part of a file', async (s) => {
  const { world } = s;
  const [victim = ''] = world.chunkservers;
  // Many at once: as many are made ahead.
  const made = Array.from({ length: 6 }, async (_, i) => {
    const file = await s.create(`f${i}`, pattern(SMALL, i));
    await file.sync();
    await file.close();
  });
  await Promise.all(made);
  world.disk(victim).onCall = (_, path) => (path.startsWith('/data') ? { failWith: 'EIO' } : undefined);
  await world.sleep(14_000);
  const dying = await world.connect('client-3');
  for (const name of world.chunkservers) world.network.partition('client-3', name);
  const files: OpenFile[] = [];
  for (let i = 0; i < 6; i++) {
    const file = await s.create(`late-${i}`, undefined, dying);
    files.push(file);
    await file.truncate(SMALL);
    await file.write(0, pattern(SMALL, i));
    // It gets a chunk, and nothing of this is in it when the client dies.
    world.background(() => file.flush().catch(() => undefined));
  }
  await world.sleep(500);
  await world.kill('client-3');
  for (const file of files) await s.chunk(file);
  await new Health(world, s.two).demandHealthy('after a disk has failed');
});

story('a chunkserver whose only disk has failed does not join as one more server', async (s) => {
  const { world } = s;
  const names = await files(s, 8);
  const [victim = ''] = world.chunkservers;
  world.disk(victim).onCall = (_, path) => (path.startsWith('/data') ? { failWith: 'EIO' } : undefined);
  await world.sleep(60_000);
  const before = (await s.two.status()).servers;
  assert.equal(before.length, 3);
  assert.ok(before.some(({ address, disks }) => address.startsWith(`${victim}:`) && disks[0]?.problem !== ''));
  await world.kill(MASTER);
  await world.start(MASTER);
  await world.sleep(20_000);
  const after = (await s.two.status()).servers;
  const id = ({ serverId, address, alive }: (typeof after)[number]): unknown => [serverId, address, alive];
  assert.deepEqual(after.map(id), before.map(id));
  await checkFiles(s, names);
});

story('P11: a disk that hangs while nobody uses it is given up in the end', async (s) => {
  const names = await files(s, 8);
  const [victim] = s.world.chunkservers;
  assert.ok(victim !== undefined);
  s.world.disk(victim).onCall = (_, path) => (path.startsWith('/data') ? { delayUs: 3600e6 } : undefined);
  await s.world.sleep(180_000);
  for (const each of await holders(s, names)) assert.ok(!each.includes(victim) && each.length === 2);
});

story('one file that cannot be read costs one replica, not its disk', async (s) => {
  const names = await files(s, 8);
  const [victim] = s.world.chunkservers;
  assert.ok(victim !== undefined);
  await s.world.kill(victim);
  await s.world.start(victim);
  await s.world.sleep(5_000);
  const disk = s.world.disk(victim);
  const [bad] = disk.files('/data/chunks');
  assert.ok(bad !== undefined);
  disk.onCall = (label, path) =>
    path === bad && (label === 'chunk.open' || label === 'chunk.peek') ? { failWith: 'EIO' } : undefined;
  const before = (await holders(s, names)).flat().filter((name) => name === victim).length;
  assert.ok(before > 2);
  for (const name of ['client-3', 'client-4', 'client-5']) {
    const fs = await s.world.connect(name);
    for (const [i, each] of names.entries()) {
      const file = await s.openAt(each, fs);
      equalBytes(await file.read(0, SMALL), pattern(SMALL, i), each);
      await file.close();
    }
  }
  await s.world.sleep(60_000);
  assert.ok(!s.world.errorLines.some((line) => line.includes('out of service')), s.world.errorLines.join());
  const after = await holders(s, names);
  assert.ok(after.every((each) => each.length === 2));
  assert.ok(after.flat().filter((name) => name === victim).length >= before - 1, 'all others are still there');
  await checkFiles(s, names);
});

story(
  'P11: a replica whose disk takes blocks and does not give them back is left out, and a writer goes on',
  async (s) => {
    const [name = ''] = await files(s, 1);
    const [[victim = ''] = []] = await holders(s, [name]);
    const disk = s.world.disk(victim);
    const [bad] = disk.files('/data/chunks');
    disk.plant((label, path) => path === bad && ['chunk.read', 'chunk.open', 'chunk.peek'].includes(label), {
      failWith: 'EIO',
    });
    const expected = Buffer.from(pattern(SMALL, 0));
    const file = await s.openAt(name);
    // In the middle of a block: what is around it has to be read.
    for (const at of [10, 70_000, 10]) {
      const began = s.world.clock.nowUs;
      const bytes = pattern(100, at);
      await file.write(at, bytes);
      await file.sync();
      expected.set(bytes, at);
      const took = (s.world.clock.nowUs - began) / 1e6;
      assert.ok(took < 2, `a write took ${took} s`);
    }
    await file.close();
    await s.world.sleep(120_000);
    assert.equal((await statusOf(s)).underReplicatedChunks, 0);
    await s.check(name, expected);
  },
);

story('P1: after a sync that failed, what the kernel shows of the file is not believed', async (s) => {
  const file = await s.create('f', pattern(SMALL, 1));
  await file.sync();
  const [victim] = await s.holders(file);
  assert.ok(victim !== undefined);
  const disk = s.world.disk(victim);
  let failed = 0;
  disk.onCall = (label) => (label === 'chunk.sync' && failed++ === 0 ? { failWith: 'EIO' } : undefined);
  const newer = pattern(SMALL, 2);
  await file.write(0, newer);
  await file.sync();
  assert.ok(failed > 0);
  await file.close();
  await s.world.sleep(60_000);
  assert.ok(!s.world.errorLines.some((line) => line.includes('out of service')));
  await s.check('f', newer);
  assert.equal((await holders(s, ['f']))[0]?.length, 2);
  // What was claimed to be on disk is.
  for (const name of s.world.chunkservers) await s.world.powerOff(name, 'nothing');
  for (const name of s.world.chunkservers) await s.world.powerOn(name);
  await s.world.sleep(20_000);
  await s.check('f', newer);
});

for (const code of ['ENOSPC', 'EIO'] as const) {
  story(
    `P1: what a creation that failed with ${code} left in one directory is not taken for the replica in another`,
    async (s) => {
      const [server] = s.world.chunkservers;
      assert.ok(server !== undefined);
      const disk = s.world.disk(server);
      // It cannot be cleaned up either.
      disk.onCall = (label, path) =>
        path.startsWith('/data/chunks') && (label === 'chunk.header' || label === 'chunk.discard')
          ? { failWith: code }
          : undefined;
      const names = await files(s, 7);
      disk.onCall = undefined;
      const left = disk.files('/data/chunks');
      assert.ok(left.length > 0, 'something was left behind');
      await s.world.kill(server);
      await s.world.start(server);
      await s.world.sleep(10_000);
      await checkFiles(s, names);
      for (const path of left) assert.ok(!disk.files('/data/chunks').includes(path), `${path} is still there`);
      // A creation that can be cleaned up leaves nothing.
      disk.onCall = (label, path) =>
        path.startsWith('/data/chunks') && label === 'chunk.header' ? { failWith: code } : undefined;
      const file = await s.create('late', pattern(SMALL, 9));
      await file.close();
      disk.onCall = undefined;
      assert.deepEqual(
        disk.files('/data/chunks').filter((path) => disk.content(path).length === 0),
        [],
      );
    },
    { chunkservers: 1, wantedReplicas: 1, dataDirectories: 2 },
  );
}

story('P3: the loss of a chunk to its disks is an error, also of one that nobody ever synced', async (s) => {
  const file = await s.create('f', pattern(MIB, 1));
  await file.close();
  await s.world.sleep(75_000);
  for (const name of await s.holders(file)) {
    s.world.disk(name).onCall = (_label, path) => (path.startsWith('/data') ? { failWith: 'EIO' } : undefined);
  }
  await s.world.sleep(120_000);
  const reader = await s.openAt('f', await s.world.connect('client-3'));
  await assert.rejects(reader.read(0, MIB), { code: 'EIO' });
  await reader.close();
});

story(
  'P1: disks that are not mounted after a power cut: nothing is lost, given up or deleted',
  async (s) => {
    const names = await files(s, 14);
    const machines = s.world.chunkservers;
    for (const name of machines) await s.world.powerOff(name);
    for (const name of machines) s.world.disk(name).unmount('/data-2');
    for (const name of machines) await s.world.powerOn(name);
    await s.world.sleep(20_000);
    const { unavailableChunks, servers } = await statusOf(s);
    assert.ok(unavailableChunks > 0, 'some had both replicas there');
    for (const { disks } of servers)
      assert.match(disks.find(({ path }) => path === '/data-2')?.problem ?? '', /mounted/);
    for (const name of machines) assert.deepEqual(s.world.disk(name).files('/data-2'), [], 'nothing is written there');
    assert.ok(!s.world.errorLines.some((line) => line.includes('chunk is lost')), 'none is called lost');
    // Somebody goes on working, as far as that is possible.
    const line = Buffer.from('one more line');
    const appends = names.map(async (name) => {
      const file = await s.openAt(name);
      try {
        await file.write(SMALL, line);
        await file.sync();
        return true;
      } catch {
        return false;
      } finally {
        await file.close().catch(() => undefined);
      }
    });
    const appended = await Promise.all(appends);
    assert.ok(appended.includes(true) && appended.includes(false));
    for (const name of machines) await s.world.kill(name);
    for (const name of machines) s.world.disk(name).mount('/data-2');
    for (const name of machines) await s.world.start(name);
    await s.world.sleep(60_000);
    for (const [i, name] of names.entries()) {
      const file = await s.openAt(name, s.two);
      equalBytes((await file.read(0, SMALL)).subarray(0, SMALL), pattern(SMALL, i), name);
      if (appended[i] === true) equalBytes(await file.read(SMALL, 100), line, name);
      await file.close();
    }
    assert.equal((await statusOf(s)).unavailableChunks, 0);
  },
  { chunkservers: 2, dataDirectories: 2 },
);

story(
  'P11, P9: what is on a disk that is away is copied from others, and what it holds is stale when it is back',
  async (s) => {
    const names = await files(s, 10);
    const [server] = s.world.chunkservers;
    assert.ok(server !== undefined);
    await s.world.kill(server);
    s.world.disk(server).unmount('/data-2');
    await s.world.start(server);
    await s.world.sleep(60_000);
    const during = await statusOf(s);
    assert.equal(during.underReplicatedChunks, 0);
    assert.equal(during.servers.filter(({ disks }) => disks.some(({ problem }) => problem !== '')).length, 1);
    for (const [i, name] of names.entries()) {
      const file = await s.openAt(name);
      await file.write(0, pattern(SMALL, i + 100));
      await file.sync();
      await file.close();
    }
    await s.world.kill(server);
    s.world.disk(server).mount('/data-2');
    await s.world.start(server);
    await s.world.sleep(60_000);
    for (const [i, name] of names.entries()) await s.check(name, pattern(SMALL, i + 100));
    const after = await statusOf(s);
    assert.ok(after.servers.every(({ disks }) => disks.every(({ problem }) => problem === '')));
  },
  { dataDirectories: 2 },
);

story('a disk that is unmounted under a running server is missed, and nothing is called lost', async (s) => {
  const names = await files(s, 6);
  const [server] = s.world.chunkservers;
  assert.ok(server !== undefined);
  s.world.disk(server).unmount('/data');
  await s.world.sleep(60_000);
  assert.deepEqual(s.world.disk(server).files('/data'), [], 'nothing is written to the mount point');
  for (const each of await holders(s, names)) assert.ok(!each.includes(server) && each.length === 2);
  await checkFiles(s, names);
});

story('P9, P1: a disk that was put back to an older state is not believed', async (s) => {
  const names = await files(s, 6);
  const [server] = s.world.chunkservers;
  assert.ok(server !== undefined);
  const snapshot = s.world.disk(server).snapshot('/data');
  for (const [i, name] of names.entries()) {
    const file = await s.openAt(name);
    await file.write(1000, pattern(SMALL - 1000, i + 100));
    await file.sync();
    await file.close();
  }
  await s.world.sleep(15_000);
  assert.ok((await holders(s, names)).some((each) => each.includes(server)));
  await s.world.powerOff(server);
  s.world.disk(server).putBack('/data', snapshot);
  await s.world.powerOn(server);
  const expected = (i: number): Buffer =>
    Buffer.concat([pattern(SMALL, i).subarray(0, 1000), pattern(SMALL - 1000, i + 100)]);
  for (let round = 0; round < 10; round++) {
    const fs = await s.world.connect(`reader-${round}`);
    for (const [i, name] of names.entries()) {
      const file = await s.openAt(name, fs);
      equalBytes(await file.read(0, SMALL), expected(i), `${name} in round ${round}`);
      await file.close();
    }
    // Also when it is started again before all was looked at.
    if (round === 0) {
      await s.world.kill(server);
      await s.world.start(server);
    }
    await s.world.sleep(500);
  }
  assert.ok(s.world.errorLines.some((line) => line.includes('older state')));
  await s.world.sleep(60_000);
  for (const [i, name] of names.entries()) await s.check(name, expected(i));
  // Once all is mended, it is a disk as any other.
  const said = s.world.errorLines.length;
  await s.world.kill(server);
  await s.world.start(server);
  await s.world.sleep(10_000);
  assert.deepEqual(s.world.errorLines.slice(said), []);
});

story(
  'P1: disks of one machine are put back together, and one of them was written to a moment ago only',
  async (s) => {
    const { world } = s;
    const names = await files(s, 12);
    const [victim = ''] = world.chunkservers;
    const disk = world.disk(victim);
    const on = (volume: string): number[] =>
      names
        .map((_, i) => i)
        .filter((i) => disk.files(`${volume}/chunks`).some((path) => disk.content(path).includes(pattern(SMALL, i))));
    const [busy, quiet] = [on('/data'), on('/data-2')];
    assert.ok(busy.length > 0 && quiet.length > 0, 'it holds some on each disk');
    await world.sleep(75_000);
    const before = world.dataDirectories.map((volume) => ({ volume, files: disk.snapshot(volume) }));
    const rewrite = async (each: readonly number[], by: number): Promise<void> => {
      for (const i of each) {
        const file = await s.openAt(names[i] ?? '', s.two);
        await file.write(0, pattern(SMALL, i + by));
        await file.close();
      }
    };
    await rewrite(busy, 100);
    await world.sleep(20_000);
    await rewrite(quiet, 100);
    await world.kill(victim);
    for (const { volume, files } of before) disk.putBack(volume, files);
    await world.start(victim);
    await world.sleep(60_000);
    const fresh = await world.connect('client-3');
    for (const i of [...busy, ...quiet]) {
      const file = await s.openAt(names[i] ?? '', fresh);
      equalBytes(await file.read(0, SMALL), pattern(SMALL, i + 100), names[i] ?? '');
      await file.close();
    }
    await new Health(world, s.two).demandHealthy('after the disks were put back');
    // Once all is mended, a restart does not bring the doubt back.
    await world.sleep(30_000);
    const said = world.errorLines.length;
    await world.kill(victim);
    await world.start(victim);
    await world.sleep(10_000);
    assert.deepEqual(world.errorLines.slice(said), []);
  },
  { dataDirectories: 2 },
);

story('a disk that was only killed or lost power is not taken for one that was put back', async (s) => {
  const file = await s.create('f', pattern(SMALL, 1));
  for (let round = 0; round < 12; round++) {
    await file.write(0, pattern(SMALL, round));
    if (round % 2 === 0) await file.sync();
    const name = s.world.chunkservers[round % s.world.chunkservers.length] ?? '';
    await s.world.sleep(1000 + s.world.random.below(14_000));
    if (round % 3 === 0) {
      await s.world.kill(name);
      await s.world.start(name);
    } else {
      await s.world.powerOff(name, round % 3 === 1 ? 'some' : 'nothing');
      await s.world.powerOn(name);
    }
    await s.world.sleep(5_000);
  }
  await file.close();
  assert.ok(!s.world.errorLines.some((line) => line.includes('older state')), s.world.errorLines.join());
});

/** A file written twice, and one of its two servers with its disk as it was after the first time. */
async function putBackUnder(s: Story, size: number): Promise<{ file: OpenFile; ahead: string; behind: string }> {
  const file = await s.create('f', pattern(size, 1));
  await file.sync();
  await s.world.sleep(75_000);
  const [ahead, behind] = await s.holders(file);
  assert.ok(ahead !== undefined && behind !== undefined);
  const before = s.world.disk(behind).snapshot('/data');
  await s.world.sleep(20_000);
  await file.write(0, pattern(size, 2));
  await file.sync();
  await s.world.sleep(90_000);
  await s.world.kill(behind);
  s.world.disk(behind).putBack('/data', before);
  return { file, ahead, behind };
}

story(
  'P3: a disk that was put back to an older state does not mend what is damaged elsewhere with what was there before',
  async (s) => {
    const { world } = s;
    const size = 300_000;
    const { file, ahead, behind } = await putBackUnder(s, size);
    const block = 2;
    const start = block * BLOCK_SIZE_BYTES;
    const written = pattern(size, 2);
    for (const path of world.disk(ahead).files('/data/chunks')) {
      const place = world
        .disk(ahead)
        .content(path)
        .indexOf(written.subarray(start, start + 60));
      if (place >= 0) world.disk(ahead).corrupt(path, place, Buffer.from('rot'));
    }
    await world.start(behind);
    await world.sleep(60_000);
    const fs = await world.connect('client-3');
    const reader = await s.openAt('f', fs);
    equalBytes(await reader.read(0, start), written.subarray(0, start), 'before the damage');
    await assert.rejects(reader.read(start, 100), { code: 'EIO' });
    await reader.close();
    await file.write(0, written);
    await file.sync();
    await file.close();
    await world.sleep(90_000);
    await s.check('f', written);
  },
  { chunkservers: 2, wantedReplicas: 2 },
);

story(
  'P3: a disk that was put back to an older state is not taken for the chunk while the other server is away',
  async (s) => {
    const { world } = s;
    const size = 100_000;
    const { file, ahead, behind } = await putBackUnder(s, size);
    await file.close();
    await world.kill(ahead);
    await world.start(behind);
    await world.sleep(120_000);
    const reader = await s.openAt('f', s.two);
    await assert.rejects(reader.read(0, 100), { code: 'EIO' });
    await reader.close();
    await world.start(ahead);
    await world.sleep(90_000);
    await s.check('f', pattern(size, 2));
  },
  { chunkservers: 2, wantedReplicas: 2 },
);

for (const [away, outcome] of [
  [2_000, 'goes on'],
  [30_000, 'ENOSPC'],
] as const) {
  story(
    `P11: the disk of one holder is full while the other one is away for ${away / 1000} s: ${outcome}`,
    async (s) => {
      const file = await s.create('f', pattern(SMALL, 1));
      await file.sync();
      const [full, other] = await s.holders(file);
      assert.ok(full !== undefined && other !== undefined);
      s.world.disk(full).fill(0);
      await s.world.kill(other);
      const more = pattern(MIB, 2);
      const writing = file.write(SMALL, more).then(() => file.sync());
      const outcomes = Promise.allSettled([writing]);
      await s.world.sleep(away);
      await s.world.start(other);
      const [done] = await outcomes;
      if (outcome === 'goes on') {
        assert.equal(done.status, 'fulfilled');
        await file.close();
        await s.check('f', Buffer.concat([pattern(SMALL, 1), more]));
      } else {
        assert.ok(done.status === 'rejected' && hasCode(done.reason, 'ENOSPC'), JSON.stringify(done));
        await file.close();
      }
    },
  );
}
