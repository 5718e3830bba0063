/** copy_file_range(2) from chunk to chunk, with a scripted master. */
import t from 'tap';
import { errorNumber } from '../../../src/core/errors.js';
import { BLOCK_SIZE_BYTES, KIB, MAX_COPY_RANGE_BYTES, MAX_PAYLOAD_BYTES, MIB } from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { DATA_OFFSET } from '../../../src/chunkserver/chunk/chunk-format.js';
import type { CopyRangeReply } from '../../../src/protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../../src/protocol/methods.js';
import { testSeed } from '../../support/seed.js';
import { ChunkserverCluster, type Lease } from '../chunkserver-cluster.js';

const seed = testSeed(t);
const random = new SeededRandom(seed);
const BLOCK = BLOCK_SIZE_BYTES;
const SOURCE = 1;
const TARGET = 2;

interface Copy {
  readonly offset: number;
  readonly length: number;
  readonly from?: number;
  /** Bytes of the source that count. */
  readonly valid?: number;
  readonly holders?: readonly number[];
  readonly version?: number;
  readonly handle?: number;
}

async function copy(
  cluster: ChunkserverCluster,
  lease: Lease,
  copy: Copy,
  signal?: AbortSignal,
): Promise<CopyRangeReply> {
  const { offset, length, from, valid = length, holders = [1, 2], version = 1, handle = SOURCE } = copy;
  const replicas = cluster.members(holders);
  const source = from === undefined ? null : { handle, version, replicas, offset: from, length: valid };
  const peer = await cluster.client(lease.primary);
  try {
    const options = signal === undefined ? {} : { signal };
    return (await peer.call(CHUNKSERVER_METHODS.copyRange, { ...lease, offset, length, source }, options)).reply;
  } finally {
    peer.close('done');
  }
}

async function content(cluster: ChunkserverCluster, server: number, handle: number, version = 1): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = 0; ; at += MIB) {
    const part = await cluster.read(server, handle, version, at, MIB);
    parts.push(part);
    if (part.length < MIB) return Buffer.concat(parts);
  }
}

async function alike(
  cluster: ChunkserverCluster,
  servers: readonly number[],
  handle: number,
  version = 1,
): Promise<Buffer> {
  const [first = Buffer.alloc(0), ...rest] = await Promise.all(
    servers.map((id) => content(cluster, id, handle, version)),
  );
  for (const other of rest) if (!other.equals(first)) throw new Error('P4: replicas differ');
  return first;
}

/** A source of `bytes` on servers 1 and 2, and an empty target on `targets`. */
async function prepared(
  bytes: Buffer,
  targets: readonly number[],
): Promise<{ cluster: ChunkserverCluster; lease: Lease }> {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const source = await cluster.grant(SOURCE, 1, [1, 2], { create: true });
  for (let at = 0; at < bytes.length; at += MIB) await cluster.write(source, at, bytes.subarray(at, at + MIB));
  return { cluster, lease: await cluster.grant(TARGET, 1, targets, { create: true }) };
}

t.test('P4: any bytes to any place, from an own replica or from a peer', async (t) => {
  const bytes = random.bytes(3 * MIB + 777);
  for (const targets of [[1, 3], [3, 2], [3]]) {
    const { cluster, lease } = await prepared(bytes, targets);
    let expected = Buffer.alloc(0);
    for (let round = 0; round < 12; round++) {
      const aligned = round % 3 === 0 ? BLOCK : 1;
      const offset = random.below((2 * MIB) / aligned) * aligned;
      const from = random.below(bytes.length / aligned) * aligned;
      const length = 1 + random.below(2 * MIB);
      const valid = round % 4 === 3 ? random.below(length) : length;
      t.match(await copy(cluster, lease, { offset, from, length, valid }), { copied: length, sourceError: 0 });
      const put = Buffer.alloc(length);
      bytes.copy(put, 0, from, Math.min(bytes.length, from + valid));
      const grown = Buffer.alloc(Math.max(expected.length, offset + length));
      expected.copy(grown);
      put.copy(grown, offset);
      expected = grown;
      const now = await alike(cluster, targets, TARGET);
      const whole = Buffer.alloc(expected.length);
      now.copy(whole);
      if (!whole.equals(expected)) t.fail(`round ${round}: ${length} from ${from} to ${offset}, ${valid} valid`);
    }
    t.match(await copy(cluster, lease, { offset: 1000, length: 1 * MIB }), { copied: MIB });
    expected.fill(0, 1000, 1000 + MIB);
    const now = await alike(cluster, targets, TARGET);
    t.ok(now.equals(expected.subarray(0, now.length)), 'zeros');
    await cluster.stop();
  }
});

t.test('zeros past the end of the target are not written, and overwrite what is there', async (t) => {
  const bytes = Buffer.alloc(10 * BLOCK);
  random.bytes(BLOCK).copy(bytes, 2 * BLOCK);
  bytes[7 * BLOCK + 5] = 1;
  const { cluster, lease } = await prepared(bytes, [1, 3]);
  const writes = (): number => cluster.machine(1).disk.changes;
  await copy(cluster, lease, { offset: 0, from: 0, length: bytes.length });
  t.equal((await alike(cluster, [1, 3], TARGET)).length, 8 * BLOCK, 'nothing behind the last block with data');
  t.ok((await alike(cluster, [1, 3], TARGET)).equals(bytes.subarray(0, 8 * BLOCK)));
  const before = writes();
  await copy(cluster, lease, { offset: 20 * BLOCK, length: 100 * BLOCK });
  await copy(cluster, lease, { offset: 20 * BLOCK, from: 3 * BLOCK, length: 4 * BLOCK });
  t.equal(writes(), before, 'zeros behind the end cost nothing');
  await cluster.write(lease, 0, random.bytes(10 * BLOCK));
  await copy(cluster, lease, { offset: 0, from: 0, length: bytes.length });
  t.ok((await alike(cluster, [1, 3], TARGET)).equals(bytes));
  await cluster.stop();
});

t.test('refusals: what is no range, a chunk onto itself, who is not the primary', async (t) => {
  const { cluster, lease } = await prepared(random.bytes(BLOCK), [1, 3]);
  const refused = async (range: Copy, code = 'EINVAL', under = lease): Promise<void> => {
    await t.rejects(copy(cluster, under, range), { code });
  };
  await refused({ offset: 0, from: 0, length: 0 });
  await refused({ offset: 0, from: 0, length: MAX_COPY_RANGE_BYTES + 1 });
  await refused({ offset: 64 * MIB - 10, from: 0, length: 11 });
  await refused({ offset: 0, from: 64 * MIB - 10, length: 11 });
  await refused({ offset: 100, from: 0, length: 101, handle: TARGET, holders: [1, 3] });
  await refused({ offset: 0, from: 100, length: 101, handle: TARGET, holders: [1, 3] });
  await refused({ offset: 0, from: 0, length: 1 }, 'NOT_PRIMARY', { ...lease, primary: 3 });
  await refused({ offset: 0, from: 0, length: 1 }, 'NOT_PRIMARY', { ...lease, leaseId: 99 });
  await refused({ offset: 0, from: 0, length: 1 }, 'STALE_VERSION', { ...lease, version: 2 });
  await cluster.write(lease, 0, Buffer.from('0123456789'));
  await copy(cluster, lease, { offset: 10, from: 0, length: 10, handle: TARGET, holders: [1, 3] });
  t.equal((await alike(cluster, [1, 3], TARGET)).toString(), '01234567890123456789');
  await cluster.stop();
});

t.test(
  'P3, P9: a source that is corrupt, stale, suspect or gone is not copied; another server with it is',
  async (t) => {
    const bytes = random.bytes(2 * MIB);
    const { cluster, lease } = await prepared(bytes, [1, 3]);
    const all = { offset: 0, from: 0, length: bytes.length };
    const told = async (range: Copy): Promise<unknown> => {
      const { copied, sourceError } = await copy(cluster, lease, range);
      return [copied, sourceError];
    };
    t.same(await told({ ...all, version: 2 }), [0, errorNumber('STALE_VERSION')]);
    t.same(await told({ ...all, holders: [3] }), [0, errorNumber('NO_REPLICA')]);
    t.same(await told({ ...all, holders: [] }), [0, errorNumber('NO_REPLICA')]);
    const { disk } = cluster.machine(1);
    disk.content(cluster.chunkPath(cluster.machine(1), SOURCE)).fill(0, DATA_OFFSET + MIB + 5, DATA_OFFSET + MIB + 50);
    t.same(await told({ ...all, holders: [1] }), [MIB, errorNumber('CORRUPT')], 'up to where it is sound');
    t.match(cluster.replicaReports, [{ handle: SOURCE, serverId: 1 }], 'the damage is reported');
    t.same(await told(all), [bytes.length, 0]);
    t.ok((await alike(cluster, [1, 3], TARGET)).equals(bytes));
    // Server 2 may have missed a write when its machine went down: recovery may read it, a copy may not.
    const source = await cluster.grant(SOURCE, 1, [1, 2]);
    await cluster.sync(source);
    await cluster.write(source, 0, Buffer.from('new'));
    await cluster.kill(cluster.machine(2), 'powerLoss');
    await cluster.startServer(cluster.machine(2));
    t.same(await told({ ...all, holders: [2] }), [0, errorNumber('STALE_VERSION')]);
    await cluster.kill(cluster.machine(2));
    t.same(await told({ ...all, length: MIB }), [MIB, 0]);
    await cluster.stop();
  },
);

t.test('P4: a member dies in the middle; the copy is repeated after recovery', async (t) => {
  const bytes = random.bytes(12 * MIB);
  const { cluster, lease } = await prepared(bytes, [1, 3]);
  const all = { offset: 0, from: 0, length: bytes.length };
  const failed = t.rejects(copy(cluster, lease, all), { code: 'STALE_VERSION' });
  while ((await cluster.read(3, TARGET, 1)).length === 0);
  await cluster.kill(cluster.machine(3));
  await failed;
  t.match(cluster.forwardFailures, [{ handle: TARGET, leaseId: lease.leaseId, failedServers: [3] }]);
  await t.rejects(copy(cluster, lease, all), { code: 'STALE_VERSION' }, 'the lease is over');
  t.same(await cluster.recover(TARGET, 1, 2, [1]), [1]);
  const next = await cluster.grant(TARGET, 2, [1]);
  t.match(await copy(cluster, next, all), { copied: bytes.length });
  t.ok((await content(cluster, 1, TARGET, 2)).equals(bytes));
  await cluster.stop();
});

t.test('a copy is given up when its client is gone; many at once are worked off, or refused', async (t) => {
  const bytes = random.bytes(16 * MIB);
  const { cluster, lease } = await prepared(bytes, [1, 3]);
  const all = { offset: 0, from: 0, length: bytes.length };
  const controller = new AbortController();
  const cancelled = t.rejects(copy(cluster, lease, all, controller.signal), { code: 'CANCELLED' });
  while ((await cluster.read(1, TARGET, 1)).length === 0);
  controller.abort();
  await cancelled;
  await cluster.masterPeer(1).call(CHUNKSERVER_METHODS.revokeLease, { handle: TARGET, leaseId: lease.leaseId });
  const done = (await content(cluster, 1, TARGET)).length;
  t.ok(done > 0 && done < bytes.length, `${done} of ${bytes.length}`);
  const again = await cluster.grant(TARGET, 1, [1, 3]);
  const results = await Promise.allSettled(
    Array.from({ length: 90 }, (_, i) => copy(cluster, again, { offset: i * 100 * KIB, from: 0, length: 100 * KIB })),
  );
  const refused = results.filter((result) => result.status === 'rejected');
  for (const { reason } of refused) t.equal((reason as { code?: string }).code, 'BUSY');
  // On a busy machine others wait until their time is over.
  const atOnce = refused.filter(({ reason }) => String(reason).includes('wait already')).length;
  t.ok(atOnce > 0 && atOnce <= 22, `${atOnce} refused at once, ${refused.length} in all`);
  t.ok(refused.length < results.length, 'some are made');
  const now = await alike(cluster, [1, 3], TARGET);
  results.forEach((result, i) => {
    const part = now.subarray(i * 100 * KIB, (i + 1) * 100 * KIB);
    if (result.status === 'fulfilled' && !part.equals(bytes.subarray(0, 100 * KIB))) t.fail(`copy ${i}`);
  });
  t.ok(MAX_PAYLOAD_BYTES < bytes.length);
  await cluster.stop();
});
