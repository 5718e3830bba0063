/** What the kernel goes by when it is told the attributes of a file several times at once: it ignores some of that. */
import t, { type Test } from 'tap';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import { inodeId } from '../../../src/core/ids.js';
import { TakenAttributes } from '../../../src/fuse/kernel/memory/taken-attributes.js';
import { NOTIFY_STORE } from '../../../src/fuse/kernel/wire/protocol.js';
import { u32 } from '../../support/fakes/fake-kernel.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';
import { must, number64, O_RDONLY, TestMount } from './served-mount.js';

const [ONE, TWO, THREE] = [7, 8, 9] as const;

/** A file of 3 bytes, on a mount that believes attributes for long. */
async function startMount(t: Test): Promise<{
  readonly stat: (pid: number) => Promise<void>;
  /** Another client makes the file longer. */
  readonly growTo: (size: number) => Promise<void>;
  /** Opens and closes it. Returns what the kernel was told meanwhile. */
  readonly open: () => Promise<string[]>;
}> {
  const fileSystem = new ModelFileSystem();
  const mount = await TestMount.start(t, fileSystem, { attributeTimeoutMs: 60_000, pid: ONE });
  const { kernel } = mount;
  const { nodeid, handle } = await mount.create('f');
  must(await mount.write(handle, 0, 'abc'));
  await mount.close(handle);
  const open = async (): Promise<string[]> => {
    kernel.notifications.splice(0);
    const { handle } = await mount.open(nodeid, O_RDONLY);
    const told = kernel.notifications.splice(0).map(({ code, body }) => {
      if (code === NOTIFY_STORE) return `${body.subarray(24).toString()} at ${number64(body, 8)}`;
      return number64(body, 8) < 2 ** 53 ? 'pages' : 'attributes';
    });
    await mount.close(handle);
    return told;
  };
  await open();
  return {
    open,
    stat: async (pid) => {
      must(await kernel.request('GETATTR', nodeid, u32(0, 0, 0, 0), { pid }));
    },
    growTo: async (size) => {
      const other = new ModelFileSystem(fileSystem.state);
      const { file } = await other.open(ROOT_CREDENTIALS, inodeId(nodeid), { read: false, write: true });
      await file.write(size - 1, Buffer.from('x'));
      await file.close();
    },
  };
}

await t.test('P2: after two look-ups at once an open makes the kernel ask, and tells it the size', async (t) => {
  const { stat, growTo, open } = await startMount(t);
  await stat(TWO);
  await growTo(4);
  await stat(THREE);
  t.same(await open(), ['attributes', 'pages', 'x at 3', 'pages'], 'it may have taken the older answer only');
  t.same(await open(), []);
});

await t.test('a thread that looks twice has taken both answers', async (t) => {
  const { stat, growTo, open } = await startMount(t);
  await stat(ONE);
  await growTo(4);
  await stat(ONE);
  t.same(await open(), []);
});

await t.test('what the kernel may have, by who was told and who goes on', async (t) => {
  const asked = (thread: number, arrivedMs: number) => ({ thread, arrivedMs });
  const start = (): TakenAttributes => {
    const taken = new TakenAttributes();
    taken.tell(10, 1, asked(ONE, 0), 0);
    return taken;
  };

  await t.test('one answer long after another', (t) => {
    const taken = start();
    taken.tell(20, 2, asked(TWO, 5000), 5001);
    t.ok(taken.mayKnowLess(20, ONE, 5002), 'its caller may sleep still');
    t.ok(taken.mayBelieveOther(2, ONE, 5002));
    t.notOk(taken.mayKnowLess(20, TWO, 5003), 'who was told it goes on');
    t.notOk(taken.mayBelieveOther(2, ONE, 5003));
    t.ok(taken.mayBelieveOther(3, ONE, 5003));
    t.ok(taken.mayBelieveOther(undefined, ONE, 5003));
    t.end();
  });

  await t.test('nobody goes on for long', (t) => {
    const taken = start();
    taken.tell(20, 2, asked(TWO, 5000), 5001);
    t.notOk(taken.mayKnowLess(20, ONE, 6002));
    t.notOk(taken.mayBelieveOther(2, ONE, 6002));
    t.end();
  });

  await t.test('two answers at once', (t) => {
    const taken = start();
    taken.tell(20, 2, asked(TWO, 5000), 5001);
    taken.tell(30, 3, asked(THREE, 5000), 5001);
    t.ok(taken.mayKnowLess(20, TWO, 9000), 'it may have taken neither, as others were on their way');
    t.ok(taken.mayBelieveOther(3, THREE, 9000));
    taken.tell(30, 3, asked(ONE, 9001), 9002);
    t.notOk(taken.mayKnowLess(30, ONE, 9003), 'it was asked for once more');
    t.notOk(taken.mayBelieveOther(3, ONE, 9003));
    t.end();
  });

  await t.test('something that it learns before the answer is taken', (t) => {
    const dropped = start();
    dropped.tell(20, 2, asked(TWO, 5000), 5001);
    dropped.dropped(THREE, 5001);
    t.ok(dropped.mayKnowLess(20, TWO, 5002));
    t.notOk(dropped.mayBelieveOther(3, TWO, 5002), 'it asks');
    const dropsItself = start();
    dropsItself.dropped(TWO, 5001);
    dropsItself.tell(20, 2, asked(TWO, 5000), 5002);
    t.ok(dropsItself.mayKnowLess(20, TWO, 5003));
    const written = start();
    written.tell(20, undefined, asked(TWO, 5000), 5001);
    written.hasAtLeast(15, THREE, 5001);
    t.ok(written.mayKnowLess(20, TWO, 5002));
    t.notOk(written.mayKnowLess(15, TWO, 5002));
    t.end();
  });

  await t.test('an end that was seen', (t) => {
    const taken = start();
    taken.sawEnd(5, TWO, 1);
    t.ok(taken.mayKnowLess(6, ONE, 2));
    t.notOk(taken.mayKnowLess(5, ONE, 2));
    t.end();
  });
  t.end();
});
