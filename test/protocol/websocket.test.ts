/** Connections of WebSocketNetwork with any other WebSocket (RFC 6455) at the far end, here that of ws, and with hostile ones. */
import { createServer, connect as connectTcp, type Socket } from 'node:net';
import t from 'tap';
import { WebSocket, WebSocketServer } from 'ws';
import { MAX_PAYLOAD_BYTES } from '../../src/core/limits.js';
import { receiveInto } from '../../src/protocol/bulk-socket.js';
import type { Message, Transport } from '../../src/protocol/transport.js';
import { WebSocketNetwork } from '../../src/protocol/websocket.js';

interface Heard {
  readonly messages: Message[];
  readonly closed: Promise<string>;
  until(count: number): Promise<void>;
}

/** Must be called in the tick that yields the transport. */
function listenTo(transport: Transport): Heard {
  const messages: Message[] = [];
  let wake: () => void = () => undefined;
  const closed = new Promise<string>((resolve) => {
    transport.trust();
    transport.start({
      onMessage: (message) => {
        messages.push(message);
        wake();
      },
      onClose: resolve,
    });
  });
  const until = async (count: number): Promise<void> => {
    while (messages.length < count) await new Promise<void>((resolve) => (wake = resolve));
  };
  return { messages, closed, until };
}

function message(header: string, payload: Buffer): Buffer {
  const bytes = Buffer.from(header);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return Buffer.concat([length, bytes, payload]);
}

const payloadOf = (length: number): Buffer => Buffer.alloc(length, 'a payload whose bytes are not all the same ');
const sizes = [0, 1, 125, 126, 5_000, 16 * 1024, 16 * 1024 + 1, 65_535, 65_536, 300_000, MAX_PAYLOAD_BYTES];

async function listening(): Promise<{ address: string; accepted: Promise<{ transport: Transport; heard: Heard }> }> {
  let accept: (value: { transport: Transport; heard: Heard }) => void;
  const accepted = new Promise<{ transport: Transport; heard: Heard }>((resolve) => (accept = resolve));
  const listener = await new WebSocketNetwork().listen('127.0.0.1:0', (transport) =>
    accept({ transport, heard: listenTo(transport) }),
  );
  t.teardown(() => listener.close());
  return { address: listener.address, accepted };
}

const opened = (socket: WebSocket): Promise<unknown> => new Promise((resolve) => socket.once('open', resolve));

t.test('a client of ws, with its random masks', async (t) => {
  const { address, accepted } = await listening();
  const socket = new WebSocket(`ws://${address}/`, { perMessageDeflate: false });
  const received: Buffer[] = [];
  let closeReason = '';
  socket.on('message', (data: Buffer) => received.push(data));
  const closed = new Promise((resolve) =>
    socket.on('close', (_, reason) => resolve((closeReason = reason.toString()))),
  );
  await opened(socket);
  socket.send(message('from ws', payloadOf(sizes[0] ?? 0)));
  const { transport, heard } = await accepted;
  for (const size of sizes.slice(1)) socket.send(message('from ws', payloadOf(size)));
  await heard.until(sizes.length);
  t.ok(
    heard.messages.every(({ payload }, i) => payloadOf(sizes[i] ?? 0).equals(payload)),
    'what it sends arrives',
  );
  const pong = new Promise<Buffer>((resolve) => socket.once('pong', resolve));
  socket.ping('are you there');
  t.equal((await pong).toString(), 'are you there', 'its pings are answered');
  const header = Buffer.from('from cairn');
  for (const size of sizes) transport.send({ header, payload: payloadOf(size) });
  while (received.length < sizes.length) await new Promise((resolve) => setTimeout(resolve, 5));
  const expected = sizes.map((size) => message('from cairn', payloadOf(size)));
  t.ok(
    received.every((bytes, i) => bytes.equals(expected[i] ?? Buffer.alloc(0))),
    'it takes what is sent to it',
  );
  transport.close('enough');
  await closed;
  t.equal(closeReason, 'enough', 'it is told why the connection ends');
  t.equal(await heard.closed, 'enough');
});

t.test('a server of ws', async (t) => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false });
  t.teardown(() => server.close());
  await new Promise((resolve) => server.once('listening', resolve));
  server.on('connection', (socket) => {
    // In the same packet as the handshake's answer.
    socket.send(message('early', payloadOf(20)));
    socket.on('message', (data: Buffer) => socket.send(data));
  });
  const { port } = server.address() as { port: number };
  const transport = await new WebSocketNetwork().connect(`127.0.0.1:${port}`, 5000);
  const heard = listenTo(transport);
  for (const size of sizes) transport.send({ header: Buffer.from('echo'), payload: payloadOf(size) });
  await heard.until(sizes.length + 1);
  t.equal(Buffer.from(heard.messages[0]?.header ?? []).toString(), 'early', 'what comes at once is not lost');
  t.ok(
    heard.messages.slice(1).every(({ payload }, i) => payloadOf(sizes[i] ?? 0).equals(payload)),
    'messages go there and back',
  );
  for (const socket of server.clients) socket.close(1000, 'going home');
  t.equal(await heard.closed, 'going home', 'its reason to close is heard');
});

t.test('frames that are not allowed end the connection with a reason', async (t) => {
  for (const [bytes, reason] of [
    [Buffer.from([0x81, 0x80, 0, 0, 0, 0]), /^protocol: text message/],
    [Buffer.from([0x82, 0x01, 0]), /^protocol: .*without a mask/],
    [Buffer.from([0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), /^protocol: message of 4294967296 bytes/],
  ] as const) {
    const { address, accepted } = await listening();
    const [host, port] = address.split(':');
    const socket = connectTcp(Number(port), host);
    socket.on('error', () => undefined);
    const ended = new Promise((resolve) => socket.on('close', resolve));
    socket.resume();
    socket.write(
      'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
        'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
    );
    socket.write(bytes);
    const { heard } = await accepted;
    t.match(await heard.closed, reason);
    await ended;
  }
});

t.test('a peer that vanishes, and one that does not answer a close', async (t) => {
  const first = await listening();
  const gone = new WebSocket(`ws://${first.address}/`);
  await opened(gone);
  gone.send(message('here', payloadOf(1)));
  const { heard: heardOfGone } = await first.accepted;
  gone.terminate();
  t.match(await heardOfGone.closed, /hung up|ECONNRESET/);

  const second = await listening();
  const [host, port] = second.address.split(':');
  const deaf = connectTcp({ port: Number(port), host, allowHalfOpen: true });
  deaf.on('error', () => undefined);
  const ended = new Promise((resolve) => deaf.on('close', resolve));
  deaf.write(
    'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  );
  // An empty message, as the side that connected must speak first.
  deaf.write(Buffer.from([0x82, 0x84, 0, 0, 0, 0, 0, 0, 0, 0]));
  const { transport, heard } = await second.accepted;
  transport.close('bye');
  t.equal(await heard.closed, 'bye');
  const poke = setInterval(() => deaf.write(Buffer.alloc(10)), 100);
  deaf.resume();
  await ended;
  clearInterval(poke);
  t.pass('its socket is cut');
});

t.test('a socket without a handle that can be moved is received from by copies', async (t) => {
  const server = createServer((socket) => socket.end(payloadOf(100_000)));
  t.teardown(() => server.close());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  for (const movable of [true, false]) {
    const socket = connectTcp(port, '127.0.0.1');
    await new Promise((resolve) => socket.once('connect', resolve));
    const memory = Buffer.alloc(100_000);
    let filled = 0;
    const ended = new Promise((resolve) => {
      const from = movable ? socket : new Proxy(socket, withoutHandle);
      const used = receiveInto(from, {
        // Pieces of a size that no read has.
        space: () => (filled < memory.length ? memory.subarray(filled, filled + 777) : Buffer.alloc(1)),
        took: (count) => {
          filled += count;
        },
      });
      t.equal(used === from, !movable, movable ? 'moved' : 'kept');
      (movable ? used : socket).on('close', resolve);
      (movable ? used : socket).on('end', () => socket.end());
    });
    await ended;
    t.equal(filled, 100_000);
    t.ok(memory.equals(payloadOf(100_000)));
  }
});

const withoutHandle: ProxyHandler<Socket> = {
  get: (socket, name): unknown => {
    if (name === '_handle') return undefined;
    const value: unknown = Reflect.get(socket, name, socket);
    return typeof value === 'function' ? (value as (...all: unknown[]) => unknown).bind(socket) : value;
  },
};
