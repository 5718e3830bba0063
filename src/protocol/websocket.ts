/**
 * The real network: WebSocket connections. The only importer of ws, which makes the handshake; what follows on the
 * connection is websocket-transport.ts's.
 */
import { WebSocket, WebSocketServer } from 'ws';
import type { IncomingMessage } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { asCairnError, CairnError } from '../core/errors.js';
import { MAX_MESSAGE_BYTES, WebSocketTransport } from './websocket-transport.js';
import type { Listener, Network, Transport } from './transport.js';

const COMMON_OPTIONS = { perMessageDeflate: false, maxPayload: MAX_MESSAGE_BYTES } as const;

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

/** Hands the connection over when the handshake is done, where a WebSocket would begin to use it. */
class HandshakeSocket extends WebSocket {
  upgraded: { readonly socket: Socket; readonly head: Buffer } | undefined;

  /** Called by ws, on both sides, with the connection and what came behind the handshake. */
  setSocket(socket: Socket, head: Buffer): void {
    this.upgraded = { socket, head };
    this.emit('open');
  }
}

export class WebSocketNetwork implements Network {
  listen(address: string, onConnection: (transport: Transport) => void): Promise<Listener> {
    const { host, port } = parseAddress(address);
    const open = new Set<WebSocketTransport>();
    return new Promise((resolve, reject) => {
      const server = new WebSocketServer({
        ...COMMON_OPTIONS,
        host,
        port,
        clientTracking: false,
        WebSocket: HandshakeSocket,
      });
      server.on('connection', ({ upgraded }: HandshakeSocket, request: IncomingMessage) => {
        if (upgraded === undefined) return;
        const { remoteAddress = 'unknown', remotePort = 0 } = request.socket;
        const transport = new WebSocketTransport({
          ...upgraded,
          connecting: false,
          peer: formatAddress(remoteAddress, remotePort),
          onEnd: () => open.delete(transport),
        });
        open.add(transport);
        onConnection(transport);
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
              for (const transport of open) transport.destroy();
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
      const handshake = new HandshakeSocket(`ws://${peer}/`, { ...COMMON_OPTIONS, handshakeTimeout: timeoutMs });
      handshake.once('error', (error: Error) => {
        reject(
          new CairnError('UNAVAILABLE', `cannot reach ${peer}: ${error.message || 'no answer'}`, { cause: error }),
        );
      });
      handshake.once('open', () => {
        const { upgraded } = handshake;
        if (upgraded !== undefined) resolve(new WebSocketTransport({ ...upgraded, connecting: true, peer }));
      });
    });
  }
}
