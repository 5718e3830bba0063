/**
 * Answers to look-ups that their threads may not have taken yet. The kernel takes the answer to a question about a name that it remembers
 * without the directory's lock: so when it was told meanwhile that the name is old, it believes it again. A thread has taken its answer
 * when it asks for something else, or after a second.
 */
import type { Clock } from '../../../core/clock.js';
import { sleep } from '../../../core/clock.js';
import type { InodeId } from '../../../core/ids.js';

const TAKEN_MS = 1_000;
/** Between two looks whether it was taken. */
const LOOK_AGAIN_MS = 2;

interface Late {
  readonly parent: InodeId;
  readonly name: string;
  readonly atMs: number;
}

export class LateAnswers {
  /** By thread, in the order of the answers. Those that are older than a second are dropped with each new one. */
  private readonly late = new Map<number, Late>();
  /** In place of threads that are not known. */
  private nobody = -1;

  constructor(private readonly clock: Clock) {}

  /** The thread is about to be told that a name leads to something, to believe that for a time. */
  told(thread: number, parent: InodeId, name: Buffer): void {
    const atMs = this.clock.monotonicMs();
    const key = thread === 0 ? this.nobody-- : thread;
    this.late.delete(key);
    this.late.set(key, { parent, name: name.toString('latin1'), atMs });
    for (const [oldest, late] of this.late) {
      if (late.atMs > atMs - TAKEN_MS) break;
      this.late.delete(oldest);
    }
  }

  /** The thread asks for something. */
  asks(thread: number): void {
    if (this.late.size > 0) this.late.delete(thread);
  }

  /** The threads that may yet take an answer about the name. */
  of(parent: InodeId, name: string): readonly Late[] {
    const sinceMs = this.clock.monotonicMs() - TAKEN_MS;
    return [...this.late.values()].filter(
      (late) => late.parent === parent && late.name === name && late.atMs > sinceMs,
    );
  }

  /** Resolves when all of these were taken. */
  async taken(answers: readonly Late[]): Promise<void> {
    for (;;) {
      const sinceMs = this.clock.monotonicMs() - TAKEN_MS;
      const waiting = new Set(this.late.values());
      if (!answers.some((late) => late.atMs > sinceMs && waiting.has(late))) return;
      await sleep(this.clock, LOOK_AGAIN_MS);
    }
  }
}
