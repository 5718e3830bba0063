/**
 * The real disk: node:fs. Small ordered records go through the synchronous calls, data through the thread pool.
 * Errors are CairnError with the errno of the system call; the message has the label and the path.
 */
import {
  close,
  constants,
  fdatasync,
  fsync,
  fstat,
  ftruncate,
  ftruncateSync,
  open,
  read,
  readFileSync,
  readSync,
  write,
  writeSync,
} from 'node:fs';
import { mkdir, opendir, rename, statfs, unlink } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { SpareDescriptors } from './descriptors.js';
import type { Disk, DiskFile, DiskLabel, DiskSpace } from './disk.js';
import { CairnError, asCairnError, type ErrorCode } from '../errors.js';
import { tryLock } from './file-lock.js';
import { DIRECT_ALIGNMENT_BYTES, payloadBuffers } from './payload-buffers.js';
import { watched } from '../sync.js';

const openAsync = promisify(open);
const closeAsync = promisify(close);
const fstatAsync = promisify(fstat);
const ftruncateAsync = promisify(ftruncate);
const fdatasyncAsync = promisify(fdatasync);
const fsyncAsync = promisify(fsync);

const OPEN_FLAGS = {
  existing: constants.O_RDWR,
  create: constants.O_RDWR | constants.O_CREAT,
  exclusive: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
} as const;

/** With these a disk says that it is not reached, or cannot read a sector, where others say EIO: one on the network, and direct I/O. */
const OF_THE_DISK: ReadonlySet<ErrorCode> = new Set(['ENOTCONN', 'ESTALE', 'ETIMEDOUT', 'ENODATA']);

/** What a call to the operating system failed with. */
function failure(error: unknown, label: DiskLabel, path: string): CairnError {
  const known = asCairnError(error);
  // An errno outside the closed set (EUCLEAN, ENOMEDIUM, ...) is the disk's trouble, not a fault in CairnFS.
  const isOfTheDisk = known.code === 'INTERNAL' || OF_THE_DISK.has(known.code);
  const cause = error instanceof Error && 'code' in error ? error.code : undefined;
  const code = cause === 'ENFILE' ? 'EMFILE' : isOfTheDisk ? 'EIO' : known.code;
  return new CairnError(code, `${label} ${path}: ${known.message}`, { cause: error });
}

/** Errors with which file systems say that they have no direct I/O, or not of this alignment. */
const NO_DIRECT = new Set(['EINVAL', 'EOPNOTSUPP']);

const isAligned = (bytes: Uint8Array, offset: number): boolean =>
  bytes.length % DIRECT_ALIGNMENT_BYTES === 0 && offset % DIRECT_ALIGNMENT_BYTES === 0;

class NodeFile implements DiskFile {
  /** The same file once more, past the page cache; opened when it is first wanted, false when it cannot be had. */
  private direct: Promise<number | false> | undefined;
  /** It could be opened, and writes were refused. It stays open until the end: others may be writing by it. */
  private directRefused = false;

  constructor(
    private readonly fd: number,
    private readonly path: string,
  ) {}

  read(label: DiskLabel, into: Uint8Array, offset: number): Promise<number> {
    return new Promise((resolve, reject) => {
      const step = (done: number): void => {
        read(this.fd, into, done, into.length - done, offset + done, (error, count) => {
          if (error !== null) reject(failure(error, label, this.path));
          else if (count === 0 || done + count === into.length) resolve(done + count);
          else step(done + count);
        });
      };
      if (into.length === 0) resolve(0);
      else step(0);
    });
  }

  async write(label: DiskLabel, bytes: Uint8Array, offset: number, kind?: 'stream'): Promise<void> {
    if (kind === 'stream' && isAligned(bytes, offset) && (await this.writeDirect(label, bytes, offset))) return;
    await this.writeTo(this.fd, label, bytes, offset);
  }

  private writeTo(fd: number, label: DiskLabel, bytes: Uint8Array, offset: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const step = (done: number): void => {
        write(fd, bytes, done, bytes.length - done, offset + done, (error, count) => {
          if (error !== null) reject(failure(error, label, this.path));
          else if (done + count === bytes.length) resolve();
          else step(done + count);
        });
      };
      if (bytes.length === 0) resolve();
      else step(0);
    });
  }

  /** False when the file system has no direct I/O, or no buffer is free: the page cache takes it then. */
  private async writeDirect(label: DiskLabel, bytes: Uint8Array, offset: number): Promise<boolean> {
    if (this.directRefused) return false;
    this.direct ??= watched(this.openDirect());
    const fd = await this.direct;
    if (fd === false) return false;
    const copy = payloadBuffers.beginsAtPage(bytes) ? undefined : payloadBuffers.take(bytes.length);
    if (copy !== undefined && !payloadBuffers.beginsAtPage(copy)) return false;
    copy?.set(bytes);
    try {
      await this.writeTo(fd, label, copy ?? bytes, offset);
      return true;
    } catch (error) {
      // Some file systems open with O_DIRECT and refuse to write so.
      if (!NO_DIRECT.has(asCairnError(error).code)) throw error;
      this.directRefused = true;
      return false;
    } finally {
      if (copy !== undefined) payloadBuffers.giveBack(copy);
    }
  }

  private async openDirect(): Promise<number | false> {
    try {
      // By the descriptor: the path may lead elsewhere by now.
      return await openAsync(`/proc/self/fd/${this.fd}`, constants.O_RDWR | constants.O_DIRECT);
    } catch {
      // No direct I/O here, no /proc, or no descriptor left: the page cache does as well.
      return false;
    }
  }

  private async closeDirect(): Promise<void> {
    const fd = await this.direct;
    if (fd !== undefined && fd !== false) await closeAsync(fd);
  }

  writeSync(label: DiskLabel, bytes: Uint8Array, offset: number): void {
    try {
      let done = 0;
      while (done < bytes.length) done += writeSync(this.fd, bytes, done, bytes.length - done, offset + done);
    } catch (error) {
      throw failure(error, label, this.path);
    }
  }

  readSync(label: DiskLabel, into: Uint8Array, offset: number): number {
    try {
      let done = 0;
      while (done < into.length) {
        const count = readSync(this.fd, into, done, into.length - done, offset + done);
        if (count === 0) break;
        done += count;
      }
      return done;
    } catch (error) {
      throw failure(error, label, this.path);
    }
  }

  async datasync(label: DiskLabel): Promise<void> {
    await fdatasyncAsync(this.fd).catch((error: unknown) => {
      throw failure(error, label, this.path);
    });
  }

  async truncate(label: DiskLabel, length: number): Promise<void> {
    await ftruncateAsync(this.fd, length).catch((error: unknown) => {
      throw failure(error, label, this.path);
    });
  }

  truncateSync(label: DiskLabel, length: number): void {
    try {
      ftruncateSync(this.fd, length);
    } catch (error) {
      throw failure(error, label, this.path);
    }
  }

  async size(label: DiskLabel): Promise<number> {
    try {
      return (await fstatAsync(this.fd)).size;
    } catch (error) {
      throw failure(error, label, this.path);
    }
  }

  async close(): Promise<void> {
    try {
      try {
        await this.closeDirect();
      } finally {
        await closeAsync(this.fd);
      }
    } catch (error) {
      throw failure(error, 'close', this.path);
    }
  }
}

export class NodeDisk implements Disk {
  constructor(private readonly descriptors?: SpareDescriptors) {}

  /** `open`, also when the process has no descriptor left. */
  private opened<T>(open: () => Promise<T>): Promise<T> {
    return this.descriptors === undefined ? open() : this.descriptors.use(open);
  }

  private readonly boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();

  async open(label: DiskLabel, path: string, mode: 'existing' | 'create' | 'exclusive'): Promise<DiskFile> {
    try {
      return new NodeFile(await this.opened(() => openAsync(path, OPEN_FLAGS[mode], 0o600)), path);
    } catch (error) {
      throw failure(error, label, path);
    }
  }

  async mkdir(label: DiskLabel, path: string): Promise<void> {
    await mkdir(path, { mode: 0o700 }).catch((error: unknown) => {
      throw failure(error, label, path);
    });
  }

  async *list(label: DiskLabel, path: string): AsyncIterable<string> {
    try {
      for await (const entry of await this.opened(() => opendir(path))) yield entry.name;
    } catch (error) {
      throw failure(error, label, path);
    }
  }

  async rename(label: DiskLabel, from: string, to: string): Promise<void> {
    await rename(from, to).catch((error: unknown) => {
      throw failure(error, label, from);
    });
  }

  async unlink(label: DiskLabel, path: string): Promise<void> {
    await unlink(path).catch((error: unknown) => {
      throw failure(error, label, path);
    });
  }

  async syncDirectory(label: DiskLabel, path: string): Promise<void> {
    try {
      const fd = await this.opened(() => openAsync(path, constants.O_RDONLY | constants.O_DIRECTORY));
      try {
        await fsyncAsync(fd);
      } finally {
        await closeAsync(fd);
      }
    } catch (error) {
      throw failure(error, label, path);
    }
  }

  async space(label: DiskLabel, path: string): Promise<DiskSpace> {
    try {
      const stats = await statfs(path);
      return { totalBytes: stats.blocks * stats.bsize, freeBytes: stats.bavail * stats.bsize };
    } catch (error) {
      throw failure(error, label, path);
    }
  }

  /**
   * On the directory itself, so that it takes no space and leaves nothing behind. Who cannot open the directory cannot
   * take its lock. Excludes all processes of a machine; on a network file system not those of others.
   */
  async lock(label: DiskLabel, path: string): Promise<() => Promise<void>> {
    try {
      const fd = await this.opened(() => openAsync(path, constants.O_RDONLY | constants.O_DIRECTORY));
      const isLocked = await tryLock(fd).catch(async (error: unknown) => {
        await closeAsync(fd);
        throw error;
      });
      if (isLocked) return () => closeAsync(fd);
      await closeAsync(fd);
    } catch (error) {
      throw failure(error, label, path);
    }
    throw new CairnError('EBUSY', `${label} ${path}: another process uses this directory`);
  }

  bootId(): string {
    return this.boot;
  }
}
