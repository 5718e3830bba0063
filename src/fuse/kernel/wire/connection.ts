/**
 * The loop between the kernel and the handlers. A few reads are parked on the device; each request that comes is
 * handed to its handler at once, without waiting for those before it, and is answered when that is done.
 *
 * Bounds (P8): so many requests are in work, and so many large buffers are in use, and while they are, nothing more is
 * read, so that callers wait in the kernel. Requests that wait for other requests (locks, and whoever has the kernel drop pages)
 * do not count, and keep no buffer: what they wait for must get through.
 */
import { sleep } from '../../../core/clock.js';
import type { Clock } from '../../../core/clock.js';
import { asCairnError, POSIX_ERRORS } from '../../../core/errors.js';
import { KERNEL_BUFFERS, MAX_KERNEL_REQUESTS } from '../../../core/limits.js';
import type { Logger } from '../../../core/logging/logger.js';
import { deferred, unawaited } from '../../../core/sync.js';
import type { Deferred } from '../../../core/sync.js';
import { errnoOf } from '../../fault.js';
import { BufferPool } from './buffers.js';
import { Cursor, decodeGroups, decodeHeader } from './decode.js';
import type { RequestHeader } from './decode.js';
import type { FuseDevice } from './device.js';
import { outHeader } from './encode.js';
import { IN_HEADER_BYTES, OPCODE_NAMES, OPCODES } from './protocol.js';
import type { Opcode } from './protocol.js';
import type { Answer, Handler, Request } from './request.js';

/** Each holds a thread of libuv's pool, which has four: two are left for the rest. */
const PARKED_READS = 2;
const NOT_MOUNTED_RETRY_MS = 2;
/** So often it is looked whether a caller that was sent a signal, and waits on, is being killed now. */
const INTERRUPTED_POLL_MS = 200;
/** What is longer is answered out of the buffer it came in; what is shorter is copied, and the buffer read into again. */
const SMALL_REQUEST_BYTES = 8 * 1024;

export interface ConnectionOptions {
  readonly device: FuseDevice;
  /** Room for the largest request. */
  readonly bufferBytes: number;
  readonly logger: Logger;
  /** For each kind of request; others are answered with ENOSYS, which the kernel takes as "never ask again". */
  readonly handlers: Partial<Record<Opcode, Handler>>;
  /** Requests that may wait for other requests. */
  readonly waiting: ReadonlySet<Opcode>;
  /** A thread asks something about a node. */
  readonly onRequest?: (nodeid: number, pid: number, operation: Opcode) => void;
  /** A request about a node has done its work, and is answered next. */
  readonly onDone?: (nodeid: number) => void;
  /** A request of a thread was answered with ESTALE: the kernel tries once more. */
  readonly onStale: (pid: number, operation: Opcode, error: unknown) => void;
  /** Whether a thread is being killed. */
  readonly isDying: (pid: number) => boolean;
  readonly clock: Clock;
}

interface Reply {
  readonly parts: readonly Uint8Array[];
  readonly undo: Answer['undo'];
}

/** A request that is being answered. */
interface InWork {
  readonly pid: number;
  abort?: AbortController;
  /** Its caller was sent a signal. */
  isInterrupted: boolean;
  /** Its caller is dying and was answered already: nobody takes the result. */
  isLeft: boolean;
}

export class Connection {
  private readonly buffers: BufferPool;
  /** Requests with an answer to come that may be interrupted, by their number. */
  private readonly inWork = new Map<number, InWork>();
  private counted = 0;
  private room: Deferred<void> | undefined;
  /** `watchInterrupted` runs. */
  private isWatching = false;
  private mounting = true;
  /** The descriptor is given back, and its number may be another's by now. */
  private closed = false;
  private ended: Promise<void> | undefined;

  constructor(private readonly options: ConnectionOptions) {
    this.buffers = new BufferPool(options.bufferBytes, KERNEL_BUFFERS);
  }

  /** Serves until the kernel says that the mount is gone. Never rejects. */
  serve(): Promise<void> {
    this.ended ??= Promise.all(Array.from({ length: PARKED_READS }, () => this.readRequests())).then(() => {
      for (const { abort } of this.inWork.values()) abort?.abort();
      this.closed = true;
      this.options.device.close();
    });
    return this.ended;
  }

  /** From now on EPERM is an error. */
  mounted(): void {
    this.mounting = false;
  }

  /** When mounting failed: no request will ever come. */
  abandon(): void {
    this.mounting = false;
  }

  get isClosed(): boolean {
    return this.closed;
  }

  private async readRequests(): Promise<void> {
    for (;;) {
      while (this.counted >= MAX_KERNEL_REQUESTS) await (this.room ??= deferred()).promise;
      const buffer = await this.buffers.take();
      let length: number;
      try {
        length = await this.options.device.read(buffer);
      } catch (error) {
        this.buffers.give(buffer);
        if (await this.mayReadAgain(error)) continue;
        return;
      }
      this.accept(buffer, length);
    }
  }

  private async mayReadAgain(error: unknown): Promise<boolean> {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    // ENOENT: the request was taken back before it could be read.
    if (code === 'ENOENT' || code === 'EINTR' || code === 'EAGAIN') return true;
    if (code === 'EPERM' && this.mounting) {
      await sleep(this.options.clock, NOT_MOUNTED_RETRY_MS);
      return true;
    }
    if (code !== 'ENODEV' && !(code === 'EPERM' && !this.mounting)) {
      this.options.logger.error({ code, reason: String(error) }, 'the kernel’s requests cannot be read any more');
    }
    return false;
  }

  /** Takes `buffer` over. */
  private accept(buffer: Buffer, length: number): void {
    const isSmall = length <= SMALL_REQUEST_BYTES;
    const message = isSmall ? Buffer.from(buffer.subarray(0, length)) : buffer.subarray(0, length);
    if (isSmall) this.buffers.give(buffer);
    if (isSmall) {
      unawaited(
        this.handle(message, () => undefined),
        this.options.logger,
        'a request of the kernel',
      );
      return;
    }
    let isGiven = false;
    const giveBack = (): void => {
      if (!isGiven) this.buffers.give(buffer);
      isGiven = true;
    };
    unawaited(this.handle(message, giveBack).finally(giveBack), this.options.logger, 'a request of the kernel');
  }

  /** Never rejects. Resolves when `message` is not used any more; `giveBack` says so before, if it is called. */
  private handle(message: Buffer, giveBack: () => void): Promise<void> {
    let header: RequestHeader;
    try {
      header = decodeHeader(message);
      if (header.opcode === OPCODES.INTERRUPT) {
        this.interrupt(header, message);
        return Promise.resolve();
      }
    } catch (error) {
      this.options.logger.error({ reason: asCairnError(error).message }, 'a message of the kernel was not understood');
      return Promise.resolve();
    }
    return this.work(header, message, giveBack);
  }

  private async work(header: RequestHeader, message: Buffer, giveBack: () => void): Promise<void> {
    const { unique } = header;
    const operation = OPCODE_NAMES.get(header.opcode);
    const handler = operation === undefined ? undefined : this.options.handlers[operation];
    if (operation === undefined || handler === undefined) {
      this.reply(unique, POSIX_ERRORS.ENOSYS);
      return;
    }
    this.options.onRequest?.(header.nodeid, header.pid, operation);
    const entry: InWork = { pid: header.pid, isInterrupted: false, isLeft: false };
    let counts = !this.options.waiting.has(operation);
    if (counts) this.counted++;
    const leave = (): void => {
      if (counts) this.leave();
      counts = false;
    };
    const waitsForOthers = (): void => {
      leave();
      giveBack();
    };
    this.inWork.set(unique, entry);
    try {
      const answered = handler(requestOf(header, message, entry, this.options.clock.monotonicMs(), waitsForOthers));
      const result = answered instanceof Promise ? await answered : answered;
      this.options.onDone?.(header.nodeid);
      if (result !== undefined) {
        const parts = typeof result.parts === 'function' ? result.parts() : result.parts;
        if (entry.isLeft) result.undo?.();
        else this.reply(unique, 0, { parts, undo: result.undo });
      }
      result?.sent?.();
    } catch (error) {
      const errno = errnoOf(error, operation, this.options.logger);
      if (errno === POSIX_ERRORS.ESTALE) this.options.onStale(header.pid, operation, error);
      if (!entry.isLeft) this.reply(unique, errno);
    } finally {
      this.inWork.delete(unique);
      leave();
    }
  }

  private leave(): void {
    this.counted--;
    const { room } = this;
    this.room = undefined;
    room?.resolve();
  }

  private reply(unique: number, error: number, result?: Reply): void {
    const parts = result?.parts ?? [];
    let length = 0;
    for (const part of parts) length += part.length;
    if (this.closed) {
      result?.undo?.();
      return;
    }
    try {
      this.options.device.send([outHeader(unique, error, length), ...parts]);
    } catch (failure) {
      const code = failure instanceof Error && 'code' in failure ? failure.code : undefined;
      // ENOENT: interrupted, or killed. ENODEV: unmounted by force. Otherwise the answer was not well formed.
      if (code !== 'ENOENT' && code !== 'ENODEV') {
        this.options.logger.error({ unique, code, reason: String(failure) }, 'the kernel did not take an answer');
        if (error !== POSIX_ERRORS.EIO) this.reply(unique, POSIX_ERRORS.EIO);
      }
      result?.undo?.();
    }
  }

  /**
   * The caller of a request was sent a signal. What waits for others ends with EINTR. The rest is done soon, unless the
   * cluster does not answer; calls on files are not ended by signals that a program handles, but one that is being
   * killed does not wait. The kernel tells of the first signal only, and then waits for the answer whatever comes: so who
   * was sent one that it handles is looked at again and again.
   */
  private interrupt(header: RequestHeader, message: Buffer): void {
    const unique = new Cursor(message.subarray(IN_HEADER_BYTES)).u64();
    const entry = this.inWork.get(unique);
    if (entry !== undefined) {
      entry.abort?.abort();
      entry.isInterrupted = true;
      // What it waits for gets its chance to end in good order.
      if (entry.abort === undefined) this.leaveIfDying(unique, entry);
      if (!this.isWatching) {
        unawaited(this.watchInterrupted(), this.options.logger, 'watching callers that were sent a signal');
      }
      return;
    }
    // It may be in the other parked read, and handled next: EAGAIN makes the kernel tell again, unless it was answered.
    this.reply(header.unique, POSIX_ERRORS.EAGAIN);
  }

  private leaveIfDying(unique: number, entry: InWork): void {
    if (entry.isLeft || !this.options.isDying(entry.pid)) return;
    entry.isLeft = true;
    this.reply(unique, POSIX_ERRORS.EINTR);
  }

  /** For as long as requests are in work whose callers were sent a signal. Never rejects. */
  private async watchInterrupted(): Promise<void> {
    this.isWatching = true;
    for (let isAny = true; isAny && !this.closed;) {
      await sleep(this.options.clock, INTERRUPTED_POLL_MS);
      isAny = false;
      for (const [unique, entry] of this.inWork) {
        if (!entry.isInterrupted || entry.isLeft) continue;
        isAny = true;
        this.leaveIfDying(unique, entry);
      }
    }
    this.isWatching = false;
  }
}

function requestOf(
  header: RequestHeader,
  message: Buffer,
  entry: InWork,
  arrivedMs: number,
  waitsForOthers: () => void,
): Request {
  const end = message.length - header.extensionBytes;
  const groups = header.extensionBytes === 0 ? [] : decodeGroups(message.subarray(end));
  return {
    unique: header.unique,
    nodeid: header.nodeid,
    caller: { uid: header.uid, gid: header.gid, pid: header.pid, groups },
    arrivedMs,
    body: new Cursor(message.subarray(IN_HEADER_BYTES, end)),
    waitsForOthers,
    interrupted: () => (entry.abort ??= new AbortController()).signal,
  };
}
