/** Logging: on a full disk, in a bounded file, and of what is said again and again. */
import { chmodSync, closeSync, openSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import t from 'tap';
import { LOG_LINE_BURST } from '../../src/core/limits.js';
import { LogRate } from '../../src/core/logging/log-rate.js';

const MODULE = new URL('../../src/core/logging/logger.js', import.meta.url).href;

t.test('a log that cannot be written throws into nobody, and what is kept of it is bounded', async (t) => {
  const program = `
    import { createLogger } from ${JSON.stringify(MODULE)};
    const logger = createLogger({ role: 'test' });
    for (let i = 0; i < 30_000; i++) logger.info({ padding: 'x'.repeat(1_000) }, 'no space for this');
    process.stdout.write(String(process.memoryUsage().rss));
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', openSync('/dev/full', 'w')],
  });
  let output = '';
  child.stdout?.on('data', (data: Buffer) => (output += data.toString()));
  const code = await new Promise((resolve) => child.on('close', resolve));
  t.equal(code, 0);
  t.ok(Number(output) > 0 && Number(output) < 300 * 2 ** 20, `${output} bytes of memory`);
});

/** Runs `program`, with a logger of the options, whose standard error is `log`. */
function logging(log: string, options: string, program: string): void {
  const text = `
    import { createLogger } from ${JSON.stringify(MODULE)};
    const logger = createLogger({ role: 'test', ${options} });
    ${program}`;
  const fd = openSync(log, 'a', 0o644);
  const { status } = spawnSync(process.execPath, ['--input-type=module', '-e', text, log], {
    stdio: ['ignore', 'inherit', fd],
  });
  closeSync(fd);
  if (status !== 0) throw new Error(`ended with ${String(status)}`);
}

interface Line {
  readonly msg: string;
  readonly number?: number;
  readonly leftOut?: number;
}
const linesOf = (path: string): Line[] =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line);

t.test('a log begins anew when it is full, keeps some before it, and is for its user only', (t) => {
  const directory = t.testdir({ log: '', 'log.1': 'of an earlier version\n' });
  const log = join(directory, 'log');
  chmodSync(log, 0o644);
  chmodSync(`${log}.1`, 0o644);
  logging(
    log,
    'file: process.argv[1], maxFileBytes: 10_000',
    `for (let number = 0; number < 2_000; number++) logger.info({ number, padding: 'x'.repeat(100) }, 'line ' + number);
     console.error('{"msg":"of Node itself"}');`,
  );
  t.same(readdirSync(directory).sort(), ['log', 'log.1', 'log.2', 'log.3', 'log.4']);
  for (const name of readdirSync(directory)) {
    const { size, mode } = statSync(join(directory, name));
    t.ok(size < 11_000, `${name}: ${size} bytes`);
    t.equal(mode & 0o777, 0o600, name);
  }
  const kept = ['log.4', 'log.3', 'log.2', 'log.1', 'log'].flatMap((name) => linesOf(join(directory, name)));
  t.equal(kept.at(-1)?.msg, 'of Node itself');
  const numbers = kept.slice(0, -1).map(({ number }) => number ?? -1);
  t.equal(numbers.at(-1), 1_999);
  t.same(
    numbers,
    numbers.map((_, i) => (numbers[0] ?? 0) + i),
    'no line is missing between the files',
  );
  t.end();
});

t.test('what is said again and again is said now and then, with how often it was not', (t) => {
  const log = join(t.testdir({ log: '' }), 'log');
  logging(
    log,
    '',
    `for (let i = 0; i < 100_000; i++) logger.warn({ i }, 'a stranger came');
     logger.error({}, 'something else');
     await new Promise((resolve) => setTimeout(resolve, 2_100));
     logger.child({ of: 'another part' }).warn({}, 'a stranger came');`,
  );
  const lines = linesOf(log);
  t.equal(lines.filter(({ msg }) => msg === 'a stranger came').length, LOG_LINE_BURST + 1);
  t.equal(lines.filter(({ msg }) => msg === 'something else').length, 1);
  t.equal(lines.at(-1)?.leftOut, 100_000 - LOG_LINE_BURST);
  t.end();
});

t.test('different messages without end are forgotten, oldest first; what was left out is told in the end', (t) => {
  const rate = new LogRate();
  for (let i = 0; i < 60; i++) rate.admit('one', 0);
  t.same([...rate.untold()], [['one', 10]]);
  t.same([...rate.untold()], []);
  for (let i = 0; i < 5_000; i++) rate.admit(`message ${i}`, 0);
  t.equal(rate.admit('one', 0).write, true, 'forgotten');
  t.end();
});
