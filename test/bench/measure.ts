/**
 * The turns: each row on every target, one after another, then the next row; so what the machine does beside hits all
 * targets alike. Every second round has the targets in the reverse order.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Group } from './rows/index.js';
import type { Place, Row, Sizes } from './rows/row.js';
import { complain, type Target } from './targets/target.js';
import type { Answer } from './worker.js';

const worker = fileURLToPath(new URL('worker.js', import.meta.url));
/** A program that was killed and has not ended by then is stuck in the kernel, waiting for a mount. */
const KILL_GRACE_MS = 10_000;
/** Of a directory that is measured, what belongs to the bench. */
export const OWN_DIRECTORY = 'cairn-bench';

/** Of one row on one target in one round. */
export interface Figure {
  /** In the row's unit; NaN when it failed. */
  readonly value: number;
  /** That the target's processes used; 0 where the bench does not know them. */
  readonly cpuSeconds: number;
  /** How many units were done; 0 for rows in seconds. */
  readonly units: number;
  readonly failure?: string;
}

/** By row and label, one figure a round. */
export type Results = Map<Row, Map<string, Figure[]>>;

export interface Turns {
  readonly targets: readonly Target[];
  readonly groups: readonly Group[];
  /** Those that are told. What they need is done too. */
  readonly isWanted: (row: Row) => boolean;
  readonly rounds: number;
  readonly sizes: Sizes;
  readonly archive: string;
  readonly scratch: string;
  /** Of one row on one target. */
  readonly limitMs: number;
  readonly coldWaitMs: number;
  /** Each figure when it is there; round 0 warms up. */
  readonly onFigure: (round: number, row: Row, target: Target, figure: Figure) => void;
  /** After each round that counts. */
  readonly between: () => Promise<void>;
  readonly signal: AbortSignal;
}

/** Adds to `results` as it goes, so that an interrupted run has what it measured. */
export async function measureInTurns(turns: Turns, results: Results): Promise<void> {
  const wanted = turns.groups.flatMap(({ rows }) => rows).filter(turns.isWanted);
  for (const row of wanted) results.set(row, new Map());
  for (let round = 0; round <= turns.rounds && !turns.signal.aborted; round++) {
    const targets = round % 2 === 0 ? turns.targets : [...turns.targets].reverse();
    for (const group of turns.groups) {
      if (round > 0 || group.warmUp) await measureGroup(turns, round, group, targets, results);
    }
    if (round > 0) await turns.between();
  }
}

async function measureGroup(
  turns: Turns,
  round: number,
  { rows }: Group,
  targets: readonly Target[],
  results: Results,
): Promise<void> {
  const needed = withNeeds(rows, turns.isWanted);
  const failed = new Map(targets.map(({ label }) => [label, new Set<string>()]));
  for (const row of needed) {
    for (const target of targets) {
      if (turns.signal.aborted) return;
      const failures = failed.get(target.label);
      const missing = row.needs?.find((name) => failures?.has(name));
      const figure =
        missing === undefined ? await measure(turns, row, target) : failure(`it needs '${missing}', which failed`);
      if (figure.failure !== undefined) failures?.add(row.name);
      turns.onFigure(round, row, target, figure);
      const figures = results.get(row);
      if (round > 0) figures?.set(target.label, [...(figures.get(target.label) ?? []), figure]);
    }
  }
}

/** The wanted rows and those that they need, in their order. */
function withNeeds(rows: readonly Row[], isWanted: (row: Row) => boolean): Row[] {
  const names = new Set<string>();
  for (const row of [...rows].reverse()) {
    if (!isWanted(row) && !names.has(row.name)) continue;
    for (const name of [row.name, ...(row.needs ?? [])]) names.add(name);
  }
  return rows.filter(({ name }) => names.has(name));
}

function failure(reason: string): Figure {
  return { value: NaN, cpuSeconds: 0, units: 0, failure: reason };
}

async function measure(turns: Turns, row: Row, target: Target): Promise<Figure> {
  try {
    const place: Place = {
      directory: join(target.directory, OWN_DIRECTORY),
      ...{ sizes: turns.sizes, archive: turns.archive, scratch: turns.scratch },
      processes: await target.processes(),
    };
    const args = [worker, row.name, String(turns.coldWaitMs), JSON.stringify(place)];
    const answer = JSON.parse(await programOutput(args, turns.limitMs, turns.signal)) as Answer;
    const value = row.unit === 's' ? answer.seconds : answer.units / answer.seconds;
    return { value, cpuSeconds: answer.cpuSeconds, units: answer.units };
  } catch (error) {
    return failure(error instanceof Error ? error.message : String(error));
  }
}

/**
 * What a program of ours prints. It is the head of a process group, which is killed as a whole when the time is over, as
 * it starts programs itself.
 */
export function programOutput(
  args: readonly string[],
  limitMs: number,
  signal: AbortSignal,
  input = '',
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { detached: true, stdio: ['pipe', 'pipe', 'pipe'] });
    let output = '';
    let said = '';
    let reason: string | undefined;
    let grace: NodeJS.Timeout | undefined;
    const kill = (why: string): void => {
      if (reason !== undefined) return;
      reason = why;
      if (child.pid !== undefined) killGroup(child.pid);
      grace = setTimeout(() => finish(`${why}, and cannot be killed`), KILL_GRACE_MS);
    };
    const limit = setTimeout(() => kill(`it did not end within ${limitMs / 1000} s`), limitMs);
    const interrupted = (): void => kill('it was interrupted');
    signal.addEventListener('abort', interrupted, { once: true });
    const finish = (problem: string | undefined): void => {
      clearTimeout(limit);
      clearTimeout(grace);
      signal.removeEventListener('abort', interrupted);
      child.stdout.destroy();
      child.stderr.destroy();
      if (problem === undefined) resolve(output);
      else reject(new Error(problem));
    };
    child.stdout.on('data', (data: Buffer) => (output += data.toString()));
    child.stderr.on('data', (data: Buffer) => (said = (said + data.toString()).slice(-500)));
    child.on('error', (error) => finish(error.message));
    child.on('close', (code, endedBy) => {
      finish(reason ?? (code === 0 ? undefined : said.trim() || `it ended with ${endedBy ?? code}`));
    });
    child.stdin.on('error', complain);
    child.stdin.end(input);
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
