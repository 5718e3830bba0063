/** flock(1) on two mounts: who may hold what at the same time, waits that end, and holders that die with and without their mount. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

/** flock(1) exits so when the lock cannot be had. */
const CONFLICT = 1;
/** A dead session's locks last so long. */
const SESSION_TTL_S = 60;

/** Exit code and seconds of one command. */
async function run(directory: string, command: string): Promise<{ readonly code: number; readonly seconds: number }> {
  const started = performance.now();
  const code = await shell(`set +e; timeout 100 bash -c "$1" > /dev/null 2>&1; echo $?`, {
    directory,
    args: [command],
    timeoutMs: 110_000,
  });
  return { code: Number(code), seconds: (performance.now() - started) / 1000 };
}

/** A program that has the lock, once this resolves. */
async function hold(directory: string, flags: string, file = 'lock'): Promise<ChildProcess> {
  const child = spawn('bash', ['-c', `exec 3>> ${file}; flock ${flags} 3; echo held; exec sleep 120`], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  return child;
}

async function release(holder: ChildProcess): Promise<void> {
  const ended = once(holder, 'exit');
  holder.kill('SIGKILL');
  await ended;
}

t.test('flock(1) on two mounts', { skip: needsKernelDriver('flock') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { limitMs: 280_000, driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const code = async (directory: string, command: string): Promise<number> => (await run(directory, command)).code;

  await t.test('an exclusive lock shuts out all others, on either mount', async (t) => {
    const holder = await hold(a, '-x');
    for (const mount of [a, b]) {
      t.equal(await code(mount, 'flock -n lock true'), CONFLICT);
      t.equal(await code(mount, 'flock -n -s lock true'), CONFLICT);
      t.equal(await code(mount, 'flock -n -E 77 lock true'), 77);
      t.equal(await code(mount, 'flock -n other-file true'), 0, 'only for its file');
    }
    await release(holder);
    t.equal(await code(b, 'flock -n lock true'), 0);
    t.equal(await code(b, 'flock -n lock sh -c "exit 9"'), 9, "the command's own code");
  });

  await t.test('shared locks stand together, and keep out an exclusive one', async (t) => {
    const holders = [await hold(a, '-s'), await hold(b, '-s')];
    for (const mount of [a, b]) {
      t.equal(await code(mount, 'flock -n -s lock true'), 0);
      t.equal(await code(mount, 'flock -n -x lock true'), CONFLICT);
    }
    for (const holder of holders) await release(holder);
    t.equal(await code(a, 'flock -n -x lock true'), 0);
  });

  await t.test('a change of type: from exclusive to shared and back', async (t) => {
    t.equal(await code(a, `exec 3> lock; flock -x 3; flock -s 3; cd ${b} && flock -n -s lock true`), 0);
    const other = await hold(b, '-s');
    t.equal(await code(a, 'exec 3> lock; flock -s 3 && flock -n -x 3'), CONFLICT);
    await release(other);
    t.equal(await code(a, 'exec 3> lock; flock -s 3 && flock -n -x 3'), 0);
  });

  await t.test('-w waits so long and no longer; who waits long enough gets it', async (t) => {
    const holder = await hold(a, '-x');
    for (const mount of [a, b]) {
      const { code, seconds } = await run(mount, 'flock -w 1.5 lock true');
      t.equal(code, CONFLICT);
      t.ok(seconds >= 1.4 && seconds < 6, `${seconds} s`);
    }
    const waiting = run(b, 'flock -w 60 lock true');
    await shell('sleep 0.5');
    await release(holder);
    const { code, seconds } = await waiting;
    t.equal(code, 0, 'the lock of a killed holder is free');
    t.ok(seconds < 10, `${seconds} s`);
  });

  await t.test('a lock belongs to the open file: children keep it', async (t) => {
    const script = 'exec 3> lock; flock -x 3; sleep 120 > /dev/null 2>&1 & echo $! > child; exec true';
    await shell(script, { directory: a });
    t.equal(await code(b, 'flock -n lock true'), CONFLICT, 'the child has it still');
    await shell('kill $(<child)', { directory: a });
    t.equal(await code(b, 'flock -w 5 lock true'), 0);
  });

  await t.test('exclusion under a throng: of 8 processes on 2 mounts one is in at a time', async (t) => {
    // Who is in makes a directory; it would be there already if another were in.
    const throng = `for i in $(seq 8); do flock throng sh -c 'mkdir inside || exit 1; echo x >> count; rmdir inside' || exit 1; done`;
    await Promise.all([a, b, a, b, a, b, a, b].map((directory) => shell(throng, { directory, timeoutMs: 100_000 })));
    t.equal(await shell('wc -l < count', { directory: b }), '64\n');
  });

  await t.test('the mount of a holder is killed: others get the lock when its session is over', async (t) => {
    const holders = [await hold(b, '-x'), await hold(b, '-s', 'shared-lock')];
    const killed = performance.now();
    await cluster.killMount(1);
    t.equal(await code(a, 'flock -n lock true'), CONFLICT, 'not at once: the machine might only be cut off');
    t.equal(await code(a, 'flock -n -s shared-lock true'), 0);
    const { code: late } = await run(a, `flock -w ${SESSION_TTL_S + 20} lock true`);
    const seconds = (performance.now() - killed) / 1000;
    t.equal(late, 0);
    t.ok(seconds < SESSION_TTL_S + 15, `${seconds.toFixed(1)} s after the kill`);
    t.equal(await code(a, 'flock -n -x shared-lock true'), 0);
    for (const holder of holders) await release(holder);
    await cluster.mount(1);
    t.equal(await code(b, 'flock -n lock true'), 0);
  });
});
