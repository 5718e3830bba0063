/** Chunks made ahead of need: they save a writer the wait, and leave nothing behind. */
import t from 'tap';
import { LEASE_TTL_MS, SPARE_AGE_MS } from '../../../src/core/limits.js';
import { MasterCluster } from '../support/master-cluster.js';
import type { TestClient } from '../support/master-cluster.js';

const replicasOn = (cluster: MasterCluster): number =>
  cluster.servers.reduce((sum, { replicas }) => sum + replicas.size, 0);

async function withDemand(): Promise<{ cluster: MasterCluster; client: TestClient; inode: number }> {
  const cluster = new MasterCluster({ garbageGraceMs: 0 });
  await cluster.start();
  const client = await cluster.client();
  for (let i = 0; i < 8; i++) await client.lease(await client.create(`asks-${i}`, 3));
  await cluster.wait(200);
  return { cluster, client, inode: await client.create('file', 3) };
}

t.test('a chunk that is asked for in a time of demand is there already', async (t) => {
  const { cluster, client, inode } = await withDemand();
  const before = cluster.servers.map(({ replicas }) => new Set(replicas.keys()));
  const lease = await client.lease(inode);
  for (const { serverId } of lease.replicas) {
    const at = cluster.servers.findIndex(({ id }) => id === serverId);
    t.ok(before[at]?.has(lease.handle), `server ${serverId} has it`);
  }
  t.ok(cluster.write(lease, 'a'));
  t.same(await cluster.words(client, inode), [['a'], ['a']]);
  await cluster.stop();
});

t.test('P9: its lease is handed out with the time that is left, and is the one that the members have', async (t) => {
  const { cluster, client, inode } = await withDemand();
  await cluster.wait(900);
  const lease = await client.lease(inode);
  t.ok(lease.leaseTtlMs <= LEASE_TTL_MS - 900, `${lease.leaseTtlMs} ms`);
  t.ok(lease.leaseTtlMs > LEASE_TTL_MS / 2);
  t.ok(cluster.write(lease, 'a'));
  await cluster.stop();
});

t.test('when the demand ends they are deleted, wherever they are', async (t) => {
  const { cluster, client } = await withDemand();
  t.ok(replicasOn(cluster) > 2 * 8, 'there are some');
  await cluster.wait(SPARE_AGE_MS + 20_000);
  t.equal(replicasOn(cluster), 2 * 8, 'only those of files are left');
  t.equal((await client.status()).chunks, 8);
  await cluster.stop();
});

t.test('none of a server that is gone is handed out', async (t) => {
  const { cluster, client, inode } = await withDemand();
  const gone = cluster.server(1);
  gone.kill();
  await cluster.wait(100);
  for (let i = 0; i < 8; i++) {
    const lease = await client.lease(await client.create(`later-${i}`, 3));
    t.notOk(lease.replicas.some(({ serverId }) => serverId === gone.id));
    t.ok(cluster.write(lease, 'a'));
  }
  t.comment('and what it has of them is deleted when it returns');
  await cluster.rejoin(gone);
  t.ok(cluster.write(await client.lease(inode), 'b'));
  await cluster.wait(SPARE_AGE_MS + 30_000);
  const members = new Set<string>();
  for (const { id, replicas } of cluster.servers) for (const handle of replicas.keys()) members.add(`${id}:${handle}`);
  t.equal(members.size, 2 * (8 + 8 + 1), 'each file has its two replicas, and there is nothing else');
  await cluster.stop();
});

for (const how of ['kill', 'power'] as const) {
  t.test(`P10: after ${how} of the master those that it had made are deleted`, async (t) => {
    const { cluster, client, inode } = await withDemand();
    const lease = await client.lease(inode);
    t.ok(cluster.write(lease, 'a'));
    await client.publish(inode, 1);
    await cluster.restartMaster(how);
    const again = await cluster.client(client.sessionId);
    t.same(await cluster.words(again, inode), [['a'], ['a']]);
    await cluster.wait(SPARE_AGE_MS + 30_000);
    t.equal(replicasOn(cluster), 2 * (await again.status()).chunks);
    await cluster.stop();
  });
}

t.test('P8: servers that refuse are not asked without end, and the writer is told', async (t) => {
  const { cluster, client, inode } = await withDemand();
  await cluster.wait(SPARE_AGE_MS + 20_000);
  for (const server of cluster.servers) for (let i = 0; i < 3; i++) server.failNext('grantLease', 'EIO');
  const before = cluster.servers.flatMap(({ calls }) => calls).length;
  await client.lease(inode).catch(() => undefined);
  await cluster.wait(5_000);
  const asked = cluster.servers.flatMap(({ calls }) => calls.slice()).length - before;
  t.ok(asked < 40, `${asked} calls`);
  await cluster.stop();
});
