/** Pages that the kernel keeps of files: when it is told to drop them. */
import { setTimeout as pause } from 'node:timers/promises';
import t from 'tap';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import { inodeId } from '../../../src/core/ids.js';
import { KERNEL_BUFFERS, MAX_KERNEL_REQUESTS } from '../../../src/core/limits.js';
import { deferred } from '../../../src/core/sync.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';
import { NOTIFY_STORE } from '../../../src/fuse/kernel/wire/protocol.js';
import { u32 } from '../../support/fakes/fake-kernel.js';
import { must, number64, O_APPEND, O_DIRECT, O_RDONLY, O_RDWR, TestMount } from './served-mount.js';

/** Another client writes the file and closes it. */
async function changeByAnother(fileSystem: ModelFileSystem, nodeid: number): Promise<void> {
  const other = new ModelFileSystem(fileSystem.state);
  const { file } = await other.open(ROOT_CREDENTIALS, inodeId(nodeid), { read: false, write: true });
  await file.write(0, Buffer.from('x'));
  await file.close();
}

const KEEP_CACHE = 2;
const THREAD = 7;
/** Of READ and WRITE: past the kernel's pages. */
const LOCKOWNER = 2;

t.test('P2: an open keeps the kernel’s pages only when they are known to be current', async (t) => {
  const fileSystem = new ModelFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { nodeid, handle } = await mount.create('f');
  await mount.release(handle);
  const openAndClose = async (): Promise<boolean> => {
    const { handle, openFlags } = await mount.open(nodeid, O_RDONLY);
    await mount.close(handle);
    return (openFlags & KEEP_CACHE) !== 0;
  };
  await openAndClose();
  t.equal(await openAndClose(), true, 'nothing has changed');
  const change = (): Promise<void> => changeByAnother(fileSystem, nodeid);
  await change();
  t.equal(await openAndClose(), false, 'another client wrote');
  t.equal(await openAndClose(), true);
  const old = await mount.open(nodeid, O_RDONLY);
  await change();
  t.equal(await openAndClose(), false);
  t.equal(await openAndClose(), true, 'what a handle from before was filling was waited for, and dropped');
  await mount.close(old.handle);
});

t.test('P2: who opens a file while old pages are being dropped for another has them dropped, too', async (t) => {
  const fileSystem = new ModelFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { nodeid, handle } = await mount.create('f');
  await mount.close(handle);
  const keeps = async (): Promise<{ handle: number; keeps: boolean }> => {
    const { handle, openFlags } = await mount.open(nodeid, O_RDWR);
    return { handle, keeps: (openFlags & KEEP_CACHE) !== 0 };
  };
  for (const proof of ['a read', 'a lock', 'a close'] as const) {
    await changeByAnother(fileSystem, nodeid);
    const first = await keeps();
    const second = await keeps();
    t.same([first.keeps, second.keeps], [false, false], 'the kernel did not say that it has dropped them');
    t.equal((await keeps()).keeps, false, 'nor has it meanwhile');
    if (proof === 'a read') await mount.read(second.handle, 0, 10);
    else if (proof === 'a lock') must(await mount.lock(second.handle, 1));
    else await mount.flush(second.handle);
    t.equal((await keeps()).keeps, true, `${proof} by a handle says that its open returned`);
    await mount.read(first.handle, 0, 10);
    t.equal((await keeps()).keeps, true);
    await mount.close(first.handle);
    await mount.close(second.handle);
    await changeByAnother(fileSystem, nodeid);
    const unused = await keeps();
    await mount.release(unused.handle);
    t.equal((await keeps()).keeps, false, 'an open that failed behind its answer dropped nothing');
  }
});

t.test('P2: lockers who come while old pages are being dropped wait for that', async (t) => {
  const fileSystem = new ModelFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { kernel } = mount;
  const { nodeid, handle } = await mount.create('f');
  must(await mount.write(handle, 0, 'a'));
  await mount.read(handle, 0, 10);
  await changeByAnother(fileSystem, nodeid);
  const mayDrop = deferred<void>();
  const { sendInThread } = kernel;
  let sent = 0;
  kernel.sendInThread = async (parts) => {
    sent++;
    await mayDrop.promise;
    return sendInThread.call(kernel, parts);
  };
  const granted: number[] = [];
  const lock = async (owner: number): Promise<void> => {
    must(await mount.lock(handle, owner));
    granted.push(owner);
  };
  const both = Promise.all([lock(1), lock(2)]);
  await pause(50);
  t.same(granted, []);
  mayDrop.resolve();
  await both;
  t.equal(sent, 1, 'one drop is enough');
  await lock(3);
  t.equal(sent, 1, 'and then the pages are as new as the file');
});

t.test('P2: what is written past the kernel’s pages makes it drop those that it has of that', async (t) => {
  const mount = await TestMount.start(t);
  const { kernel } = mount;
  const page = 'x'.repeat(4096);
  const { nodeid, handle } = await mount.create('f');
  const dropped = (): string[] =>
    kernel.notifications.splice(0).map(({ body }) => {
      t.equal(number64(body, 0), nodeid);
      return `${number64(body, 8)}+${number64(body, 16)}`;
    });
  const direct = async (offset: number, count = 1): Promise<string[]> => {
    dropped();
    must(await mount.write(handle, offset, page.repeat(count), LOCKOWNER));
    return dropped();
  };
  t.same(await direct(0, 4), [], 'it has none');
  await mount.read(handle, 0, 16384, LOCKOWNER);
  t.same(await direct(0, 4), [], 'nor does it by reading past them');
  await mount.read(handle, 0, 12288);
  t.same(await direct(4096), ['4096+4096'], 'those of the write, as it has others behind it');
  t.same(await direct(8192, 2), ['8192+0'], 'all that are left');
  t.same(await direct(8192), [], 'which it does not have any more');
  t.same(await direct(0), ['0+4096']);
  must(await mount.write(handle, 8192, page));
  t.same(await direct(8192), ['8192+0'], 'a write through the pages fills some');

  const appending = await mount.open(nodeid, O_RDWR | O_APPEND);
  must(await mount.write(appending.handle, 16384, 'abc', LOCKOWNER, O_APPEND));
  dropped();
  await mount.read(handle, 16384, 4096);
  must(await mount.write(appending.handle, 16387, 'def', LOCKOWNER, O_APPEND));
  t.same(dropped(), ['16387+0'], 'also by a handle that appends');
  must(await mount.write(appending.handle, 16387, 'ghi', 1));
  t.same(dropped(), [], 'what a mapping changed is in its pages');

  await mount.read(handle, 0, 4096);
  await mount.close(appending.handle);
  await mount.close(handle);
  await mount.close((await mount.open(nodeid, O_RDONLY)).handle);
  const current = await mount.open(nodeid, O_RDONLY);
  t.equal(current.openFlags & KEEP_CACHE, KEEP_CACHE);
  await mount.read(current.handle, 0, 4096);
  await mount.release(current.handle);
  const alone = await mount.open(nodeid, O_RDWR | O_DIRECT);
  t.equal(alone.openFlags & KEEP_CACHE, 0, 'who opens a file to go past the pages has it drop all');
  must(await mount.write(alone.handle, 0, page, LOCKOWNER));
  t.same(dropped(), []);
});

t.test('P2: a reader that comes while pages are dropped has them dropped again by the next write', async (t) => {
  const mount = await TestMount.start(t);
  const { kernel } = mount;
  const { handle } = await mount.create('f');
  const page = 'x'.repeat(4096);
  must(await mount.write(handle, 0, page));
  let reading: Promise<string> | undefined;
  const { sendInThread } = kernel;
  kernel.sendInThread = async (parts) => {
    reading ??= mount.read(handle, 0, 4096);
    await reading;
    return sendInThread.call(kernel, parts);
  };
  must(await mount.write(handle, 0, page, LOCKOWNER));
  t.ok(reading);
  t.equal(kernel.notifications.length, 1);
  must(await mount.write(handle, 0, page, LOCKOWNER));
  t.equal(kernel.notifications.length, 2);
});

t.test('writes that wait for pages to be dropped leave room for the reads that this waits for', async (t) => {
  const mount = await TestMount.start(t);
  const { kernel } = mount;
  const { handle } = await mount.create('f');
  must(await mount.write(handle, 0, 'x'.repeat(4096)));
  const mayDrop = deferred<void>();
  const { sendInThread } = kernel;
  kernel.sendInThread = async (parts) => {
    await mayDrop.promise;
    return sendInThread.call(kernel, parts);
  };
  // Each in a buffer of its own, of which there are fewer; and more requests than are worked on at a time.
  const large = Array.from({ length: 2 * KERNEL_BUFFERS }, () => mount.write(handle, 0, 'x'.repeat(16384), LOCKOWNER));
  const small = Array.from({ length: MAX_KERNEL_REQUESTS }, () => mount.write(handle, 0, 'x', LOCKOWNER));
  let answered = 0;
  for (const write of [...large, ...small]) void write.then(() => answered++);
  t.equal(await mount.read(handle, 0, 1), 'x');
  // Each that waits may hold a place in the kernel that a read needs, of 64.
  const mayBe = large.length + small.length - 8;
  while (answered < mayBe) await pause(1);
  await pause(20);
  t.equal(answered, mayBe, 'the newest wait');
  mayDrop.resolve();
  for (const reply of await Promise.all([...large, ...small])) if (reply.error !== 0) t.fail(`errno ${reply.error}`);
  t.equal(kernel.notifications.length, 2, 'what had not begun became one');
});

t.test('P2: an open whose answer nobody took does not make old pages current', async (t) => {
  const fileSystem = new ModelFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { kernel } = mount;
  const { nodeid, handle } = await mount.create('f');
  await mount.release(handle);
  const keepsPages = async (): Promise<boolean> => {
    const { handle, openFlags } = await mount.open(nodeid, O_RDONLY);
    await mount.read(handle, 0, 4096);
    await mount.release(handle);
    return (openFlags & KEEP_CACHE) !== 0;
  };
  await keepsPages();
  t.ok(await keepsPages());
  // Another mount writes.
  const { file } = await fileSystem.open(ROOT_CREDENTIALS, inodeId(nodeid), { read: true, write: true });
  await file.write(0, Buffer.from('new'));
  await file.close();
  const asked = kernel.start('OPEN', nodeid, u32(O_RDONLY, 0));
  kernel.abandon(asked.unique);
  while (kernel.strayReplies.length === 0) await pause(1);
  t.notOk(await keepsPages(), 'the kernel never heard that its pages are old');
  t.ok(await keepsPages());
});

t.test(
  'P2: the kernel is told that a file has grown elsewhere, before an open returns or a lock is granted',
  async (t) => {
    const fileSystem = new ModelFileSystem();
    const mount = await TestMount.start(t, fileSystem, { pid: THREAD });
    const { kernel } = mount;
    const { nodeid, handle } = await mount.create('f');
    must(await mount.write(handle, 0, 'abc'));
    const writeByAnother = async (offset: number, text: string): Promise<void> => {
      const other = new ModelFileSystem(fileSystem.state);
      const { file } = await other.open(ROOT_CREDENTIALS, inodeId(nodeid), { read: false, write: true });
      await file.write(offset, Buffer.from(text));
      await file.close();
    };
    const told = (): string[] =>
      kernel.notifications.splice(0).flatMap(({ code, body }) => {
        t.equal(number64(body, 0), nodeid);
        const [offset, length] = [number64(body, 8), number64(body, 16)];
        if (code === NOTIFY_STORE) return [`${body.subarray(24).toString()} at ${offset}`];
        return offset < 2 ** 53 ? [`drop ${offset}+${length}`] : [];
      });
    const open = async (): Promise<string[]> => {
      told();
      await mount.close((await mount.open(nodeid, O_RDONLY)).handle);
      return told();
    };
    const lock = async (): Promise<string[]> => {
      told();
      must(await mount.lock(handle, 1));
      return told();
    };
    t.same(await open(), [], 'it wrote that itself');
    await writeByAnother(3, 'def');
    t.same(await open(), ['drop 0+0', 'f at 5', 'drop 5+1']);
    t.same(await open(), []);
    await writeByAnother(6, 'ghi');
    t.same(await lock(), ['drop 0+0', 'drop 0+0', 'i at 8', 'drop 8+1']);
    t.same(await lock(), []);
    await writeByAnother(0, 'ABC');
    t.same(await open(), [], 'it is as long as before');
    await writeByAnother(9, 'jkl');
    must(await kernel.request('GETATTR', nodeid, u32(0, 0, 0, 0), { pid: THREAD }));
    t.same(await open(), [], 'it has asked');
    // The file is cut and grows again between two opens: a read that ended early told the kernel of the cut.
    const other = new ModelFileSystem(fileSystem.state);
    await other.setAttributes(ROOT_CREDENTIALS, inodeId(nodeid), { size: 3 });
    await mount.read(handle, 0, 4096);
    await writeByAnother(3, 'DEFGHIJKL');
    t.same(await open(), ['drop 0+0', 'L at 11', 'drop 11+1']);
    await mount.close(handle);
  },
);
