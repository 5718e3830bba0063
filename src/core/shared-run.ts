/**
 * Lets many callers share one slow, repeatable action, such as an fsync: a caller gets a run that began after its
 * call, and at most one run goes on at a time. A run that fails also fails for those who wait for the next one: an fsync
 * after one that failed succeeds, without what that one did not write.
 */
import { watched } from './sync.js';
export class SharedRun {
  private running: Promise<void> | undefined;
  private next: Promise<void> | undefined;

  constructor(private readonly action: () => Promise<void>) {}

  run(): Promise<void> {
    if (this.running === undefined) return this.start();
    this.next ??= watched(
      this.running.then(
        () => {
          this.next = undefined;
          return this.start();
        },
        (error: unknown) => {
          this.next = undefined;
          throw error;
        },
      ),
    );
    return this.next;
  }

  private start(): Promise<void> {
    const run = watched(
      this.action().finally(() => {
        if (this.running === run) this.running = undefined;
      }),
    );
    this.running = run;
    return run;
  }
}
