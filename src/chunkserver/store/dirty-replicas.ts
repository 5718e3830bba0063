/**
 * The replicas that are marked as under mutation, and their cleaning: once idle for a while they are synced and marked
 * clean, so that a power loss casts no doubt on them.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { MAX_CLEANED_AT_ONCE } from '../../core/limits.js';

export class DirtyReplicas {
  /** With the time of the last mutation, oldest first. */
  private readonly lastMs = new Map<ChunkHandle, number>();
  private cleaning = false;
  private failed = false;

  constructor(
    private readonly clock: Clock,
    private readonly logger: Logger,
  ) {}

  /** Every one that was noted is clean now: none is left, and none could not be cleaned. */
  get none(): boolean {
    return this.lastMs.size === 0 && !this.failed;
  }

  /** A replica is under mutation now. */
  mutated(handle: ChunkHandle): void {
    this.lastMs.delete(handle);
    this.lastMs.set(handle, this.clock.monotonicMs());
  }

  /** A replica was found dirty. */
  found(handle: ChunkHandle): void {
    if (!this.lastMs.has(handle)) this.lastMs.set(handle, this.clock.monotonicMs());
  }

  /** A replica is clean or gone. */
  forget(handle: ChunkHandle): void {
    this.lastMs.delete(handle);
  }

  /** Runs `clean` on those idle for `idleMs`, until `untilMs`. Does nothing while it runs already. */
  async clean(
    clean: (handle: ChunkHandle) => Promise<void>,
    { idleMs, untilMs }: { idleMs: number; untilMs: number },
  ): Promise<void> {
    if (this.cleaning) return;
    this.cleaning = true;
    const waiting: ChunkHandle[] = [];
    const worker = async (): Promise<void> => {
      for (const [handle, lastMs] of this.lastMs) {
        if (lastMs + idleMs > this.clock.monotonicMs() || this.clock.monotonicMs() > untilMs) return;
        this.lastMs.delete(handle);
        try {
          await clean(handle);
        } catch (error) {
          // What has to wait, for its disk or for its recovery, comes again.
          if (hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) waiting.push(handle);
          else this.failed = true;
          this.logger.warn({ handle, reason: asCairnError(error).message }, 'cleaning a replica failed');
        }
      }
    };
    try {
      await Promise.all(Array.from({ length: MAX_CLEANED_AT_ONCE }, worker));
    } finally {
      for (const handle of waiting) this.found(handle);
      this.cleaning = false;
    }
  }
}
