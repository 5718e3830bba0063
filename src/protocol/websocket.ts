/**
 * The real network: WebSocket connections. The only importer of ws.
 *
 * A message is one binary WebSocket message: u32 little-endian length of the header, the header, the payload. Large
 * payload goes as a second fragment of the message, so that neither side copies it. Client frames carry an all-zero
 * mask, which `ws` skips: masking protects browsers' proxies (RFC 6455 section 10.3) and costs three quarters of the
 * throughput between our own processes.
 */
import { WebSocket, WebSocketServer, type RawData } from 'ws';
import type { IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { asCairnError, CairnError } from '../core/errors.js';
import { KIB, MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, SEND_HIGH_WATER_BYTES } from '../core/limits.js';
import { NO_PAYLOAD } from './channel.js';
import type { Listener, Message, Network, Transport, TransportHandlers } from './transport.js';

const LENGTH_BYTES = 4;
const MAX_MESSAGE_BYTES = LENGTH_BYTES + MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES;
/** Payload up to this is copied behind its header: one fragment costs less than the copy. */
const INLINE_PAYLOAD_BYTES = 16 * KIB;
/** Time for a peer to answer the closing handshake before the socket is cut. */
const CLOSE_GRACE_MS = 1_000;

const COMMON_OPTIONS = { perMessageDeflate: false, maxPayload: MAX_MESSAGE_BYTES, skipUTF8Validation: true } as const;

/** 'host:port' or '[v6]:port' in parts. EINVAL with the form wanted when it is neither. */
export function parseAddress(address: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]/\s]+)):(\d{1,5})$/.exec(address);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) {
    throw new CairnError('EINVAL', `'${address}' is not an address: write HOST:PORT, such as 127.0.0.1:9420`);
  }
  return { host, port };
}

const formatAddress = (host: string, port: number): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;

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

class WebSocketTransport implements Transport {
  queuedBytes = 0;
  private waiters: (() => void)[] = [];
  private handlers: TransportHandlers | undefined;
  private closeReason: string | undefined;
  private ended = false;
  private corked = false;

  constructor(
    private readonly socket: WebSocket,
    private readonly stream: Duplex,
    readonly peer: string,
  ) {
    socket.binaryType = 'fragments';
    socket.on('message', (data, isBinary) => this.receive(data, isBinary));
    socket.on('error', (error) => {
      this.closeReason ??= error.message; // 'close' follows
    });
    socket.on('close', (code, reason) => this.end(this.closeReason ?? (reason.toString() || `code ${code}`)));
  }

  start(handlers: TransportHandlers): void {
    this.handlers = handlers;
    if (this.ended) handlers.onClose(this.closeReason ?? 'closed');
  }

  send(message: Message): void {
    if (this.ended || this.socket.readyState !== WebSocket.OPEN) return;
    this.cork();
    const { header, payload } = message;
    const inline = payload.length <= INLINE_PAYLOAD_BYTES;
    const first = Buffer.allocUnsafe(LENGTH_BYTES + header.length + (inline ? payload.length : 0));
    first.writeUInt32LE(header.length, 0);
    first.set(header, LENGTH_BYTES);
    if (inline) first.set(payload, LENGTH_BYTES + header.length);
    const size = first.length + (inline ? 0 : payload.length);
    this.queuedBytes += size;
    const sent = (): void => {
      this.queuedBytes -= size;
      if (this.queuedBytes < SEND_HIGH_WATER_BYTES) this.wake();
    };
    if (inline) {
      this.socket.send(first, { binary: true }, sent);
      return;
    }
    this.socket.send(first, { binary: true, fin: false });
    this.socket.send(payload, { binary: true, fin: true }, sent);
  }

  /** All that is sent in one tick goes out in one system call, which costs more than making the message. */
  private cork(): void {
    if (this.corked) return;
    this.corked = true;
    this.stream.cork();
    process.nextTick(() => {
      this.corked = false;
      this.stream.uncork();
    });
  }

  drained(): Promise<void> {
    if (this.ended || this.queuedBytes < SEND_HIGH_WATER_BYTES) return Promise.resolve();
    return new Promise((resolve) => this.waiters.push(resolve));
  }

  close(reason: string): void {
    if (this.ended) return;
    this.closeReason ??= reason;
    // The reason of a close frame has room for 123 bytes.
    this.socket.close(
      1000,
      Buffer.from(reason)
        .subarray(0, 120)
        .toString('latin1')
        .replace(/[^\x20-\x7e]/g, '?'),
    );
    // `ws` waits 30 s for the peer's close frame; ours come at once, or the peer is gone.
    const timer = setTimeout(() => this.socket.terminate(), CLOSE_GRACE_MS);
    timer.unref();
    this.socket.once('close', () => clearTimeout(timer));
    // This side is done with it now: no message is delivered any more.
    this.end(reason);
  }

  private receive(data: RawData, isBinary: boolean): void {
    if (this.ended) return;
    if (!isBinary || !Array.isArray(data)) {
      this.close('protocol: text message');
      return;
    }
    const message = parseMessage(data);
    if (message === undefined) {
      this.close('protocol: message shorter than it says');
      return;
    }
    this.handlers?.onMessage(message);
  }

  private wake(): void {
    const waiters = this.waiters;
    this.waiters = [];
    for (const wake of waiters) wake();
  }

  private end(reason: string): void {
    if (this.ended) return;
    this.ended = true;
    this.closeReason ??= reason;
    this.wake();
    this.handlers?.onClose(this.closeReason);
  }
}

export class WebSocketNetwork implements Network {
  listen(address: string, onConnection: (transport: Transport) => void): Promise<Listener> {
    const { host, port } = parseAddress(address);
    return new Promise((resolve, reject) => {
      const server = new WebSocketServer({ ...COMMON_OPTIONS, host, port, clientTracking: true });
      server.on('connection', (socket: WebSocket, request: IncomingMessage) => {
        const { remoteAddress = 'unknown', remotePort = 0 } = request.socket;
        onConnection(new WebSocketTransport(socket, request.socket, formatAddress(remoteAddress, remotePort)));
      });
      server.once('error', (error: NodeJS.ErrnoException) => {
        if (error.code === 'EADDRINUSE') {
          const message = `port ${port} of ${host} is taken: stop what listens there, or choose another port`;
          reject(new CairnError('EBUSY', message, { cause: error }));
          return;
        }
        const { code, message } = asCairnError(error);
        reject(
          new CairnError(code === 'INTERNAL' ? 'EINVAL' : code, `cannot listen on ${address}: ${message}`, {
            cause: error,
          }),
        );
      });
      server.once('listening', () => {
        server.on('error', () => undefined); // errors of single connections come to their sockets
        const real = (server.address() as AddressInfo).port;
        resolve({
          address: formatAddress(host, real),
          close: () =>
            new Promise((done) => {
              for (const socket of server.clients) socket.terminate();
              server.close(() => done());
            }),
        });
      });
    });
  }

  connect(address: string, timeoutMs: number): Promise<Transport> {
    const { host, port } = parseAddress(address);
    const peer = formatAddress(host, port);
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws://${peer}/`, {
        ...COMMON_OPTIONS,
        handshakeTimeout: timeoutMs,
        generateMask: (mask) => mask.fill(0),
      });
      const onError = (error: Error): void => {
        reject(
          new CairnError('UNAVAILABLE', `cannot reach ${peer}: ${error.message || 'no answer'}`, { cause: error }),
        );
      };
      socket.once('error', onError);
      socket.once('upgrade', ({ socket: stream }: IncomingMessage) => {
        socket.once('open', () => {
          socket.off('error', onError);
          resolve(new WebSocketTransport(socket, stream, peer));
        });
      });
    });
  }
}
