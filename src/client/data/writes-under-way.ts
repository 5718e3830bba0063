/**
 * Writes of one inode that have begun and not ended: how far they reach, and the order between them and a change of the size,
 * which waits for those under way and holds back later ones.
 */
import { deferred, Mutex, type Deferred } from '../../core/sync.js';

export class WritesUnderWay {
  private count = 0;
  private reservedEnd = 0;
  /** Who waits for them to end. */
  private quiet: Deferred<void> | undefined;
  private gate: Deferred<void> | undefined;
  private readonly holding = new Mutex('client.truncate');

  get isEmpty(): boolean {
    return this.count === 0;
  }

  /** End of them, which may wait for room: nobody sees it before their bytes; 0 for none. */
  get end(): number {
    return this.reservedEnd;
  }

  /** Writes are held back until this resolves, or longer. */
  get held(): Promise<void> | undefined {
    return this.gate?.promise;
  }

  /** A write up to `end` is under way: the next append goes behind it. */
  begin(end: number): void {
    this.reservedEnd = Math.max(this.reservedEnd, end);
    this.count++;
  }

  /** One of them has ended. */
  done(): void {
    this.count--;
    if (this.count > 0) return;
    this.reservedEnd = 0;
    this.quiet?.resolve();
  }

  /** Runs `change` when all that are under way have ended; later ones wait for it. */
  holdBackFor<T>(change: () => Promise<T>): Promise<T> {
    return this.holding.run(async () => {
      this.gate = deferred();
      try {
        if (this.count > 0) {
          this.quiet = deferred();
          await this.quiet.promise;
          this.quiet = undefined;
        }
        return await change();
      } finally {
        const { gate } = this;
        this.gate = undefined;
        gate.resolve();
      }
    });
  }
}
