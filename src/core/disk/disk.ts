/**
 * The disk, as it comes into chunkserver and master by constructor: the real one (`NodeDisk`), or one
 * that the simulator owns. Every call names its purpose by `label`, so that a test can fail or delay
 * precisely that call. Failures are CairnError with the errno of the system call.
 */

/** What a call is for, such as 'chunk.write' or 'oplog.append'. */
export type DiskLabel = string;

export interface DiskFile {
  /** Reads up to `into.length` bytes at `offset`; returns the count, short only at the end of the file. */
  read(label: DiskLabel, into: Uint8Array, offset: number): Promise<number>;
  /**
   * Writes all of `bytes` at `offset`. A killed process may leave a prefix of it. 'stream': it is one of many large
   * writes, which may go to the disk past the page cache; `datasync` is needed as for others.
   */
  write(label: DiskLabel, bytes: Uint8Array, offset: number, kind?: 'stream'): Promise<void>;
  /** As `write`, before it returns: for small records whose order matters more than the event loop. */
  writeSync(label: DiskLabel, bytes: Uint8Array, offset: number): void;
  /** As `read`, before it returns. */
  readSync(label: DiskLabel, into: Uint8Array, offset: number): number;
  /** fdatasync(2): content and size survive power loss. */
  datasync(label: DiskLabel): Promise<void>;
  truncate(label: DiskLabel, length: number): Promise<void>;
  /** As `truncate`, before it returns. */
  truncateSync(label: DiskLabel, length: number): void;
  size(label: DiskLabel): Promise<number>;
  close(): Promise<void>;
}

export interface DiskSpace {
  readonly totalBytes: number;
  readonly freeBytes: number;
}

export interface Disk {
  /** Opens for reading and writing. 'create' makes the file when missing; 'exclusive' fails if it exists. */
  open(label: DiskLabel, path: string, mode: 'existing' | 'create' | 'exclusive'): Promise<DiskFile>;
  mkdir(label: DiskLabel, path: string): Promise<void>;
  /** Names in a directory, a page at a time in memory, in no order. */
  list(label: DiskLabel, path: string): AsyncIterable<string>;
  rename(label: DiskLabel, from: string, to: string): Promise<void>;
  /** Removes a file. ENOENT when it is missing. */
  unlink(label: DiskLabel, path: string): Promise<void>;
  /** fsync(2) of a directory: entries made, renamed or removed in it survive power loss. */
  syncDirectory(label: DiskLabel, path: string): Promise<void>;
  space(label: DiskLabel, path: string): Promise<DiskSpace>;
  /**
   * Takes a directory for this process alone, until the returned function is called or the process ends. Fails with
   * EBUSY when another process has it.
   */
  lock(label: DiskLabel, path: string): Promise<() => Promise<void>>;
  /** A string that changes when the machine boots: tells a killed process from a power loss. */
  bootId(): string;
}
