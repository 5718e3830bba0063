/** The messages of the protocol, against bytes made by hand. */
import t from 'tap';
import type { Attributes } from '../../../src/filesystem/filesystem.js';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import { inodeId } from '../../../src/core/ids.js';
import { decodeSetattr } from '../../../src/fuse/kernel/attributes.js';
import { parseGroups } from '../../../src/fuse/kernel/callers.js';
import { Cursor, decodeGroups, decodeHeader } from '../../../src/fuse/kernel/wire/decode.js';
import * as encode from '../../../src/fuse/kernel/wire/encode.js';
import { negotiate } from '../../../src/fuse/kernel/wire/init.js';
import { isBeingKilled, wasKilled } from '../../../src/fuse/kernel/proc-status.js';
import { u32, u64 } from '../../support/fakes/fake-kernel.js';

const bytes = (hex: string): Buffer => Buffer.from(hex.replace(/[^0-9a-f]/g, ''), 'hex');

t.test('the header of a request', async (t) => {
  const message = bytes(`
    38000000 01000000  0a00000000000000  0500000001000000  e8030000 e9030000 d2040000 0100 0000
    0000000000000000 0000000000000000`);
  t.same(decodeHeader(message), {
    ...{ length: 56, opcode: 1, unique: 10, nodeid: 2 ** 32 + 5 },
    ...{ uid: 1000, gid: 1001, pid: 1234, extensionBytes: 8 },
  });
  t.throws(() => decodeHeader(message.subarray(0, 39)), { code: 'PROTOCOL' }, 'shorter than a header');
  t.throws(() => decodeHeader(message.subarray(0, 48)), { code: 'PROTOCOL' }, 'shorter than it says');
  message.writeUInt16LE(3, 36);
  t.throws(() => decodeHeader(message), { code: 'PROTOCOL' }, 'more extensions than bytes');
});

t.test('fields are read in order, and never beyond the end', async (t) => {
  const cursor = new Cursor(Buffer.concat([u32(7), u64(2 ** 40), u64(-3), Buffer.from('name\0rest\0tail')]));
  t.equal(cursor.u32(), 7);
  t.equal(cursor.u64(), 2 ** 40);
  t.equal(cursor.seconds(), -3);
  t.equal(cursor.name().toString(), 'name');
  t.equal(cursor.text().toString(), 'rest');
  t.throws(() => cursor.text(), { code: 'EINVAL' }, 'no NUL');
  t.throws(() => cursor.view(5), { code: 'EINVAL' });
  t.throws(() => cursor.u64(), { code: 'EINVAL' });
  t.equal(cursor.view(4).toString(), 'tail');
  t.throws(() => cursor.u32(), { code: 'EINVAL' });
  t.throws(() => new Cursor(u64(2n ** 53n)).u64(), { code: 'EINVAL' }, 'no safe integer');
  t.throws(() => new Cursor(Buffer.from(`${'x'.repeat(256)}\0`)).name(), { code: 'ENAMETOOLONG' });
  t.equal(new Cursor(Buffer.from(`${'x'.repeat(255)}\0`)).name().length, 255);
});

t.test('SETATTR: only the fields that are meant', async (t) => {
  const body = (valid: number): Buffer =>
    Buffer.concat([
      ...[u32(valid, 0), u64(9, 4096, 2n ** 64n - 1n), u64(-5, 77, 2n ** 64n - 1n), u32(1, 999_999_999, 5)],
      ...[u32(0o104755, 0, 1000, 1001, 0)],
    ]);
  t.same(decodeSetattr(new Cursor(body(0))).changes, {});
  t.same(decodeSetattr(new Cursor(body(0b111))).changes, { mode: 0o4755, uid: 1000, gid: 1001 });
  t.same(decodeSetattr(new Cursor(body(1 << 3))).changes, { size: 4096 });
  const handle = decodeSetattr(new Cursor(body((1 << 3) | (1 << 6))));
  t.equal(handle.handle, 9);
  t.same(decodeSetattr(new Cursor(body((1 << 4) | (1 << 5)))).changes, {
    atime: { seconds: -5, nanoseconds: 1 },
    mtime: { seconds: 77, nanoseconds: 999_999_999 },
  });
  t.same(decodeSetattr(new Cursor(body((1 << 4) | (1 << 7)))).changes, { atime: 'now' });
  t.same(decodeSetattr(new Cursor(body((1 << 5) | (1 << 8) | (1 << 11)))).changes, {
    mtime: 'now',
    killPrivileges: true,
  });
});

t.test('the groups among the extensions', async (t) => {
  const groups = Buffer.concat([u32(20, 32, 2, 50, 60), Buffer.alloc(4)]);
  t.same(decodeGroups(groups), [50, 60]);
  t.same(decodeGroups(Buffer.concat([u32(16, 1, 9, 9), groups])), [50, 60], 'a security context before');
  t.same(decodeGroups(Buffer.alloc(0)), []);
  t.throws(() => decodeGroups(u32(40, 32, 2, 50)), { code: 'EINVAL' }, 'longer than there is');
  t.throws(() => decodeGroups(u32(16, 32, 1000, 50)), { code: 'EINVAL' }, 'more groups than it has room for');
  t.throws(() => decodeGroups(u32(0, 32)), { code: 'EINVAL' }, 'an extension without a length');
});

t.test('a thread that is being killed', async (t) => {
  t.ok(isBeingKilled('SigQ:\t1/9\nSigPnd:\t0000000000000100\nShdPnd:\t0\n'));
  t.notOk(isBeingKilled('SigPnd:\t0000000000004000\nShdPnd:\t0000000000000100\n'));
  t.notOk(isBeingKilled(''));
  t.ok(wasKilled('22974 (a) b) D 22973 12309 1 0 -1 4195660 497 0'));
  t.notOk(wasKilled('22974 (python3) S 22973 12309 1 0 -1 4194624 497 0'));
  t.notOk(wasKilled(''));
});

t.test('the groups in /proc', async (t) => {
  t.same(parseGroups('Name:\tsh\nUid:\t1\t1\nGroups:\t4 24 1000 \nNStgid:\t1\n'), [4, 24, 1000]);
  t.same(parseGroups('Groups:\t \n'), []);
  t.same(parseGroups(''), []);
});

const attributes: Attributes = {
  ...{ inode: inodeId(2 ** 33 + 2), mode: 0o100644, nlink: 3, uid: 1000, gid: 1001, size: 2 ** 40 + 1 },
  ...{ allocatedBytes: 1025, rdev: 0x801, change: 1 },
  ...{ atime: { seconds: -1, nanoseconds: 5 }, mtime: { seconds: 2 ** 32, nanoseconds: 6 } },
  ctime: { seconds: 1, nanoseconds: 7 },
};
const ATTRIBUTES = `
  0200000002000000 0100000000010000 0300000000000000
  ffffffffffffffff 0000000001000000 0100000000000000 05000000 06000000 07000000
  a4810000 03000000 e8030000 e9030000 01080000 00000200 00000000`;

t.test('answers, byte by byte', async (t) => {
  t.same(encode.outHeader(2 ** 32 + 1, 2, 0), bytes('10000000 feffffff 0100000001000000'));
  t.same(encode.attributesOut(attributes, 1500), bytes(`0100000000000000 0065cd1d 00000000 ${ATTRIBUTES}`));
  t.same(
    encode.entryOut(5, attributes, { entryMs: 2000, attributesMs: 250 }),
    bytes(`0500000000000000 0000000000000000 0200000000000000 0000000000000000 00000000 80b2e60e ${ATTRIBUTES}`),
  );
  t.same(encode.openOut(7, 2), bytes('0700000000000000 02000000 00000000'));
  t.same(encode.countOut(9), bytes('09000000 00000000'));
  t.same(encode.offsetOut(2 ** 40), bytes('0000000000010000'));
  t.same(
    encode.statfsOut({ totalBytes: 40960, freeBytes: 8192, inodes: 3, maxNameBytes: 255 }),
    bytes(`0a00000000000000 0200000000000000 0200000000000000 0500000000000000 0200000000000000
           00100000 ff000000 00100000 00000000 ${'00'.repeat(24)}`),
  );
  t.same(
    encode.lockOut({ start: 1, end: MAX_LOCK_END, type: 'write', pid: 12 }),
    bytes('0100000000000000 ffffffffffffff7f 01000000 0c000000'),
  );
  t.same(encode.invalidateInode(5, -1), bytes('0500000000000000 ffffffffffffffff 0000000000000000'));
});

t.test('a directory buffer takes whole entries only', async (t) => {
  const entry = (name: string) => ({ name: Buffer.from(name), inode: inodeId(3), kind: 'directory' as const });
  const buffer = new encode.DirectoryBuffer(70);
  t.ok(buffer.add(entry('abcde'), 2));
  t.ok(buffer.add(entry('abcdefgh'), 3));
  t.notOk(buffer.add(entry('x'), 4));
  t.same(
    buffer.content,
    bytes(`0300000000000000 0200000000000000 05000000 04000000 6162636465 000000
           0300000000000000 0300000000000000 08000000 04000000 6162636465666768`),
  );
  const plus = new encode.DirectoryBuffer(2 * 160);
  t.ok(plus.addPlus(entry('abc'), 2));
  t.ok(
    plus.content.subarray(0, 128).every((byte) => byte === 0),
    'an entry without attributes is not looked up',
  );
  t.ok(plus.addPlus(entry('d'), 3, { nodeid: 3, attributes, validity: { entryMs: 0, attributesMs: 0 } }));
  t.equal(plus.content.readUInt32LE(160), 3);
  t.notOk(plus.addPlus(entry('e'), 4));
});

t.test('INIT: what both can do', async (t) => {
  const whole = { kernelChecks: true, isWhole: true };
  const init = (minor: number, flags: number, rest: Buffer, kind = whole) =>
    negotiate(new Cursor(Buffer.concat([u32(7, minor, 131072, flags), rest])), kind);
  const old = init(31, 0xffffffff & ~(1 << 30), Buffer.alloc(0));
  t.equal(old.reply.length, 64);
  t.equal(old.reply.readUInt32LE(4), 31);
  t.notOk(old.has('DIRECT_IO_ALLOW_MMAP'), 'the second word is not there');
  t.equal(old.reply.readUInt32LE(32), 0);
  t.ok(old.has('MAX_PAGES'));
  t.equal(old.reply.readUInt32LE(20), 1024 * 1024, 'max_write');
  t.equal(old.reply.readUInt16LE(28), 256, 'max_pages');

  const young = init(99, 0xffffffff, Buffer.concat([u32(0xffffffff), Buffer.alloc(44)]));
  t.equal(young.reply.readUInt32LE(4), 45, 'the newest that is known here');
  t.ok(young.has('DIRECT_IO_ALLOW_MMAP'));
  t.equal(young.reply.readUInt32LE(12) & (1 << 16), 0, 'no writeback cache');

  t.notOk(init(45, 0, Buffer.alloc(48)).has('MAX_PAGES'), 'what is not offered is not taken');
  t.throws(() => init(30, 0, Buffer.alloc(0)), { code: 'EIO', message: /speaks FUSE 7\.30/ });
  t.ok(young.has('POSIX_ACL') && young.has('EXPORT_SUPPORT'));
  const part = init(45, 0xffffffff, Buffer.alloc(48), { kernelChecks: false, isWhole: false });
  t.notOk(part.has('POSIX_ACL') || part.has('EXPORT_SUPPORT'));
  t.throws(() => negotiate(new Cursor(u32(7, 45)), whole), { code: 'EINVAL' });
});
