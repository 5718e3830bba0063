/**
 * The kernel's end of a FUSE connection, in memory, in place of /dev/fuse: tests say which requests come, byte by byte,
 * and see what is answered. Structures are built here by hand, not by the driver's own code.
 */
import { OPCODES } from '../../../src/fuse/kernel/wire/protocol.js';
import type { Opcode } from '../../../src/fuse/kernel/wire/protocol.js';
import type { FuseDevice } from '../../../src/fuse/kernel/wire/device.js';
import { deferred } from '../../../src/core/sync.js';
import type { Deferred } from '../../../src/core/sync.js';

export interface FakeCaller {
  readonly uid?: number;
  readonly gid?: number;
  readonly pid?: number;
}

export interface FakeReply {
  /** Positive errno, 0 for success. */
  readonly error: number;
  readonly body: Buffer;
}

const failure = (code: string): Error => Object.assign(new Error(code), { code });

export class FakeKernel implements FuseDevice {
  /** Messages that answered no request. */
  readonly notifications: { readonly code: number; readonly body: Buffer }[] = [];
  /** Replies to requests that nobody had made, or that were made up. */
  readonly strayReplies: Buffer[] = [];
  isClosed = false;
  /** The number of the descriptor may be that of another file by then. */
  sentAfterClose = 0;
  private readonly queue: Buffer[] = [];
  private readonly readers: { into: Buffer; turn: Deferred<number> }[] = [];
  private readonly waiting = new Map<number, Deferred<FakeReply>>();
  private next = 2;
  private gone: Error | undefined;

  // ---- What the driver calls --------------------------------------------------------------------

  read(into: Buffer): Promise<number> {
    const turn = deferred<number>();
    if (this.gone !== undefined) turn.reject(this.gone);
    else this.readers.push({ into, turn });
    this.hand();
    return turn.promise;
  }

  send(parts: readonly Uint8Array[]): void {
    if (this.isClosed) this.sentAfterClose++;
    if (this.gone !== undefined) throw this.gone;
    const message = Buffer.concat(parts);
    if (message.readUInt32LE(0) !== message.length) throw failure('EINVAL');
    const [error, unique] = [-message.readInt32LE(4), Number(message.readBigUInt64LE(8))];
    if (unique === 0) {
      this.notifications.push({ code: -error, body: message.subarray(16) });
      return;
    }
    if (error !== 0 && message.length !== 16) throw failure('EINVAL');
    const waiter = this.waiting.get(unique);
    if (waiter === undefined) {
      this.strayReplies.push(message);
      throw failure('ENOENT');
    }
    this.waiting.delete(unique);
    waiter.resolve({ error, body: Buffer.from(message.subarray(16)) });
  }

  async sendInThread(parts: readonly Uint8Array[]): Promise<void> {
    await Promise.resolve();
    this.send(parts);
  }

  close(): void {
    this.isClosed = true;
  }

  // ---- What a test calls ------------------------------------------------------------------------

  /** Sends a request and waits for its answer. */
  request(opcode: Opcode, nodeid: number, body: Buffer = Buffer.alloc(0), caller: FakeCaller = {}): Promise<FakeReply> {
    return this.start(opcode, nodeid, body, caller).reply;
  }

  start(
    opcode: Opcode,
    nodeid: number,
    body: Buffer = Buffer.alloc(0),
    caller: FakeCaller = {},
  ): { readonly unique: number; readonly reply: Promise<FakeReply> } {
    const unique = this.next;
    this.next += 2;
    const waiter = deferred<FakeReply>();
    this.waiting.set(unique, waiter);
    this.deliver(requestBytes(OPCODES[opcode], unique, nodeid, body, caller));
    return { unique, reply: waiter.promise };
  }

  /** Sends a request that takes no answer. */
  tell(opcode: Opcode, nodeid: number, body: Buffer): void {
    this.deliver(requestBytes(OPCODES[opcode], this.next, nodeid, body, {}));
    this.next += 2;
  }

  /** Sends an INTERRUPT for a request, and waits for its answer if it gets one. */
  interrupt(unique: number): Promise<FakeReply> {
    const waiter = deferred<FakeReply>();
    this.waiting.set(unique + 1, waiter);
    this.deliver(requestBytes(OPCODES.INTERRUPT, unique + 1, 0, u64(unique), {}));
    return waiter.promise;
  }

  /** Nobody waits for the answer to this request any more: whoever sends it gets ENOENT. */
  abandon(unique: number): void {
    this.waiting.delete(unique);
  }

  /** Any bytes, as a request. */
  deliver(message: Buffer): void {
    this.queue.push(message);
    this.hand();
  }

  /** Reads end with ENODEV, as after umount. */
  unmount(): void {
    this.gone = failure('ENODEV');
    for (const { turn } of this.readers.splice(0)) turn.reject(this.gone);
  }

  /** One parked read fails. */
  failRead(code: string): void {
    this.readers.shift()?.turn.reject(failure(code));
  }

  get parkedReads(): number {
    return this.readers.length;
  }

  get unread(): number {
    return this.queue.length;
  }

  private hand(): void {
    while (this.queue.length > 0 && this.readers.length > 0) {
      const [message, reader] = [this.queue.shift(), this.readers.shift()];
      if (message === undefined || reader === undefined) return;
      if (reader.into.length < message.length) reader.turn.reject(failure('EINVAL'));
      else reader.turn.resolve(message.copy(reader.into));
    }
  }
}

export function requestBytes(opcode: number, unique: number, nodeid: number, body: Buffer, caller: FakeCaller): Buffer {
  const { uid = 0, gid = 0, pid = 0 } = caller;
  return Buffer.concat([
    u32(40 + body.length, opcode),
    u64(unique, nodeid),
    u32(uid, gid, pid),
    Buffer.alloc(4), // extension length, padding
    body,
  ]);
}

export function u32(...values: readonly number[]): Buffer {
  const out = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => out.writeUInt32LE(value >>> 0, 4 * i));
  return out;
}

export function u64(...values: readonly (number | bigint)[]): Buffer {
  const out = Buffer.alloc(8 * values.length);
  values.forEach((value, i) => out.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), 8 * i));
  return out;
}

/** Names as the kernel sends them, each with its NUL. */
export const cstrings = (...names: readonly (string | Buffer)[]): Buffer =>
  Buffer.concat(names.flatMap((name) => [Buffer.from(name), Buffer.alloc(1)]));
