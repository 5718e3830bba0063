/** What a process does about errors that nothing in it handled, and about disks that do not answer when it is to end. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import t from 'tap';
import type { Test } from 'tap';

const at = (path: string): string => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).pathname);

function runs(fault: string): { status: number | null; stdout: string; stderr: string } {
  const program = `
    import { CairnError } from ${at('core/errors.js')};
    import { createLogger } from ${at('core/logging/logger.js')};
    import { watchForFaults } from ${at('cli/machine/service.js')};
    watchForFaults(createLogger({ role: 'test' }));
    setTimeout(() => console.log('lives'), 50);
    ${fault}`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

t.test("an unhandled error of a peer's disk is logged with its stack and ends nothing", (t) => {
  const { status, stdout, stderr } = runs(`void Promise.reject(new CairnError('EIO', 'the disk of another'));`);
  t.equal(status, 0);
  t.equal(stdout, 'lives\n');
  t.match(stderr, /the disk of another/);
  t.match(stderr, /"stack":"/);
  t.end();
});

t.test('a broken invariant ends the process, with its stack in the log', (t) => {
  for (const fault of [
    `void Promise.reject(new TypeError('not a function'));`,
    `setTimeout(() => { throw new CairnError('EIO', 'not a function'); }, 1);`,
  ]) {
    const { status, stdout, stderr } = runs(fault);
    t.equal(status, 1);
    t.equal(stdout, '');
    t.match(stderr, /"message":"ends by a fault|"msg":"ends by a fault/);
    t.match(stderr, /not a function/);
    t.match(stderr, /"stack":"/);
  }
  t.end();
});

/** How a service ends that is sent SIGTERM `signals` times, while its program does `also`. */
async function ends(t: Test, stop: string, also: string, signals: number): Promise<{ code: unknown; ms: number }> {
  const directory = t.testdir();
  const fifo = join(directory, 'fifo');
  spawnSync('mkfifo', [fifo]);
  const program = `
    import { open } from 'node:fs/promises';
    import { createLogger } from ${at('core/logging/logger.js')};
    import { runService } from ${at('cli/machine/service.js')};
    const fifo = ${JSON.stringify(fifo)};
    setInterval(() => undefined, 1_000);
    const start = async () => { ${also} setTimeout(() => console.log('serves'), 100); return ''; };
    const made = async () => ({ start, stop: () => ${stop} });
    process.exit(await runService(${JSON.stringify(join(directory, 'service'))}, createLogger({ role: 'test' }), made, 1_000));`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const guard = setTimeout(() => child.kill('SIGKILL'), 10_000);
  const ended = once(child, 'exit');
  await once(child.stdout, 'data');
  const began = performance.now();
  for (let i = 0; i < signals; i++) {
    child.kill('SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  const [code, signal] = (await ended) as [number | null, string | null];
  clearTimeout(guard);
  return { code: code ?? signal, ms: performance.now() - began };
}

t.test('a service that is told to stop ends, also when a disk does not answer', async (t) => {
  // As a call to a disk that hangs: it takes a thread, and never comes back.
  const hangs = 'void open(fifo);';
  const never = 'new Promise(() => undefined)';
  t.match(await ends(t, 'Promise.resolve()', '', 1), { code: 0 }, 'cleanly');
  const cases: readonly [name: string, stop: string, also: string, signals: number, leastMs: number][] = [
    ['a call is out when all is done', 'Promise.resolve()', hangs, 1, 0],
    ['the clean end never comes', never, '', 1, 900],
    ['and a call is out', never, hangs, 1, 900],
    ['a second signal', never, hangs, 2, 0],
  ];
  for (const [name, stop, also, signals, leastMs] of cases) {
    const { code, ms } = await ends(t, stop, also, signals);
    t.equal(code, 'SIGKILL', name);
    t.ok(ms >= leastMs && ms < 5_000, `${name}: after ${Math.round(ms)} ms`);
  }
});
