/**
 * WebSocket frames (RFC 6455 section 5) as bytes. `FrameReceiver` does no input or output: it says where the next bytes
 * should be put (`space`), is told how many came (`took`), and hands over the fragments of each message.
 *
 * A frame that is larger than the staging buffer gets memory of its own, and what is left of it is received straight
 * into that: bulk data is copied once, from the kernel to where it stays. Small frames pass through the staging buffer.
 */
import { KIB } from '../core/limits.js';

export const OPCODES = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;
/** Status of a close frame (RFC 6455 section 7.4.1). */
export const CLOSE_STATUS = { normal: 1000, protocolError: 1002, unsupportedData: 1003, tooLarge: 1009 } as const;

/** The largest header: two bytes, a 64-bit length, a mask. */
export const MAX_FRAME_HEADER_BYTES = 14;
/** Payload of a ping, a pong or a close. */
export const MAX_CONTROL_BYTES = 125;
/** Frames up to this are received together; larger ones are worth a system call of their own. */
const STAGING_BYTES = 16 * KIB;
/** The same before much is believed of the peer: thousands of such come and go in a flood, and each is garbage then. */
const FIRST_STAGING_BYTES = 2 * KIB;
const FIN = 0x80;
const RESERVED = 0x70;
const MASKED = 0x80;
const LENGTH_16 = 126;
const LENGTH_64 = 127;
const MASK_BYTES = 4;

/** Writes the header of a frame at `at`; returns where its payload begins. The mask is zero: nothing to be done. */
export function putFrameHeader(
  into: Buffer,
  at: number,
  { opcode, fin, masked, length }: { opcode: number; fin: boolean; masked: boolean; length: number },
): number {
  into[at++] = opcode | (fin ? FIN : 0);
  const mask = masked ? MASKED : 0;
  if (length < LENGTH_16) {
    into[at++] = length | mask;
  } else if (length < 65_536) {
    into[at++] = LENGTH_16 | mask;
    at = into.writeUInt16BE(length, at);
  } else {
    into[at++] = LENGTH_64 | mask;
    at = into.writeUInt32BE(0, at);
    at = into.writeUInt32BE(length, at);
  }
  return masked ? into.writeUInt32LE(0, at) : at;
}

export function controlFrame(opcode: number, payload: Buffer, masked: boolean): Buffer {
  const frame = Buffer.allocUnsafe(MAX_FRAME_HEADER_BYTES + payload.length);
  const at = putFrameHeader(frame, 0, { opcode, fin: true, masked, length: payload.length });
  payload.copy(frame, at);
  return frame.subarray(0, at + payload.length);
}

/** Status and reason as the payload of a close frame; the reason is cut to what there is room for. */
export function closePayload(status: number, reason: string): Buffer {
  const text = Buffer.from(reason)
    .subarray(0, MAX_CONTROL_BYTES - 5)
    .toString('latin1');
  const payload = Buffer.alloc(2 + text.length);
  payload.writeUInt16BE(status, 0);
  // Cut bytes may not be UTF-8 any more, which the reason must be.
  payload.write(text.replace(/[^\x20-\x7e]/g, '?'), 2, 'latin1');
  return payload;
}

/** What a peer sent is not WebSocket, or too large. `status` is for the close frame. */
export class FrameError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Of one message. Ours have two fragments; another's may have more, but not without end. */
export interface FrameLimits {
  readonly messageBytes: number;
  readonly fragments: number;
}

export interface FrameReceiverOptions {
  /** Whether the sender must mask its frames: the side that connected must, the other must not. */
  readonly masked: boolean;
  readonly limits: FrameLimits;
  /**
   * Memory for a large frame, of exactly `length` bytes; it is the message's receiver's then. `isFirst`: for the first
   * fragment of a message.
   */
  readonly allocate: (length: number, isFirst: boolean) => Buffer;
  /** So much more memory is held for a message that is not whole. */
  readonly onHeld?: (bytes: number) => void;
  readonly onMessage: (fragments: readonly Buffer[]) => void;
  readonly onPing: (payload: Buffer) => void;
  readonly onClose: (status: number, reason: string) => void;
}

interface Frame {
  readonly opcode: number;
  readonly fin: boolean;
  /** The mask's place in the staging buffer, copied; undefined for none or zeros. */
  readonly mask: Buffer | undefined;
}

export class FrameReceiver {
  private staging = Buffer.allocUnsafe(FIRST_STAGING_BYTES);
  /** What has come and is not yet looked at: [start, end) of the staging buffer. */
  private start = 0;
  private end = 0;
  /** A large frame on its way. While there is one, the staging buffer is empty. */
  private bulk: { readonly frame: Frame; readonly into: Buffer; filled: number } | undefined;
  /** Of the message on its way; undefined between messages. */
  private fragments: Buffer[] | undefined;
  private messageBytes = 0;

  private limits: FrameLimits;

  constructor(private readonly options: FrameReceiverOptions) {
    this.limits = options.limits;
  }

  /** Takes larger messages from now on, and more at once. What `space` gave before must not be used any more. */
  raise(limits: FrameLimits): void {
    this.limits = limits;
    const staging = Buffer.allocUnsafeSlow(STAGING_BYTES);
    this.staging.copy(staging, 0, this.start, this.end);
    this.staging = staging;
    this.end -= this.start;
    this.start = 0;
  }

  /** Where the next bytes go. Never empty. */
  space(): Buffer {
    if (this.bulk !== undefined) return this.bulk.into.subarray(this.bulk.filled);
    return this.staging.subarray(this.end);
  }

  /** `count` bytes were put into `space()`. Throws FrameError; the connection cannot go on then. */
  took(count: number): void {
    const { bulk } = this;
    if (bulk === undefined) {
      this.end += count;
      while (this.next());
      return;
    }
    bulk.filled += count;
    if (bulk.filled < bulk.into.length) return;
    this.bulk = undefined;
    this.complete(bulk.frame, bulk.into, true);
  }

  /** Takes one frame out of the staging buffer, if there is one whole, or the beginning of a large one. */
  private next(): boolean {
    const { staging, start } = this;
    const available = this.end - start;
    if (available < 2) return this.keep();
    const first = staging.readUInt8(start);
    const second = staging.readUInt8(start + 1);
    const opcode = first & 0x0f;
    const fin = (first & FIN) !== 0;
    const masked = (second & MASKED) !== 0;
    const short = second & 0x7f;
    if ((first & RESERVED) !== 0) throw invalid('reserved bits are set');
    if (masked !== this.options.masked) throw invalid(masked ? 'masked frame' : 'frame without a mask');
    const lengthBytes = short === LENGTH_16 ? 2 : short === LENGTH_64 ? 8 : 0;
    const headerBytes = 2 + lengthBytes + (masked ? MASK_BYTES : 0);
    this.checkOpcode(opcode, fin, short);
    if (available < headerBytes) return this.keep();
    const length =
      lengthBytes === 0
        ? short
        : lengthBytes === 2
          ? staging.readUInt16BE(start + 2)
          : staging.readUInt32BE(start + 2) * 2 ** 32 + staging.readUInt32BE(start + 6);
    if (opcode < OPCODES.close) this.checkSize(length);
    const body = start + headerBytes;
    const here = Math.min(length, this.end - body);
    if (here < length && headerBytes + length <= staging.length) return this.keep();
    const key = masked ? staging.subarray(body - MASK_BYTES, body) : undefined;
    const mask = key === undefined || key.readUInt32LE(0) === 0 ? undefined : Buffer.from(key);
    const frame = { opcode, fin, mask };
    const into = here < length ? this.options.allocate(length, opcode === OPCODES.binary) : Buffer.allocUnsafe(length);
    staging.copy(into, 0, body, body + here);
    this.start = body + here;
    if (here < length) {
      this.options.onHeld?.(length);
      this.start = this.end = 0;
      this.bulk = { frame, into, filled: here };
      return false;
    }
    this.complete(frame, into, false);
    return true;
  }

  /** Waits for more, with room for it. */
  private keep(): false {
    this.staging.copyWithin(0, this.start, this.end);
    this.end -= this.start;
    this.start = 0;
    return false;
  }

  private checkOpcode(opcode: number, fin: boolean, shortLength: number): void {
    switch (opcode) {
      case OPCODES.continuation:
        if (this.fragments === undefined) throw invalid('continuation of no message');
        return;
      case OPCODES.binary:
        if (this.fragments !== undefined) throw invalid('message within a message');
        return;
      case OPCODES.text:
        throw new FrameError(CLOSE_STATUS.unsupportedData, 'text message');
      case OPCODES.close:
      case OPCODES.ping:
      case OPCODES.pong:
        if (!fin || shortLength > MAX_CONTROL_BYTES) throw invalid('control frame that is long or in fragments');
        return;
      default:
        throw invalid(`opcode ${opcode}`);
    }
  }

  private checkSize(length: number): void {
    const total = this.messageBytes + length;
    const { messageBytes, fragments } = this.limits;
    if (total > messageBytes || (this.fragments?.length ?? 0) >= fragments) {
      throw new FrameError(
        CLOSE_STATUS.tooLarge,
        `message of ${total} bytes or more, at most ${messageBytes} are taken`,
      );
    }
  }

  private complete({ opcode, fin, mask }: Frame, payload: Buffer, isBulk: boolean): void {
    if (mask !== undefined) unmask(payload, mask);
    switch (opcode) {
      case OPCODES.ping:
        this.options.onPing(payload);
        return;
      case OPCODES.pong:
        return;
      case OPCODES.close:
        if (payload.length === 1) throw invalid('close frame of one byte');
        this.options.onClose(payload.length === 0 ? 1005 : payload.readUInt16BE(0), payload.toString('utf8', 2));
        return;
      default: // data
    }
    const fragments = (this.fragments ??= []);
    fragments.push(payload);
    this.messageBytes += payload.length;
    if (!fin) {
      if (!isBulk) this.options.onHeld?.(payload.length);
      return;
    }
    this.fragments = undefined;
    this.messageBytes = 0;
    this.options.onMessage(fragments);
  }
}

const invalid = (what: string): FrameError => new FrameError(CLOSE_STATUS.protocolError, `invalid frame: ${what}`);

function unmask(payload: Buffer, mask: Buffer): void {
  for (let i = 0; i < payload.length; i++) payload[i] = (payload[i] ?? 0) ^ (mask[i % MASK_BYTES] ?? 0);
}
