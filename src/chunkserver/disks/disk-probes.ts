/**
 * Looks at the data directories again and again, so that a disk that fails, or hangs, is noticed when nobody uses it: a
 * small file is written, synced and read, and now and then the header of one replica.
 */
import type { Clock, Timer } from '../../core/clock.js';
import { DISK_PROBE_INTERVAL_MS } from '../../core/limits.js';
import { watched } from '../../core/sync.js';
import { DataDirectory } from './data-directory.js';

export interface DiskProbesOptions {
  readonly clock: Clock;
  /** Those in service. */
  readonly directories: () => readonly DataDirectory[];
  readonly answers: (directory: DataDirectory) => boolean;
  readonly onFailed: (directory: DataDirectory, error: unknown) => void;
  /** Looks at one replica in the directory, whichever is next. Must not reject. */
  readonly lookAtReplica: (directory: DataDirectory) => Promise<void>;
}

export class DiskProbes {
  private readonly probing = new Map<DataDirectory, Promise<void>>();
  private readonly looking = new Map<DataDirectory, Promise<void>>();
  private timer: Timer | undefined;
  private stopped = false;

  constructor(private readonly options: DiskProbesOptions) {}

  start(): void {
    this.timer = this.options.clock.setTimer(DISK_PROBE_INTERVAL_MS, () => {
      for (const directory of this.options.directories()) {
        this.soon(directory);
        this.look(directory);
      }
      this.start();
    });
  }

  /** Probes a directory now, unless that goes on already. */
  soon(directory: DataDirectory): void {
    if (this.stopped || this.probing.has(directory)) return;
    this.probing.set(directory, watched(this.probe(directory).finally(() => this.probing.delete(directory))));
  }

  /** What goes on comes to its end, but on a disk that hangs. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.timer?.cancel();
    const ends = [...this.probing, ...this.looking].map(([directory, end]) =>
      directory.failure === undefined && this.options.answers(directory) ? end : Promise.resolve(),
    );
    await Promise.all(ends);
  }

  /** Never rejects. Does not end while the disk does not answer: disk-watch notices that. */
  private async probe(directory: DataDirectory): Promise<void> {
    try {
      // A bad sector below one of the files says nothing of the rest of the disk.
      await directory.probe('probe-1').catch(() => directory.probe('probe-2'));
    } catch (error) {
      // A disk without space, or a process without descriptors, is not a disk that fails.
      if (DataDirectory.isFailure(error)) this.options.onFailed(directory, error);
    }
  }

  private look(directory: DataDirectory): void {
    if (this.looking.has(directory)) return;
    this.looking.set(
      directory,
      watched(this.options.lookAtReplica(directory).finally(() => this.looking.delete(directory))),
    );
  }
}
