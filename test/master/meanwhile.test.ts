/** What is read before something is waited for, and used afterwards, while it changes: told as stories of the master. */
import t from 'tap';
import { chunkHandle, inodeId, serverId } from '../../src/core/ids.js';
import { LEASE_TTL_MS } from '../../src/core/limits.js';
import { deferred } from '../../src/core/sync.js';
import { keys } from '../../src/master/state/keys.js';
import { MASTER_METHODS } from '../../src/protocol/methods.js';
import { TestCluster } from './support/cluster.js';
import type { TestClient } from './support/cluster.js';

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
  const cluster = new TestCluster();
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
  const cluster = new TestCluster();
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
  const cluster = new TestCluster();
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
  t.equal(cluster.parts.leases.table.size, 0);
  await cluster.stop();
});

t.test(
  'P1: a truncate ends the lease of what it drops, also when all leases of the file are ended just then',
  async (t) => {
    const cluster = new TestCluster();
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
