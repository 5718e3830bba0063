/** Clients that lose their session, and with it their locks: nothing that was written under them comes behind what others wrote. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { MAX_LOCK_END } from '../../../../src/core/lock-ranges.js';
import {
  CLIENT_CACHE_TTL_MS,
  KIB,
  LEASE_TTL_MS,
  MIB,
  SESSION_TTL_MS,
  WRITE_BACK_AGE_MS,
} from '../../../../src/core/limits.js';
import type { LockKind, LockRequest, OpenFile } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, fails } from '../../../conformance/case.js';
import { READ_WRITE, root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const lockOf = (kind: LockKind, owner: string): LockRequest => ({
  ...{ kind, owner, type: 'write', start: 0, end: MAX_LOCK_END, pid: 1 },
});
const nothing = (): void => undefined;
const of = (letter: string): Buffer => Buffer.alloc(100 * KIB, letter);

/** A client writes to a file under a lock, and to another one that the lock stands for, and all of it is unsent. */
async function writeUnderLock(s: Story, kind: LockKind): Promise<{ locked: OpenFile; beside: OpenFile }> {
  const [locked, beside] = [await s.create('f', of('-')), await s.create('g', of('-'))];
  await s.one.setLock(locked.inode, lockOf(kind, 'one'), { wait: false });
  for (const file of [locked, beside]) {
    await file.write(0, of('a'));
    await file.sync();
    await file.write(0, of('A'));
  }
  return { locked, beside };
}

/** Another client gets the lock, and writes to both. */
async function writeAfterwards(s: Story, kind: LockKind): Promise<OpenFile> {
  const [locked, beside] = [await s.openAt('f', s.two), await s.openAt('g', s.two)];
  await s.two.setLock(locked.inode, lockOf(kind, 'two'), { wait: true });
  for (const file of [locked, beside]) {
    equalBytes(await file.read(0, 100 * KIB), of('a'), 'what was synced under the lock');
    await file.write(0, of('B'));
    await file.sync();
  }
  await beside.close();
  return locked;
}

for (const how of ['suspended', 'stopped'] as const) {
  for (const kind of ['posix', 'flock'] as const) {
    story(
      `P7: a client that was ${how} for longer than its session writes nothing under a lost ${kind} lock`,
      async (s) => {
        const { locked, beside } = await writeUnderLock(s, kind);
        s.world.freeze('client-1', how);
        const held = await writeAfterwards(s, kind);
        s.world.thaw('client-1');
        await s.world.sleep(10_000);
        await s.check('f', of('B'));
        await s.check('g', of('B'));

        await fails('EIO', locked.read(0, 10));
        await fails('EIO', locked.write(0, of('C')));
        await fails('EIO', locked.truncate(0));
        const cutting = { ...READ_WRITE, truncate: true };
        await fails('EIO', s.one.open(root, locked.inode, cutting).then(nothing));
        await fails('EIO', s.one.openAt(root, ROOT_INODE, Buffer.from('f'), cutting).then(nothing));
        const created = s.one.create(root, ROOT_INODE, Buffer.from('f'), { mode: 0o644, flags: cutting });
        await fails('EIO', created.then(nothing));
        await fails('EIO', locked.sync());
        await fails('EIO', locked.flush());
        await fails('EIO', s.one.setLock(locked.inode, lockOf(kind, 'three'), { wait: false }));
        assert.ok(await s.one.getLock(locked.inode, lockOf(kind, 'one')), 'the other client has it');
        await fails('EIO', locked.close());
        await fails('EIO', beside.sync());
        await beside.sync();
        await beside.write(0, of('D'));
        await beside.close();
        await s.check('f', of('B'));
        await s.check('g', of('D'));
        const other = { mode: 0o644, flags: cutting };
        await (await s.one.create(root, ROOT_INODE, Buffer.from('h'), other)).file.close();

        await s.two.releaseLocks(held.inode, kind, 'two');
        await held.close();
        const again = await s.openAt('f');
        await s.one.setLock(again.inode, lockOf(kind, 'one'), { wait: false });
        await again.write(0, of('E'));
        await again.close();
        await s.check('f', of('E'));
      },
    );
  }
}

story('P7: writes under a lost lock are refused also by a lease that others kept alive', async (s) => {
  const { locked, beside } = await writeUnderLock(s, 'posix');
  s.world.freeze('client-1', 'suspended');
  const [first, second] = [await s.openAt('f', s.two), await s.openAt('g', s.two)];
  let isGranted = false;
  const granted = s.two.setLock(first.inode, lockOf('posix', 'two'), { wait: true }).then(() => {
    isGranted = true;
  });
  // Elsewhere in the same chunks, all the time.
  for (let at = 200 * KIB; !isGranted; at++) {
    for (const file of [first, second]) {
      await file.write(at, Buffer.from('x'));
      await file.flush();
    }
    for (let waited = 0; !isGranted && waited < 1_000; waited += 10) await s.world.sleep(10);
  }
  await granted;
  s.world.network.partition('client-1', MASTER);
  s.world.thaw('client-1');
  // By new connections to the chunkservers, before it hears from the master.
  await s.world.sleep(20);
  const late = Promise.allSettled([locked.sync(), beside.sync()]);
  for (let round = 0; round < 50; round++) {
    for (const file of [first, second]) equalBytes(await file.read(0, 100 * KIB), of('a'), 'under the lock');
    await s.world.sleep(100);
  }
  s.world.network.heal('client-1', MASTER);
  assert.deepEqual(
    (await late).map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  await fails('EIO', locked.close());
  await beside.close();
  for (const file of [first, second]) await file.close();
});

story(
  'P7: locks of a client that did not come back after a restart are free once it cannot write any more',
  async (s) => {
    const { locked } = await writeUnderLock(s, 'posix');
    s.world.freeze('client-1', 'suspended');
    await s.world.kill(MASTER);
    await s.world.start(MASTER);
    const other = await s.openAt('f', s.two);
    await s.two.setLock(other.inode, lockOf('posix', 'two'), { wait: true });
    s.world.thaw('client-1');
    for (let round = 0; round < 40; round++) {
      equalBytes(await other.read(0, 100 * KIB), of('a'), 'under the lock');
      await s.world.sleep(100);
    }
    await fails('EIO', locked.close());
    await other.close();
  },
);

story('P7: a write that waited for room while locks were lost is not made behind what others wrote', async (s) => {
  const first = await s.world.connect('client-3', { maxDirtyBytes: MIB });
  const [locked, beside] = [await s.create('f', of('-'), first), await s.create('g', of('-'), first)];
  await first.setLock(locked.inode, lockOf('posix', 'one'), { wait: false });
  for (const file of [locked, beside]) {
    await file.write(0, of('a'));
    await file.sync();
  }
  for (const server of s.world.chunkservers) s.world.network.partition('client-3', server);
  await beside.write(MIB, Buffer.alloc(MIB, 'x'));
  const late = [beside.write(0, of('A')), beside.write(100 * KIB, of('A'))].map((write) => write.then(nothing));
  const outcomes = Promise.allSettled(late);
  await s.world.sleep(100);
  s.world.freeze('client-3', 'suspended');
  await writeAfterwards(s, 'posix');
  s.world.thaw('client-3');
  for (const server of s.world.chunkservers) s.world.network.heal('client-3', server);
  const all = await outcomes;
  await beside.flush().catch(nothing);
  await s.world.sleep(10_000);
  const found = await s.openAt('g', s.two);
  equalBytes(await found.read(0, 100 * KIB), of('B'), 'what was written under the next lock');
  assert.deepEqual(
    all.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  await fails('EIO', beside.sync());
});

story('P7: no change that was asked for under a lock is made when the lock was lost meanwhile', async (s) => {
  const lock = await s.create('f');
  const text = 'cut open punched zeroed copied renamed';
  const files = new Map<string, OpenFile>();
  for (const name of text.split(' ')) files.set(name, await s.create(name, of('a')));
  const file = (name: string): OpenFile => files.get(name) ?? assert.fail(name);
  const small = await s.create('small', Buffer.from('small'));
  for (const each of [small, ...files.values()]) await each.sync();
  await s.one.setLock(lock.inode, lockOf('posix', 'one'), { wait: false });
  s.world.network.refuse('client-1', MASTER);
  await s.world.sleep(20_000);
  const name = Buffer.from('open');
  const cutting = { ...READ_WRITE, truncate: true };
  const late = Promise.allSettled([
    file('cut').truncate(0),
    s.one.openAt(root, ROOT_INODE, name, cutting),
    file('punched').allocate(0, 50 * KIB, { punchHole: true, keepSize: true }),
    file('zeroed').allocate(0, 50 * KIB, { zeroRange: true }),
    file('copied').copyFrom(small, 0, 0, 5),
    s.one.rename(
      root,
      { parent: ROOT_INODE, name: Buffer.from('small') },
      { parent: ROOT_INODE, name: Buffer.from('renamed') },
    ),
  ]);
  const next = await s.openAt('f', s.two);
  await s.two.setLock(next.inode, lockOf('posix', 'two'), { wait: true });
  for (const each of files.keys()) {
    const other = await s.openAt(each, s.two);
    await other.write(0, of('B'));
    await other.sync();
    await other.close();
  }
  s.world.network.heal('client-1', MASTER);
  const outcomes = await late;
  await s.world.sleep(2_000);
  for (const each of files.keys()) {
    const other = await s.openAt(each, s.two);
    equalBytes(await other.read(0, 200 * KIB), of('B'), each);
    await other.close();
  }
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    outcomes.map(() => 'rejected'),
  );
});

const LONG = 4 * MIB;
const long = (letter: string): Buffer => Buffer.alloc(LONG, letter);

/** Read in order, as what keeps what it read: the handle's readahead. */
async function readThrough(file: OpenFile): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = 0; at < LONG; at += MIB) parts.push(await file.read(at, MIB));
  return Buffer.concat(parts);
}

/** The first client sends all of a long write and is gone before it can tell the master of it. */
async function goInTheMiddle(s: Story, kind: LockKind | undefined): Promise<OpenFile> {
  const held = await s.create('f', long('o'), s.two);
  await held.sync();
  equalBytes(await readThrough(held), long('o'), 'before');
  const writer = await s.openAt('f');
  if (kind !== undefined) await s.one.setLock(writer.inode, lockOf(kind, 'one'), { wait: false });
  const { change } = await s.two.getAttributes(held.inode);
  await writer.write(0, long('N'));
  await s.world.sleep(WRITE_BACK_AGE_MS / 2);
  s.world.freeze('client-1', 'stopped');
  await s.world.sleep(2 * CLIENT_CACHE_TTL_MS);
  assert.equal((await s.two.getAttributes(held.inode)).change, change, 'nobody told the master');
  return held;
}

/** What one client sees through a handle that it has read by before is what another sees that never looked. */
async function demandOneContent(s: Story, held: OpenFile): Promise<void> {
  const third = await s.world.connect('client-4');
  const file = await s.openAt('f', third);
  const content = await readThrough(file);
  equalBytes(content, long('N'), 'all of it had been sent');
  equalBytes(await readThrough(held), content, 'what was read before is old');
  await file.close();
}

for (const kind of ['posix', 'flock'] as const) {
  story(`P2: who is granted the ${kind} lock of a client that died sees what that had sent`, async (s) => {
    const held = await goInTheMiddle(s, kind);
    await s.two.setLock(held.inode, lockOf(kind, 'two'), { wait: true });
    await demandOneContent(s, held);
  });
}

story('P2: and so after a restart of the master', async (s) => {
  const held = await goInTheMiddle(s, 'posix');
  await s.world.kill(MASTER);
  await s.world.start(MASTER);
  await s.two.setLock(held.inode, lockOf('posix', 'two'), { wait: true });
  await demandOneContent(s, held);
});

story('P2: what a client that died had sent shows at the next open, also where others write the file', async (s) => {
  const held = await goInTheMiddle(s, undefined);
  await s.world.sleep(SESSION_TTL_MS + 10_000);
  await (await s.openAt('f', s.two)).close();
  await demandOneContent(s, held);
});

for (const kind of ['posix', 'flock'] as const) {
  story(
    `P2: a ${kind} lock goes on when the size was told, also if the master was silent for longer than calls take`,
    async (s) => {
      const held = await s.create('f', of('o'), s.two);
      await held.sync();
      const writer = await s.openAt('f');
      await s.one.setLock(writer.inode, lockOf(kind, 'one'), { wait: false });
      const granted = s.two.setLock(held.inode, lockOf(kind, 'two'), { wait: true });
      await s.world.sleep(1_000);
      await writer.write(0, of('N'));
      await writer.write(100 * KIB, of('N'));
      await s.world.sleep(WRITE_BACK_AGE_MS / 2);
      await s.world.kill(MASTER);
      const unlocked =
        kind === 'posix'
          ? s.one.setLock(writer.inode, { ...lockOf(kind, 'one'), type: 'unlock' }, { wait: false })
          : s.one.releaseLocks(writer.inode, kind, 'one');
      await fails('TIMEOUT', unlocked);
      // So that others can be faster than what it tells.
      s.world.network.slow('client-1', MASTER, 1_000);
      await s.world.start(MASTER);
      await granted;
      equalBytes(await held.read(0, 300 * KIB), Buffer.concat([of('N'), of('N')]), 'what was written under the lock');
      await writer.close();
    },
  );
}

story('P2: what is locked again before it could be given up is not given up behind its owner', async (s) => {
  const held = await s.create('f', of('o'), s.two);
  await held.sync();
  const writer = await s.openAt('f');
  await s.one.setLock(writer.inode, lockOf('posix', 'one'), { wait: false });
  await writer.write(0, of('N'));
  await s.world.sleep(WRITE_BACK_AGE_MS / 2);
  await s.world.kill(MASTER);
  const all = { ...lockOf('posix', 'one'), type: 'unlock' as const };
  await fails('TIMEOUT', s.one.setLock(writer.inode, all, { wait: false }));
  const again = s.one.setLock(writer.inode, { ...lockOf('posix', 'one'), end: 99 }, { wait: false });
  await s.world.start(MASTER);
  await again;
  await s.world.sleep(10_000);
  await fails('EAGAIN', s.two.setLock(held.inode, { ...lockOf('posix', 'two'), start: 50 }, { wait: false }));
  await s.two.setLock(held.inode, { ...lockOf('posix', 'two'), start: 100 }, { wait: false });
  equalBytes(await held.read(0, 100 * KIB), of('N'), 'what was written under the lock');
  await s.one.setLock(writer.inode, all, { wait: false });
  await s.two.setLock(held.inode, lockOf('posix', 'two'), { wait: false });
  await writer.close();
});

/** A client that gives up sooner than its session ends: a third one, cut off from the master before it can tell what it sent. */
async function giveUpPublishing(s: Story, content: Buffer): Promise<void> {
  const hasty = await s.world.connect('client-3', { operationTimeoutMs: 20_000 });
  const file = await s.openAt('f', hasty);
  await file.write(0, content);
  await s.world.sleep(WRITE_BACK_AGE_MS / 2);
  s.world.network.refuse('client-3', MASTER);
  await fails('TIMEOUT', file.close());
  await s.world.sleep(25_000);
  s.world.network.heal('client-3', MASTER);
  await s.world.sleep(10_000);
  assert.ok(await hasty.getAttributes(file.inode), 'its session goes on');
}

story('P2: what a client sent and closed without being able to tell of it shows at the next open', async (s) => {
  const held = await s.create('f', long('o'), s.two);
  await held.sync();
  equalBytes(await readThrough(held), long('o'), 'before');
  await giveUpPublishing(s, long('N'));
  await (await s.openAt('f', s.two)).close();
  await demandOneContent(s, held);
});

story('P5: and what it sent past the end does not show when others make the file longer', async (s) => {
  await (await s.create('f', Buffer.alloc(0), s.two)).close();
  await giveUpPublishing(s, of('N'));
  const file = await s.openAt('f', s.two);
  assert.equal((await file.attributes()).size, 0);
  await file.write(200 * KIB, of('x'));
  await file.sync();
  equalBytes(await file.read(0, 200 * KIB), Buffer.alloc(200 * KIB), 'nobody wrote there');
  await file.close();
});

story('P7: nor does a copy by the chunkservers that was under way when locks were lost', async (s) => {
  const first = await s.world.connect('client-3');
  const [lock, source] = [await s.create('f', of('-'), first), await s.create('h', Buffer.alloc(MIB, 'A'), first)];
  const beside = await s.create('g', Buffer.alloc(MIB, 'a'), first);
  for (const file of [lock, source, beside]) await file.sync();
  await first.setLock(lock.inode, lockOf('posix', 'one'), { wait: false });
  await source.read(0, 10);
  for (const server of s.world.chunkservers) s.world.network.partition('client-3', server);
  const late = Promise.allSettled([beside.copyFrom(source, 0, 0, MIB)]);
  await s.world.sleep(100);
  s.world.freeze('client-3', 'suspended');
  const [locked, other] = [await s.openAt('f', s.two), await s.openAt('g', s.two)];
  await s.two.setLock(locked.inode, lockOf('posix', 'two'), { wait: true });
  await other.write(0, Buffer.alloc(MIB, 'B'));
  await other.sync();
  s.world.thaw('client-3');
  for (const server of s.world.chunkservers) s.world.network.heal('client-3', server);
  const [outcome] = await late;
  await s.world.sleep(5_000);
  const found = await s.world.connect('client-4');
  const file = await s.openAt('g', found);
  equalBytes(await file.read(0, MIB), Buffer.alloc(MIB, 'B'), 'what was written under the next lock');
  assert.equal(outcome?.status, 'rejected');
});

for (const kind of ['posix', 'flock'] as const) {
  story(`a ${kind} lock that was given up asking for while the master hung is not held by nobody`, async (s) => {
    const file = await s.create('f', of('-'));
    const other = await s.openAt('f', s.two);
    s.world.freeze(MASTER, 'stopped');
    const controller = new AbortController();
    const asked = s.one.setLock(file.inode, lockOf(kind, 'one'), { wait: true, signal: controller.signal });
    const given = fails('EINTR', asked);
    await s.world.sleep(3_000);
    controller.abort();
    await given;
    // As the end of the process does.
    const released = s.one.releaseLocks(file.inode, kind, 'one');
    await s.world.sleep(100);
    s.world.thaw(MASTER);
    await released;
    let isGranted = false;
    const granted = s.two.setLock(other.inode, lockOf(kind, 'two'), { wait: true }).then(() => {
      isGranted = true;
    });
    await s.world.sleep(30_000);
    assert.ok(isGranted, 'the lock is free');
    await granted;
  });
}

/** A client dies in the middle of a write; the lease that it wrote under ends before its session does, and the master restarts between. */
async function restartAfterTheLease(s: Story, content: Buffer, at: number): Promise<OpenFile> {
  const held = await s.create('f', long('o'), s.two);
  await held.sync();
  equalBytes(await readThrough(held), long('o'), 'before');
  await s.world.sleep(LEASE_TTL_MS + 15_000);
  const writer = await s.openAt('f');
  await writer.write(0, Buffer.from('o'));
  await writer.sync();
  await s.world.sleep(LEASE_TTL_MS / 2 - 5_000);
  await (await s.openAt('f', s.two)).close();
  await readThrough(held);
  await writer.write(at, content);
  await s.world.sleep(WRITE_BACK_AGE_MS / 2);
  s.world.freeze('client-1', 'stopped');
  await s.world.sleep(LEASE_TTL_MS / 2 + 15_000);
  await s.world.kill(MASTER);
  await s.world.start(MASTER);
  await s.world.sleep(2 * SESSION_TTL_MS);
  return held;
}

story('P2: what a dead client had sent shows also when the master restarts after its lease ended', async (s) => {
  const held = await restartAfterTheLease(s, long('N'), 0);
  await (await s.openAt('f', s.two)).close();
  await demandOneContent(s, held);
});

story('P5: and what it sent past the end does not show when others make the file longer', async (s) => {
  const held = await restartAfterTheLease(s, long('N'), LONG);
  await held.close();
  await s.world.sleep(1_000);
  const file = await s.openAt('f', s.two);
  assert.equal((await file.attributes()).size, LONG);
  await file.write(2 * LONG, of('x'));
  await file.sync();
  equalBytes(await file.read(LONG, MIB), Buffer.alloc(MIB), 'nobody wrote there');
});

/** Another program takes all space on the master's disk, and what the master gives up of its reserve. */
async function fillTheMaster(s: Story): Promise<() => Promise<void>> {
  const third = await s.world.connect('client-3');
  const file = await s.create('x', Buffer.alloc(0), third);
  const disk = s.world.disk(MASTER);
  for (let refusals = 0, mode = 0o600; refusals < 10; mode ^= 0o40) {
    disk.fill(0, '/log');
    try {
      await third.setAttributes(root, file.inode, { mode });
      refusals = 0;
    } catch {
      refusals++;
    }
  }
  return async () => {
    disk.makeRoom('/log');
    await s.world.sleep(5_000);
  };
}

for (const how of ['', ', also when it goes on reading the file', ', and is gone then'] as const) {
  story(
    `P2: what a client could not tell because the disk of the master was full shows at the next open${how}`,
    async (s) => {
      const held = await s.create('f', long('o'), s.two);
      await held.sync();
      const writer = await s.openAt('f');
      if (how !== '') await s.one.open(root, writer.inode, { read: true, write: false });
      await writer.write(0, Buffer.from('o'));
      await writer.sync();
      await (await s.openAt('f', s.two)).close();
      equalBytes(await readThrough(held), long('o'), 'before');
      const makeRoom = await fillTheMaster(s);
      await writer.write(0, long('N'));
      await writer.write(LONG, of('N'));
      await fails('ENOSPC', writer.close());
      if (how === ', and is gone then') {
        await s.world.sleep(1_000);
        s.world.freeze('client-1', 'stopped');
        await s.world.sleep(SESSION_TTL_MS + 10_000);
      }
      await makeRoom();
      const last = await s.openAt('f', s.two);
      await demandOneContent(s, held);
      const { size } = await last.attributes();
      if (how === ', also when it goes on reading the file') {
        equalBytes(await last.read(0, 2 * LONG), Buffer.concat([long('N'), of('N')]), 'it told when there was room');
      } else assert.equal(size, LONG);
      await held.close();
      await last.close();
      await s.world.sleep(1_000);
      const longer = await s.openAt('f', s.two);
      await longer.write(2 * LONG, of('x'));
      await longer.sync();
      equalBytes(await longer.read(size, MIB), Buffer.alloc(MIB), 'P5: nobody wrote there');
      await longer.close();
    },
  );
}

for (const times of [1, 2]) {
  story(
    `P5: bytes of a write past the end that was given up do not show when others make the file longer (${times})`,
    async (s) => {
      const fs = await s.world.connect('client-3', { operationTimeoutMs: 15_000 });
      const files = [await s.create('f', of('o'), fs)];
      const [file] = files;
      assert.ok(file !== undefined);
      await file.sync();
      if (times === 2) files.push((await fs.open(root, file.inode, { read: true, write: false })).file);
      // What it sends arrives, and no answer.
      for (const server of s.world.chunkservers) s.world.network.partition(server, 'client-3', true);
      await file.write(100 * KIB, of('N'));
      await fails('EIO', file.close());
      for (const server of s.world.chunkservers) s.world.network.heal(server, 'client-3');
      for (const other of files.slice(1)) await other.close();
      await s.world.sleep(5_000);
      const longer = await s.openAt('f', s.two);
      assert.equal((await longer.attributes()).size, 100 * KIB);
      await longer.write(300 * KIB, of('x'));
      await longer.sync();
      equalBytes(await longer.read(100 * KIB, 200 * KIB), Buffer.alloc(200 * KIB), 'nobody wrote there');
      await longer.close();
    },
  );
}

for (const kind of ['posix', 'flock'] as const) {
  story(`a ${kind} lock that is granted to a client while it is away has one holder when it comes back`, async (s) => {
    const file = await s.create('f', of('-'));
    const second = await s.openAt('f', s.two);
    const fs = await s.world.connect('client-3');
    const third = await s.openAt('f', fs);
    await fs.setLock(third.inode, lockOf(kind, 'three'), { wait: true });
    let holders = 0;
    const hold = async (client: typeof s.one, owner: string): Promise<void> => {
      await client.setLock(file.inode, lockOf(kind, owner), { wait: true });
      holders++;
      assert.equal(holders, 1, 'holders');
      await s.world.sleep(2_000);
      holders--;
      await client.releaseLocks(file.inode, kind, owner);
    };
    const first = hold(s.one, 'one');
    await s.world.sleep(1_000);
    const next = hold(s.two, 'two');
    await s.world.sleep(1_000);
    s.world.network.refuse('client-1', MASTER);
    await s.world.sleep(1_000);
    await fs.releaseLocks(third.inode, kind, 'three');
    await s.world.sleep(5_000);
    s.world.network.heal('client-1', MASTER);
    await Promise.all([first, next]);
    await second.close();
  });
}

story(
  'P10: a lock that went on with the end of a session does not come back to it when the master loses power',
  async (s) => {
    const { world } = s;
    await (await s.create('f', of('-'))).close();
    const reading = { read: true, write: false };
    const { file: locked } = await s.one.openAt(root, ROOT_INODE, Buffer.from('f'), reading);
    const { file: other } = await s.two.openAt(root, ROOT_INODE, Buffer.from('f'), reading);
    await s.one.setLock(locked.inode, lockOf('flock', 'one'), { wait: false });
    world.network.partition(MASTER, 'client-1');
    await s.two.setLock(other.inode, lockOf('flock', 'two'), { wait: true });
    await s.two.releaseLocks(other.inode, 'flock', 'two');
    await world.powerOff(MASTER, 'nothing');
    world.network.heal(MASTER, 'client-1');
    await world.powerOn(MASTER);
    await world.sleep(5_000);
    await fails('EIO', locked.read(0, 10));
  },
);
