/** Locks that are granted, and of which their programs cannot be told: they are taken back, and nothing else is. */
import assert from 'node:assert/strict';
import t from 'tap';
import { CairnError } from '../../../../src/core/errors.js';
import { KIB, SESSION_TTL_MS } from '../../../../src/core/limits.js';
import { MAX_LOCK_END } from '../../../../src/core/lock-ranges.js';
import type { LockKind, LockRequest } from '../../../../src/filesystem/filesystem.js';
import { fails } from '../../../conformance/case.js';
import { story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const lockOf = (kind: LockKind, owner: string): LockRequest => ({
  ...{ kind, owner, type: 'write', start: 0, end: MAX_LOCK_END, pid: 1 },
});
const of = (letter: string): Buffer => Buffer.alloc(100 * KIB, letter);

for (const kind of ['posix', 'flock'] as const) {
  story(`a ${kind} lock that was granted and could not be told to its program is not held by nobody`, async (s) => {
    const file = await s.create('f', of('-'));
    const second = await s.openAt('f', s.two);
    const third = await s.world.connect('client-3');
    const other = await s.openAt('f', third);
    await s.one.setLock(file.inode, lockOf(kind, 'one'), { wait: true });
    const asked = fails('TIMEOUT', s.two.setLock(second.inode, lockOf(kind, 'two'), { wait: true }));
    await s.world.sleep(1_000);
    // The answer is on its way for a while; then it is too late to look at the file.
    s.world.network.slow('client-2', MASTER, 1_000);
    await s.one.releaseLocks(file.inode, kind, 'one');
    while ((await third.getLock(other.inode, lockOf(kind, 'three'))) === undefined) await s.world.sleep(1);
    await s.world.kill(MASTER);
    await asked;
    await s.world.start(MASTER);
    let isGranted = false;
    const granted = third.setLock(other.inode, lockOf(kind, 'three'), { wait: true }).then(() => {
      isGranted = true;
    });
    await s.world.sleep(30_000);
    assert.ok(isGranted, 'the lock is free');
    await granted;
  });
}

for (const kind of ['posix', 'flock'] as const) {
  story(`a ${kind} lock that its mount cannot hand on is given up, and what was held before is kept`, async (s) => {
    const file = await s.create('f', of('-'));
    const other = await s.openAt('f', s.two);
    const onGranted = async (): Promise<void> => {
      throw new CairnError('TIMEOUT', 'pages are not dropped');
    };
    await fails('TIMEOUT', s.one.setLock(file.inode, lockOf(kind, 'one'), { wait: false, onGranted }));
    await s.world.sleep(1_000);
    await s.two.setLock(other.inode, { ...lockOf(kind, 'two'), type: 'read' }, { wait: false });
    await s.two.releaseLocks(other.inode, kind, 'two');
    await s.one.setLock(file.inode, { ...lockOf(kind, 'one'), type: 'read' }, { wait: false });
    await fails('TIMEOUT', s.one.setLock(file.inode, lockOf(kind, 'one'), { wait: false, onGranted }));
    await s.world.sleep(1_000);
    await s.two.setLock(other.inode, { ...lockOf(kind, 'two'), type: 'read' }, { wait: false });
    // A lock of flock(2) that could not be changed is lost.
    const asked = s.two.setLock(other.inode, lockOf(kind, 'two'), { wait: false });
    await (kind === 'posix' ? fails('EAGAIN', asked) : asked);
  });
}

story('a lock that was lost while another could not be handed on is not told again in the next session', async (s) => {
  const [file, beside] = [await s.create('f', of('-')), await s.create('g', of('-'))];
  for (const each of [file, beside]) await each.sync();
  await s.one.setLock(file.inode, { ...lockOf('posix', 'one'), type: 'read' }, { wait: false });
  const onGranted = async (): Promise<void> => {
    s.world.network.refuse('client-1', MASTER);
    await s.world.sleep(SESSION_TTL_MS + 20_000);
    s.world.network.heal('client-1', MASTER);
    await s.world.sleep(5_000);
    throw new CairnError('TIMEOUT', 'pages are not dropped');
  };
  await fails('TIMEOUT', s.one.setLock(file.inode, lockOf('posix', 'one'), { wait: false, onGranted }));
  const other = await s.openAt('f', s.two);
  await s.two.setLock(other.inode, lockOf('posix', 'two'), { wait: false });
  await s.one.setLock(beside.inode, lockOf('posix', 'one'), { wait: false });
  s.world.network.refuse('client-1', MASTER);
  s.world.network.heal('client-1', MASTER);
  await s.world.sleep(5_000);
  await beside.write(0, of('A'));
  await beside.sync();
  assert.ok(await s.two.getLock(beside.inode, lockOf('posix', 'two')), 'the session goes on with its lock');
  await fails('EIO', file.close());
});
