/** Medians, and how numbers are written. */
import type { Unit } from '../rows/row.js';

/** NaN when there are none. */
export function median(values: readonly number[]): number {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2;
}

/**
 * How many times as quick the one is as the other: the median of the ratios of each round, as what the machine did in one round
 * falls out. Above 1 the first is quicker, whether the unit is a rate or seconds. NaN stands for a round that failed.
 */
export function timesAsQuick(first: readonly number[], other: readonly number[], unit: Unit): number {
  return median(
    first.map((value, round) => {
      const against = other[round] ?? NaN;
      return unit === 's' ? against / value : value / against;
    }),
  );
}

/** Three figures, as much as such measurements can carry; '-' for none. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value === 0) return '0';
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  const [whole = '', fraction] = value.toFixed(Math.min(digits, 2)).split('.');
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ',');
  return fraction === undefined ? grouped : `${grouped}.${fraction}`;
}
