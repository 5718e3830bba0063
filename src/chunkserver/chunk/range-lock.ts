/**
 * Locks over ranges of blocks: many readers or one writer, first come first served. Free of promises when nobody is
 * in the way. The waiting list is bounded by the requests in flight.
 */
import { takeInOrder } from '../../core/lock-order.js';

interface Holder {
  readonly first: number;
  readonly last: number;
  readonly exclusive: boolean;
  /** Holders that came earlier and are in the way. */
  blockedBy: number;
  readonly blocks: Holder[];
  wake: (() => void) | undefined;
}

export class RangeLock {
  private readonly holders = new Set<Holder>();

  /** Locks blocks `first` to `last`, inclusive. Returns the release, or a promise of it. */
  acquire(first: number, last: number, exclusive: boolean): (() => void) | Promise<() => void> {
    takeInOrder('chunkserver.blocks');
    const holder: Holder = { first, last, exclusive, blockedBy: 0, blocks: [], wake: undefined };
    for (const other of this.holders) {
      if (other.first <= last && first <= other.last && (exclusive || other.exclusive)) {
        other.blocks.push(holder);
        holder.blockedBy++;
      }
    }
    this.holders.add(holder);
    const release = (): void => this.release(holder);
    if (holder.blockedBy === 0) return release;
    return new Promise((resolve) => {
      holder.wake = () => resolve(release);
    });
  }

  private release(holder: Holder): void {
    if (!this.holders.delete(holder)) return;
    for (const other of holder.blocks) {
      other.blockedBy--;
      if (other.blockedBy === 0) other.wake?.();
    }
  }

  get idle(): boolean {
    return this.holders.size === 0;
  }
}
