/** Buffers for requests, each with room for the largest, used again: they are big, and a fresh page costs more than a copy. */
import { deferred } from '../../../core/sync.js';
import type { Deferred } from '../../../core/sync.js';

export class BufferPool {
  private readonly free: Buffer[] = [];
  private made = 0;
  private readonly waiting: Deferred<Buffer>[] = [];

  constructor(
    private readonly size: number,
    private readonly limit: number,
  ) {}

  /** Waits while all are in use. */
  take(): Promise<Buffer> | Buffer {
    const buffer = this.free.pop();
    if (buffer !== undefined) return buffer;
    if (this.made < this.limit) {
      this.made++;
      return Buffer.allocUnsafeSlow(this.size);
    }
    const turn = deferred<Buffer>();
    this.waiting.push(turn);
    return turn.promise;
  }

  give(buffer: Buffer): void {
    const next = this.waiting.shift();
    if (next === undefined) this.free.push(buffer);
    else next.resolve(buffer);
  }
}
