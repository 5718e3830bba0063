/** P12, P8: what a stranger or a broken peer may send. Each case ends that connection, and an honest peer is served on. */
import { createHmac } from 'node:crypto';
import { connect as connectTcp } from 'node:net';
import t from 'tap';
import { WebSocket } from 'ws';
import { SystemClock } from '../../src/core/clock.js';
import { errorNumber } from '../../src/core/errors.js';
import {
  KIB,
  MAX_HEADER_BYTES,
  MAX_PAYLOAD_BYTES,
  MAX_SERVED_BYTES,
  MIB,
  SEND_HIGH_WATER_BYTES,
} from '../../src/core/limits.js';
import type { Logger } from '../../src/core/logging/logger.js';
import { SeededRandom, SystemRandom } from '../../src/core/random.js';
import { Channel } from '../../src/protocol/channel.js';
import { connectPeer, servePeers, type EndpointOptions } from '../../src/protocol/endpoint.js';
import * as m from '../../src/protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../src/protocol/methods.js';
import type { Handlers } from '../../src/protocol/rpc.js';
import { RpcPeer, type ServedMethod } from '../../src/protocol/rpc-peer.js';
import type { TransportHandlers } from '../../src/protocol/transport.js';
import { ManualClock } from '../support/fakes/manual-clock.js';
import { parseAddress, WebSocketNetwork } from '../../src/protocol/websocket.js';
import { PROTOCOL_VERSION } from '../../src/protocol/handshake.js';

const { readChunk, writeChunk, deleteChunks } = CHUNKSERVER_METHODS;
const TABLE = { readChunk, writeChunk, deleteChunks };
const secret = Buffer.alloc(32, 3);
const seed = Number(process.env['CAIRN_SEED'] ?? Math.floor(Math.random() * 2 ** 32));

const warnings: { fields: object; message: string }[] = [];
const logger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: (fields, message) => warnings.push({ fields, message }),
  error: (fields, message) => warnings.push({ fields, message }),
  child: () => logger,
};
const served: string[] = [];
const handlers: Handlers<typeof TABLE> = {
  readChunk: (request) => {
    served.push('readChunk');
    return { reply: { checksums: [] }, payload: Buffer.alloc(request.length) };
  },
  writeChunk: () => {
    served.push('writeChunk');
    return { reply: {} };
  },
  deleteChunks: () => {
    served.push('deleteChunks');
    return { reply: {} };
  },
};
const options = (role: 'client' | 'chunkserver'): EndpointOptions => ({
  network: new WebSocketNetwork(),
  clock: new SystemClock(),
  random: new SystemRandom(),
  logger,
  secret,
  role,
});

function frame(envelope: m.EnvelopeInit, payload = Buffer.alloc(0)): Buffer {
  const header = m.Envelope.encode(envelope).finish();
  const length = Buffer.alloc(4);
  length.writeUInt32LE(header.length);
  return Buffer.concat([length, header, payload]);
}

/** A WebSocket that sends what it is told, with a log of what comes back. */
class Stranger {
  readonly received: m.Envelope[] = [];
  readonly closed: Promise<void>;
  private wake: () => void = () => undefined;

  private constructor(readonly socket: WebSocket) {
    socket.on('message', (data: Buffer) => {
      this.received.push(m.Envelope.decode(data.subarray(4, 4 + data.readUInt32LE(0))));
      this.wake();
    });
    socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => socket.on('close', () => resolve()));
  }

  static async connect(address: string): Promise<Stranger> {
    const socket = new WebSocket(`ws://${address}/`, { perMessageDeflate: false });
    const stranger = new Stranger(socket);
    await new Promise((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
    });
    return stranger;
  }

  async next(): Promise<m.Envelope> {
    while (this.received.length === 0) await new Promise<void>((resolve) => (this.wake = resolve));
    const envelope = this.received.shift();
    if (envelope === undefined) throw new Error('no message');
    return envelope;
  }

  /** Goes through the handshake honestly, and then is free to misbehave. */
  async authenticate(): Promise<void> {
    const nonce = Buffer.alloc(32, 9);
    const hello = { protocolVersion: PROTOCOL_VERSION, role: m.Role.CLIENT, nonce };
    this.socket.send(frame({ kind: m.EnvelopeKind.HELLO, body: m.Hello.encode(hello).finish() }));
    const challenge = m.Challenge.decode((await this.next()).body);
    const hmac = createHmac('sha256', secret);
    const parts = [
      Buffer.from('cairnfs caller'),
      Buffer.from([PROTOCOL_VERSION, m.Role.CLIENT, m.Role.CHUNKSERVER]),
      Buffer.from(challenge.clusterId),
      nonce,
      challenge.nonce,
    ];
    for (const part of parts) {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(part.length);
      hmac.update(length).update(part);
    }
    this.socket.send(frame({ kind: m.EnvelopeKind.PROOF, body: m.Proof.encode({ proof: hmac.digest() }).finish() }));
    if ((await this.next()).kind !== m.EnvelopeKind.WELCOME) throw new Error('not welcome');
  }
}

void t.test('hostile peers', async (t) => {
  t.comment(`CAIRN_SEED=${seed}`);
  const random = new SeededRandom(seed);
  const server = await servePeers(options('chunkserver'), '127.0.0.1:0', {
    table: TABLE,
    handlers,
    accept: ['client'],
    clusterId: () => 'c',
  });
  t.teardown(() => server.close());
  const honest = await connectPeer(options('client'), server.address, { role: 'chunkserver' });
  const request = (length: number): Buffer => m.ReadChunkRequest.encode({ handle: 1, length }).finish() as Buffer;

  const cases: [name: string, attack: (stranger: Stranger) => Promise<void> | void][] = [
    [
      'a request before the handshake',
      (s) => s.socket.send(frame({ kind: m.EnvelopeKind.REQUEST, id: 1, method: 120 })),
    ],
    ['a proof before the hello', (s) => s.socket.send(frame({ kind: m.EnvelopeKind.PROOF, body: Buffer.alloc(34) }))],
    [
      'another protocol version',
      (s) => {
        const body = m.Hello.encode({ protocolVersion: 99, role: m.Role.CLIENT, nonce: Buffer.alloc(32) }).finish();
        s.socket.send(frame({ kind: m.EnvelopeKind.HELLO, body }));
      },
    ],
    [
      'a short nonce',
      (s) => {
        const body = m.Hello.encode({
          protocolVersion: PROTOCOL_VERSION,
          role: m.Role.CLIENT,
          nonce: Buffer.alloc(3),
        }).finish();
        s.socket.send(frame({ kind: m.EnvelopeKind.HELLO, body }));
      },
    ],
    [
      'a wrong proof',
      async (s) => {
        const body = m.Hello.encode({
          protocolVersion: PROTOCOL_VERSION,
          role: m.Role.CLIENT,
          nonce: Buffer.alloc(32),
        }).finish();
        s.socket.send(frame({ kind: m.EnvelopeKind.HELLO, body }));
        await s.next();
        const proof = m.Proof.encode({ proof: Buffer.alloc(32) }).finish();
        s.socket.send(frame({ kind: m.EnvelopeKind.PROOF, body: proof }));
        const answer = await s.next();
        if (answer.kind !== m.EnvelopeKind.ERROR) throw new Error('no error for a wrong proof');
      },
    ],
    [
      "the server's own proof played back",
      async (s) => {
        const body = m.Hello.encode({
          protocolVersion: PROTOCOL_VERSION,
          role: m.Role.CLIENT,
          nonce: Buffer.alloc(32),
        }).finish();
        s.socket.send(frame({ kind: m.EnvelopeKind.HELLO, body }));
        const challenge = m.Challenge.decode((await s.next()).body);
        s.socket.send(frame({ kind: m.EnvelopeKind.PROOF, body: m.Proof.encode({ proof: challenge.proof }).finish() }));
      },
    ],
    ['text', (s) => s.socket.send('hello')],
    ['an empty message', (s) => s.socket.send(Buffer.alloc(0))],
    ['a message shorter than its length', (s) => s.socket.send(Buffer.from([0xff, 0xff, 0xff, 0x7f, 1, 2]))],
    ['a message over the bound', (s) => s.socket.send(Buffer.alloc(MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES + 5))],
    [
      'a header over its bound',
      async (s) => {
        await s.authenticate();
        const message = Buffer.alloc(4 + MAX_HEADER_BYTES + 1);
        message.writeUInt32LE(MAX_HEADER_BYTES + 1);
        s.socket.send(message);
      },
    ],
    [
      'a second hello',
      async (s) => {
        await s.authenticate();
        s.socket.send(frame({ kind: m.EnvelopeKind.HELLO }));
      },
    ],
    [
      'an unknown kind',
      async (s) => {
        await s.authenticate();
        s.socket.send(frame({ kind: 77 as m.EnvelopeKind }));
      },
    ],
    [
      'payload with a method that has none',
      async (s) => {
        await s.authenticate();
        s.socket.send(frame({ kind: m.EnvelopeKind.REQUEST, id: 1, method: 120, body: request(1) }, Buffer.from('x')));
      },
    ],
    [
      'a request without id',
      async (s) => {
        await s.authenticate();
        s.socket.send(frame({ kind: m.EnvelopeKind.REQUEST, id: 0, method: 120, body: request(1) }));
      },
    ],
    [
      'a body that is no message',
      async (s) => {
        await s.authenticate();
        s.socket.send(frame({ kind: m.EnvelopeKind.REQUEST, id: 1, method: 120, body: Buffer.alloc(9, 0xff) }));
      },
    ],
    [
      'an overlong field',
      async (s) => {
        await s.authenticate();
        const body = Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]);
        s.socket.send(frame({ kind: m.EnvelopeKind.REQUEST, id: 1, method: 121, body }));
      },
    ],
  ];
  for (const [name, attack] of cases) {
    await t.test(name, async (t) => {
      served.length = 0;
      const stranger = await Stranger.connect(server.address);
      await attack(stranger);
      await stranger.closed;
      t.same(served, [], 'nothing was served');
      await honest.call(readChunk, { length: 10 });
      t.same(served, ['readChunk'], 'the honest peer is');
    });
  }

  await t.test('a method of another role is refused, and the connection lives', async (t) => {
    served.length = 0;
    const stranger = await Stranger.connect(server.address);
    await stranger.authenticate();
    stranger.socket.send(frame({ kind: m.EnvelopeKind.REQUEST, id: 5, method: deleteChunks.number }));
    t.equal((await stranger.next()).kind, m.EnvelopeKind.ERROR);
    stranger.socket.send(frame({ kind: m.EnvelopeKind.REQUEST, id: 6, method: 65_000 }));
    t.equal((await stranger.next()).kind, m.EnvelopeKind.ERROR);
    stranger.socket.send(frame({ kind: m.EnvelopeKind.REPLY, id: 1234 }));
    stranger.socket.send(frame({ kind: m.EnvelopeKind.PING, id: 3 }));
    t.equal((await stranger.next()).kind, m.EnvelopeKind.PONG);
    t.same(served, []);
    stranger.socket.terminate();
  });

  await t.test('who pings and does not read is not answered more and more', (t) => {
    const sent: m.Envelope[] = [];
    let receive: (bytes: Uint8Array) => void = () => undefined;
    const transport = {
      ...{ peer: 'a peer that does not read', queuedBytes: 0 },
      start: ({ onMessage }: TransportHandlers) => {
        receive = (header) => onMessage({ header, payload: Buffer.alloc(0) });
      },
      trust: () => true,
      send: ({ header }: { header: Uint8Array }) => {
        sent.push(m.Envelope.decode(header));
        transport.queuedBytes += MIB; // as large replies before would
      },
      drained: () => Promise.resolve(),
      close: () => undefined,
    };
    const clock = new ManualClock();
    const about = { clock, logger, role: 'client', clusterId: 'c', methods: new Map<number, never>() } as const;
    const peer = new RpcPeer({ ...about, channel: new Channel(transport) });
    const ping = m.Envelope.encode({ kind: m.EnvelopeKind.PING, id: 1 }).finish();
    for (let i = 0; i < 10_000; i++) receive(ping);
    t.equal(sent.length, SEND_HIGH_WATER_BYTES / MIB);
    transport.queuedBytes = 0;
    receive(ping);
    t.equal(sent.at(-1)?.kind, m.EnvelopeKind.PONG, 'and is again when it has read');
    t.notOk(peer.isClosed);
    t.end();
  });

  await t.test('what clients send to be served is bounded over all of them; servers do not stand behind them', (t) => {
    const load = { bytes: MAX_SERVED_BYTES - MIB };
    const release: (() => void)[] = [];
    const hold = (): Promise<{ reply: object }> => new Promise((resolve) => release.push(() => resolve({ reply: {} })));
    const methods = new Map([
      [
        1,
        {
          name: 'hold',
          definition: {
            ...writeChunk,
            number: 1,
            callers: ['client', 'chunkserver'],
          } as unknown as ServedMethod['definition'],
          handler: hold,
        },
      ],
    ]);
    const payload = new Uint8Array(MIB);
    const ask = (role: 'client' | 'chunkserver'): number[] => {
      const errors: number[] = [];
      let handlers: TransportHandlers | undefined;
      const transport = {
        ...{ peer: 'another', queuedBytes: 0, trust: () => true, drained: () => Promise.resolve() },
        start: (given: TransportHandlers) => void (handlers = given),
        send: ({ header }: { header: Uint8Array }) => void errors.push(m.Envelope.decode(header).errorCode),
        close: () => undefined,
      };
      const about = { clock: new ManualClock(), logger, role, clusterId: 'c', methods, load } as const;
      new RpcPeer({ ...about, channel: new Channel(transport) });
      for (const id of [1, 2]) {
        const header = m.Envelope.encode({ kind: m.EnvelopeKind.REQUEST, id, method: 1 }).finish();
        handlers?.onMessage({ header, payload });
      }
      return errors;
    };
    t.same(ask('client'), [errorNumber('BUSY')], 'the second has no place');
    t.same(ask('client'), [errorNumber('BUSY'), errorNumber('BUSY')], 'nor has another client');
    t.same(ask('chunkserver'), []);
    t.equal(release.length, 3);
    t.equal(load.bytes, MAX_SERVED_BYTES);
    for (const each of release) each();
    setImmediate(() => {
      t.equal(load.bytes, MAX_SERVED_BYTES - MIB, 'and there is room again');
      t.end();
    });
  });

  await t.test('what is no frame, in one piece with the handshake', async (t) => {
    const upgrade = [
      'GET / HTTP/1.1',
      'Host: x',
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    ];
    const head = Buffer.from(`${upgrade.join('\r\n')}\r\n\r\n`);
    const { host, port } = parseAddress(server.address);
    for (const length of [20, 16 * KIB, 40 * KIB, 60 * KIB]) {
      const socket = connectTcp(port, host);
      socket.on('error', () => undefined);
      const closed = new Promise((resolve) => socket.on('close', resolve));
      socket.resume();
      socket.write(Buffer.concat([head, Buffer.alloc(length, 0xff)]));
      await closed;
      served.length = 0;
      await honest.call(readChunk, { length: 10 });
      t.same(served, ['readChunk'], `${length} bytes: the honest peer is served on`);
    }
  });

  await t.test('random bytes, as messages and as TCP', async (t) => {
    for (let i = 0; i < 200; i++) {
      const stranger = await Stranger.connect(server.address);
      if (i % 2 === 0) await stranger.authenticate();
      const bytes = random.bytes(1 + random.below(300));
      if (i % 3 === 0 && bytes.length > 8) bytes.writeUInt32LE(random.below(bytes.length));
      stranger.socket.send(bytes);
      stranger.socket.close();
      await stranger.closed;
    }
    const port = Number(server.address.split(':')[1]);
    for (let i = 0; i < 30; i++) {
      await new Promise<void>((resolve) => {
        const socket = connectTcp(port, '127.0.0.1', () => socket.end(random.bytes(1 + random.below(2000))));
        socket.on('error', () => undefined);
        socket.on('close', () => resolve());
        socket.resume();
      });
    }
    await honest.call(readChunk, { length: 10 });
    t.notOk(honest.isClosed);
  });

  await t.test('every refusal was logged with its reason', (t) => {
    t.ok(warnings.length > cases.length / 2);
    t.ok(warnings.some(({ fields }) => JSON.stringify(fields).includes('protocol:')));
    t.ok(warnings.some(({ fields }) => JSON.stringify(fields).includes('UNAUTHENTICATED')));
    t.end();
  });
  honest.close('done');
});
