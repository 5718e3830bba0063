/** The life of chunks on three chunkservers, with a scripted master. */
import t from 'tap';
import { checksum } from '../../src/core/checksum.js';
import { hasCode } from '../../src/core/errors.js';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, MAX_BATCH_WRITES } from '../../src/core/limits.js';
import { SeededRandom } from '../../src/core/random.js';
import { DATA_OFFSET } from '../../src/chunkserver/chunk/chunk-format.js';
import { CHUNKSERVER_METHODS } from '../../src/protocol/methods.js';
import { ChunkserverCluster } from './chunkserver-cluster.js';

const seed = Number(process.env['CAIRN_SEED'] ?? 1);
const random = new SeededRandom(seed);
t.comment(`CAIRN_SEED=${seed}`);
const ALL = [1, 2, 3];

/** As the master would read it from the report. */
async function versionOf(cluster: ChunkserverCluster, serverId: number, handle: number): Promise<number> {
  for (const version of [1, 2, 3, 4]) {
    const found = await cluster.read(serverId, handle, version, 0, 1).catch(() => undefined);
    if (found !== undefined) return version;
  }
  throw new Error(`chunk ${handle} is not served by ${serverId}`);
}

async function eventually(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !condition(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  if (!condition()) throw new Error('did not come true');
}

t.test('P4: writes reach every replica in one order, also concurrent ones that overlap', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, ALL, { create: true });
  await cluster.write(lease, 0, random.bytes(200_000));
  const writes = Array.from(
    { length: 30 },
    () => [random.below(150_000), random.bytes(1 + random.below(60_000))] as const,
  );
  await Promise.all(writes.map(([offset, bytes]) => cluster.write(lease, offset, bytes)));
  await cluster.sync(lease);
  const copies = await Promise.all(ALL.map((id) => cluster.read(id, 1, 1)));
  t.ok(copies[0]?.length === 210_000 || (copies[0]?.length ?? 0) >= 200_000);
  for (const copy of copies) t.ok(copy.equals(copies[0] ?? Buffer.alloc(0)), 'alike');
  const { reply: truncated } = await cluster
    .masterPeer(1)
    .call(CHUNKSERVER_METHODS.truncateChunk, { ...lease, length: 100_001 });
  t.ok(truncated);
  for (const id of ALL) t.equal((await cluster.read(id, 1, 1)).length, 100_001);
  await cluster.stop();
});

t.test(
  'P3, P4: a batch of writes is on every replica, in order with others; one that is damaged or does not fit is refused',
  async (t) => {
    const cluster = await ChunkserverCluster.ofThree(seed);
    const lease = await cluster.grant(1, 1, ALL, { create: true });
    const expected = random.bytes(400_000);
    await cluster.write(lease, 0, expected);
    const at = (offset: number, length: number): readonly [number, Buffer] => {
      const bytes = random.bytes(length);
      bytes.copy(expected, offset);
      return [offset, bytes] as const;
    };
    // Of one block, of two, of a block that one before has changed; more blocks than are read at a time.
    const first = [
      at(10, 100),
      at(60, 20),
      at(65_000, 2_000),
      at(5_000, 4_096),
      at(65_536 * 2, 65_536),
      at(399_000, 1_000),
    ];
    const second = Array.from({ length: 40 }, (_, i) => at((i * 9_973) % 390_000, 500));
    await cluster.writeBatch(lease, first);
    await cluster.writeBatch(lease, second);
    await cluster.writeBatch(lease, [at(0, 1), at(6, 2)]);
    for (const id of ALL) t.ok((await cluster.read(id, 1, 1)).equals(expected), `server ${id}`);

    const peer = await cluster.client(1);
    const send = (
      offsets: number[],
      lengths: number[],
      checksums: number[],
      payload = Buffer.from('ab'),
    ): Promise<unknown> =>
      peer.call(CHUNKSERVER_METHODS.writeBatch, { ...lease, offsets, lengths, checksums }, { payload });
    const sums = ['a', 'b'].map((text) => checksum(Buffer.from(text)));
    await t.rejects(send([0, 9], [1, 1], [...sums].reverse()), { code: 'CORRUPT' });
    await t.rejects(send([0, 9], [1, 1], sums.slice(1)), { code: 'CORRUPT' });
    await t.rejects(send([0, 9], [1, 1], [...sums, 0]), { code: 'EINVAL' });
    await t.rejects(send([0, 9], [1], sums), { code: 'EINVAL' });
    await t.rejects(send([], [], []), { code: 'EINVAL' });
    await t.rejects(send([0, 9], [1, 0], sums), { code: 'EINVAL' });
    await t.rejects(send([0], [1], sums.slice(0, 1)), { code: 'EINVAL' }, 'bytes of no write');
    await t.rejects(send([0, CHUNK_SIZE_BYTES], [1, 1], sums), { code: 'EINVAL' });
    const many = Array.from({ length: MAX_BATCH_WRITES + 1 }, () => 0);
    await t.rejects(send(many, many, []), { code: 'EINVAL' });
    for (const id of ALL) t.ok((await cluster.read(id, 1, 1)).equals(expected), 'nothing of these');
    const all = Array.from({ length: 30 }, () => [random.below(390_000), random.bytes(5_000)] as const);
    const write = (each: readonly [number, Buffer], i: number): Promise<void> =>
      i % 3 === 0 ? cluster.write(lease, ...each) : cluster.writeBatch(lease, [each, [7, random.bytes(9)]]);
    await Promise.all(all.map(write));
    const copies = await Promise.all(ALL.map((id) => cluster.read(id, 1, 1)));
    for (const copy of copies) t.ok(copy.equals(copies[0] ?? Buffer.alloc(0)), 'alike');
    t.same(cluster.forwardFailures, []);
    await cluster.stop();
  },
);

t.test('refusals: other versions, other leases, secondaries, damaged payload, lapsed and revoked leases', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 5, ALL, { create: true });
  const bytes = Buffer.from('hello');
  await cluster.write(lease, 0, bytes);
  await t.rejects(cluster.write({ ...lease, version: 4 }, 0, bytes), { code: 'STALE_VERSION' });
  await t.rejects(cluster.write({ ...lease, leaseId: 99 }, 0, bytes), { code: 'NOT_PRIMARY' });
  await t.rejects(cluster.write({ ...lease, primary: 2 }, 0, bytes), { code: 'NOT_PRIMARY' });
  await t.rejects(cluster.write({ ...lease, handle: 2 }, 0, bytes), { code: 'NO_REPLICA' });
  await t.rejects(cluster.read(2, 1, 4), { code: 'STALE_VERSION' }, 'P9');
  const peer = await cluster.client(1);
  const damaged = { ...lease, offset: 0, checksums: [1] };
  await t.rejects(peer.call(CHUNKSERVER_METHODS.writeChunk, damaged, { payload: bytes }), { code: 'CORRUPT' }, 'P3');
  const renewed = await cluster.grant(1, 5, ALL, { leaseId: lease.leaseId });
  await cluster.write(renewed, 5, Buffer.from(' world'));
  await cluster.masterPeer(1).call(CHUNKSERVER_METHODS.revokeLease, { handle: 1, leaseId: lease.leaseId });
  await t.rejects(cluster.write(lease, 0, bytes), { code: 'NOT_PRIMARY' });
  const second = await cluster.grant(1, 5, [2, 3, 1], { ttlMs: 1 });
  await new Promise((resolve) => setTimeout(resolve, 5));
  await t.rejects(cluster.write(second, 0, bytes), { code: 'NOT_PRIMARY' }, 'lapsed');
  await t.rejects(cluster.grant(1, 5, ALL, { leaseId: 1 }), { code: 'STALE_VERSION' }, 'an old lease cannot return');
  const cut = await cluster.grant(1, 5, ALL, { validBytes: 7 });
  await cluster.write(cut, 9, Buffer.from('!'));
  for (const id of ALL) t.equal((await cluster.read(id, 1, 5)).toString(), 'hello w\0\0!', 'P5');
  await cluster.stop();
});

t.test('P4: a lease ends cleanly only when every member has what was sent', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, ALL, { create: true });
  await cluster.write(lease, 0, Buffer.from('first'));
  const revoke = (leaseId: number): Promise<unknown> =>
    cluster.masterPeer(1).call(CHUNKSERVER_METHODS.revokeLease, { handle: 1, leaseId });

  const release = cluster.network.hold(cluster.machine(2).address);
  const write = cluster.write(lease, 0, Buffer.from('later'));
  await new Promise((resolve) => setTimeout(resolve, 20));
  let ended = false;
  const end = revoke(lease.leaseId).then(() => (ended = true));
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.notOk(ended, 'a forward is not answered yet');
  await t.rejects(cluster.write(lease, 5, Buffer.from('!')), { code: 'NOT_PRIMARY' }, 'nothing new is taken');
  release();
  await write;
  await end;
  for (const id of ALL) t.equal((await cluster.read(id, 1, 1)).toString(), 'later');

  await t.rejects(revoke(lease.leaseId), { code: 'STALE_VERSION' }, 'asked again, it does not know');
  const broken = await cluster.grant(1, 1, ALL);
  cluster.machine(2).disk.failOn('chunk.write', 0, 'ENOSPC');
  await t.rejects(cluster.write(broken, 0, Buffer.from('other')), { code: 'STALE_VERSION' });
  await t.rejects(revoke(broken.leaseId), { code: 'STALE_VERSION' }, 'the replicas differ');
  await cluster.stop();
});

t.test('P4, P9: a secondary dies; the writer is told; recovery; the stale replica is not served', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, ALL, { create: true });
  const before = random.bytes(100_000);
  await cluster.write(lease, 0, before);
  await cluster.kill(cluster.machine(2));
  await t.rejects(cluster.write(lease, 50_000, random.bytes(100_000)), { code: 'STALE_VERSION' });
  t.match(cluster.forwardFailures, [{ handle: 1, version: 1, leaseId: lease.leaseId, failedServers: [2] }]);
  t.same(await cluster.recover(1, 1, 2, [1, 3]), [1, 3]);
  t.ok((await cluster.read(1, 1, 2)).equals(await cluster.read(3, 1, 2)), 'alike after recovery');
  const next = await cluster.grant(1, 2, [3, 1]);
  const after = random.bytes(100_000);
  await cluster.write(next, 50_000, after);
  await cluster.startServer(cluster.machine(2));
  t.match(cluster.machine(2).reported, [{ handle: 1, version: 1, suspect: false }]);
  await t.rejects(cluster.read(2, 1, 2), { code: 'STALE_VERSION' });
  for (const id of [1, 3]) {
    const now = await cluster.read(id, 1, 2);
    t.ok(now.subarray(0, 50_000).equals(before.subarray(0, 50_000)));
    t.ok(now.subarray(50_000).equals(after));
  }
  await cluster.masterPeer(2).call(CHUNKSERVER_METHODS.deleteChunks, { chunks: [{ handle: 1, version: 1 }] });
  await t.rejects(cluster.read(2, 1, 1), { code: 'NO_REPLICA' });
  const source = cluster.members([1])[0] ?? null;
  await cluster.masterPeer(2).call(CHUNKSERVER_METHODS.copyChunk, { handle: 1, version: 2, source });
  t.ok((await cluster.read(2, 1, 2)).equals(await cluster.read(1, 1, 2)), 'a new copy');
  await cluster.stop();
});

t.test('P9: a copy that the master gave up does not come back over what it did since', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, [1], { create: true });
  await cluster.write(lease, 0, random.bytes(5 * BLOCK_SIZE_BYTES));
  const source = cluster.members([1])[0] ?? null;
  const target = cluster.masterPeer(2);
  const copy = target.call(CHUNKSERVER_METHODS.copyChunk, { handle: 1, version: 1, source });
  const failed = t.rejects(copy, { code: 'CANCELLED' });
  await target.call(CHUNKSERVER_METHODS.deleteChunks, { chunks: [{ handle: 1, version: 1 }] });
  await failed;
  await t.rejects(cluster.read(2, 1, 1), { code: 'NO_REPLICA' });
  const first = target.call(CHUNKSERVER_METHODS.copyChunk, { handle: 1, version: 1, source });
  const superseded = t.rejects(first, { code: 'CANCELLED' });
  await target.call(CHUNKSERVER_METHODS.copyChunk, { handle: 1, version: 1, source });
  await superseded;
  t.ok((await cluster.read(2, 1, 1)).equals(await cluster.read(1, 1, 1)), 'the later one counts');
  await cluster.stop();
});

t.test('P4: the primary dies in the middle of writes; whoever recovers, the rest becomes alike', async (t) => {
  for (let round = 0; round < 8; round++) {
    const cluster = await ChunkserverCluster.ofThree(seed + round);
    const lease = await cluster.grant(1, 1, ALL, { create: true });
    const base = random.bytes(150_000);
    await cluster.write(lease, 0, base);
    const primary = cluster.machine(1);
    primary.disk.killAtChange(primary.disk.changes + random.below(12), random.below(50_000));
    const acknowledged: [number, Buffer][] = [];
    const writes = Array.from({ length: 6 }, async (_, i) => {
      const offset = i * 30_000;
      const bytes = random.bytes(20_000 + random.below(9_000));
      await cluster.write(lease, offset, bytes).then(
        () => acknowledged.push([offset, bytes]),
        () => undefined,
      );
    });
    await Promise.all(writes);
    await cluster.kill(primary);
    const order = random.below(2) === 0 ? [2, 3] : [3, 2];
    t.same(await cluster.recover(1, 1, 2, order), [2, 3]);
    const copies = [await cluster.read(2, 1, 2), await cluster.read(3, 1, 2)];
    t.ok(copies[0]?.equals(copies[1] ?? Buffer.alloc(0)), 'alike');
    for (const [offset, bytes] of acknowledged) {
      t.ok(copies[0]?.subarray(offset, offset + bytes.length).equals(bytes), 'acknowledged writes are there');
    }
    await cluster.startServer(primary);
    t.same(await cluster.recover(1, 1, 3, [2, 3]), [2, 3], 'a recovery that was not heard of is repeated');
    await cluster.stop();
  }
});

t.test('P4: recovery evens out blocks, lengths, holes and torn replicas', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, ALL, { create: true });
  await cluster.write(lease, 0, random.bytes(300_000));
  await cluster.sync(lease);
  // Each alone, as if its writes had not reached the others.
  for (const [id, offset, length] of [
    [1, 70_000, 10],
    [2, 10_000, 90_000],
    [3, 600_000, 100_000],
  ] as const) {
    const alone = await cluster.grant(1, 1, [id]);
    await cluster.write(alone, offset, random.bytes(length));
  }
  const mine = await cluster.read(1, 1, 1);
  t.same(await cluster.recover(1, 1, 2, ALL), ALL);
  for (const id of ALL) t.ok((await cluster.read(id, 1, 2)).equals(mine), `server ${id} as the one that recovered`);
  t.same(await cluster.recover(1, 2, 3, [3, 1, 2], 65_000), ALL, 'cut to the valid bytes');
  for (const id of ALL) t.equal((await cluster.read(id, 1, 3)).length, 65_000);
  const grown = await cluster.grant(1, 3, [2]);
  await cluster.write(grown, 500_000, random.bytes(7));
  t.same(await cluster.recover(1, 3, 4, [2, 1, 3]), ALL);
  const copies = await Promise.all(ALL.map((id) => cluster.read(id, 1, 4)));
  t.equal(copies[0]?.length, 500_007);
  for (const copy of copies) t.ok(copy.equals(copies[1] ?? Buffer.alloc(0)));
  await cluster.stop();
});

t.test('P11: the disk of one member fails during a recovery, and the server that leads it lives', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const unhandled: unknown[] = [];
  const note = (reason: unknown): void => void unhandled.push(reason);
  process.on('unhandledRejection', note);
  t.teardown(() => process.off('unhandledRejection', note));
  const lease = await cluster.grant(1, 1, ALL, { create: true });
  await cluster.write(lease, 0, random.bytes(1 << 20));
  await cluster.sync(lease);
  // Blocks apart from each other, so that many more messages are needed than may be in flight.
  const alone = await cluster.grant(1, 1, [1]);
  for (let block = 0; block < 16; block += 2) await cluster.write(alone, block * 65_536, random.bytes(65_536));
  cluster.machine(3).disk.failOn('chunk.write');
  cluster.network.eachInItsTurn = true;
  t.same(await cluster.recover(1, 1, 2, ALL), [1, 2]);
  await new Promise((resolve) => setImmediate(resolve));
  t.same(unhandled, [], 'a message that failed while another waited is no fault of the process');
  t.ok((await cluster.read(1, 1, 2)).equals(await cluster.read(2, 1, 2)), 'the others are alike');
  await cluster.stop();
});

t.test('P3: a damaged block is not served, is reported, and recovery takes it from another', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, ALL, { create: true });
  const bytes = random.bytes(3 * BLOCK_SIZE_BYTES);
  await cluster.write(lease, 0, bytes);
  await cluster.sync(lease);
  const machine = cluster.machine(1);
  machine.disk.content(cluster.chunkPath(machine, 1)).fill(0, DATA_OFFSET + 70_000, DATA_OFFSET + 70_100);
  await t.rejects(cluster.read(1, 1, 1), { code: 'CORRUPT' });
  await eventually(() => cluster.replicaReports.length > 0);
  t.match(cluster.replicaReports, [{ handle: 1, version: 1, serverId: 1, errorCode: 1004 }]);
  // A write into the damaged block cannot be merged: this member failed.
  await t.rejects(cluster.write(lease, 70_050, Buffer.from('x')), { code: 'STALE_VERSION' });
  t.match(cluster.forwardFailures, [{ failedServers: [1] }]);
  // The write reached 2 and 3, so the block differs and is looked at.
  t.same(await cluster.recover(1, 1, 2, ALL), ALL);
  const copies = await Promise.all(ALL.map((id) => cluster.read(id, 1, 2)));
  for (const copy of copies) t.ok(copy.equals(copies[1] ?? Buffer.alloc(0)));
  await cluster.stop();
});

for (const code of ['EIO', 'ENOSPC'] as const) {
  t.test(
    `P3: a block that cannot be mended in the leading replica (${code}) does not go to the sound ones`,
    async (t) => {
      const cluster = await ChunkserverCluster.ofThree(seed);
      const lease = await cluster.grant(1, 1, [1, 2], { create: true });
      const bytes = random.bytes(3 * BLOCK_SIZE_BYTES);
      await cluster.write(lease, 0, random.bytes(bytes.length));
      await cluster.write(lease, 0, bytes);
      const machine = cluster.machine(1);
      await cluster.kill(machine);
      machine.disk.content(cluster.chunkPath(machine, 1)).fill(0, DATA_OFFSET + 70_000, DATA_OFFSET + 100_000);
      await cluster.startServer(machine);
      machine.disk.failOn('chunk.write', 0, code, 20_000);
      await cluster.recover(1, 1, 2, [1, 2]).catch(() => cluster.recover(1, 1, 3, [2, 1]));
      const version = await versionOf(cluster, 2, 1);
      t.ok((await cluster.read(2, 1, version)).equals(bytes), 'the sound replica is as it was');
      await cluster.recover(1, version, version + 1, [1, 2]);
      for (const id of [1, 2]) t.ok((await cluster.read(id, 1, version + 1)).equals(bytes), `server ${id} in the end`);
      await cluster.stop();
    },
  );
}

t.test(
  'P11: a block that one member was writing when it was killed stands for one that rotted at the other',
  async (t) => {
    for (const leader of [1, 2]) {
      const cluster = await ChunkserverCluster.ofThree(seed);
      const lease = await cluster.grant(1, 1, [1, 2], { create: true });
      const old = random.bytes(3 * BLOCK_SIZE_BYTES);
      await cluster.write(lease, 0, old);
      await cluster.sync(lease);
      const fresh = random.bytes(BLOCK_SIZE_BYTES);
      const alone = await cluster.grant(1, 1, [1]);
      const { disk } = cluster.machine(1);
      // The row of the table comes first, then the data.
      disk.killAtChange(disk.changes + 1, 30_000);
      await t.rejects(cluster.write(alone, BLOCK_SIZE_BYTES, fresh));
      await cluster.kill(cluster.machine(1));
      const other = cluster.machine(2);
      other.disk.content(cluster.chunkPath(other, 1)).fill(0, DATA_OFFSET + 70_000, DATA_OFFSET + 70_100);
      await cluster.startServer(cluster.machine(1));
      t.same(await cluster.recover(1, 1, 2, leader === 1 ? [1, 2] : [2, 1]), [1, 2]);
      const expected = Buffer.from(old);
      expected.set(fresh.subarray(0, 30_000), BLOCK_SIZE_BYTES);
      for (const id of [1, 2]) t.ok((await cluster.read(id, 1, 2)).equals(expected), `server ${id}, led by ${leader}`);
      await cluster.stop();
    }
  },
);

t.test('a full disk: that member fails; when all are full, the writer gets ENOSPC', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  let lease = await cluster.grant(1, 1, ALL, { create: true });
  const bytes = random.bytes(100_000);
  await cluster.write(lease, 0, bytes);
  cluster.machine(3).disk.failOn('chunk.write', 0, 'ENOSPC');
  await t.rejects(cluster.write(lease, 0, bytes), { code: 'STALE_VERSION' });
  t.match(cluster.forwardFailures, [{ failedServers: [3] }]);
  await t.rejects(cluster.write(lease, 0, bytes), { code: 'STALE_VERSION' }, 'the lease is over');
  t.same(await cluster.recover(1, 1, 2, [1, 2]), [1, 2]);
  lease = await cluster.grant(1, 2, [2, 1]);
  for (const id of [1, 2]) cluster.machine(id).disk.failOn('chunk.write', 0, 'ENOSPC');
  await t.rejects(cluster.write(lease, 0, bytes), { code: 'ENOSPC' });
  t.match(cluster.forwardFailures[1], { failedServers: [] });
  t.ok((await cluster.read(1, 1, 2)).equals(bytes), 'still served');
  await cluster.stop();
});

t.test(
  'P1: synced writes survive power loss of the others; suspect replicas serve nothing until recovered',
  async (t) => {
    for (let round = 0; round < 10; round++) {
      const cluster = await ChunkserverCluster.ofThree(seed * 100 + round);
      const lease = await cluster.grant(1, 1, ALL, { create: true });
      const synced = random.bytes(200_000);
      await cluster.write(lease, 0, synced);
      await cluster.sync(lease);
      await cluster.write(lease, 150_000, random.bytes(100_000));
      for (const id of [1, 2]) await cluster.kill(cluster.machine(id), 'powerLoss');
      for (const id of [1, 2]) await cluster.startServer(cluster.machine(id));
      t.match(cluster.machine(1).reported, [{ handle: 1, version: 1, suspect: true }]);
      await t.rejects(cluster.read(1, 1, 1), { code: 'STALE_VERSION' }, 'P9: it may have missed a mutation');
      await t.rejects(cluster.grant(1, 1, [1, 2]), { code: 'STALE_VERSION' });
      t.same(await cluster.recover(1, 1, 2, [3, 1, 2]), ALL);
      const copies = await Promise.all(ALL.map((id) => cluster.read(id, 1, 2)));
      for (const copy of copies) t.ok(copy.equals(copies[2] ?? Buffer.alloc(0)));
      t.ok(copies[0]?.subarray(0, 150_000).equals(synced.subarray(0, 150_000)));
      t.equal(copies[0]?.length, 250_000, 'nothing acknowledged is lost while one machine stays up');
      // All machines lose power: what was synced or recovered is there; a suspect one can recover, too.
      for (const id of ALL) await cluster.kill(cluster.machine(id), 'powerLoss');
      for (const id of ALL) await cluster.startServer(cluster.machine(id));
      t.same(await cluster.recover(1, 2, 3, [2, 1, 3]), ALL);
      t.ok((await cluster.read(1, 1, 3)).equals(copies[0] ?? Buffer.alloc(0)));
      await cluster.stop();
    }
  },
);

t.test('a clean stop leaves nothing in doubt; a second process cannot use the directory', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, [1], { create: true });
  await cluster.write(lease, 0, random.bytes(1000));
  const machine = cluster.machine(1);
  await t.rejects(cluster.startServer(machine), { code: 'EBUSY' });
  await machine.server?.stop();
  machine.server = undefined;
  machine.disk.powerLoss();
  await cluster.startServer(machine);
  t.match(machine.reported, [{ handle: 1, suspect: false }]);
  t.equal((await cluster.read(1, 1, 1)).length, 1000);
  await cluster.stop();
});

t.test(
  'P1: a block that was being written when its server was killed, and is cut by the recovery, can be read',
  async (t) => {
    const cluster = await ChunkserverCluster.ofThree(seed);
    const lease = await cluster.grant(1, 1, [1], { create: true });
    const synced = random.bytes(BLOCK_SIZE_BYTES);
    await cluster.write(lease, 0, synced);
    await cluster.sync(lease);
    const machine = cluster.machine(1);
    machine.disk.killAtChange(machine.disk.changes + 1, 20_000);
    await t.rejects(cluster.write(lease, 30_000, random.bytes(30_000)));
    await cluster.kill(machine);
    await cluster.startServer(machine);
    t.same(await cluster.recover(1, 1, 2, [1], 40_000), [1]);
    const found = await cluster.read(1, 1, 2);
    t.equal(found.length, 40_000);
    t.ok(found.subarray(0, 30_000).equals(synced.subarray(0, 30_000)));
    await cluster.stop();
  },
);

t.test('P1: a clean stop before recovery has settled a torn block leaves it in doubt', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, [1], { create: true });
  await cluster.write(lease, 0, random.bytes(BLOCK_SIZE_BYTES));
  await cluster.sync(lease);
  const machine = cluster.machine(1);
  machine.disk.killAtChange(machine.disk.changes + 1, 30_000);
  await t.rejects(cluster.write(lease, 0, random.bytes(BLOCK_SIZE_BYTES)));
  await cluster.kill(machine);
  await cluster.startServer(machine);
  await machine.server?.stop();
  machine.server = undefined;
  machine.disk.powerLoss();
  await cluster.startServer(machine);
  t.match(machine.reported, [{ handle: 1, suspect: true }], 'or it would be lost, with what was synced before');
  await cluster.stop();
});

t.test('another cluster is refused, with a reason', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const machine = cluster.machine(1);
  await machine.server?.stop();
  machine.server = undefined;
  await cluster.stopMaster();
  cluster.clusterId = 'other-cluster';
  await cluster.startMaster();
  await t.rejects(cluster.startServer(machine), { code: 'EINVAL', message: /test-cluster.*other-cluster/ });
  await cluster.stop();
});

t.test('a report names stale replicas, which are deleted; a lost directory is reported as such', async (t) => {
  const cluster = new ChunkserverCluster(seed);
  await cluster.startMaster();
  const machine = cluster.addMachine();
  await cluster.startServer(machine, ['/a', '/b']);
  for (let handle = 1; handle <= 40; handle++) await cluster.grant(handle, 1, [1], { create: true });
  const inA = machine.disk.paths().filter((path) => path.startsWith('/a/chunks')).length;
  t.ok(inA > 5 && inA < 35, `spread over the directories: ${inA}`);
  cluster.toDelete = (states) => states.filter((state) => state.handle % 2 === 0).map((s) => ({ ...s }));
  await cluster.kill(machine);
  await cluster.startServer(machine, ['/a', '/b']);
  t.equal(machine.reported.length, 40);
  t.equal(machine.disk.paths().filter((path) => path.includes('/chunks/')).length, 20);
  const survivors = machine.disk.paths().filter((path) => path.startsWith('/a/chunks')).length;
  const lost = machine.disk.paths().find((path) => path.startsWith('/b/chunks')) ?? '';
  machine.reported = [];
  machine.disk.failOn('chunk.open', 0, 'EROFS');
  await t.rejects(cluster.read(1, parseInt(lost.slice(-16, -2), 16), 1), { code: 'EROFS' });
  await eventually(() => machine.reported.length === survivors);
  t.equal(machine.reported.length, survivors, 'the other directory serves on');
  await cluster.stop();
});

t.test('a server that hears nothing from the master fences itself, and returns', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  await cluster.grant(1, 1, ALL, { create: true });
  await cluster.stopMaster();
  t.equal((await cluster.read(1, 1, 1)).length, 0, 'a short absence of the master disturbs nobody');
  await new Promise((resolve) => setTimeout(resolve, 8_300));
  try {
    await cluster.read(1, 1, 1);
    t.fail('must be fenced');
  } catch (error) {
    t.ok(hasCode(error, 'UNAVAILABLE'));
  }
  await cluster.startMaster();
  await eventually(() => cluster.machines.every((machine) => machine.peer?.isClosed === false));
  await new Promise((resolve) => setTimeout(resolve, 100));
  t.equal((await cluster.read(1, 1, 1)).length, 0);
  await cluster.stop();
});
