/**
 * P1, P10: the file system of the master's directory fails, the master's process ends, and the file system is unmounted and mounted
 * again. What was answered and never synced is gone, and the machine has not booted.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { asCairnError } from '../../../../src/core/errors.js';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import type { InodeId } from '../../../../src/core/ids.js';
import { root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const mkdir = async (s: Story, name: string, fs = s.one): Promise<InodeId> =>
  (await fs.makeNode(root, ROOT_INODE, Buffer.from(name), { kind: 'directory', mode: 0o755 })).inode;

const isThere = async (s: Story, name: string): Promise<boolean> =>
  (await s.world.connect('observer')).lookup(root, ROOT_INODE, Buffer.from(name)).then(
    () => true,
    () => false,
  );

/** Success, or the code of the error. */
const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'success',
    (error: unknown) => asCairnError(error).code,
  );

/** `work` is answered, and not synced when the disk fails and the process ends. */
async function failAfter<T>(s: Story, label: string, work: () => Promise<T>): Promise<T> {
  const { world } = s;
  const disk = world.disk(MASTER);
  const held = disk.plant((each) => each === 'oplog.flush', { hangs: true });
  const done = await work();
  const failing = disk.plant((each) => each === label, { failWith: 'EIO' });
  if (label === 'oplog.append') world.background(() => mkdir(s, 'never').catch(() => undefined));
  else {
    disk.lift(held);
    world.background(() => s.two.syncMetadata().catch(() => undefined));
  }
  await world.sleep(5_000);
  assert.ok(!world.isRunning(MASTER), 'the master has ended');
  disk.lift(held);
  disk.lift(failing);
  return done;
}

async function remount(s: Story): Promise<void> {
  s.world.disk(MASTER).remount('/log', 'nothing');
  await s.world.start(MASTER);
  await s.world.sleep(5_000);
}

async function demandTold(s: Story, inode: InodeId): Promise<void> {
  if (!(await isThere(s, 'lost'))) {
    assert.equal(await codeOf(s.one.syncMetadata()), 'EIO', 'an fsync of what is lost');
    assert.equal(await codeOf(s.one.syncMetadata()), 'success', 'it is told once');
  }
  assert.ok((await mkdir(s, 'another', s.two)) > inode, 'no inode number is given again');
  assert.deepEqual([...s.world.notes(MASTER).notes], [], 'the note is gone');
  // Nor is anything told for the next end of the process.
  await s.one.syncMetadata();
  await s.world.kill(MASTER);
  await s.world.start(MASTER);
  await s.world.sleep(5_000);
  assert.equal(await codeOf(s.one.syncMetadata()), 'success', 'after a kill');
}

for (const label of ['oplog.append', 'oplog.flush']) {
  story(`P1: what a remount lost after EIO of ${label} is told by the next fsync`, async (s) => {
    await s.one.syncMetadata();
    const inode = await failAfter(s, label, () => mkdir(s, 'lost'));
    await remount(s);
    if (label === 'oplog.append') assert.ok(!(await isThere(s, 'lost')));
    await demandTold(s, inode);
  });

  story(`P10: after EIO of ${label}, without a remount, nothing is lost and nothing is told`, async (s) => {
    await s.one.syncMetadata();
    await failAfter(s, label, () => mkdir(s, 'lost'));
    assert.equal(s.world.notes(MASTER).notes.size, 1, 'there is a note');
    await s.world.start(MASTER);
    await s.world.sleep(5_000);
    assert.ok(await isThere(s, 'lost'));
    assert.equal(await codeOf(s.one.syncMetadata()), 'success');
    assert.equal(s.world.notes(MASTER).notes.size, 0, 'the note is gone');
  });
}

for (const label of ['oplog.replay', 'oplog.list', 'oplog.open', 'oplog.header', 'oplog.flush', 'oplog.append']) {
  story(`P1: starts that fail before the remount, with EIO of ${label}, do not forget`, async (s) => {
    await s.one.syncMetadata();
    const inode = await failAfter(s, 'oplog.append', () => mkdir(s, 'lost'));
    const failing = s.world.disk(MASTER).plant((each) => each === label, { failWith: 'EIO' });
    for (let tries = 0; tries < 2; tries++) assert.ok(!(await s.world.tryStart(MASTER)));
    s.world.disk(MASTER).lift(failing);
    await remount(s);
    await demandTold(s, inode);
  });

  story(`P1: a killed master whose start met EIO of ${label} before the remount is no intact one`, async (s) => {
    await s.one.syncMetadata();
    const held = s.world.disk(MASTER).plant((each) => each === 'oplog.flush', { hangs: true });
    const inode = await mkdir(s, 'lost');
    await s.world.kill(MASTER);
    s.world.disk(MASTER).lift(held);
    const failing = s.world.disk(MASTER).plant((each) => each === label, { failWith: 'EROFS' });
    assert.ok(!(await s.world.tryStart(MASTER)));
    s.world.disk(MASTER).lift(failing);
    await remount(s);
    await demandTold(s, inode);
  });
}

story('P1: a start that ends before its epoch is durable leaves the note to the next', async (s) => {
  const { world } = s;
  await s.one.syncMetadata();
  const inode = await failAfter(s, 'oplog.append', () => mkdir(s, 'lost'));
  world.disk(MASTER).remount('/log', 'nothing');
  const hung = world.disk(MASTER).plant((each) => each === 'oplog.flush', { hangs: true });
  world.background(() => world.start(MASTER));
  await world.sleep(2_000);
  await world.kill(MASTER);
  world.disk(MASTER).lift(hung);
  assert.equal(world.notes(MASTER).notes.size, 1, 'the note is there');
  await remount(s);
  await demandTold(s, inode);
});

story('P1: a note that cannot be read is taken for a loss', async (s) => {
  await s.one.syncMetadata();
  const inode = await failAfter(s, 'oplog.append', () => mkdir(s, 'lost'));
  const { notes } = s.world.notes(MASTER);
  for (const [name, text] of notes) notes.set(name, text.slice(0, 20));
  await remount(s);
  await demandTold(s, inode);
});

story('P10: a torn tail after the disk failed is cut off, and refused no start', async (s) => {
  await s.one.syncMetadata();
  const { world } = s;
  await failAfter(s, 'oplog.append', () => mkdir(s, 'lost'));
  // The kernel has forgotten pages that it could not write.
  const last =
    world
      .disk(MASTER)
      .files('/log')
      .filter((path) => path.includes('oplog-'))
      .at(-1) ?? '';
  const { length } = world.disk(MASTER).content(last);
  world.disk(MASTER).rot(last, length - 5);
  await world.start(MASTER);
  await world.sleep(5_000);
  assert.ok(!(await isThere(s, 'lost')));
  assert.equal(await codeOf(s.one.syncMetadata()), 'EIO');
});
