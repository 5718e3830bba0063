/** The master's directory is put back to an older state, as from a backup, while chunkservers and clients live on. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { MAX_LOCK_END } from '../../../../src/core/lock-ranges.js';
import type { FileSystem, LockRequest } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { backUp, restore } from '../../world/administrator.js';
import { seeds } from '../../world/seeds.js';
import { READ_WRITE, root, story, Story } from '../../world/story.js';
import { MASTER, World } from '../../world/world.js';

t.setTimeout(0);

async function make(fs: FileSystem, name: string, bytes: Uint8Array): Promise<void> {
  const { file } = await fs.create(root, ROOT_INODE, Buffer.from(name), { mode: 0o644, flags: READ_WRITE });
  await file.write(0, bytes);
  await file.sync();
  await file.close();
}

async function look(fs: FileSystem, name: string): Promise<Buffer> {
  const { file } = await fs.openAt(root, ROOT_INODE, Buffer.from(name), { read: true, write: false });
  try {
    return Buffer.from(await file.read(0, 1 << 20));
  } finally {
    await file.close();
  }
}

const aside = async (s: Story): Promise<number> =>
  (await s.two.status()).servers.reduce((sum, server) => sum + server.aside, 0);

story(
  'P1, P3: what is written after a restore is whole, and what it does not know is kept until it comes back',
  async (s) => {
    const { world } = s;
    await make(s.one, 'before', pattern(1000, 1));
    await world.sleep(10_000);
    const yesterday = backUp(world);
    // More than one block of ids.
    for (let i = 0; i < 8; i++) await make(s.one, `lost-${i}`, pattern(3000, 100 + i));
    await world.sleep(20_000);
    const today = backUp(world);
    await restore(world, yesterday);
    const fresh = await world.connect('client-3');
    for (let i = 0; i < 20; i++) await make(fresh, `new-${i}`, pattern(2000, 200 + i));
    await world.sleep(60_000);
    const kept = async (): Promise<void> => {
      for (let i = 0; i < 20; i++) equalBytes(await look(s.two, `new-${i}`), pattern(2000, 200 + i), `new-${i}`);
      equalBytes(await look(s.two, 'before'), pattern(1000, 1), 'before');
      await assert.rejects(look(s.two, 'lost-0'), { code: 'ENOENT' });
    };
    await kept();
    assert.equal(await aside(s), 16);
    // Another start changes nothing, and nobody is taken for a stranger again.
    const { epoch } = await s.two.status();
    await world.kill(MASTER);
    await world.start(MASTER);
    await world.sleep(20_000);
    await kept();
    assert.equal((await s.two.status()).epoch, epoch + 1);
    // The administrator finds the newer state.
    await restore(world, today);
    await world.sleep(20_000);
    for (let i = 0; i < 8; i++) equalBytes(await look(s.two, `lost-${i}`), pattern(3000, 100 + i), `lost-${i}`);
    await assert.rejects(look(s.two, 'new-0'), { code: 'ENOENT' });
    assert.equal(await aside(s), 40);
  },
);

story('P1: a file that is open when its making is undone by a restore is no other file afterwards', async (s) => {
  const { world } = s;
  await world.sleep(5_000);
  const backup = backUp(world);
  const file = await s.create('mine', pattern(5000, 1));
  await file.sync();
  await world.sleep(5_000);
  await file.write(0, pattern(5000, 2));
  await restore(world, backup);
  const fresh = await world.connect('client-3');
  for (let i = 0; i < 5; i++) await make(fresh, `other-${i}`, pattern(4000, 10 + i));
  await assert.rejects(
    (async () => {
      await file.write(1000, pattern(5000, 3));
      await file.sync();
    })(),
  );
  await assert.rejects(file.close());
  await world.sleep(20_000);
  for (let i = 0; i < 5; i++) equalBytes(await look(s.two, `other-${i}`), pattern(4000, 10 + i), `other-${i}`);
  // The same client goes on by names.
  await make(s.one, 'mine', pattern(100, 4));
  equalBytes(await look(s.two, 'mine'), pattern(100, 4), 'mine');
});

story('P1: nor when the same backup is put back a second time', async (s) => {
  const { world } = s;
  await world.sleep(5_000);
  const backup = backUp(world);
  for (let i = 0; i < 3; i++) await make(s.two, `lost-${i}`, pattern(100, i));
  await world.sleep(10_000);
  await restore(world, backup);
  await world.sleep(10_000);
  const file = await s.create('mine', pattern(5000, 1));
  await file.sync();
  await world.sleep(10_000);
  // The chunkservers are there first: nothing but their marks tells of what was given since the backup.
  for (const client of ['client-1', 'client-2']) world.network.partition(MASTER, client);
  await restore(world, backup);
  await world.sleep(6_000);
  const fresh = await world.connect('client-3');
  for (let i = 0; i < 5; i++) await make(fresh, `other-${i}`, pattern(4000, 10 + i));
  world.network.healAll();
  await assert.rejects(
    (async () => {
      await file.write(1000, pattern(5000, 3));
      await file.sync();
    })(),
    { code: 'ESTALE' },
  );
  await file.close().catch(() => undefined);
  for (let i = 0; i < 5; i++) equalBytes(await look(s.two, `other-${i}`), pattern(4000, 10 + i), `other-${i}`);
});

story(
  'P1: a chunkserver that comes long after the restore keeps what it alone knows, and disturbs nobody',
  async (s) => {
    const { world } = s;
    await make(s.one, 'before', pattern(1000, 1));
    await world.sleep(5_000);
    const yesterday = backUp(world);
    for (let i = 0; i < 8; i++) await make(s.one, `lost-${i}`, pattern(3000, 100 + i));
    await world.sleep(5_000);
    const today = backUp(world);
    await world.kill('chunkserver-1');
    await restore(world, yesterday);
    for (let i = 0; i < 20; i++) await make(s.two, `new-${i}`, pattern(2000, 200 + i));
    await world.sleep(60_000);
    await world.start('chunkserver-1');
    await world.sleep(60_000);
    for (let i = 0; i < 20; i++) equalBytes(await look(s.two, `new-${i}`), pattern(2000, 200 + i), `new-${i}`);
    assert.equal(await aside(s), 16);
    await restore(world, today);
    await world.sleep(20_000);
    for (let i = 0; i < 8; i++) equalBytes(await look(s.two, `lost-${i}`), pattern(3000, 100 + i), `lost-${i}`);
  },
);

story('P1: of a chunk that was recovered since the backup the newest replica counts', async (s) => {
  const { world } = s;
  const file = await s.create('f', pattern(5000, 1));
  await file.sync();
  await world.sleep(5_000);
  const backup = backUp(world);
  const [first] = await s.holders(file);
  assert.ok(first !== undefined);
  await world.kill(first);
  await file.write(0, pattern(5000, 2));
  await file.sync();
  await file.close();
  await world.sleep(5_000);
  await world.kill(MASTER);
  await world.start(first);
  await backup();
  await world.start(MASTER);
  await world.sleep(60_000);
  await s.check('f', pattern(5000, 2));
});

t.test('P1: the newest replica counts also for who writes before its server has reported', async () => {
  for (const seed of seeds(8, 1)) {
    const world = new World({ seed });
    await world.runReported(async () => {
      await world.startAll();
      const s = new Story(world, await world.connect('client-1'), await world.connect('client-2'));
      const file = await s.create('f', pattern(50_000, 1));
      await file.sync();
      await world.sleep(5_000);
      const backup = backUp(world);
      const [one, other] = await s.holders(file);
      const stale = seed % 2 === 0 ? other : one;
      assert.ok(stale !== undefined);
      await world.kill(stale);
      await file.write(0, pattern(50_000, 2));
      await file.sync();
      await file.close();
      await world.sleep(5_000);
      await world.kill(MASTER);
      await world.start(stale);
      await backup();
      const written = writesSoon(s, 'f', pattern(100, 3));
      await world.start(MASTER);
      await written;
      await world.sleep(60_000);
      await s.check('f', Buffer.concat([pattern(100, 3), pattern(50_000, 2).subarray(100)]));
    });
    world.stop();
  }
});

/** A new client that tries until it is done. */
async function writesSoon(s: Story, name: string, bytes: Uint8Array): Promise<void> {
  const fs = await s.world.connect('client-3');
  for (;;) {
    try {
      const file = await s.openAt(name, fs);
      await file.write(0, bytes);
      await file.sync();
      await file.close();
      return;
    } catch {
      await s.world.sleep(200);
    }
  }
}

story('what was removed while a chunkserver was away is deleted there when it is back, not kept', async (s) => {
  const { world } = s;
  const file = await s.create('f', pattern(5000, 1));
  await file.sync();
  const [away] = await s.holders(file);
  assert.ok(away !== undefined);
  await file.close();
  await world.kill(away);
  await s.one.unlink(root, ROOT_INODE, Buffer.from('f'));
  await world.sleep(60_000);
  await world.kill(MASTER);
  await world.start(MASTER);
  await world.start(away);
  await world.sleep(20_000);
  const status = await s.two.status();
  assert.deepEqual(
    status.servers.map(({ chunks, aside: kept }) => [chunks, kept]),
    [
      [0, 0],
      [0, 0],
      [0, 0],
    ],
  );
});

story('P11: a file that can be neither set aside nor taken back keeps no server from joining', async (s) => {
  const { world } = s;
  const [victim = ''] = world.chunkservers;
  await make(s.one, 'before', pattern(1000, 1));
  await world.sleep(10_000);
  const yesterday = backUp(world);
  for (let i = 0; i < 8; i++) await make(s.one, `lost-${i}`, pattern(3000, 100 + i));
  await world.sleep(40_000);
  const today = backUp(world);
  const disk = world.disk(victim);
  const bad = disk.files('/data/chunks').at(-1) ?? assert.fail('it has replicas');
  const name = bad.slice(bad.lastIndexOf('/') + 1);
  const failing = disk.plant((_, path) => path.includes(name), { failWith: 'EIO' });
  await restore(world, yesterday);
  await world.sleep(30_000);
  const allJoined = async (when: string): Promise<void> => {
    const { servers } = await s.two.status();
    assert.ok(
      servers.every(({ alive }) => alive),
      `all serve, ${when}`,
    );
  };
  await allJoined('after the restore');
  equalBytes(await look(s.two, 'before'), pattern(1000, 1), 'before');
  // It goes aside now, and cannot be taken back.
  disk.lift(failing);
  await world.kill(victim);
  await world.start(victim);
  await world.sleep(30_000);
  const again = disk.plant((label) => label === 'aside.rename', { failWith: 'EIO' });
  await restore(world, today);
  await world.sleep(30_000);
  await allJoined('after the newer state');
  assert.ok(again.hits > 0);
  disk.lift(again);
  await world.kill(victim);
  await world.start(victim);
  await world.sleep(60_000);
  const fresh = await world.connect('client-4');
  for (let i = 0; i < 8; i++) equalBytes(await look(fresh, `lost-${i}`), pattern(3000, 100 + i), `lost-${i}`);
});

for (const isThere of [true, false]) {
  const where = isThere ? 'beside' : 'while away is';
  story(`P11: a server whose id was given again after a restore joins, ${where} the one that has it now`, async (s) => {
    const { world } = s;
    await world.kill('chunkserver-3');
    world.disk('chunkserver-3').format('/data');
    await world.sleep(1_000);
    const backup = backUp(world);
    await world.start('chunkserver-3');
    await world.sleep(10_000);
    await world.kill('chunkserver-3');
    await world.kill('chunkserver-2');
    world.disk('chunkserver-2').format('/data');
    await restore(world, backup);
    await world.start('chunkserver-2');
    await world.sleep(5_000);
    await make(s.two, 'file', pattern(3000, 1));
    if (!isThere) await world.kill('chunkserver-2');
    await world.start('chunkserver-3');
    await world.sleep(5_000);
    if (!isThere) await world.start('chunkserver-2');
    await world.sleep(90_000);
    const { servers } = await s.two.status();
    const there = servers.filter(({ alive }) => alive).map(({ address }) => address.split(':')[0] ?? '');
    assert.deepEqual(there.sort(), world.chunkservers, JSON.stringify(servers));
    await s.check('file', pattern(3000, 1));
  });
}

/** Overwrites what is in the file 'f'. */
async function rewrite(fs: FileSystem, seed: number): Promise<void> {
  const { file } = await fs.openAt(root, ROOT_INODE, Buffer.from('f'), READ_WRITE);
  await file.write(0, pattern(5000, seed));
  await file.sync();
  await file.close();
}

/**
 * A chunk moved by two recoveries since the backup, to which the master is put back. One of its servers of then is there, and
 * what is written and synced now is on that one alone. Returns it, and the one that had the chunk last, which is away.
 */
async function writtenBesideNewer(s: Story): Promise<{ readonly writer: string; readonly newer: string }> {
  const { world } = s;
  const file = await s.create('f', pattern(5000, 1));
  await file.sync();
  await file.close();
  await world.sleep(90_000);
  const backup = backUp(world);
  const [writer = '', other = ''] = await s.holders(file);
  const newer = world.chunkservers.find((name) => name !== writer && name !== other) ?? '';
  await world.kill(writer);
  await rewrite(s.one, 2);
  await world.sleep(90_000);
  await world.kill(other);
  await rewrite(s.one, 3);
  await world.sleep(10_000);
  await world.kill(newer);
  for (const fs of [s.one, s.two]) await fs.close();
  await restore(world, backup);
  await world.start(writer);
  await world.sleep(15_000);
  await rewrite(await world.connect('client-3'), 4);
  return { writer, newer };
}

story('P1: what a server keeps aside does not take the place of a copy that it got, when it comes again', async (s) => {
  const { world } = s;
  const { newer } = await writtenBesideNewer(s);
  await world.start(newer);
  await world.sleep(120_000);
  await world.kill(newer);
  await world.start(newer);
  await world.sleep(60_000);
  equalBytes(await look(await world.connect('client-4'), 'f'), pattern(5000, 4), 'f');
});

story('P1: nor does what a server brings while that which was written to is away for a moment', async (s) => {
  const { world } = s;
  const { writer, newer } = await writtenBesideNewer(s);
  await world.kill(writer);
  await world.sleep(15_000);
  await world.start(newer);
  await world.sleep(30_000);
  await world.start(writer);
  await world.sleep(60_000);
  equalBytes(await look(await world.connect('client-4'), 'f'), pattern(5000, 4), 'f');
});

story(
  'P1: nor does what is on a disk that was away while its server got the copy',
  async (s) => {
    const { world } = s;
    const { newer } = await writtenBesideNewer(s);
    const disk = world.disk(newer);
    const [path = ''] = disk.files().filter((file) => file.includes('/chunks/'));
    const volume = path.slice(0, path.indexOf('/chunks/'));
    disk.unmount(volume);
    await world.start(newer);
    await world.sleep(120_000);
    await world.kill(newer);
    disk.mount(volume);
    await world.start(newer);
    await world.sleep(60_000);
    equalBytes(await look(await world.connect('client-4'), 'f'), pattern(5000, 4), 'f');
  },
  { dataDirectories: 2 },
);

for (const clients of ['with other clients', 'without']) {
  story(`P1: a lock of a session that the backup does not have is nobody else's, ${clients}`, async (s) => {
    const { world } = s;
    await make(s.one, 'f', pattern(5000, 1));
    if (clients === 'without') for (const fs of [s.one, s.two]) await fs.close();
    // Of the leases that it has had the backup knows nothing.
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
    const next = clients === 'without' ? await world.connect('client-4') : s.two;
    const mine = await s.openAt('f', next);
    const seen = next.setLock(mine.inode, lock, { wait: true }).then(() => mine.read(0, 5000));
    // It does not know yet, and its leases are good.
    await world.sleep(3_000);
    await held.write(0, pattern(5000, 3));
    await assert.rejects(held.flush(), 'it cannot be told of');
    const content = Buffer.from(await seen);
    world.network.healAll();
    await world.sleep(10_000);
    equalBytes(await look(await world.connect('client-5'), 'f'), content, 'what is under the lock');
    await assert.rejects(held.sync(), { code: 'EIO' });
  });
}
