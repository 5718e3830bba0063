/** How the master learns that replicas are gone, whenever their chunks were made. */
import t from 'tap';
import { CairnError, errorNumber } from '../../../src/core/errors.js';
import { chunkHandle } from '../../../src/core/ids.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { takeReport } from '../../../src/master/chunks/reports.js';
import { ReportRequest } from '../../../src/protocol/generated/messages.js';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';
import { MasterCluster } from '../support/master-cluster.js';

t.test('replicas lost in a running server are lost, also of chunks made since it registered', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  // More than the master takes of one page at a time.
  const inodes: number[] = [];
  for (let i = 0; i < 480; i++) {
    const inode = await client.create(`file-${i}`, 3);
    cluster.write(await client.lease(inode), `word ${i}`);
    await client.publish(inode, 1);
    inodes.push(inode);
  }
  const [failing] = cluster.servers;
  if (failing === undefined) throw new Error('no server');
  t.ok(failing.replicas.size > 260, `${failing.replicas.size} are to be lost`);
  failing.replicas.clear();
  failing.freeBytes = 0;
  await cluster.until(failing.heartbeat());
  await cluster.until(failing.report());
  t.ok((await client.status()).underReplicatedChunks > 260, 'told');
  await cluster.wait(10_000);
  t.equal((await client.status()).underReplicatedChunks, 0, 'made up for');
  for (const [i, inode] of inodes.entries()) {
    const words = await cluster.words(client, inode);
    if (words.length !== 2 || words.some((replica) => replica.join() !== `word ${i}`)) t.fail(`file ${i}`);
  }
  t.equal(failing.replicas.size, 0);
  await cluster.stop();
});

t.test('a reader says that a replica is not there: the server is asked, and believed', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('file', 3);
  const lease = await client.lease(inode);
  t.ok(cluster.write(lease, 'a'));
  await client.publish(inode, 1);
  const { handle, version } = lease;
  const [one, two] = lease.replicas.map(({ serverId }) => cluster.server(serverId));
  if (one === undefined || two === undefined) throw new Error('two replicas expected');
  const say = (serverId: number, code: 'NO_REPLICA' | 'EIO'): Promise<unknown> =>
    cluster.until(
      client.peer.call(MASTER_METHODS.reportReplica, { handle, version, serverId, errorCode: errorNumber(code) }),
    );

  await say(one.id, 'EIO');
  await cluster.wait(12_000);
  t.equal((await client.chunks(inode, 0))[0]?.version, version, 'it is in order: nothing happens');
  t.equal((await client.chunks(inode, 0))[0]?.replicas.length, 2);

  one.replicas.delete(handle);
  await say(one.id, 'NO_REPLICA');
  await cluster.wait(6_000);
  t.same(await cluster.words(client, inode), [['a'], ['a']]);
  const [now] = await client.chunks(inode, 0);
  t.ok((now?.version ?? 0) > version, 'recovered without it, and copied');
  await cluster.stop();
});

t.test('P11: an older replica does not stand for the one on a disk of the server that is away', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(2);
  const client = await cluster.client();
  const inode = await client.create('file', 3);
  const lease = await client.lease(inode);
  t.ok(cluster.write(lease, 'a'));
  await client.publish(inode, 1);
  const { handle } = lease;
  const [one, two] = cluster.servers;
  if (one === undefined || two === undefined) throw new Error('no server');
  two.kill();
  await cluster.wait(15_000);
  t.ok(cluster.write(await client.lease(inode), 'b'));
  await client.publish(inode, 2);
  await cluster.rejoin(two);
  await cluster.wait(120_000);
  t.same(await cluster.words(await cluster.client(), inode), [
    ['a', 'b'],
    ['a', 'b'],
  ]);
  two.kill();
  one.kill();
  const good = one.replicas.get(handle);
  if (good === undefined || good.version <= lease.version) throw new Error('a newer version expected');
  one.replicas.set(handle, { version: lease.version, fence: 0, words: ['a'], suspect: false });
  one.disks = [
    { id: 'a', path: '/a', generation: 1 },
    { id: 'b', path: '/b', generation: 0, problem: 'not mounted' },
  ];
  await cluster.rejoin(one);
  await cluster.wait(120_000);
  t.equal(one.replicas.get(handle)?.leftOut, true, 'P9: it is served to nobody');
  one.kill();
  one.disks = [
    { id: 'a', path: '/a', generation: 2 },
    { id: 'b', path: '/b', generation: 2 },
  ];
  one.replicas.set(handle, good);
  await cluster.rejoin(one);
  await cluster.wait(120_000);
  t.same(await cluster.words(await cluster.client(), inode), [['a', 'b']]);
  await cluster.stop();
});

t.test(
  'P11: a member tells of a newer version while its chunk is being recovered: the writer who waits goes on',
  async (t) => {
    const cluster = new MasterCluster();
    await cluster.start(2);
    const client = await cluster.client();
    const inode = await client.create('file', 3);
    const lease = await client.lease(inode);
    t.ok(cluster.write(lease, 'a'));
    await client.publish(inode, 1);
    const [one, two] = cluster.servers;
    const before = two?.replicas.get(lease.handle);
    if (one === undefined || two === undefined || before === undefined) throw new Error('no server');
    let isTold = false;
    one.onCall = async (method) => {
      if (method !== 'recoverChunk' || isTold) return;
      isTold = true;
      two.replicas.set(lease.handle, { ...before, version: lease.version + 50, words: ['a', 'b'] });
      await two.report();
      // The recovery goes on without it.
      two.reachable = false;
    };
    t.ok(cluster.tear(lease, 'c', one));
    const next = await client.lease(inode, 0, lease);
    two.reachable = true;
    t.ok(cluster.write(next, 'c'));
    await client.publish(inode, 3);
    t.ok(isTold);
    await cluster.wait(120_000);
    t.same(await cluster.words(await cluster.client(), inode), [
      ['a', 'b', 'c'],
      ['a', 'b', 'c'],
    ]);
    await cluster.stop();
  },
);

t.test('a chunk in doubt is told: it may end with fewer replicas', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const lease = await client.lease(await client.create('file', 3));
  t.equal((await client.status()).doubtfulChunks, 0);
  cluster.parts.leases.voidLease(chunkHandle(lease.handle));
  t.equal((await client.status()).doubtfulChunks, 1);
  await cluster.until(cluster.parts.leases.recover(chunkHandle(lease.handle), () => true));
  t.equal((await client.status()).doubtfulChunks, 0);
  await cluster.stop();
});

t.test('P9: what a copy is to take the place of serves nobody until that comes, and is not deleted', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('file', 3);
  const lease = await client.lease(inode);
  const handle = chunkHandle(lease.handle);
  await cluster.until(cluster.parts.leases.recover(handle, () => true));
  const [chunk] = await client.chunks(inode, 0);
  const members = new Set(lease.replicas.map(({ serverId }) => serverId));
  const target = cluster.parts.servers.all().find(({ id }) => !members.has(id));
  if (chunk === undefined || target === undefined) throw new Error('a chunk, and a server without it, expected');
  t.ok(chunk.version > lease.version);
  const report = (version: number): unknown =>
    takeReport(
      {
        ...{ ...cluster.parts, logger: silentLogger, wantedReplicas: 2 },
        isInMaking: () => true,
        onStale: () => t.fail('it is not to be deleted'),
        onDoubt: () => t.fail('nothing is in doubt'),
      },
      target,
      ReportRequest.decode(ReportRequest.encode({ replicas: [{ handle, version }] }).finish()),
    );
  t.same(report(lease.version), { delete: [], aside: [], leaveOut: [{ handle, version: lease.version }] });
  t.same(report(chunk.version), { delete: [], aside: [], leaveOut: [] }, 'the copy itself');
  await cluster.stop();
});

t.test(
  'P1: a member at the version of a recovery that was given up is not taken for bad by who knows the one before',
  async (t) => {
    const cluster = new MasterCluster();
    await cluster.start(2);
    const client = await cluster.client();
    const inode = await client.create('file', 3);
    const lease = await client.lease(inode);
    t.ok(cluster.write(lease, 'a'));
    await client.publish(inode, 1);
    const { handle, version } = lease;
    const [lost, whole] = cluster.servers;
    const kept = whole?.replicas.get(handle);
    if (lost === undefined || whole === undefined || kept === undefined) throw new Error('no server');
    // Its power failed, and it had synced nothing.
    lost.kill();
    lost.replicas.set(handle, { version, fence: 0, words: [], suspect: true });
    // It carries the recovery out when nobody waits for that any more.
    let isCarriedOut = false;
    whole.onCall = (method) => {
      if (method !== 'recoverChunk' || isCarriedOut) return;
      isCarriedOut = true;
      whole.replicas.set(handle, { ...kept, version: version + 1 });
      whole.kill();
      throw new CairnError('DISCONNECTED', 'the answer is lost');
    };
    const failing = t.rejects(client.lease(inode, 0, lease));
    while (!isCarriedOut) await cluster.wait(100);
    await cluster.rejoin(lost);
    await cluster.rejoin(whole);
    const report = { handle, version, serverId: whole.id, errorCode: errorNumber('STALE_VERSION') };
    await cluster.until(client.peer.call(MASTER_METHODS.reportReplica, report));
    await failing;
    await cluster.wait(60_000);
    t.same(await cluster.words(await cluster.client(), inode), [['a'], ['a']]);
    await cluster.stop();
  },
);
