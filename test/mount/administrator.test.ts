/**
 * What an administrator does: mount(8) with its helper, /etc/fstab, remount, findmnt, umount. Each script runs in a mount
 * namespace of its own, in which the helper stands where mount(8) looks: nothing of it stays on the machine.
 */
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { runningIn, stopIn } from '../../src/cli/machine/process-control.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { shell } from '../support/shell.js';

const skip = process.getuid?.() !== 0 && 'only root may mount by itself';
const HELPER = join(dirname(fileURLToPath(import.meta.url)), '../../../scripts/mount.fuse.cairn');

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

/** A copy of /sbin by links, with the helper in it, takes its place. */
const HELPER_IN_SBIN = `
  sbin=$(readlink -f /sbin)
  mkdir -p "$work/old" "$work/new"
  mount --bind "$sbin" "$work/old"
  mount -t tmpfs links "$work/new"
  cp -rs "$work/old/." "$work/new"
  ln -sf "$helper" "$work/new/mount.fuse.cairn"
  ln -sf "$helper" "$work/new/umount.fuse.cairn"
  mount --bind "$work/new" "$sbin"`;

interface Place {
  readonly cluster: ProcessCluster;
  /** Directory of the mount's pid and log. */
  readonly data: string;
  /** Of the mount command and of fstab, to begin with. */
  readonly options: string;
  /** Runs `script`, which knows $master, $dir, $options and $work. */
  run(script: string): Promise<string>;
}

async function setUp(t: Test, driver: 'kernel' | 'fuse-native'): Promise<Place> {
  const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1 });
  const work = join(cluster.directory.path, 'work');
  const [dir, data] = [join(work, 'mnt'), join(work, 'mount')];
  await mkdir(dir, { recursive: true });
  t.teardown(() => stopIn(data, 5000));
  const options = `secret=${cluster.secretFile},data=${data},driver=${driver}`;
  const variables = { master: cluster.master, dir, options, work, helper: HELPER };
  const lines = Object.entries(variables).map(([name, value]) => `${name}='${value}'`);
  const run = (script: string): Promise<string> =>
    shell('exec unshare --mount bash -euo pipefail -c "$1"', {
      args: [[...lines, HELPER_IN_SBIN, script].join('\n')],
    });
  return { cluster, data, options, run };
}

t.test('-o: a directory of the cluster is mounted, with options', { skip }, async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1, driver: 'kernel' });
  const whole = await cluster.mount(0);
  await shell('mkdir -p a/b; echo inside > a/b/file; echo outside > file', { directory: whole });
  const part = await cluster.mount(1, ['-o', 'subdir=/a/b,ro,noatime,nosuid']);
  t.equal(await shell('ls -A; cat file; cd ..; cat b/file 2>/dev/null || true', { directory: part }), 'file\ninside\n');
  await t.rejects(writeFile(join(part, 'new'), ''), { code: 'EROFS' });
  t.match(await shell('grep " $1 " /proc/self/mountinfo', { args: [part] }), / ro,nosuid,noatime /);
  await t.rejects(cluster.mount(2, ['-o', 'subdir=/none']), { code: 'ENOENT', message: /\/none/ });
  await t.rejects(cluster.mount(3, ['-o', 'noatme']), /noatme/);
});

t.test('-o noatime, nodiratime, O_NOATIME: reads that leave no trace', { skip }, async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1, driver: 'kernel' });
  const mounts = { usual: await cluster.mount(0) } as Record<string, string>;
  for (const [i, option] of ['noatime', 'nodiratime', 'ro'].entries()) {
    mounts[option] = await cluster.mount(i + 1, ['-o', option]);
  }
  await shell(
    'mkdir d; echo text > d/file; ln -s file d/link; touch -d 2001-01-01 d/file d; touch -hd 2001-01-01 d/link',
    {
      directory: mounts['usual'] ?? '',
    },
  );
  const moved = async (how: string, script: string): Promise<string> => {
    await shell(script, { directory: mounts[how] ?? '' });
    await pause(200); // the close goes to the master in the background
    const fs = await cluster.client();
    const d = await fs.lookup(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('d'));
    const names = [d];
    for (const name of ['file', 'link']) names.push(await fs.lookup(ROOT_CREDENTIALS, d.inode, Buffer.from(name)));
    return names.map(({ atime }, i) => (atime.seconds > 1e9 ? ['d', 'file', 'link'][i] : '')).join('');
  };
  const reads = 'cat d/file; ls d; readlink d/link';
  t.equal(await moved('noatime', reads), '');
  t.equal(await moved('ro', reads), '');
  t.equal(await moved('usual', 'dd if=d/file of=/dev/null iflag=noatime'), '');
  t.equal(await moved('nodiratime', 'ls d'), '');
  t.equal(await moved('nodiratime', reads), 'filelink');
  t.equal(await moved('usual', reads), 'dfilelink');
});

t.test('-o root_squash, all_squash, uidmap: who is who in the cluster', { skip }, async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1, driver: 'kernel' });
  await chmod(cluster.directory.path, 0o711);
  const whole = await cluster.mount(0);
  await shell(
    'chmod 1777 .; mkdir -m 777 d; echo secret > root; chmod 600 root; echo own > user; chown 5001:5001 user; chmod 600 user',
    {
      directory: whole,
    },
  );
  const as = (uid: number) => `setpriv --reuid ${uid} --regid ${uid} --clear-groups`;

  const squashed = await cluster.mount(1, ['-o', 'root_squash']);
  const said = await shell('cat root 2>&1 || true; echo x > new; rm root 2>&1 || true; chown 1 new 2>&1 || true', {
    directory: squashed,
  });
  t.match(said, /root: Permission denied\n[^]*remove 'root'[^\n]*not permitted\n[^]*owner[^\n]*not permitted/);
  t.equal(await shell('stat -c %u:%g new', { directory: whole }), '65534:65534\n');
  t.equal(
    await shell(`echo own > mine; ${as(1001)} sh -c 'echo x > others; cat others'`, { directory: squashed }),
    'x\n',
  );

  const all = await cluster.mount(2, ['-o', 'all_squash,anonuid=7,anongid=8']);
  await shell(
    `${as(1001)} sh -c 'echo one > d/file; chmod 600 d/file'; ${as(1002)} sh -c 'echo two >> d/file; mkdir d/sub; touch d/sub/x'`,
    {
      directory: all,
    },
  );
  t.equal(await shell('cat d/file; stat -c %u:%g d/file d/sub/x', { directory: whole }), 'one\ntwo\n7:8\n7:8\n');
  t.match(
    await shell(`${as(0)} cat root 2>&1 || true; ${as(5001)} cat user 2>&1 || true`, { directory: all }),
    /denied[^]*denied/,
  );

  const mapped = await cluster.mount(3, ['-o', 'uidmap=1001:5001,gidmap=1001:5001']);
  t.equal(
    await shell(`${as(1001)} cat user; stat -c %u:%g user; ${as(5001)} cat user 2>&1 || true`, { directory: mapped }),
    'own\n1001:1001\ncat: user: Permission denied\n',
  );
  await shell(
    `touch chowned; chown 1001:1001 chowned; setfacl -m u:1001:r chowned; getfacl -n chowned | grep -q user:1001:r`,
    { directory: mapped },
  );
  t.match(
    await shell('stat -c %u:%g chowned; getfacl -n chowned', { directory: whole }),
    /^5001:5001\n[^]*user:5001:r/,
  );
  await t.rejects(cluster.mount(4, ['-o', 'root_squash', '--driver', 'fuse-native']), { message: /kernel driver/ });
});

for (const driver of ['kernel', 'fuse-native'] as const) {
  t.test(`${driver}: mount -t fuse.cairn, findmnt, umount`, { skip }, async (t) => {
    const { cluster, data, run } = await setUp(t, driver);
    const whole = await cluster.mount(0);
    await shell('mkdir -p a/b; echo inside > a/b/file; echo outside > file', { directory: whole });
    const said = await run(`
      mount -t fuse.cairn "$master" "$dir" -o "$options,subdir=/a/b,noatime,nosuid,_netdev,x-test.word=1"
      findmnt -no SOURCE,FSTYPE,OPTIONS "$dir"
      ls -A "$dir" "$dir/.."/mnt
      cat "$dir/file"
      echo kept > "$dir/new"
      umount "$dir"
      findmnt "$dir" || echo none`);
    t.match(said, new RegExp(`^${cluster.master} +fuse\\.cairn +rw,nosuid,([a-z]+,)*noatime`));
    t.match(said, /file\n[^]*inside\nnone\n$/);
    t.notMatch(said, /outside/);
    t.equal(await runningIn(data), undefined, 'umount returned when all was flushed');
    t.equal(await readFile(join(whole, 'a/b/new'), 'utf8'), 'kept\n');
  });
}

t.test('a line of /etc/fstab: mount DIR, mount -a, remount, umount', { skip }, async (t) => {
  const { cluster, options, run } = await setUp(t, 'kernel');
  const fstab = join(cluster.directory.path, 'fstab');
  const dir = join(cluster.directory.path, 'work/mnt');
  await writeFile(
    fstab,
    `${cluster.master} ${dir} fuse.cairn ${options},ro,noexec,nofail,_netdev,x-systemd.requires=network.target 0 0\n`,
  );
  const said = await run(`
    fstab='${fstab}'
    mount -T "$fstab" "$dir"
    findmnt -no OPTIONS "$dir"
    touch "$dir/file" 2>&1 || true
    mount -a -T "$fstab"
    [ $(findmnt -no SOURCE "$dir" | wc -l) = 1 ]
    mount -o remount,rw,noexec "$dir"
    echo 'echo ran' > "$dir/script"; chmod 755 "$dir/script"
    "$dir/script" 2>&1 || true
    mount -o remount,ro "$dir"
    findmnt -no OPTIONS "$dir"
    touch "$dir/file" 2>&1 || true
    umount "$dir"
    mount -a -T "$fstab"
    cat "$dir/script"
    cd "$dir"
    umount "$dir" 2>&1 || true
    cd /
    umount "$dir"`);
  t.match(
    said,
    /^ro,noexec,[^]*touch: [^\n]*Read-only[^]*script: [^\n]*Permission denied\nro,[^]*Read-only[^]*echo ran\n[^]*in use/i,
  );
});

t.test('what mount(8) says when it cannot be', { skip }, async (t) => {
  const { cluster, options, run } = await setUp(t, 'kernel');
  const refused = async (extra: string, message: RegExp): Promise<void> => {
    await t.rejects(run(`mount -t fuse.cairn "$master" "$dir" -o "${options},${extra}"`), { message }, extra);
  };
  await refused('noatme', /-o noatme: there is no such option; there are: ro rw .*subdir=/);
  await refused('subdir=/none', /there is no '\/none'/);
  await refused('secret=/none', /there is no secret \/none/);
  await t.rejects(run('mount -t fuse.cairn nowhere "$dir" -o "$options"'), { message: /must be HOST:PORT/ });
  t.equal(await runningIn(join(cluster.directory.path, 'work/mount')), undefined);
});

/** Nobody's, who may use /dev/fuse here as distributions ship it. */
const AS_NOBODY = `
  mknod "$work/fuse" c 10 229
  chmod 666 "$work/fuse"
  mount --bind "$work/fuse" /dev/fuse
  mkdir -m 700 "$work/home"
  cp "$secret" "$work/home/secret"
  chown -R 65534:65534 "$work/home" "$dir"
  cd "$work/home"
  as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups env HOME="$work/home" CAIRN_DATA="$work/home/data" "$@"; }`;

t.test('an ordinary user mounts by fusermount3, unmounts, and owns what `up` starts', { skip }, async (t) => {
  const { cluster, run } = await setUp(t, 'fuse-native');
  await chmod(cluster.directory.path, 0o711);
  const whole = await cluster.mount(0);
  await shell('mkdir -m 777 all; chmod 755 .', { directory: whole });
  const said = await run(`
    secret='${cluster.secretFile}' main='${MAIN}'
    ${AS_NOBODY}
    if ! as_nobody test -r "$main"; then echo unreadable; exit; fi
    as_nobody node "$main" mount "$dir" --master "$master" --secret "$work/home/secret" -o noatime,subdir=/all
    findmnt -no SOURCE,FSTYPE,OPTIONS "$dir"
    as_nobody sh -c 'echo text > "$1/file"; cat "$1/file"; ln -s file "$1/link"; stat -c %u:%a "$1/file"' sh "$dir"
    ls "$dir" 2>&1 || true
    as_nobody sh -c 'cd "$1" && exec node "$2" umount "$1"' sh "$dir" "$main" 2>&1 || true
    as_nobody node "$main" umount "$dir"
    findmnt "$dir" || echo none
    as_nobody node "$main" up "$work/home/own" --chunkservers 1 --data "$work/home/cluster" >&2
    as_nobody sh -c 'echo mine > "$1/file"; cat "$1/file"' sh "$work/home/own" || true
    as_nobody node "$main" down "$work/home/own"`);
  if (said === 'unreadable\n') {
    t.pass('this clone is in a place that others may not read');
    return;
  }
  t.match(said, new RegExp(`${cluster.master} +fuse\\.cairn +rw,nosuid,nodev,noatime[^\n]*user_id=65534`));
  t.match(
    said,
    /text\n65534:644\nls: [^\n]*Permission denied\n[^\n]*in use by node[^\n]*\nunmounted [^\n]*\nnone\nmine\ndown: /,
  );
  t.equal(await shell('cat all/file; readlink all/link', { directory: whole }), 'text\nfile\n');
});
