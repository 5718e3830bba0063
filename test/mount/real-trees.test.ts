/**
 * Real files, as people have them, on a mount: copied in, compared with `diff -r` after the caches are dropped, after a
 * restart of everything, and with each chunkserver in turn killed by -9, during a copy and after it.
 */
import t, { type Test } from 'tap';
import { cp, mkdtemp, realpath, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ProcessCluster } from '../support/process-cluster.js';
import { dropCaches, noMounts, shell } from '../support/shell.js';

const modules = fileURLToPath(new URL('../../../node_modules', import.meta.url));

/** A tree of some hundred files that every machine has on which this runs: sources, symbolic links, a large file. */
async function realTree(): Promise<string> {
  const tree = join(await mkdtemp(join(tmpdir(), 'cairn-tree-')), 'tree');
  const parts = ['.bin', '@types/node', 'protobufjs', 'typescript/lib/typescript.js'].map((name) =>
    join(modules, name),
  );
  for (const path of [...parts, '/usr/include/linux/netfilter', '/usr/share/doc/bash', '/etc/alternatives']) {
    if ((await stat(path).catch(() => undefined)) === undefined) continue;
    await cp(await realpath(path), join(tree, path.replace(`${modules}/`, '')), {
      recursive: true,
      verbatimSymlinks: true,
    });
  }
  await shell(
    `mkdir -p odd/empty; : > odd/nothing; printf x > $'odd/name with \\'quotes\\', spaces and \\t tabs'; printf y > odd/ümläut
     ln odd/nothing odd/hard-link; ln -s nowhere odd/dangling; chmod 751 odd/ümläut; touch -d '2001-02-03 04:05:06' odd/nothing`,
    { directory: tree },
  );
  return tree;
}

const same = (a: string, b: string): Promise<string> =>
  shell('diff -r --no-dereference "$1" "$2"', { args: [a, b], timeoutMs: 120_000 });

/** Kinds, permissions, link counts and targets, which diff does not compare. */
const listing = (tree: string): Promise<string> =>
  shell(`find . -printf '%P %y %m %n %l\\n' | sort`, { directory: tree, timeoutMs: 120_000 });

t.test('a real tree and a git repository stay what they are', { skip: noMounts }, async (t) => {
  const tree = await realTree();
  t.teardown(() => rm(join(tree, '..'), { recursive: true, force: true }));
  const cluster = await ProcessCluster.start(t, { limitMs: 170_000 });
  const path = await cluster.mount();

  await t.test('copied in, and compared with cold caches', async (t) => {
    await shell('cp -a "$1" "$2"', { args: [tree, `${path}/tree`], timeoutMs: 120_000 });
    if (!(await dropCaches())) t.comment('not root: the caches are warm');
    await same(tree, `${path}/tree`);
    t.equal(await listing(`${path}/tree`), await listing(tree));
  });

  const checkRepository = async (t: Test, name: string): Promise<void> => {
    const directory = `${path}/${name}`;
    t.equal(await shell('git status --porcelain', { directory }), '', 'git status is clean');
    t.match(await shell('git log --format=%s', { directory }), /^second\nfirst\n$/);
    await shell('git fsck --full --strict', { directory, timeoutMs: 120_000 });
  };
  await t.test('a git repository is made, committed to and cloned', async (t) => {
    await shell(
      `git init -q -b main repository; cd repository; cp -a "$1"/@types .; git add .; git commit -qm first
       git mv @types types; echo more >> types/node/package.json; git commit -qam second; git gc -q
       cd ..; git clone -q repository clone`,
      { directory: path, args: [tree], timeoutMs: 120_000 },
    );
    await dropCaches();
    await checkRepository(t, 'repository');
    await checkRepository(t, 'clone');
  });

  await t.test('P1, P10: all is back after a restart of everything', async (t) => {
    await cluster.unmount();
    await cluster.endAll('stop');
    await cluster.startAll();
    await cluster.mount();
    await same(tree, `${path}/tree`);
    t.equal(await listing(`${path}/tree`), await listing(tree));
    await checkRepository(t, 'repository');
    await checkRepository(t, 'clone');
  });
});

t.test('P11: a chunkserver is killed, during a copy and while reading', { skip: noMounts }, async (t) => {
  const tree = join(await realpath(modules), '@types');
  const cluster = await ProcessCluster.start(t, { limitMs: 170_000 });
  const path = await cluster.mount();
  await shell('cp -a "$1" "$2"', { args: [tree, `${path}/tree`], timeoutMs: 120_000 });

  for (const index of cluster.chunkserverIndexes) {
    const copying = shell('cp -a "$1" "$2"', { args: [tree, `${path}/copy-${index}`], timeoutMs: 120_000 });
    await pause(400);
    await cluster.killChunkserver(index);
    await copying;
    await dropCaches();
    await same(tree, `${path}/copy-${index}`);
    await same(tree, `${path}/tree`);
    await cluster.startChunkserver(index);
    const started = performance.now();
    await cluster.waitUntilWhole();
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    t.pass(`chunkserver ${index + 1} was killed and came back; all was repaired in ${seconds} s`);
  }
});
