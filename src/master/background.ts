/** What the master does again and again beside its requests, each work with its own pauses. */
import type { Clock, Timer } from '../core/clock.js';
import { asCairnError } from '../core/errors.js';
import type { Logger } from '../core/logging/logger.js';
import { unawaited } from '../core/sync.js';
import type { Parts } from './parts.js';

/** Pause when background work has more to do: others get their turn. */
const BUSY_INTERVAL_MS = 5;

export class Background {
  private readonly timers = new Set<Timer>();
  private stopping = false;

  constructor(
    private readonly clock: Clock,
    private readonly logger: Logger,
  ) {}

  /** `idleMs`: the pause of most of it when there is nothing to do. */
  start(parts: Parts, idleMs: number): void {
    const {
      state,
      listening,
      servers,
      sessions,
      appends,
      lostLocks,
      newChunks,
      leases,
      repair,
      reaper,
      collector,
      recount,
      removals,
    } = parts;
    this.repeat('liveness', () => {
      listening.tick();
      servers.tick();
      sessions.tick();
      appends.tick();
      parts.recalls.tick();
      lostLocks.tick();
      return 1_000;
    });
    this.repeat('disk space', async () => {
      await state.watchSpace();
      return 1_000;
    });
    this.repeat('spare chunks', () => {
      newChunks.tick();
      return 1_000;
    });
    this.repeat('repair', () => {
      repair.tick();
      return idleMs * 4;
    });
    this.repeat('recount', () => (recount.tick() ? BUSY_INTERVAL_MS : idleMs * 40));
    this.repeat('removed servers', () => (removals.tick() ? BUSY_INTERVAL_MS : idleMs * 4));
    this.repeat('orphans', () => (reaper.tick() ? BUSY_INTERVAL_MS : idleMs));
    this.repeat('unpublished writes', async () => ((await parts.unpublished.tick()) ? BUSY_INTERVAL_MS : idleMs));
    this.repeat('stale replicas', () => {
      parts.stale.tick();
      return idleMs;
    });
    this.repeat('garbage', async () => ((await collector.tick()) ? BUSY_INTERVAL_MS : idleMs));
    this.repeat('leases', async () => ((await leases.endSome()) ? BUSY_INTERVAL_MS : idleMs * 4));
  }

  stop(): void {
    this.stopping = true;
    for (const timer of this.timers) timer.cancel();
  }

  /** Runs `work` again and again; it says after how many milliseconds. A failure is logged and does not end it. */
  private repeat(what: string, work: () => number | Promise<number>): void {
    const run = async (): Promise<void> => {
      let delayMs = 1_000;
      try {
        delayMs = await work();
      } catch (error) {
        if (this.stopping) return;
        this.logger.error({ work: what, error: asCairnError(error).message }, 'background work failed');
      }
      schedule(delayMs);
    };
    const schedule = (delayMs: number): void => {
      if (this.stopping) return;
      const timer = this.clock.setTimer(delayMs, () => {
        this.timers.delete(timer);
        unawaited(run(), this.logger, what);
      });
      this.timers.add(timer);
    };
    schedule(0);
  }
}
