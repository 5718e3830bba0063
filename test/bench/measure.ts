/**
 * The turns: each row on every target, one after another, then the next row; so what the machine does beside hits all
 * targets alike. Every second round has the targets in the reverse order.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { programOutput, StuckError } from './program.js';
import type { Group } from './rows/index.js';
import type { Place, Row, Sizes } from './rows/row.js';
import type { Target } from './targets/target.js';
import type { Answer } from './worker.js';

const worker = fileURLToPath(new URL('worker.js', import.meta.url));
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
  readonly wanted: ReadonlySet<Row>;
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
  for (const row of turns.wanted) results.set(row, new Map());
  const measuring = new Measuring(turns, results);
  for (let round = 0; round <= turns.rounds && !turns.signal.aborted; round++) {
    for (const group of turns.groups) {
      if (round > 0 || group.warmUp) await measuring.group(round, group);
    }
    if (round > 0) await turns.between();
  }
}

class Measuring {
  /** Where a row hangs: each further one would take its whole time limit. */
  private readonly stuck = new Set<Target>();

  constructor(
    private readonly turns: Turns,
    private readonly results: Results,
  ) {}

  async group(round: number, { rows }: Group): Promise<void> {
    const { targets, wanted, signal, onFigure } = this.turns;
    const order = round % 2 === 0 ? targets : [...targets].reverse();
    const failed = new Map(order.map((target) => [target, new Set<string>()]));
    for (const row of withNeeds(rows, wanted)) {
      for (const [target, failures] of failed) {
        if (signal.aborted) return;
        const figure = await this.measureIfPossible(row, target, failures);
        if (figure.failure !== undefined) failures.add(row.name);
        onFigure(round, row, target, figure);
        const figures = this.results.get(row);
        if (round > 0) figures?.set(target.label, [...(figures.get(target.label) ?? []), figure]);
      }
    }
  }

  /** `failures`: names of the rows that failed on the target in this round. */
  private async measureIfPossible(row: Row, target: Target, failures: ReadonlySet<string>): Promise<Figure> {
    if (this.stuck.has(target)) return failure('an earlier row hangs there');
    const missing = row.needs?.find((name) => failures.has(name));
    if (missing !== undefined) return failure(`it needs '${missing}', which failed`);
    try {
      return await this.measure(row, target);
    } catch (error) {
      if (error instanceof StuckError) this.stuck.add(target);
      return failure(error instanceof Error ? error.message : String(error));
    }
  }

  private async measure(row: Row, target: Target): Promise<Figure> {
    const { sizes, archive, scratch, coldWaitMs, limitMs, signal } = this.turns;
    const place: Place = {
      directory: join(target.directory, OWN_DIRECTORY),
      ...{ sizes, archive, scratch, processes: await target.processes() },
    };
    const args = [worker, row.name, String(coldWaitMs), JSON.stringify(place)];
    const { units, seconds, cpuSeconds } = JSON.parse(await programOutput(args, limitMs, signal)) as Answer;
    return { value: row.unit === 's' ? seconds : units / seconds, cpuSeconds, units };
  }
}

/** The wanted rows and those that they need, in their order. */
function withNeeds(rows: readonly Row[], wanted: ReadonlySet<Row>): Row[] {
  const names = new Set<string>();
  for (const row of [...rows].reverse()) {
    if (!wanted.has(row) && !names.has(row.name)) continue;
    for (const name of [row.name, ...(row.needs ?? [])]) names.add(name);
  }
  return rows.filter(({ name }) => names.has(name));
}

function failure(reason: string): Figure {
  return { value: NaN, cpuSeconds: 0, units: 0, failure: reason };
}
