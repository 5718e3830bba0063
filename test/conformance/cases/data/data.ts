/** File content: reads and writes, holes, truncation (P5), large offsets, chunk and block boundaries. */
import assert from 'node:assert/strict';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, KIB, MAX_FILE_BYTES, MIB } from '../../../../src/core/limits.js';
import { SparseBytes } from '../../../support/sparse-bytes.js';
import { equalBytes, fails, name, pattern, READ_ONLY, READ_WRITE, root, WRITE_ONLY } from '../../case.js';
import type { ConformanceCase } from '../../case.js';

export const dataCases: readonly ConformanceCase[] = [
  {
    name: 'data: written bytes are read back, at once and after close',
    run: async (c) => {
      for (const length of [1, 4 * KIB, BLOCK_SIZE_BYTES - 1, BLOCK_SIZE_BYTES + 1, MIB, 3 * MIB + 17]) {
        const bytes = pattern(length, length);
        const f = await c.file(`f${length}`);
        const file = await c.opened(f);
        assert.equal(await file.write(0, bytes), length);
        equalBytes(await file.read(0, length + 10), bytes, 'own unflushed writes');
        assert.equal((await file.attributes()).size, length);
        await file.close();
        equalBytes(await c.content(f), bytes, 'after close');
        assert.equal((await c.attributes(f)).size, length);
      }
    },
  },
  {
    name: 'data: the buffer that was written may be reused at once',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      const buffer = Buffer.alloc(100 * KIB, 'a');
      await file.write(0, buffer);
      buffer.fill('b');
      const read = await file.read(0, 100 * KIB);
      read.fill('c');
      await file.close();
      equalBytes(await c.content(f), Buffer.alloc(100 * KIB, 'a'), 'copied');
    },
  },
  {
    name: 'data: reads at, across and past the end; empty reads and writes',
    run: async (c) => {
      const f = await c.file('f', name('0123456789'));
      const file = await c.opened(f);
      assert.equal((await file.read(0, 0)).length, 0);
      assert.equal((await file.read(5, 100)).toString(), '56789');
      assert.equal((await file.read(10, 1)).length, 0);
      assert.equal((await file.read(1e12, 1)).length, 0);
      assert.equal(await file.write(500, Buffer.alloc(0)), 0);
      assert.equal((await file.attributes()).size, 10, 'an empty write does not extend');
      await file.close();
    },
  },
  {
    name: 'data: EBADF for what the open does not allow, EFBIG past the largest file',
    run: async (c) => {
      const f = await c.file('f', name('x'));
      const reader = await c.opened(f, READ_ONLY);
      await fails('EBADF', reader.write(0, name('y')));
      await fails(['EBADF', 'EINVAL'], reader.truncate(0));
      await reader.close();
      const writer = await c.opened(f, WRITE_ONLY);
      await fails('EBADF', writer.read(0, 1));
      await fails('EFBIG', writer.write(MAX_FILE_BYTES, name('y')));
      await writer.close();
      assert.equal((await c.content(f)).toString(), 'x');
    },
  },
  {
    name: 'P5: holes read as zeros',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      await file.write(300 * KIB, name('end'));
      const expected = Buffer.concat([Buffer.alloc(300 * KIB), name('end')]);
      equalBytes(await file.read(0, MIB), expected, 'before flush');
      await file.write(100 * KIB + 5, name('middle'));
      expected.write('middle', 100 * KIB + 5);
      await file.close();
      equalBytes(await c.content(f), expected, 'after close');
    },
  },
  {
    name: 'P5: whole chunks of hole, and sizes of many chunks',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      const far = 5 * CHUNK_SIZE_BYTES + 12345;
      await file.write(far, name('far'));
      assert.equal((await file.attributes()).size, far + 3);
      equalBytes(await file.read(2 * CHUNK_SIZE_BYTES - 10, 20), Buffer.alloc(20), 'a hole of whole chunks');
      equalBytes(await file.read(far - 5, 20), Buffer.concat([Buffer.alloc(5), name('far')]), 'its end');
      await file.close();
      const again = await c.opened(f);
      equalBytes(await again.read(far - 5, 20), Buffer.concat([Buffer.alloc(5), name('far')]), 'after close');
      equalBytes(await again.read(CHUNK_SIZE_BYTES - 100 * KIB, 200 * KIB), Buffer.alloc(200 * KIB), 'across chunks');
      await again.close();
      assert.ok((await c.attributes(f)).allocatedBytes < far, 'holes take no place');
    },
  },
  {
    name: 'P5: truncate, then extend: zeros, never the old bytes',
    run: async (c) => {
      const cuts = [0, 1, 1000, BLOCK_SIZE_BYTES - 1, BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES + 1, 199 * KIB];
      for (const [index, cut] of cuts.entries()) {
        const bytes = pattern(200 * KIB, index + 3);
        const f = await c.file(`f${index}`, bytes);
        const expected = Buffer.concat([bytes.subarray(0, cut), Buffer.alloc(300 * KIB - cut)]);
        if (index % 2 === 0) {
          await c.fs.setAttributes(root, f, { size: cut });
          equalBytes(await c.content(f), bytes.subarray(0, cut), 'cut');
          await c.fs.setAttributes(root, f, { size: 300 * KIB });
        } else {
          const file = await c.opened(f);
          await file.truncate(cut);
          equalBytes(await file.read(0, MIB), bytes.subarray(0, cut), 'cut');
          await file.truncate(300 * KIB);
          equalBytes(await file.read(0, MIB), expected, 'before close');
          await file.close();
        }
        equalBytes(await c.content(f), expected, 'extended');
      }
    },
  },
  {
    name: 'P5: truncate, then write past the cut: zeros between',
    run: async (c) => {
      const bytes = pattern(256 * KIB, 9);
      const f = await c.file('f', bytes);
      const file = await c.opened(f);
      await file.truncate(10_000);
      await file.write(150_000, name('later'));
      const expected = Buffer.alloc(150_005);
      bytes.copy(expected, 0, 0, 10_000);
      expected.write('later', 150_000);
      equalBytes(await file.read(0, MIB), expected, 'before close');
      await file.close();
      equalBytes(await c.content(f), expected, 'after close');
      await c.fs.setAttributes(root, f, { size: 256 * KIB });
      const longer = Buffer.concat([expected, Buffer.alloc(256 * KIB - expected.length)]);
      equalBytes(await c.content(f), longer, 'extended');
    },
  },
  {
    name: 'P5: unflushed writes behind a truncate do not come back',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      await file.write(0, pattern(100 * KIB, 4));
      await file.truncate(50);
      await file.truncate(100 * KIB);
      const expected = Buffer.concat([pattern(50, 4), Buffer.alloc(100 * KIB - 50)]);
      equalBytes(await file.read(0, MIB), expected, 'before close');
      await file.sync();
      await file.close();
      equalBytes(await c.content(f), expected, 'after close');
    },
  },
  {
    name: 'P5: truncate at and across chunk boundaries',
    run: async (c) => {
      const f = await c.file('f');
      const start = CHUNK_SIZE_BYTES - 100 * KIB;
      const bytes = pattern(200 * KIB, 5);
      const file = await c.opened(f);
      await file.write(start, bytes);
      for (const cut of [CHUNK_SIZE_BYTES + 7, CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES - 7]) {
        await file.truncate(cut);
        await file.truncate(start + bytes.length);
        const kept = cut - start;
        const expected = Buffer.concat([bytes.subarray(0, kept), Buffer.alloc(bytes.length - kept)]);
        equalBytes(await file.read(start, MIB), expected, `cut at ${cut}`);
        await file.write(start, bytes);
      }
      await file.close();
    },
  },
  {
    name: 'data: small writes around a chunk boundary',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      const start = CHUNK_SIZE_BYTES - 1000;
      const bytes = pattern(2000, 6);
      // Backwards, in pieces of 37 bytes, so that pieces cross the boundary and nothing is sequential.
      for (let at = Math.floor(1999 / 37) * 37; at >= 0; at -= 37) {
        await file.write(start + at, bytes.subarray(at, at + 37));
      }
      equalBytes(await file.read(start, 4000), bytes, 'before flush');
      await file.flush();
      equalBytes(await file.read(start, 4000), bytes, 'after flush');
      await file.close();
      const again = await c.opened(f, READ_ONLY);
      equalBytes(await again.read(start - 100, 4000), Buffer.concat([Buffer.alloc(100), bytes]), 'after close');
      await again.close();
    },
  },
  {
    name: 'data: large offsets, up to the largest file',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      for (const offset of [2 ** 31 - 2, 2 ** 32 - 2, 2 ** 40 + 3, MAX_FILE_BYTES - 4]) {
        await file.write(offset, name('4321'));
        equalBytes(await file.read(offset, 4), name('4321'), `at ${offset}`);
      }
      await file.close();
      assert.equal((await c.attributes(f)).size, MAX_FILE_BYTES);
      const again = await c.opened(f, READ_ONLY);
      equalBytes(await again.read(2 ** 32 - 4, 8), Buffer.from('\0\x004321\0\0'), 'past 4 GiB');
      assert.equal(await again.seek(MAX_FILE_BYTES - 1, 'data'), MAX_FILE_BYTES - 1, 'data in the last chunk');
      assert.equal(await again.seek(MAX_FILE_BYTES - 1, 'hole'), MAX_FILE_BYTES, 'the end');
      await again.close();
      await c.fs.setAttributes(root, f, { size: 2 ** 31 });
      await c.fs.setAttributes(root, f, { size: 0 });
    },
  },
  {
    name: 'data: append goes to the end, also after others extended the file',
    run: async (c) => {
      const f = await c.file('f', name('start'));
      const appender = await c.opened(f, { ...READ_WRITE, append: true });
      const writer = await c.opened(f);
      await appender.write(0, name('+a'));
      await writer.write(7, name('+w'));
      await appender.write(0, name('+b'));
      equalBytes(await writer.read(0, 100), name('start+a+w+b'), 'one client sees all');
      await appender.close();
      await writer.close();
      assert.equal((await c.content(f)).toString(), 'start+a+w+b');
    },
  },
  {
    name: 'data: open with truncate empties the file',
    run: async (c) => {
      const f = await c.file('f', pattern(100 * KIB, 2));
      const { file, attributes } = await c.fs.open(root, f, { ...WRITE_ONLY, truncate: true });
      assert.equal(attributes.size, 0);
      await file.write(2000, name('x'));
      await file.close();
      equalBytes(await c.content(f), Buffer.concat([Buffer.alloc(2000), name('x')]), 'truncated by open');
    },
  },
  {
    name: 'data: writes in random places and sizes equal a plain buffer',
    run: async (c) => {
      const f = await c.file('f');
      const model = new SparseBytes();
      let file = await c.opened(f);
      let x = 12345;
      const next = (bound: number): number => {
        x = (Math.imul(x, 1103515245) + 12345) >>> 0;
        return Math.floor((x / 2 ** 32) * bound);
      };
      for (let step = 0; step < 120; step++) {
        const offset = next(500 * KIB);
        const action = next(12);
        if (action < 6) {
          const bytes = pattern(1 + next(action < 4 ? 3000 : 150_000), step);
          await file.write(offset, bytes);
          model.write(offset, bytes);
        } else if (action < 8) {
          await file.truncate(offset);
          model.truncate(offset);
        } else if (action === 8) {
          await file.flush();
        } else if (action === 9) {
          await file.close();
          file = await c.opened(f);
        } else {
          const length = next(200 * KIB);
          equalBytes(await file.read(offset, length), model.read(offset, length), `step ${step}`);
        }
      }
      equalBytes(await file.read(0, MIB), model.read(0, MIB), 'at the end');
      await file.close();
      equalBytes(await c.content(f), model.read(0, MIB), 'after close');
    },
  },
];
