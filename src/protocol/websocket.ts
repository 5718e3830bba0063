/**
 * The real network: WebSocket connections. The only importer of ws, which makes the handshake; what follows on the
 * connection is websocket-transport.ts's.
 */
import { WebSocket, WebSocketServer } from 'ws';
import { createServer } from 'node:http';
import type { IncomingMessage, Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { asCairnError, CairnError } from '../core/errors.js';
import {
  HANDSHAKE_TIMEOUT_MS,
  MAX_CONNECTIONS,
  MAX_UNPROVEN_CONNECTIONS,
  MAX_UNPROVEN_OF_ADDRESS,
  MAX_UPGRADE_BYTES,
} from '../core/limits.js';
import { Strangers, type Stranger } from './strangers.js';
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

interface UpgradedConnection {
  readonly upgraded: { readonly socket: Socket; readonly head: Buffer };
  readonly stranger: Stranger;
  readonly peer: string;
}

function listenFailure(error: NodeJS.ErrnoException, address: string): CairnError {
  const { host, port } = parseAddress(address);
  if (error.code === 'EADDRINUSE') {
    const message = `port ${port} of ${host} is taken: stop what listens there, or choose another port`;
    return new CairnError('EBUSY', message, { cause: error });
  }
  const { code, message } = asCairnError(error);
  return new CairnError(code === 'INTERNAL' ? 'EINVAL' : code, `cannot listen on ${address}: ${message}`, {
    cause: error,
  });
}

/** Connections that a network accepts: of peers that proved the secret, and of others. */
export interface ConnectionBounds {
  readonly connections: number;
  readonly unproven: number;
  readonly unprovenOfAddress: number;
}

const DEFAULT_BOUNDS: ConnectionBounds = {
  connections: MAX_CONNECTIONS,
  unproven: MAX_UNPROVEN_CONNECTIONS,
  unprovenOfAddress: MAX_UNPROVEN_OF_ADDRESS,
};
/** How often those are looked for whose time for the proof is over. */
const SWEEP_MS = 500;

export class WebSocketNetwork implements Network {
  private proven = 0;
  private readonly strangers: Strangers;

  constructor(private readonly bounds: ConnectionBounds = DEFAULT_BOUNDS) {
    this.strangers = new Strangers(bounds.unproven, bounds.unprovenOfAddress);
  }

  /** Connections of peers that proved the secret, and of others. */
  get accepted(): { readonly proven: number; readonly unproven: number } {
    return { proven: this.proven, unproven: this.strangers.size };
  }

  /** Lets go of all connections whose peers have not proved the secret. */
  shed(): void {
    this.strangers.endAll('this server is short of file descriptors');
  }

  listen(address: string, onConnection: (transport: Transport) => void): Promise<Listener> {
    const { host, port } = parseAddress(address);
    const open = new Set<{ destroy(): void }>();
    const { server, onUpgrade } = this.httpServer();
    const begin = ({ upgraded, stranger, peer }: UpgradedConnection): void => {
      let isProven = false;
      const transport = new WebSocketTransport({
        ...upgraded,
        connecting: false,
        peer,
        onTrust: () => {
          if (this.proven >= this.bounds.connections) return false;
          this.strangers.delete(stranger);
          isProven = true;
          this.proven++;
          return true;
        },
        onEnd: () => {
          open.delete(transport);
          this.strangers.delete(stranger);
          if (isProven) this.proven--;
        },
      });
      stranger.end = (reason) => transport.cut(reason);
      open.add(transport);
      onConnection(transport);
    };
    onUpgrade((connection) => {
      const { socket, head } = connection.upgraded;
      if (head.length > 0) {
        begin(connection);
        return;
      }
      // The caller speaks first. Until it does, nothing is made for it.
      const left = (): void => {
        open.delete(socket);
        this.strangers.delete(connection.stranger);
      };
      const hungUp = (): void => {
        socket.destroy();
      };
      open.add(socket);
      socket.once('close', left).once('end', hungUp);
      socket.once('data', (first: Buffer) => {
        socket.off('close', left).off('end', hungUp);
        open.delete(socket);
        begin({ ...connection, upgraded: { socket, head: first } });
      });
    });
    const sweep = setInterval(() => this.strangers.sweep(performance.now()), SWEEP_MS);
    sweep.unref();
    return new Promise((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        clearInterval(sweep);
        reject(listenFailure(error, address));
      });
      server.listen(port, host, () => {
        server.on('error', () => undefined); // errors of single connections come to their sockets
        const real = (server.address() as AddressInfo).port;
        resolve({
          address: formatAddress(host, real),
          close: () =>
            new Promise((done) => {
              clearInterval(sweep);
              for (const connection of open) connection.destroy();
              server.close(() => done());
              server.closeAllConnections();
            }),
        });
      });
    });
  }

  /** Takes requests for a WebSocket, small and soon, and nothing else. */
  private httpServer(): { server: Server; onUpgrade: (listener: (connection: UpgradedConnection) => void) => void } {
    const server = createServer({
      maxHeaderSize: MAX_UPGRADE_BYTES,
      headersTimeout: HANDSHAKE_TIMEOUT_MS,
      requestTimeout: HANDSHAKE_TIMEOUT_MS,
      connectionsCheckingInterval: SWEEP_MS,
    });
    const sockets = new WeakMap<Duplex, Stranger>();
    server.on('connection', (socket: Socket) => {
      const { remoteAddress } = socket;
      const stranger: Stranger = {
        address: remoteAddress ?? 'unknown',
        sinceMs: performance.now(),
        // By a reset: the kernel keeps nothing of it.
        end: () => socket.resetAndDestroy(),
      };
      sockets.set(socket, stranger);
      socket.on('error', () => undefined); // it closes
      // After the upgrade the connection goes on in another socket.
      socket.on('close', () => {
        if (sockets.has(socket)) this.strangers.delete(stranger);
      });
      this.strangers.add(stranger);
    });
    server.on('request', (_request, response) => {
      response.writeHead(426, { Connection: 'close', Upgrade: 'websocket' }).end();
    });
    server.on('clientError', (_error, socket) => socket.destroy());
    const handshakes = new WebSocketServer({
      ...COMMON_OPTIONS,
      noServer: true,
      clientTracking: false,
      WebSocket: HandshakeSocket,
    });
    const onUpgrade = (listener: (connection: UpgradedConnection) => void): void => {
      server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
        const stranger = sockets.get(socket);
        if (stranger === undefined) return;
        const { remoteAddress = 'unknown', remotePort = 0 } = request.socket;
        handshakes.handleUpgrade(request, socket, head, ({ upgraded }: HandshakeSocket) => {
          if (upgraded === undefined) return;
          sockets.delete(socket);
          listener({ upgraded, stranger, peer: formatAddress(remoteAddress, remotePort) });
        });
      });
    };
    return { server, onUpgrade };
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
