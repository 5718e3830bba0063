/** What others change while answers about it are on their way to the kernel, or its threads hold what has to be let go of. */
import t from 'tap';
import { inodeId } from '../../../../src/core/ids.js';
import { ERRNO, SystemCallError } from '../../kernel/answers.js';
import { RecalledMount } from '../../kernel/recalled-mount.js';

const PAGE = 4096;
/** Longer than anything is believed. */
const EXPIRED_MS = 20_000;

async function errnoOf(call: Promise<unknown>): Promise<number> {
  try {
    await call;
    return 0;
  } catch (error) {
    if (error instanceof SystemCallError) return error.errno;
    throw error;
  }
}

/** A mount with directory /d. */
async function story(work: (mount: RecalledMount) => Promise<void>): Promise<void> {
  const mount = new RecalledMount();
  await mount.run(async () => {
    await mount.other.change({ what: 'mkdir', path: '/d' });
    await work(mount);
  });
}

t.test('an answer about a name that its thread takes late makes nobody believe it', async (t) => {
  await story(async (mount) => {
    const { kernel, other } = mount;
    await other.change({ what: 'mkdir', path: '/d/sub' });
    await kernel.stat('/d/sub');
    await mount.pause(EXPIRED_MS);
    await kernel.stat('/d');
    // The kernel asks about the name that it remembers, and sleeps over the answer.
    mount.wakeMs = () => 500;
    const late = kernel.stat('/d/sub');
    await mount.pause(1);
    mount.wakeMs = () => 0.05;
    await other.change({ what: 'rename', path: '/d/sub', to: '/d/moved' });
    // Who looks before that makes the kernel forget the name.
    await late;
    for (const ms of [1, 600, 1_000]) {
      await mount.pause(ms);
      t.equal(await errnoOf(kernel.stat('/d/sub')), ERRNO.ENOENT, `${ms} ms later`);
    }
  });
});

t.test('attributes of an inode that the kernel has yet to learn of are dropped when it has', async (t) => {
  await story(async (mount) => {
    const { kernel, other } = mount;
    mount.wakeMs = () => 50;
    const making = kernel.mkdir('/d/new');
    // The answer to MKDIR is sent, and its thread sleeps.
    while (other.there('/d/new') === undefined) await mount.pause(0.1);
    await mount.pause(0.5);
    mount.wakeMs = () => 0.05;
    await other.change({ what: 'chmod', path: '/d/new', value: 0o700 });
    await making;
    t.equal((await kernel.stat('/d/new')).mode & 0o777, 0o700);
  });
});

t.test(
  'while a call holds a directory, all others look up what was changed in it, and nobody waits for ever',
  async (t) => {
    await story(async (mount) => {
      const { kernel, other, model } = mount;
      await other.change({ what: 'create', path: '/d/f', text: 'one' });
      await other.change({ what: 'create', path: '/d/beside', text: '' });
      await kernel.stat('/d/f');
      await kernel.stat('/d/beside');
      model.delay = (operation) => (operation === 'create' ? mount.pause(2_000) : undefined);
      const creating = kernel.create('/d/own');
      await mount.pause(10);
      await other.change({ what: 'rename', path: '/d/f', to: '/d/moved' });
      await mount.pause(1);
      // It passes the gate, which makes the way free for nobody else.
      t.equal((await kernel.stat('/d/beside')).size, 0);
      const stats = [];
      for (let i = 0; i < 4; i++) {
        stats.push(errnoOf(kernel.stat('/d/f')));
        await mount.pause(400);
      }
      t.same(await Promise.all(stats), [ERRNO.ENOENT, ERRNO.ENOENT, ERRNO.ENOENT, ERRNO.ENOENT]);
      await kernel.close(await creating);
      t.equal(await errnoOf(kernel.stat('/d/f')), ERRNO.ENOENT);
    });
  },
);

t.test('pages that are filled while others change the file do not stay', async (t) => {
  await story(async (mount) => {
    const { kernel, other, model } = mount;
    const old = 'o'.repeat(3 * PAGE);
    const fresh = 'n'.repeat(3 * PAGE);
    await other.change({ what: 'create', path: '/d/f', text: old });
    const file = await kernel.open('/d/f');
    const letter = async (page: number): Promise<string> =>
      (await kernel.read(file, page * PAGE, 1)).toString('latin1');
    t.equal(await letter(0), 'o');
    // One is slow, and the kernel waits for it; another one comes meanwhile.
    let slow = true;
    model.delay = (operation) => (operation === 'read' && slow ? mount.pause(20) : undefined);
    const first = letter(1);
    await mount.pause(1);
    const changing = other.change({ what: 'write', path: '/d/f', text: fresh });
    await mount.pause(1);
    slow = false;
    t.equal(await letter(2), 'o', 'it is not changed yet');
    await first;
    await changing;
    t.same(await Promise.all([0, 1, 2].map(letter)), ['n', 'n', 'n']);

    // And one comes when the kernel has dropped its pages, before the change is made.
    model.changeDelay = () => mount.pause(10);
    const again = other.change({ what: 'write', path: '/d/f', text: old });
    await mount.pause(5);
    const between = letter(0);
    await again;
    t.match(await between, /[no]/);
    t.same(await Promise.all([0, 1, 2].map(letter)), ['o', 'o', 'o']);
    await kernel.close(file);
  });
});

t.test('a name is believed for no longer than others are kept from changing it, when it is moved here', async (t) => {
  await story(async (mount) => {
    const { kernel, other, model } = mount;
    await other.change({ what: 'mkdir', path: '/free' });
    await other.change({ what: 'create', path: '/d/f', text: 'one' });
    model.unheld.add(inodeId(other.there('/free')?.inode ?? 0));
    await kernel.stat('/free');
    await kernel.stat('/d/f');
    await kernel.rename('/d/f', '/free/f');
    t.equal((await kernel.stat('/free/f')).size, 3);
    await other.change({ what: 'replace', path: '/free/f', text: 'three' });
    t.equal((await kernel.stat('/free/f')).size, 5);
    await other.change({ what: 'unlink', path: '/free/f' });
    t.equal(await errnoOf(kernel.stat('/free/f')), ERRNO.ENOENT);
  });
});
