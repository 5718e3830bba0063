/** What programs see while chunkservers are silent or gone: bounded pauses, then service as before, or one error in time. */
import assert from 'node:assert/strict';
import t from 'tap';
import { toErrno, POSIX_ERRORS } from '../../../../src/core/errors.js';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { KIB } from '../../../../src/core/limits.js';
import type { OpenFile, OpenFlags } from '../../../../src/filesystem/filesystem.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import { READ_WRITE, root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const LENGTH = 100 * KIB;

/** Simulated seconds that `action` takes, and the errno with which it fails, 0 for none. */
async function timed(s: Story, action: () => Promise<unknown>): Promise<{ seconds: number; errno: number }> {
  const began = s.world.clock.nowUs;
  let errno = 0;
  await action().catch((error: unknown) => (errno = toErrno(error)));
  return { seconds: (s.world.clock.nowUs - began) / 1e6, errno };
}

const open = async (s: Story, text: string, flags: OpenFlags): Promise<OpenFile> =>
  (await s.one.create(root, ROOT_INODE, Buffer.from(text), { mode: 0o644, flags })).file;

const whole = async (s: Story, text: string): Promise<Buffer> => {
  const file = await s.openAt(text, s.two);
  const bytes = Buffer.from(await file.read(0, LENGTH));
  await file.close();
  return bytes;
};

const GONE: Record<string, (s: Story, name: string) => unknown> = {
  'are gone': (s, name) => s.world.powerOff(name),
  'are silent': (s, name) => s.world.freeze(name, 'stopped'),
};
for (const [how, take] of Object.entries(GONE)) {
  story(`While all chunkservers ${how}, each operation on data ends within its time, with EIO`, async (s) => {
    await (await s.create('old', pattern(LENGTH, 1))).close();
    const synced = await s.create('synced', pattern(LENGTH, 1));
    await synced.sync();
    for (const name of s.world.chunkservers) await take(s, name);
    const work: Record<string, () => Promise<unknown>> = {
      read: () => whole(s, 'old'),
      'read by a kernel that asks once more': async () => {
        await whole(s, 'old').catch(() => undefined);
        await whole(s, 'old');
      },
      'write and close': async () => (await s.create('new', pattern(LENGTH, 2))).close(),
      'write and fsync': async () => (await s.create('new-synced', pattern(LENGTH, 2))).sync(),
      'O_SYNC write': async () => (await open(s, 'direct', { ...READ_WRITE, sync: true })).write(0, pattern(10, 1)),
      'append and close': async () => {
        const file = await open(s, 'old', { read: false, write: true, append: true });
        await file.write(0, Buffer.from('x'));
        await file.close();
      },
      'overwrite and fsync': async () => {
        await synced.write(0, pattern(LENGTH, 2));
        await synced.sync();
      },
    };
    await Promise.all(
      Object.entries(work).map(async ([what, run]) => {
        const { seconds, errno } = await timed(s, run);
        assert.equal(errno, POSIX_ERRORS.EIO, what);
        assert.ok(seconds > 50 && seconds < 75, `${what} took ${seconds} s`);
      }),
    );
  });
}

story('P11: a silent chunkserver costs one pause, and nothing once the master knows', async (s) => {
  const names = Array.from({ length: 16 }, (_, i) => `f${i}`);
  for (const [i, name] of names.entries()) await (await s.create(name, pattern(LENGTH, i))).close();
  for (const name of names) await whole(s, name);
  // Past the life of connections and of what was read ahead, but not of locations.
  await s.world.sleep(5000);
  s.world.freeze('chunkserver-1', 'stopped');
  const slow: string[] = [];
  const use = async (patience: number): Promise<void> => {
    for (const [i, name] of names.entries()) {
      const { seconds } = await timed(s, async () => equalBytes(await whole(s, name), pattern(LENGTH, i), name));
      if (seconds > patience) slow.push(`${name} was read in ${seconds.toFixed(1)} s`);
    }
    for (let i = 0; i < 8; i++) {
      const create = async (): Promise<void> => {
        const file = await s.create(`new${i}`, pattern(LENGTH, i), s.two);
        await file.close();
        await s.two.unlink(root, ROOT_INODE, Buffer.from(`new${i}`));
      };
      const { seconds } = await timed(s, create);
      if (seconds > patience) slow.push(`new${i} was written in ${seconds.toFixed(1)} s`);
    }
  };
  await use(1);
  assert.ok(slow.length <= 4, slow.join(', '));
  await s.world.sleep(12_000);
  slow.length = 0;
  for (let round = 0; round < 2; round++) {
    await use(0.5);
    await s.world.sleep(10_000);
  }
  assert.deepEqual(slow, []);
  s.world.thaw('chunkserver-1');
});

story('Sessions outlive a master that stands still for longer than they may be silent', async (s) => {
  const file = await s.create('f', pattern(LENGTH, 1));
  const lock = { kind: 'posix', type: 'write', start: 0, end: 100, owner: 'o', pid: 1 } as const;
  await s.one.setLock(file.inode, lock, { wait: false });
  await file.flush();
  const other = await s.openAt('f', s.two);
  s.world.freeze(MASTER, 'stopped');
  // Nothing of theirs is left on the way that it would hear first.
  for (const client of ['client-1', 'client-2']) s.world.network.breakConnection(client, MASTER);
  await s.world.sleep(150_000);
  s.world.thaw(MASTER);
  await s.world.sleep(15_000);
  await assert.rejects(s.two.setLock(file.inode, { ...lock, owner: 'p' }, { wait: false }), { code: 'EAGAIN' });
  await file.write(0, pattern(LENGTH, 2));
  await file.sync();
  await file.close();
  // One that is silent while the master listens ends.
  s.world.freeze('client-1', 'stopped');
  await s.world.sleep(70_000);
  const operator = await s.world.connect('operator');
  assert.equal((await operator.status()).sessions, 2);
  s.world.thaw('client-1');
  equalBytes(await other.read(0, LENGTH), pattern(LENGTH, 2), 'f');
});
