/**
 * What carries messages between two processes: `ws` in production (websocket.ts), the simulated network
 * in tests. A message is a header and a payload, either may be empty, both arrive whole or not at all,
 * in order. Nothing is said about when: delivery ends with the connection.
 */

export interface Message {
  /** At most MAX_HEADER_BYTES. */
  readonly header: Uint8Array;
  /** At most MAX_PAYLOAD_BYTES. The receiver owns it. */
  readonly payload: Uint8Array;
  /** To be sent: nobody needs the payload's memory afterwards, so it may go back to `payloadBuffers`. */
  readonly reusable?: boolean;
}

export interface TransportHandlers {
  onMessage(message: Message): void;
  /** Called once. `reason` is for the log. No message follows. */
  onClose(reason: string): void;
}

export interface Transport {
  /** Where the peer is, for the log. */
  readonly peer: string;
  /** Must be called once, in the tick that yields the transport. */
  start(handlers: TransportHandlers): void;
  /**
   * The peer has proved the secret: from now on messages may be large. Before, they are cut to what a handshake needs.
   * False when the process has no place for one more connection: it should be closed.
   */
  trust(): boolean;
  /**
   * Queues a message. The bytes must not change until `drained`. After the connection has ended it does nothing.
   */
  send(message: Message): void;
  /** Bytes queued and not yet taken by the network. */
  readonly queuedBytes: number;
  /** Resolves when fewer than SEND_HIGH_WATER_BYTES are queued, or when the connection has ended. */
  drained(): Promise<void>;
  /** Ends the connection. `onClose` follows, unless it was called already. */
  close(reason: string): void;
}

export interface Listener {
  /** host:port that peers can reach it at; the port is the real one when 0 was asked for. */
  readonly address: string;
  close(): Promise<void>;
}

export interface Network {
  /**
   * Accepts connections at 'host:port'; each is handed over once its caller has spoken. EADDRINUSE and the like are CairnError
   * with a remedy in the message.
   */
  listen(address: string, onConnection: (transport: Transport) => void): Promise<Listener>;
  /** Connects to 'host:port'. Fails with UNAVAILABLE when nobody answers within `timeoutMs`. */
  connect(address: string, timeoutMs: number): Promise<Transport>;
}
