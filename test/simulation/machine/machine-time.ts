/**
 * The time of one simulated machine, which may stand still. While a machine is frozen nothing happens in its processes: no
 * timer fires, no disk call returns, no message arrives; all that comes after it goes on.
 */
import type { Timer } from '../../../src/core/clock.js';
import type { SimulatedClock } from './simulated-clock.js';

/**
 * 'suspended': the machine sleeps, or its host does (a laptop's lid, a snapshot): its monotonic clock stands still, too.
 * 'stopped': its processes do not run (SIGSTOP, a machine without CPU), and its clocks go on.
 */
export type FreezeKind = 'suspended' | 'stopped';

/** A float's worth: clocks count in microseconds. */
const TOLERANCE_US = 1;

export class MachineTime {
  private stoodStillUs = 0;
  private standsSinceUs: number | undefined;
  private held: (() => void)[] = [];
  private frozen = false;

  constructor(private readonly clock: SimulatedClock) {}

  get isFrozen(): boolean {
    return this.frozen;
  }

  /** The monotonic clock. */
  monotonicUs(): number {
    return (this.standsSinceUs ?? this.clock.nowUs) - this.stoodStillUs;
  }

  freeze(kind: FreezeKind): void {
    this.frozen = true;
    if (kind === 'suspended') this.standsSinceUs = this.clock.nowUs;
  }

  /** What was held back happens now, in its order. Returns how much that is. */
  thaw(): number {
    this.frozen = false;
    if (this.standsSinceUs !== undefined) this.stoodStillUs += this.clock.nowUs - this.standsSinceUs;
    this.standsSinceUs = undefined;
    const { held } = this;
    this.held = [];
    for (const each of held) this.clock.schedule(0, () => this.whenAwake(each));
    return held.length;
  }

  /** Runs `action` now, or when the machine goes on. */
  whenAwake(action: () => void): void {
    if (this.frozen) this.held.push(action);
    else action();
  }

  /** Resolves at once, or when the machine goes on: for programs on it. */
  awake(): Promise<void> {
    return new Promise((resolve) => this.whenAwake(resolve));
  }

  /** Fires when the machine's own clock has gone on for so long. */
  setTimer(delayUs: number, callback: () => void): Timer {
    const dueUs = this.monotonicUs() + delayUs;
    let isCancelled = false;
    let timer: Timer;
    const fire = (): void => {
      if (isCancelled) return;
      const leftUs = dueUs - this.monotonicUs();
      if (leftUs > TOLERANCE_US) timer = this.clock.schedule(leftUs, () => this.whenAwake(fire));
      else callback();
    };
    timer = this.clock.schedule(delayUs, () => this.whenAwake(fire));
    return {
      cancel: () => {
        isCancelled = true;
        timer.cancel();
      },
    };
  }
}
