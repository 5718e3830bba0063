/**
 * A start after a loss of power: what the master may conclude from what is not found, and the doubt in each directory, which lasts until
 * the master was told and nothing is suspect any more.
 */
import { asCairnError } from '../../core/errors.js';
import type { Logger } from '../../core/logging/logger.js';
import { unawaited } from '../../core/sync.js';
import type { DataDirectories } from '../disks/data-directories.js';
import type { DataDirectory } from '../disks/data-directory.js';
import type { ReplicaIndex } from './replica-index.js';

export class PowerLoss {
  private isReported = false;

  constructor(
    private readonly directories: DataDirectories,
    private readonly index: ReplicaIndex,
    private readonly logger: Logger,
    /** Disks are gone for good, and what was on them. */
    private readonly isForgetting: boolean,
  ) {}

  /** The machine lost power since the directories were used last, and nothing else happened: what is gone was not synced. */
  get afterPowerLoss(): boolean {
    return this.lostPower && !this.directories.someAway;
  }

  /** As `afterPowerLoss`, but a disk is away: what is not found may be there. */
  get disksAway(): boolean {
    return this.lostPower && this.directories.someAway;
  }

  private get lostPower(): boolean {
    return this.directories.lostPower && !this.isForgetting;
  }

  /** The master has all that a start found. */
  noteReported(): void {
    this.isReported = true;
  }

  /** As far as the master was told. Waits for nothing. */
  lessenDoubt(directory: DataDirectory): void {
    if (!this.isReported) return;
    const work = directory.session.lessenDoubt(this.index.suspectCount(directory.number)).catch((error: unknown) => {
      this.logger.warn({ directory: directory.path, reason: asCairnError(error).message }, 'stays in doubt');
    });
    unawaited(work, this.logger, 'the end of a doubt');
  }
}
