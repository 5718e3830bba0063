/** find, du, df, ls and stat on a mount say what they say of the same tree on a local disk. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { dropCaches, shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

const TREE = `
mkdir -p tree/{a,b,c}/{x,y}/{1,2} tree/empty tree/large; cd tree
for d in */*/*; do for i in $(seq 12); do seq $((i * i * 40)) > $d/f$i; done; : > $d/empty; ln $d/f1 $d/again; ln -s f2 $d/soft; done
for i in $(seq 1500); do : > large/$i; done; head -c 3000000 /dev/urandom > b/big; truncate -s 20M c/sparse
chmod 4711 a/x/1/f3; chmod 2750 a/y; chmod 1777 b; chown 1001:1002 b/x/1/*; mkfifo c/fifo; ln -s nowhere c/dangling
find . -depth -newermt 2020-01-01 -name 'f[1-4]' -exec touch -m -d '2015-05-05 05:05:05.5' {} +; touch -m -d '2015-05-05 05:05:05.4' b/y/2/f5
touch -a -d '2014-01-01' c/fifo; mkdir -p 'odd/a b'; echo > $'odd/a b/c\\td'`;

/** What find selects, by each kind of test that it has; the output is sorted, since the order is the file system's own. */
const FINDS = [
  '-xdev -printf "%P %y %m %n %U:%G %s %T@ %l\\n" ! -type d',
  '-type d -links +3',
  '-links 2 -type f',
  '-links 1 -type f -name "f1*"',
  '-size 0',
  '-size +100k -size -10M',
  '-empty',
  '-empty -type d',
  '-newer b/y/2/f5 -name "f*"',
  '-newermt "2015-05-05 05:05:05.45" ! -newermt "2015-05-05 05:05:05.55"',
  '-perm -4000 -o -perm -2000 -o -perm -1000',
  '-perm /022',
  '-uid 1001 -gid 1002',
  '-type p -o -type l -xtype l',
  '-samefile a/x/1/f1',
  '-mindepth 3 -maxdepth 3 -path "*y*"',
  '-amin +1000000',
  '-regex ".*/[ab]/x/.*[0-9]$"',
  '-readable -executable -type f',
  'large -type f -name "*99"',
];

t.test('find, du and df', { skip: needsKernelDriver('find', 'du', 'df') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const local = await mkdtemp(join(tmpdir(), 'cairn-listing-'));
  t.teardown(() => rm(local, { recursive: true, force: true }));
  await shell(`umask 022; ${TREE}`, { directory: local });
  await shell('cp -a "$1/tree" "$2"', { args: [local, a], timeoutMs: 100_000 });
  await dropCaches();

  const both = async (t: Test, script: string): Promise<void> => {
    const wanted = await shell(script, { directory: join(local, 'tree') });
    t.ok(wanted.length > 0, script);
    for (const mount of [a, b]) t.equal(await shell(script, { directory: join(mount, 'tree') }), wanted, script);
  };

  await t.test('find', async (t) => {
    for (const tests of FINDS) {
      const [start, rest] = tests.startsWith('large') ? ['large', tests.slice(6)] : ['.', tests];
      const expression = rest.includes('-printf') ? `${rest.replace(/(-printf "[^"]*") (.*)/, '$2 $1')}` : rest;
      await both(t, `find ${start} ${expression} | sort`);
    }
  });

  await t.test('ls and stat', async (t) => {
    await both(t, 'ls -lAR --time-style=full-iso | grep -v "^total\\|^d"');
    await both(t, 'ls -1U large | sort -n | sha256sum');
    await both(t, 'stat -c "%n %s %h %a %F %Y %N" */*/*/* c/* | sort');
    await both(t, 'ls -t a/x/1; ls -S a/x/1; ls -d */ | sort; echo */*/*/f1?');
  });

  await t.test('du', async (t) => {
    await both(t, 'find . -type f -print0 | sort -z | du -b --files0-from=- --apparent-size | cut -f1,2');
    await both(t, 'du -a --inodes a b c odd | sort -k2');
    await both(t, 'du -lb --apparent-size a/x/1/f* b/big c/sparse');
    const used = async (what: string): Promise<number> =>
      Number(await shell(`du -s -B1 ${what} | cut -f1`, { directory: join(a, 'tree') }));
    t.equal(await used('c/sparse'), 0, 'a hole uses nothing');
    const [big, apparent] = [await used('b/big'), 3_000_000];
    t.ok(big >= apparent && big < apparent + 8192, `${big} bytes used for ${apparent}`);
    t.equal(await used('a/x/1/empty'), 0);
    t.ok((await used('a')) < (await used('-l a')), 'hard links count once');
  });

  await t.test('df', async (t) => {
    const df = async (columns: string): Promise<number[]> =>
      (await shell(`df -B1 --output=${columns} . | tail -1`, { directory: a })).trim().split(/\s+/).map(Number);
    const [size = 0, used = 0, available = 0] = await df('size,used,avail');
    t.ok(size > 0 && used >= 0 && available > 0 && used + available <= size * 1.001, `${size} ${used} ${available}`);
    t.match(await shell('df --output=fstype,target . | tail -1', { directory: a }), new RegExp(`fuse\\S*\\s+${a}`));
    const inodes = Number(await shell('find . | wc -l', { directory: a }));
    const [, usedInodes = 0] = await df('itotal,iused');
    const links = Number(await shell('find . -name again | wc -l', { directory: a }));
    t.ok(Math.abs(usedInodes - (inodes - links)) <= 3, `${usedInodes} inodes used of ${inodes - links}`);
    t.equal(await shell('stat -f -c %l .', { directory: a }), '255\n', 'NAME_MAX');
  });
});
