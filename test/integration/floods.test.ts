/** P8, P12: floods by who has no secret, at real processes: their memory, descriptors and logs stay bounded, and clients are served. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { KIB, MAX_UNPROVEN_CONNECTIONS, MIB } from '../../src/core/limits.js';
import { ROOT_CREDENTIALS, type FileSystem } from '../../src/filesystem/filesystem.js';
import { parseAddress } from '../../src/protocol/websocket.js';
import { ProcessCluster } from '../support/process-cluster.js';

const CONNECTIONS = 1_500;
const UPGRADE =
  'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n' +
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';

interface Use {
  readonly memory: number;
  readonly descriptors: number;
}

async function useOf(pid: number): Promise<Use> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const memory = Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * KIB;
  return { memory, descriptors: (await readdir(`/proc/${pid}/fd`)).length };
}

/** All but the last byte of a message of 1.3 MB. */
function withheld(): Buffer {
  const bytes = Buffer.alloc(14 + 64 * KIB);
  bytes.set([0x82, 0xff]);
  bytes.writeUInt32BE(1_300_000, 6);
  return Buffer.concat([Buffer.from(UPGRADE), bytes]);
}

const FLOODS: Readonly<Record<string, Buffer>> = {
  'connections that say nothing': Buffer.alloc(0),
  'requests without an end': Buffer.from('GET / HTTP/1.1\r\nHost: x\r\nX: '),
  'messages without an end': withheld(),
};

/** Opens the connections, and tells when all that they say is out or refused. */
const FLOOD = `
  const { connect } = require('node:net');
  const { parentPort, workerData: { host, port, bytes, count } } = require('node:worker_threads');
  const sockets = [];
  function more() {
    for (let i = 0; i < 50 && sockets.length < count; i++) {
      const socket = connect(port, host, () => bytes.length > 0 && socket.write(bytes));
      socket.on('error', () => undefined).resume();
      sockets.push(socket);
    }
    const isOut = sockets.every((each) => each.destroyed || (!each.connecting && each.writableLength === 0));
    if (sockets.length === count && isOut) parentPort.postMessage('out');
    else setTimeout(more, 5);
  }
  more();
`;

/** Milliseconds that the master takes for a look at a name, the median of many. */
async function typical(fs: FileSystem): Promise<number> {
  const took: number[] = [];
  for (let i = 0; i < 200; i++) {
    const started = performance.now();
    await fs.lookup(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from(`none-${i}`)).catch(() => undefined);
    took.push(performance.now() - started);
  }
  return took.sort((a, b) => a - b)[took.length / 2] ?? 0;
}

t.test('P8, P12: floods of strangers', async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 1, replicas: 1 });
  const fs = await cluster.client({ cacheTtlMs: 0 });
  const quietMs = await typical(fs);
  for (const [place, address] of [
    ['master', cluster.master],
    ['chunkserver-1', cluster.addressOf(0)],
  ] as const) {
    const pid = (await cluster.pids()).get(place) ?? t.fail(`${place} runs`);
    if (typeof pid !== 'number') return;
    const { host, port } = parseAddress(address);
    for (const [name, bytes] of Object.entries(FLOODS)) {
      await t.test(`${place}: ${name}`, async (t) => {
        const before = await useOf(pid);
        const flood = new Worker(FLOOD, { eval: true, workerData: { host, port, bytes, count: CONNECTIONS } });
        await new Promise((resolve) => flood.once('message', resolve));
        const floodedMs = await typical(fs);
        const { memory, descriptors } = await useOf(pid);
        t.ok(descriptors <= before.descriptors + MAX_UNPROVEN_CONNECTIONS + 16, `${descriptors} descriptors`);
        t.ok(memory <= before.memory + 120 * MIB, `${Math.round(memory / MIB)} MiB`);
        // Whether it is served: how fast on a quiet machine is in docs/testing.md.
        t.ok(
          floodedMs < 3 * quietMs + 20,
          `a lookup takes ${floodedMs.toFixed(2)} ms, before ${quietMs.toFixed(2)} ms`,
        );
        await flood.terminate();
      });
    }
    const log = await stat(join(cluster.directory.path, place, 'log'));
    t.ok(log.size < 64 * KIB, `a log of ${log.size} bytes`);
    t.equal(log.mode & 0o777, 0o600);
  }
  t.equal((await cluster.cairn('status')).code, 0, 'a new client gets in');
});
