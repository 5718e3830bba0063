/** What is read before something is waited for, and used afterwards, while it changes: told as stories of the master. */
import t from 'tap';
import type { ChunkHandle } from '../../src/core/ids.js';
import { chunkHandle, chunkIndex, inodeId, serverId } from '../../src/core/ids.js';
import { LEASE_TTL_MS, MAX_CHUNKS_PER_RECORD } from '../../src/core/limits.js';
import { deferred } from '../../src/core/sync.js';
import { keys, prefixRange } from '../../src/master/state/keys.js';
import { addChunk } from '../../src/master/tables/chunk-map.js';
import { requireInode } from '../../src/master/tables/inodes.js';
import { OpenFlagsBit } from '../../src/protocol/generated/messages.js';
import { CairnError, errorNumber } from '../../src/core/errors.js';
import { MASTER_METHODS } from '../../src/protocol/methods.js';
import { MasterCluster } from './support/master-cluster.js';
import type { TestClient } from './support/master-cluster.js';

const CALLER = { uid: 0, gid: 0, groups: [] };
const FLAGS = OpenFlagsBit.READ | OpenFlagsBit.WRITE;

/** More than the reaper looks at in one go, all of them open. */
async function openOrphans(client: TestClient, count: number): Promise<number[]> {
  const inodes: number[] = [];
  for (let i = 0; i < count; i++) {
    inodes.push(await client.create(`file-${i}`, FLAGS));
    await client.unlink(`file-${i}`);
  }
  return inodes;
}

t.test('a file without a name that is closed in the middle of a round of the reaper is reaped', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const [first = 0] = await openOrphans(client, 300);
  await cluster.wait(2_000);
  const { reaper, state } = cluster.parts;
  reaper.kick();
  t.ok(reaper.tick(), 'it has come as far as its step goes');
  await cluster.until(client.peer.call(MASTER_METHODS.close, { inode: first, readers: 1, writers: 1 }));
  await cluster.wait(3_000);
  t.equal(state.get(keys.inode(inodeId(first))), undefined);
  await cluster.stop();
});

t.test('a file without a name whose answer is awaited is reaped later, also when there are many', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const other = await cluster.client();
  const operation = client.operation();
  const request = { operation, caller: CALLER, parent: 1, mode: 0o100600, temporary: true, openFlags: FLAGS };
  const made = await cluster.until(client.peer.call(MASTER_METHODS.create, request));
  const inode = made.reply.attributes?.inode ?? 0;
  await openOrphans(other, 300);
  await cluster.until(client.peer.call(MASTER_METHODS.close, { inode, readers: 1, writers: 1 }));
  await cluster.wait(2_000);
  await cluster.until(client.peer.call(MASTER_METHODS.keepSession, { ackedBelow: operation.sequence + 1 }));
  await cluster.wait(3_000);
  t.equal(cluster.parts.state.get(keys.inode(inodeId(inode))), undefined);
  await cluster.stop();
});

t.test('the lease of a chunk that was removed ends, also when a member went meanwhile', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('file', FLAGS);
  const lease = await client.lease(inode);
  await client.unlink('file');
  await cluster.until(client.peer.call(MASTER_METHODS.close, { inode, readers: 1, writers: 1 }));
  await cluster.wait(1_000);
  cluster.server(lease.replicas[1]?.serverId ?? 0).kill();
  await cluster.wait(2 * LEASE_TTL_MS);
  t.equal(cluster.parts.leases.table.get(chunkHandle(lease.handle)), undefined);
  t.equal(cluster.parts.leases.table.inUse, 0);
  await cluster.stop();
});

t.test(
  'P1: a truncate ends the lease of what it drops, also when all leases of the file are ended just then',
  async (t) => {
    const cluster = new MasterCluster();
    await cluster.start();
    const client = await cluster.client();
    const inode = await client.create('file', FLAGS);
    const lease = await client.lease(inode);
    t.ok(cluster.write(lease, 'a'));
    const { leases } = cluster.parts;
    const busy = deferred<void>();
    const work = leases.locks.run(chunkHandle(lease.handle), () => busy.promise);
    const ended = leases.endAll(inodeId(inode));
    const cut = client.truncate(inode, 0);
    await cluster.wait(100);
    busy.resolve();
    await work;
    await cluster.until(ended);
    await cut;
    t.notOk(cluster.write(lease, 'into nothing'));
    await cluster.stop();
  },
);

/**
 * Three members, of which the second is suspect and the third does not take part. `meanwhile` is called when the third is told to
 * serve no readers, again until it says that the third may answer.
 */
async function recoverWith(
  cluster: MasterCluster,
  meanwhile: (handle: number, second: number) => Promise<boolean> | boolean,
): Promise<{ readonly inode: number; readonly handle: number; readonly second: number }> {
  await cluster.start(4);
  const client = await cluster.client();
  const inode = await client.create('file', FLAGS);
  const lease = await client.lease(inode);
  t.ok(cluster.write(lease, 'a'));
  await client.publish(inode, 1);
  const { handle, version } = lease;
  const [, second = 0, third = 0] = lease.replicas.map(({ serverId }) => serverId);
  const last = cluster.server(third);
  const isMember = last.replicas.get(handle);
  last.replicas.delete(handle);
  // No place for a copy: it would have the chunk recovered anew.
  last.freeBytes = 0;
  await cluster.until(last.heartbeat(true));
  let isDone = false;
  last.onCall = async (method) => {
    if (method !== 'leaveOut' || isDone) return;
    isDone = await meanwhile(handle, second);
    if (!isDone) throw new CairnError('EIO', 'not yet');
    if (isMember !== undefined) last.replicas.set(handle, isMember);
  };
  const request = { handle, version, serverId: second, errorCode: errorNumber('CORRUPT') };
  await cluster.until(client.peer.call(MASTER_METHODS.reportReplica, request));
  await cluster.wait(14_000);
  t.ok(isDone);
  last.freeBytes = 2 ** 40;
  return { inode, handle, second };
}

t.test(
  'P1: a member that loses its replica at the end of a recovery is none, though it was suspect before',
  async (t) => {
    const cluster = new MasterCluster({ wantedReplicas: 3 });
    const { inode, handle } = await recoverWith(cluster, async (of, id) => {
      const server = cluster.server(id);
      t.equal(server.replicas.get(of)?.version, 2, 'it took part');
      server.replicas.delete(of);
      await server.report();
      return true;
    });
    await cluster.wait(90_000);
    const holders = cluster.servers.filter(({ replicas }) => replicas.has(handle));
    t.equal(holders.length, 3);
    t.equal((await cluster.words(await cluster.client(), inode)).length, 3);
    await cluster.stop();
  },
);

t.test('P1: a server that is removed at the end of a recovery is no member afterwards', async (t) => {
  const cluster = new MasterCluster({ wantedReplicas: 3 });
  const { inode, handle, second } = await recoverWith(cluster, (_of, id) => {
    const { servers, removals } = cluster.parts;
    if (servers.isUp(id)) cluster.server(id).kill();
    if (servers.liveness(id) !== 'dead') return false;
    removals.ask(id, true);
    removals.tick();
    return servers.get(id) === undefined;
  });
  await cluster.wait(90_000);
  t.equal(cluster.parts.state.get(keys.serverChunk(serverId(second), chunkHandle(handle))), undefined);
  t.equal((await cluster.words(await cluster.client(), inode)).length, 3);
  await cluster.stop();
});

t.test('P3: a large file is gone as a whole, for who comes back and has it open while it is reaped', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const inode = inodeId(await client.create('large', FLAGS));
  const { state, reaper } = cluster.parts;
  const about = { version: 1, lease: 1, servers: [], wantedReplicas: 0 };
  const count = MAX_CHUNKS_PER_RECORD + 10;
  state.mutate((m) => {
    for (let index = 0; index < count; index++) {
      const inodeRecord = requireInode(m, inode);
      addChunk(m, { ...about, inode, inodeRecord, index: chunkIndex(index), handle: chunkHandle(1000 + index) });
    }
  });
  await client.unlink('large');
  await cluster.wait(2_000);
  await cluster.until(client.peer.call(MASTER_METHODS.close, { inode, readers: 1, writers: 1 }));
  t.ok(reaper.tick(), 'it is too large for one step');
  await cluster.until(
    client.peer.call(MASTER_METHODS.reclaim, { opens: [{ inode, readers: 1, writers: 1 }], done: true }),
  );
  await t.rejects(cluster.until(client.peer.call(MASTER_METHODS.getAttributes, { inode })), { code: 'ESTALE' });
  await cluster.wait(3_000);
  t.same([...state.range(prefixRange('F'))], [], 'nothing of it is left');
  t.same([...state.range(prefixRange('T'))], []);
  await cluster.stop();
});

t.test('P5: a chunk in place of a lost one has no bytes as lost that were cut off while it was made', async (t) => {
  const cluster = new MasterCluster({ maxSpareChunks: 0 });
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('file', FLAGS);
  const { handle } = await client.lease(inode);
  const told = { operation: client.operation(), inode, end: 1000, durable: true, syncedChunks: [handle] };
  await cluster.until(client.peer.call(MASTER_METHODS.publish, told));
  for (const server of cluster.servers) {
    server.kill();
    server.replicas.clear();
  }
  for (const server of cluster.servers) await cluster.rejoin(server);
  await cluster.wait(15_000);
  const lost: number[] = [];

  const release = deferred<void>();

  for (const server of cluster.servers) {
    server.onGrant = ({ lostBytes = 0, create }) => void (create === true && lost.push(lostBytes));
    server.onCall = (method) => (method === 'grantLease' ? release.promise : undefined);
  }
  const leased = client.leaseNow(inode);
  await cluster.wait(500);
  t.same(lost, [1000, 1000]);
  await client.truncate(inode, 100);
  release.resolve();
  await cluster.until(leased);
  t.same(lost.slice(-2), [100, 100]);
  await cluster.stop();
});

t.test('P9: a copy that begins while a lease is granted learns of it, at whatever moment it begins', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('file', FLAGS);
  const { handle: number } = await client.lease(inode);
  await client.publish(inode, 1);
  const handle = chunkHandle(number);
  await cluster.wait(LEASE_TTL_MS + 5_000);
  const again = await cluster.client();
  const { locks, table } = cluster.parts.leases;
  t.equal(table.get(handle), undefined);
  // The last copy that found no lease, of those that begin at each moment of the grant.
  let watch = locks.watchGrants(handle);
  const granting = again.leaseNow(inode);
  const run = locks.run.bind(locks);
  let last: Promise<void> | undefined;
  locks.run = <T>(of: ChunkHandle, section: () => Promise<T> | T): Promise<T> => {
    last = (async () => {
      for (let i = 0; i < 1_000 && table.get(handle) === undefined; i++) {
        watch.end();
        watch = locks.watchGrants(handle);
        await Promise.resolve();
      }
    })();
    return run(of, section);
  };
  await cluster.until(granting);
  await last;
  t.ok(table.get(handle), 'it is leased');
  t.ok(watch.granted);
  await cluster.stop();
});

t.test('P1: a truncate that was given up while it waited for its turn is not made later', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const [holder, other] = [await cluster.client(), await cluster.client()];
  const inode = await holder.create('file', FLAGS);
  await cluster.until(holder.peer.call(MASTER_METHODS.acquireAppend, { inode }));
  const lease = await holder.lease(inode);
  t.ok(cluster.write(lease, 'a'));
  const request = { operation: other.operation(), caller: CALLER, inode, size: 0 };
  const cut = other.peer.call(MASTER_METHODS.setAttributes, request, { timeoutMs: 2_000 });
  await t.rejects(cluster.until(cut), { code: 'TIMEOUT' });
  await holder.publish(inode, 1);
  await cluster.until(holder.peer.call(MASTER_METHODS.releaseAppend, { inode }));
  await cluster.wait(1_000);
  t.same(await cluster.words(other, inode), [['a'], ['a']]);
  // Asked for again, it is made.
  await cluster.until(other.peer.call(MASTER_METHODS.setAttributes, request));
  t.same(await cluster.words(other, inode), []);
  await cluster.stop();
});

t.test('P8: removed files with so many xattrs that one record cannot take them away are reaped', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const { state } = cluster.parts;
  const none = Buffer.alloc(0);
  const inodes = await openOrphans(client, 256);
  for (const inode of inodes) {
    state.mutate((m) => {
      for (let i = 0; i < 2_100; i++)
        m.put(keys.xattr(inodeId(inode), Buffer.from(`user.${'x'.repeat(20)}${i}`)), none);
    });
  }
  await cluster.until(client.peer.call(MASTER_METHODS.closeSession, {}));
  await cluster.wait(30_000);
  t.equal([...state.range(prefixRange('U'))].length, 0);
  t.equal([...state.range(prefixRange('X'))].length, 0);
  await cluster.stop();
});
