/** Stories of repair: missing replicas come back soon, whoever writes meanwhile (P11). */
import t from 'tap';
import { LEASE_TTL_MS } from '../../src/core/limits.js';
import { TestCluster } from './support/cluster.js';

t.test('hundreds of small chunks that lost a replica are copied within seconds', async (t) => {
  const cluster = new TestCluster();
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
  // Their leases stood, so that they are recovered without the dead server, and need no grace.
  await cluster.wait(3_000);
  t.equal((await client.status()).underReplicatedChunks, 0);
  for (const [i, inode] of inodes.entries()) {
    const words = await cluster.words(client, inode);
    if (words.length !== 2 || words.some((replica) => replica.join() !== `word ${i}`)) t.fail(`file ${i}`);
  }
  await cluster.stop();
});

t.test('a chunk whose writer never rests gets its replica back, and loses nothing', async (t) => {
  const cluster = new TestCluster();
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
  const cluster = new TestCluster();
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
