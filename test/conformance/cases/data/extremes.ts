/** What is far out or unusual: offsets and times beyond all that is kept, mappings that nobody synced, directories that are gone. */
import assert from 'node:assert/strict';
import { AT, FALLOC, O, path, SEEK } from '../../../support/system-calls/system-calls.js';
import { alice, name, root } from '../../case.js';
import type { SystemCallCase } from '../../system-call-case.js';

const HERE = AT.FDCWD;
const MIB = 1024 * 1024;
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;

export const extremeCases: readonly SystemCallCase[] = [
  {
    name: 'offsets up to 2^63: EFBIG for who writes there, the end of the file for who reads',
    run: async (c) => {
      const { system } = c;
      await c.file('f', name('content'));
      await c.file('source', name('content'));
      const fd = await c.openPath('f', O.RDWR);
      const source = await c.openPath('source', O.RDONLY);
      const place = (offset: bigint): { change: Buffer } => {
        const bytes = Buffer.alloc(8);
        bytes.writeBigInt64LE(offset);
        return { change: bytes };
      };
      for (const offset of [2n ** 53n, 2n ** 60n, 2n ** 63n - 4096n]) {
        const at = `at ${offset}`;
        assert.equal(await c.outcome('pwrite64', [fd, name('x'), 1, offset]), 'EFBIG', `pwrite ${at}`);
        assert.equal(await c.outcome('ftruncate', [fd, offset]), 'EFBIG', `ftruncate ${at}`);
        assert.equal(await c.outcome('truncate', [path(`${c.path}/f`), offset]), 'EFBIG', `truncate ${at}`);
        const copy = [source, place(0n), fd, place(offset), 7, 0];
        assert.equal(await c.outcome('copy_file_range', copy), 'EFBIG', `copy ${at}`);
        const { value } = await system.agent.call('pread64', [fd, { fill: 10 }, 10, offset]);
        assert.equal(value, 0, `pread ${at}`);
        for (const whence of [SEEK.DATA, SEEK.HOLE]) {
          assert.equal(await c.outcome('lseek', [fd, offset, whence]), 'ENXIO', `lseek ${at}`);
        }
      }
      assert.equal((await system.stat(fd)).size, 7);
      for (const each of [fd, source]) await system.close(each);
    },
  },
  {
    name: 'fallocate up to 2^63: EFBIG',
    run: async (c) => {
      const { system } = c;
      await c.file('f', name('content'));
      const fd = await c.openPath('f', O.RDWR);
      for (const mode of [0, FALLOC.KEEP_SIZE]) {
        assert.equal(await c.outcome('fallocate', [fd, mode, 0, 2n ** 62n]), 'EFBIG');
        assert.equal(await c.outcome('fallocate', [fd, mode, 2n ** 63n - 10n, 9]), 'EFBIG');
      }
      assert.equal((await system.stat(fd)).size, 7);
      await system.close(fd);
    },
  },
  {
    name: 'utimensat: a time beyond all that is kept becomes the last that is',
    run: async (c) => {
      await c.file('f');
      for (const seconds of [2n ** 62n, -(2n ** 62n)]) {
        const times = Buffer.alloc(32);
        for (const at of [0, 16]) times.writeBigInt64LE(seconds, at);
        await c.system.agent.call('utimensat', [HERE, path(`${c.path}/f`), times, 0]);
        const { mtime, atime } = await c.system.stat(HERE, `${c.path}/f`);
        assert.equal(mtime.seconds, atime.seconds);
        assert.ok(seconds > 0n ? mtime.seconds >= 2 ** 33 : mtime.seconds <= -(2 ** 31), `${mtime.seconds}`);
      }
    },
  },
  {
    name: 'P5: seek: what was written by a mapping that nobody synced is data',
    run: async (c) => {
      const { system } = c;
      await c.file('f');
      const fd = await c.openPath('f', O.RDWR);
      const memory = await system.openat(HERE, '/proc/self/mem', O.RDWR);
      await system.ftruncate(fd, MIB);
      const mapped = (await system.agent.call('mmap', [0, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0])).value;
      for (const at of [MIB / 2, MIB / 4]) {
        await system.pwrite(memory, mapped + at, name('by the mapping'));
        const found = await system.lseek(fd, 0, SEEK.DATA);
        assert.ok(found <= at && found > at - 128 * 1024, `data at ${at}, found at ${found}`);
        assert.equal(await system.lseek(fd, at, SEEK.DATA), at);
      }
      await system.agent.call('munmap', [mapped, MIB]);
      for (const each of [memory, fd]) await system.close(each);
    },
  },
  {
    name: 'a directory that was removed is there for who has it open: without names, and it gets none',
    run: async (c) => {
      const { system } = c;
      for (const remover of [c.fs, c.other]) {
        await c.mkdir('d', 0o755, alice);
        const d = await c.openPath('d', O.RDONLY | O.DIRECTORY);
        const before = await system.stat(d);
        await remover.removeDirectory(root, c.dir, name('d'));
        await c.forgetNames();
        const after = await system.stat(d);
        assert.deepEqual([after.inode, after.mode, after.nlink], [before.inode, before.mode, 0]);
        const again = await system.openat(d, '.', O.RDONLY | O.DIRECTORY);
        for (const fd of [d, again]) {
          assert.deepEqual(await system.getdents(fd, 4096).catch(() => []), [], 'nothing in it');
        }
        assert.match(await c.outcome('openat', [d, path('f'), O.RDWR | O.CREAT, 0o644]), /ENOENT|ESTALE/);
        assert.match(await c.outcome('mkdirat', [d, path('f'), 0o755]), /ENOENT|ESTALE/);
        for (const fd of [d, again]) await system.close(fd);
      }
    },
  },
  {
    name: 'a FIFO and a device that were removed serve whoever has them open',
    run: async (c) => {
      const { system } = c;
      const [fifo, zero, major] = [0o010600, 0o020600, 1 << 8];
      for (const remover of [c.fs, c.other]) {
        await system.mknodat(HERE, `${c.path}/fifo`, fifo, 0);
        await system.mknodat(HERE, `${c.path}/zero`, zero, major | 5);
        const fds = [await c.openPath('fifo', O.RDWR), await c.openPath('zero', O.RDWR)] as const;
        for (const each of ['fifo', 'zero']) await remover.unlink(root, c.dir, name(each));
        await c.forgetNames();
        for (const [fd, mode] of [
          [fds[0], fifo],
          [fds[1], zero],
        ] as const) {
          const stat = await system.stat(fd);
          assert.deepEqual([stat.nlink, stat.mode], [0, mode]);
          await system.agent.call('write', [fd, name('x'), 1]);
          const { value } = await system.agent.call('read', [fd, { fill: 1 }, 1]);
          assert.equal(value, 1);
          await system.close(fd);
        }
      }
    },
  },
];
