/**
 * A log that is a file of bounded size: when it is full, its content goes to `log.1`, what was there to `log.2`, and so on,
 * and it begins anew. By copying and cutting, because the process's own standard error is that file, and so is what Node
 * itself writes there when the process ends by a fault.
 */
import {
  chmodSync,
  constants,
  copyFileSync,
  fstatSync,
  ftruncateSync,
  readFileSync,
  renameSync,
  statSync,
} from 'node:fs';
import { LOG_GENERATIONS, MAX_LOG_FILE_BYTES } from '../limits.js';

/** Files with what a process said are for its user only. */
const PRIVATE_MODE = 0o600;

export class LogFile {
  private bytes: number;

  /** The log at `path`, if `fd` is open for appending to just that file. */
  static of(fd: number, path: string, maxBytes = MAX_LOG_FILE_BYTES): LogFile | undefined {
    const isIt = quietly(() => {
      const [named, open] = [statSync(path), fstatSync(fd)];
      const [, flags = '0'] = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) ?? [];
      const appends = (Number.parseInt(flags, 8) & constants.O_APPEND) !== 0;
      return named.isFile() && appends && named.ino === open.ino && named.dev === open.dev;
    });
    return isIt === true ? new LogFile(fd, path, maxBytes) : undefined;
  }

  private constructor(
    private readonly fd: number,
    private readonly path: string,
    private readonly maxBytes: number,
  ) {
    this.bytes = fstatSync(fd).size;
    for (let generation = 0; generation <= LOG_GENERATIONS; generation++) {
      quietly(() => chmodSync(this.name(generation), PRIVATE_MODE)); // of an earlier version
    }
  }

  /** So much was written to it. */
  wrote(bytes: number): void {
    this.bytes += bytes;
    if (this.bytes < this.maxBytes) return;
    this.bytes = 0;
    this.rotate();
  }

  private rotate(): void {
    // Another file may have its name by now: somebody rotates it himself.
    const isOurs = quietly(() => statSync(this.path).ino === fstatSync(this.fd).ino) ?? false;
    if (!isOurs) return;
    for (let generation = LOG_GENERATIONS - 1; generation >= 1; generation--) {
      quietly(() => renameSync(this.name(generation), this.name(generation + 1)));
    }
    quietly(() => {
      copyFileSync(this.path, this.name(1), constants.COPYFILE_FICLONE);
      chmodSync(this.name(1), PRIVATE_MODE);
    });
    // Even if there was no room for the copy: the log is bounded first.
    quietly(() => ftruncateSync(this.fd, 0));
  }

  private name(generation: number): string {
    return generation === 0 ? this.path : `${this.path}.${generation}`;
  }
}

function quietly<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined; // A log that cannot be kept must not end the process.
  }
}
