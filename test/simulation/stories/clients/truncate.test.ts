/** Files that are cut while others write to them, or by an open that does not know yet which file its name leads to, told as stories. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { CHUNK_SIZE_BYTES, KIB } from '../../../../src/core/limits.js';
import { equalBytes, pattern } from '../../../conformance/case.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { READ_WRITE, root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';

t.setTimeout(0);

const CUT = { ...READ_WRITE, truncate: true };

story(
  'P5: an open that truncates hides what this client wrote before, at whatever moment that is published',
  async (s) => {
    for (let step = 0; step < 30; step++) {
      const name = Buffer.from(`new-${step}`);
      const file = await s.create(`old-${step}`, pattern(1000, step));
      await file.write(CHUNK_SIZE_BYTES + 5000, pattern(1000, step));
      await file.flush();
      await file.write(CHUNK_SIZE_BYTES + 7000, pattern(1000, step));
      // The other client gives the name, so that this one does not know that it leads to the file.
      await s.two.rename(root, { parent: ROOT_INODE, name: Buffer.from(`old-${step}`) }, { parent: ROOT_INODE, name });
      const flushing = file.flush();
      await s.world.sleep(step / 10);
      const { file: cut, attributes } = await s.one.openAt(root, ROOT_INODE, name, CUT);
      await flushing;
      assert.equal(attributes.size, 0, `opened ${step / 10} ms after the flush began`);
      assert.equal((await file.attributes()).size, 0, `${step / 10} ms after the flush began`);
      const elsewhere = await s.openAt(name.toString(), s.two);
      assert.equal((await elsewhere.attributes()).size, 0, 'as another client sees it');
      await elsewhere.close();
      await file.write(0, pattern(10 * KIB, step));
      await file.close();
      await cut.close();
      await s.check(name.toString(), pattern(10 * KIB, step));
    }
  },
);

story(
  'P1: a file that a truncating open took for another one keeps its bytes through fsync and power loss',
  async (s) => {
    const bytes = pattern(200 * KIB, 1);
    const file = await s.create('name', bytes);
    await file.flush();
    await s.two.link(root, file.inode, ROOT_INODE, Buffer.from('kept'));
    const other = await s.create('other', pattern(1000, 2), s.two);
    await other.close();
    await s.one.lookup(root, ROOT_INODE, Buffer.from('name'));
    await s.two.rename(
      root,
      { parent: ROOT_INODE, name: Buffer.from('other') },
      { parent: ROOT_INODE, name: Buffer.from('name') },
    );
    const cut = await s.one.openAt(root, ROOT_INODE, Buffer.from('name'), CUT);
    assert.notEqual(cut.file.inode, file.inode);
    await cut.file.close();
    await file.sync();
    for (const name of s.world.chunkservers) await s.world.powerOff(name, 'nothing');
    await s.world.sleep(2000);
    for (const name of s.world.chunkservers) await s.world.powerOn(name);
    await s.world.sleep(5000);
    equalBytes(await file.read(0, bytes.length + 1), bytes, 'after the power loss');
    await file.close();
    await s.world.sleep(60_000);
    await s.check('kept', bytes);
  },
);

/** Another client has a lease of the file, and the master decides to cut it; what it sends to the servers does not arrive. */
async function cutInDoubt(s: Story): Promise<{ readonly file: OpenFile; readonly heal: () => void }> {
  const { world } = s;
  const file = await s.create('file', pattern(1000, 1));
  await file.sync();
  const other = await s.openAt('file', s.two);
  await other.write(0, pattern(1000, 1));
  await other.sync();
  const hosts = await s.holders(file);
  for (const host of hosts) world.network.partition(MASTER, host, true);
  world.background(() => s.one.setAttributes(root, file.inode, { size: 100 }));
  await world.sleep(200);
  return { file: other, heal: () => hosts.forEach((host) => world.network.heal(MASTER, host)) };
}

story('P1: what is written by who has seen a cut is not cut off when that comes late to the chunkserver', async (s) => {
  const { file, heal } = await cutInDoubt(s);
  const again = await s.openAt('file', s.two);
  assert.equal((await again.attributes()).size, 100);
  await again.write(100, pattern(400, 7));
  const synced = again.sync();
  await s.world.sleep(300);
  heal();
  await synced;
  await s.world.sleep(1000);
  equalBytes((await again.read(0, 2000)).subarray(100), pattern(400, 7), 'what was written and synced');
  await again.close();
  await file.close();
});

story('P1: what is written after a cut is not cut off when the master is killed before that is made', async (s) => {
  const { world } = s;
  const { file, heal } = await cutInDoubt(s);
  await world.kill(MASTER);
  world.network.partition(MASTER, 'client-1');
  heal();
  await world.start(MASTER);
  await world.sleep(1500);
  const again = await s.openAt('file', s.two);
  assert.equal((await again.attributes()).size, 100);
  await again.write(100, pattern(400, 7));
  await again.sync();
  equalBytes((await again.read(0, 2000)).subarray(100), pattern(400, 7), 'what was written and synced');
  world.network.heal(MASTER, 'client-1');
  await world.sleep(90_000);
  equalBytes((await again.read(0, 2000)).subarray(100), pattern(400, 7), 'and later');
  await again.close();
  await file.close();
});

story(
  'P5: what is written between a cut by who appends, which is answered late, and a cut by another is cut off',
  async (s) => {
    const { world } = s;
    const flags = { ...READ_WRITE, append: true };
    const { file } = await s.one.create(root, ROOT_INODE, Buffer.from('file'), { mode: 0o644, flags });
    await file.write(0, pattern(1000, 1));
    await file.sync();
    const other = await s.openAt('file', s.two);
    await other.write(0, pattern(1000, 1));
    await other.sync();
    await file.write(0, pattern(10, 1));
    await file.sync();
    // What the chunkservers answer is held back.
    const hosts = await s.holders(file);
    for (const host of hosts) world.network.partition(host, MASTER, true);
    const first = s.one.setAttributes(root, file.inode, { size: 100 });
    await world.sleep(200);
    await other.write(100, pattern(400, 7));
    const flushed = other.flush();
    await world.sleep(2_500);
    const second = s.two.setAttributes(root, file.inode, { size: 200 });
    await world.sleep(1_000);
    for (const host of hosts) world.network.heal(host, MASTER);
    await Promise.all([first, flushed, second]);
    await s.one.setAttributes(root, file.inode, { size: 500 });
    await file.close();
    await other.close();
    const again = await s.openAt('file', s.two);
    equalBytes(await again.read(200, 301), Buffer.alloc(300), 'behind the second cut');
    await again.close();
  },
);

for (const size of [0, 100]) {
  story(
    `P11: a cut to ${size} that comes before the chunkservers are back after a restart of the master waits for them only`,
    async (s) => {
      const { world } = s;
      const file = await s.create('file', pattern(1000, 1));
      await file.sync();
      const hosts = await s.holders(file);
      await world.kill(MASTER);
      // They come a moment later than the clients.
      for (const host of hosts) world.network.partition(MASTER, host);
      await world.start(MASTER);
      world.background(async () => {
        await world.sleep(2_500);
        for (const host of hosts) world.network.heal(MASTER, host);
      });
      const begunMs = world.clock.nowUs / 1000;
      await s.two.setAttributes(root, file.inode, { size });
      const tookMs = world.clock.nowUs / 1000 - begunMs;
      assert.ok(tookMs < 6_000, `${tookMs} ms`);
      await file.close();
      await s.check('file', pattern(1000, 1).subarray(0, size));
    },
  );
}

story('an open that truncates by name takes its turn among those who append to the file that it cuts', async (s) => {
  const three = await s.world.connect('client-3');
  const [name, other] = [Buffer.from('name'), Buffer.from('other')];
  const append = async (text: Buffer): Promise<OpenFile> => {
    const options = { mode: 0o644, flags: { ...READ_WRITE, append: true } };
    const { file } = await s.two.create(root, ROOT_INODE, text, options);
    await file.write(0, pattern(1000, 1));
    await file.flush();
    return file;
  };
  const [first, second] = [await append(name), await append(other)];
  // It lets go of the end of the first file when what it appended there has arrived.
  for (const host of s.world.chunkservers) s.world.network.partition('client-2', host);
  await first.write(0, pattern(1000, 1));
  const opening = s.one.openAt(root, ROOT_INODE, name, CUT);
  await s.world.sleep(300);
  await three.rename(root, { parent: ROOT_INODE, name: other }, { parent: ROOT_INODE, name });
  for (const host of s.world.chunkservers) s.world.network.heal('client-2', host);
  const { file: cut } = await opening;
  assert.equal(cut.inode, second.inode);
  await second.write(0, pattern(500, 2));
  await second.close();
  await s.check('name', pattern(500, 2));
  await cut.close();
  await first.close();
});

story(
  'P1: the answer to a cut that comes when the file was written and closed again forgets nothing of that',
  async (s) => {
    const { world } = s;
    const file = await s.create('file', pattern(1000, 1));
    await file.sync();
    const hosts = await s.holders(file);
    await file.close();
    // The lease of the chunk that is cut off does not end before they hear of it.
    for (const host of hosts) world.network.partition(MASTER, host, true);
    let isCut = false;
    const cutting = s.one.setAttributes(root, file.inode, { size: 0 }).then(() => (isCut = true));
    await world.sleep(20);
    const again = await s.openAt('file');
    await again.write(0, pattern(1000, 2));
    await again.close();
    assert.equal(isCut, false, 'its answer is still to come');
    for (const host of hosts) world.network.heal(MASTER, host);
    await cutting;
    const last = await s.openAt('file');
    await last.sync();
    for (const name of world.chunkservers) await world.powerOff(name, 'nothing');
    await world.sleep(2000);
    for (const name of world.chunkservers) await world.powerOn(name);
    await world.sleep(5000);
    equalBytes(await last.read(0, 2000), pattern(1000, 2), 'after the power loss');
    await last.close();
  },
  { chunkservers: 5 },
);

story(
  'a file that a truncating open took for another one stays open when the connection breaks before it is cut',
  async (s) => {
    const { world } = s;
    const [first, second] = [await s.create('name', pattern(1000, 1)), await s.create('other', pattern(1000, 2))];
    for (const file of [first, second]) await file.flush();
    const name = { parent: ROOT_INODE, name: Buffer.from('name') };
    await s.one.lookup(root, name.parent, name.name);
    await s.two.rename(root, { parent: ROOT_INODE, name: Buffer.from('other') }, name);
    // What is older than the cut does not arrive yet.
    for (const host of world.chunkservers) world.network.partition('client-1', host);
    await second.write(0, pattern(100, 3));
    const opening = s.one.openAt(root, name.parent, name.name, CUT);
    await world.sleep(300);
    await s.two.unlink(root, name.parent, name.name);
    world.network.refuse('client-1', MASTER);
    world.network.heal('client-1', MASTER);
    await world.sleep(3000);
    for (const host of world.chunkservers) world.network.heal('client-1', host);
    const { file } = await opening;
    assert.equal(file.inode, second.inode);
    await second.close();
    await world.sleep(60_000);
    await file.write(0, pattern(500, 4));
    await file.sync();
    equalBytes(await file.read(0, 1000), pattern(500, 4), 'although it has no name');
    await file.close();
    await first.close();
  },
);
