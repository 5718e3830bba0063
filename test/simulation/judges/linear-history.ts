/**
 * What was seen of things that each have one writer, judged by the order of calls: who begins to look after a change has returned sees
 * that change or a later one (P2, where it is promised), and nobody sees one that has not begun.
 */
export interface Interval {
  readonly beginMs: number;
  readonly endMs: number;
}

interface Change<S> extends Interval {
  readonly state: S;
}

export interface Violation<S> {
  readonly key: string;
  readonly what: string;
  readonly saw: S;
  readonly interval: Interval;
  /** Of all that could have been seen, the oldest and the newest. */
  readonly between: readonly [S, S];
}

export class LinearHistory<S> {
  readonly violations: Violation<S>[] = [];
  private readonly changes = new Map<string, Change<S>[]>();
  private seen = 0;

  /** `initial`: the state that `key` has before its first change. */
  constructor(private readonly initial: S) {}

  get observations(): number {
    return this.seen;
  }

  /** A change by the only writer of `key` that has returned; or has begun, and may be seen (`endMs` Infinity). */
  begin(key: string, state: S, beginMs: number): { end(endMs: number): void } {
    const changes = this.changes.get(key) ?? [];
    const at = changes.length;
    changes.push({ state, beginMs, endMs: Infinity });
    this.changes.set(key, changes);
    return {
      end: (endMs) => {
        changes[at] = { state, beginMs, endMs };
      },
    };
  }

  /** Somebody saw `saw` in a call of that time. */
  observe(key: string, what: string, saw: S, interval: Interval): void {
    this.seen++;
    const changes = this.changes.get(key) ?? [];
    let oldest = -1;
    let newest = -1;
    for (const [index, change] of changes.entries()) {
      if (change.endMs < interval.beginMs) oldest = index;
      if (change.beginMs <= interval.endMs) newest = index;
    }
    const states = [this.initial, ...changes.map(({ state }) => state)].slice(oldest + 1, newest + 2);
    if (states.includes(saw)) return;
    const between = [states[0] ?? this.initial, states.at(-1) ?? this.initial] as const;
    this.violations.push({ key, what, saw, interval, between });
  }
}
