/** What a start after a power loss makes sure of: nothing told before it comes again for something else. */
import t from 'tap';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { HOLDING_TAKEOVER_MS } from '../../../src/core/limits.js';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';
import { MasterCluster } from '../support/master-cluster.js';
import type { TestClient } from '../support/master-cluster.js';

const changeOfRoot = async (cluster: MasterCluster, client: TestClient): Promise<number> =>
  (await cluster.until(client.peer.call(MASTER_METHODS.getAttributes, { inode: ROOT_INODE }))).reply.change;

t.test('P10: no inode number and no change attribute comes again after a power loss', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const seen = new Set<number>();
  const changes = new Set<number>();
  const work = async (client: TestClient, round: number): Promise<void> => {
    for (let i = 0; i < 20; i++) {
      const inode = await client.create(`file-${round}-${i}`);
      t.notOk(seen.has(inode), `inode ${inode} is new`);
      seen.add(inode);
      const change = await changeOfRoot(cluster, client);
      t.notOk(changes.has(change), `change ${change} is new`);
      changes.add(change);
    }
  };
  for (let round = 0; round < 4; round++) {
    await work(await cluster.client(), round);
    await cluster.restartMaster('power');
    // Nobody tells what the client of before held.
    await cluster.wait(HOLDING_TAKEOVER_MS + 1_000);
  }
  await cluster.stop();
});

t.test('the loss epoch: after a power loss only', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const epochs = async (): Promise<{ readonly epoch: number; readonly lossEpoch: number }> => {
    const { peer } = await cluster.client();
    return (await cluster.until(peer.call(MASTER_METHODS.openSession, { clientName: 'another' }))).reply;
  };
  t.equal((await epochs()).lossEpoch, 0, 'a new cluster');
  await cluster.restartMaster('kill');
  t.equal((await epochs()).lossEpoch, 0, 'kill -9');
  await cluster.restartMaster('power');
  const after = await epochs();
  t.equal(after.lossEpoch, after.epoch, 'power loss');
  await cluster.restartMaster('kill');
  t.equal((await epochs()).lossEpoch, after.epoch, 'kept over the next start');
  await cluster.stop();
});
