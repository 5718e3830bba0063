/** lseek(2) for data and holes, fallocate(2), copy_file_range(2). */
import assert from 'node:assert/strict';
import { CHUNK_SIZE_BYTES, KIB, MAX_FILE_BYTES, MIB } from '../../../../src/core/limits.js';
import { hasCode } from '../../../../src/core/errors.js';
import type { InodeId } from '../../../../src/core/ids.js';
import type { OpenFile } from '../../../../src/filesystem/filesystem.js';
import { alice, equalBytes, fails, name, pattern, READ_ONLY, READ_WRITE, root, WRITE_ONLY } from '../../case.js';
import type { CaseContext, ConformanceCase } from '../../case.js';

const CHUNK = CHUNK_SIZE_BYTES;

/** What a program that copies only the data would read, beside what is there. */
async function throughHoles(file: OpenFile, size: number): Promise<{ data: number; bytes: Map<number, Buffer> }> {
  const bytes = new Map<number, Buffer>();
  let data = 0;
  for (let at = 0; at < size;) {
    let start: number;
    try {
      start = await file.seek(at, 'data');
    } catch (error) {
      assert.ok(hasCode(error, 'ENXIO'), String(error));
      break;
    }
    assert.ok(start >= at, 'data is found ahead');
    const end = await file.seek(start, 'hole');
    assert.ok(end > start && end <= size, `a hole from ${start}: ${end}`);
    for (let from = start; from < end; from += MIB) {
      const part = await file.read(from, Math.min(MIB, end - from));
      if (part.some((byte) => byte !== 0)) bytes.set(from, Buffer.from(part));
    }
    data += end - start;
    at = end;
  }
  return { data, bytes };
}

async function same(c: CaseContext, inode: InodeId, offset: number, expected: Buffer, what: string): Promise<void> {
  for (const fs of [c.fs, c.other]) {
    const { file } = await fs.open(root, inode, READ_ONLY);
    equalBytes(await file.read(offset, expected.length), expected, what);
    await file.close();
  }
}

export const rangeCases: readonly ConformanceCase[] = [
  {
    name: 'P5: seek: data is never called a hole, chunks that are not there are; the end of file is one',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      await fails('ENXIO', file.seek(0, 'data'));
      await fails('ENXIO', file.seek(0, 'hole'));
      const places = [5, 3 * CHUNK - 2, 5 * CHUNK + 100 * KIB];
      for (const at of places) await file.write(at, pattern(10, at));
      const size = 8 * CHUNK + 1;
      await file.truncate(size);
      const found = await throughHoles(file, size);
      assert.ok(found.data < 5 * CHUNK, `${found.data} bytes called data`);
      for (const at of places) assert.ok((await file.seek(at, 'data')) === at, `data at ${at}`);
      assert.equal(
        [...found.bytes.values()].reduce((sum, part) => sum + part.filter((byte) => byte !== 0).length, 0) > 20,
        true,
      );
      await fails('ENXIO', file.seek(6 * CHUNK, 'data'));
      assert.equal(await file.seek(6 * CHUNK, 'hole'), 6 * CHUNK);
      assert.equal(await file.seek(size - 1, 'hole'), size - 1);
      for (const whence of ['data', 'hole'] as const) {
        await fails('ENXIO', file.seek(size, whence));
        await fails('ENXIO', file.seek(2 * size, whence));
        await fails('ENXIO', file.seek(-1, whence));
      }
      await file.truncate(3);
      await file.write(0, name('abc'));
      assert.equal(await file.seek(1, 'data'), 1);
      assert.equal(await file.seek(0, 'hole'), 3, 'the end of the file');
      await file.close();
    },
  },
  {
    name: 'fallocate: extends the size, or keeps it; the bytes stay',
    run: async (c) => {
      const f = await c.file('f', name('content'));
      const file = await c.opened(f);
      await file.allocate(0, 100, { keepSize: true });
      assert.equal((await file.attributes()).size, 7);
      await file.allocate(3, 2);
      assert.equal((await file.attributes()).size, 7);
      const both = { mtime: true, ctime: true };
      assert.deepEqual(await c.times(f, () => file.allocate(5, 1000)), both);
      assert.equal((await c.attributes(f)).size, 1005);
      await same(c, f, 0, Buffer.concat([name('content'), Buffer.alloc(998)]), 'allocated');
      await file.write(1005, name('!'));
      await file.allocate(CHUNK - 1, 2);
      const theirs = await c.other.open(root, f, READ_ONLY);
      assert.equal(theirs.attributes.size, CHUNK + 1);
      await theirs.file.close();
      await same(c, f, 1000, Buffer.concat([Buffer.alloc(5), name('!'), Buffer.alloc(50)]), 'after a write');
      await fails('EINVAL', file.allocate(0, 0));
      await fails('EINVAL', file.allocate(-1, 5));
      await fails(['EINVAL', 'EOPNOTSUPP'], file.allocate(0, 5, { punchHole: true }));
      await fails('EFBIG', file.allocate(MAX_FILE_BYTES, 1));
      await file.close();
      const reader = await c.opened(f, READ_ONLY);
      await fails('EBADF', reader.allocate(0, 1));
      await reader.close();
    },
  },
  {
    name: 'fallocate of more than there is room for: ENOSPC, and nothing changed',
    run: async (c) => {
      const file = await c.opened(await c.file('f'));
      const { freeBytes } = await c.fs.statFs();
      if (freeBytes < MAX_FILE_BYTES / 2 && freeBytes < 2 ** 38) {
        await fails('ENOSPC', file.allocate(0, 2 * freeBytes + CHUNK));
        assert.equal((await file.attributes()).size, 0);
      }
      await file.close();
    },
  },
  {
    name: 'P5: a punched hole reads as zeros, for all, and again after the size grew over it',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      const bytes = pattern(300 * KIB, 3);
      await file.write(0, bytes);
      await file.sync();
      const hole = (from: number, to: number): void => void bytes.fill(0, from, Math.min(to, bytes.length));
      await c.tick();
      await file.allocate(1000, 70_000, { keepSize: true, punchHole: true });
      hole(1000, 71_000);
      await same(c, f, 0, bytes, 'within');
      await file.write(2000, name('new'));
      name('new').copy(bytes, 2000);
      await file.allocate(250 * KIB, CHUNK, { keepSize: true, punchHole: true });
      hole(250 * KIB, Infinity);
      assert.equal((await file.attributes()).size, bytes.length);
      await file.truncate(400 * KIB);
      await same(c, f, 0, Buffer.concat([bytes, Buffer.alloc(100 * KIB)]), 'across the end');
      await file.allocate(0, 2 * CHUNK, { keepSize: true, punchHole: true });
      await same(c, f, 0, Buffer.alloc(400 * KIB), 'all of it');
      await file.write(5, name('again'));
      await file.sync();
      await same(c, f, 0, Buffer.concat([Buffer.alloc(5), name('again'), Buffer.alloc(100)]), 'written again');
      await file.close();
    },
  },
  {
    name: 'P5: whole chunks are punched out of the middle of a file that two clients have open',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      const word = pattern(64, 9);
      const places = [CHUNK - 64, CHUNK, 2 * CHUNK - 64, 2 * CHUNK, 3 * CHUNK - 64, 3 * CHUNK];
      for (const at of places) await file.write(at, word);
      await file.sync();
      const theirs = await c.opened(f, READ_WRITE, c.other);
      equalBytes(await theirs.read(CHUNK, 64), word, 'before');
      await theirs.write(CHUNK + 500, name('theirs'));
      await theirs.flush();
      await file.allocate(CHUNK - 32, 2 * CHUNK + 64, { keepSize: true, punchHole: true });
      await same(c, f, CHUNK - 64, Buffer.concat([word.subarray(0, 32), Buffer.alloc(32 + 1000)]), 'at the start');
      await same(c, f, 2 * CHUNK - 64, Buffer.alloc(128), 'in the middle');
      await same(c, f, 3 * CHUNK - 64, Buffer.concat([Buffer.alloc(96), word.subarray(32)]), 'at the end');
      assert.equal((await file.attributes()).size, 3 * CHUNK + 64);
      const data = await throughHoles(file, 3 * CHUNK + 64);
      assert.ok(data.data <= CHUNK + 64, 'two chunks are holes');
      await theirs.write(CHUNK + 700, name('later'));
      await theirs.close();
      await same(
        c,
        f,
        CHUNK + 490,
        Buffer.concat([Buffer.alloc(210), name('later'), Buffer.alloc(10)]),
        'written later',
      );
      await file.sync();
      await file.close();
    },
  },
  {
    name: 'P5: zero range: zeros, with and without a new size',
    run: async (c) => {
      const f = await c.file('f', pattern(1000, 4));
      const file = await c.opened(f);
      const bytes = pattern(1000, 4);
      await file.allocate(100, 200, { zeroRange: true });
      bytes.fill(0, 100, 300);
      await same(c, f, 0, bytes, 'within');
      await file.allocate(900, 500, { zeroRange: true, keepSize: true });
      bytes.fill(0, 900);
      assert.equal((await file.attributes()).size, 1000);
      await file.allocate(990, 500, { zeroRange: true });
      assert.equal((await c.attributes(f)).size, 1490);
      await same(c, f, 0, Buffer.concat([bytes, Buffer.alloc(490)]), 'grown');
      await file.close();
    },
  },
  {
    name: 'fallocate clears set-user-ID as a write does',
    run: async (c) => {
      const f = await c.file('f', name('x'), { as: alice, mode: 0o666 });
      const { file } = await c.fs.open(alice, f, READ_WRITE);
      await c.fs.setAttributes(root, f, { mode: 0o6777 });
      await file.allocate(0, 100);
      assert.equal((await c.attributes(f)).mode & 0o7777, 0o777);
      await file.close();
    },
  },
  {
    name: 'copy_file_range: between files, within one, at the end, refusals',
    run: async (c) => {
      const from = await c.file('from', pattern(3 * MIB + 77, 5));
      const to = await c.file('to', pattern(100, 6));
      const [source, target] = [await c.opened(from, READ_ONLY), await c.opened(to)];
      const bytes = pattern(3 * MIB + 77, 5);
      let copied = 0;
      while (copied < bytes.length) {
        const count = await target.copyFrom(source, copied, 10 + copied, bytes.length - copied);
        assert.ok(count > 0);
        copied += count;
      }
      assert.equal(await target.copyFrom(source, bytes.length, 0, 100), 0);
      assert.equal(await target.copyFrom(source, bytes.length - 5, 0, 100), 5);
      await target.flush();
      const expected = Buffer.concat([pattern(100, 6).subarray(0, 10), bytes]);
      bytes.copy(expected, 0, bytes.length - 5);
      for (let at = 0; at < expected.length; at += MIB)
        await same(c, to, at, expected.subarray(at, at + MIB), 'copied');
      assert.equal(await target.copyFrom(target, 0, 50, 50), 50);
      expected.copy(expected, 50, 0, 50);
      await target.flush();
      await same(c, to, 0, expected.subarray(0, 200), 'within');
      for (const [at, length] of [
        [0, 1],
        [10, 100],
        [100, 101],
        [101, 5000],
      ] as const) {
        await fails('EINVAL', target.copyFrom(target, 100, at, Math.max(length, Math.abs(at - 100) + 1)));
      }
      await fails('EBADF', source.copyFrom(target, 0, 0, 10));
      const writer = await c.opened(from, WRITE_ONLY);
      await fails('EBADF', target.copyFrom(writer, 0, 0, 10));
      const appender = await c.opened(to, { ...WRITE_ONLY, append: true });
      await fails('EBADF', appender.copyFrom(source, 0, 0, 10));
      for (const file of [source, target, writer, appender]) await file.close();
    },
  },
];
