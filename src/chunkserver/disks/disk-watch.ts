/**
 * Notices disks that do not answer: calls that neither succeed nor fail (a dying disk, a lost path to it, a hung NFS server). Nothing
 * that waits for such a call may make others wait:
 *
 *   answers   ──a call is out for DISK_STALLED_MS──►  stalled    requests about its replicas that wait are given up (TIMEOUT:
 *                                                               whether they take effect is not known), new ones are refused
 *   stalled   ──for DISK_ABSENT_MS more──►            absent     its replicas count as lost, and are made anew elsewhere
 *   either    ──its calls have come back──►           answers    its replicas are there again
 *
 * What was given up may still take effect when the disk answers: by its lease and version it is refused or comes too late for
 * anybody to see, as after a message that was long on its way.
 */
import type { Clock, Timer } from '../../core/clock.js';
import type { Disk, DiskFile, DiskLabel, DiskSpace } from '../../core/disk/disk.js';
import { asCairnError, CairnError } from '../../core/errors.js';
import { DISK_ABSENT_MS, DISK_STALLED_MS, DISK_WATCH_INTERVAL_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';

export interface DiskWatchOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly logger: Logger;
  /** The data directories, by their numbers. */
  readonly paths: readonly string[];
}

/**
 * The calls made between two looks: how many have not come back. Age is counted in looks, as a look that came late makes no
 * call old. Counted rather than kept, since every request makes some.
 */
class Calls {
  out = 0;
  readonly end = (): void => {
    this.out--;
  };

  constructor(readonly madeAt: number) {}
}

/** A request; on a certain directory, or on any. */
interface Waiting {
  readonly directory: number | undefined;
  readonly since: number;
  readonly giveUp: (error: CairnError) => void;
}

interface Volume {
  readonly path: string;
  calls: Calls;
  /** Of before the last look, oldest first: those that have not all come back. */
  late: readonly Calls[];
  state: 'answers' | 'stalled' | 'absent';
  readonly watch: Watch;
}

const looks = (ms: number): number => Math.ceil(ms / DISK_WATCH_INTERVAL_MS);

export class DiskWatch {
  private readonly volumes: readonly Volume[];
  private readonly waiting = new Set<Waiting>();
  /** Who waits for a directory as long as it may answer yet. */
  private readonly patient = new Set<Waiting>();
  private looked = 0;
  private timer: Timer | undefined;
  /** The disk, watched. */
  readonly disk: Disk;

  constructor(private readonly options: DiskWatchOptions) {
    this.volumes = options.paths.map((path) => {
      const volume: Volume = {
        path,
        state: 'answers',
        calls: new Calls(0),
        late: [],
        watch: (work) => {
          const { calls } = volume;
          calls.out++;
          work.then(calls.end, calls.end);
          return work;
        },
      };
      return volume;
    });
    this.disk = new WatchedDisk(options.disk, (path) => this.watchOf(path));
  }

  /** `onChange`: a directory has become absent, or answers again. */
  start(onChange: () => void): void {
    this.timer = this.options.clock.setTimer(DISK_WATCH_INTERVAL_MS, () => {
      this.looked++;
      let isChanged = false;
      for (const [number, volume] of this.volumes.entries()) if (this.look(number, volume)) isChanged = true;
      this.giveUpLate();
      if (isChanged) onChange();
      this.start(onChange);
    });
  }

  stop(): void {
    this.timer?.cancel();
  }

  answers(directory: number): boolean {
    return this.volumes[directory]?.state === 'answers';
  }

  get allAnswer(): boolean {
    return this.volumes.every(({ state }) => state === 'answers');
  }

  isAbsent(directory: number): boolean {
    return this.volumes[directory]?.state === 'absent';
  }

  /**
   * Runs `work` on a directory; undefined: on whichever it will choose. UNAVAILABLE when it does not answer, TIMEOUT when it
   * stops answering meanwhile; the work is left to itself then.
   */
  run<T>(directory: number | undefined, work: () => Promise<T>): Promise<T> {
    if (directory !== undefined && !this.answers(directory)) {
      const path = this.volumes[directory]?.path ?? '';
      return Promise.reject(new CairnError('UNAVAILABLE', `the disk of ${path} does not answer`));
    }
    return this.runUntilGivenUp(this.waiting, directory, work);
  }

  /** Runs `work` on a directory; TIMEOUT only when it becomes absent meanwhile: a disk may take long at a start. */
  runPatiently<T>(directory: number, work: () => Promise<T>): Promise<T> {
    return this.runUntilGivenUp(this.patient, directory, work);
  }

  private runUntilGivenUp<T>(all: Set<Waiting>, directory: number | undefined, work: () => Promise<T>): Promise<T> {
    // Once for each request: one promise rather than a race of two.
    return new Promise((resolve, reject) => {
      const running = work();
      const waiting = { directory, since: this.looked, giveUp: reject };
      all.add(waiting);
      running.then(
        (result) => {
          all.delete(waiting);
          resolve(result);
        },
        (error: unknown) => {
          all.delete(waiting);
          reject(asCairnError(error));
        },
      );
    });
  }

  /** True when it has become absent, or answers again. */
  private look(number: number, volume: Volume): boolean {
    const { logger } = this.options;
    const { path, state } = volume;
    volume.late = [...volume.late, volume.calls].filter(({ out }) => out > 0);
    volume.calls = new Calls(this.looked);
    const [oldest] = volume.late;
    const age = oldest === undefined ? 0 : this.looked - oldest.madeAt;
    if (state === 'answers') {
      if (age < looks(DISK_STALLED_MS)) return false;
      volume.state = 'stalled';
      logger.error(
        { directory: path, calls: volume.late.reduce((sum, { out }) => sum + out, 0) },
        'data directory does not answer: its replicas are not served',
      );
      this.giveUp(this.waiting, number, path);
    } else if (age < looks(DISK_STALLED_MS)) {
      volume.state = 'answers';
      logger.warn({ directory: path }, 'data directory answers again');
      return true;
    } else if (state === 'stalled' && age >= looks(DISK_STALLED_MS + DISK_ABSENT_MS)) {
      volume.state = 'absent';
      logger.error(
        { directory: path },
        'data directory does not answer for long: its replicas count as lost until it does',
      );
      this.giveUp(this.patient, number, path);
      return true;
    }
    return false;
  }

  private giveUp(waiting: ReadonlySet<Waiting>, number: number, path: string): void {
    for (const { directory, giveUp } of waiting) {
      if (directory !== undefined && directory !== number) continue;
      giveUp(new CairnError('TIMEOUT', `the disk of ${path} did not answer in time`));
    }
  }

  /** Who waits for any directory may wait for one that has not answered since before. */
  private giveUpLate(): void {
    const silent = this.volumes.find(({ state }) => state !== 'answers');
    if (silent === undefined) return;
    for (const { directory, since, giveUp } of this.waiting) {
      if (directory !== undefined || this.looked - since < looks(DISK_STALLED_MS)) continue;
      giveUp(new CairnError('TIMEOUT', `the disk of ${silent.path} does not answer`));
    }
  }

  private watchOf(path: string): Watch {
    const volume = this.volumes.find((each) => path === each.path || path.startsWith(`${each.path}/`));
    return volume?.watch ?? unwatched;
  }
}

type Watch = <T>(call: Promise<T>) => Promise<T>;

const unwatched: Watch = (call) => call;

class WatchedDisk implements Disk {
  constructor(
    private readonly disk: Disk,
    private readonly watchOf: (path: string) => Watch,
  ) {}

  async open(label: DiskLabel, path: string, mode: 'existing' | 'create' | 'exclusive'): Promise<DiskFile> {
    const watch = this.watchOf(path);
    return new WatchedFile(await watch(this.disk.open(label, path, mode)), watch);
  }

  mkdir(label: DiskLabel, path: string): Promise<void> {
    return this.watchOf(path)(this.disk.mkdir(label, path));
  }

  async *list(label: DiskLabel, path: string): AsyncIterable<string> {
    const watch = this.watchOf(path);
    const names = this.disk.list(label, path)[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await watch(names.next());
        if (next.done === true) return;
        yield next.value;
      }
    } finally {
      await names.return?.();
    }
  }

  rename(label: DiskLabel, from: string, to: string): Promise<void> {
    return this.watchOf(to)(this.disk.rename(label, from, to));
  }

  unlink(label: DiskLabel, path: string): Promise<void> {
    return this.watchOf(path)(this.disk.unlink(label, path));
  }

  syncDirectory(label: DiskLabel, path: string): Promise<void> {
    return this.watchOf(path)(this.disk.syncDirectory(label, path));
  }

  space(label: DiskLabel, path: string): Promise<DiskSpace> {
    return this.watchOf(path)(this.disk.space(label, path));
  }

  lock(label: DiskLabel, path: string): Promise<() => Promise<void>> {
    return this.watchOf(path)(this.disk.lock(label, path));
  }

  bootId(): string {
    return this.disk.bootId();
  }
}

class WatchedFile implements DiskFile {
  constructor(
    private readonly file: DiskFile,
    private readonly watch: Watch,
  ) {}

  read(label: DiskLabel, into: Uint8Array, offset: number): Promise<number> {
    return this.watch(this.file.read(label, into, offset));
  }

  write(label: DiskLabel, bytes: Uint8Array, offset: number, kind?: 'stream'): Promise<void> {
    return this.watch(this.file.write(label, bytes, offset, kind));
  }

  writeSync(label: DiskLabel, bytes: Uint8Array, offset: number): void {
    this.file.writeSync(label, bytes, offset);
  }

  readSync(label: DiskLabel, into: Uint8Array, offset: number): number {
    return this.file.readSync(label, into, offset);
  }

  datasync(label: DiskLabel): Promise<void> {
    return this.watch(this.file.datasync(label));
  }

  truncate(label: DiskLabel, length: number): Promise<void> {
    return this.watch(this.file.truncate(label, length));
  }

  truncateSync(label: DiskLabel, length: number): void {
    this.file.truncateSync(label, length);
  }

  size(label: DiskLabel): Promise<number> {
    return this.watch(this.file.size(label));
  }

  close(): Promise<void> {
    return this.watch(this.file.close());
  }
}
