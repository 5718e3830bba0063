/**
 * The bytes of one owner that are unlocked late: the master did not take what was written under the lock when they were to
 * be given up, so that the lock stands until it does, or the session ends.
 */
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { LockRanges } from '../../core/lock-ranges.js';
import type { ByteSpan } from '../../core/lock-ranges.js';
import type { Random } from '../../core/random.js';
import { watched } from '../../core/sync.js';
import { Backoff } from './retry.js';

export interface LateUnlocksOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Nothing is held any more, or the session is being closed. */
  readonly isOver: () => boolean;
  /** What was written under the locks is there for others. Rejects while the master does not take it. */
  readonly publish: () => Promise<void>;
  /** Never rejects. */
  readonly giveUp: (spans: readonly ByteSpan[]) => Promise<void>;
}

export class LateUnlocks {
  private readonly spans = new LockRanges();
  private working = false;
  private givingUp: Promise<void> | undefined;

  constructor(private readonly options: LateUnlocksOptions) {}

  /** `work` goes on. */
  get isWorking(): boolean {
    return this.working;
  }

  /** What is being given up right now. */
  get underWay(): Promise<void> | undefined {
    return this.givingUp;
  }

  add({ start, end }: ByteSpan): void {
    this.spans.set({ type: 'write', start, end, pid: 0 });
  }

  /** They are locked again, or unlocked in time: of `span` nothing is left to do. Returns what was. */
  clear(span: ByteSpan): ByteSpan[] {
    const before = this.spans
      .overlapping(span)
      .map(({ start, end }) => ({ start: Math.max(start, span.start), end: Math.min(end, span.end) }));
    this.spans.clear(span);
    return before;
  }

  /** Ends with the session at the latest, as its locks do. */
  async work(): Promise<void> {
    const { clock, random, isOver, giveUp } = this.options;
    const backoff = new Backoff(clock, random);
    this.working = true;
    try {
      while (this.spans.size > 0) {
        await backoff.pause();
        if (isOver()) this.spans.clear();
        else if (this.spans.size > 0 && (await this.isPublished())) {
          const spans = [...this.spans];
          this.spans.clear();
          this.givingUp = watched(giveUp(spans));
          await this.givingUp;
          this.givingUp = undefined;
        }
      }
    } finally {
      this.working = false;
    }
  }

  private async isPublished(): Promise<boolean> {
    try {
      await this.options.publish();
      return true;
    } catch (error) {
      if (error instanceof CairnError) return false;
      throw error;
    }
  }
}
