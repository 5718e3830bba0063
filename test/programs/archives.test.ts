/** tar and rsync, there and back: all that a file system keeps of a tree, compared entry by entry. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { dropCaches, shell } from '../support/shell.js';
import { inventory, isSameTree, xattrs } from './inventory.js';
import { needsKernelDriver } from './needs.js';

const TIMEOUT_MS = 120_000;
const TAR = "--acls --xattrs --xattrs-include='*' --numeric-owner";
/** Without the window rsync compares times by the second. */
const RSYNC = 'rsync -aHAX --numeric-ids --modify-window=-1';

/** An entry of every kind, with everything set that can be. Times come last, directories' after their entries'. */
const TREE = `
mkdir -p deep/a/b/c many links odd modes acls/below xattrs sparse special empty times
for i in $(seq 300); do head -c $((i * 37)) /dev/urandom > many/file-$i; done
head -c 9000000 /dev/urandom > deep/a/b/c/large
echo linked > links/one; ln links/one links/two; ln links/one deep/a/three; ln -s one links/soft; ln links/soft links/soft-too
ln -s /nowhere/at/all links/dangling; ln -s "$(printf 'x%.0s' $(seq 4000))" links/long-target
: > $'odd/not utf-8 \\xff\\xfe\\x80'; echo > $'odd/new\\nline'; echo > 'odd/ leading and trailing '; echo > 'odd/-rf'; echo > 'odd/*?["\\'
: > "odd/$(printf 'n%.0s' $(seq 255))"; echo ü > odd/ümläut; echo > odd/..hidden
p=odd; for i in $(seq 12); do p=$p/$(printf 'd%.0s' $(seq 100)); done; mkdir -p $p; echo deep > $p/file
for m in 0000 0111 0444 0640 0777 1644 2755 4755 6711; do echo $m > modes/$m; chown 1001:1002 modes/$m; chmod $m modes/$m; done
mkdir modes/dir-1777 modes/dir-2770 modes/dir-0000; chmod 1777 modes/dir-1777; chmod 2770 modes/dir-2770; chmod 0 modes/dir-0000
echo > modes/owner; chown 4000000000:3999999999 modes/owner; chown -h 12345:54321 links/soft
setfacl -m u:1001:rw,g:1002:r,u:4000000000:x,m::rwx acls/below; setfacl -d -m u::rwx,g::rx,o::-,u:1001:rwx,g:70000:- acls
echo inherits > acls/inherits; mkdir acls/inherits-too; echo own > acls/own; setfacl -m u:1005:rwx,m::r acls/own
echo x > xattrs/f; setfattr -n user.text -v value xattrs/f; setfattr -n user.empty xattrs/f
setfattr -n user.binary -v 0x00ff0a0d00 xattrs/f; setfattr -n trusted.t -v t xattrs/f; setfattr -n security.s -v s xattrs/f
setfattr -n user.large -v "$(head -c 1500 /dev/zero | tr '\\0' v)" xattrs/f; setfattr -n user.on-directory -v d xattrs
ln -s f xattrs/soft; setfattr -h -n trusted.on-symlink -v s xattrs/soft
cp /bin/true xattrs/capable; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 xattrs/capable
truncate -s 80M sparse/end; printf middle | dd of=sparse/end bs=1 seek=70000000 conv=notrunc status=none; printf end >> sparse/end
truncate -s 150M sparse/hole; printf start > sparse/start; truncate -s 70M sparse/start
mkfifo special/fifo; mknod special/null c 1 3; mknod special/disk b 259 1048575; mknod special/large c 4095 65535; chmod 620 special/null
touch -d '2001-02-03 04:05:06.123456789' times/ns; touch -d '1950-01-01 00:00:00.000000001' times/old
touch -d '2200-12-31 23:59:59.999999999' times/late; touch -h -d '1999-09-09 09:09:09.090909090' links/soft
touch -d '2010-10-10 10:10:10.101010101' special/fifo special/null; find . -depth -type d -exec touch -d '2011-11-11 11:11:11.111111111' {} +`;

t.test('archives there and back', { skip: needsKernelDriver('tar', 'rsync', 'setfacl', 'setfattr') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { limitMs: 280_000, driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const local = await mkdtemp(join(tmpdir(), 'cairn-archives-'));
  t.teardown(() => rm(local, { recursive: true, force: true }));
  const source = join(local, 'source');
  await shell(`mkdir "$1"; cd "$1"; umask 022; ${TREE}`, { args: [source], timeoutMs: TIMEOUT_MS });
  const run = (script: string): Promise<string> => shell(script, { args: [local, a, b], timeoutMs: TIMEOUT_MS });

  await t.test('the tree has what it is about', async (t) => {
    const [entries, values] = [(await inventory(source)).join('\n'), (await xattrs(source)).join('\n')];
    for (const sign of ['is ./links/soft', '| 6711 |', 'mtime -631151999999999999', 'mtime 7289654399999999999']) {
      t.match(entries, new RegExp(sign.replace(/[|]/g, '\\|')), sign);
    }
    for (const name of ['trusted.t', 'security.capability', 'posix_acl_default', 'trusted.on-symlink']) {
      t.match(values, name);
    }
  });

  await t.test('made in place, by the same commands', async (t) => {
    await run(`mkdir "$2/made"; cd "$2/made"; umask 022; ${TREE}`);
    await dropCaches();
    const [made, wanted] = [await xattrs(join(a, 'made')), await xattrs(source)];
    t.same(made, wanted, 'ACLs that were inherited, xattrs');
    const shape = async (root: string): Promise<string[]> =>
      (await inventory(root, { times: false })).map((line) => line.replace(/ \| [0-9a-f]{64}$/, ''));
    t.same(await shape(join(a, 'made')), await shape(source));
  });

  await t.test('tar', async (t) => {
    await run(
      `tar -C "$1" ${TAR} --sparse -cf "$2/in.tar" source; mkdir "$2/tar"; tar -C "$2/tar" ${TAR} -pxf "$2/in.tar"`,
    );
    await dropCaches();
    await isSameTree(t, join(a, 'tar/source'), source, 'extracted on the mount');
    await isSameTree(t, join(b, 'tar/source'), source, 'as another mount sees it');
    await run(
      `tar -C "$3/tar" ${TAR} --sparse -cf "$1/out.tar" source; mkdir "$1/back"; tar -C "$1/back" ${TAR} -pxf "$1/out.tar"`,
    );
    await isSameTree(t, join(local, 'back/source'), source, 'and back');
    t.equal(await run('tar -C "$3/tar" --compare --numeric-owner -f "$1/out.tar"'), '', 'tar --compare');
  });

  await t.test('rsync', async (t) => {
    // Unlike tar, it copies sockets too.
    await run(`cd "$1/source/special"; timeout 20 node -e 'require("net").createServer().listen("socket", () => process.exit())'
      [ -S socket ] || node -e 'const s = require("net").createServer().listen("socket", () => process.kill(process.pid, "SIGKILL"))' || true
      [ -S socket ]; touch -d '2012-12-12 12:12:12.121212121' socket .`);
    await run(`${RSYNC} --sparse "$1/source/" "$2/rsync/"`);
    await dropCaches();
    await isSameTree(t, join(b, 'rsync'), source, 'copied to the mount');
    const again = `${RSYNC} --dry-run --delete --itemize-changes`;
    t.equal(
      await run(`${again} "$1/source/" "$2/rsync/"; ${again} "$3/rsync/" "$1/source/"`),
      '',
      'nothing is left to do',
    );
    await run(`${RSYNC} --sparse "$3/rsync/" "$1/rsync/"; ${RSYNC} --inplace "$2/rsync/" "$2/rsync-2/"`);
    await isSameTree(t, join(local, 'rsync'), source, 'and back');
    await isSameTree(t, join(a, 'rsync-2'), source, 'within the mount');
    // A change of each kind is found and carried over.
    await run(`cd "$1/source"; echo more >> many/file-7; rm many/file-8; chmod 600 many/file-9; chown 7:7 many/file-10
      setfattr -n user.new -v n many/file-11; setfacl -m u:9:r many/file-12; touch -d '2013-01-01 00:00:00.5' many/file-13
      ln many/file-14 many/file-14-too; mv many/file-15 deep; rm -r odd/d*; ${RSYNC} --delete . "$2/rsync/"`);
    await isSameTree(t, join(b, 'rsync'), source, 'after changes');
    t.equal(await run(`${again} --checksum "$1/source/" "$3/rsync/"`), '');
  });

  await t.test('holes of whole chunks cost no space', async (t) => {
    t.equal(await run('stat -c %b "$2"/{tar/source,rsync}/sparse/hole'), '0\n0\n');
    const used = Number(await run('du -s --block-size=1M "$2/rsync/sparse" | cut -f1'));
    t.ok(used < 150, `${used} MiB of 300 MiB`);
  });
});
