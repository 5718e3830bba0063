/**
 * One WebSocket connection after its handshake, as a `Transport`.
 *
 * A message is one binary WebSocket message: u32 little-endian length of the header, the header, the payload. Large
 * payload goes as a second fragment of the message, so that it is received straight to where it stays, and sent from
 * where it is. Frames of the connecting side carry an all-zero mask: masking protects browsers' proxies (RFC 6455
 * section 10.3) and costs three quarters of the throughput between our own processes.
 */
import type { Socket } from 'node:net';
import {
  KIB,
  MAX_HEADER_BYTES,
  MAX_PARTIAL_BYTES,
  MAX_PAYLOAD_BYTES,
  MAX_UNPROVEN_FRAGMENTS,
  MAX_UNPROVEN_MESSAGE_BYTES,
  MAX_UNREAD_BYTES,
  SEND_HIGH_WATER_BYTES,
  MAX_MESSAGE_FRAGMENTS,
} from '../core/limits.js';
import { payloadBuffers } from '../core/disk/payload-buffers.js';
import { copyInto, receiveInto, type BytesReceiver } from './bulk-socket.js';
import { NO_PAYLOAD } from './channel.js';
import {
  CLOSE_STATUS,
  closePayload,
  controlFrame,
  FrameError,
  FrameReceiver,
  MAX_FRAME_HEADER_BYTES,
  OPCODES,
  putFrameHeader,
} from './frames.js';
import { HeldMemory, type Holder } from './held-memory.js';
import type { Message, Transport, TransportHandlers } from './transport.js';

const LENGTH_BYTES = 4;
export const MAX_MESSAGE_BYTES = LENGTH_BYTES + MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES;
/** Payload up to this is copied behind its header: one fragment costs less than the copy. */
const INLINE_PAYLOAD_BYTES = 16 * KIB;
/** Time for a peer to answer the closing handshake before the socket is cut. */
const CLOSE_GRACE_MS = 1_000;

const UNPROVEN_LIMITS = { messageBytes: MAX_UNPROVEN_MESSAGE_BYTES, fragments: MAX_UNPROVEN_FRAGMENTS };
const LIMITS = { messageBytes: MAX_MESSAGE_BYTES, fragments: MAX_MESSAGE_FRAGMENTS };

/** Takes what comes after the end of any connection. */
const waste = Buffer.allocUnsafeSlow(64 * KIB);

/** Of this process: messages that have come in part, and what peers should have read. */
const partialMessages = new HeldMemory(MAX_PARTIAL_BYTES);
const unreadMessages = new HeldMemory(MAX_UNREAD_BYTES);

/** A connection whose handshake is done. */
export interface Upgraded {
  readonly socket: Socket;
  /** What came behind the handshake. */
  readonly head: Buffer;
  /** Whether this side connected. */
  readonly connecting: boolean;
  readonly peer: string;
  /** The socket is closed. */
  readonly onEnd?: () => void;
  /** The peer has proved the secret; false when there is no place for one more. */
  readonly onTrust?: () => boolean;
}

export class WebSocketTransport implements Transport {
  readonly peer: string;
  queuedBytes = 0;
  private waiters: (() => void)[] = [];
  private handlers: TransportHandlers | undefined;
  private closeReason: string | undefined;
  private ended = false;
  private corked = false;
  private socket: Socket;
  private readonly receiver: FrameReceiver;
  private trusted = false;
  /** The message that is on its way to this side. */
  private readonly partial: Holder = {
    cut: () => this.close('protocol: a message that does not end'),
    bytes: 0,
  };

  /** Holds while more is queued than a sender waits for. */
  private readonly unread: Holder = {
    cut: () => this.giveUp('the peer reads too slowly, and too much waits for such peers'),
    bytes: 0,
  };
  private readonly bytes: BytesReceiver = {
    space: () => (this.ended ? waste : this.receiver.space()),
    took: (count) => this.took(count),
  };
  private readonly copied = (data: Buffer): void => copyInto(this.bytes, data);
  private readonly failed = (error: Error): void => {
    this.closeReason ??= error.message; // 'close' follows
  };
  private readonly hungUp = (): void => {
    this.socket.end();
  };
  private readonly closed = (): void => {
    this.upgraded.onEnd?.();
    this.end(this.closeReason ?? 'the peer hung up');
  };

  constructor(private readonly upgraded: Upgraded) {
    this.peer = upgraded.peer;
    this.socket = upgraded.socket;
    this.receiver = new FrameReceiver({
      masked: !upgraded.connecting,
      limits: UNPROVEN_LIMITS,
      // What is decoded from a header may be kept for long, payload is given back.
      allocate: (length, isFirst) => (isFirst ? Buffer.allocUnsafeSlow(length) : payloadBuffers.take(length)),
      onHeld: (bytes) => partialMessages.grow(this.partial, bytes),
      onMessage: (fragments) => this.receive(fragments),
      onPing: (payload) => this.pong(payload),
      onClose: (status, reason) => this.closedByPeer(status, reason),
    });
  }

  start(handlers: TransportHandlers): void {
    this.handlers = handlers;
    const { socket } = this;
    this.listen(socket);
    socket.on('data', this.copied);
    copyInto(this.bytes, this.upgraded.head);
    if (this.trusted) this.receiveDirectly();
  }

  private listen(socket: Socket): void {
    socket.setNoDelay(true);
    socket.on('error', this.failed);
    socket.on('end', this.hungUp);
    socket.on('close', this.closed);
  }

  /** From now on received bytes go where they stay: worth the making of a socket for peers that have the secret only. */
  private receiveDirectly(): void {
    const { socket } = this;
    if (this.handlers === undefined || this.ended || socket.destroyed) return;
    socket.off('data', this.copied).off('end', this.hungUp).off('close', this.closed);
    this.socket = receiveInto(socket, this.bytes);
    this.listen(this.socket);
  }

  trust(): boolean {
    if (this.trusted) return true;
    this.trusted = this.upgraded.onTrust?.() ?? true;
    if (this.trusted) {
      this.receiver.raise(LIMITS);
      this.receiveDirectly();
    }
    return this.trusted;
  }

  send({ header, payload, reusable }: Message): void {
    if (this.ended) return;
    this.cork();
    const masked = this.upgraded.connecting;
    const inline = payload.length <= INLINE_PAYLOAD_BYTES;
    const headerBytes = LENGTH_BYTES + header.length;
    const length = headerBytes + (inline ? payload.length : 0);
    const first = Buffer.allocUnsafe(2 * MAX_FRAME_HEADER_BYTES + length);
    let at = putFrameHeader(first, 0, { opcode: OPCODES.binary, fin: inline, masked, length });
    at = first.writeUInt32LE(header.length, at);
    first.set(header, at);
    at += header.length;
    if (inline) {
      first.set(payload, at);
      at += payload.length;
    } else {
      at = putFrameHeader(first, at, { opcode: OPCODES.continuation, fin: true, masked, length: payload.length });
    }
    const size = at + (inline ? 0 : payload.length);
    this.queued(size);
    const sent = (error?: Error | null): void => {
      this.unqueued(size);
      if (reusable === true && (error ?? undefined) === undefined) payloadBuffers.giveBack(payload);
      if (this.queuedBytes < SEND_HIGH_WATER_BYTES) this.wake();
    };
    const frame = first.subarray(0, at);
    if (inline) {
      this.socket.write(frame, sent);
      return;
    }
    this.socket.write(frame);
    this.socket.write(payload, sent);
  }

  drained(): Promise<void> {
    if (this.ended || this.queuedBytes < SEND_HIGH_WATER_BYTES) return Promise.resolve();
    return new Promise((resolve) => this.waiters.push(resolve));
  }

  close(reason: string): void {
    this.closeWith(CLOSE_STATUS.normal, reason);
  }

  /** Cuts the connection without a word. */
  destroy(): void {
    this.socket.destroy();
  }

  /** The same, of a stranger: by a reset, so that the kernel keeps nothing of it. */
  cut(reason: string): void {
    this.closeReason ??= reason;
    this.socket.resetAndDestroy();
  }

  /** All that is sent in one tick goes out in one system call, which costs more than making the message. */
  private cork(): void {
    if (this.corked) return;
    this.corked = true;
    const { socket } = this;
    socket.cork();
    process.nextTick(() => {
      this.corked = false;
      socket.uncork();
    });
  }

  private closeWith(status: number, reason: string): void {
    if (this.ended) return;
    const { socket } = this;
    socket.end(controlFrame(OPCODES.close, closePayload(status, reason), this.upgraded.connecting));
    // Ours hang up at once, or the peer is gone.
    const timer = setTimeout(() => socket.destroy(), CLOSE_GRACE_MS);
    timer.unref();
    socket.once('close', () => clearTimeout(timer));
    // This side is done with it now: no message is delivered any more.
    this.end(reason);
  }

  /** Ends the connection at once, with what is queued. */
  private giveUp(reason: string): void {
    this.end(reason);
    this.destroy();
  }

  /** A stranger's connection is cut at once: to read on, for the peer to hear why, is work that he could ask for without end. */
  private refuse(status: number, reason: string): void {
    if (this.trusted) {
      this.closeWith(status, reason);
      return;
    }
    this.giveUp(reason);
  }

  private took(count: number): void {
    if (this.ended) return;
    try {
      this.receiver.took(count);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.refuse(error.status, `protocol: ${error.message}`);
    }
  }

  private receive(fragments: readonly Buffer[]): void {
    partialMessages.end(this.partial);
    if (this.ended) return;
    const message = parseMessage(fragments);
    if (message === undefined) this.close('protocol: message shorter than it says');
    else this.handlers?.onMessage(message);
  }

  private pong(payload: Buffer): void {
    if (!this.trusted) {
      this.refuse(CLOSE_STATUS.protocolError, 'protocol: a ping in place of the proof of the secret');
      return;
    }
    // A peer that pings and does not read is not answered more and more.
    if (this.ended || this.queuedBytes >= SEND_HIGH_WATER_BYTES) return;
    const frame = controlFrame(OPCODES.pong, payload, this.upgraded.connecting);
    this.queued(frame.length);
    this.socket.write(frame, () => this.unqueued(frame.length));
  }

  private queued(size: number): void {
    this.queuedBytes += size;
    if (this.queuedBytes < SEND_HIGH_WATER_BYTES) return;
    unreadMessages.grow(this.unread, this.unread.bytes === 0 ? this.queuedBytes : size);
  }

  private unqueued(size: number): void {
    this.queuedBytes -= size;
    if (this.queuedBytes < SEND_HIGH_WATER_BYTES) unreadMessages.end(this.unread);
    else unreadMessages.shrink(this.unread, size);
  }

  private closedByPeer(status: number, reason: string): void {
    this.closeWith(CLOSE_STATUS.normal, reason === '' ? `code ${status}` : reason);
  }

  private wake(): void {
    const waiters = this.waiters;
    this.waiters = [];
    for (const wake of waiters) wake();
  }

  private end(reason: string): void {
    if (this.ended) return;
    this.ended = true;
    partialMessages.end(this.partial);
    unreadMessages.end(this.unread);
    this.closeReason ??= reason;
    this.wake();
    this.handlers?.onClose(this.closeReason);
  }
}

function parseMessage(fragments: readonly Buffer[]): Message | undefined {
  const first = fragments[0];
  const second = fragments[1];
  if (fragments.length === 2 && first !== undefined && second !== undefined && first.length >= LENGTH_BYTES) {
    if (first.length === LENGTH_BYTES + first.readUInt32LE(0)) {
      return { header: first.subarray(LENGTH_BYTES), payload: second };
    }
  }
  const whole = fragments.length === 1 && first !== undefined ? first : Buffer.concat(fragments);
  if (whole.length < LENGTH_BYTES) return undefined;
  const end = LENGTH_BYTES + whole.readUInt32LE(0);
  if (end > whole.length) return undefined;
  return {
    header: whole.subarray(LENGTH_BYTES, end),
    payload: end === whole.length ? NO_PAYLOAD : whole.subarray(end),
  };
}
