/** The bound on what all files of a client have buffered for writing together. */
import { MAX_TOTAL_DIRTY_BYTES, MAX_PAYLOAD_BYTES } from '../../core/limits.js';
import { deferred, type Deferred } from '../../core/sync.js';
import { UnitBuffers } from './dirty-data.js';

/** A holder of buffered bytes that can be asked to let go of them. */
interface Holder {
  startWriteBack(): void;
}

export class WriteBudget {
  readonly buffers: UnitBuffers;
  private usedBytes = 0;
  private room: Deferred<void> | undefined;
  private readonly holders = new Set<Holder>();

  constructor(private readonly maxBytes = MAX_TOTAL_DIRTY_BYTES) {
    // Half of the bound is kept for reuse: what one fast stream holds.
    this.buffers = new UnitBuffers(Math.ceil(maxBytes / MAX_PAYLOAD_BYTES / 2));
  }

  get isExhausted(): boolean {
    return this.usedBytes >= this.maxBytes;
  }

  join(holder: Holder): void {
    this.holders.add(holder);
  }

  leave(holder: Holder): void {
    this.holders.delete(holder);
  }

  /** Counts bytes that are held from now on; negative when they are let go. */
  use(bytes: number): void {
    this.usedBytes += bytes;
    if (this.usedBytes < this.maxBytes && this.room !== undefined) {
      const { room } = this;
      this.room = undefined;
      room.resolve();
    }
  }

  /** Asks every holder to let go, and waits until there is room. */
  async waitForRoom(): Promise<void> {
    while (this.isExhausted) {
      for (const holder of this.holders) holder.startWriteBack();
      this.room ??= deferred();
      await this.room.promise;
    }
  }
}
