/** `scripts/bench` at its smallest: that every row runs, that figures are told, and what happens to a row that fails. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Profiler } from 'node:inspector';
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { noMounts } from '../support/shell.js';
import type { Figure } from './measure.js';
import { programOutput, StuckError } from './program.js';
import { figure, median, timesAsQuick } from './report/figures.js';
import { chooseRows, GROUPS } from './rows/index.js';
import { summarize } from './targets/profiling.js';

const MAIN = fileURLToPath(new URL('main.js', import.meta.url));
const TINY = ['--scale', '0.0001', '--rounds', '1', '--cold-wait', '0'];
const isRoot = process.getuid?.() === 0;
const rows = GROUPS.flatMap((group) => group.rows);

interface Report {
  readonly labels: readonly string[];
  readonly rows: readonly {
    readonly name: string;
    /** By label. A value that is not a number is null. */
    readonly figures: Record<string, readonly (Omit<Figure, 'value'> & { readonly value: number | null })[]>;
    readonly medians: Record<string, number | null>;
    readonly timesAsQuick: Record<string, number | null>;
  }[];
  readonly library: Record<string, readonly number[]>;
  readonly memory: readonly { readonly name: string; readonly residentMiB: number }[];
}

/** Runs the bench with a temporary directory of its own. `path` comes before PATH. */
async function bench(
  directory: string,
  args: readonly string[],
  options: { readonly path?: string; readonly interruptAt?: string } = {},
): Promise<{
  code: number;
  stdout: string;
  stderr: string;
  report: Report | undefined;
  markdown: string;
  left: string[];
}> {
  const temporary = join(directory, 'temporary');
  await mkdir(temporary, { recursive: true });
  const [json, markdown] = [join(directory, 'report.json'), join(directory, 'report.md')];
  const child = spawn(process.execPath, [MAIN, ...args, '--json', json, '--markdown', markdown], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: temporary, PATH: [options.path ?? [], process.env['PATH']].flat().join(delimiter) },
  });
  let stderr = '';
  child.stderr.on('data', (data: Buffer) => {
    stderr += data.toString();
    if (options.interruptAt !== undefined && stderr.includes(options.interruptAt)) child.kill('SIGINT');
  });
  const ended = once(child, 'close') as Promise<[number]>;
  const stdout = await text(child.stdout);
  const [code] = await ended;
  const report = await readFile(json, 'utf8').then(
    (content) => JSON.parse(content) as Report,
    () => undefined,
  );
  const written = await readFile(markdown, 'utf8').catch(() => '');
  return { code, stdout, stderr, report, markdown: written, left: await readdir(temporary) };
}

/** A directory with programs of these names, each of which fails. */
async function failingPrograms(directory: string, ...names: readonly string[]): Promise<string> {
  const path = join(directory, 'programs');
  await mkdir(path);
  for (const name of names) {
    await writeFile(join(path, name), `#!/bin/sh\necho '${name} was planted' >&2\nexit 3\n`);
    await chmod(join(path, name), 0o755);
  }
  return path;
}

t.test('every row has its figures', { skip: noMounts }, async (t) => {
  const labels = isRoot ? ['local', 'memory'] : ['local'];
  const result = await bench(t.testdir(), [...TINY, ...labels.map((label) => `--${label}`)]);
  t.equal(result.code, 0, result.stderr);
  t.strictSame(result.report?.labels, labels);
  t.strictSame(
    result.report?.rows.map(({ name }) => name),
    rows.map(({ name }) => name),
  );
  for (const { name, figures, timesAsQuick } of result.report?.rows ?? []) {
    for (const label of labels) {
      const [one, ...more] = figures[label] ?? [];
      t.ok(one?.failure === undefined && (one?.value ?? 0) > 0 && more.length === 0, `${name} on ${label}`);
    }
    if (isRoot) t.ok((timesAsQuick['memory'] ?? 0) > 0, `${name} against the driver alone`);
    t.ok(result.stdout.includes(`\n${name}, `), 'in the table');
    t.ok(result.markdown.includes(`| ${name}, `));
  }
  const ofDriver = result.report?.rows.some(({ figures }) => (figures['memory']?.[0]?.cpuSeconds ?? 0) > 0);
  if (isRoot) t.ok(ofDriver, "the CPU of the driver's process is told");
  t.strictSame(result.left, [], 'nothing stays in the temporary directory');
});

t.test('its own cluster', { skip: noMounts || (!isRoot && 'only root may mount by itself') }, async (t) => {
  const directory = t.testdir();
  const wanted = ['--only', 'seq write,create', '--profile', join(directory, 'profiles')];
  const result = await bench(directory, [...TINY, '--cairn', ...wanted]);
  t.equal(result.code, 0, result.stderr);
  t.strictSame(
    result.report?.rows.map(({ name, medians }) => [name, (medians['cairn'] ?? 0) > 0]),
    [
      ['seq write (fsync)', true],
      ['create empty', true],
      ['create empty (4 processes)', true],
    ],
  );
  t.equal(Object.keys(result.report?.library ?? {}).length, 6, 'rates through the client library');
  const names = result.report?.memory.filter(({ residentMiB }) => residentMiB > 0).map(({ name }) => name);
  t.strictSame(names, ['chunkserver-1', 'chunkserver-2', 'chunkserver-3', 'master', 'mount']);
  for (const name of ['master', 'chunkserver', 'mount']) {
    t.match(result.stdout, new RegExp(`^${name}-\\d+: [\\d.]+ s\n\n.*\\d %$`, 'm'), `the profile of ${name}`);
  }
  t.strictSame(result.left, []);
});

t.test('a row that fails is told, and the others go on', async (t) => {
  const directory = t.testdir();
  const path = await failingPrograms(directory, 'ls', 'git');
  const wanted = ['--only', 'ls -lR,stat (warm),git status,create'];
  const result = await bench(directory, [...TINY, '--local', ...wanted], { path });
  t.equal(result.code, 1);
  const outcome = Object.fromEntries(
    (result.report?.rows ?? []).map(({ name, figures }) => [name, figures['local']?.[0]?.failure ?? 'measured']),
  );
  t.match(outcome, {
    'ls -lR (cold)': 'ls was planted',
    'ls -lR (warm)': 'ls was planted',
    'stat (warm)': 'measured',
    'create empty': 'measured',
    'git status (warm)': "it needs 'git init+add+commit', which failed",
  });
  t.ok(result.stdout.includes('local: ls -lR (cold): ls was planted'));
  t.ok(result.markdown.includes('local: ls -lR (cold): ls was planted'));
  t.strictSame(result.left, []);
});

t.test('a directory that is not there', async (t) => {
  const directory = t.testdir({ file: '' });
  const named = [`first=${join(directory, 'file')}`, '--local'];
  const result = await bench(directory, [...TINY, ...named, '--only', 'create empty']);
  t.equal(result.code, 1);
  const [row] = result.report?.rows ?? [];
  t.match(row?.figures['first']?.[0]?.failure, /ENOTDIR|EEXIST/);
  t.ok((row?.medians['local'] ?? 0) > 0, 'the other target is measured');
  t.equal(row?.timesAsQuick['local'], null);
});

t.test('a row that takes too long', async (t) => {
  const result = await bench(t.testdir(), [...TINY, '--local', '--limit', '0.01', '--only', 'create empty']);
  t.equal(result.code, 1);
  t.match(result.report?.rows[0]?.figures['local']?.[0]?.failure, 'it did not end within 0.01 s');
});

t.test('a program that cannot be killed is waited for no longer', async (t) => {
  // Killing the process group does not reach one that has left it, and this one keeps the output open.
  const program = `require('child_process').spawn('setsid', ['sleep', '15'], { stdio: 'inherit' }); setInterval(() => 0, 1000)`;
  const ended = programOutput(['-e', program], 500, new AbortController().signal);
  await t.rejects(ended, new StuckError('it did not end within 0.5 s, and cannot be killed'));
});

t.test('an interrupted run tells what it has', async (t) => {
  const options = { interruptAt: 'round 1: create empty: ' };
  const result = await bench(t.testdir(), [...TINY, '--rounds', '1000', '--local', '--only', 'create empty'], options);
  t.equal(result.code, 1);
  t.ok((result.report?.rows[0]?.medians['local'] ?? 0) > 0);
  t.strictSame(result.left, []);
});

t.test('what it does not understand', async (t) => {
  for (const args of [['--only', 'nothing'], ['--rounds', '0.5'], ['directory'], ['--local', 'local=/tmp']]) {
    const result = await bench(t.testdir(), [...TINY, ...args]);
    t.equal(result.code, 2, args.join(' '));
    t.match(result.stderr, /^bench: /m);
  }
});

t.test('which rows are wanted', async (t) => {
  const chosen = (...texts: string[]): string[] => [...chooseRows(texts)].map(({ name }) => name);
  t.strictSame(chosen('rm -rf'), ['rm -rf'], 'a name, though others contain it');
  t.strictSame(chosen('git status', 'rename'), ['rename', 'git status (warm)', 'git status (cold)'], 'in their order');
  t.ok(chosen('small files').includes('rename'), 'a group');
  t.strictSame(chosen('rename', 'nothing'), ['rename']);
  t.equal(chooseRows(undefined).size, rows.length);
});

t.test('the functions that take most of a profile', async (t) => {
  const frame = (functionName: string, url = '', lineNumber = 0): Profiler.ProfileNode['callFrame'] => {
    return { functionName, url, lineNumber, columnNumber: 0, scriptId: '' };
  };
  const summary = summarize({
    nodes: [
      { id: 1, callFrame: frame('(idle)') },
      { id: 2, callFrame: frame('crc', 'file:///home/cairnfs/dist/src/core/crc.js', 9) },
      { id: 3, callFrame: frame('(garbage collector)') },
    ],
    ...{ startTime: 0, endTime: 10_000_000, samples: [1, 2, 3, 2] },
    timeDeltas: [6_000_000, 2_000_000, 1_000_000, 1_000_000],
  });
  t.equal(summary.busySeconds, 4);
  t.strictSame(summary.functions, [
    { place: 'crc src/core/crc.js:10', share: 0.75 },
    { place: '(garbage collector)', share: 0.25 },
  ]);
});

t.test('figures', async (t) => {
  t.equal(median([3, NaN, 1, 2]), 2);
  t.equal(median([4, 1]), 2.5);
  t.ok(Number.isNaN(median([NaN])));
  t.equal(timesAsQuick([10, 20, NaN], [5, 5, 5], '/s'), 3);
  t.equal(timesAsQuick([10, 20], [20, 80], 's'), 3);
  t.strictSame([1234567, 45.678, 0.123, 0, NaN].map(figure), ['1,234,567', '45.7', '0.12', '0', '-']);
});
