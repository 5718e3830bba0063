/**
 * Metadata rates through the client library, without a mount. Reads { master, secret, operations } as JSON from standard
 * input, and prints the rates by name. A secret does not belong in the arguments, which every user can see.
 */
import { text } from 'node:stream/consumers';
import { SystemClock } from '../../src/core/clock.js';
import { ROOT_INODE, type InodeId } from '../../src/core/ids.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import { SystemRandom } from '../../src/core/random.js';
import { WebSocketNetwork } from '../../src/protocol/websocket.js';
import { ClusterFileSystem } from '../../src/client/cluster-filesystem.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';

const { master, secret, operations } = JSON.parse(await text(process.stdin)) as {
  master: string;
  secret: string;
  operations: number;
};
const fs = await ClusterFileSystem.connect(
  { clock: new SystemClock(), random: new SystemRandom(), network: new WebSocketNetwork(), logger: silentLogger },
  { master, secret: Buffer.from(secret, 'hex'), clientName: 'bench' },
);

/** Operations a second, `operations` in all, `inFlight` at any time. */
async function rate(inFlight: number, operation: (index: number) => Promise<unknown>): Promise<number> {
  let next = 0;
  const started = performance.now();
  const lane = async (): Promise<void> => {
    while (next < operations) await operation(next++);
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  return operations / ((performance.now() - started) / 1000);
}

const root = ROOT_CREDENTIALS;
const name = (prefix: string, index: number): Buffer => Buffer.from(`${prefix}-${index}`);

async function makeDirectory(parent: InodeId, directoryName: string): Promise<InodeId> {
  const options = { kind: 'directory', mode: 0o755 } as const;
  return (await fs.makeNode(root, parent, Buffer.from(directoryName), options)).inode;
}

const rates: Record<string, number> = {};
const topName = `bench-${process.pid}`;
const top = await makeDirectory(ROOT_INODE, topName);
for (const inFlight of [1, 16]) {
  const label = inFlight === 1 ? 'one after another' : `${inFlight} in flight`;
  const directoryName = `in-flight-${inFlight}`;
  const directory = await makeDirectory(top, directoryName);
  rates[`creates, ${label}`] = await rate(inFlight, (index) =>
    fs.makeNode(root, directory, name('file', index), { kind: 'file', mode: 0o644 }),
  );
  rates[`renames, ${label}`] = await rate(inFlight, (index) =>
    fs.rename(root, { parent: directory, name: name('file', index) }, { parent: directory, name: name('new', index) }),
  );
  rates[`removals, ${label}`] = await rate(inFlight, (index) => fs.unlink(root, directory, name('new', index)));
  await fs.removeDirectory(root, top, Buffer.from(directoryName));
}
await fs.removeDirectory(root, ROOT_INODE, Buffer.from(topName));
await fs.close();
process.stdout.write(JSON.stringify(rates) + '\n');
