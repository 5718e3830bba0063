/**
 * The requests that one side has unanswered: at most MAX_IN_FLIGHT_REQUESTS with MAX_IN_FLIGHT_BYTES of payload.
 * Further ones wait in the order they came, so a stream of calls leaves in order.
 */
import { CairnError } from '../core/errors.js';
import { MAX_IN_FLIGHT_BYTES, MAX_IN_FLIGHT_REQUESTS, MAX_QUEUED_REQUESTS } from '../core/limits.js';

interface Waiter {
  readonly bytes: number;
  readonly enter: () => void;
}

export class Window {
  private requests = 0;
  private bytes = 0;
  private readonly waiters: Waiter[] = [];

  /** Takes a place for a request with `bytes` of payload, when there is one and nobody waits. */
  tryEnter(bytes: number): boolean {
    if (this.waiters.length > 0 || !this.fits(bytes)) return false;
    this.requests++;
    this.bytes += bytes;
    return true;
  }

  /** Calls `enter` when a place is free; returns a function that leaves the queue. Throws BUSY when it is full. */
  wait(bytes: number, enter: () => void): () => void {
    if (this.waiters.length >= MAX_QUEUED_REQUESTS) {
      throw new CairnError('BUSY', `${this.waiters.length} requests wait for one connection already: try again later`);
    }
    const waiter = { bytes, enter };
    this.waiters.push(waiter);
    return () => {
      const at = this.waiters.indexOf(waiter);
      if (at >= 0) this.waiters.splice(at, 1);
      this.admit(); // what stood behind it may fit
    };
  }

  leave(bytes: number): void {
    this.requests--;
    this.bytes -= bytes;
    this.admit();
  }

  private fits(bytes: number): boolean {
    return this.requests < MAX_IN_FLIGHT_REQUESTS && this.bytes + bytes <= MAX_IN_FLIGHT_BYTES;
  }

  private admit(): void {
    for (let first = this.waiters[0]; first !== undefined && this.fits(first.bytes); first = this.waiters[0]) {
      this.waiters.shift();
      this.requests++;
      this.bytes += first.bytes;
      first.enter();
    }
  }
}
