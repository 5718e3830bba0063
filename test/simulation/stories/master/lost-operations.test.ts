/** Power loss at the master with operations that were not synced, told as stories (docs/failure-model.md). */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../../../src/core/ids.js';
import { KIB } from '../../../../src/core/limits.js';
import type { InodeId } from '../../../../src/core/ids.js';
import { pattern } from '../../../conformance/case.js';
import { READ_WRITE, root, story } from '../../world/story.js';
import type { Story } from '../../world/story.js';
import { MASTER } from '../../world/world.js';
import { failsSoon, powerCycle } from '../power-cycle.js';

t.setTimeout(0);

const LENGTH = 200 * KIB;

for (const when of ['open', 'closed'] as const) {
  story(`P1: an fsync after a power loss of the master tells of what it cost (${when})`, async (s) => {
    const bytes = pattern(LENGTH, 1);
    let file = await s.create('f', bytes);
    await s.one.syncMetadata();
    await file.flush();
    if (when === 'closed') await file.close();
    await powerCycle(s, [MASTER]);
    if (when === 'closed') file = await s.openAt('f');
    await failsSoon(s, 'fsync', () => file.sync());
    await file.write(0, bytes);
    await file.sync();
    await file.close();
    await powerCycle(s, [MASTER, ...s.world.chunkservers]);
    await s.world.sleep(60_000);
    await s.check('f', bytes);
  });
}

story(
  'P1: an fsync after a power loss of the master tells that what fallocate added to the file is gone',
  async (s) => {
    const file = await s.create('f', pattern(1000, 1));
    await file.sync();
    await file.allocate(0, LENGTH);
    await powerCycle(s, [MASTER]);
    assert.equal((await file.attributes()).size, 1000);
    await failsSoon(s, 'fsync', () => file.sync());
    await file.close();
  },
);

const CHANGES: Record<string, (s: Story, inode: InodeId) => Promise<unknown>> = {
  'a mode': ({ one }, inode) => one.setAttributes(root, inode, { mode: 0o600 }),
  'a size': ({ one }, inode) => one.setAttributes(root, inode, { size: 10 }),
  'an extended attribute': ({ one }, inode) => one.setXattr(root, inode, Buffer.from('user.a'), Buffer.from('b')),
  'an open that cuts': async ({ one }) => {
    const flags = { ...READ_WRITE, truncate: true };
    await (await one.openAt(root, ROOT_INODE, Buffer.from('f'), flags)).file.close();
  },
};
for (const [what, change] of Object.entries(CHANGES)) {
  story(
    `P1: an fsync through a handle that was opened after a power loss of the master tells of ${what}`,
    async (s) => {
      await (await s.createAtRest('f', pattern(LENGTH, 1))).close();
      const { inode } = await s.one.lookup(root, ROOT_INODE, Buffer.from('f'));
      await change(s, inode);
      await powerCycle(s, [MASTER]);
      const file = await s.openAt('f');
      await failsSoon(s, 'fsync', () => file.sync());
      await file.sync();
      // P7: what was synced by then is not told.
      await change(s, inode);
      await s.one.syncMetadata().catch(() => undefined);
      await s.one.setAttributes(root, ROOT_INODE, { mode: 0o777 });
      await powerCycle(s, [MASTER]);
      const another = await s.openAt('f');
      await another.sync();
      for (const handle of [file, another]) await handle.close();
    },
  );
}

interface Directories {
  readonly first: InodeId;
  readonly second: InodeId;
}
const CHANGES_OF_DIRECTORIES: Record<string, (s: Story, directories: Directories) => Promise<unknown>> = {
  'their modes': async ({ one }, { first, second }) => {
    for (const directory of [first, second]) await one.setAttributes(root, directory, { mode: 0o700 });
  },
  'new entries in them': async ({ one }, { first, second }) => {
    await one.makeNode(root, first, Buffer.from('new'), { kind: 'directory', mode: 0o755 });
    const options = { mode: 0o644, flags: READ_WRITE };
    await (await one.create(root, second, Buffer.from('new'), options)).file.close();
  },
  'a rename from one to the other': ({ one }, { first, second }) => {
    return one.rename(root, { parent: first, name: Buffer.from('f') }, { parent: second, name: Buffer.from('g') });
  },
  'a name that was removed and one that was added': async ({ one }, { first, second }) => {
    const { inode } = await one.lookup(root, first, Buffer.from('f'));
    await one.link(root, inode, second, Buffer.from('g'));
    await one.unlink(root, first, Buffer.from('f'));
  },
};
for (const [what, change] of Object.entries(CHANGES_OF_DIRECTORIES)) {
  story(`P1: an fsync of each directory after a power loss of the master tells of ${what}`, async (s) => {
    const { one } = s;
    const make = async (name: string): Promise<InodeId> =>
      (await one.makeNode(root, ROOT_INODE, Buffer.from(name), { kind: 'directory', mode: 0o755 })).inode;
    const directories = { first: await make('1'), second: await make('2') };
    const untouched = await make('3');
    const options = { mode: 0o644, flags: READ_WRITE };
    await (await one.create(root, directories.first, Buffer.from('f'), options)).file.close();
    await one.syncMetadata();
    await change(s, directories);
    await powerCycle(s, [MASTER]);
    for (const directory of [directories.second, directories.first]) {
      await failsSoon(s, 'fsync', () => one.syncMetadata(directory));
      await one.syncMetadata(directory);
    }
    await one.syncMetadata(untouched);
    // P7: what was synced by then is not told.
    await one.setAttributes(root, directories.first, { mode: 0o711 });
    await one.syncMetadata(directories.second);
    await powerCycle(s, [MASTER]);
    await one.syncMetadata(directories.first);
  });
}

story('P1: an fsync of a directory after a power loss of the master tells of what it cost', async (s) => {
  await (await s.create('f', pattern(LENGTH, 1))).close();
  await powerCycle(s, [MASTER]);
  await failsSoon(s, 'fsync', () => s.one.syncMetadata());
  await s.one.syncMetadata();
  // Who changed nothing lost nothing.
  await s.two.syncMetadata();
});

story('P1: a master that was stopped in an orderly way, or only killed, cost nothing', async (s) => {
  const file = await s.create('f', pattern(LENGTH, 1));
  await file.flush();
  await s.world.kill(MASTER);
  await s.world.start(MASTER);
  await file.sync();
  await s.one.syncMetadata();
  await file.close();
  await powerCycle(s, [MASTER]);
  // Until the servers have found the master again.
  await s.world.sleep(60_000);
  await s.check('f', pattern(LENGTH, 1));
});

story('P7: what is lost of a file at the master and at the chunkservers together is told once', async (s) => {
  const file = await s.create('f', pattern(LENGTH, 1));
  await file.sync();
  await file.write(0, pattern(LENGTH, 2));
  await file.flush();
  await s.one.setAttributes(root, file.inode, { mode: 0o600 });
  await powerCycle(s, [MASTER, ...s.world.chunkservers]);
  await failsSoon(s, 'fsync', () => file.sync());
  await file.sync();
  await file.close();
});
