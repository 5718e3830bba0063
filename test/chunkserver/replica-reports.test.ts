/** What the master is told, and what it answers, while something else happens to the same replica. */
import t from 'tap';
import { errorNumber } from '../../src/core/errors.js';
import { SeededRandom } from '../../src/core/random.js';
import { deferred } from '../../src/core/sync.js';
import { DATA_OFFSET } from '../../src/chunkserver/chunk/chunk-format.js';
import { CHUNKSERVER_METHODS } from '../../src/protocol/methods.js';
import { eventually } from '../support/eventually.js';
import { ChunkserverCluster } from './chunkserver-cluster.js';

const seed = Number(process.env['CAIRN_SEED'] ?? 1);
const random = new SeededRandom(seed);
t.comment(`CAIRN_SEED=${seed}`);

t.test('P1: a replica that cannot be believed is told also while damage in it is on its way', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const lease = await cluster.grant(1, 1, [1, 2], { create: true });
  await cluster.write(lease, 0, random.bytes(1000));
  const machine = cluster.machine(2);
  const content = machine.disk.content(cluster.chunkPath(machine, 1));
  content.writeUInt8((content[DATA_OFFSET] ?? 0) ^ 1, DATA_OFFSET);
  const held = deferred<void>();
  cluster.heldReports = held.promise;
  await t.rejects(cluster.read(2, 1, 1), { code: 'CORRUPT' });
  machine.disk.failOn('chunk.peek');
  const check = { handle: 1, version: 1 };
  await t.rejects(cluster.masterPeer(2).call(CHUNKSERVER_METHODS.checkReplica, check), { code: 'EIO' });
  held.resolve();
  const told = (): number[] => cluster.replicaReports.map(({ errorCode }) => errorCode);
  await eventually('what was told', () => told().length === 2);
  t.same(told(), [errorNumber('CORRUPT'), errorNumber('EIO')]);
  await cluster.stop();
});

t.test('P11: a copy that was made since a report is not set aside for it', async (t) => {
  const cluster = await ChunkserverCluster.ofThree(seed);
  const bytes = random.bytes(1000);
  await cluster.grant(1, 1, [1, 2], { create: true });
  await cluster.write(await cluster.grant(2, 1, [1, 2], { create: true }), 0, bytes);
  const machine = cluster.machine(1);
  await cluster.kill(machine);
  cluster.toSetAside = (states) => states.map((state) => ({ ...state }));
  // The first one, which is empty, takes long to go.
  const goOn = machine.disk.holdUnlink(cluster.chunkPath(machine, 1));
  const started = cluster.startServer(machine);
  await eventually('the report', () => machine.reported.length === 2);
  const [source = null] = cluster.members([2]);
  await cluster.masterPeer(1).call(CHUNKSERVER_METHODS.copyChunk, { handle: 2, version: 1, source });
  goOn();
  await started;
  t.ok(bytes.equals(await cluster.read(1, 2, 1)));
  await cluster.stop();
});
