/** What programs see when another mount changes what the kernel was told to believe: never what was there before, once it is changed. */
import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import type { Test } from 'tap';
import { MAX_EXPIRED_NAMES } from '../../src/core/limits.js';
import { pick, SeededRandom } from '../../src/core/random.js';
import { testSeed } from '../support/seed.js';
import { RecalledMount } from './recalled-mount.js';
import type { Change, There } from '../support/models/other-mount.js';
import type { Tuning } from './recalled-server.js';
import { DIRECTORIES, NAMES } from './recalled-tree.js';

const WORKER = fileURLToPath(new URL('recalled-worker.js', import.meta.url));

const skip = process.getuid?.() !== 0 && 'only root may mount by itself';

t.test('what is believed is asked once, and what another mount changes is seen at once', { skip }, async (t) => {
  const mount = await RecalledMount.start(t, 1);
  const at = (path: string): string => join(mount.path, path);
  await mount.change({ what: 'mkdir', path: '/d' });
  await mount.change({ what: 'create', path: '/d/f', text: 'one' });
  const look = (): unknown[] => [existsSync(at('d/missing')), statSync(at('d/f')).size, statSync(at('d')).mode & 0o777];
  t.same(look(), [false, 3, 0o755]);
  const before = await mount.counts();
  for (let i = 0; i < 100; i++) look();
  t.same(await mount.counts(), before, 'the kernel answers by itself');
  const fd = openSync(at('d/f'), 'r');
  const read = (): string => {
    const bytes = Buffer.alloc(100);
    return bytes.toString('latin1', 0, readSync(fd, bytes, 0, 100, 0));
  };
  t.equal(read(), 'one');

  await mount.change({ what: 'create', path: '/d/missing', text: 'x' });
  t.ok(existsSync(at('d/missing')));
  await mount.change({ what: 'write', path: '/d/f', text: 'three' });
  t.equal(statSync(at('d/f')).size, 5);
  t.equal(fstatSync(fd).size, 5);
  t.equal(read(), 'three');
  await mount.change({ what: 'chmod', path: '/d/f', value: 0o600 });
  t.equal(statSync(at('d/f')).mode & 0o777, 0o600);
  await mount.change({ what: 'replace', path: '/d/f', text: 'another' });
  t.equal(readFileSync(at('d/f'), 'utf8'), 'another');
  await mount.change({ what: 'unlink', path: '/d/f' });
  t.notOk(existsSync(at('d/f')));
  t.equal(read(), 'three');
  closeSync(fd);
  await mount.change({ what: 'rename', path: '/d/missing', to: '/d/f' });
  t.same(look(), [false, 1, 0o755]);
  await mount.change({ what: 'whole', path: '/d', text: 'whole' });
  t.equal(readFileSync(at('d/f'), 'utf8'), 'whole');
});

t.test('the same where the kernel does not come to the gate, and on a mount that only reads', { skip }, async (t) => {
  for (const flag of ['unchecked', 'ro']) {
    const mount = await RecalledMount.start(t, 1, flag);
    const at = (path: string): string => join(mount.path, path);
    await mount.change({ what: 'mkdir', path: '/d' });
    t.notOk(existsSync(at('d/f')));
    await mount.change({ what: 'create', path: '/d/f', text: 'one' });
    t.equal(readFileSync(at('d/f'), 'utf8'), 'one', flag);
    const { lookup = 0 } = await mount.counts();
    for (let i = 0; i < 10; i++) existsSync(at('d/f'));
    t.equal((await mount.counts())['lookup'] === lookup, flag === 'ro', 'names are believed where there are gates');
    await mount.change({ what: 'replace', path: '/d/f', text: 'three' });
    t.equal(readFileSync(at('d/f'), 'utf8'), 'three', flag);
    await mount.change({ what: 'rename', path: '/d/f', to: '/d/g' });
    t.notOk(existsSync(at('d/f')));
    t.ok(existsSync(at('d/g')));
  }
});

t.test('a directory with more names than the kernel is told of one by one', { skip }, async (t) => {
  const mount = await RecalledMount.start(t, 1);
  const at = (path: string): string => join(mount.path, path);
  await mount.change({ what: 'mkdir', path: '/d' });
  await mount.change({ what: 'mkdir', path: '/d/sub' });
  const names = Array.from({ length: MAX_EXPIRED_NAMES + 200 }, (_, index) => `f${index}`);
  for (const name of names) await mount.change({ what: 'create', path: `/d/${name}`, text: 'one' });
  const sizes = (): number[] => names.map((name) => statSync(at(`d/${name}`)).size);
  const missing = (): boolean[] => names.map((name) => existsSync(at(`d/not-${name}`)));
  t.equal(readdirSync(at('d')).length, names.length + 1);
  t.same(new Set(sizes()), new Set([3]));
  t.same(new Set(missing()), new Set([false]));
  for (const text of ['three', 'sixsix']) {
    await mount.change({ what: 'whole', path: '/d', text });
    t.same(new Set(sizes()), new Set([text.length]), 'nothing old, and no ESTALE');
    t.same(new Set(missing()), new Set([false]));
    t.equal(statSync(`${at('d')}/sub/../f1150`).size, text.length);
    for (const name of names.slice(0, 100)) renameSync(at(`d/${name}`), at('d/moved'));
    t.equal(statSync(at('d/moved')).size, text.length);
    unlinkSync(at('d/moved'));
    names.splice(0, 100);
    t.throws(() => unlinkSync(at('d/moved')), { code: 'ENOENT' });
    mkdirSync(at(`d/${text}`));
    rmdirSync(at(`d/${text}`));
  }
});

t.test('who works in a directory stays there when its name is recalled, and is not changed', { skip }, async (t) => {
  const mount = await RecalledMount.start(t, 1);
  for (const path of ['/d', '/d/sub']) await mount.change({ what: 'mkdir', path });
  const path = join(mount.path, 'd/sub');
  const program = spawn('sleep', ['30'], { cwd: path });
  const workPlace = (): string => readlinkSync(`/proc/${program.pid ?? 0}/cwd`);
  t.teardown(() => program.kill());
  t.equal(workPlace(), path);
  for (let i = 0; i < 20; i++) {
    statSync(path);
    await mount.change({ what: 'nothing', path: '/d/sub' });
    t.equal(workPlace(), path);
  }
  await mount.change({ what: 'rename', path: '/d/sub', to: '/moved' });
  t.equal(existsSync(path), false);
  t.ok(statSync(join(mount.path, 'moved')).isDirectory());
  t.equal(workPlace(), join(mount.path, 'moved'));
  program.kill();
});

/** The same path, by way of what is above, and of the directory itself. */
function withDots(path: string): string {
  const [parent, name] = [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)];
  return `${parent}/../${parent.slice(parent.lastIndexOf('/') + 1)}/./${name}`;
}

/** What a program sees at a path, by one of several ways; a text, to be compared. */
type View = (path: string) => string;

function orAbsent(look: () => string): string {
  try {
    return look();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    return code === 'ENOENT' || code === 'ENOTDIR' ? 'absent' : code;
  }
}

const isFile = (mode: number): boolean => (mode & 0o170000) === 0o100000;
const stated = ({ ino, mode, size }: { ino: number; mode: number; size: number }): string =>
  `${ino} ${mode.toString(8)} ${isFile(mode) ? size : ''}`;
const foreign = (names: readonly string[]): string => names.filter((name) => !name.startsWith('w')).join();

const statedThere = (there: There): string => stated({ ...there, ino: there.inode });
const VIEWS: readonly (readonly [name: string, view: View, expected: (there: There) => string])[] = [
  ['stat', (path) => stated(statSync(path)), statedThere],
  ['dots', (path) => stated(statSync(withDots(path))), statedThere],
  ['read', (path) => readFileSync(path, 'latin1'), (there) => (isFile(there.mode) ? there.text : 'EISDIR')],
  [
    'list',
    (path) => foreign(readdirSync(path).sort()),
    (there) => (isFile(there.mode) ? 'absent' : foreign(there.names)),
  ],
  [
    'within',
    (path) => {
      const before = process.cwd();
      process.chdir(path.slice(0, path.lastIndexOf('/')));
      try {
        return stated(statSync(path.slice(path.lastIndexOf('/') + 1)));
      } finally {
        process.chdir(before);
      }
    },
    statedThere,
  ],
];

const TUNINGS: readonly Tuning[] = [
  { usualMs: 0, longPercent: 0, longMs: 0, changeMs: 0 },
  { usualMs: 2, longPercent: 5, longMs: 40, changeMs: 0 },
  { usualMs: 0, longPercent: 0, longMs: 0, changeMs: 3, held: { create: 15, makeNode: 15 } },
  { usualMs: 1, longPercent: 10, longMs: 20, changeMs: 8, held: { lookup: 8 } },
  { usualMs: 0, longPercent: 1, longMs: 300, changeMs: 1, held: { rename: 30, readDirectory: 12, read: 6 } },
];

t.test('nothing old is ever seen of what another mount changes, while programs use it', { skip }, async (t) => {
  t.setTimeout(0);
  const seed = testSeed(t);
  const random = new SeededRandom(seed);
  const rounds = Number(process.env['CAIRN_ROUNDS'] ?? 400);
  const mount = await RecalledMount.start(t, seed);
  const at = (path: string): string => join(mount.path, path);
  for (const path of DIRECTORIES) await mount.change({ what: 'mkdir', path: `/${path}` });
  const workers = [1, 2, 3].map((number) => startWorker(t, mount.path, `w${number}`, seed + number));
  const held: { readonly fd: number; readonly inode: number }[] = [];
  const wrong: string[] = [];
  let done = 0;

  const order = (): Change => {
    const path = `/${pick(random, DIRECTORIES)}/${pick(random, NAMES)}`;
    const text = `${done}-`.padEnd(1 + random.below(6000), 'x');
    switch (random.below(12)) {
      case 0:
        return { what: 'mkdir', path };
      case 1:
        return { what: 'rmdir', path };
      case 2:
        return { what: 'unlink', path };
      case 3:
        return { what: 'rename', path, to: `/${pick(random, DIRECTORIES)}/${pick(random, NAMES)}` };
      case 4:
        return { what: 'truncate', path, value: random.below(100) };
      case 5:
      case 6:
        return { what: 'write', path, text };
      case 7:
        return { what: 'chmod', path, value: 0o600 + random.below(0o100) };
      case 8:
      case 9:
        return { what: 'replace', path, text };
      case 10:
        return random.below(5) === 0
          ? { what: 'whole', path: `/${pick(random, DIRECTORIES)}`, text }
          : { what: 'create', path, text };
      default:
        return { what: 'create', path, text };
    }
  };
  const compare = (how: string, saw: string, expected: string): void => {
    if (saw !== expected) wrong.push(`round ${done}: ${how} saw ${brief(saw)}, not ${brief(expected)}`);
  };

  for (; done < rounds && wrong.length === 0; done++) {
    if (done % 100 === 0) await mount.tune(pick(random, TUNINGS));
    const orders = Array.from({ length: 1 + random.below(3) }, order);
    const paths = [...new Set(orders.flatMap(({ path, to }) => [path, ...(to === undefined ? [] : [to])]))];
    // The kernel remembers them.
    for (const path of paths) orAbsent(() => pick(random, VIEWS)[1](at(path)));
    if (random.below(4) === 0) {
      const path = pick(random, paths);
      const there = await mount.look(path);
      if (there !== undefined && isFile(there.mode)) {
        const fd = openSync(at(path), 'r');
        held.push({ fd, inode: fstatSync(fd).ino });
        readWhole(fd);
      }
      if (held.length > 8) closeSync(held.shift()?.fd ?? -1);
    }
    const outcomes = await Promise.all(orders.map((each) => mount.try(each)));
    const story = orders.map(({ what, path, to }, i) => `${what} ${path} ${to ?? ''} ${outcomes[i] ?? 'done'}`);
    for (const path of paths) {
      const there = await mount.look(path);
      const [how, view, expected] = pick(random, VIEWS);
      const saw = orAbsent(() => view(at(path)));
      compare(`${how} of ${path} after ${story.join('; ')}`, saw, there === undefined ? 'absent' : expected(there));
    }
    for (const { fd, inode } of held) {
      const there = await mount.look('/', inode);
      if (there === undefined) continue;
      if (random.below(2) === 0)
        compare(`fstat of ${inode} after ${story.join('; ')}`, stated(fstatSync(fd)), statedThere(there));
      compare(`read of ${inode} after ${story.join('; ')}`, readWhole(fd), there.text);
    }
  }
  t.same(wrong, []);
  for (const { fd } of held) closeSync(fd);
  await mount.tune(TUNINGS[0] ?? { usualMs: 0, longPercent: 0, longMs: 0, changeMs: 0 });
  for (const worker of workers) t.match(await worker.end(), /^\d+ calls\n$/);
  t.comment(`seed ${seed}: ${done} rounds; the mount was asked ${JSON.stringify(await mount.counts())}`);
});

/** Files have their version, and then the same letter again and again. */
const brief = (text: string): string => (text.length <= 60 ? text : `${text.slice(0, 20)}… of ${text.length}`);

function readWhole(fd: number): string {
  const bytes = Buffer.alloc(10_000);
  return bytes.toString('latin1', 0, readSync(fd, bytes, 0, bytes.length, 0));
}

/** `end` resolves with what it has to say. */
function startWorker(t: Pick<Test, 'teardown'>, ...args: readonly (string | number)[]): { end(): Promise<string> } {
  const child = spawn(process.execPath, [WORKER, ...args.map(String)], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.teardown(() => child.kill('SIGKILL'));
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ended = new Promise<string>((resolve) => {
    child.on('close', (code, signal) => resolve(code === 0 ? said : `${said} ended with ${code ?? signal}`));
  });
  return {
    end: () => {
      child.stdin.end();
      return ended;
    },
  };
}
