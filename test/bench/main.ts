/**
 * `scripts/bench`: the same work on CairnFS and on what a user may have instead, in turns. It never touches a mount itself: each
 * piece of work runs in a process of its own (worker.ts). options.ts has the command line, rows/ what is done, targets/
 * where, measure.ts the turns, report/ the tables.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { measureInTurns, OWN_DIRECTORY, type Results } from './measure.js';
import { programOutput } from './program.js';
import { parseOptions, type Options } from './options.js';
import { failuresOf, progressLine, tablesOf, toJson, type Measured } from './report/report.js';
import { figure } from './report/figures.js';
import { markdownTable, textTable } from './report/table.js';
import { chooseRows, GROUPS } from './rows/index.js';
import { PROGRAM_ROWS } from './rows/programs.js';
import { sizesAt, type Sizes } from './rows/row.js';
import { archiveSourceTree } from './source-tree.js';
import { CairnCluster } from './targets/cairn.js';
import { startTargets } from './targets/index.js';
import { summarizeProfiles } from './targets/profiling.js';
import { attempt, complain, type Started, type Target } from './targets/target.js';

const here = dirname(fileURLToPath(import.meta.url));
const repository = join(here, '../../..');
const execute = promisify(execFile);
/** A mount that hangs must not keep the bench from ending. */
const REMOVAL_LIMIT = { timeout: 300_000, killSignal: 'SIGKILL' } as const;

/** 0 when every row was measured, 1 when some failed. */
async function bench(options: Options, signal: AbortSignal): Promise<number> {
  const sizes = sizesAt(options.scale);
  const wanted = chooseRows(options.only);
  const withPrograms = PROGRAM_ROWS.some((row) => wanted.has(row));
  if (wanted.size === 0) throw new Error('no row has such a name: see scripts/bench --help');
  if (process.getuid?.() !== 0) console.error('bench: not root: caches are not dropped, so cold rows are warm ones');

  if (options.profiles !== undefined) await makeEmptyDirectory(options.profiles);
  const started: Started[] = [];
  let targets: readonly Target[] = options.named;
  const results: Results = new Map();
  const library = new Map<string, number[]>();
  const scratch = await mkdtemp(join(tmpdir(), 'cairn-bench-'));
  try {
    const archive = join(scratch, 'tree.tar');
    if (withPrograms) archiveSourceTree({ archive, scratch, repository, files: sizes.treeFiles });
    await startTargets(options.own, { repository, ...options }, started);
    targets = inOrder(options.labels, [...options.named, ...started.flatMap((one) => one.targets)]);
    const cluster = started.find((one) => one instanceof CairnCluster);
    await measureInTurns(
      {
        ...{ targets, groups: GROUPS, wanted, sizes, archive, scratch, signal },
        ...{ rounds: options.rounds, limitMs: options.limitMs, coldWaitMs: options.coldWaitMs },
        onFigure: (...figure) => console.error(progressLine(...figure)),
        between: async () => {
          if (cluster !== undefined && options.library) await measureLibrary(cluster, sizes, options, signal, library);
        },
      },
      results,
    );
    const memory = (await cluster?.memory()) ?? [];
    const measured: Measured = { labels: options.labels, results, rounds: options.rounds, sizes, library, memory };
    await tell(measured, options);
    return failuresOf(measured).length === 0 && !signal.aborted ? 0 : 1;
  } finally {
    for (const { directory } of targets)
      await attempt(execute('rm', ['-rf', join(directory, OWN_DIRECTORY)], REMOVAL_LIMIT));
    for (const one of started.reverse()) await one.stop();
    await rm(scratch, { recursive: true, force: true });
    // They are written when the processes end.
    if (options.profiles !== undefined) await attempt(tellProfiles(options.profiles));
  }
}

const inOrder = (labels: readonly string[], targets: readonly Target[]): Target[] =>
  labels.flatMap((label) => targets.find((target) => target.label === label) ?? []);

/** Adds the rates of one round to `rates`. */
async function measureLibrary(
  cluster: CairnCluster,
  { smallFiles }: Sizes,
  { limitMs }: Options,
  signal: AbortSignal,
  rates: Map<string, number[]>,
): Promise<void> {
  const { master, secret } = await cluster.access();
  const input = JSON.stringify({ master, secret: secret.toString('hex'), operations: smallFiles * 2 });
  try {
    const output = await programOutput([join(here, 'library-worker.js')], limitMs, signal, input);
    for (const [name, rate] of Object.entries(JSON.parse(output) as Record<string, number>)) {
      rates.set(name, [...(rates.get(name) ?? []), rate]);
    }
  } catch (error) {
    complain(error);
  }
}

async function tell(measured: Measured, { json, markdown }: Options): Promise<void> {
  const tables = tablesOf(measured);
  const failures = failuresOf(measured);
  for (const { title, rows } of tables) console.log(`\n${title}\n\n${textTable(rows)}`);
  if (failures.length > 0) console.log(`\nfailed:\n${failures.join('\n')}`);
  if (json !== undefined) await writeFile(json, `${toJson(measured)}\n`);
  if (markdown === undefined) return;
  const parts = tables.map(({ title, rows }) => `${title}:\n\n${markdownTable(rows)}\n`);
  await writeFile(markdown, [...parts, ...failures.map((line) => `- ${line}\n`)].join('\n'));
}

/** Profiles of an earlier run would be taken for this one's. */
async function makeEmptyDirectory(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
  if ((await readdir(path)).length > 0) throw new Error(`${path} is not empty`);
}

async function tellProfiles(directory: string): Promise<void> {
  for (const { name, busySeconds, functions } of await summarizeProfiles(directory)) {
    console.log(`\n${name}: ${figure(busySeconds)} s\n`);
    console.log(textTable(functions.map(({ place, share }) => [place, `${figure(100 * share)} %`])));
  }
}

async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) return 0;
  const interrupt = new AbortController();
  // What was measured so far is told, and what was started is ended.
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => interrupt.abort());
  return bench(options, interrupt.signal);
}

try {
  process.exitCode = await main();
} catch (error) {
  complain(error);
  process.exitCode = 2;
}
