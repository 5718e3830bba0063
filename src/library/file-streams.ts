/** Streams over an open file, with the back pressure of node:stream. */
import { Readable, Writable } from 'node:stream';
import { MAX_PAYLOAD_BYTES } from '../core/limits.js';

/** What a stream needs of a file: a FileHandle has it. */
export interface StreamedFile {
  readBytes(length: number, position?: number | null): Promise<Buffer>;
  write(
    bytes: Uint8Array,
    offset: number,
    length: number,
    position?: number | null,
  ): Promise<{ readonly bytesWritten: number }>;
  sync(): Promise<void>;
  flush(): Promise<void>;
  close(): Promise<void>;
}

export interface ReadStreamOptions {
  /** First byte. Default: the handle's position. */
  readonly start?: number;
  /** Last byte, inclusive as Node's. Default: the end of the file. */
  readonly end?: number;
  /** Bytes read at once, and buffered. Default 1 MiB. */
  readonly highWaterMark?: number;
  readonly encoding?: BufferEncoding;
  /** Close the handle at the end, and after an error. Default true. */
  readonly autoClose?: boolean;
}

export interface WriteStreamOptions {
  /** Where to begin. Default: the handle's position. */
  readonly start?: number;
  readonly highWaterMark?: number;
  readonly encoding?: BufferEncoding;
  readonly autoClose?: boolean;
  /** fsync before closing. Default false. */
  readonly flush?: boolean;
}

export function readStream(handle: StreamedFile, options: ReadStreamOptions): Readable {
  return lazyReadStream(() => Promise.resolve(handle), options);
}

/** Opens when bytes are wanted first. */
export function lazyReadStream(open: () => Promise<StreamedFile>, options: ReadStreamOptions): Readable {
  let handle: StreamedFile | undefined;
  let position = options.start ?? null;
  let left = options.end === undefined ? Infinity : options.end - (options.start ?? 0) + 1;
  const highWaterMark = options.highWaterMark ?? MAX_PAYLOAD_BYTES;
  return new Readable({
    highWaterMark,
    ...(options.encoding !== undefined && { encoding: options.encoding }),
    construct: (callback) => whenOpen(open, (opened) => (handle = opened), callback),
    read(size) {
      const length = Math.min(Math.max(size, highWaterMark), left);
      if (length <= 0 || handle === undefined) {
        this.push(null);
        return;
      }
      handle.readBytes(length, position).then(
        (bytes) => {
          if (position !== null) position += bytes.length;
          left -= bytes.length;
          // A copy: who reads the stream may change what he gets, and others are given the same memory.
          this.push(bytes.length === 0 ? null : Buffer.from(bytes));
        },
        (error: unknown) => this.destroy(error as Error),
      );
    },
    destroy: (error, callback) => finish(handle, options.autoClose, error, callback),
  });
}

export function writeStream(handle: StreamedFile, options: WriteStreamOptions): Writable {
  return lazyWriteStream(() => Promise.resolve(handle), options);
}

export function lazyWriteStream(open: () => Promise<StreamedFile>, options: WriteStreamOptions): Writable {
  let handle: StreamedFile | undefined;
  let position = options.start ?? null;
  return new Writable({
    highWaterMark: options.highWaterMark ?? MAX_PAYLOAD_BYTES,
    decodeStrings: true,
    ...(options.encoding !== undefined && { defaultEncoding: options.encoding }),
    construct: (callback) => whenOpen(open, (opened) => (handle = opened), callback),
    write(chunk: Buffer, _encoding, callback) {
      if (handle === undefined) return;
      handle.write(chunk, 0, chunk.length, position).then(
        ({ bytesWritten }) => {
          if (position !== null) position += bytesWritten;
          callback();
        },
        (error: unknown) => callback(error as Error),
      );
    },
    final(callback) {
      if (handle === undefined) return;
      // Here and not in destroy, so that 'finish' means that the bytes are there.
      (options.flush === true ? handle.sync() : handle.flush()).then(() => callback(), callback);
    },
    destroy: (error, callback) => finish(handle, options.autoClose, error, callback),
  });
}

function whenOpen(
  open: () => Promise<StreamedFile>,
  take: (handle: StreamedFile) => void,
  callback: (error?: Error | null) => void,
): void {
  open().then(
    (handle) => {
      take(handle);
      callback();
    },
    (error: unknown) => callback(error as Error),
  );
}

function finish(
  handle: StreamedFile | undefined,
  autoClose: boolean | undefined,
  error: Error | null,
  callback: (error?: Error | null) => void,
): void {
  if (handle === undefined || autoClose === false) {
    callback(error);
    return;
  }
  handle.close().then(
    () => callback(error),
    (closeError: unknown) => callback(error ?? (closeError as Error)),
  );
}
