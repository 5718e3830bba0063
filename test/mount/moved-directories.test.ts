/**
 * Directories that one machine moves and another, which knew them where they were, moves on. Linux remembers a directory at
 * one place only, and cannot take it to another while it holds the lock of a rename.
 */
import { mkdir, open, readFile, stat } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { shell } from '../support/shell.js';

const skip = process.getuid?.() !== 0 && 'only root may mount by itself';
/** Until no machine believes anything old. */
const SETTLE_MS = 2500;

interface Story {
  readonly what: string;
  /** Makes what there is at first; `d` holds `d/file` and `d/sub/deep` wherever it stands. */
  readonly make: string;
  /** What the first machine does, then the second. */
  readonly first: string;
  readonly second: string;
  /** All directories and files at the end, but for d's own content. */
  readonly end: readonly string[];
}

const D = 'd/sub; echo file > d/file; echo deep > d/sub/deep';
const inD = (at: string): string[] => [at, `${at}/file`, `${at}/sub`, `${at}/sub/deep`];

const STORIES: readonly Story[] = [
  {
    what: 'to a third place',
    make: `mkdir -p a b c; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d b/d', second: 'mv -T b/d c/d' },
    end: ['a', 'b', 'c', ...inD('c/d')],
  },
  {
    what: 'back',
    make: `mkdir -p a b; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d b/d', second: 'mv -T b/d a/d' },
    end: ['a', ...inD('a/d'), 'b'],
  },
  {
    what: 'back under another name',
    make: `mkdir -p a b; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d b/e', second: 'mv -T b/e a/f' },
    end: ['a', ...inD('a/f'), 'b'],
  },
  {
    what: 'within the directory that it was moved to',
    make: `mkdir -p a b; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d b/d', second: 'mv -T b/d b/e' },
    end: ['a', 'b', ...inD('b/e')],
  },
  {
    what: 'renamed where it stood, then moved away',
    make: `mkdir -p a b; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d a/e', second: 'mv -T a/e b/d' },
    end: ['a', 'b', ...inD('b/d')],
  },
  {
    what: 'under its sibling, then up again',
    make: `mkdir -p a/s b; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d a/s/d', second: 'mv -T a/s/d a/d' },
    end: ['a', ...inD('a/d'), 'a/s', 'b'],
  },
  {
    what: 'under its sibling, then away',
    make: `mkdir -p a/s b; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d a/s/d', second: 'mv -T a/s/d b/d' },
    end: ['a', 'a/s', 'b', ...inD('b/d')],
  },
  {
    what: 'another took its name',
    make: `mkdir -p a b c other; touch other/one; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d b/d; mv -T other a/d', second: 'mv -T b/d c/d; mv -T a/d c/other' },
    end: ['a', 'b', 'c', ...inD('c/d'), 'c/other', 'c/other/one'],
  },
  {
    what: 'two that changed places',
    make: `mkdir -p a b/d c; touch b/d/one; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d t; mv -T b/d a/d; mv -T t b/d', second: 'mv -T a/d c/one; mv -T b/d c/d' },
    end: ['a', 'b', 'c', ...inD('c/d'), 'c/one', 'c/one/one'],
  },
  {
    what: 'onto an empty directory that was moved as well',
    make: `mkdir -p a b c/e; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d b/d; mv -T c/e a/e', second: 'mv -T b/d a/e' },
    end: ['a', ...inD('a/e'), 'b', 'c'],
  },
  {
    what: 'a parent that came to stand in its child',
    make: `mkdir -p a b; cd a; mkdir -p ${D}`,
    ...{ first: 'mv -T a/d/sub b/sub; mv -T a/d b/sub/d', second: 'mv -T b/sub/d a/d; mv -T b/sub a/sub' },
    end: ['a', 'a/d', 'a/d/file', 'a/sub', 'a/sub/deep', 'b'],
  },
  {
    what: 'several in one tree',
    make: `mkdir -p a b c; cd a; mkdir -p ${D}`,
    first: 'mv -T a/d/sub b/sub; mv -T a/d c/d',
    second: 'mv -T c/d b/sub/d; mv -T b/sub a/sub',
    end: ['a', 'a/sub', 'a/sub/d', 'a/sub/d/file', 'a/sub/deep', 'b', 'c'],
  },
  {
    what: 'on and on',
    make: `mkdir -p a b c; cd a; mkdir -p ${D}`,
    first: 'mv -T a/d b/d; mv -T b/d c/d',
    second: 'mv -T c/d b/d; mv -T b/d a/d; mv -T a/d c/e; mv -T c/e a/e',
    end: ['a', ...inD('a/e'), 'b', 'c'],
  },
];

const list = (directory: string): Promise<string> => shell('find . -mindepth 1 -printf "%P\\n" | sort', { directory });

t.test('a directory that another machine moved is moved on at the first try', { skip }, async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1, driver: 'kernel', limitMs: 190_000 });
  t.setTimeout(200_000);
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const ends: { readonly place: string; readonly end: string }[] = [];
  for (const { idle, how } of [
    { how: 'nobody uses it', idle: true },
    { how: 'while programs are in it and have its files open', idle: false },
  ]) {
    for (const { what, make, first, second, end } of STORIES) {
      const expected = [...end].sort().join('\n') + '\n';
      await t.test(`${what}: ${how}`, async (t) => {
        const place = `${idle ? 'idle' : 'busy'}-${what.replaceAll(' ', '-')}`;
        await mkdir(join(a, place));
        await shell(make, { directory: join(a, place) });
        const [there, here] = [join(a, place), join(b, place)];
        await list(here);
        // Its working directory is below what is moved, and it keeps a file open.
        const inside = spawn('sleep', ['60'], { cwd: idle ? '/' : join(here, 'a/d/sub') });
        t.teardown(() => inside.kill('SIGKILL'));
        const file = idle ? undefined : await open(join(here, 'a/d/file'), 'r+');
        const directory = idle ? undefined : await open(join(here, 'a/d'));
        const known = await directory?.stat({ bigint: true });
        await shell(first, { directory: there });
        await shell(second, { directory: here });
        if (directory !== undefined && known !== undefined) {
          const { ctimeNs } = await directory.stat({ bigint: true });
          const path = (await shell(`find . -inum ${known.ino}`, { directory: here })).trim();
          t.equal(
            ctimeNs,
            (await stat(join(here, path), { bigint: true })).ctimeNs,
            `who has ${path} open sees its ctime`,
          );
          await directory.close();
        }
        t.equal(await list(here), expected, 'as the second machine sees it');
        if (file !== undefined) {
          await file.write('more', 0);
          await file.close();
        }
        ends.push({ place, end: expected });
        if (idle) return;
        const cwd = `/proc/${inside.pid ?? 0}/cwd`;
        t.equal(await readFile(join(cwd, 'deep'), 'utf8'), 'deep\n', 'who stands in it sees its files');
        await shell('echo new > "$1/new"', { args: [cwd] });
        const path = (await shell('readlink "$1"', { args: [cwd] })).trim();
        t.equal(await readFile(join(path, 'new'), 'utf8'), 'new\n', `at ${path}`);
        await shell('rm "$1/new"', { args: [cwd] });
      });
    }
  }
  await t.test('while other programs rename, which keeps the kernel from moving what it remembers', async () => {
    await shell('mkdir -p renames/x renames/y p q; touch renames/x/f; cd p; mkdir -p ' + D, { directory: a });
    const script = 'while :; do mv -T x/f y/f; mv -T y/f x/f; done';
    const renames = spawn('bash', ['-c', script], { cwd: join(b, 'renames'), stdio: 'ignore' });
    t.teardown(() => renames.kill('SIGKILL'));
    for (let round = 0; round < 30; round++) {
      await shell('stat p/d/sub/deep', { directory: b });
      await shell('mv -T p/d q/d', { directory: a });
      if (round % 2 === 0) await shell('stat q/d/sub/deep', { directory: b });
      await shell('mv -T q/d p/e; mv -T p/e p/d', { directory: b });
      await pause(round % 3 === 0 ? 1200 : 0);
    }
    renames.kill('SIGKILL');
  });
  await pause(SETTLE_MS);
  for (const { place, end } of ends) t.equal(await list(join(a, place)), end, `${place}, as the first machine sees it`);
});
