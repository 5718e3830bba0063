/** How often each kind of fault took effect, over all runs of a process: a kind that never does tests nothing. */
export class FaultCounts {
  private readonly counts = new Map<string, { drawn: number; took: number }>();

  constructor(kinds: readonly string[]) {
    for (const kind of kinds) this.counts.set(kind, { drawn: 0, took: 0 });
  }

  note(kind: string, tookEffect: boolean): void {
    const count = this.counts.get(kind) ?? { drawn: 0, took: 0 };
    this.counts.set(kind, count);
    count.drawn++;
    if (tookEffect) count.took++;
  }

  addAll(other: FaultCounts): void {
    for (const [kind, { drawn, took }] of other.counts) {
      const count = this.counts.get(kind) ?? { drawn: 0, took: 0 };
      this.counts.set(kind, { drawn: count.drawn + drawn, took: count.took + took });
    }
  }

  /** Kinds that never took effect. */
  missing(): string[] {
    return [...this.counts].filter(([, { took }]) => took === 0).map(([kind]) => kind);
  }

  /** One line a kind: how often it took effect, of how often it was tried. */
  toString(): string {
    const lines = [...this.counts].map(([kind, { drawn, took }]) => `${String(took).padStart(7)} of ${drawn} ${kind}`);
    return lines.join('\n');
  }
}
