/** Authenticated peers: connect to one, or serve many. The way in to this folder for the three roles. */
import { asCairnError } from '../core/errors.js';
import type { Clock } from '../core/clock.js';
import { REQUEST_TIMEOUT_MS } from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import type { Random } from '../core/random.js';
import { callerHandshake, serverHandshake } from './handshake.js';
import type { MethodTable } from './methods.js';
import type { Handlers, Interceptor, Peer, PeerRole } from './rpc.js';
import { RpcPeer, type ServedMethod } from './rpc-peer.js';
import type { Network, Transport } from './transport.js';

export interface EndpointOptions {
  readonly network: Network;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly secret: Buffer;
  /** What this process is. */
  readonly role: PeerRole;
  /** Around the handlers of all that this process serves; none: they are called plainly. */
  readonly interceptor?: Interceptor | undefined;
  /** Refuse peers of another cluster. */
  readonly clusterId?: string;
}

/** The methods that a side serves, with their handlers. */
export interface Service<T extends MethodTable> {
  readonly table: T;
  readonly handlers: Handlers<T>;
}

function servedMethods<T extends MethodTable>(
  service: Service<T> | undefined,
  interceptor: Interceptor | undefined,
): ReadonlyMap<number, ServedMethod> {
  const methods = new Map<number, ServedMethod>();
  if (service === undefined) return methods;
  for (const name of Object.keys(service.table) as (keyof T & string)[]) {
    // The table and the handlers are keyed alike (Handlers<T>), so each definition meets its own handler.
    const definition = service.table[name] as unknown as ServedMethod['definition'];
    const plain = service.handlers[name] as unknown as ServedMethod['handler'];
    const handler: ServedMethod['handler'] =
      interceptor === undefined
        ? plain
        : (request, context) => interceptor(name, request, context, (changed) => plain(changed, context));
    methods.set(definition.number, { name, definition, handler });
  }
  return methods;
}

export interface ConnectedPeer extends Peer {
  /** As the server said and proved. */
  readonly clusterId: string;
}

/**
 * Connects to `address` and proves the secret, both ways. Fails with UNAVAILABLE (nobody there), UNAUTHENTICATED
 * (other secret, role or cluster), PROTOCOL (other version), TIMEOUT or DISCONNECTED.
 */
export async function connectPeer<T extends MethodTable>(
  options: EndpointOptions,
  address: string,
  expect: { readonly role: PeerRole; readonly timeoutMs?: number; readonly service?: Service<T> },
): Promise<ConnectedPeer> {
  const transport = await options.network.connect(address, expect.timeoutMs ?? REQUEST_TIMEOUT_MS);
  const { channel, peerRole, clusterId } = await callerHandshake(transport, {
    clock: options.clock,
    random: options.random,
    secret: options.secret,
    role: options.role,
    expectRole: expect.role,
    clusterId: options.clusterId,
  });
  const methods = servedMethods(expect.service, options.interceptor);
  return new RpcPeer({ channel, clock: options.clock, logger: options.logger, role: peerRole, clusterId, methods });
}

export interface ServerOptions<T extends MethodTable> extends Service<T> {
  /** Roles that are served at all. */
  readonly accept: readonly PeerRole[];
  /** Called with each authenticated peer, before its first request is served. */
  readonly onPeer?: (peer: Peer) => void;
  readonly clusterId: () => string;
}

export interface PeerServer {
  /** host:port, with the real port. */
  readonly address: string;
  /** Stops listening and ends every connection. */
  close(): Promise<void>;
}

export async function servePeers<T extends MethodTable>(
  options: EndpointOptions,
  listenAddress: string,
  server: ServerOptions<T>,
): Promise<PeerServer> {
  const methods = servedMethods(server, options.interceptor);
  const connections = new Set<Transport>();
  const peers = new Set<RpcPeer>();
  const load = { bytes: 0 };
  const { logger } = options;

  async function accept(transport: Transport): Promise<void> {
    const { channel, peerRole, clusterId } = await serverHandshake(transport, {
      clock: options.clock,
      random: options.random,
      secret: options.secret,
      role: options.role,
      accept: server.accept,
      clusterId: server.clusterId(),
    });
    const peer = new RpcPeer({ channel, clock: options.clock, logger, role: peerRole, clusterId, methods, load });
    if (peer.isClosed) return;
    peers.add(peer);
    server.onPeer?.(peer);
    await peer.closed;
    peers.delete(peer);
  }

  const listener = await options.network.listen(listenAddress, (transport) => {
    connections.add(transport);
    accept(transport)
      .catch((error: unknown) => {
        const { code, message } = asCairnError(error);
        logger.warn({ peer: transport.peer, code, reason: message }, 'connection refused');
      })
      .finally(() => connections.delete(transport));
  });
  return {
    address: listener.address,
    async close() {
      for (const peer of peers) peer.close('the server stops');
      for (const transport of connections) transport.close('the server stops');
      await listener.close();
    },
  };
}
