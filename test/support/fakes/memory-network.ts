/** A network in memory: in order, without loss, delivered in microtasks. Connections can be cut. For unit tests. */
import { CairnError } from '../../../src/core/errors.js';
import type { Listener, Message, Network, Transport, TransportHandlers } from '../../../src/protocol/transport.js';

class MemoryTransport implements Transport {
  readonly queuedBytes = 0;
  other: MemoryTransport | undefined;
  private handlers: TransportHandlers | undefined;
  private inbox: Message[] = [];
  private closeReason: string | undefined;
  held = false;

  constructor(
    readonly peer: string,
    private readonly network: MemoryNetwork,
  ) {}

  start(handlers: TransportHandlers): void {
    this.handlers = handlers;
    for (const message of this.inbox.splice(0)) handlers.onMessage(message);
    if (this.closeReason !== undefined) handlers.onClose(this.closeReason);
  }

  send(message: Message): void {
    if (this.closeReason !== undefined) return;
    const copy = { header: Buffer.from(message.header), payload: Buffer.from(message.payload) };
    const deliver = (): void => this.other?.receive(copy);
    if (this.network.eachInItsTurn) setImmediate(deliver);
    else queueMicrotask(deliver);
  }

  trust(): boolean {
    return true;
  }

  drained(): Promise<void> {
    return Promise.resolve();
  }

  close(reason: string): void {
    this.end(reason);
    queueMicrotask(() => this.other?.end(`closed by the peer: ${reason}`));
  }

  private receive(message: Message): void {
    if (this.closeReason !== undefined) return;
    if (this.handlers === undefined || this.held) this.inbox.push(message);
    else this.handlers.onMessage(message);
  }

  release(): void {
    this.held = false;
    for (const message of this.inbox.splice(0)) this.handlers?.onMessage(message);
  }

  private end(reason: string): void {
    if (this.closeReason !== undefined) return;
    this.closeReason = reason;
    this.handlers?.onClose(reason);
  }
}

export class MemoryNetwork implements Network {
  /** Messages arrive in a turn of the event loop each, as from a real network, so that one comes while others are awaited. */
  eachInItsTurn = false;
  private readonly listeners = new Map<string, (transport: Transport) => void>();
  private readonly links = new Set<{ address: string; end: MemoryTransport }>();
  private nextPort = 20_000;

  listen(address: string, onConnection: (transport: Transport) => void): Promise<Listener> {
    const real = address.endsWith(':0') ? address.slice(0, -1) + String(this.nextPort++) : address;
    if (this.listeners.has(real)) return Promise.reject(new CairnError('EBUSY', `${real} is taken`));
    this.listeners.set(real, onConnection);
    return Promise.resolve({
      address: real,
      close: () => {
        this.listeners.delete(real);
        return Promise.resolve();
      },
    });
  }

  connect(address: string): Promise<Transport> {
    const onConnection = this.listeners.get(address);
    if (onConnection === undefined)
      return Promise.reject(new CairnError('UNAVAILABLE', `nobody listens at ${address}`));
    const caller = new MemoryTransport(address, this);
    const server = new MemoryTransport('memory-caller', this);
    caller.other = server;
    server.other = caller;
    this.links.add({ address, end: server });
    onConnection(server);
    return Promise.resolve(caller);
  }

  /** Keeps back what is sent to `address` over the connections that stand, until the function returned is called. */
  hold(address: string): () => void {
    const ends = [...this.links].filter((link) => link.address === address).map((link) => link.end);
    for (const end of ends) end.held = true;
    return () => {
      for (const end of ends) end.release();
    };
  }

  /** Breaks every connection to `address`, as when its process dies. */
  cut(address: string): void {
    for (const link of this.links) {
      if (link.address !== address) continue;
      link.end.close('cut');
      this.links.delete(link);
    }
  }
}
