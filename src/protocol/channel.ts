/**
 * Envelopes over a transport: what the handshake and the RPC peer, one after the other, use. Anything that is not an
 * envelope ends the connection with a reason.
 */
import { MAX_HEADER_BYTES, MAX_IN_FLIGHT_REQUESTS, MAX_PAYLOAD_BYTES } from '../core/limits.js';
import { Envelope, type EnvelopeInit } from './generated/messages.js';
import type { Message, Transport } from './transport.js';

export const NO_PAYLOAD = new Uint8Array(0);

export interface ChannelHandlers {
  onEnvelope(envelope: Envelope, payload: Uint8Array): void;
  onClose(reason: string): void;
}

export class Channel {
  private handlers: ChannelHandlers | undefined;
  private closeReason: string | undefined;
  /** Arrived while nobody listens: between the steps of the handshake, or behind its last message. */
  private early: [Envelope, Uint8Array][] = [];

  constructor(private readonly transport: Transport) {
    transport.start({
      onMessage: (message) => this.receive(message),
      onClose: (reason) => {
        if (this.closeReason !== undefined) return;
        this.closeReason = reason;
        this.handlers?.onClose(reason);
      },
    });
  }

  get peer(): string {
    return this.transport.peer;
  }

  /** As of the transport. */
  trust(): boolean {
    return this.transport.trust();
  }

  get isClosed(): boolean {
    return this.closeReason !== undefined;
  }

  get queuedBytes(): number {
    return this.transport.queuedBytes;
  }

  drained(): Promise<void> {
    return this.transport.drained();
  }

  /** Who gets what arrives from now on. When the connection has ended already, `onClose` is called at once. */
  handle(handlers: ChannelHandlers): void {
    this.handlers = handlers;
    for (let next = this.early.shift(); next !== undefined; next = this.early.shift()) {
      handlers.onEnvelope(...next);
      if (this.handlers !== handlers) return;
    }
    if (this.closeReason !== undefined) handlers.onClose(this.closeReason);
  }

  /** Keeps what arrives from now on, within a bound, for the next `handle`. */
  release(): void {
    this.handlers = undefined;
  }

  /** `reusable` as in `Message`. */
  send(envelope: EnvelopeInit, payload: Uint8Array = NO_PAYLOAD, reusable = false): void {
    this.transport.send({ header: Envelope.encode(envelope).finish(), payload, reusable });
  }

  close(reason: string): void {
    this.transport.close(reason);
  }

  private receive(message: Message): void {
    // What a peer had sent before it learnt that this side closed.
    if (this.closeReason !== undefined) return;
    if (message.header.length > MAX_HEADER_BYTES || message.payload.length > MAX_PAYLOAD_BYTES) {
      this.close(`protocol: message of ${message.header.length} + ${message.payload.length} bytes is too large`);
      return;
    }
    let envelope: Envelope;
    try {
      envelope = Envelope.decode(message.header);
    } catch (error) {
      this.close(`protocol: not an envelope (${String(error)})`);
      return;
    }
    if (this.handlers !== undefined) {
      this.handlers.onEnvelope(envelope, message.payload);
      return;
    }
    if (this.early.length >= MAX_IN_FLIGHT_REQUESTS) {
      this.close('protocol: too many messages during the handshake');
      return;
    }
    this.early.push([envelope, message.payload]);
  }
}
