/** The byte ranges that one owner has locked in one file: splitting, merging and finding them, as fcntl(2) says. */

export interface LockedRange {
  readonly type: 'read' | 'write';
  readonly start: number;
  /** The last byte. */
  readonly end: number;
  readonly pid: number;
}

/** Ranges of one owner: in order, apart, and neighbours of one type merged. */
export type LockedRanges = readonly LockedRange[];

/** Last byte of a lock that reaches to the end of the file, wherever that goes. */
export const MAX_LOCK_END = Number.MAX_SAFE_INTEGER;

/** `held` with a range set to `type`, whatever it was. */
export function withLock(held: LockedRanges, lock: LockedRange): LockedRange[] {
  const before: LockedRange[] = [];
  const after: LockedRange[] = [];
  let { start, end } = lock;
  for (const range of held) {
    // A neighbour of the same type is merged: it counts as overlapping.
    const reach = range.type === lock.type ? 1 : 0;
    if (range.end < lock.start - reach) before.push(range);
    else if (range.start > lock.end + reach) after.push(range);
    else if (range.type === lock.type) {
      start = Math.min(start, range.start);
      end = Math.max(end, range.end);
    } else {
      if (range.start < lock.start) before.push({ ...range, end: lock.start - 1 });
      if (range.end > lock.end) after.push({ ...range, start: lock.end + 1 });
    }
  }
  return [...before, { ...lock, start, end }, ...after];
}

/** `held` without the bytes from `start` to `end`. */
export function withoutLock(held: LockedRanges, { start, end }: Pick<LockedRange, 'start' | 'end'>): LockedRange[] {
  const left: LockedRange[] = [];
  for (const range of held) {
    if (range.end < start || range.start > end) {
      left.push(range);
      continue;
    }
    if (range.start < start) left.push({ ...range, end: start - 1 });
    if (range.end > end) left.push({ ...range, start: end + 1 });
  }
  return left;
}

/** The ranges that share a byte with `start` to `end`, in order. */
export function overlapping(held: LockedRanges, { start, end }: Pick<LockedRange, 'start' | 'end'>): LockedRange[] {
  let low = 0;
  for (let high = held.length; low < high;) {
    const middle = (low + high) >>> 1;
    if ((held[middle]?.end ?? Infinity) < start) low = middle + 1;
    else high = middle;
  }
  const found: LockedRange[] = [];
  for (let range = held[low]; range !== undefined && range.start <= end; range = held[++low]) found.push(range);
  return found;
}

/** The first range of another owner that `lock` cannot stand beside. */
export function conflictIn(
  held: LockedRanges,
  lock: Pick<LockedRange, 'type' | 'start' | 'end'>,
): LockedRange | undefined {
  return overlapping(held, lock).find((range) => range.type === 'write' || lock.type === 'write');
}

/** Whether all of `lock` is held with its type already. */
export function covers(held: LockedRanges, lock: LockedRange): boolean {
  const [only] = overlapping(held, lock);
  return only !== undefined && only.type === lock.type && only.start <= lock.start && only.end >= lock.end;
}
