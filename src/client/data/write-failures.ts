/**
 * Failures of one inode's writes that came after `write` had returned, and who was told of them (P7). Each handle compares
 * `count` with what it has seen. The log is told at intervals.
 */
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { FAILURE_LOG_INTERVAL_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';

export interface WriteFailuresOptions {
  readonly inode: InodeId;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Bytes that were taken for written are not: what was made of them elsewhere is wrong. */
  readonly onLost?: () => void;
}

export class WriteFailures {
  private added = 0;
  private toldCount = 0;
  private lastError: CairnError | undefined;
  private loggedMs = -Infinity;
  private unlogged = 0;

  constructor(private readonly options: WriteFailuresOptions) {}

  get count(): number {
    return this.added;
  }

  /** How many of them a write or an fsync has told. A close tells, too, but many programs do not look. */
  get told(): number {
    return this.toldCount;
  }

  get last(): CairnError {
    return this.lastError ?? new CairnError('EIO', 'an earlier write failed');
  }

  add(error: CairnError): void {
    this.added++;
    this.lastError = error;
    this.options.onLost?.();
    const { clock, logger, inode } = this.options;
    this.unlogged++;
    if (clock.monotonicMs() - this.loggedMs < FAILURE_LOG_INTERVAL_MS) return;
    logger.error(
      { inode, code: error.code, reason: error.message, failures: this.unlogged },
      'bytes written to a file are lost: the next write, fsync or close of it is told',
    );
    this.loggedMs = clock.monotonicMs();
    this.unlogged = 0;
  }

  /** A write or an fsync tells all that there are. Returns how many. */
  tell(): number {
    this.toldCount = this.added;
    return this.added;
  }
}
