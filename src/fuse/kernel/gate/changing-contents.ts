/**
 * Pages of files that others are about to change. The kernel drops them before the change is made, and waits for READs that fill pages
 * meanwhile: those are answered as ever, for others may wait for us. A page that was filled behind the drop's back is dropped once more.
 *
 * From then on until the change is made, which nobody tells, a READ may yet be answered with what was there before: it waits a moment for
 * the cluster to say that what it knows of the file stays, and when it does not in time, pages are dropped once more when it does.
 */
import { sleep } from '../../../core/clock.js';
import type { Clock } from '../../../core/clock.js';
import { doneBy } from '../../../core/done-by.js';
import { hasCode } from '../../../core/errors.js';
import type { InodeId } from '../../../core/ids.js';
import { watched } from '../../../core/sync.js';
import type { NodeTable } from '../memory/node-table.js';

/** Of one file in a row, when READs come all the time. */
const DROPS_IN_A_ROW = 4;
/** Between looks whether a change was made: at first, and at most. */
const FIRST_LOOK_MS = 1;
const LONGEST_LOOK_MS = 50;
/** A READ waits so long for that. */
const READ_PATIENCE_MS = 20;
/** Then nothing is known to stay for some other reason. */
const UNSETTLED_MS = 2_000;

export interface ChangingContentsOptions {
  readonly clock: Clock;
  readonly nodes: NodeTable;
  /** Drops all pages of a file. */
  readonly dropPages: (inode: InodeId) => Promise<void>;
  /** Whether what the cluster tells of the file now stays until others are told. */
  readonly isSettled: (inode: InodeId) => Promise<boolean>;
  readonly inBackground: (what: string, work: () => Promise<void>) => void;
}

interface Changing {
  /** When it was recalled last. */
  sinceMs: number;
  /** Resolves when what is read now is what stays, or that cannot be known. */
  readonly settled: Promise<void>;
}

export class ChangingContents {
  private readonly changing = new Map<InodeId, Changing>();

  constructor(private readonly options: ChangingContentsOptions) {}

  /** Others are about to change the file. Resolves when the kernel has none of its pages, but for what was filled since. */
  async recall(inode: InodeId): Promise<void> {
    const { nodes } = this.options;
    if (nodes.fillsOf(inode) === undefined) return;
    await this.drop(inode);
    if (nodes.isOpen(inode)) this.watch(inode);
  }

  /** For a READ of the file. */
  async wait(inode: InodeId): Promise<void> {
    const { clock } = this.options;
    const changing = this.changing.size === 0 ? undefined : this.changing.get(inode);
    if (changing === undefined) return;
    try {
      await doneBy(clock, clock.monotonicMs() + READ_PATIENCE_MS, 'a change by others', changing.settled);
    } catch (error) {
      if (!hasCode(error, 'TIMEOUT')) throw error;
    }
  }

  private async drop(inode: InodeId): Promise<void> {
    const { nodes, dropPages } = this.options;
    for (let count = 0; count < DROPS_IN_A_ROW; count++) {
      const fills = nodes.fillsOf(inode);
      if (fills === undefined) return;
      nodes.pagesAreOld(inode);
      await dropPages(inode);
      if (nodes.fillsOf(inode) === fills) return;
    }
  }

  private watch(inode: InodeId): void {
    const { clock, inBackground } = this.options;
    const known = this.changing.get(inode);
    if (known !== undefined) {
      known.sinceMs = clock.monotonicMs();
      return;
    }
    const settled = watched(this.settle(inode));
    this.changing.set(inode, { sinceMs: clock.monotonicMs(), settled });
    inBackground('dropping pages of a file that others changed', async () => {
      await settled;
      await this.drop(inode);
    });
  }

  private async settle(inode: InodeId): Promise<void> {
    const { clock, nodes, isSettled } = this.options;
    for (let pauseMs = FIRST_LOOK_MS; ; pauseMs = Math.min(LONGEST_LOOK_MS, 2 * pauseMs)) {
      await sleep(clock, pauseMs);
      const sinceMs = this.changing.get(inode)?.sinceMs ?? -Infinity;
      const isOver = clock.monotonicMs() > sinceMs + UNSETTLED_MS || !nodes.isOpen(inode);
      if (isOver || (await this.asks(isSettled, inode))) {
        if (this.changing.get(inode)?.sinceMs !== sinceMs) continue;
        this.changing.delete(inode);
        return;
      }
    }
  }

  private async asks(isSettled: ChangingContentsOptions['isSettled'], inode: InodeId): Promise<boolean> {
    try {
      return await isSettled(inode);
    } catch {
      // Removed, or out of reach: the next look tells, or it is over.
      return false;
    }
  }
}
