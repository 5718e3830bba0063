/**
 * Lets many callers share one slow, repeatable action, such as an fsync: a caller gets a run that began after its
 * call, and at most one run goes on at a time.
 */
import { watched } from './sync.js';
export class SharedRun {
  private running: Promise<void> | undefined;
  private next: Promise<void> | undefined;

  constructor(private readonly action: () => Promise<void>) {}

  run(): Promise<void> {
    if (this.running === undefined) return this.start();
    this.next ??= this.running.then(
      () => this.startNext(),
      () => this.startNext(),
    );
    return this.next;
  }

  private startNext(): Promise<void> {
    this.next = undefined;
    return this.start();
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
