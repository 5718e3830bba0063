/** File content through the kernel: P2, P5, open-unlinked files, append, truncation. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { KIB, MIB } from '../../../src/core/limits.js';
import { equalBytes, pattern } from '../case.js';
import { fails, openFile, readAt } from './harness.js';
import type { MountCase } from './harness.js';

export const mountDataCases: readonly MountCase[] = [
  {
    name: 'P2: written bytes are read back, in any size',
    run: (c) => {
      for (const length of [0, 1, 4095, 4096, 64 * KIB + 1, 128 * KIB, 5 * MIB + 13]) {
        const bytes = pattern(length, length + 1);
        const at = c.write(`f${length}`, bytes);
        assert.equal(fs.statSync(at).size, length);
        equalBytes(fs.readFileSync(at), bytes, `${length} bytes`);
      }
    },
  },
  {
    name: 'own writes are read at once; another open too',
    run: (c) => {
      openFile(c.path('f'), 'w+', (fd) => {
        const bytes = pattern(300 * KIB, 2);
        fs.writeSync(fd, bytes, 0, bytes.length, 1000);
        equalBytes(readAt(fd, 1000, bytes.length), bytes, 'same descriptor');
        assert.equal(fs.fstatSync(fd).size, 1000 + bytes.length);
        assert.equal(fs.statSync(c.path('f')).size, 1000 + bytes.length);
        openFile(c.path('f'), 'r', (other) => {
          equalBytes(readAt(other, 1000, bytes.length), bytes, 'another descriptor');
        });
      });
    },
  },
  {
    name: 'P5: holes and extension by truncate are zeros',
    run: (c) => {
      openFile(c.path('f'), 'w+', (fd) => {
        fs.writeSync(fd, 'end', 500_000);
        equalBytes(readAt(fd, 0, 600_000), Buffer.concat([Buffer.alloc(500_000), Buffer.from('end')]), 'hole');
        fs.ftruncateSync(fd, 100);
        fs.ftruncateSync(fd, 600_000);
        equalBytes(readAt(fd, 0, 700_000), Buffer.alloc(600_000), 'old bytes are gone');
      });
      const bytes = pattern(200_000, 3);
      const at = c.write('g', bytes);
      for (const cut of [150_001, 65_536, 4096, 1]) {
        fs.truncateSync(at, cut);
        fs.truncateSync(at, 200_000);
        equalBytes(
          fs.readFileSync(at),
          Buffer.concat([bytes.subarray(0, cut), Buffer.alloc(200_000 - cut)]),
          `cut at ${cut}`,
        );
      }
    },
  },
  {
    name: 'a sparse file past 4 GiB',
    run: (c) => {
      const far = 2 ** 32 + 12_345;
      openFile(c.path('f'), 'w+', (fd) => {
        fs.writeSync(fd, 'far', far);
        assert.equal(fs.fstatSync(fd).size, far + 3);
        equalBytes(readAt(fd, far - 3, 10), Buffer.from('\0\0\0far'), 'at the end');
        equalBytes(readAt(fd, 2 ** 31, 100), Buffer.alloc(100), 'in the hole');
      });
      assert.ok(fs.statSync(c.path('f')).blocks * 512 < far);
    },
  },
  {
    name: 'small writes at random places equal a plain buffer',
    run: (c) => {
      const expected = Buffer.alloc(300_000);
      let x = 99;
      const next = (bound: number): number => {
        x = (Math.imul(x, 1103515245) + 12345) >>> 0;
        return Math.floor((x / 2 ** 32) * bound);
      };
      openFile(c.path('f'), 'w+', (fd) => {
        fs.ftruncateSync(fd, expected.length);
        for (let step = 0; step < 300; step++) {
          const bytes = pattern(1 + next(5000), step);
          const offset = next(expected.length - bytes.length);
          fs.writeSync(fd, bytes, 0, bytes.length, offset);
          bytes.copy(expected, offset);
          if (step % 50 === 0) fs.fsyncSync(fd);
        }
        equalBytes(readAt(fd, 0, expected.length), expected, 'before close');
      });
      equalBytes(fs.readFileSync(c.path('f')), expected, 'after close');
    },
  },
  {
    name: 'append: every write goes to the end',
    run: (c) => {
      const at = c.write('f', 'start');
      openFile(at, 'a', (one) => {
        openFile(at, 'a', (two) => {
          for (let i = 0; i < 10; i++) {
            fs.writeSync(one, `1${i}`);
            fs.writeSync(two, `2${i}`);
          }
        });
      });
      const expected = Array.from({ length: 10 }, (_, i) => `1${i}2${i}`).join('');
      assert.equal(fs.readFileSync(at, 'utf8'), `start${expected}`);
    },
  },
  {
    name: 'open-unlinked and renamed-over files live until their last close',
    run: (c) => {
      const at = c.write('f', 'before');
      openFile(at, 'r+', (fd) => {
        fs.unlinkSync(at);
        fails('ENOENT', () => fs.statSync(at));
        fs.writeSync(fd, 'after!', 0);
        fs.fsyncSync(fd);
        assert.equal(readAt(fd, 0, 100).toString(), 'after!');
        fs.ftruncateSync(fd, 2);
        assert.equal(readAt(fd, 0, 100).toString(), 'af');
        assert.equal(fs.fstatSync(fd).size, 2);
      });
      c.write('a', 'new');
      const b = c.write('b', 'old');
      openFile(b, 'r', (fd) => {
        fs.renameSync(c.path('a'), b);
        assert.equal(readAt(fd, 0, 100).toString(), 'old');
      });
      assert.equal(fs.readFileSync(b, 'utf8'), 'new');
      const names = c.names();
      assert.deepEqual(names, ['b'], 'nothing hidden is left');
    },
  },
  {
    name: 'an open file follows its rename',
    run: (c) => {
      const at = c.write('f', 'x');
      openFile(at, 'r+', (fd) => {
        fs.mkdirSync(c.path('d'));
        fs.renameSync(at, c.path('d', 'g'));
        fs.writeSync(fd, 'yz', 1);
      });
      assert.equal(fs.readFileSync(c.path('d', 'g'), 'utf8'), 'xyz');
    },
  },
  {
    name: 'O_TRUNC and writeFile replace the content',
    run: (c) => {
      const at = c.write('f', pattern(200_000));
      c.write('f', 'short');
      assert.equal(fs.readFileSync(at, 'utf8'), 'short');
      assert.equal(fs.statSync(at).size, 5);
    },
  },
  {
    name: 'writes and reads in flight at once',
    run: async (c) => {
      const handle = await fs.promises.open(c.path('f'), 'w+');
      const bytes = pattern(32 * 10_000, 5);
      const pieces = Array.from({ length: 32 }, (_, i) => i);
      await Promise.all(pieces.map((i) => handle.write(bytes, i * 10_000, 10_000, i * 10_000)));
      const parts = await Promise.all(
        pieces.map((i) => handle.read(Buffer.alloc(10_000), 0, 10_000, i * 10_000).then((each) => each.buffer)),
      );
      equalBytes(Buffer.concat(parts), bytes, 'parallel');
      await handle.sync();
      await handle.close();
    },
  },
];
