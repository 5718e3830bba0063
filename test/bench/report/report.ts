/** What was measured, as tables and as JSON. */
import { cpus, totalmem } from 'node:os';
import type { Figure, Results } from '../measure.js';
import type { Row, Sizes } from '../rows/row.js';
import type { ProcessMemory } from '../targets/cairn.js';
import type { Target } from '../targets/target.js';
import { figure, median, timesAsQuick } from './figures.js';

export interface Measured {
  readonly labels: readonly string[];
  readonly results: Results;
  readonly rounds: number;
  readonly sizes: Sizes;
  /** Rates through the client library, by name, one a round; empty without a cluster. */
  readonly library: ReadonlyMap<string, number[]>;
  /** Of the cluster's processes at the end. */
  readonly memory: readonly ProcessMemory[];
}

export interface Table {
  readonly title: string;
  /** The first is the head. */
  readonly rows: readonly (readonly string[])[];
}

export function tablesOf(measured: Measured): Table[] {
  return [rateTable(measured), cpuTable(measured), libraryTable(measured), memoryTable(measured)].filter(
    ({ rows }) => rows.length > 1,
  );
}

/** A line for each row that failed on a target, with what was said the first time. */
export function failuresOf({ labels, results }: Measured): string[] {
  return [...results].flatMap(([row, figures]) =>
    labels.flatMap((label) => {
      const failures = (figures.get(label) ?? []).flatMap(({ failure }) => failure ?? []);
      const [first] = failures;
      return first === undefined ? [] : `${label}: ${row.name}: ${first} (${failures.length}×)`;
    }),
  );
}

/** Every figure of every round; a failed one is null with its reason. */
export function toJson(measured: Measured): string {
  const { labels, results, rounds, sizes, library, memory } = measured;
  const rows = [...results].map(([{ name, unit }, figures]) => ({
    ...{ name, unit },
    figures: Object.fromEntries(labels.map((label) => [label, figures.get(label) ?? []])),
    medians: Object.fromEntries(labels.map((label) => [label, median(valuesOf(figures.get(label)))])),
    timesAsQuick: Object.fromEntries(ratiosOf(measured, { name, unit } as Row, figures)),
  }));
  const machine = {
    cpus: cpus().length,
    model: cpus()[0]?.model,
    memoryMiB: totalmem() / 2 ** 20,
    node: process.version,
  };
  return JSON.stringify(
    { machine, labels, rounds, sizes, rows, library: Object.fromEntries(library), memory },
    null,
    2,
  );
}

type OfRow = ReadonlyMap<string, readonly Figure[]>;

const valuesOf = (figures: readonly Figure[] = []): number[] => figures.map(({ value }) => value);
const nameOf = ({ name, unit }: Row): string => `${name}, ${unit}`;

/** The first target against each other one. */
function ratiosOf({ labels }: Measured, { unit }: Pick<Row, 'unit'>, figures: OfRow): [string, number][] {
  const [first = '', ...others] = labels;
  return others.map((other) => {
    return [other, timesAsQuick(valuesOf(figures.get(first)), valuesOf(figures.get(other)), unit)];
  });
}

function rateTable(measured: Measured): Table {
  const { labels, results, rounds, sizes } = measured;
  const [first = '', ...others] = labels;
  const rows = [...results].map(([row, figures]) => [
    nameOf(row),
    ...labels.map((label) => figure(median(valuesOf(figures.get(label))))),
    ...ratiosOf(measured, row, figures).map(([, ratio]) => figure(ratio)),
  ]);
  const quickness = others.length === 0 ? '' : `; on the right how many times as quick ${first} is`;
  return {
    title: `medians of ${rounds} rounds, ${sizes.largeMiB} MiB, ${sizes.smallFiles} small files, tree of ${sizes.treeFiles}${quickness}`,
    rows: [['', ...labels, ...others.map((other) => `× ${other}`)], ...rows],
  };
}

/** CPU is steadier than rates where others use the machine. */
function cpuTable({ labels, results }: Measured): Table {
  const known = labels.filter((label) =>
    [...results.values()].some((figures) => figures.get(label)?.some(({ cpuSeconds }) => cpuSeconds > 0)),
  );
  const rows = [...results].map(([row, figures]) => {
    const cells = known.map((label) => figure(median((figures.get(label) ?? []).map((one) => cpuOf(row, one)))));
    return [`${row.name}, ${CPU_UNITS[row.unit]}`, ...cells];
  });
  return {
    title: "CPU of the targets' processes; not that of the program that works on them",
    rows: known.length === 0 ? [] : [['', ...known], ...rows],
  };
}

const CPU_UNITS = { 'MiB/s': 'ms for 1 MiB', '/s': 'µs each', s: 's' } as const;

function cpuOf({ unit }: Row, { failure, cpuSeconds, units }: Figure): number {
  if (failure !== undefined) return NaN;
  if (unit === 's') return cpuSeconds;
  return (cpuSeconds / units) * (unit === '/s' ? 1e6 : 1e3);
}

function libraryTable({ library }: Measured): Table {
  const rows = [...library].map(([name, rates]) => [`${name}, /s`, figure(median(rates))]);
  return { title: 'metadata through the client library, without a mount', rows: [['', 'cairn'], ...rows] };
}

function memoryTable({ memory }: Measured): Table {
  const rows = memory.map(({ name, residentMiB, peakMiB }) => [name, figure(residentMiB), figure(peakMiB)]);
  return { title: "memory of the cluster's processes, MiB", rows: [['', 'resident', 'peak'], ...rows] };
}

/** One line for a figure as soon as it is there. */
export function progressLine(round: number, row: Row, target: Target, { value, failure }: Figure): string {
  const what = failure === undefined ? `${figure(value)} ${row.unit}` : `FAILED: ${failure}`;
  return `${round === 0 ? 'warm-up' : `round ${round}`}: ${row.name}: ${target.label}: ${what}`;
}
