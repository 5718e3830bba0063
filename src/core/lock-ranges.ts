/**
 * The byte ranges that one owner has locked in one file: splitting, merging and finding them, as fcntl(2) says. Each
 * change costs as much as it touches, however many there are: a program may hold tens of thousands.
 */
import sortedBtree from 'sorted-btree';
import { audited } from './invariant.js';

export interface LockedRange {
  readonly type: 'read' | 'write';
  readonly start: number;
  /** The last byte. */
  readonly end: number;
  readonly pid: number;
}

export type ByteSpan = Pick<LockedRange, 'start' | 'end'>;

/** Last byte of a lock that reaches to the end of the file, wherever that goes. */
export const MAX_LOCK_END = Number.MAX_SAFE_INTEGER;

/** What is to go and what is to come. */
export interface LockChange {
  readonly removed: readonly LockedRange[];
  readonly added: readonly LockedRange[];
}

/** Beyond, looking through them at each change would take all time. */
export const MAX_AUDITED_RANGES = 1_000;

/** Ranges are apart, and neighbours of one type are merged. */
export class LockRanges implements Iterable<LockedRange> {
  private readonly byStart = new sortedBtree.default<number, LockedRange>();
  private writes = 0;

  get size(): number {
    return this.byStart.size;
  }

  get hasWrites(): boolean {
    return this.writes > 0;
  }

  /** In order. */
  [Symbol.iterator](): Iterator<LockedRange> {
    return this.byStart.values();
  }

  /** Those that share a byte with the span, in order. */
  overlapping({ start, end }: ByteSpan): LockedRange[] {
    const found: LockedRange[] = [];
    const before = this.byStart.getPairOrNextLower(start)?.[1];
    if (before !== undefined && before.end >= start) found.push(before);
    for (let next = this.byStart.nextHigherPair(start); next !== undefined && next[0] <= end;) {
      found.push(next[1]);
      next = this.byStart.nextHigherPair(next[0]);
    }
    return found;
  }

  /** Whether all of `lock` is held with its type already. */
  covers(lock: LockedRange): boolean {
    const held = this.byStart.getPairOrNextLower(lock.start)?.[1];
    return held !== undefined && held.type === lock.type && held.end >= lock.end;
  }

  /** What setting `lock` changes, whatever was there. */
  toSet(lock: LockedRange): LockChange {
    let { start, end } = lock;
    const [removed, added]: [LockedRange[], LockedRange[]] = [[], []];
    // A neighbour of the same type is merged: it counts as overlapping.
    for (const range of this.overlapping({ start: start - 1, end: end + 1 })) {
      if (range.type === lock.type) {
        start = Math.min(start, range.start);
        end = Math.max(end, range.end);
        removed.push(range);
      } else if (range.start <= lock.end && range.end >= lock.start) {
        removed.push(range);
        added.push(...without(range, lock));
      }
    }
    added.push({ ...lock, start, end });
    return { removed, added };
  }

  /** What unlocking the span changes. */
  toClear(span: ByteSpan): LockChange {
    const isAll = span.start === 0 && span.end === MAX_LOCK_END;
    if (isAll) return { removed: [...this], added: [] };
    const removed = this.overlapping(span);
    return { removed, added: removed.flatMap((range) => without(range, span)) };
  }

  apply({ removed, added }: LockChange): void {
    if (removed.length === this.size) {
      this.byStart.clear();
      this.writes = 0;
    } else {
      for (const { start, type } of removed) {
        this.byStart.delete(start);
        if (type === 'write') this.writes--;
      }
    }
    for (const range of added) {
      this.byStart.set(range.start, range);
      if (range.type === 'write') this.writes++;
    }
    audited(() => this.isSound(), 'the locked ranges of an owner are apart, merged and counted');
  }

  private isSound(): boolean {
    if (this.size > MAX_AUDITED_RANGES) return true;
    let before: LockedRange | undefined;
    let writes = 0;
    for (const range of this) {
      if (range.start > range.end) return false;
      const isApart = before === undefined || before.end < range.start;
      const isMerged = before?.type !== range.type || before.end + 1 < range.start;
      if (!isApart || !isMerged) return false;
      if (range.type === 'write') writes++;
      before = range;
    }
    return writes === this.writes;
  }

  set(lock: LockedRange): void {
    this.apply(this.toSet(lock));
  }

  clear(span: ByteSpan = { start: 0, end: MAX_LOCK_END }): void {
    this.apply(this.toClear(span));
  }
}

/** What is left of a range outside a span that overlaps it. */
function without(range: LockedRange, { start, end }: ByteSpan): LockedRange[] {
  const left: LockedRange[] = [];
  if (range.start < start) left.push({ ...range, end: start - 1 });
  if (range.end > end) left.push({ ...range, start: end + 1 });
  return left;
}
