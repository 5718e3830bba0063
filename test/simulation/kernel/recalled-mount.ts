/** A mount over a model of its kernel in simulated time, whose files another mount changes: what the kernel is told may be believed. */
import type { Clock } from '../../../src/core/clock.js';
import { sleep } from '../../../src/core/clock.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import { ServedMount } from '../../../src/fuse/kernel/driver.js';
import { u32 } from '../../support/fakes/fake-kernel.js';
import { BelievedFileSystem } from '../../support/models/believed-filesystem.js';
import { OtherMount } from '../../support/models/other-mount.js';
import { runUntilSettled } from '../machine/run-until.js';
import { SimulatedClock } from '../machine/simulated-clock.js';
import { SimulatedKernel } from './simulated-kernel.js';

/** As Linux 6.18 sends it: everything is offered. */
const INIT = Buffer.concat([u32(7, 45, 131072, 0xffffffff, 0xffffffff), Buffer.alloc(44)]);

export class RecalledMount {
  readonly model = new BelievedFileSystem();
  readonly other = new OtherMount(this.model);
  readonly kernel: SimulatedKernel;
  /** How long a thread sleeps on that has its answer. */
  wakeMs: () => number = () => 0.05;
  private readonly simulated = new SimulatedClock();
  private readonly clock: Clock;
  private readonly served: ServedMount;

  constructor() {
    const { simulated } = this;
    this.clock = {
      now: () => ({ seconds: Math.floor(simulated.nowUs / 1e6), nanoseconds: 0 }),
      monotonicMs: () => simulated.nowUs / 1000,
      setTimer: (ms, callback) => simulated.schedule(ms * 1000, callback),
    };
    this.kernel = new SimulatedKernel({ clock: this.clock, wake: () => this.pause(this.wakeMs()) });
    this.served = new ServedMount(this.kernel.door, {
      ...{ fileSystem: this.model, credentials: ROOT_CREDENTIALS, logger: silentLogger, clock: this.clock },
      ...{ root: ROOT_INODE, kernelChecks: true, attributeTimeoutMs: undefined, entryTimeoutMs: 1_000 },
      threads: this.kernel.threadsOfMachine,
    });
  }

  pause(ms: number): Promise<void> {
    return sleep(this.clock, ms);
  }

  /** Runs `work` on the mount, in simulated time. */
  run(work: () => Promise<void>): Promise<void> {
    return runUntilSettled(this.simulated, this.mounted(work));
  }

  private async mounted(work: () => Promise<void>): Promise<void> {
    const ended = this.served.connection.serve();
    await this.kernel.mount(INIT);
    await work();
    this.kernel.unmount();
    await ended;
  }
}
