/** Files that another mount replaces or removes while the kernel remembers their names: what an open leads to. */
import { setTimeout as pause } from 'node:timers/promises';
import t from 'tap';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import { POSIX_ERRORS } from '../../../src/core/errors.js';
import { inodeId, ROOT_INODE } from '../../../src/core/ids.js';
import { hookedCluster } from '../../support/hooked-cluster.js';
import { cstrings, u32, u64 } from '../../support/fakes/fake-kernel.js';
import { must, number64, O_RDONLY, O_WRONLY, TestMount } from './served-mount.js';

const { ENOENT, ESTALE } = POSIX_ERRORS;
/** The kernel believes names for a time, whatever others do. */
const NO_LEASES = { leases: 'none' } as const;
const O_TRUNC = 0o1000;
/** Numbers that no thread has: above pid_max. */
const [ONE, TWO, THREE, FOUR] = [2 ** 23, 2 ** 23 + 1, 2 ** 23 + 2, 2 ** 23 + 3];

t.test('P2: after ESTALE the file that a name leads to stays for the open that follows, and no longer', async (t) => {
  const cluster = await hookedCluster();
  t.teardown(() => cluster.stop());
  const [fileSystem, other] = [await cluster.connect(NO_LEASES), await cluster.connect(NO_LEASES)];
  const mount = await TestMount.start(t, fileSystem);
  const lookUp = async (pid = ONE): Promise<number> =>
    number64(must(await mount.kernel.request('LOOKUP', 1, cstrings('f'), { pid })), 0);
  const openErrno = async (nodeid: number, pid = ONE): Promise<number> => {
    const { error, body } = await mount.kernel.request('OPEN', nodeid, u32(O_RDONLY, 0), { pid });
    if (error === 0) await mount.release(number64(body, 0));
    return error;
  };
  // As another mount does it.
  const replace = async (): Promise<void> => {
    const options = { mode: 0o644, flags: { read: true, write: true } };
    const { file } = await other.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('new'), options);
    await file.close();
    const [from, to] = ['new', 'f'].map((name) => ({ parent: ROOT_INODE, name: Buffer.from(name) }));
    if (from !== undefined && to !== undefined) await other.rename(ROOT_CREDENTIALS, from, to);
  };
  await replace();
  const first = await lookUp();
  await replace();
  t.equal(await openErrno(first), ESTALE);
  const [one, two] = [await lookUp(ONE), await lookUp(TWO)];
  await replace();
  t.equal(await openErrno(two, TWO), ESTALE, 'a thread that was not refused is in its first try');
  t.equal(await openErrno(one, ONE), 0, 'what another does ends the second try of nobody');
  t.equal(await openErrno(one, ONE), ESTALE, 'once');
  const third = await lookUp();
  await replace();
  await pause(1100);
  t.equal(await openErrno(third), ESTALE, 'not for long');

  // As on a busy machine.
  for (const stepMs of [60, 300]) {
    const before = await lookUp(THREE);
    // What the client knows of it is not believed any more.
    await pause(1100);
    await replace();
    const looked = await mount.kernel.request('GETATTR', before, Buffer.concat([u32(0, 0), u64(0)]), { pid: THREE });
    t.equal(looked.error, ESTALE, 'on its way to the open the kernel looks at what it found');
    await pause(stepMs);
    const after = await lookUp(THREE);
    await replace();
    await pause(60);
    t.equal(await openErrno(after, THREE), 0, `a thread that needs ${stepMs} ms for a step is in its second try yet`);
    await pause(1100);
    const last = await lookUp(THREE);
    await replace();
    t.equal(await openErrno(last, THREE), ESTALE, 'and not for ever');
  }
});

t.test('an open leads to what its name leads to at the master, also while the old file is open here', async (t) => {
  const cluster = await hookedCluster();
  t.teardown(() => cluster.stop());
  const [fileSystem, other] = [await cluster.connect(NO_LEASES), await cluster.connect(NO_LEASES)];
  const mount = await TestMount.start(t, fileSystem);
  const { kernel } = mount;
  const at = (name: string) => ({ parent: ROOT_INODE, name: Buffer.from(name) });
  const lookUp = async (name: string, pid: number): Promise<number> => {
    const { error, body } = await kernel.request('LOOKUP', 1, cstrings(name), { pid });
    return error === 0 ? number64(body, 0) : -error;
  };
  const open = async (nodeid: number, pid: number, flags = O_RDONLY): Promise<number> => {
    const { error, body } = await kernel.request('OPEN', nodeid, u32(flags, 0), { pid });
    if (error === 0) await mount.release(number64(body, 0));
    return error;
  };
  const makeElsewhere = async (name: string): Promise<void> => {
    const { file } = await other.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from(name), {
      ...{ mode: 0o644, flags: { read: true, write: true } },
    });
    await file.write(0, Buffer.from('kept'));
    await file.close();
  };
  const [held, linked] = [await mount.create('f'), await mount.create('g')];
  t.equal(await open(held.nodeid, ONE), 0);
  await other.rename(ROOT_CREDENTIALS, at('f'), at('f.1'));
  await makeElsewhere('f');
  t.equal(await open(held.nodeid, ONE, O_WRONLY | O_TRUNC), ESTALE, 'the kernel remembers the name');
  const found = await lookUp('f', ONE);
  t.not(found, held.nodeid);
  t.equal(await open(found, ONE), 0);
  t.equal((await other.getAttributes(inodeId(found))).size, 4, 'the open that was refused cut nothing');

  await other.unlink(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('f'));
  t.equal(await open(found, ONE), ESTALE);
  t.equal(await lookUp('f', ONE), -ENOENT);

  t.equal(
    await open(held.nodeid, TWO),
    ESTALE,
    'a thread may come by an older answer, though the kernel was told another',
  );
  t.equal(await open(held.nodeid, TWO), 0, 'or by a file handle');
  await other.rename(ROOT_CREDENTIALS, at('g'), at('g.1'));
  t.equal(await open(linked.nodeid, TWO), ESTALE, 'by a file handle or by its name: that cannot be told');
  t.equal(await open(linked.nodeid, TWO), 0, 'a file handle is not looked up again');
  t.equal(await open(linked.nodeid, TWO), ESTALE);
  await other.rename(ROOT_CREDENTIALS, at('g.1'), at('g'));

  await other.link(ROOT_CREDENTIALS, inodeId(linked.nodeid), ROOT_INODE, Buffer.from('h'));
  t.equal(await lookUp('h', THREE), linked.nodeid);
  t.equal(await open(linked.nodeid, THREE), 0);
  await other.unlink(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('g'));
  t.equal(await open(linked.nodeid, THREE), ESTALE, 'by which of its names cannot be told');
  t.equal(await lookUp('h', THREE), linked.nodeid);
  t.equal(await open(linked.nodeid, THREE), 0);

  const renamed = await mount.create('r');
  const names = Buffer.concat([u64(1), cstrings('r', 's')]);
  must(await kernel.request('RENAME', 1, names, { pid: FOUR }));
  t.equal(await open(renamed.nodeid, FOUR), 0, 'the kernel moves what it remembers by itself');
});

t.test('a name that is removed while it is looked up for the second time is not there', async (t) => {
  const cluster = await hookedCluster();
  t.teardown(() => cluster.stop());
  const [fileSystem, other] = [await cluster.connect(NO_LEASES), await cluster.connect(NO_LEASES)];
  const mount = await TestMount.start(t, fileSystem);
  const unlink = (): Promise<void> => other.unlink(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('f'));
  const make = async (): Promise<void> => {
    const options = { mode: 0o644, flags: { read: true, write: true } };
    await (await other.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('f'), options)).file.close();
  };
  const lookUp = () => mount.kernel.request('LOOKUP', 1, cstrings('f'), { pid: ONE });
  await make();
  const before = number64(must(await lookUp()), 0);
  await unlink();
  await make();
  t.equal((await mount.kernel.request('OPEN', before, u32(O_RDONLY, 0), { pid: ONE })).error, ESTALE);
  const { openAt } = fileSystem;
  fileSystem.openAt = async (...request) => {
    await unlink();
    return openAt.apply(fileSystem, request);
  };
  t.equal((await lookUp()).error, ENOENT);
  fileSystem.openAt = openAt;
  // The kernel asked about the name that it remembered, which is gone: it looks it up once more.
  await make();
  const after = number64(must(await lookUp()), 0);
  await unlink();
  const { error, body } = await mount.kernel.request('OPEN', after, u32(O_RDONLY, 0), { pid: ONE });
  t.equal(error, 0, 'it is in its second try still');
  await mount.release(number64(body, 0));
});

t.test(
  'a file that is made and removed anew while the kernel tries for the second time is opened all the same',
  async (t) => {
    const cluster = await hookedCluster();
    t.teardown(() => cluster.stop());
    const [fileSystem, other] = [await cluster.connect(NO_LEASES), await cluster.connect(NO_LEASES)];
    const mount = await TestMount.start(t, fileSystem);
    const unlink = (): Promise<void> => other.unlink(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('f'));
    const make = async (): Promise<void> => {
      const options = { mode: 0o644, flags: { read: true, write: true } };
      await (await other.create(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('f'), options)).file.close();
    };
    const lookUp = (pid: number) => mount.kernel.request('LOOKUP', 1, cstrings('f'), { pid });
    const open = async (nodeid: number, pid: number): Promise<number> => {
      const { error, body } = await mount.kernel.request('OPEN', nodeid, u32(O_RDONLY, 0), { pid });
      if (error === 0) await mount.release(number64(body, 0));
      return error;
    };
    await make();
    const before = number64(must(await lookUp(ONE)), 0);
    await unlink();
    // What the client knows of it is not believed any more.
    await pause(1100);
    // The kernel looks at what it remembers, asks about the name that led there, and then looks it up.
    const looked = await mount.kernel.request('GETATTR', before, Buffer.concat([u32(0, 0), u64(0)]), { pid: ONE });
    t.equal(looked.error, ESTALE);
    t.equal((await lookUp(ONE)).error, ENOENT);
    await make();
    const found = number64(must(await lookUp(ONE)), 0);
    await unlink();
    t.equal(await open(found, ONE), 0, 'it was there when it was looked up');

    // An open that cuts a file may wait for who writes it, and no name keeps the file meanwhile.
    const { open: openNow } = fileSystem;
    await make();
    const first = number64(must(await lookUp(FOUR)), 0);
    await unlink();
    await make();
    t.equal(await open(first, FOUR), ESTALE);
    const slow = number64(must(await lookUp(FOUR)), 0);
    await unlink();
    fileSystem.open = async (...request) => {
      await pause(1300);
      return openNow.apply(fileSystem, request);
    };
    t.equal(await open(slow, FOUR), 0, 'an open that takes long');
    fileSystem.open = openNow;

    // A call that found no file is over: what the next one looks up is what it opens.
    await make();
    const second = number64(must(await lookUp(TWO)), 0);
    await unlink();
    t.equal(await open(second, TWO), ESTALE);
    t.equal((await lookUp(TWO)).error, ENOENT);
    await make();
    const old = number64(must(await lookUp(THREE)), 0);
    await unlink();
    await make();
    must(await lookUp(TWO));
    t.equal(await open(old, TWO), ESTALE, 'not what was there before it was looked up');

    // Its last call found no file, and this one is refused at once: it has its second try whole.
    const again = number64(must(await lookUp(FOUR)), 0);
    await unlink();
    t.equal(await open(again, ONE), ESTALE);
    t.equal((await lookUp(ONE)).error, ENOENT);
    await make();
    const third = number64(must(await lookUp(FOUR)), 0);
    await unlink();
    await make();
    t.equal(await open(old, ONE), ESTALE);
    await unlink();
    t.equal((await lookUp(ONE)).error, ENOENT);
    await make();
    const last = number64(must(await lookUp(ONE)), 0);
    await unlink();
    t.equal(await open(last, ONE), 0);
    t.not(third, last);
  },
);
