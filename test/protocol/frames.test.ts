/** P8: WebSocket frames from the wire: cut anywhere, malformed, endless. */
import t from 'tap';
import { SeededRandom } from '../../src/core/random.js';
import {
  CLOSE_STATUS,
  closePayload,
  controlFrame,
  FrameError,
  FrameReceiver,
  OPCODES,
  putFrameHeader,
} from '../../src/protocol/frames.js';

const seed = Number(process.env['CAIRN_SEED'] ?? Math.floor(Math.random() * 2 ** 32));
const MAX_MESSAGE = 300_000;

interface Heard {
  readonly messages: Buffer[][];
  readonly pings: Buffer[];
  readonly closes: [number, string][];
  /** Sizes that memory was asked for. */
  readonly allocated: number[];
}

function receiver(masked = false): { heard: Heard; receiver: FrameReceiver } {
  const heard: Heard = { messages: [], pings: [], closes: [], allocated: [] };
  return {
    heard,
    receiver: new FrameReceiver({
      masked,
      limits: { messageBytes: MAX_MESSAGE, fragments: 1024 },
      allocate: (length) => {
        heard.allocated.push(length);
        return Buffer.alloc(length);
      },
      onMessage: (fragments) => heard.messages.push([...fragments]),
      onPing: (payload) => heard.pings.push(payload),
      onClose: (status, reason) => heard.closes.push([status, reason]),
    }),
  };
}

/** Feeds `bytes` as a socket would, in pieces of at most `next()`. */
function feed(into: FrameReceiver, bytes: Buffer, next: () => number = () => Infinity): void {
  for (let at = 0; at < bytes.length;) {
    const space = into.space();
    if (space.length === 0) throw new Error('no space');
    const count = Math.min(space.length, bytes.length - at, next());
    bytes.copy(space, 0, at, at + count);
    into.took(count);
    at += count;
  }
}

interface FrameInit {
  readonly opcode?: number;
  readonly fin?: boolean;
  /** undefined: not masked. */
  readonly mask?: Buffer | undefined;
  readonly first?: number;
}

function frame(payload: Buffer, { opcode = OPCODES.binary, fin = true, mask, first }: FrameInit = {}): Buffer {
  const header = Buffer.alloc(14);
  const end = putFrameHeader(header, 0, { opcode, fin, masked: mask !== undefined, length: payload.length });
  if (first !== undefined) header[0] = first;
  const body = Buffer.from(payload);
  if (mask !== undefined) {
    mask.copy(header, end - 4);
    for (let i = 0; i < body.length; i++) body[i] = (body[i] ?? 0) ^ (mask[i % 4] ?? 0);
  }
  return Buffer.concat([header.subarray(0, end), body]);
}

const bytesOf = (length: number, start = 1): Buffer =>
  Buffer.from(Array.from({ length }, (_, i) => (start + i * 7) % 256));
const ZERO_MASK = Buffer.alloc(4);

t.test('more is taken at once after the raise, in the middle of a frame too', (t) => {
  const { heard, receiver: raised } = receiver();
  const payload = Buffer.alloc(10_000, 7);
  const bytes = Buffer.alloc(14 + payload.length);
  const at = putFrameHeader(bytes, 0, { opcode: OPCODES.binary, fin: true, masked: false, length: payload.length });
  payload.copy(bytes, at);
  const frame = bytes.subarray(0, at + payload.length);
  feed(raised, Buffer.concat([frame, frame.subarray(0, 3)]));
  raised.raise({ messageBytes: MAX_MESSAGE, fragments: 1024 });
  feed(raised, Buffer.concat([frame.subarray(3), frame]));
  t.same(heard.messages, [[payload], [payload], [payload]]);
  t.same(heard.allocated, [payload.length], 'then such a frame needs no memory of its own');
  t.end();
});

t.test('messages arrive whole, wherever the stream is cut', async (t) => {
  const header = frame(bytesOf(60), { fin: false });
  const large = frame(bytesOf(40_000, 3), { opcode: OPCODES.continuation });
  const stream = Buffer.concat([header, controlFrame(OPCODES.ping, bytesOf(5), false), large, frame(bytesOf(200))]);
  for (let cut = 1; cut < stream.length; cut += cut < 400 || cut > stream.length - 300 ? 1 : 997) {
    const { heard, receiver: into } = receiver();
    let pieces = 0;
    feed(into, stream, () => (pieces++ === 0 ? cut : Infinity));
    const expected = [[bytesOf(60), bytesOf(40_000, 3)], [bytesOf(200)]];
    if (!heard.messages.flat().every((part, i) => part.equals(expected.flat()[i] ?? Buffer.alloc(0)))) {
      t.fail(`cut at ${cut}`);
    }
    if (heard.messages.map((m) => m.length).join() !== '2,1' || heard.pings.length !== 1) t.fail(`cut at ${cut}`);
  }
  const { heard, receiver: into } = receiver();
  feed(into, stream, () => 1);
  t.same(heard.messages, [[bytesOf(60), bytesOf(40_000, 3)], [bytesOf(200)]], 'a byte at a time');
  t.same(heard.allocated, [40_000], 'a large frame gets its own memory, once');
});

t.test('random streams of messages, pings and masks, cut at random', async (t) => {
  t.comment(`CAIRN_SEED=${seed}`);
  const random = new SeededRandom(seed);
  for (let round = 0; round < 60; round++) {
    const masked = random.below(2) === 0;
    const expected: Buffer[] = [];
    const parts: Buffer[] = [];
    let pings = 0;
    const mask = (): Buffer | undefined =>
      !masked ? undefined : random.below(2) === 0 ? ZERO_MASK : bytesOf(4, 1 + random.below(200));
    for (let n = random.below(8); n >= 0; n--) {
      const message = bytesOf(
        [0, 125, 126, 5000, 16_384, 65_535, 65_536, 100_000][random.below(8)] ?? 1,
        random.below(256),
      );
      expected.push(message);
      let at = 0;
      for (let fragment = 0, of = 1 + random.below(4); fragment < of; fragment++) {
        const end = fragment === of - 1 ? message.length : at + random.below(message.length - at + 1);
        const opcode = fragment === 0 ? OPCODES.binary : OPCODES.continuation;
        parts.push(frame(message.subarray(at, end), { opcode, fin: fragment === of - 1, mask: mask() }));
        at = end;
        if (random.below(3) === 0) {
          parts.push(frame(bytesOf(random.below(126)), { opcode: OPCODES.ping, mask: mask() }));
          pings++;
        }
      }
    }
    const { heard, receiver: into } = receiver(masked);
    const most = [3, 100, 5000, 70_000][random.below(4)] ?? 1;
    feed(into, Buffer.concat(parts), () => 1 + random.below(most));
    const same = heard.messages.length === expected.length && heard.pings.length === pings;
    if (!same || !heard.messages.every((message, i) => Buffer.concat(message).equals(expected[i] ?? ZERO_MASK))) {
      t.fail(`round ${round}`);
      return;
    }
  }
  t.pass('60 rounds');
});

t.test('what is not WebSocket, or too large, is refused', async (t) => {
  const big = Buffer.alloc(14);
  putFrameHeader(big, 0, { opcode: OPCODES.binary, fin: true, masked: false, length: MAX_MESSAGE + 1 });
  const huge = Buffer.from([0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
  const open = frame(bytesOf(10), { fin: false });
  const { continuation, ping, close } = OPCODES;
  const cases: [name: string, bytes: Buffer, status: number, masked?: boolean][] = [
    ['text', frame(bytesOf(3), { opcode: OPCODES.text }), CLOSE_STATUS.unsupportedData],
    ['an unknown opcode', frame(bytesOf(3), { opcode: 3 }), CLOSE_STATUS.protocolError],
    ['an unknown control opcode', frame(bytesOf(3), { opcode: 11 }), CLOSE_STATUS.protocolError],
    ['a reserved bit, as of compression', frame(bytesOf(3), { first: 0xc2 }), CLOSE_STATUS.protocolError],
    ['a continuation of nothing', frame(bytesOf(3), { opcode: continuation }), CLOSE_STATUS.protocolError],
    ['a message within a message', Buffer.concat([open, frame(bytesOf(3))]), CLOSE_STATUS.protocolError],
    ['a ping in fragments', frame(bytesOf(3), { opcode: ping, fin: false }), CLOSE_STATUS.protocolError],
    ['a long ping', frame(bytesOf(126), { opcode: ping }), CLOSE_STATUS.protocolError],
    ['a close frame of one byte', frame(bytesOf(1), { opcode: close }), CLOSE_STATUS.protocolError],
    ['a mask from the side that was connected to', frame(bytesOf(3), { mask: ZERO_MASK }), CLOSE_STATUS.protocolError],
    ['no mask from the side that connected', frame(bytesOf(3)), CLOSE_STATUS.protocolError, true],
    ['a large message, by its header alone', big.subarray(0, 10), CLOSE_STATUS.tooLarge],
    ['a message of 2^64 bytes', huge, CLOSE_STATUS.tooLarge],
    [
      'a message that grows too large in fragments',
      Buffer.concat([frame(Buffer.alloc(MAX_MESSAGE), { fin: false }), frame(bytesOf(1), { opcode: continuation })]),
      CLOSE_STATUS.tooLarge,
    ],
    [
      'empty fragments without end',
      Buffer.concat([
        open,
        ...Array.from({ length: 5000 }, () => frame(bytesOf(0), { opcode: continuation, fin: false })),
      ]),
      CLOSE_STATUS.tooLarge,
    ],
  ];
  for (const [name, bytes, status, masked] of cases) {
    const { heard, receiver: into } = receiver(masked);
    try {
      feed(into, bytes);
      t.fail(`${name}: taken`);
    } catch (error) {
      t.equal(error instanceof FrameError ? error.status : error, status, name);
    }
    t.same(heard.messages, [], `${name}: no message`);
    t.notOk(
      heard.allocated.some((length) => length > MAX_MESSAGE),
      `${name}: no memory for it`,
    );
  }
});

t.test('close frames say why, in so many bytes', async (t) => {
  const { heard, receiver: into } = receiver();
  feed(into, controlFrame(OPCODES.close, closePayload(1002, 'so there'), false));
  feed(into, controlFrame(OPCODES.close, Buffer.alloc(0), false));
  feed(into, controlFrame(OPCODES.close, closePayload(1000, 'ä'.repeat(500)), false));
  t.same(heard.closes.slice(0, 2), [
    [1002, 'so there'],
    [1005, ''],
  ]);
  t.match(heard.closes[2], [1000, /^\?{100,123}$/]);
});
