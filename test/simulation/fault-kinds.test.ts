/**
 * Random work under faults of every kind, one seed after another. In even seeds programs compare every result with the model, under
 * trouble that lets them; in odd ones writers and readers of versioned files go through rougher trouble.
 *
 * CAIRN_SEEDS=3000 runs more of them, CAIRN_FIRST_SEED=1500 begins there; CAIRN_SEED=17 runs that one again, CAIRN_FAULTS=rot,resets
 * has only those kinds. A seed that fails does not end the run. At the end it says how often each kind of fault took
 * effect: one that never did fails the run, if there were seeds enough for all.
 *
 * It speaks TAP by itself: what tap knows of each promise takes half of the time of a long run.
 */
import { FaultCounts } from './fault-counts.js';
import { FAULTS } from './faults.js';
import { seeds } from './seeds.js';
import { runStorm } from './storm.js';
import { runWorkload } from './workload.js';

/** With so many seeds each kind is the first of one, gently and roughly. */
const SEEDS_FOR_ALL = 2 * FAULTS.length;

const only = process.env['CAIRN_FAULTS']?.split(',');
const KINDS = FAULTS.map((fault) => fault.kind).filter((kind) => only?.includes(kind) ?? true);

async function runSeed(seed: number, counts: FaultCounts): Promise<string> {
  const common = { seed, kinds: KINDS, counts };
  const kind = KINDS[(seed >> 1) % KINDS.length];
  const options = kind === undefined ? common : { ...common, first: kind };
  if (seed % 2 === 0) {
    const { operations, simulatedMs } = await runWorkload({ ...options, operations: 30, pauseMs: 12_000, isShapeDrawn: true });
    return `${operations} operations, ${(simulatedMs / 1000).toFixed(0)} simulated seconds`;
  }
  const { reads, writes, errors, simulatedMs } = await runStorm(options);
  if (reads === 0 || writes === 0) throw new Error(`seed ${seed}: no work was done`);
  const told = [...errors].map(([code, count]) => `${count} ${code}`).join(', ');
  return `${reads} reads, ${writes} writes, told ${told || 'no error'}, ${(simulatedMs / 1000).toFixed(0)} simulated seconds`;
}

const counts = new FaultCounts(KINDS);
const all = seeds(24, Number(process.env['CAIRN_FIRST_SEED'] ?? 1));
const failed: number[] = [];
let number = 0;
const say = (isOk: boolean, title: string): void => {
  process.stdout.write(`${isOk ? '' : 'not '}ok ${++number} - ${title}\n`);
};
const explain = (text: string): void => {
  process.stdout.write(text.replace(/^/gm, '# ') + '\n');
};

process.stdout.write('TAP version 14\n');
for (const seed of all) {
  try {
    const said = await runSeed(seed, counts);
    say(true, `seed ${seed}`);
    explain(said);
  } catch (error) {
    failed.push(seed);
    say(false, `seed ${seed}`);
    explain(error instanceof Error ? (error.stack ?? error.message) : String(error));
  }
}
const missing = all.length >= SEEDS_FOR_ALL ? counts.missing() : [];
say(missing.length === 0, 'every kind of fault took effect');
explain(`faults that took effect, of those tried:\n${counts.toString()}`);
if (missing.length > 0) explain(`never: ${missing.join(', ')}`);
if (failed.length > 0) explain(`failed: ${failed.join(' ')}`);
process.stdout.write(`1..${number}\n`);
process.exitCode = failed.length + missing.length > 0 ? 1 : 0;
