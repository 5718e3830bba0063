/** What the calls that take a path say about the path: the same for all of them, one table. */
import assert from 'node:assert/strict';
import { alice, name, root } from '../../case.js';
import type { CaseContext } from '../../case.js';
import type { Credentials } from '../../../../src/filesystem/filesystem.js';
import type { Argument } from '../../../support/system-calls/system-call-agent.js';
import { AT, O, path } from '../../../support/system-calls/system-calls.js';
import type { SystemCallCase, SystemCallContext } from '../../system-call-case.js';

const HERE = AT.FDCWD;
const FIFO = 0o010644;
const DEVICE = 0o020644;
const FILE = 0o100644;
const USER = path('user.a');
const TIMES = Buffer.alloc(32);

interface PathCall {
  readonly name: string;
  /** Its arguments, the path among them; `there` is a file that exists. */
  readonly args: (at: Argument, there: Argument) => readonly Argument[];
  /** A symlink at the end of the path is followed. */
  readonly follows: boolean;
  /** Makes what the path names. */
  readonly makes: boolean;
}

const call = (
  name: string,
  kind: 'follows' | 'takes' | 'makes',
  args: (at: Argument, there: Argument) => readonly Argument[],
): PathCall => ({ name, args, follows: kind === 'follows', makes: kind === 'makes' });

const CALLS: readonly PathCall[] = [
  call('openat', 'follows', (at) => [HERE, at, O.RDONLY, 0]),
  call('truncate', 'follows', (at) => [at, 0]),
  call('fchmodat', 'follows', (at) => [HERE, at, 0o600]),
  call('fchownat', 'follows', (at) => [HERE, at, 0, 0, 0]),
  call('utimensat', 'follows', (at) => [HERE, at, TIMES, 0]),
  call('faccessat2', 'follows', (at) => [HERE, at, 4, AT.EACCESS]),
  call('statx', 'follows', (at) => [HERE, at, 0, 0x7ff, { fill: 256 }]),
  call('getxattr', 'follows', (at) => [at, USER, { fill: 16 }, 16]),
  call('setxattr', 'follows', (at) => [at, USER, Buffer.from('v'), 1, 0]),
  call('listxattr', 'follows', (at) => [at, { fill: 16 }, 16]),
  call('removexattr', 'follows', (at) => [at, USER]),
  call('statfs', 'follows', (at) => [at, { fill: 120 }]),
  call('readlinkat', 'takes', (at) => [HERE, at, { fill: 16 }, 16]),
  call('unlinkat', 'takes', (at) => [HERE, at, 0]),
  call('unlinkat', 'takes', (at) => [HERE, at, AT.REMOVEDIR]),
  call('linkat', 'takes', (at) => [HERE, at, HERE, path('/nowhere'), 0]),
  call('renameat2', 'takes', (at, there) => [HERE, at, HERE, there, 0]),
  call('openat', 'makes', (at) => [HERE, at, O.RDWR | O.CREAT | O.EXCL, 0o644]),
  call('mkdirat', 'makes', (at) => [HERE, at, 0o755]),
  call('mknodat', 'makes', (at) => [HERE, at, FILE, 0]),
  call('mknodat', 'makes', (at) => [HERE, at, FIFO, 0]),
  call('mknodat', 'makes', (at) => [HERE, at, DEVICE, 0x0103]),
  call('symlinkat', 'makes', (at) => [path('target'), HERE, at]),
  call('linkat', 'makes', (at, there) => [HERE, there, HERE, at, 0]),
  call('renameat2', 'makes', (at, there) => [HERE, there, HERE, at, 1]),
];

/** Each call at a path fails with one of the errors, and leaves the directory as it was. */
async function allFail(
  c: SystemCallContext,
  errors: string | readonly string[],
  at: string | number,
  options: { readonly as?: Credentials; readonly only?: (call: PathCall) => boolean } = {},
): Promise<void> {
  const allowed = typeof errors === 'string' ? [errors] : errors;
  const before = await c.attributes(c.dir);
  await c.tick();
  for (const each of CALLS) {
    if (options.only?.(each) === false) continue;
    const where = typeof at === 'number' ? at : path(`${c.path}/${at}`);
    const found = await c.outcome(each.name, each.args(where, path(`${c.path}/there`)), options.as);
    const shown = typeof at === 'number' ? `address ${at}` : at.length > 80 ? `${at.slice(0, 80)}…` : at;
    assert.ok(allowed.includes(found), `${each.name}(${shown}): ${found}, expected ${allowed.join(' or ')}`);
  }
  const { mtime, ctime, nlink } = await c.attributes(c.dir);
  assert.deepEqual({ mtime, ctime, nlink }, { mtime: before.mtime, ctime: before.ctime, nlink: before.nlink });
}

async function withFile(c: CaseContext): Promise<void> {
  const there = await c.file('there', name('content'));
  await c.fs.setAttributes(root, there, { mode: 0o666 });
}

export const pathCases: readonly SystemCallCase[] = [
  {
    name: 'every call by path: ENOTDIR below a file, ENOENT below nothing, ELOOP in a circle',
    run: async (c) => {
      await withFile(c);
      await c.fs.symlink(root, c.dir, name('loop'), name('loop'));
      await c.fs.symlink(root, c.dir, name('one'), name('two/x'));
      await c.fs.symlink(root, c.dir, name('two'), name('one/x'));
      await c.fs.symlink(root, c.dir, name('dangling'), name('none'));
      await allFail(c, 'ENOTDIR', 'there/x');
      await allFail(c, 'ENOENT', 'none/x');
      await allFail(c, 'ENOENT', 'dangling/x');
      await allFail(c, 'ELOOP', 'loop/x');
      await allFail(c, 'ELOOP', 'one/x');
      await allFail(c, 'ELOOP', 'loop', { only: (each) => each.follows });
      await allFail(c, 'ENOENT', 'dangling', { only: (each) => each.follows });
      await allFail(c, 'ENOENT', 'none', { only: (each) => !each.makes });
      await allFail(c, 'ENOTDIR', 'there/', { only: (each) => !each.makes });
    },
  },
  {
    name: 'every call by path: ENAMETOOLONG for a name above NAME_MAX and a path above PATH_MAX, EFAULT for a bad address',
    run: async (c) => {
      await withFile(c);
      await allFail(c, 'ENAMETOOLONG', 'n'.repeat(256));
      await allFail(c, 'ENAMETOOLONG', `${'n'.repeat(256)}/x`);
      await allFail(c, 'ENOENT', 'n'.repeat(255), { only: (each) => !each.makes });
      const room = 4096 - 1 - Buffer.byteLength(`${c.path}/there`);
      const dots = './'.repeat(Math.floor(room / 2)) + (room % 2 === 1 ? '/' : '');
      assert.equal((await c.system.stat(HERE, `${c.path}/${dots}there`)).size, 7, 'the longest path');
      await allFail(c, 'ENAMETOOLONG', `${dots}/there`);
      await allFail(c, 'EFAULT', 4096);
    },
  },
  {
    name: 'P12: every call by path: EACCES for who may not search a directory of the path',
    run: async (c) => {
      await withFile(c);
      const closed = await c.mkdir('closed', 0o700);
      await c.file('f', undefined, { parent: closed, mode: 0o666 });
      await c.mkdir('open', 0o755, root, closed);
      await allFail(c, 'EACCES', 'closed/f', { as: alice });
      await allFail(c, 'EACCES', 'closed/none', { as: alice });
      await allFail(c, 'EACCES', 'closed/open/x', { as: alice });
      await c.fs.setAttributes(root, closed, { mode: 0o744 });
      await allFail(c, 'EACCES', 'closed/f', { as: alice });
    },
  },
  {
    name: 'every call that makes a name: EEXIST for every kind of what is there',
    run: async (c) => {
      await withFile(c);
      await c.file('file');
      await c.mkdir('directory');
      await c.fs.symlink(root, c.dir, name('dangling'), name('none'));
      for (const kind of ['fifo', 'socket', 'characterDevice', 'blockDevice'] as const) {
        await c.fs.makeNode(root, c.dir, name(kind), { kind, mode: 0o644, rdev: 0x0103 });
      }
      const makers = { only: (each: PathCall): boolean => each.makes };
      for (const text of await c.names()) await allFail(c, 'EEXIST', text, makers);
      await allFail(c, 'EEXIST', '.', makers);
      await allFail(c, 'EEXIST', 'directory/..', makers);
    },
  },
  {
    name: 'calls by path: dots and slashes at the end, other file systems',
    run: async (c) => {
      await withFile(c);
      const d = await c.mkdir('d');
      await c.file('inside', undefined, { parent: d });
      const at = (text: string): Buffer => path(`${c.path}/${text}`);
      const rows: readonly (readonly [string, string | readonly string[], readonly Argument[]])[] = [
        ['unlinkat', 'EINVAL', [HERE, at('d/.'), AT.REMOVEDIR]],
        ['unlinkat', 'ENOTEMPTY', [HERE, at('d/..'), AT.REMOVEDIR]],
        ['unlinkat', ['EISDIR', 'EPERM'], [HERE, at('d'), 0]],
        ['unlinkat', 'ENOTDIR', [HERE, at('there'), AT.REMOVEDIR]],
        ['renameat2', ['EBUSY', 'EINVAL'], [HERE, at('d/.'), HERE, at('x'), 0]],
        ['renameat2', ['EBUSY', 'EINVAL'], [HERE, at('d/..'), HERE, at('x'), 0]],
        ['renameat2', 'ENOTDIR', [HERE, at('there'), HERE, at('x/'), 0]],
        ['renameat2', 'EINVAL', [HERE, at('d'), HERE, at('d/x'), 0]],
        ['renameat2', 'EINVAL', [HERE, at('there'), HERE, at('x'), 3]],
        ['renameat2', 'EXDEV', [HERE, at('there'), HERE, path('/dev/none-such'), 0]],
        ['linkat', 'EXDEV', [HERE, at('there'), HERE, path('/dev/none-such'), 0]],
        ['linkat', 'EPERM', [HERE, at('d'), HERE, at('x'), 0]],
        ['linkat', 'EINVAL', [HERE, at('there'), HERE, at('x'), 0x800]],
        ['mkdirat', 'ok', [HERE, at('made/'), 0o755]],
        ['openat', 'EISDIR', [HERE, at('x/'), O.RDWR | O.CREAT, 0o644]],
        ['symlinkat', 'ENOENT', [path(''), HERE, at('x')]],
        ['mknodat', ['EPERM', 'EINVAL'], [HERE, at('x'), 0o040755, 0]],
      ];
      for (const [call, expected, args] of rows) {
        const found = await c.outcome(call, args);
        assert.ok([expected].flat().includes(found), `${call}: ${found}, expected ${[expected].flat().join(' or ')}`);
      }
      assert.deepEqual(await c.names(), ['d', 'made', 'there']);
    },
  },
];
