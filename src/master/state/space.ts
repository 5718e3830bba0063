/**
 * Space on the master's disk. While there is too little, the namespace does not grow, and all else goes on from the reserve
 * (disk-reserve.ts); a transaction that finds none waits until there is some.
 */
import type { Clock } from '../../core/clock.js';
import type { Disk } from '../../core/disk/disk.js';
import { CairnError } from '../../core/errors.js';
import { COMMIT_RETRY_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { deferred } from '../../core/sync.js';
import type { Deferred } from '../../core/sync.js';
import type { Store } from '../store/store.js';
import type { DiskReserve } from './disk-reserve.js';

export class Space {
  /** The disk is full, or nearly, and was so when it was last looked at. */
  private scarce = false;
  /** There while a transaction waits for space; resolved to try again at once, or to stop. */
  private waiting: Deferred<void> | undefined;

  constructor(
    private readonly options: {
      readonly disk: Disk;
      readonly directory: string;
      readonly store: Store;
      readonly clock: Clock;
      readonly logger: Logger;
    },
    private readonly reserve: DiskReserve,
  ) {}

  /** The namespace does not grow. */
  get isScarce(): boolean {
    return this.scarce;
  }

  /** A transaction found no space, and waits. */
  get isAwaited(): boolean {
    return this.waiting !== undefined;
  }

  /** Looks how much there is. */
  async watch(): Promise<void> {
    const { disk, directory, store, logger } = this.options;
    const space = await disk.space('reserve.space', directory);
    const freeBytes = await this.reserve.takeBack(space);
    const scarce = !this.reserve.isEnough(freeBytes, store.reusableBytes?.() ?? 0);
    if (scarce === this.scarce) return;
    if (scarce) this.becomeScarce(space.freeBytes);
    else {
      this.scarce = false;
      logger.info({ freeBytes: space.freeBytes }, 'there is space again: the namespace may grow');
      this.waiting?.resolve();
    }
  }

  /** What must be written found none: gives up the reserve. False when it was given up already. */
  makeRoom(): boolean {
    this.becomeScarce();
    return this.reserve.giveUp();
  }

  full(): CairnError {
    return new CairnError('ENOSPC', `the disk of the master is full: free space beside ${this.options.directory}`);
  }

  /** Until it is worth another try. */
  async pause(): Promise<void> {
    const waiting = deferred<void>();
    this.waiting = waiting;
    const timer = this.options.clock.setTimer(COMMIT_RETRY_MS, () => waiting.resolve());
    await waiting.promise;
    timer.cancel();
    this.waiting = undefined;
  }

  endPause(): void {
    this.waiting?.resolve();
  }

  close(): Promise<void> {
    return this.reserve.close();
  }

  private becomeScarce(freeBytes?: number): void {
    if (this.scarce) return;
    this.scarce = true;
    this.options.logger.error(
      { ...(freeBytes === undefined ? {} : { freeBytes }), directory: this.options.directory },
      'the disk of the master is full, or nearly: nothing can be created until space is freed; removing works',
    );
  }
}
