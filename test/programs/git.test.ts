/** git on a mount: history made, packed, checked and cloned, with a second mount that reads it, pushes and commits too. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { dropCaches, shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

const TIMEOUT_MS = 120_000;

/** A repository with files of all kinds, branches, merges, tags and a conflict that was resolved. */
const HISTORY = `
git init -q -b main .
mkdir -p src/deep/er; ln -s ../src/0 link; head -c 300000 /dev/urandom > binary; printf '#!/bin/sh\\necho run\\n' > run; chmod +x run
for i in $(seq 0 19); do
  seq $i $((i * 20)) > src/$i; echo $i >> log; cp src/$i src/deep/er/$((i % 7))
  git add -A; git commit -qm "commit $i"
  if [ $((i % 5)) = 4 ]; then
    git checkout -q -b side-$i HEAD~3
    echo side > side-$i; git add -A; git commit -qm "side $i"
    git checkout -q main; git merge -q --no-ff -m "merge $i" side-$i; git tag -a -m tag v$i
  fi
done
git checkout -q -b conflict HEAD~1; echo theirs >> log; git commit -qam theirs
git checkout -q main; echo ours >> log; git commit -qam ours
if git merge -q conflict > /dev/null 2>&1; then echo 'no conflict'; exit 1; fi
{ grep -v '^[<=>]' log; } > log.new; mv log.new log; git add log; git commit -qm resolved`;

/** All objects that can be reached, by name: the same in every clone of everything. */
const objects = (repository: string): Promise<string> =>
  shell('git rev-list --all --objects | cut -d" " -f1 | sort | sha256sum', {
    directory: repository,
    timeoutMs: TIMEOUT_MS,
  });

async function isSound(t: Test, repository: string): Promise<void> {
  const run = (script: string): Promise<string> => shell(script, { directory: repository, timeoutMs: TIMEOUT_MS });
  t.equal(await run('git fsck --full --strict 2>&1 | grep -v "^Checking\\|^dangling" || true'), '', 'git fsck');
  t.equal(await run('[ "$(git rev-parse --is-bare-repository)" = true ] || git status --porcelain'), '', 'clean');
}

t.test('git on a mount', { skip: needsKernelDriver('git') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { limitMs: 280_000, driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const local = await mkdtemp(join(tmpdir(), 'cairn-git-'));
  t.teardown(() => rm(local, { recursive: true, force: true }));
  const history = join(a, 'history');

  await t.test('commits, branches and merges; gc and repack lose nothing', async (t) => {
    await shell(`mkdir history; cd history; ${HISTORY}`, { directory: a, timeoutMs: TIMEOUT_MS });
    const before = await objects(history);
    await isSound(t, history);
    await shell('git gc -q --prune=now; git repack -q -ad; git pack-refs --all; git prune', {
      directory: history,
      timeoutMs: TIMEOUT_MS,
    });
    t.equal(await objects(history), before);
    t.equal(await shell('git count-objects', { directory: history }), '0 objects, 0 kilobytes\n');
    await dropCaches();
    await isSound(t, history);
    t.equal(await shell('git rev-list --count main; ./run', { directory: history }), '31\nrun\n');
  });

  await t.test('clones: into the mount, within it by hard links, and out of it again', async (t) => {
    const args = [history, local];
    await shell(
      `git clone -q --no-local "$1" "$2/out"; git clone -q --no-local "$2/out" in; git clone -q "$1" linked
       git clone -q --no-local in "$2/back"; git clone -q --mirror "$2/back" bare.git`,
      { directory: a, args, timeoutMs: TIMEOUT_MS },
    );
    const pack = await shell(`stat -c %h linked/.git/objects/pack/*.pack`, { directory: a });
    t.equal(pack, '2\n', 'a local clone shares its packs');
    const wanted = await shell('git rev-parse main^{tree}', { directory: history });
    for (const clone of [join(a, 'in'), join(a, 'linked'), join(local, 'out'), join(local, 'back')]) {
      t.equal(await shell('git rev-parse HEAD^{tree}', { directory: clone }), wanted);
      await isSound(t, clone);
      await shell('diff -r --no-dereference --exclude=.git "$1" .', { directory: clone, args: [history] });
    }
  });

  await t.test('P2: another mount clones the same, and finds every worktree clean', async (t) => {
    await isSound(t, join(b, 'history'));
    await isSound(t, join(b, 'linked'));
    await shell('git clone -q --no-local history of-b', { directory: b, timeoutMs: TIMEOUT_MS });
    await isSound(t, join(a, 'of-b'));
    t.equal(
      await shell('git rev-parse main^{tree}', { directory: join(a, 'of-b') }),
      await shell('git rev-parse main^{tree}', { directory: history }),
    );
  });

  await t.test('P2: both mounts push to one bare repository, each fetching what the other pushed', async (t) => {
    const rounds = 4;
    const pushing = (clone: string): string => `
      git clone -q bare.git ${clone}; cd ${clone}; git checkout -q main
      for i in $(seq ${rounds}); do
        echo $i > ${clone}-$i; git add -A; git commit -qm "${clone} $i"
        pushed=no
        for try in $(seq 40); do
          if git push -q origin main 2> ../${clone}.errors; then pushed=yes; break; fi
          git pull -q --rebase origin main
        done
        [ $pushed = yes ] || { cat ../${clone}.errors; exit 1; }
      done`;
    await Promise.all([
      shell(pushing('pusher-a'), { directory: a, timeoutMs: TIMEOUT_MS }),
      shell(pushing('pusher-b'), { directory: b, timeoutMs: TIMEOUT_MS }),
    ]);
    const bare = join(b, 'bare.git');
    await isSound(t, bare);
    const log = await shell(`git log --format=%s main | grep pusher | sort`, { directory: bare });
    const wanted = ['pusher-a', 'pusher-b'].flatMap((name) =>
      Array.from({ length: rounds }, (_, i) => `${name} ${i + 1}`),
    );
    t.same(log.trim().split('\n'), wanted);
  });

  await t.test('P2: both mounts commit to one worktree: index.lock is one, no commit is lost', async (t) => {
    const rounds = 8;
    await shell('git init -q -b main both; cd both; git commit -q --allow-empty -m start', { directory: a });
    const committing = (name: string): string => `
      for i in $(seq ${rounds}); do
        echo $i > ${name}-$i
        for try in $(seq 200); do
          if git add ${name}-$i 2> ../${name}.errors && git commit -qm "${name} $i" ${name}-$i 2>> ../${name}.errors; then break; fi
          grep -q 'index.lock\\|cannot lock ref' ../${name}.errors
          sleep 0.0$((RANDOM % 9))
        done
      done`;
    await Promise.all([
      shell(committing('a'), { directory: join(a, 'both'), timeoutMs: TIMEOUT_MS }),
      shell(committing('b'), { directory: join(b, 'both'), timeoutMs: TIMEOUT_MS }),
    ]);
    for (const mount of [a, b]) {
      const both = join(mount, 'both');
      await isSound(t, both);
      t.equal(
        await shell('git rev-list --count main; git ls-files | wc -l', { directory: both }),
        `${2 * rounds + 1}\n${2 * rounds}\n`,
      );
    }
  });
});
