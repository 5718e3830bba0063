/**
 * Random work under faults of every kind, one seed after another, in turns: programs that compare every result with the model, under
 * trouble that lets them (workload.ts); writers and readers of versioned files in rougher trouble (storm.ts); disasters
 * (disaster.ts).
 *
 * CAIRN_SEEDS=3000 runs more of them, CAIRN_FIRST_SEED=1500 begins there; CAIRN_SEED=17 runs that one again, CAIRN_FAULTS=rot,resets
 * has only those kinds. A seed that fails does not end the run. At the end it says how often each kind of fault took
 * effect: one that never did fails the run, if there were seeds enough for all.
 *
 * It speaks TAP by itself: what tap knows of each promise takes half of the time of a long run.
 */
import { DISASTERS, runDisasters, TRIALS } from '../workloads/disaster.js';
import { FaultCounts } from '../faults/fault-counts.js';
import { FAULTS } from '../faults/faults.js';
import { seeds } from '../world/seeds.js';
import { runStorm } from '../workloads/storm.js';
import { runWorkload } from '../workloads/workload.js';

/** With so many seeds each kind is the first of several; the rarest, `full-disk`, takes effect in one of thirty. */
const SEEDS_FOR_ALL = 10 * FAULTS.length;

const only = process.env['CAIRN_FAULTS']?.split(',');
const isWanted = ({ kind }: { readonly kind: string }): boolean => only?.includes(kind) ?? true;
const KINDS = FAULTS.filter(isWanted).map(({ kind }) => kind);
const DISASTER_KINDS = [...DISASTERS, ...TRIALS].filter(isWanted).map(({ kind }) => kind);

async function runSeed(seed: number, counts: FaultCounts): Promise<string> {
  const turn = Math.floor(seed / 3);
  const first = KINDS[turn % KINDS.length];
  const options = { seed, kinds: KINDS, counts, ...(first === undefined ? {} : { first }) };
  if (KINDS.length > 0 && seed % 3 === 0) {
    const { operations, simulatedMs } = await runWorkload({
      ...options,
      operations: 25,
      pauseMs: 8_000,
      isShapeDrawn: true,
    });
    return `${operations} operations, ${(simulatedMs / 1000).toFixed(0)} simulated seconds`;
  }
  const disaster = DISASTER_KINDS[turn % DISASTER_KINDS.length];
  const isDisaster = disaster !== undefined && (seed % 3 === 1 || KINDS.length === 0);
  const { reads, writes, errors, simulatedMs } = isDisaster
    ? await runDisasters({ seed, counts, kinds: DISASTER_KINDS, first: disaster })
    : await runStorm(options);
  // Who writes once in a while only may not have come to it in a short run; all files were written when they were made.
  if (reads === 0) throw new Error(`seed ${seed}: no work was done`);
  const told = [...errors].map(([code, count]) => `${count} ${code}`).join(', ');
  return `${reads} reads, ${writes} writes, told ${told || 'no error'}, ${(simulatedMs / 1000).toFixed(0)} simulated seconds`;
}

const counts = new FaultCounts([...KINDS, ...DISASTER_KINDS]);
const all = seeds(18, Number(process.env['CAIRN_FIRST_SEED'] ?? 1));
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
const missing = all.length >= SEEDS_FOR_ALL && only === undefined ? counts.missing() : [];
say(missing.length === 0, 'every kind of fault took effect');
explain(`faults that took effect, of those tried:\n${counts.toString()}`);
if (missing.length > 0) explain(`never: ${missing.join(', ')}`);
if (failed.length > 0) explain(`failed: ${failed.join(' ')}`);
process.stdout.write(`1..${number}\n`);
process.exitCode = failed.length + missing.length > 0 ? 1 : 0;
