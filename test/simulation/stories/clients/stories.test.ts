/** Failures told as stories: one course of events each, on a few seeds. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { MIB } from '../../../../src/core/limits.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { checkReplicas } from '../../judges/final-check.js';
import { READ_WRITE, root, story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

story('P11, P4: each holder in turn is killed while a client writes, and the writer notices nothing', async (s) => {
  const bytes = pattern(6 * MIB, 1);
  for (const victim of [0, 1]) {
    const name = `file-${victim}`;
    const file = await s.create(name, bytes.subarray(0, 1000));
    await file.flush();
    const holder = (await s.holders(file))[victim] ?? assert.fail('two replicas were wanted');
    const writing = (async () => {
      for (let at = 0; at < bytes.length; at += 256 * 1024) await file.write(at, bytes.subarray(at, at + 256 * 1024));
      await file.close();
    })();
    await s.world.sleep(2);
    await s.world.kill(holder);
    await writing;
    await s.world.sleep(15_000);
    await s.world.start(holder);
    await s.world.sleep(30_000);
    await s.check(name, bytes);
  }
});

story('P9: a replica that was away while its chunk changed is not served when it comes back', async (s) => {
  const file = await s.create('f', pattern(200_000, 1));
  await file.sync();
  const [away] = await s.holders(file);
  assert.ok(away !== undefined);
  await s.world.kill(away);
  const newer = pattern(200_000, 2);
  await file.write(0, newer);
  await file.sync();
  await s.world.start(away);
  const reader = await s.openAt('f', s.two);
  equalBytes(await reader.read(0, 300_000), newer, 'at once');
  // Before and after its report is in, asked directly.
  for (let round = 0; round < 12; round++) {
    await checkReplicas(s.world, s.two, [{ path: 'f', inode: file.inode, size: newer.length }]);
    await s.world.sleep(200);
  }
  await s.world.sleep(20_000);
  await reader.close();
  await file.close();
  await s.check('f', newer);
});

story('P6: the master dies after it made a file and before it said so: the retry gets the first answer', async (s) => {
  const options = { mode: 0o644, flags: READ_WRITE, exclusive: true };
  s.world.network.partition(MASTER, 'client-1', true);
  const creating = s.one.create(root, ROOT_INODE, Buffer.from('once'), options);
  await s.world.sleep(50);
  // The request arrived, the reply did not.
  await s.two.lookup(root, ROOT_INODE, Buffer.from('once'));
  s.world.network.breakConnection('client-1', MASTER);
  await s.world.kill(MASTER);
  s.world.network.heal(MASTER, 'client-1');
  await s.world.sleep(3000);
  await s.world.start(MASTER);
  const { created, file } = await creating;
  assert.equal(created, true, 'EEXIST would be the second answer');
  await file.close();
});

story('P3: a replica whose disk changed a byte is not believed', async (s) => {
  const bytes = pattern(300_000, 3);
  const file = await s.create('f', bytes);
  await file.sync();
  await file.close();
  const [holder] = await s.holders(file);
  assert.ok(holder !== undefined);
  const disk = s.world.disk(holder);
  for (const path of disk.files('/data')) {
    const content = disk.content(path);
    const at = content.indexOf(bytes.subarray(150_000, 150_050));
    if (at >= 0) disk.corrupt(path, at, Buffer.from('corrupt'));
  }
  for (const name of ['client-3', 'client-4', 'client-5', 'client-6']) {
    const fs = await s.world.connect(name);
    const reader = (await fs.openAt(root, ROOT_INODE, Buffer.from('f'), READ_WRITE)).file;
    equalBytes(await reader.read(0, 300_000), bytes, `as ${name} reads it`);
    await reader.close();
  }
});

story('P9, P2: a chunkserver cut off from the master does not serve what changed without it', async (s) => {
  const file = await s.create('f', pattern(100_000, 1));
  await file.sync();
  const [cutOff] = await s.holders(file);
  assert.ok(cutOff !== undefined);
  const reader = await s.openAt('f', s.two);
  equalBytes(await reader.read(0, 100_000), pattern(100_000, 1), 'before');
  // Only the second client still reaches it.
  for (const host of [MASTER, 'client-1', ...s.world.chunkservers]) {
    if (host !== cutOff) s.world.network.partition(host, cutOff);
  }
  const newer = pattern(100_000, 2);
  await file.write(0, newer);
  await file.close();
  const again = await s.openAt('f', s.two);
  equalBytes(await again.read(0, 100_000), newer, 'after');
  // Asked directly, and not fenced yet, it must refuse by the version.
  await checkReplicas(s.world, s.two, [{ path: 'f', inode: file.inode, size: newer.length }]);
  await again.close();
  await reader.close();
  s.world.network.healAll();
  await s.world.sleep(30_000);
  await s.check('f', newer);
});

story('P11: a dead chunkserver holds nothing up for longer than the time to notice it', async (s) => {
  const file = await s.create('f', pattern(500_000, 1));
  await file.sync();
  const [dead] = await s.holders(file);
  assert.ok(dead !== undefined);
  await s.world.powerOff(dead);
  const began = s.world.clock.nowUs;
  const reader = await s.openAt('f', s.two);
  equalBytes(await reader.read(0, 500_000), pattern(500_000, 1), 'read');
  await file.write(0, pattern(500_000, 2));
  await file.sync();
  const tookMs = (s.world.clock.nowUs - began) / 1000;
  assert.ok(tookMs < 30_000, `took ${tookMs} ms`);
  await reader.close();
  await file.close();
});

story('P10: the master is killed again and again under work, and nothing that returned is lost', async (s) => {
  const made: string[] = [];
  const working = (async () => {
    for (let i = 0; i < 60; i++) {
      const options = { mode: 0o644, flags: READ_WRITE, exclusive: true };
      const { file } = await s.one.create(root, ROOT_INODE, Buffer.from(`f${i}`), options);
      await file.close();
      made.push(`f${i}`);
      await s.world.sleep(100);
    }
  })();
  for (let round = 0; round < 4; round++) {
    await s.world.sleep(1000);
    await s.world.kill(MASTER);
    await s.world.sleep(500);
    await s.world.start(MASTER);
  }
  await working;
  const page = await s.two.readDirectory(root, ROOT_INODE, 0);
  assert.deepEqual(page.entries.map((entry) => entry.name.toString()).sort(), made.sort());
});

for (const flags of [{ read: true, write: false }, READ_WRITE]) {
  story(
    `P1: fsync through a later open (${JSON.stringify(flags)}) covers what was written before a close`,
    async (s) => {
      const bytes = pattern(300_000, 7);
      const file = await s.create('f', bytes);
      await file.close();
      const again = (await s.one.openAt(root, ROOT_INODE, Buffer.from('f'), flags)).file;
      await again.sync();
      await again.close();
      const all = [MASTER, ...s.world.chunkservers];
      for (const name of all) await s.world.powerOff(name);
      await s.world.sleep(1000);
      for (const name of all) await s.world.powerOn(name);
      await s.world.sleep(60_000);
      await s.check('f', bytes);
    },
  );
}

story('P2: two clients count in a file under a lock, over broken connections and restarts of the master', async (s) => {
  const files = [await s.create('counter', Buffer.alloc(8)), undefined];
  await files[0]?.flush();
  files[1] = await s.openAt('counter', s.two);
  let holders = 0;
  const rounds = 15;
  const count = async (client: number): Promise<void> => {
    const [fs, file] = [client === 0 ? s.one : s.two, files[client] ?? assert.fail('not open')];
    const lock = { kind: 'posix', start: 0, end: 7, owner: 'program', pid: 1 } as const;
    for (let round = 0; round < rounds; round++) {
      await fs.setLock(file.inode, { ...lock, type: 'write' }, { wait: true });
      assert.equal(++holders, 1, 'one holder at a time');
      const bytes = Buffer.from(await file.read(0, 8));
      bytes.writeBigUInt64LE(bytes.readBigUInt64LE(0) + 1n);
      await s.world.sleep(round % 3 === 0 ? 4_000 : 200); // longer than some of the trouble
      await file.write(0, bytes);
      holders--;
      await fs.setLock(file.inode, { ...lock, type: 'unlock' }, { wait: false });
      if (round % 4 === client) await s.world.sleep(100);
    }
  };
  const counting = Promise.all([count(0), count(1)]);
  for (let trouble = 0; trouble < 6; trouble++) {
    await s.world.sleep(700);
    if (trouble % 3 === 0) {
      await s.world.kill(MASTER);
      await s.world.sleep(1_000);
      await s.world.start(MASTER);
    } else {
      s.world.network.partition(MASTER, `client-${(trouble % 2) + 1}`);
      await s.world.sleep(3_000);
      s.world.network.healAll();
    }
  }
  await counting;
  const expected = Buffer.alloc(8);
  expected.writeBigUInt64LE(BigInt(2 * rounds));
  for (const file of files) await file?.close();
  await s.world.sleep(20_000);
  await s.check('counter', expected);
});

story(
  'P1, P7, P10: every disk fills up, the master dies on it, there is space again: nothing is lost, none hangs',
  async (s) => {
    const { world } = s;
    const bytes = pattern(300_000, 4);
    const names = Array.from({ length: 12 }, (_, i) => `file-${i}`);
    for (const name of names) {
      const file = await s.create(name, bytes);
      await file.sync();
      await file.close();
    }
    const victims = [MASTER, ...world.chunkservers];
    await world.sleep(3_000);
    for (const name of victims) world.disk(name).fill(4_096);
    const begin = world.clock.nowUs;
    const created: string[] = [];
    await assert.rejects(
      async () => {
        for (let i = 0; i < 200; i++) {
          const file = await s.create(`more-${i}`);
          await file.close();
          created.push(`more-${i}`);
        }
      },
      { code: 'ENOSPC' },
      'what grows the namespace',
    );
    const file = await s.openAt('file-0');
    await file.write(bytes.length, pattern(3 * MIB, 5));
    await assert.rejects(file.sync(), { code: 'ENOSPC' }, 'what grows a chunk');
    await file.close();
    const remove = async (name: string): Promise<void> => s.one.unlink(root, ROOT_INODE, Buffer.from(name));
    for (const name of names.splice(6)) await remove(name);
    for (const name of created) await remove(name);
    assert.ok(world.clock.nowUs - begin < 20e6, 'nobody waited for space');
    await world.kill(MASTER);
    await world.start(MASTER);
    await world.sleep(3_000);
    for (const name of names.slice(1)) await s.check(name, bytes);
    await world.powerOff(MASTER);
    await world.powerOn(MASTER);
    for (const name of victims) world.disk(name).makeRoom();
    await world.sleep(20_000);
    for (const name of names.slice(1)) await s.check(name, bytes);
    const again = await s.create('again', bytes);
    await again.sync();
    await again.close();
    await s.check('again', bytes);
  },
);

story(
  'P11: what was removed while the clock of the master was ahead is deleted when that is right again',
  async (s) => {
    const { world } = s;
    const yearMs = 365 * 24 * 3600 * 1000;
    const file = await s.createAtRest('file', pattern(50_000, 1));
    await file.close();
    world.moveClock(MASTER, yearMs);
    await s.one.unlink(root, ROOT_INODE, Buffer.from('file'));
    await world.sleep(4_000);
    world.moveClock(MASTER, -yearMs);
    await world.sleep(60_000);
    const { garbageChunks, servers } = await s.two.status();
    assert.equal(garbageChunks, 0);
    assert.ok(servers.every(({ chunks }) => chunks === 0));
  },
);
