/** copy_file_range(2) over chunks and holes, with bytes that are not yet written back on either side. */
import assert from 'node:assert/strict';
import { CHUNK_SIZE_BYTES, KIB } from '../../../../src/core/limits.js';
import type { InodeId } from '../../../../src/core/ids.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { alice, equalBytes, name, pattern, READ_ONLY, READ_WRITE, root } from '../../case.js';
import type { CaseContext, ConformanceCase } from '../../case.js';

const CHUNK = CHUNK_SIZE_BYTES;

interface Part {
  readonly at: number;
  readonly bytes: Buffer;
}

/** Bytes of a file that is zeros but for `parts`, later ones over earlier ones. */
function window(parts: readonly Part[], offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (const part of parts) {
    const from = Math.max(0, offset - part.at);
    if (part.at < offset + length && from < part.bytes.length)
      part.bytes.copy(bytes, Math.max(0, part.at - offset), from);
  }
  return bytes;
}

async function copyAll(source: OpenFile, from: number, target: OpenFile, to: number, length: number): Promise<void> {
  for (let copied = 0; copied < length;) {
    const count = await target.copyFrom(source, from + copied, to + copied, length - copied);
    assert.ok(count > 0 && count <= length - copied, `copied ${count} of ${length - copied}`);
    copied += count;
  }
}

async function same(c: CaseContext, inode: InodeId, parts: readonly Part[], around: readonly number[]): Promise<void> {
  for (const fs of [c.fs, c.other]) {
    const { file, attributes } = await fs.open(root, inode, READ_ONLY);
    for (const place of around) {
      const at = Math.max(0, place - 300 * KIB);
      const length = Math.max(0, Math.min(600 * KIB, attributes.size - at));
      equalBytes(await file.read(at, length), window(parts, at, length), `around ${place}`);
    }
    await file.close();
  }
}

export const copyCases: readonly ConformanceCase[] = [
  {
    name: 'P5: copy_file_range over chunks and holes, unaligned: holes take the place of bytes',
    run: async (c) => {
      const data: Part[] = [
        { at: 0, bytes: pattern(200 * KIB, 1) },
        { at: CHUNK - 150 * KIB, bytes: pattern(300 * KIB + 7, 2) },
        { at: 3 * CHUNK + 5, bytes: pattern(100 * KIB, 3) },
      ];
      const size = 3 * CHUNK + 400 * KIB;
      const [from, to] = [await c.file('from'), await c.file('to')];
      const [source, target] = [await c.opened(from), await c.opened(to)];
      for (const { at, bytes } of data) await source.write(at, bytes);
      await source.truncate(size);
      const old: Part[] = [
        { at: 0, bytes: pattern(400 * KIB, 4) },
        { at: 2 * CHUNK + 100 * KIB, bytes: pattern(50 * KIB, 5) },
      ];
      for (const { at, bytes } of old) await target.write(at, bytes);
      const places = [0, 300 * KIB, CHUNK, 2 * CHUNK, 3 * CHUNK, size];
      let parts = old;
      for (const shift of [0, 12_345, 64 * KIB, CHUNK - 3]) {
        await copyAll(source, 0, target, shift, size);
        await target.flush();
        // What is behind the copy was past the end before.
        const kept = shift === 0 ? [] : [{ at: 0, bytes: window(parts, 0, Math.min(shift, 2 * CHUNK)) }];
        parts = [...kept, ...data.map(({ at, bytes }) => ({ at: at + shift, bytes }))];
        assert.equal((await target.attributes()).size, size + shift);
        await same(c, to, parts, [...places, ...places.map((place) => place + shift)]);
      }
      for (const file of [source, target]) await file.close();
    },
  },
  {
    name: 'copy_file_range: what was written before on either side counts, what is written after stays',
    run: async (c) => {
      const [from, to] = [await c.file('from', pattern(500 * KIB, 1)), await c.file('to', pattern(500 * KIB, 2))];
      const [source, target] = [await c.opened(from), await c.opened(to, { ...READ_WRITE })];
      const expected = pattern(500 * KIB, 2);
      const sourceBytes = pattern(500 * KIB, 1);
      for (let round = 0; round < 10; round++) {
        const word = pattern(20 * KIB, 10 + round);
        await source.write(round * 3000, word);
        word.copy(sourceBytes, round * 3000);
        await target.write(round * 5000, word);
        word.copy(expected, round * 5000);
        const [at, onto] = [round * 1000, 70_000 - round * 7000];
        await copyAll(source, at, target, onto, 300 * KIB);
        sourceBytes.copy(expected, onto, at, at + 300 * KIB);
        await target.write(onto + 1000, name('after'));
        name('after').copy(expected, onto + 1000);
        equalBytes(await target.read(0, expected.length), expected, `round ${round}`);
      }
      await target.close();
      await source.close();
      equalBytes(await c.content(to, c.other), expected, 'for others');
      equalBytes(await c.content(from, c.other), sourceBytes, 'the source');
    },
  },
  {
    name: 'copy_file_range within a file, within a chunk and over its end; to a file written by another client',
    run: async (c) => {
      const f = await c.file('f', pattern(400 * KIB, 1));
      const file = await c.opened(f);
      const first = pattern(400 * KIB, 1);
      await copyAll(file, 0, file, 500 * KIB + 1, 400 * KIB);
      await copyAll(file, 100 * KIB, file, CHUNK - 100 * KIB, 300 * KIB);
      await copyAll(file, CHUNK - 50 * KIB, file, 2 * CHUNK, 100 * KIB);
      await file.flush();
      const parts: Part[] = [
        { at: 0, bytes: first },
        { at: 500 * KIB + 1, bytes: first },
        { at: CHUNK - 100 * KIB, bytes: first.subarray(100 * KIB) },
        { at: 2 * CHUNK, bytes: first.subarray(150 * KIB, 250 * KIB) },
      ];
      assert.equal((await file.attributes()).size, 2 * CHUNK + 100 * KIB);
      await same(c, f, parts, [0, 500 * KIB, 900 * KIB, CHUNK, 2 * CHUNK]);
      const theirs = await c.opened(f, READ_WRITE, c.other);
      await theirs.write(10, name('theirs'));
      await theirs.close();
      const again = await c.opened(f);
      await copyAll(again, 0, again, 3 * CHUNK, 300 * KIB);
      await again.close();
      await same(c, f, [...parts, { at: 10, bytes: name('theirs') }], [0, 2 * CHUNK]);
      const copied = [{ at: 3 * CHUNK, bytes: first.subarray(0, 300 * KIB) }];
      await same(c, f, [...parts, ...copied, { at: 3 * CHUNK + 10, bytes: name('theirs') }], [3 * CHUNK + 350 * KIB]);
      await file.close();
    },
  },
  {
    name: 'copy_file_range: times, set-user-ID, O_SYNC, a truncate behind it',
    run: async (c) => {
      const from = await c.file('from', pattern(700 * KIB, 1));
      const to = await c.file('to', undefined, { as: alice, mode: 0o666 });
      const source = await c.opened(from, READ_ONLY);
      const { file } = await c.fs.open(alice, to, { ...READ_WRITE, sync: true });
      await c.fs.setAttributes(root, to, { mode: 0o6777 });
      await c.tick();
      const changed = await c.times(to, async () => {
        await copyAll(source, 0, file, 0, 700 * KIB);
        await file.flush();
      });
      assert.deepEqual(changed, { mtime: true, ctime: true });
      assert.equal((await c.attributes(to)).mode & 0o7777, 0o777);
      await file.truncate(300 * KIB);
      await file.truncate(700 * KIB);
      await same(c, to, [{ at: 0, bytes: pattern(700 * KIB, 1).subarray(0, 300 * KIB) }], [0, 400 * KIB]);
      for (const each of [source, file]) await each.close();
    },
  },
];
