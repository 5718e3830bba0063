/** P8, P12: what anybody who reaches the port can make a server hold: few connections, for a short time, with little in them. */
import { connect as connectTcp, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { SystemClock } from '../../src/core/clock.js';
import { KIB, MAX_PAYLOAD_BYTES, MAX_UNPROVEN_MESSAGE_BYTES, MAX_UNREAD_BYTES, MIB } from '../../src/core/limits.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import { SystemRandom } from '../../src/core/random.js';
import { connectPeer, servePeers, type EndpointOptions, type PeerServer } from '../../src/protocol/endpoint.js';
import { CHUNKSERVER_METHODS } from '../../src/protocol/methods.js';
import { HeldMemory } from '../../src/protocol/held-memory.js';
import { Strangers, type Stranger } from '../../src/protocol/strangers.js';
import { eventually } from '../support/eventually.js';
import type { Transport } from '../../src/protocol/transport.js';
import { parseAddress, WebSocketNetwork } from '../../src/protocol/websocket.js';

const { readChunk } = CHUNKSERVER_METHODS;
const UPGRADE = [
  ...['GET / HTTP/1.1', 'Host: x', 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13'],
  ...['Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', '', ''],
].join('\r\n');

function options(network: WebSocketNetwork, role: 'client' | 'chunkserver'): EndpointOptions {
  const world = { network, clock: new SystemClock(), random: new SystemRandom(), logger: silentLogger };
  return { ...world, secret: Buffer.alloc(32, 3), role };
}

async function serving(t: Test, network: WebSocketNetwork): Promise<PeerServer> {
  const server = await servePeers(options(network, 'chunkserver'), '127.0.0.1:0', {
    table: { readChunk },
    handlers: { readChunk: (request) => ({ reply: { checksums: [] }, payload: Buffer.alloc(request.length) }) },
    accept: ['client'],
    clusterId: () => 'c',
  });
  t.teardown(() => server.close());
  return server;
}

/** A connection of somebody who has no secret. */
class Flooder {
  readonly socket: Socket;
  isClosed = false;
  readonly closed: Promise<void>;

  constructor(server: { readonly address: string }) {
    const { host, port } = parseAddress(server.address);
    this.socket = connectTcp(port, host);
    this.socket.on('error', () => undefined);
    this.socket.resume();
    this.closed = new Promise((resolve) => {
      this.socket.on('close', () => {
        this.isClosed = true;
        resolve();
      });
    });
  }

  async opened(): Promise<this> {
    if (this.socket.connecting) await new Promise((resolve) => this.socket.once('connect', resolve));
    return this;
  }
}

const largeFrame = (): Buffer => {
  const header = Buffer.alloc(14);
  header.set([0x82, 0xff]);
  header.writeUInt32BE(MAX_PAYLOAD_BYTES, 6);
  return header;
};

const BOUNDS = { connections: 4, unproven: 8, unprovenOfAddress: 6 };

t.test('idle connections stay few, and who has the secret is served at once', async (t) => {
  const network = new WebSocketNetwork(BOUNDS);
  const server = await serving(t, network);
  const flooders: Flooder[] = [];
  for (let i = 0; i < 60; i++) {
    flooders.push(await new Flooder(server).opened());
    if (i % 3 === 1) flooders[i]?.socket.write('GET / HTTP/1.1\r\nHost: x\r\nX: ');
    if (i % 3 === 2) flooders[i]?.socket.write(UPGRADE);
  }
  const peer = await connectPeer(options(new WebSocketNetwork(), 'client'), server.address, { role: 'chunkserver' });
  t.equal((await peer.call(readChunk, { handle: 1, length: 100 })).payload.length, 100);
  t.ok(network.accepted.unproven <= BOUNDS.unprovenOfAddress, `${network.accepted.unproven} unproven connections`);
  t.equal(network.accepted.proven, 1);
  t.ok(flooders.filter(({ isClosed }) => isClosed).length >= 54, 'the oldest made room');
  network.shed();
  await Promise.all(flooders.map(({ closed }) => closed));
  t.notOk(peer.isClosed, 'who proved the secret stays');
  t.equal(network.accepted.unproven, 0);
  peer.close('done');
});

t.test('for who does not speak nothing is made, and nothing is left of who hangs up', async (t) => {
  const network = new WebSocketNetwork(BOUNDS);
  let handedOver = 0;
  const listener = await network.listen('127.0.0.1:0', (transport) => {
    handedOver++;
    transport.start({ onMessage: () => undefined, onClose: () => undefined });
  });
  t.teardown(() => listener.close());
  const upgraded = async (): Promise<Flooder> => {
    const flooder = await new Flooder(listener).opened();
    const answered = new Promise((resolve) => flooder.socket.once('data', resolve));
    flooder.socket.write(UPGRADE);
    await answered;
    return flooder;
  };
  const silent = [await upgraded(), await upgraded(), await upgraded()];
  t.same([handedOver, network.accepted.unproven], [0, 3], 'they count as strangers');
  silent[0]?.socket.write(Buffer.from([0x82]));
  await eventually('the one that speaks is handed over', () => handedOver === 1);
  silent[1]?.socket.end();
  await silent[1]?.closed;
  await eventually('the one that hangs up is gone', () => network.accepted.unproven === 2);
  network.shed();
  await Promise.all(silent.map(({ closed }) => closed));
  t.equal(network.accepted.unproven, 0);
  const last = await upgraded();
  await listener.close();
  await last.closed;
  t.equal(handedOver, 1);
});

t.test('before the proof a message is small, a request is small, and nothing is answered to pings', async (t) => {
  const network = new WebSocketNetwork(BOUNDS);
  const server = await serving(t, network);
  const cases: Readonly<Record<string, Buffer>> = {
    'a large frame without its end': Buffer.concat([Buffer.from(UPGRADE), largeFrame(), Buffer.alloc(64 * KIB)]),
    'a frame just over the bound': Buffer.concat([
      Buffer.from(UPGRADE),
      Buffer.from([0x82, 0xfe, (MAX_UNPROVEN_MESSAGE_BYTES + 1) >> 8, 1, 0, 0, 0, 0]),
    ]),
    'many fragments': Buffer.concat([
      Buffer.from(UPGRADE),
      Buffer.from([0x02, 0x80, 0, 0, 0, 0]),
      ...Array.from({ length: 8 }, () => Buffer.from([0x00, 0x80, 0, 0, 0, 0])),
    ]),
    'a ping': Buffer.concat([Buffer.from(UPGRADE), Buffer.from([0x89, 0x80, 0, 0, 0, 0])]),
    'a header without end': Buffer.from(`GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(8 * KIB)}`),
    'no upgrade': Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
    'no HTTP': Buffer.from('\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'),
  };
  for (const [name, bytes] of Object.entries(cases)) {
    const flooder = await new Flooder(server).opened();
    flooder.socket.write(bytes);
    const started = performance.now();
    await flooder.closed;
    t.ok(performance.now() - started < 3_000, `${name}: ended after ${Math.round(performance.now() - started)} ms`);
  }
  await eventually('no stranger is left', () => network.accepted.unproven === 0);
});

t.test('who says nothing, or a byte now and then, is gone when the time for the proof is over', async (t) => {
  const network = new WebSocketNetwork(BOUNDS);
  const server = await serving(t, network);
  const flooders = [new Flooder(server), new Flooder(server), new Flooder(server)];
  for (const flooder of flooders) await flooder.opened();
  flooders[1]?.socket.write(UPGRADE);
  const dribble = setInterval(() => flooders[2]?.socket.write('G'), 300);
  await Promise.all(flooders.map(({ closed }) => closed));
  clearInterval(dribble);
  await eventually('no stranger is left', () => network.accepted.unproven === 0);
  t.pass('all are gone');
});

t.test('peers that proved the secret are bounded too: one more is told to come later', async (t) => {
  const network = new WebSocketNetwork(BOUNDS);
  const server = await serving(t, network);
  const client = options(new WebSocketNetwork(), 'client');
  const peers = [];
  for (let i = 0; i < BOUNDS.connections; i++) {
    peers.push(await connectPeer(client, server.address, { role: 'chunkserver' }));
  }
  await t.rejects(connectPeer(client, server.address, { role: 'chunkserver' }), { code: 'BUSY' });
  peers[0]?.close('done');
  await peers[0]?.closed;
  await new Promise((resolve) => setTimeout(resolve, 100));
  const next = await connectPeer(client, server.address, { role: 'chunkserver' });
  t.equal(network.accepted.proven, BOUNDS.connections);
  for (const peer of [...peers, next]) peer.close('done');
});

t.test('strangers of one address push out their own oldest, and nobody of another', (t) => {
  const strangers = new Strangers(5, 3);
  const ended: string[] = [];
  const add = (address: string, name: string, sinceMs: number): Stranger => {
    const stranger = { address, sinceMs, end: () => void ended.push(name) };
    strangers.add(stranger);
    return stranger;
  };
  add('b', 'b1', 0);
  const kept = add('a', 'a1', 100);
  for (let i = 2; i <= 6; i++) add('a', `a${i}`, 100 * i);
  t.same(ended, ['a1', 'a2', 'a3']);
  strangers.delete(kept);
  add('c', 'c1', 700);
  add('c', 'c2', 800);
  t.same(ended.splice(0), ['a1', 'a2', 'a3', 'b1'], 'in all: the oldest');
  t.equal(strangers.size, 5);
  strangers.sweep(5_450);
  t.same(ended.splice(0), ['a4'], 'its time is over');
  strangers.endAll('short');
  t.same(ended, ['a5', 'a6', 'c1', 'c2']);
  t.equal(strangers.size, 0);
  t.end();
});

t.test('messages that do not end take a bounded memory, and the oldest is cut', (t) => {
  const partial = new HeldMemory(10 * MIB);
  const cut: number[] = [];
  const messages = Array.from({ length: 30 }, (_, i) => ({ bytes: 0, cut: () => void cut.push(i) }));
  for (const message of messages) partial.grow(message, MIB);
  t.same(
    cut,
    Array.from({ length: 20 }, (_, i) => i),
  );
  t.equal(partial.heldBytes, 10 * MIB);
  const [held, gone] = [messages[25], messages[3]];
  if (held !== undefined) partial.shrink(held, MIB / 2);
  if (gone !== undefined) partial.shrink(gone, MIB / 2);
  t.equal(partial.heldBytes, 9.5 * MIB);
  for (const message of messages) partial.end(message);
  t.equal(partial.heldBytes, 0);
  t.end();
});

/** A server that hands over its side of each connection, and a caller that sends so much and reads nothing. */
async function deafCallers(t: Test, count: number): Promise<{ transports: Transport[]; reasons: string[] }> {
  const [transports, reasons]: [Transport[], string[]] = [[], []];
  const listener = await new WebSocketNetwork().listen('127.0.0.1:0', (transport) => {
    const at = transports.push(transport) - 1;
    transport.trust();
    transport.start({ onMessage: () => undefined, onClose: (reason) => (reasons[at] = reason) });
  });
  t.teardown(() => listener.close());
  for (let i = 1; i <= count; i++) {
    const caller = await new Flooder(listener).opened();
    caller.socket.pause();
    caller.socket.write(Buffer.concat([Buffer.from(UPGRADE), Buffer.from([0x82, 0x84, 0, 0, 0, 0, 0, 0, 0, 0])]));
    await eventually('it is there', () => transports.length === i);
  }
  return { transports, reasons };
}

t.test('what peers do not read is bounded over all of them: who has not read for longest is cut', async (t) => {
  const { transports, reasons } = await deafCallers(t, 4);
  // One buffer again and again: what is bounded is what might be as many.
  const message = { header: Buffer.from('reply'), payload: Buffer.alloc(MIB) };
  const third = Math.floor(MAX_UNREAD_BYTES / MIB / 3);
  for (const transport of transports.slice(0, 3)) for (let i = 0; i < third - 8; i++) transport.send(message);
  t.same(reasons, [], 'as much as there is room for');
  for (let i = 0; i < third; i++) transports[3]?.send(message);
  t.match(reasons[0], /reads too slowly/);
  t.same(Object.keys(reasons), ['0'], 'the others stay');
  const queued = transports.slice(1).reduce((sum, { queuedBytes }) => sum + queuedBytes, 0);
  t.ok(queued <= MAX_UNREAD_BYTES, `${Math.round(queued / MIB)} MiB wait`);
  for (const transport of transports) transport.close('done');
});
