/** What one program alone changes, and what of it may be found after a loss of power: what was synced last, or something later. */
import assert from 'node:assert/strict';

export class Promised {
  private possible: Set<number>;
  private last: number;
  /** The change before this one is known to have been made. */
  private isSure = true;
  private changes = 0;

  constructor(first: number) {
    this.possible = new Set([first]);
    this.last = first;
  }

  /** What is there now, as far as it is known; undefined when it is not. */
  get value(): number | undefined {
    return this.isSure ? this.last : undefined;
  }

  /** The program begins to make it `value`. */
  begins(value: number): void {
    this.possible.add(value);
    this.changes++;
  }

  /** It may be anything that the other may be from now on. */
  beginsAs(other: Promised): void {
    for (const value of other.possible) this.possible.add(value);
    this.changes++;
  }

  ended(value: number): void {
    this.last = value;
    this.isSure = true;
  }

  /** Something failed: of all that is not synced nothing is known. */
  doubt(): void {
    this.isSure = false;
  }

  /** A sync begins now. What is returned is called when it has succeeded. */
  syncing(): () => void {
    const { last, isSure, changes } = this;
    return () => {
      if (isSure && this.isSure && this.changes === changes) this.possible = new Set([last]);
    };
  }

  demand(found: number, what: string): void {
    assert.ok(
      this.possible.has(found),
      `${what}: ${found} is there, not one of ${[...this.possible].join()} (last ${this.last})`,
    );
  }
}
