/**
 * The connections whose peers have not proved the cluster's secret: few, and for a short time. Anybody may open one, so
 * a new one is never refused: the oldest makes room for it. Who has the secret needs some milliseconds for the proof; who
 * only fills places is gone before.
 */
import { HANDSHAKE_TIMEOUT_MS } from '../core/limits.js';

export interface Stranger {
  readonly address: string;
  readonly sinceMs: number;
  /** Cuts the connection. */
  end: (reason: string) => void;
}

export class Strangers {
  /** Oldest first. */
  private readonly all = new Set<Stranger>();
  private readonly byAddress = new Map<string, Set<Stranger>>();

  constructor(
    private readonly max: number,
    /** Of one address, so that the floods of one machine push out nobody else's. */
    private readonly maxOfAddress: number,
  ) {}

  get size(): number {
    return this.all.size;
  }

  add(stranger: Stranger): void {
    const { address } = stranger;
    const neighbours = this.byAddress.get(address) ?? new Set();
    if (neighbours.size >= this.maxOfAddress) this.endOldest(neighbours);
    if (this.all.size >= this.max) this.endOldest(this.all);
    this.all.add(stranger);
    neighbours.add(stranger);
    this.byAddress.set(address, neighbours);
  }

  /** It proved the secret, or left. */
  delete(stranger: Stranger): void {
    if (!this.all.delete(stranger)) return;
    const neighbours = this.byAddress.get(stranger.address);
    neighbours?.delete(stranger);
    if (neighbours?.size === 0) this.byAddress.delete(stranger.address);
  }

  /** Ends those whose time is over. */
  sweep(nowMs: number): void {
    for (const stranger of this.all) {
      if (nowMs - stranger.sinceMs < HANDSHAKE_TIMEOUT_MS) return;
      this.end(stranger, `no proof of the secret in ${HANDSHAKE_TIMEOUT_MS} ms`);
    }
  }

  endAll(reason: string): void {
    for (const stranger of [...this.all]) this.end(stranger, reason);
  }

  private endOldest(among: ReadonlySet<Stranger>): void {
    const [oldest] = among;
    if (oldest !== undefined) this.end(oldest, 'others came, and no proof of the secret did');
  }

  private end(stranger: Stranger, reason: string): void {
    this.delete(stranger);
    stranger.end(reason);
  }
}
