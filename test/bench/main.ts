/**
 * `scripts/bench`: sequential and small-file rates of a mount, beside other directories, in the same run and in turns;
 * metadata rates through the client library; the memory of each process. It never touches a mount itself: each piece of
 * work runs in a process of its own.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { BenchCluster } from './cluster.js';
import { figure, median, medianRatio, table } from './table.js';
import { WORKS, type Work } from './works.js';

const HELP = `usage: scripts/bench [OPTION...] [LABEL=DIRECTORY...]

Measures a temporary CairnFS cluster (label cairn), and each directory given, in turns.

  --rounds N         rounds that count; one more before them warms up (default 3)
  --size MIB         size of the large file (default 256)
  --files N          number of small files (default 1000)
  --only TEXT        only work with TEXT in its name; repeatable. Reads need the writes before them
  --chunkservers N   of the temporary cluster (default 3)
  --replicas N       of the temporary cluster (default 2)
  --no-cluster       no temporary cluster: only the directories given
  --json FILE        every figure of every round, as JSON

examples:
  scripts/bench
  scripts/bench moosefs=/mnt/mfs local=/var/tmp
  scripts/bench --no-cluster --only sequential cairn=/mnt/cairn`;

interface Target {
  readonly label: string;
  readonly directory: string;
}

/** Rates of one piece of work: by label, one a round. */
type Rates = Map<string, number[]>;

const here = dirname(fileURLToPath(import.meta.url));
const repository = join(here, '../../..');
const execute = promisify(execFile);

/** The caches of the kernel: the client's, and the servers', which run on this machine too. */
async function dropCaches(): Promise<void> {
  await execute('sync');
  await writeFile('/proc/sys/vm/drop_caches', '3');
}

/** Runs a program of ours and returns the JSON it prints. */
async function measureApart<T>(program: string, args: readonly string[], input?: string): Promise<T> {
  const child = spawn(process.execPath, [join(here, program), ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (data: Buffer) => (output += data.toString()));
  child.stdin.end(input);
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} failed`);
  return JSON.parse(output) as T;
}

async function measure(work: Work, target: Target, sizes: object, canDrop: boolean): Promise<number> {
  if (work.cold === true && canDrop) await dropCaches();
  try {
    const args = [work.name, join(target.directory, 'cairn-bench'), JSON.stringify(sizes)];
    return (await measureApart<{ rate: number }>('worker.js', args)).rate;
  } catch (error) {
    console.error(`bench: ${target.label}: ${work.name}: ${String(error)}`);
    return NaN;
  }
}

function report(targets: readonly Target[], results: ReadonlyMap<Work, Rates>): string {
  const [first, ...others] = targets;
  if (first === undefined) return '';
  const rows = [
    ['', '', ...targets.map(({ label }) => label), ...others.map(({ label }) => `${first.label} / ${label}`)],
  ];
  for (const [work, rates] of results) {
    const of = (target: Target): number[] => rates.get(target.label) ?? [];
    const ratios = others.map((other) => figure(medianRatio(of(first), of(other))));
    rows.push([work.name, work.unit, ...targets.map((target) => figure(median(of(target)))), ...ratios]);
  }
  return table(rows);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h', default: false },
      rounds: { type: 'string', default: '3' },
      size: { type: 'string', default: '256' },
      files: { type: 'string', default: '1000' },
      only: { type: 'string', multiple: true },
      chunkservers: { type: 'string', default: '3' },
      replicas: { type: 'string', default: '2' },
      'no-cluster': { type: 'boolean', default: false },
      json: { type: 'string' },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const number = (name: 'rounds' | 'size' | 'files' | 'chunkservers' | 'replicas'): number => {
    const value = Number(values[name]);
    if (!Number.isSafeInteger(value) || value < 1) throw new Error(`--${name} needs a whole number above 0`);
    return value;
  };
  const rounds = number('rounds');
  const sizes = { fileMiB: number('size'), smallFiles: number('files') };
  const targets = positionals.map((text): Target => {
    const at = text.indexOf('=');
    if (at < 1) throw new Error(`'${text}' is not LABEL=DIRECTORY`);
    return { label: text.slice(0, at), directory: text.slice(at + 1) };
  });
  const works = WORKS.filter((work) => values.only?.some((text) => work.name.includes(text)) ?? true);
  const canDrop = process.getuid?.() === 0;
  if (!canDrop) console.error('bench: not root: caches are not dropped, so "cold" figures are warm ones');

  const cluster = values['no-cluster']
    ? undefined
    : await BenchCluster.start({ repository, chunkservers: number('chunkservers'), replicas: number('replicas') });
  const interrupted = (): void => void cluster?.stop().finally(() => process.exit(130));
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  try {
    if (cluster !== undefined) targets.unshift({ label: 'cairn', directory: cluster.mountpoint });
    if (targets.length === 0) throw new Error('nothing to measure: give LABEL=DIRECTORY, or leave out --no-cluster');

    const results = new Map<Work, Rates>(works.map((work) => [work, new Map()]));
    const library = new Map<string, number[]>();
    // Round 0 warms memory and code up. The order of the directories turns from round to round.
    for (let round = 0; round <= rounds; round++) {
      const order = round % 2 === 0 ? targets : [...targets].reverse();
      for (const work of works) {
        for (const target of order) {
          const rate = await measure(work, target, sizes, canDrop);
          if (round === 0) continue;
          const rates = results.get(work);
          rates?.set(target.label, [...(rates.get(target.label) ?? []), rate]);
        }
      }
      if (cluster !== undefined && values.only === undefined) {
        const { master, secret } = await cluster.access();
        const input = JSON.stringify({ master, secret: secret.toString('hex'), operations: sizes.smallFiles * 2 });
        const rates = await measureApart<Record<string, number>>('library-worker.js', [], input);
        if (round > 0)
          for (const [name, rate] of Object.entries(rates)) library.set(name, [...(library.get(name) ?? []), rate]);
      }
    }

    console.log(`medians of ${rounds} rounds; ${sizes.fileMiB} MiB file, ${sizes.smallFiles} small files\n`);
    console.log(report(targets, results));
    if (library.size > 0) {
      const rows = [...library].map(([name, rates]) => [name, '/s', figure(median(rates))]);
      console.log(`\nmetadata through the client library, without the mount\n\n${table(rows)}`);
    }
    const memory = (await cluster?.memory()) ?? [];
    if (memory.length > 0) {
      const rows = memory.map(({ name, residentMiB, peakMiB }) => [name, figure(residentMiB), figure(peakMiB)]);
      console.log(`\nmemory, MiB\n\n${table([['', 'resident', 'peak'], ...rows])}`);
    }
    if (values.json !== undefined) {
      const figures = [...results].map(([work, rates]) => ({ ...work, rates: Object.fromEntries(rates) }));
      await writeFile(values.json, JSON.stringify({ figures, library: Object.fromEntries(library), memory }, null, 2));
    }
  } finally {
    for (const { label, directory } of targets) {
      if (label !== 'cairn' || cluster === undefined) await execute('rm', ['-rf', join(directory, 'cairn-bench')]);
    }
    await cluster?.stop();
  }
}

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 2;
}
