/** Files cut by an open whose client does not know yet which file the name leads to, told as stories. */
import assert from 'node:assert/strict';
import t from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { CHUNK_SIZE_BYTES, KIB } from '../../src/core/limits.js';
import { equalBytes, pattern } from '../conformance/case.js';
import { READ_WRITE, root, story } from './story.js';

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
