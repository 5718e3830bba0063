/** What only the kernel driver can do: locks over mounts, and an end of the mount that leaves nothing waiting. */
import { spawn } from 'node:child_process';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { waitUntilEnded } from '../../src/cli/machine/process-control.js';
import { startMount } from '../../src/cli/commands/mount.js';
import { mountedOn, probe, unmountPath } from '../../src/fuse/mountpoint.js';
import { runCairn, ProcessCluster } from '../support/process-cluster.js';
import { eventually } from '../support/eventually.js';
import { shell } from '../support/shell.js';

const skip = process.getuid?.() !== 0 && 'only root may mount by itself';
const O_TMPFILE = 0o20200000;
const O_RDWR = 2;

/** Starts a program that the test ends; resolves with its exit code or signal. */
function start(
  script: string,
  directory: string,
): { readonly pid: number; readonly ended: Promise<number | string | null> } {
  const child = spawn('bash', ['-c', script], { cwd: directory, stdio: 'ignore' });
  const ended = new Promise<number | string | null>((resolve) => {
    child.on('exit', (code, signal) => resolve(signal ?? code));
  });
  return { pid: child.pid ?? 0, ended };
}

const within = async <T>(ms: number, promise: Promise<T>): Promise<T | 'late'> =>
  Promise.race([promise, pause(ms, 'late' as const, { ref: false })]);

t.test('two mounts', { skip }, async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 2, driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];

  await t.test('P2: flock orders what two mounts do to a file', async (t) => {
    await writeFile(join(a, 'counter'), '0\n');
    const rounds = 40;
    const count = `for i in $(seq ${rounds}); do flock lock bash -c 'echo $(($(<counter) + 1)) > counter'; done`;
    await Promise.all([shell(count, { directory: a }), shell(count, { directory: b })]);
    t.equal(await readFile(join(a, 'counter'), 'utf8'), `${2 * rounds}\n`);
  });

  await t.test('P2: an open file is read anew under a lock', async (t) => {
    await writeFile(join(a, 'shared'), 'one');
    // The reader keeps its descriptor, and with it the kernel's pages, over the other mount's change.
    const script = `exec 3<> shared; flock 3; head -c 3 <&3; flock -u 3; echo ready > shared.ready
      until [ -e shared.written ]; do sleep 0.05; done
      flock 3; dd bs=3 count=1 iflag=skip_bytes skip=0 <&3 2>/dev/null; cat /proc/self/fd/3 | head -c 10`;
    const reading = shell(script, { directory: a });
    await shell(
      'until [ -e shared.ready ]; do sleep 0.05; done; flock shared dd conv=notrunc of=shared <<< twoX; echo > shared.written',
      {
        directory: b,
      },
    );
    t.match(await reading, /^one.*twoX/s);
  });

  await t.test('a lock ends with its holder, and a wait for it with its waiter', async (t) => {
    const holder = start('exec 3> held; flock 3; exec sleep 60', a);
    await shell('until ! flock -n held true; do sleep 0.05; done', { directory: b });
    const waiter = start('exec flock held true', b);
    await pause(300);
    process.kill(waiter.pid, 'SIGTERM');
    t.equal(await within(3000, waiter.ended), 'SIGTERM', 'a wait is interrupted');
    const winner = start('exec flock held true', b);
    process.kill(holder.pid, 'SIGKILL');
    t.equal(await within(5000, winner.ended), 0);
  });

  await t.test('P2: a listing does not hide what another mount appended', async (t) => {
    await writeFile(join(a, 'log'), 'first\n');
    await shell('ls -l > /dev/null; cat log', { directory: b });
    for (let i = 0; i < 5; i++) {
      await shell('ls -l > /dev/null', { directory: b });
      await shell(`echo line-${i} >> log`, { directory: a });
      t.match(await shell('cat log', { directory: b }), new RegExp(`line-${i}\n$`));
    }
  });

  await t.test('O_APPEND goes to the end that the other mount made', async (t) => {
    const [one, other] = [await open(join(a, 'both'), 'a'), await open(join(b, 'both'), 'a')];
    for (let i = 0; i < 5; i++) {
      await one.write(`a${i}`);
      await one.sync();
      await pause(1100); // the client's attributes are up to a second old
      await other.write(`b${i}`);
      await other.sync();
      await pause(1100);
    }
    await one.close();
    await other.close();
    t.equal(await readFile(join(a, 'both'), 'utf8'), 'a0b0a1b1a2b2a3b3a4b4');
  });

  await t.test('O_TMPFILE: a file without a name, which may get one', async (t) => {
    const file = await open(a, O_TMPFILE | O_RDWR, 0o640);
    await file.write('temporary');
    t.equal((await file.stat()).nlink, 0);
    await shell('ln -L "/proc/$1/fd/$2" named', { directory: a, args: [String(process.pid), String(file.fd)] });
    await file.close();
    t.equal(await readFile(join(b, 'named'), 'utf8'), 'temporary');
    t.equal((await stat(join(a, 'named'))).mode & 0o777, 0o640);
  });
});

/** None of them waits in a call to the mount that is gone: each ends, if need be when it is killed. */
async function allEnd(t: Test, programs: readonly ReturnType<typeof start>[]): Promise<void> {
  await pause(1000);
  for (const { pid, ended } of programs) {
    if ((await within(100, ended)) === 'late') process.kill(pid, 'SIGKILL');
    t.not(await within(10_000, ended), 'late');
  }
}

t.test('the end of a mount leaves nothing waiting', { skip }, async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1, mount: true, driver: 'kernel' });
  const { mountpoint } = cluster;
  const processDirectory = join(cluster.directory.path, 'mount-0');
  const pidOfMount = async (): Promise<number> => Number(await readFile(join(processDirectory, 'pid'), 'utf8'));
  const busy = () => [
    start('while :; do dd if=/dev/zero of=busy bs=1M count=20 conv=fsync || exit 0; done', mountpoint),
    start('while :; do ls -lR > /dev/null || exit 0; [ -e . ] || exit 0; done', mountpoint),
    start('exec 3> lock; flock 3; exec sleep 60', mountpoint),
    start('sleep 0.3; exec flock lock true', mountpoint),
  ];

  await t.test(
    'umount -f in the middle of work: all calls return, the process ends, the next mount serves',
    async (t) => {
      const programs = busy();
      await pause(1000);
      await shell('umount -f -l "$1"', { args: [mountpoint] });
      t.ok(await waitUntilEnded(processDirectory, 10_000), 'the process of the mount');
      await allEnd(t, programs);
      await cluster.mount();
      t.ok((await readFile(join(mountpoint, 'busy'))).length >= 0);
    },
  );

  await t.test('kill -9 in the middle of work: the same, and the next mount clears what is left', async (t) => {
    const programs = busy();
    await pause(1000);
    await cluster.killMount();
    await allEnd(t, programs);
    t.equal(await probe(mountpoint), 'dead');
    await cluster.mount();
    t.equal(await probe(mountpoint), 'serving');
  });

  await t.test('a program that is killed while the cluster does not answer is gone, its bytes arrive', async (t) => {
    const servers = [...(await cluster.pids())].filter(([name]) => !name.startsWith('mount')).map(([, pid]) => pid);
    const [isOpen, go] = [join(cluster.directory.path, 'is-open'), join(cluster.directory.path, 'go')];
    const waiting = `exec 3<> late; touch ${isOpen}; until [ -e ${go} ]; do sleep 0.05; done`;
    const writer = start(`${waiting}; exec dd if=/dev/zero bs=1M count=1 conv=notrunc,fsync >&3`, mountpoint);
    await eventually('the file is open', async () => (await stat(isOpen)).isFile());
    for (const pid of servers) process.kill(pid, 'SIGSTOP');
    try {
      await writeFile(go, '');
      t.equal(await within(2000, writer.ended), 'late', 'it waits in fsync');
      process.kill(writer.pid, 'SIGKILL');
      t.equal(await within(10_000, writer.ended), 'SIGKILL');
    } finally {
      for (const pid of servers) process.kill(pid, 'SIGCONT');
    }
    const written = Buffer.alloc(1024 * 1024);
    await eventually('the bytes', async () => (await readFile(join(mountpoint, 'late'))).equals(written));
  });

  await t.test('umount ends it although another mount namespace has a copy of the mount', async (t) => {
    const container = start('exec unshare --mount --propagation private sleep 60', mountpoint.replace(/\/[^/]*$/, ''));
    await pause(500);
    await writeFile(join(mountpoint, 'kept'), 'kept');
    const { code, stderr } = await runCairn(['umount', mountpoint]);
    t.equal(code, 0, stderr);
    t.ok(await waitUntilEnded(processDirectory, 1000));
    process.kill(container.pid);
    await cluster.mount();
    t.equal(await readFile(join(mountpoint, 'kept'), 'utf8'), 'kept');
  });

  await t.test('SIGTERM to a mount that is detached leaves the next one on the directory alone', async (t) => {
    const holder = start('exec 3> held; exec sleep 60', mountpoint);
    await pause(500);
    const old = await pidOfMount();
    await shell('umount -l "$1"', { args: [mountpoint] });
    const next = join(cluster.directory.path, 'next');
    await startMount(mountpoint, next, { master: cluster.master, secretFile: cluster.secretFile });
    process.kill(old, 'SIGTERM');
    t.ok(await waitUntilEnded(processDirectory, 10_000));
    t.equal(await probe(mountpoint), 'serving');
    process.kill(holder.pid, 'SIGKILL');
    await unmountPath(mountpoint, 'clean');
    t.ok(await waitUntilEnded(next, 10_000));
    await cluster.mount();
  });

  await t.test('SIGTERM while a program has a file open: it stays; again, and it goes', async (t) => {
    const holder = start('exec 3> held; exec sleep 60', mountpoint);
    const file = await open(join(mountpoint, 'written'), 'w');
    await file.write('flushed');
    const pid = await pidOfMount();
    process.kill(pid, 'SIGTERM');
    await pause(500);
    t.equal(await probe(mountpoint), 'serving', 'in use');
    process.kill(pid, 'SIGTERM');
    await pause(500);
    t.equal(await mountedOn(mountpoint), undefined, 'detached');
    process.kill(pid, 'SIGTERM');
    t.ok(await waitUntilEnded(processDirectory, 10_000));
    await file.close().catch(() => undefined);
    process.kill(holder.pid);
    await cluster.mount();
    t.equal(await readFile(join(mountpoint, 'written'), 'utf8'), 'flushed');
  });
});
