/**
 * Inodes that this client knows from a master whose state was put back to an older one since: the numbers may be other files'
 * by now, so that nothing is asked of them any more. Files that are open are as good as lost; those of the same names are
 * found by their names.
 */
import { CairnError } from '../../core/errors.js';
import { MAX_PARTED_RANGES } from '../../core/limits.js';

interface Range {
  readonly from: number;
  readonly below: number;
}

export class PartedInodes {
  private ranges: Range[] = [];

  /** Numbers below `from` are those of the state that is there now, also where an earlier one did not have them. */
  note(from: number, below: number): void {
    this.ranges = this.ranges.flatMap((range) => {
      return range.below <= from ? [] : [{ ...range, from: Math.max(range.from, from) }];
    });
    if (this.ranges.length >= MAX_PARTED_RANGES) this.ranges.shift();
    this.ranges.push({ from, below });
  }

  has(inode: number): boolean {
    return this.ranges.some((range) => inode >= range.from && inode < range.below);
  }

  /** ESTALE for a request that names one. */
  refuse(request: unknown): void {
    if (this.ranges.length === 0) return;
    const { inode, parent, newParent } = request as Readonly<Record<string, unknown>>;
    for (const each of [inode, parent, newParent]) {
      if (typeof each === 'number' && this.has(each)) {
        throw new CairnError('ESTALE', `inode ${each} is of a past that the master does not have: it was put back`);
      }
    }
  }
}
