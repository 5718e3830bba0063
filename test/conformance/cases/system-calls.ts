/** Flags of open(2), special files, mappings, positions in a listing, and which calls move which times. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, copyFile } from 'node:fs/promises';
import type { Credentials } from '../../../src/filesystem/filesystem.js';
import { AT, LOCK, O, path, SEEK } from '../../support/system-calls/system-calls.js';
import type { Stat } from '../../support/system-calls/system-calls.js';
import { alice, bob, carol, equalBytes, isLater, name, pattern, root } from '../case.js';
import type { SystemCallCase, SystemCallContext } from '../system-call-case.js';

const HERE = AT.FDCWD;
const PAGE = 4096;
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MS_SYNC = 4;

/** Which times a call moved: m and c of an inode, none for ''. */
function moved(before: Stat, after: Stat): string {
  return (isLater(after.mtime, before.mtime) ? 'm' : '') + (isLater(after.ctime, before.ctime) ? 'c' : '');
}

interface Effect {
  readonly call: string;
  readonly args: (at: (text: string) => Buffer) => readonly (number | Buffer)[];
  /** Of which inode the times are looked at, and what must move: of it, and of the directory. */
  readonly of: string;
  /** Where it is afterwards. Default: `of`. */
  readonly to?: string;
  readonly target: string;
  readonly directory: string;
}

const bytes = Buffer.from('v');
/** Each is done in a directory d with a file f, a directory sub and a symlink s in it. */
const EFFECTS: readonly Effect[] = [
  { call: 'fchmodat', args: (at) => [HERE, at('f'), 0o640], of: 'f', target: 'c', directory: '' },
  { call: 'fchmodat', args: (at) => [HERE, at('sub'), 0o700], of: 'sub', target: 'c', directory: '' },
  { call: 'fchownat', args: (at) => [HERE, at('f'), 5, 6, 0], of: 'f', target: 'c', directory: '' },
  { call: 'fchownat', args: (at) => [HERE, at('s'), 5, 6, AT.SYMLINK_NOFOLLOW], of: 's', target: 'c', directory: '' },
  { call: 'truncate', args: (at) => [at('f'), 3], of: 'f', target: 'mc', directory: '' },
  { call: 'truncate', args: (at) => [at('f'), 30], of: 'f', target: 'mc', directory: '' },
  { call: 'setxattr', args: (at) => [at('f'), path('user.a'), bytes, 1, 0], of: 'f', target: 'c', directory: '' },
  { call: 'linkat', args: (at) => [HERE, at('f'), HERE, at('g'), 0], of: 'f', target: 'c', directory: 'mc' },
  { call: 'unlinkat', args: (at) => [HERE, at('f'), 0], of: 'held', target: 'c', directory: 'mc' },
  {
    call: 'renameat2',
    args: (at) => [HERE, at('f'), HERE, at('g'), 0],
    of: 'f',
    to: 'g',
    target: 'c',
    directory: 'mc',
  },
  { call: 'renameat2', args: (at) => [HERE, at('f'), HERE, at('sub/g'), 0], of: 'sub', target: 'mc', directory: 'mc' },
  { call: 'mkdirat', args: (at) => [HERE, at('sub/new'), 0o755], of: 'sub', target: 'mc', directory: '' },
  { call: 'mkdirat', args: (at) => [HERE, at('new'), 0o755], of: 'f', target: '', directory: 'mc' },
  { call: 'mknodat', args: (at) => [HERE, at('new'), 0o010644, 0], of: 'f', target: '', directory: 'mc' },
  { call: 'symlinkat', args: (at) => [path('t'), HERE, at('new')], of: 'f', target: '', directory: 'mc' },
  { call: 'openat', args: (at) => [HERE, at('new'), O.RDWR | O.CREAT, 0o644], of: 'f', target: '', directory: 'mc' },
  { call: 'openat', args: (at) => [HERE, at('f'), O.RDWR | O.CREAT, 0o644], of: 'f', target: '', directory: '' },
  { call: 'openat', args: (at) => [HERE, at('f'), O.RDWR | O.TRUNC, 0], of: 'f', target: 'mc', directory: '' },
  { call: 'unlinkat', args: (at) => [HERE, at('sub'), AT.REMOVEDIR], of: 'f', target: '', directory: 'mc' },
];

async function mapped(c: SystemCallContext, fd: number, length: number, flags: number): Promise<number> {
  return (await c.system.agent.call('mmap', [0, length, PROT_READ | PROT_WRITE, flags, fd, 0])).value;
}

export const systemCallCases: readonly SystemCallCase[] = [
  {
    name: 'times: what each call moves, and that a refused one moves nothing',
    run: async (c) => {
      const stat = (text: string): Promise<Stat> => c.system.stat(HERE, `${c.path}/${text}`);
      for (const [index, effect] of EFFECTS.entries()) {
        const d = await c.mkdir(`d${index}`);
        const f = await c.file('f', name('0123456789'), { parent: d });
        await c.mkdir('sub', 0o755, root, d);
        await c.fs.symlink(root, d, name('s'), name('f'));
        if (effect.of === 'held') await c.fs.link(root, f, c.dir, name(`d${index}-held`));
        const place = (text: string): string => (text === 'held' ? `d${index}-held` : `d${index}/${text}`);
        const args = effect.args((text) => path(`${c.path}/d${index}/${text}`));
        const what = `${effect.call} ${index}`;
        const before = [await stat(place(effect.of)), await stat(`d${index}`)] as const;
        await c.tick();
        const refused = await c.outcome(effect.call, args, carol);
        const there = effect.call === 'openat' && effect.directory === '' && effect.target === '';
        assert.ok(['EACCES', 'EPERM'].includes(refused) || there, `${what}: ${refused}`);
        const between = [await stat(place(effect.of)), await stat(`d${index}`)] as const;
        assert.deepEqual(between, before, `${what}, refused`);
        assert.equal(await c.outcome(effect.call, args), 'ok', what);
        const after = [await stat(place(effect.to ?? effect.of)), await stat(`d${index}`)] as const;
        const found = [moved(before[0], after[0]), moved(before[1], after[1])];
        assert.deepEqual(found, [effect.target, effect.directory], what);
      }
    },
  },
  {
    name: 'open: O_EXCL, O_NOFOLLOW, O_DIRECTORY and symlinks, what is no file',
    run: async (c) => {
      await c.file('f', name('content'));
      await c.mkdir('d');
      for (const [text, target] of [
        ['s', 'f'],
        ['sd', 'd'],
        ['dangling', 'made'],
        ['dangling-exclusive', 'never'],
      ] as const) {
        await c.fs.symlink(root, c.dir, name(text), name(target));
      }
      const rows: readonly (readonly [string, number, string])[] = [
        ['f', O.RDWR, 'ok'],
        ['s', O.RDWR, 'ok'],
        ['s', O.RDWR | O.NOFOLLOW, 'ELOOP'],
        ['s', O.RDWR | O.CREAT | O.EXCL, 'EEXIST'],
        ['f', O.RDWR | O.CREAT | O.EXCL, 'EEXIST'],
        ['d', O.RDONLY | O.CREAT | O.EXCL, 'EEXIST'],
        ['dangling-exclusive', O.RDWR | O.CREAT | O.EXCL, 'EEXIST'],
        ['dangling-exclusive', O.RDWR, 'ENOENT'],
        ['dangling', O.RDWR | O.CREAT, 'ok'],
        ['f', O.RDONLY | O.DIRECTORY, 'ENOTDIR'],
        ['sd', O.RDONLY | O.DIRECTORY, 'ok'],
        ['sd', O.RDONLY | O.DIRECTORY | O.NOFOLLOW, 'ENOTDIR'],
        ['d', O.WRONLY, 'EISDIR'],
        ['d', O.RDWR, 'EISDIR'],
        ['d', O.RDONLY | O.TRUNC, 'EISDIR'],
        ['d', O.RDONLY | O.CREAT, 'EISDIR'],
        ['d', O.RDONLY, 'ok'],
      ];
      for (const [text, flags, expected] of rows) {
        assert.equal(await c.opens(text, flags), expected, `${text}, flags 0${flags.toString(8)}`);
      }
      assert.deepEqual(
        (await c.names()).filter((each) => each === 'made' || each === 'never'),
        ['made'],
      );
      assert.equal((await c.lookup('f')).size, 7);
    },
  },
  {
    name: 'P12: open: each of read, write and truncate needs its permission, of a file and of its directory',
    run: async (c) => {
      const d = await c.mkdir('d', 0o755, alice);
      const f = await c.file('f', name('content'), { as: alice, parent: d });
      const people: readonly (readonly [Credentials, number])[] = [
        [alice, 6],
        [bob, 3],
        [carol, 0],
      ];
      await c.fs.setAttributes(root, f, { gid: bob.gid });
      for (const bits of [0, 1, 2, 3, 4, 5, 6, 7]) {
        for (const [who, shift] of people) {
          await c.fs.setAttributes(root, f, { mode: bits << shift });
          for (const [flags, needs] of [
            [O.RDONLY, 4],
            [O.WRONLY, 2],
            [O.RDWR, 6],
            [O.RDONLY | O.TRUNC, 6],
            [O.WRONLY | O.TRUNC, 2],
            [O.RDWR | O.TRUNC, 6],
          ] as const) {
            const expected = (bits & needs) === needs ? 'ok' : 'EACCES';
            const what = `${who.uid} with ${(bits << shift).toString(8)}, flags 0${flags.toString(8)}`;
            assert.equal(await c.opens('d/f', flags, who), expected, what);
          }
        }
      }
      for (const [mode, expected] of [
        [0o777, 'ok'],
        [0o775, 'EACCES'],
        [0o776, 'EACCES'],
        [0o773, 'ok'],
      ] as const) {
        await c.fs.setAttributes(root, d, { mode });
        assert.equal(await c.opens('d/new', O.RDWR | O.CREAT | O.EXCL, carol), expected, mode.toString(8));
        if (expected === 'ok') await c.fs.unlink(root, d, name('new'));
      }
    },
  },
  {
    name: 'umask: files, directories and nodes are made without its bits, once',
    run: async (c) => {
      for (const umask of [0, 0o022, 0o027, 0o077, 0o777]) {
        const options = { umask };
        await c.system.close(await c.openPath('f', O.RDWR | O.CREAT, 0o666, options));
        await c.system.mkdirat(HERE, `${c.path}/d`, 0o777, options);
        await c.system.mknodat(HERE, `${c.path}/p`, 0o010666, 0, options);
        for (const [text, mode] of [
          ['f', 0o666],
          ['d', 0o777],
          ['p', 0o666],
        ] as const) {
          assert.equal((await c.lookup(text)).mode & 0o7777, mode & ~umask, `${text} with ${umask.toString(8)}`);
        }
        await c.fs.unlink(root, c.dir, name('f'));
        await c.fs.unlink(root, c.dir, name('p'));
        await c.fs.removeDirectory(root, c.dir, name('d'));
      }
    },
  },
  {
    name: 'FIFOs and sockets are the machine’s: ENXIO without a reader, bytes pass through, names stay',
    run: async (c) => {
      await c.system.mknodat(HERE, `${c.path}/fifo`, 0o010644, 0);
      assert.equal(await c.opens('fifo', O.WRONLY | O.NONBLOCK), 'ENXIO');
      const [reader, writer] = await Promise.all([c.openPath('fifo', O.RDONLY), c.openPath('fifo', O.WRONLY)]);
      await c.system.agent.call('write', [writer, Buffer.from('through'), 7]);
      const { outputs } = await c.system.agent.call('read', [reader, { fill: 100 }, 100]);
      assert.equal(outputs[0]?.toString(), 'through');
      await c.system.close(reader);
      await c.system.close(writer);
      const at = `/proc/self/fd/${await c.openPath('.', O.PATH)}/socket`;
      const address = Buffer.concat([Buffer.from([1, 0]), path(at)]);
      const [AF_UNIX, SOCK_STREAM] = [1, 1];
      const socket = (await c.system.agent.call('socket', [AF_UNIX, SOCK_STREAM, 0])).value;
      await c.system.agent.call('bind', [socket, address, address.length]);
      assert.equal(await c.outcome('bind', [socket, address, address.length]), 'EADDRINUSE');
      await c.system.agent.call('listen', [socket, 1]);
      const client = (await c.system.agent.call('socket', [AF_UNIX, SOCK_STREAM, 0])).value;
      await c.system.agent.call('connect', [client, address, address.length]);
      assert.equal((await c.lookup('socket')).mode & 0o170000, 0o140000);
      for (const flags of [O.RDONLY, O.WRONLY, O.RDWR]) assert.equal(await c.opens('socket', flags), 'ENXIO');
      for (const fd of [socket, client]) await c.system.close(fd);
    },
  },
  {
    name: 'a program that runs is not written: ETXTBSY',
    run: async (c) => {
      await copyFile('/bin/sleep', `${c.path}/sleep`);
      await chmod(`${c.path}/sleep`, 0o755);
      const running = spawn(`${c.path}/sleep`, ['60'], { stdio: 'ignore' });
      try {
        await once(running, 'spawn');
        assert.equal(await c.opens('sleep', O.WRONLY), 'ETXTBSY');
        assert.equal(await c.opens('sleep', O.RDWR), 'ETXTBSY');
        assert.equal(await c.outcome('truncate', [path(`${c.path}/sleep`), 0]), 'ETXTBSY');
        assert.equal(await c.opens('sleep', O.RDONLY), 'ok');
      } finally {
        running.kill('SIGKILL');
        await once(running, 'exit');
      }
      assert.equal(await c.opens('sleep', O.RDWR), 'ok');
    },
  },
  {
    name: 'mmap: a shared mapping and the file are the same bytes, a private one is not',
    run: async (c) => {
      const { system } = c;
      const expected = pattern(3 * PAGE, 1);
      await c.file('f', expected);
      const fd = await c.openPath('f', O.RDWR);
      const memory = await system.openat(HERE, '/proc/self/mem', O.RDWR);
      const shared = await mapped(c, fd, 3 * PAGE, MAP_SHARED);
      const apart = await mapped(c, fd, 3 * PAGE, MAP_PRIVATE);
      equalBytes(await system.pread(memory, shared, 3 * PAGE), expected, 'mapped');
      await system.pwrite(memory, shared + PAGE - 2, name('across'));
      name('across').copy(expected, PAGE - 2);
      await system.pwrite(memory, apart + 100, name('mine alone'));
      equalBytes(await system.pread(fd, 0, 3 * PAGE), expected, 'read');
      await system.pwrite(fd, 2 * PAGE, name('written'));
      name('written').copy(expected, 2 * PAGE);
      equalBytes(await system.pread(memory, shared, 3 * PAGE), expected, 'mapped again');
      await system.agent.call('msync', [shared, 3 * PAGE, MS_SYNC]);
      await system.fsync(fd);
      equalBytes(await c.content((await c.lookup('f')).inode, c.other), expected, 'the other client');
      await system.pwrite(memory, shared + 7, name('last'));
      name('last').copy(expected, 7);
      for (const address of [shared, apart]) await system.agent.call('munmap', [address, 3 * PAGE]);
      for (const each of [memory, fd]) await system.close(each);
      equalBytes(await c.content((await c.lookup('f')).inode, c.other), expected, 'after it was unmapped and closed');
    },
  },
  {
    name: 'mmap: the tail of the last page is zeros, and stays out of the file',
    run: async (c) => {
      const { system } = c;
      await c.file('f', name('short'));
      const fd = await c.openPath('f', O.RDWR);
      const memory = await system.openat(HERE, '/proc/self/mem', O.RDWR);
      const at = await mapped(c, fd, PAGE, MAP_SHARED);
      equalBytes(await system.pread(memory, at, PAGE), Buffer.concat([name('short'), Buffer.alloc(PAGE - 5)]), 'tail');
      await system.pwrite(memory, at + 100, name('behind the end'));
      await system.agent.call('msync', [at, PAGE, MS_SYNC]);
      assert.equal((await system.stat(fd)).size, 5);
      await system.agent.call('munmap', [at, PAGE]);
      await system.ftruncate(fd, 200);
      equalBytes(await system.pread(fd, 0, 300), Buffer.concat([name('short'), Buffer.alloc(195)]), 'extended');
      for (const each of [memory, fd]) await system.close(each);
    },
  },
  {
    name: 'O_APPEND: two descriptors append in turn, an offset is ignored; O_DIRECT and cached writes agree',
    run: async (c) => {
      const { system } = c;
      await c.file('f', name('start'));
      const [one, two] = [await c.openPath('f', O.RDWR | O.APPEND), await c.openPath('f', O.WRONLY | O.APPEND)];
      let expected = 'start';
      for (let i = 0; i < 10; i++) {
        await system.pwrite(one, 0, name(`1${i}`));
        await system.pwrite(two, 3, name(`2${i}`));
        expected += `1${i}2${i}`;
      }
      assert.equal((await system.pread(one, 0, 1000)).toString(), expected);
      for (const fd of [one, two]) await system.close(fd);
      const direct = await c.openPath('g', O.RDWR | O.CREAT | O.DIRECT);
      const cached = await c.openPath('g', O.RDWR);
      const [a, b] = [pattern(2 * PAGE, 1), pattern(PAGE, 2)];
      await system.pwrite(cached, 0, a);
      // Memory and offsets that are aligned are all that it takes; a mapping is aligned.
      const from = (await system.agent.call('mmap', [0, PAGE, PROT_READ | PROT_WRITE, 0x22, -1, 0])).value;
      const memory = await system.openat(HERE, '/proc/self/mem', O.RDWR);
      await system.pwrite(memory, from, b);
      await system.agent.call('pwrite64', [direct, from, PAGE, PAGE]);
      b.copy(a, PAGE);
      equalBytes(await system.pread(cached, 0, 2 * PAGE), a, 'cached after direct');
      await system.pwrite(cached, 10, name('cached'));
      name('cached').copy(a, 10);
      await system.agent.call('pread64', [direct, from, PAGE, 0]);
      equalBytes(await system.pread(memory, from, PAGE), a.subarray(0, PAGE), 'direct after cached');
      for (const fd of [direct, cached, memory]) await system.close(fd);
    },
  },
  {
    name: 'a listing in one open: every entry once while all are removed, and positions that lead back',
    run: async (c) => {
      const { system } = c;
      const count = 1200;
      const names = Array.from({ length: count }, (_, i) => `entry-${i}`);
      for (let i = 0; i < count; i += 50) {
        await Promise.all(names.slice(i, i + 50).map((text) => system.mknodat(HERE, `${c.path}/${text}`, 0o100644, 0)));
      }
      const fd = await c.openPath('.', O.RDONLY | O.DIRECTORY);
      const first = await system.getdents(fd, 2000);
      const second = await system.getdents(fd, 2000);
      const rest = first.at(-1)?.offset ?? 0n;
      await system.lseek(fd, rest, SEEK.SET);
      assert.deepEqual(
        (await system.getdents(fd, 2000)).map(({ name }) => name.toString()),
        second.map(({ name }) => name.toString()),
        'back to where the second began',
      );
      await system.lseek(fd, 0, SEEK.SET);
      const seen: string[] = [];
      for (;;) {
        const entries = await system.getdents(fd, 4000);
        if (entries.length === 0) break;
        for (const entry of entries) {
          const text = entry.name.toString();
          if (text === '.' || text === '..') continue;
          seen.push(text);
          await system.unlinkat(HERE, `${c.path}/${text}`);
        }
      }
      await system.close(fd);
      assert.deepEqual(seen.sort(), names.sort());
      assert.deepEqual(await c.names(), []);
    },
  },
  {
    name: 'flock: given up with the last close, for who asks next on this machine',
    run: async (c) => {
      const { system } = c;
      await c.file('lock');
      for (let round = 0; round < 30; round++) {
        const fd = await c.openPath('lock', O.RDWR);
        await system.flock(fd, LOCK.EX | LOCK.NB);
        const twin = await system.dup(fd);
        await system.close(fd);
        const next = await c.openPath('lock', O.RDWR);
        assert.equal(await c.outcome('flock', [next, LOCK.EX | LOCK.NB]), 'EAGAIN', 'the other descriptor holds it');
        await system.close(twin);
        assert.equal(await c.outcome('flock', [next, LOCK.EX | LOCK.NB]), 'ok', `round ${round}`);
        await system.close(next);
      }
    },
  },
  {
    name: 'chown: ids that stay are nobody’s business; through a symlink, and of it',
    run: async (c) => {
      await c.file('f', name('x'), { as: alice });
      await c.fs.symlink(root, c.dir, name('s'), name('f'));
      const at = path(`${c.path}/f`);
      assert.equal(await c.outcome('fchownat', [HERE, at, -1, -1, 0], bob), 'ok');
      assert.equal(await c.outcome('fchownat', [HERE, path(`${c.path}/s`), 7, 8, 0]), 'ok');
      assert.deepEqual([(await c.lookup('f')).uid, (await c.lookup('s')).uid], [7, 0]);
      assert.equal(await c.outcome('fchownat', [HERE, path(`${c.path}/s`), 9, 10, AT.SYMLINK_NOFOLLOW]), 'ok');
      assert.deepEqual([(await c.lookup('f')).uid, (await c.lookup('s')).uid], [7, 9]);
      assert.equal(await c.outcome('utimensat', [HERE, path(`${c.path}/s`), Buffer.alloc(32), 0]), 'ok');
      assert.equal((await c.lookup('f')).mtime.seconds, 0);
      assert.notEqual((await c.lookup('s')).mtime.seconds, 0);
    },
  },
];
