/** What is read before something is waited for, and used afterwards, while it changes: told as stories of the master. */
import t from 'tap';
import { inodeId } from '../../src/core/ids.js';
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
