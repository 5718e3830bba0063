/** Holdings over the methods that the master serves: grants with answers, and changes that wait until others were recalled. */
import t from 'tap';
import { connectPeer } from '../../../src/protocol/endpoint.js';
import type { ConnectedPeer } from '../../../src/protocol/endpoint.js';
import type { Recall } from '../../../src/protocol/generated/messages.js';
import { CLIENT_METHODS, MASTER_METHODS } from '../../../src/protocol/methods.js';
import { deferred } from '../../../src/core/sync.js';
import { MasterCluster } from '../support/master-cluster.js';

const CALLER = { uid: 0, gid: 0, groups: [] };
const m = MASTER_METHODS;

/** A client that answers recalls when it is let. */
class Holder {
  readonly recalled: Recall[][] = [];
  isMute = false;
  private readonly unmuted = deferred<void>();
  peer!: ConnectedPeer;
  private sequence = 0;

  constructor(readonly cluster: MasterCluster) {}

  async connect(): Promise<this> {
    const handlers = {
      recall: async ({ items }: { items: Recall[] }) => {
        this.recalled.push(items);
        if (this.isMute) await this.unmuted.promise;
        return { reply: {} };
      },
    };
    const service = { table: CLIENT_METHODS, handlers };
    this.peer = await this.cluster.until(
      connectPeer(this.cluster.endpoint('client'), 'master:1', { role: 'master', service }),
    );
    await this.cluster.until(this.peer.call(m.openSession, { clientName: 'test' }));
    return this;
  }

  unmute(): void {
    this.isMute = false;
    this.unmuted.resolve();
  }

  operation() {
    return { sequence: ++this.sequence, ackedBelow: 1 };
  }

  async lookup(name: string) {
    return (
      await this.cluster.until(
        this.peer.call(m.lookup, { caller: CALLER, parent: 1, name: Buffer.from(name), hold: true }),
      )
    ).reply;
  }

  create(name: string) {
    const request = { operation: this.operation(), caller: CALLER, parent: 1, name: Buffer.from(name), mode: 0o100644 };
    return this.peer.call(m.create, request);
  }
}

t.test('a change by another waits for the answer to a recall', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const [one, two] = [await new Holder(cluster).connect(), await new Holder(cluster).connect()];
  const missing = await one.lookup('a');
  t.ok(missing.missing);
  t.not(missing.nameGrant, 0);
  t.equal(cluster.parts.holdings.size, 1);
  one.isMute = true;
  let made = false;
  const creating = two.create('a').then((result) => {
    made = true;
    return result.reply;
  });
  await cluster.wait(200);
  t.notOk(made);
  t.equal(one.recalled.length, 1);
  t.match(one.recalled[0], [{ inode: 1, whole: false, self: true, names: [Buffer.from('a')] }]);
  const pending = await one.lookup('a');
  t.match(
    { missing: pending.missing, grant: pending.nameGrant },
    { missing: true, grant: 0 },
    'the old state, not covered',
  );
  one.unmute();
  await cluster.until(creating);
  const found = await one.lookup('a');
  t.equal(found.nameGrant, missing.nameGrant, 'the holding goes on');
  t.equal(found.attributes?.heldBy, 1);
  t.equal(found.attributes?.grant, missing.nameGrant);
  // Its own change waits for nobody.
  const own = await cluster.until(two.create('b'));
  t.ok(own.reply.created);
  await cluster.stop();
});

t.test('who does not answer is not waited for', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const [one, two] = [await new Holder(cluster).connect(), await new Holder(cluster).connect()];
  await one.lookup('a');
  one.isMute = true;
  const began = cluster.clock.monotonicMs();
  await cluster.until(
    two.peer.call(
      m.create,
      { operation: two.operation(), caller: CALLER, parent: 1, name: Buffer.from('x'), mode: 0o100644 },
      { timeoutMs: 60_000 },
    ),
  );
  const took = cluster.clock.monotonicMs() - began;
  t.ok(took >= 10_000 && took < 12_500, `${took} ms`);
  await cluster.stop();
});
