/** Stories of repair: missing replicas come back soon, whoever writes meanwhile (P11). */
import t from 'tap';
import { LEASE_TTL_MS } from '../../../src/core/limits.js';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';
import type { ReportForwardFailureRequestInit } from '../../../src/protocol/generated/messages.js';
import type { FakeChunkserver } from '../support/fake-chunkserver.js';
import { MasterCluster } from '../support/master-cluster.js';

function tell(primary: FakeChunkserver | undefined, report: ReportForwardFailureRequestInit): Promise<unknown> {
  if (primary?.peer === undefined) throw new Error('no primary');
  return primary.peer.call(MASTER_METHODS.reportForwardFailure, report);
}

t.test('hundreds of small chunks that lost a replica are copied within seconds', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const inodes: number[] = [];
  for (let i = 0; i < 300; i++) {
    const inode = await client.create(`file-${i}`, 3);
    cluster.write(await client.lease(inode), `word ${i}`);
    await client.publish(inode, 1);
    inodes.push(inode);
  }
  cluster.servers[0]?.kill();
  await cluster.wait(100);
  t.ok((await client.status()).underReplicatedChunks > 100);
  // Their leases stood, so that they are recovered without the dead server once it has fenced itself, and need no grace.
  await cluster.wait(13_000);
  t.equal((await client.status()).underReplicatedChunks, 0);
  for (const [i, inode] of inodes.entries()) {
    const words = await cluster.words(client, inode);
    if (words.length !== 2 || words.some((replica) => replica.join() !== `word ${i}`)) t.fail(`file ${i}`);
  }
  await cluster.stop();
});

t.test('a chunk whose writer never rests gets its replica back, and loses nothing', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('log', 3);
  let lease = await client.lease(inode);
  const written: string[] = [];
  cluster.server(lease.replicas[1]?.serverId ?? 0).kill();
  for (let i = 0; i < 80; i++) {
    if (cluster.write(lease, `line ${i}`)) written.push(`line ${i}`);
    else lease = await client.lease(inode, 0, lease);
    await cluster.wait(100);
  }
  t.equal((await client.status()).underReplicatedChunks, 0, `long before the lease lapses (${LEASE_TTL_MS} ms)`);
  const words = await cluster.words(client, inode);
  t.equal(words.length, 2);
  t.same(words[0], words[1], 'P4');
  const kept = new Set(words[0]);
  t.same(
    written.filter((line) => !kept.has(line)),
    [],
    'every acknowledged line is there',
  );
  t.ok(written.length > 70, 'the writer was hardly held up');
  await cluster.stop();
});

t.test('a copy that fails is tried again', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('file', 3);
  const first = await client.lease(inode);
  cluster.server(first.replicas[1]?.serverId ?? 0).kill();
  for (const server of cluster.servers) server.failNext('copyChunk', 'EIO');
  t.ok(cluster.write(await client.lease(inode, 0, first), 'a'));
  await cluster.wait(10_000);
  t.equal(cluster.servers.flatMap((server) => server.calls).filter((call) => call === 'copyChunk').length, 2);
  t.same(await cluster.words(client, inode), [['a'], ['a']]);
  await cluster.stop();
});

t.test(
  'P7, P9: a member with a full disk is left out, serves no reader, deletes its replica, and is made up for',
  async (t) => {
    const cluster = new MasterCluster();
    await cluster.start();
    const client = await cluster.client();
    const inode = await client.create('file', 3);
    const lease = await client.lease(inode);
    t.ok(cluster.write(lease, 'a'));
    const [primary, full] = lease.replicas.map(({ serverId }) => cluster.server(serverId));
    if (full === undefined) throw new Error('two replicas expected');
    full.freeBytes = 1000;
    await cluster.until(full.heartbeat());
    const { handle, version, leaseId } = lease;
    const report = { handle, version, leaseId, failedServers: [full.id], fullServers: [full.id] };
    await cluster.until(tell(primary, report));
    const next = await client.lease(inode, 0, lease);
    t.same(
      next.replicas.map(({ serverId }) => serverId),
      [primary?.id],
    );
    t.equal(full.replicas.get(handle)?.leftOut ?? true, true, 'no reader gets the old bytes there');
    t.ok(cluster.write(next, 'b'));
    await cluster.wait(6_000);
    t.same(await cluster.words(client, inode), [
      ['a', 'b'],
      ['a', 'b'],
    ]);
    t.notOk(full.replicas.has(handle), 'the copy went where there is room');
    await cluster.stop();
  },
);

t.test('P7: ENOSPC, and no replica is given up, when the others are full too or too few', async (t) => {
  for (const minReplicas of [1, 2]) {
    const cluster = new MasterCluster({ minReplicas });
    await cluster.start();
    const client = await cluster.client();
    const inode = await client.create('file', 3);
    const lease = await client.lease(inode);
    t.ok(cluster.write(lease, 'a'));
    const [primary, full] = lease.replicas.map(({ serverId }) => cluster.server(serverId));
    if (minReplicas === 1 && primary !== undefined) {
      primary.freeBytes = 1000;
      await cluster.until(primary.heartbeat());
    }
    primary?.replicas.get(lease.handle)?.words.push('no room elsewhere');
    const { handle, version, leaseId } = lease;
    const report = { handle, version, leaseId, failedServers: [full?.id ?? 0], fullServers: [full?.id ?? 0] };
    const answer = cluster.until(tell(primary, report));
    await t.rejects(answer, { code: 'ENOSPC' });
    const next = await client.lease(inode, 0, lease);
    t.equal(next.replicas.length, 2);
    t.same(await cluster.words(client, inode), [['a'], ['a']], 'what the full one has is what all have');
    await cluster.stop();
  }
});
