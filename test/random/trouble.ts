/**
 * Trouble of the kind that a cluster with two replicas is promised to survive (P10, P11): one server after another is
 * killed, or stopped for a while, and comes back; the next follows when every chunk has its replicas again.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { pick } from '../../src/core/random.js';
import type { SeededRandom } from '../../src/core/random.js';
import type { ProcessCluster } from '../support/process-cluster.js';

/** Time for the cluster to be whole again: to notice the dead, recover, and copy what was lost. */
const WHOLE_WITHIN_MS = 120_000;
/** Longer than a chunkserver may be silent before its chunks are copied elsewhere. */
const LONG_SILENCE_MS = 12_000;

export class Trouble {
  private stopped = false;
  private running: Promise<void> | undefined;
  /** What was done, in order. */
  readonly done: string[] = [];

  constructor(
    private readonly cluster: ProcessCluster,
    private readonly random: SeededRandom,
    private readonly options: { readonly master: boolean },
  ) {}

  start(): void {
    this.running = this.run();
    this.running.catch(() => undefined); // thrown by stop
  }

  /** Ends when all servers are back. Throws what went wrong. */
  async stop(): Promise<void> {
    this.stopped = true;
    await this.running;
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      for (const index of this.cluster.chunkserverIndexes) {
        if (this.stopped) return;
        await pause(500 + this.random.below(1500));
        await (this.random.below(3) === 0 ? this.silence(index) : this.kill(index));
        await this.untilWhole();
      }
      if (this.options.master && !this.stopped) await this.killMaster();
    }
  }

  private async kill(index: number): Promise<void> {
    this.done.push(`kill chunkserver ${index}`);
    // What is sent to it meanwhile is in its hands, unread, when it dies.
    if (this.random.below(3) > 0) {
      process.kill(await this.pidOf(index), 'SIGSTOP');
      await pause(50 + this.random.below(400));
    }
    await this.cluster.killChunkserver(index);
    await pause(this.random.below(4) === 0 ? LONG_SILENCE_MS : this.random.below(3000));
    await this.cluster.startChunkserver(index);
  }

  /** The process hangs: its connections stay. */
  private async silence(index: number): Promise<void> {
    const pid = await this.pidOf(index);
    const silentMs = pick(this.random, [300, 2000, 5000, LONG_SILENCE_MS]);
    this.done.push(`stop chunkserver ${index} for ${silentMs} ms`);
    process.kill(pid, 'SIGSTOP');
    await pause(silentMs);
    process.kill(pid, 'SIGCONT');
  }

  private async pidOf(index: number): Promise<number> {
    const pid = (await this.cluster.pids()).get(`chunkserver-${index + 1}`);
    if (pid === undefined) throw new Error(`chunkserver ${index} does not run`);
    return pid;
  }

  private async killMaster(): Promise<void> {
    this.done.push('kill the master');
    await this.cluster.killMaster();
    await pause(this.random.below(2000));
    await this.cluster.startMaster();
    await this.untilWhole();
  }

  private untilWhole(): Promise<void> {
    return this.cluster.waitUntilWhole(WHOLE_WITHIN_MS);
  }
}
