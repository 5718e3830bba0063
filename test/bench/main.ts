/**
 * `scripts/bench`: sequential and small-file rates of a mount with each driver, beside other directories, in the same run
 * and in turns; the drivers by themselves; metadata rates through the client library; the memory of each process. It never touches a mount itself: each piece of
 * work runs in a process of its own.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { BenchCluster, type DriverName } from './cluster.js';
import { DriverMount } from './driver-mount.js';
import { figure, median, medianRatio, table } from './table.js';
import { WORKS, type Sizes, type Work } from './works.js';

const HELP = `usage: scripts/bench [OPTION...] [LABEL=DIRECTORY...]

Measures a temporary CairnFS cluster, mounted with the kernel driver (label kernel) and with fuse-native, and each
directory given, in turns.

  --rounds N         rounds that count; one more before them warms up (default 3)
  --size MIB         size of the large file (default 256)
  --files N          number of small files (default 1000)
  --only TEXT        only work with TEXT in its name; repeatable. Reads need the writes before them
  --chunkservers N   of the temporary cluster (default 3)
  --replicas N       of the temporary cluster (default 2)
  --driver NAME      kernel or fuse-native: that one only
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
const canDropCaches = process.getuid?.() === 0;

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

interface Turns {
  readonly targets: readonly Target[];
  readonly works: readonly Work[];
  readonly rounds: number;
  readonly sizes: Sizes;
  /** After each round that counts. */
  readonly between?: () => Promise<void>;
}

/** Round 0 warms memory and code up. The order of the directories turns from round to round. */
async function measureInTurns({ targets, works, rounds, sizes, between }: Turns): Promise<Map<Work, Rates>> {
  const results = new Map<Work, Rates>(works.map((work) => [work, new Map()]));
  for (let round = 0; round <= rounds; round++) {
    const order = round % 2 === 0 ? targets : [...targets].reverse();
    for (const work of works) {
      for (const target of order) {
        const rate = await measure(work, target, sizes);
        if (round === 0) continue;
        const rates = results.get(work);
        rates?.set(target.label, [...(rates.get(target.label) ?? []), rate]);
      }
    }
    if (round > 0) await between?.();
  }
  return results;
}

async function measure(work: Work, target: Target, sizes: Sizes): Promise<number> {
  if (work.cold === true && canDropCaches) await dropCaches();
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

/** The drivers by themselves, over a file system in memory: what of the mount's rates is theirs. */
async function measureDrivers(
  drivers: readonly DriverName[],
  works: readonly Work[],
  turns: Omit<Turns, 'targets' | 'works'>,
): Promise<void> {
  const own = works.filter((work) => work.ofDriver === true);
  if (own.length === 0) return;
  const mounts: { label: string; mount: DriverMount }[] = [];
  try {
    for (const label of drivers) mounts.push({ label, mount: await DriverMount.start(label) });
    const targets = mounts.map(({ label, mount }): Target => ({ label, directory: mount.directory }));
    const results = await measureInTurns({ ...turns, targets, works: own });
    console.log(`\nthe drivers alone, over a file system in memory\n\n${report(targets, results)}`);
  } finally {
    for (const { mount } of mounts) await mount.stop();
  }
}

async function printMemory(cluster: BenchCluster): Promise<Awaited<ReturnType<BenchCluster['memory']>>> {
  const memory = await cluster.memory();
  const rows = memory.map(({ name, residentMiB, peakMiB }) => [name, figure(residentMiB), figure(peakMiB)]);
  console.log(`\nmemory, MiB\n\n${table([['', 'resident', 'peak'], ...rows])}`);
  return memory;
}

function driversOf(text: string | undefined): readonly DriverName[] {
  if (text === 'kernel' || text === 'fuse-native') return [text];
  if (text !== undefined) throw new Error(`--driver is kernel or fuse-native, not '${text}'`);
  return canDropCaches ? ['kernel', 'fuse-native'] : ['fuse-native']; // the kernel driver mounts as root only
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
      driver: { type: 'string' },
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
  const drivers = driversOf(values.driver);
  const others = positionals.map((text): Target => {
    const at = text.indexOf('=');
    if (at < 1) throw new Error(`'${text}' is not LABEL=DIRECTORY`);
    return { label: text.slice(0, at), directory: text.slice(at + 1) };
  });
  const works = WORKS.filter((work) => values.only?.some((text) => work.name.includes(text)) ?? true);
  if (!canDropCaches) console.error('bench: not root: caches are not dropped, so "cold" figures are warm ones');

  const counts = { chunkservers: number('chunkservers'), replicas: number('replicas') };
  const cluster = values['no-cluster'] ? undefined : await BenchCluster.start({ repository, drivers, ...counts });
  const interrupted = (): void => void cluster?.stop().finally(() => process.exit(130));
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  try {
    // A directory for each driver: behind both mounts is one cluster.
    const mounts = [...(cluster?.mounts ?? [])].map(([label, path]) => ({ label, directory: join(path, label) }));
    const targets = [...mounts, ...others];
    if (targets.length === 0) throw new Error('nothing to measure: give LABEL=DIRECTORY, or leave out --no-cluster');

    const library = new Map<string, number[]>();
    const between = async (): Promise<void> => {
      if (cluster === undefined || values.only !== undefined) return;
      const { master, secret } = await cluster.access();
      const input = JSON.stringify({ master, secret: secret.toString('hex'), operations: sizes.smallFiles * 2 });
      const rates = await measureApart<Record<string, number>>('library-worker.js', [], input);
      for (const [name, rate] of Object.entries(rates)) library.set(name, [...(library.get(name) ?? []), rate]);
    };
    const results = await measureInTurns({ targets, works, rounds, sizes, between });
    console.log(`medians of ${rounds} rounds; ${sizes.fileMiB} MiB file, ${sizes.smallFiles} small files\n`);
    console.log(report(targets, results));
    if (mounts.some(({ label }) => label === 'fuse-native')) {
      console.log('\nlocks of fuse-native hold within one machine only: they ask nobody (docs/fuse-native.md)');
    }
    if (library.size > 0) {
      const rows = [...library].map(([name, rates]) => [name, '/s', figure(median(rates))]);
      console.log(`\nmetadata through the client library, without the mount\n\n${table(rows)}`);
    }
    const memory = cluster === undefined ? [] : await printMemory(cluster);
    if (cluster !== undefined) await measureDrivers(drivers, works, { rounds, sizes });
    if (values.json !== undefined) {
      const figures = [...results].map(([work, rates]) => ({ ...work, rates: Object.fromEntries(rates) }));
      await writeFile(values.json, JSON.stringify({ figures, library: Object.fromEntries(library), memory }, null, 2));
    }
  } finally {
    for (const { directory } of others) await execute('rm', ['-rf', join(directory, 'cairn-bench')]);
    await cluster?.stop();
  }
}

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 2;
}
