import t from 'tap';
import { SystemClock } from '../../src/core/clock.js';
import { CairnError, hasCode } from '../../src/core/errors.js';
import { MAX_IN_FLIGHT_REQUESTS, MAX_PAYLOAD_BYTES, MIB } from '../../src/core/limits.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import { SystemRandom } from '../../src/core/random.js';
import { deferred } from '../../src/core/sync.js';
import { connectPeer, servePeers, type EndpointOptions } from '../../src/protocol/endpoint.js';
import * as m from '../../src/protocol/generated/messages.js';
import type { MethodDefinition } from '../../src/protocol/methods.js';
import type { Handlers, Peer, PeerRole } from '../../src/protocol/rpc.js';
import type { Network } from '../../src/protocol/transport.js';
import { WebSocketNetwork } from '../../src/protocol/websocket.js';
import { MemoryNetwork } from '../support/fakes/memory-network.js';

const any = ['client', 'chunkserver', 'master'] as const;
const TABLE = {
  echo: {
    number: 1,
    request: m.GetAttributesRequest,
    reply: m.Attributes,
    callers: any,
    payload: 'none',
  } as MethodDefinition<m.GetAttributesRequest, m.GetAttributesRequestInit, m.Attributes, m.AttributesInit>,
  slow: { number: 2, request: m.Empty, reply: m.Empty, callers: any, payload: 'none' } as MethodDefinition<
    m.Empty,
    m.EmptyInit,
    m.Empty,
    m.EmptyInit
  >,
  fail: { number: 3, request: m.Empty, reply: m.Empty, callers: any, payload: 'none' } as MethodDefinition<
    m.Empty,
    m.EmptyInit,
    m.Empty,
    m.EmptyInit
  >,
  read: {
    number: 4,
    request: m.ReadChunkRequest,
    reply: m.ReadChunkReply,
    callers: any,
    payload: 'reply',
  } as MethodDefinition<m.ReadChunkRequest, m.ReadChunkRequestInit, m.ReadChunkReply, m.ReadChunkReplyInit>,
  write: {
    number: 5,
    request: m.WriteChunkRequest,
    reply: m.Empty,
    callers: any,
    payload: 'request',
  } as MethodDefinition<m.WriteChunkRequest, m.WriteChunkRequestInit, m.Empty, m.EmptyInit>,
  forMasters: { number: 6, request: m.Empty, reply: m.Empty, callers: ['master'], payload: 'none' } as MethodDefinition<
    m.Empty,
    m.EmptyInit,
    m.Empty,
    m.EmptyInit
  >,
};

class Fixture {
  readonly gates: { resolve(): void; aborted: boolean }[] = [];
  readonly written: Buffer[] = [];
  readonly peers: Peer[] = [];

  readonly handlers: Handlers<typeof TABLE> = {
    echo: (request) => ({ reply: { inode: request.inode, size: 7 } }),
    slow: (_request, { signal }) => {
      const gate = deferred<void>();
      const entry = { resolve: () => gate.resolve(), aborted: false };
      signal.addEventListener('abort', () => {
        entry.aborted = true;
      });
      this.gates.push(entry);
      return gate.promise.then(() => ({ reply: {} }));
    },
    fail: () => {
      throw new CairnError('ENOENT', 'no such thing: make it first');
    },
    read: (request) => ({ reply: { checksums: [1, 0xffffffff] }, payload: Buffer.alloc(request.length, 5) }),
    write: (_request, { payload }) => {
      this.written.push(Buffer.from(payload));
      return { reply: {} };
    },
    forMasters: () => ({ reply: {} }),
  };
}

const secret = Buffer.alloc(32, 1);

function options(network: Network, role: PeerRole, theSecret = secret): EndpointOptions {
  return {
    network,
    clock: new SystemClock(),
    random: new SystemRandom(),
    logger: silentLogger,
    secret: theSecret,
    role,
  };
}

const networks: [name: string, make: () => Network, address: string][] = [
  ['memory', () => new MemoryNetwork(), 'memory:0'],
  ['ws', () => new WebSocketNetwork(), '127.0.0.1:0'],
];

for (const [name, makeNetwork, listenAddress] of networks) {
  void t.test(`over ${name}`, async (t) => {
    const network = makeNetwork();
    const fixture = new Fixture();
    const server = await servePeers(options(network, 'master'), listenAddress, {
      table: TABLE,
      handlers: fixture.handlers,
      accept: ['client'],
      clusterId: () => 'the-cluster',
      onPeer: (peer) => fixture.peers.push(peer),
    });
    t.teardown(() => server.close());
    const connect = (): ReturnType<typeof connectPeer> =>
      connectPeer(options(network, 'client'), server.address, {
        role: 'master',
        service: { table: TABLE, handlers: fixture.handlers },
      });

    await t.test('replies, errors and payload both ways', async (t) => {
      const peer = await connect();
      t.equal(peer.clusterId, 'the-cluster');
      t.match((await peer.call(TABLE.echo, { inode: 2 ** 52 + 1 })).reply, { inode: 2 ** 52 + 1, size: 7 });
      await t.rejects(peer.call(TABLE.fail, {}), { code: 'ENOENT', message: 'no such thing: make it first' });
      const { reply, payload } = await peer.call(TABLE.read, { length: MAX_PAYLOAD_BYTES });
      t.same(reply.checksums, [1, 0xffffffff]);
      t.equal(payload.length, MAX_PAYLOAD_BYTES);
      t.ok(Buffer.from(payload).every((byte) => byte === 5));
      for (const size of [0, 1, 16 * 1024, 16 * 1024 + 1, MAX_PAYLOAD_BYTES]) {
        const bytes = Buffer.alloc(size, size & 0xff);
        await peer.call(TABLE.write, { handle: 1 }, { payload: bytes });
        t.ok(fixture.written.at(-1)?.equals(bytes), `${size} bytes arrive`);
      }
      await t.rejects(peer.call(TABLE.write, {}, { payload: Buffer.alloc(MAX_PAYLOAD_BYTES + 1) }), { code: 'EINVAL' });
      await t.rejects(peer.call(TABLE.echo, {}, { payload: Buffer.alloc(1) }), { code: 'EINVAL' });
      await t.rejects(peer.call(TABLE.forMasters, {}), { code: 'UNAUTHENTICATED' });
      peer.close('done');
      await peer.closed;
    });

    await t.test('the server calls back over the same connection', async (t) => {
      const peer = await connect();
      await peer.call(TABLE.echo, { inode: 1 });
      const back = fixture.peers.at(-1);
      t.match((await back?.call(TABLE.echo, { inode: 9 }))?.reply, { inode: 9 });
      peer.close('done');
    });

    await t.test('a time-out cancels the request at the server', async (t) => {
      const peer = await connect();
      await t.rejects(peer.call(TABLE.slow, {}, { timeoutMs: 30 }), { code: 'TIMEOUT' });
      await peer.call(TABLE.echo, { inode: 1 });
      t.equal(fixture.gates.at(-1)?.aborted, true);
      const controller = new AbortController();
      const call = peer.call(TABLE.slow, {}, { signal: controller.signal });
      controller.abort();
      await t.rejects(call, { code: 'CANCELLED' });
      peer.close('done');
    });

    await t.test('P8: at most a window of requests is in flight, the rest wait in order', async (t) => {
      const peer = await connect();
      fixture.gates.length = 0;
      const calls = Array.from({ length: MAX_IN_FLIGHT_REQUESTS + 10 }, () =>
        peer.call(TABLE.slow, {}, { timeoutMs: 20_000 }),
      );
      const echo = peer.call(TABLE.echo, { inode: 1 });
      await new Promise((resolve) => setTimeout(resolve, 100));
      t.equal(fixture.gates.length, MAX_IN_FLIGHT_REQUESTS);
      const open = setInterval(() => {
        for (const gate of fixture.gates) gate.resolve();
      }, 5);
      await Promise.all([...calls, echo]);
      clearInterval(open);
      t.equal(fixture.gates.length, MAX_IN_FLIGHT_REQUESTS + 10);
      peer.close('done');
    });

    await t.test('calls in flight fail with DISCONNECTED when the connection ends', async (t) => {
      const peer = await connect();
      const call = peer.call(TABLE.slow, {});
      await new Promise((resolve) => setTimeout(resolve, 20));
      fixture.peers.at(-1)?.close('test');
      await t.rejects(call, { code: 'DISCONNECTED' });
      await t.rejects(peer.call(TABLE.echo, {}), { code: 'DISCONNECTED' });
    });

    await t.test('P12: other secret, other role, other cluster', async (t) => {
      const before = fixture.peers.length;
      await t.rejects(
        connectPeer(options(network, 'client', Buffer.alloc(32, 2)), server.address, { role: 'master' }),
        {
          code: 'UNAUTHENTICATED',
          message: /secret/,
        },
      );
      await t.rejects(connectPeer(options(network, 'client'), server.address, { role: 'chunkserver' }), {
        code: 'UNAUTHENTICATED',
      });
      await t.rejects(connectPeer(options(network, 'chunkserver'), server.address, { role: 'master' }), {
        code: 'UNAUTHENTICATED',
      });
      await t.rejects(
        connectPeer({ ...options(network, 'client'), clusterId: 'another' }, server.address, { role: 'master' }),
        { code: 'UNAUTHENTICATED', message: /belongs to cluster/ },
      );
      t.equal(fixture.peers.length, before, 'none became a peer');
    });

    await t.test('a server that belongs to no cluster yet is one to wait for', async (t) => {
      const fresh = await servePeers(options(network, 'chunkserver'), '127.0.0.1:0', {
        table: TABLE,
        handlers: new Fixture().handlers,
        accept: ['client'],
        clusterId: () => '',
      });
      const expected = { ...options(network, 'client'), clusterId: 'the-cluster' };
      await t.rejects(connectPeer(expected, fresh.address, { role: 'chunkserver' }), { code: 'UNAVAILABLE' });
      await fresh.close();
    });

    await t.test('nobody there', async (t) => {
      await t.rejects(
        connectPeer(options(network, 'client'), name === 'ws' ? '127.0.0.1:1' : 'x:1', { role: 'master' }),
        {
          code: 'UNAVAILABLE',
        },
      );
    });
  });
}

void t.test('a taken port and a bad address are told with the remedy', async (t) => {
  const network = new WebSocketNetwork();
  const listener = await network.listen('127.0.0.1:0', (transport) => transport.close('test'));
  t.teardown(() => listener.close());
  await t.rejects(
    network.listen(listener.address, () => undefined),
    { code: 'EBUSY', message: /taken/ },
  );
  for (const address of ['nonsense', 'host:', 'host:99999', ':80', 'a b:1']) {
    try {
      await network.connect(address, 100);
      t.fail(`${address} was accepted`);
    } catch (error) {
      t.ok(hasCode(error, 'EINVAL'), `${address} is refused`);
    }
  }
});

void t.test('a stream of large calls through ws keeps its bytes', async (t) => {
  const network = new WebSocketNetwork();
  const fixture = new Fixture();
  const server = await servePeers(options(network, 'chunkserver'), '127.0.0.1:0', {
    table: TABLE,
    handlers: fixture.handlers,
    accept: ['client'],
    clusterId: () => 'c',
  });
  t.teardown(() => server.close());
  const peer = await connectPeer(options(network, 'client'), server.address, { role: 'chunkserver' });
  const blocks = Array.from({ length: 64 }, (_, i) => Buffer.alloc(MIB, i));
  await Promise.all(blocks.map((payload) => peer.call(TABLE.write, {}, { payload })));
  t.equal(fixture.written.length, 64);
  t.ok(fixture.written.every((bytes, i) => bytes.equals(blocks[i] ?? Buffer.alloc(0))));
  peer.close('done');
});
