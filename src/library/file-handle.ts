/** An open file in the shape of `fs.promises.FileHandle`. */
import type { Readable, Writable } from 'node:stream';
import type { Credentials, FileSystem, OpenFile } from '../filesystem/filesystem.js';
import { MAX_PAYLOAD_BYTES } from '../core/limits.js';
import { asCall, type Call } from './node-error.js';
import { readStream, writeStream, type ReadStreamOptions, type WriteStreamOptions } from './file-streams.js';
import { Stats } from './stats.js';
import { toTimespec, type Time } from './times.js';
import { takeCopy } from '../filesystem/loan.js';

export interface FileHandleOptions {
  readonly fs: FileSystem;
  readonly credentials: Credentials;
  readonly file: OpenFile;
  readonly path: string;
  readonly fd: number;
  readonly append: boolean;
}

type EncodingOption = BufferEncoding | { readonly encoding?: BufferEncoding | null } | null;

export class FileHandle {
  /** Tells handles apart; no descriptor of the process. */
  readonly fd: number;
  /** Of reads and writes without an explicit position. */
  private position = 0;
  private readonly file: OpenFile;

  constructor(private readonly options: FileHandleOptions) {
    this.fd = options.fd;
    this.file = options.file;
  }

  /**
   * Reads up to `length` bytes into `buffer` at `offset`, from `position` of the file (null: the current one, which
   * moves on). `bytesRead` is 0 at the end of the file.
   */
  async read<B extends Uint8Array>(
    buffer: B,
    offset = 0,
    length = buffer.byteLength - offset,
    position: number | null = null,
  ): Promise<{ bytesRead: number; buffer: B }> {
    const into = new Uint8Array(buffer.buffer, buffer.byteOffset + offset, length);
    const bytesRead = await this.call('read', async () => {
      const count = takeCopy(await this.file.lend(position ?? this.position, length), into);
      if (position === null) this.position += count;
      return count;
    });
    return { bytesRead, buffer };
  }

  /** As `read`, without a copy: the result is not to be changed. */
  readBytes(length: number, position: number | null = null): Promise<Buffer> {
    return this.call('read', async () => {
      const bytes = await this.file.read(position ?? this.position, length);
      if (position === null) this.position += bytes.length;
      return bytes;
    });
  }

  /** Writes `length` bytes of `data` from `offset`, at `position` of the file (null: the current one, which moves on). */
  async write<D extends Uint8Array | string>(
    data: D,
    offset: number | null = 0,
    length?: number | null,
    position: number | null = null,
  ): Promise<{ bytesWritten: number; buffer: D }> {
    const all: Uint8Array = typeof data === 'string' ? Buffer.from(data) : data;
    const from = offset ?? 0;
    const bytes = all.subarray(from, from + (length ?? all.length - from));
    const bytesWritten = await this.call('write', async () => {
      const at = position ?? this.position;
      // At once, so that a write that begins before this one has ended goes behind it.
      if (position === null) this.position += bytes.length;
      return this.file.write(at, bytes);
    });
    return { bytesWritten, buffer: data };
  }

  /** From the current position to the end. */
  async readFile(options?: { readonly encoding?: null } | null): Promise<Buffer>;
  async readFile(options: BufferEncoding | { readonly encoding: BufferEncoding }): Promise<string>;
  async readFile(options?: EncodingOption): Promise<Buffer | string> {
    const { size } = await this.stat();
    const parts: Buffer[] = [];
    for (;;) {
      const left = size - this.position;
      const bytes = await this.readBytes(left > 0 ? Math.min(left, MAX_PAYLOAD_BYTES) : MAX_PAYLOAD_BYTES);
      if (bytes.length === 0) break;
      parts.push(bytes);
      if (this.position >= size && size > 0) break;
    }
    const whole = Buffer.concat(parts);
    const encoding = typeof options === 'string' ? options : options?.encoding;
    return encoding === undefined || encoding === null ? whole : whole.toString(encoding);
  }

  /** From the current position on; does not truncate. */
  async writeFile(
    data: string | Uint8Array | AsyncIterable<string | Uint8Array> | Iterable<string | Uint8Array>,
  ): Promise<void> {
    if (typeof data === 'string' || data instanceof Uint8Array) {
      await this.write(data);
      return;
    }
    for await (const part of data) await this.write(part);
  }

  async appendFile(data: string | Uint8Array): Promise<void> {
    if (!this.options.append) this.position = (await this.stat()).size;
    await this.write(data);
  }

  stat(): Promise<Stats> {
    return this.call('fstat', async () => new Stats(await this.file.attributes()));
  }

  truncate(length = 0): Promise<void> {
    return this.call('ftruncate', () => this.file.truncate(length));
  }

  /** The bytes are with the chunkservers and visible to every client; they need not survive power loss yet. */
  flush(): Promise<void> {
    return this.call('flush', () => this.file.flush());
  }

  /** fsync(2). */
  sync(): Promise<void> {
    return this.call('fsync', () => this.file.sync());
  }

  datasync(): Promise<void> {
    return this.call('fdatasync', () => this.file.sync());
  }

  async chmod(mode: number): Promise<void> {
    await this.change('fchmod', { mode });
  }

  async chown(uid: number, gid: number): Promise<void> {
    await this.change('fchown', { uid, gid });
  }

  /** Times in seconds, as Node's, or as Date. */
  async utimes(atime: Time, mtime: Time): Promise<void> {
    await this.change('futimes', { atime: toTimespec(atime), mtime: toTimespec(mtime) });
  }

  createReadStream(options: ReadStreamOptions = {}): Readable {
    return readStream(this, options);
  }

  createWriteStream(options: WriteStreamOptions = {}): Writable {
    return writeStream(this, options);
  }

  /** Flushes and closes; fails when bytes written before were lost. Closing again does nothing more. */
  close(): Promise<void> {
    return this.call('close', () => this.file.close());
  }

  private async change(syscall: string, changes: Parameters<FileSystem['setAttributes']>[2]): Promise<void> {
    const { fs, credentials } = this.options;
    await this.call(syscall, () => fs.setAttributes(credentials, this.file.inode, changes));
  }

  private call<T>(syscall: string, run: () => Promise<T>): Promise<T> {
    const call: Call = { syscall, path: this.options.path };
    return asCall(call, run);
  }
}
