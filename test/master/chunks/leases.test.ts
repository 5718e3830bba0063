/** Stories of chunk leases and recovery: P4, P9, P10, P11 under crashes of every role at every step. */
import { deferred } from '../../../src/core/sync.js';
import t from 'tap';
import { hasCode } from '../../../src/core/errors.js';
import { chunkHandle } from '../../../src/core/ids.js';
import { MAX_ACTIVE_LEASES } from '../../../src/core/limits.js';
import { keys } from '../../../src/master/state/keys.js';
import { ChunkRecord } from '../../../src/protocol/generated/messages.js';
import type { FakeChunkserver } from '../support/fake-chunkserver.js';
import { MasterCluster } from '../support/master-cluster.js';
import type { TestClient } from '../support/master-cluster.js';

async function withFile(
  config?: ConstructorParameters<typeof MasterCluster>[0],
): Promise<{ cluster: MasterCluster; client: TestClient; inode: number }> {
  const cluster = new MasterCluster(config);
  await cluster.start();
  const client = await cluster.client();
  const inode = await client.create('file', 3);
  return { cluster, client, inode };
}

/** It has no replica, or knows that it goes for none. */
const servesNobody = ({ replicas }: FakeChunkserver): boolean =>
  [...replicas.values()].every(({ leftOut }) => leftOut === true);

t.test('a hole becomes a chunk on two hosts, and a second writer shares its lease', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  t.equal(lease.replicas.length, 2);
  t.equal(lease.version, 1);
  t.equal(lease.primary?.serverId, lease.replicas[0]?.serverId);
  t.ok(cluster.write(lease, 'a'));
  const other = await cluster.client();
  const same = await other.lease(inode);
  t.equal(same.leaseId, lease.leaseId);
  t.same(await cluster.words(client, inode), [['a'], ['a']]);
  await cluster.stop();
});

t.test('requests that come together share one grant', async (t) => {
  const { cluster, client, inode } = await withFile({ maxSpareChunks: 0 });
  const all = await cluster.until(Promise.all([1, 2, 3, 4].map(() => client.leaseNow(inode))));
  t.equal(new Set(all.map(({ reply }) => reply.leaseId)).size, 1);
  const grants = cluster.servers.flatMap((server) => server.calls).filter((call) => call === 'grantLease');
  t.equal(grants.length, 2, 'one for each member');
  await cluster.stop();
});

t.test('a server that refuses a new chunk is passed over', async (t) => {
  const { cluster, client, inode } = await withFile({ maxSpareChunks: 0 });
  cluster.servers[0]?.failNext('grantLease', 'EIO');
  cluster.servers[1]?.failNext('grantLease', 'EIO', 'after');
  await cluster.addServer('host-4:1');
  const lease = await client.lease(inode);
  t.equal(lease.replicas.length, 2);
  t.ok(cluster.write(lease, 'a'));
  await cluster.wait(1_000);
  const copies = cluster.servers.filter((server) => server.replicas.size > 0).length;
  t.equal(copies, 2, 'what the first attempts left is deleted');
  await cluster.stop();
});

t.test('P4, P11: a secondary dies in the middle of a write', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  t.ok(cluster.write(lease, 'acknowledged'));
  const secondary = cluster.server(lease.replicas[1]?.serverId ?? 0);
  secondary.kill();
  t.notOk(cluster.write(lease, 'torn'), 'the primary has it, the writer has no acknowledgement');
  const next = await client.lease(inode, 0, lease);
  t.ok(next.version > lease.version);
  t.ok(next.leaseId > lease.leaseId);
  t.same(
    next.replicas.map(({ serverId }) => serverId),
    [lease.primary?.serverId],
  );
  t.ok(cluster.write(next, 'again'));
  const status = await client.status();
  t.equal(status.underReplicatedChunks, 1);

  t.comment('P9: the secondary returns with a stale replica');
  await cluster.rejoin(secondary);
  t.ok(servesNobody(secondary), 'it is told to serve it to nobody');
  const words = await cluster.words(client, inode);
  t.same(words, [['acknowledged', 'torn', 'again']]);
  await cluster.stop();
});

t.test('P4, P9: a primary dies with a write that reached only itself', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  cluster.write(lease, 'acknowledged');
  const primary = cluster.server(lease.primary?.serverId ?? 0);
  primary.replicas.get(lease.handle)?.words.push('never acknowledged');
  primary.kill();
  const next = await client.lease(inode, 0, lease);
  t.not(next.primary?.serverId, primary.id);
  cluster.write(next, 'more');
  await cluster.rejoin(primary);
  t.same(await cluster.words(client, inode), [['acknowledged', 'more']]);
  t.ok(servesNobody(primary));
  await cluster.stop();
});

t.test('P4: nobody writes again, and the replicas become alike all the same', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  cluster.write(lease, 'acknowledged');
  const primary = cluster.server(lease.primary?.serverId ?? 0);
  primary.replicas.get(lease.handle)?.words.push('never acknowledged');
  primary.kill();
  await cluster.rejoin(primary);
  await cluster.wait(3_000);
  const words = await cluster.words(client, inode);
  t.equal(words.length, 2, 'it was back in time to take part');
  t.same(words[0], words[1]);
  t.ok((await client.chunks(inode))[0]?.version !== lease.version);
  await cluster.stop();
});

t.test('P9: the old primary is alive and partitioned from the master', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  cluster.write(lease, 'first');
  const old = cluster.server(lease.primary?.serverId ?? 0);
  old.peer?.close('partition');
  old.peer = undefined;
  const next = await client.lease(inode, 0, lease);
  t.ok(next.leaseId > lease.leaseId);
  t.notOk(cluster.write(lease, 'under the old lease'), 'no write under it is acknowledged any more');
  t.ok(cluster.write(next, 'second'));
  const words = await cluster.words(client, inode);
  for (const replica of words) t.same(replica, ['first', 'second']);
  await cluster.stop();
});

t.test('a writer that is confused does not bring a chunk into recovery', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  const same = await client.lease(inode, 0, lease);
  t.equal(same.leaseId, lease.leaseId, 'all members are in order');
  const moved = await client.lease(inode, 0, lease);
  t.equal(moved.version, lease.version, 'no recovery');
  t.not(moved.primary?.serverId, lease.primary?.serverId, 'but another primary, which it may reach');
  const late = await client.lease(inode, 0, lease);
  t.equal(late.leaseId, moved.leaseId, 'what it says about an old lease is nothing new');
  t.notOk(cluster.servers.some((server) => server.calls.includes('recoverChunk')));
  await cluster.stop();
});

t.test('the source of a recovery dies after everyone adopted, before its answer', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  cluster.write(lease, 'a');
  const [, second] = lease.replicas;
  const primary = cluster.server(lease.primary?.serverId ?? 0);
  const secondary = cluster.server(second?.serverId ?? 0);
  secondary.failNext('grantLease', 'EIO');
  for (const server of [primary, secondary]) server.failNext('recoverChunk', 'DISCONNECTED', 'after');
  await t.rejects(client.lease(inode, 0, lease), { code: 'UNAVAILABLE' });
  t.equal(secondary.replicas.get(lease.handle)?.version, 3, 'members are ahead of what the master recorded');
  const next = await client.lease(inode, 0, lease);
  t.equal(next.version, 4, 'never a version that was sent before');
  t.ok(cluster.write(next, 'b'));
  t.same(await cluster.words(client, inode), [
    ['a', 'b'],
    ['a', 'b'],
  ]);
  await cluster.stop();
});

t.test('P11: all members are dead: the writer is told, and goes on when one is back', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  cluster.write(lease, 'kept');
  const members = lease.replicas.map(({ serverId }) => cluster.server(serverId));
  for (const member of members) member.kill();
  await t.rejects(client.lease(inode, 0, lease), { code: 'UNAVAILABLE', message: /no replica of chunk/ });
  await cluster.wait(12_000);
  t.equal((await client.status()).unavailableChunks, 1);
  const [back] = members;
  if (back !== undefined) await cluster.rejoin(back);
  await cluster.wait(3_000);
  const next = await client.lease(inode);
  t.ok(next.replicas.some(({ serverId }) => serverId === back?.id));
  for (const words of await cluster.words(client, inode)) t.same(words, ['kept']);
  await cluster.stop();
});

t.test('minReplicas: with fewer, a chunk is read and not written', async (t) => {
  const { cluster, client, inode } = await withFile({ minReplicas: 2 });
  const lease = await client.lease(inode);
  cluster.write(lease, 'a');
  cluster.server(lease.replicas[1]?.serverId ?? 0).kill();
  await t.rejects(client.lease(inode, 0, lease), { code: 'UNAVAILABLE', message: /writing needs 2/ });
  t.same(await cluster.words(client, inode), [['a']]);
  await cluster.stop();
});

for (const how of ['kill', 'power'] as const) {
  t.test(`P10, P9: the master ends (${how}) while a lease is in use`, async (t) => {
    const { cluster, client, inode } = await withFile();
    const lease = await client.lease(inode);
    cluster.write(lease, 'a');
    await client.publish(inode, 1);
    const primary = cluster.server(lease.primary?.serverId ?? 0);
    primary.replicas.get(lease.handle)?.words.push('in flight');
    await cluster.restartMaster(how);
    const again = await cluster.client(client.sessionId);
    const next = await again.lease(inode);
    t.ok(next.leaseId > lease.leaseId, 'ids go on above all ever sent');
    t.ok(next.version > lease.version, 'recovered: this master does not know what was in flight');
    t.notOk(cluster.write(lease, 'old lease'));
    t.ok(cluster.write(next, 'b'));
    const words = await cluster.words(again, inode);
    t.equal(words.length, 2);
    t.same(words[0], words[1]);
    t.same(words[0]?.at(-1), 'b');
    await cluster.stop();
  });

  for (const step of ['before', 'after'] as const) {
    t.test(`P4, P9: the master ends (${how}) ${step} a member does its part of a recovery`, async (t) => {
      const { cluster, client, inode } = await withFile();
      const lease = await client.lease(inode);
      cluster.write(lease, 'a');
      const left = cluster.server(lease.replicas[1]?.serverId ?? 0);
      left.kill();
      const primary = cluster.server(lease.primary?.serverId ?? 0);
      primary.replicas.get(lease.handle)?.words.push('torn');
      // It dies within the call, so that its answer is lost; or the call itself is.
      let crash: Promise<void> | undefined;
      if (step === 'before') primary.failNext('recoverChunk', 'DISCONNECTED');
      primary.onCall = async (method): Promise<void> => {
        if (method !== 'recoverChunk' || crash !== undefined) return;
        crash = cluster.crashMaster(how);
        await crash;
      };
      await t.rejects(cluster.until(client.leaseNow(inode, 0, lease)));
      await crash;
      await cluster.startMaster();
      for (const server of cluster.servers) if (server.reachable) await cluster.rejoin(server);
      const again = await cluster.client(client.sessionId);
      const next = await again.lease(inode);
      t.ok(next.version > (step === 'after' ? 2 : 1));
      t.ok(cluster.write(next, 'b'));
      await cluster.rejoin(left);
      t.ok(servesNobody(left), 'what was left behind is stale');
      t.same(await cluster.words(again, inode), [['a', 'torn', 'b']]);
      await cluster.stop();
    });
  }
}

t.test('P5: a truncate under a lease cuts before it is answered, and the lease goes on', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  for (const word of ['a', 'b', 'c']) cluster.write(lease, word);
  await client.publish(inode, 3);
  await client.truncate(inode, 1);
  t.ok(cluster.write(lease, 'new'), 'the lease stands');
  t.same(await cluster.words(client, inode), [
    ['a', 'new'],
    ['a', 'new'],
  ]);
  await cluster.stop();
});

t.test('P4: a lease with a write that did not get to all members does not end cleanly', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  t.ok(cluster.write(lease, 'a'));
  await client.publish(inode, 1);
  const [primary] = lease.replicas.map(({ serverId }) => cluster.server(serverId));
  // Nobody tells the master of it, and the writer does not come again.
  t.ok(primary !== undefined && cluster.tear(lease, 'torn', primary));
  t.notOk(cluster.write(lease, 'next'), 'none is acknowledged behind it');
  await cluster.wait(65_000);
  const again = await cluster.client();
  const [chunk] = await again.chunks(inode);
  t.ok((chunk?.version ?? 0) > lease.version, 'recovered');
  const words = await cluster.words(again, inode);
  t.equal(words.length, 2);
  t.same(words[0], words[1], 'alike');
  await cluster.stop();
});

t.test('P4: a member that was down takes nothing more under a lease that ended meanwhile', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  t.ok(cluster.write(lease, 'a'));
  await client.publish(inode, 1);
  await cluster.wait(65_000);
  const [chunk] = await (await cluster.client()).chunks(inode);
  t.equal(chunk?.version, lease.version, 'the lease ended cleanly');
  for (const { serverId } of lease.replicas) {
    const member = cluster.server(serverId);
    member.kill();
    await cluster.rejoin(member);
    t.notOk(cluster.tear(lease, 'late', member));
  }
  await cluster.stop();
});

t.test('P5: a truncate whose primary fails recovers the chunk with the cut', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  for (const word of ['a', 'b', 'c']) cluster.write(lease, word);
  await client.publish(inode, 3);
  cluster.server(lease.primary?.serverId ?? 0).failNext('truncateChunk', 'EIO');
  await client.truncate(inode, 1);
  t.notOk(cluster.write(lease, 'late'), 'nothing is written behind the cut under the old lease');
  t.same(await cluster.words(client, inode), [['a'], ['a']]);
  await cluster.stop();
});

t.test('P5: a truncate without a lease is made by the next grant', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  for (const word of ['a', 'b', 'c']) cluster.write(lease, word);
  await client.publish(inode, 3);
  await cluster.wait(62_000);
  t.ok(cluster.servers.some((server) => server.calls.includes('revokeLease')));
  const again = await cluster.client(client.sessionId);
  await again.openSession(client.sessionId);
  again.sequence = client.sequence;
  await again.truncate(inode, 2);
  const [chunk] = await again.chunks(inode);
  t.equal(chunk?.validBytes, 2);
  t.equal(chunk?.version, 1, 'a lease that ended cleanly costs no version');
  const next = await again.lease(inode);
  t.ok(cluster.write(next, 'd'));
  t.same(await cluster.words(again, inode), [
    ['a', 'b', 'd'],
    ['a', 'b', 'd'],
  ]);
  await cluster.stop();
});

for (const size of [2, 0]) {
  t.test(`P5: a truncate to ${size} comes while the id of a lease is being reserved`, async (t) => {
    const { cluster, client, inode } = await withFile();
    const lease = await client.lease(inode);
    for (const word of ['a', 'b', 'c']) cluster.write(lease, word);
    await client.publish(inode, 3);
    await cluster.wait(62_000);
    // The next master reserves ids with the first lease, which takes a flush.
    let flushed: Promise<void> = Promise.resolve();
    const open = cluster.disk.open.bind(cluster.disk);
    cluster.disk.open = async (...about) => {
      const file = await open(...about);
      const datasync = file.datasync.bind(file);
      file.datasync = (label) => datasync(label).then(() => flushed);
      return file;
    };
    await cluster.restartMaster('kill');
    const again = await cluster.client(client.sessionId);
    await again.openSession(client.sessionId);
    again.sequence = client.sequence;
    const flush = deferred<void>();
    flushed = flush.promise;
    const granted = again.leaseNow(inode);
    await cluster.wait(1_000);
    await again.truncate(inode, size);
    flush.resolve();
    const { reply } = await cluster.until(granted);
    t.ok(cluster.write(reply, 'd'), 'what was written after the truncate');
    const kept = ['a', 'b'].slice(0, size);
    t.same(await cluster.words(again, inode), [
      [...kept, 'd'],
      [...kept, 'd'],
    ]);
    t.equal((await again.chunks(inode))[0]?.handle, reply.handle, 'is part of the file');
    await cluster.stop();
  });
}

t.test('a truncate that drops a chunk ends its lease first', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  cluster.write(lease, 'a');
  await client.truncate(inode, 0);
  t.notOk(cluster.write(lease, 'into nothing'));
  const next = await client.lease(inode);
  t.not(next.handle, lease.handle);
  await cluster.wait(15_000);
  t.notOk(
    cluster.servers.some((server) => server.replicas.has(lease.handle)),
    'and is collected',
  );
  await cluster.stop();
});

t.test('a replica that was suspect or lost is mended from the other', async (t) => {
  const { cluster, client, inode } = await withFile();
  const lease = await client.lease(inode);
  cluster.write(lease, 'a');
  await client.publish(inode, 1);
  await cluster.wait(62_000);
  const [first, second] = lease.replicas.map(({ serverId }) => cluster.server(serverId));
  if (first === undefined || second === undefined) throw new Error('two replicas expected');
  const replica = first.replicas.get(lease.handle);
  first.kill();
  if (replica !== undefined) Object.assign(replica, { suspect: true, words: [] });
  await cluster.rejoin(first);
  await cluster.wait(2_000);
  const again = await cluster.client();
  t.same(await cluster.words(again, inode), [['a'], ['a']]);
  second.kill();
  second.replicas.clear();
  await cluster.rejoin(second);
  await cluster.wait(5_000);
  const words = await cluster.words(again, inode);
  t.same(words, [['a'], ['a']], 'and copied to another where it was lost');
  await cluster.stop();
});

t.test('repair: a server that stays dead is made up for, and its late return adds nothing', async (t) => {
  const { cluster, client, inode } = await withFile({ repairGraceMs: 30_000 });
  const lease = await client.lease(inode);
  cluster.write(lease, 'a');
  await client.publish(inode, 1);
  await cluster.wait(62_000);
  const dead = cluster.server(lease.replicas[1]?.serverId ?? 0);
  dead.kill();
  await cluster.wait(20_000);
  t.equal(cluster.servers.filter((server) => server.calls.includes('copyChunk')).length, 0, 'within the grace');
  await cluster.wait(20_000);
  const again = await cluster.client();
  t.same(await cluster.words(again, inode), [['a'], ['a']]);
  await cluster.rejoin(dead);
  t.ok(servesNobody(dead));
  await cluster.wait(3_000);
  t.equal(dead.replicas.size, 0, 'its replica is deleted when the members were verified');
  t.equal((await again.status()).underReplicatedChunks, 0);
  await cluster.stop();
});

t.test('two servers that claim one id', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(2);
  const [first] = cluster.servers;
  const copy = await cluster.addServer('host-9:1');
  copy.kill();
  copy.id = first?.id ?? 0;
  await t.rejects(cluster.rejoin(copy), { code: 'EBUSY' });
  await cluster.stop();
});

t.test('without servers a lease is refused clearly; full ones are ENOSPC', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const client = await cluster.client();
  const inode = await client.create('file', 2);
  await t.rejects(client.lease(inode), { code: 'UNAVAILABLE' });
  const server = await cluster.addServer('host-1:1');
  server.freeBytes = 1000;
  await cluster.until(server.heartbeat());
  try {
    await client.lease(inode);
    t.fail('leased');
  } catch (error) {
    t.ok(hasCode(error, 'ENOSPC'));
  }
  await cluster.stop();
});

t.test('P11: leases of chunks whose servers are away for good do not end those of others', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start();
  const client = await cluster.client();
  const { leases, state } = cluster.parts;
  const record = { leaseId: 1, primary: 9, inode: 9, index: 0 };
  const away = Array.from({ length: MAX_ACTIVE_LEASES }, (_, i) => [chunkHandle(1_000_000 + i), record] as const);
  leases.inherit(away);
  const chunk = Buffer.from(ChunkRecord.encode({ servers: [9], version: 1, inode: 9 }).finish());
  state.mutate((m) => {
    for (const [handle] of away) m.put(keys.chunk(handle), chunk);
  });
  const inode = await client.create('file', 3);
  const lease = await client.lease(inode);
  await cluster.wait(5_000);
  t.ok(cluster.write(lease, 'a'));
  await cluster.stop();
});
