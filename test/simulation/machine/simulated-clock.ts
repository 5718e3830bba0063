/**
 * Simulated time: a queue of events. Nothing happens but by an event, and events of one instant happen in the order in
 * which they were scheduled, so a run is determined by what schedules them.
 */
import type { Clock, Timer, Timespec } from '../../../src/core/clock.js';
import type { MachineTime } from './machine-time.js';

interface Event {
  readonly atUs: number;
  /** Breaks ties. */
  readonly order: number;
  run: (() => void) | undefined;
}

/** Where simulated wall clocks begin: any fixed time does. */
const EPOCH_SECONDS = 1_750_000_000;

export class SimulatedClock {
  private readonly heap: Event[] = [];
  private currentUs = 0;
  private scheduled = 0;
  eventsRun = 0;

  get nowUs(): number {
    return this.currentUs;
  }

  /** Runs `run` once, `delayUs` from now. Returns what cancels it. */
  schedule(delayUs: number, run: () => void): Timer {
    const atUs = this.currentUs + Math.max(0, Math.ceil(delayUs));
    const event: Event = { atUs, order: this.scheduled++, run };
    this.push(event);
    return {
      cancel: () => {
        event.run = undefined;
      },
    };
  }

  /** Moves time to the next event and runs it. False when there is none. */
  step(): boolean {
    for (;;) {
      const event = this.pop();
      if (event === undefined) return false;
      if (event.run === undefined) continue;
      this.currentUs = event.atUs;
      this.eventsRun++;
      event.run();
      return true;
    }
  }

  /** The clock as one process sees it. `isAlive` false: its timers never fire. */
  forProcess(options: { isAlive: () => boolean; time: MachineTime; skewUs: () => number; onFire: () => void }): Clock {
    const { time } = options;
    return {
      now: (): Timespec => {
        const us = this.currentUs + options.skewUs();
        const seconds = Math.floor(us / 1e6);
        return { seconds: EPOCH_SECONDS + seconds, nanoseconds: (us - seconds * 1e6) * 1000 };
      },
      monotonicMs: () => time.monotonicUs() / 1000,
      setTimer: (delayMs, callback) =>
        time.setTimer(delayMs * 1000, () => {
          if (!options.isAlive()) return;
          options.onFire();
          callback();
        }),
    };
  }

  private push(event: Event): void {
    const { heap } = this;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || !isBefore(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  private pop(): Event | undefined {
    const { heap } = this;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      let below = heap[child];
      if (below === undefined) break;
      const right = heap[child + 1];
      if (right !== undefined && isBefore(right, below)) {
        child++;
        below = right;
      }
      if (!isBefore(below, last)) break;
      heap[at] = below;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atUs !== b.atUs ? a.atUs < b.atUs : a.order < b.order;
}
