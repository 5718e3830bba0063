/**
 * Whether this server may serve. It refuses clients while the master may have given it up (P9), and everybody until it has joined.
 * Both sides count the silence by their own clocks, which need not agree on the time of day.
 */
import type { Clock } from '../core/clock.js';
import { CairnError } from '../core/errors.js';
import { CHUNKSERVER_FENCE_MS } from '../core/limits.js';
import { lagsBehind, later, NEVER } from '../core/master-time.js';
import type { MasterTime } from '../core/master-time.js';

export class Fence {
  /** When the last heartbeat was sent that the master answered, knowing this server's replicas. */
  private heardMs = -Infinity;
  /** The latest of the master's times in those answers, all of one epoch. */
  private masterTime: MasterTime = NEVER;
  private joined = false;

  constructor(
    private readonly clock: Clock,
    private readonly serverId: () => number,
  ) {}

  /** The master has said once to this process which of its directories it knows in a newer state. */
  get hasJoined(): boolean {
    return this.joined;
  }

  /**
   * This server registered with a master of that epoch. That alone does not make it current: it may have slept, which its
   * clock does not tell, and its replicas were not compared yet. Times of another epoch say nothing any more, as a master
   * that was put back to an older state may have a lower one.
   */
  join(epoch: number): void {
    this.joined = true;
    if (this.masterTime.epoch !== epoch) this.masterTime = NEVER;
  }

  /** The master, which knows this server's replicas, answered at `masterTime` what was sent at `sentMs` of this clock. */
  heard(sentMs: number, masterTime: MasterTime | null): void {
    this.heardMs = Math.max(this.heardMs, sentMs);
    const time = masterTime ?? NEVER;
    // A report tells of the time at which this server joined, which heartbeats may have told more than.
    this.masterTime = time.epoch === this.masterTime.epoch ? later(this.masterTime, time) : time;
  }

  /** Fails with UNAVAILABLE until it is known whether what is here is the newest state of it. */
  refuseUnjoined(): void {
    if (!this.joined) throw new CairnError('UNAVAILABLE', `chunkserver ${this.serverId()} is about to join`);
  }

  /**
   * Fails with UNAVAILABLE while the master may have given this server up: by this machine's clock, or, as that stands
   * still while the machine is suspended, by what a reader knows of the master's.
   */
  refuse(known?: MasterTime | null): void {
    const silentMs = this.clock.monotonicMs() - this.heardMs;
    const lags = lagsBehind(this.masterTime, known ?? NEVER);
    if (silentMs > CHUNKSERVER_FENCE_MS || lags) {
      throw new CairnError('UNAVAILABLE', `chunkserver ${this.serverId()} has not heard from the master: try another`);
    }
  }
}
