/** Holdings over the methods that the master serves: grants with answers, and changes that wait until others were recalled. */
import t from 'tap';
import { HOLDING_TAKEOVER_MS } from '../../../src/core/limits.js';
import { deferred } from '../../../src/core/sync.js';
import type { Deferred } from '../../../src/core/sync.js';
import { connectPeer } from '../../../src/protocol/endpoint.js';
import type { ConnectedPeer } from '../../../src/protocol/endpoint.js';
import type { Recall } from '../../../src/protocol/generated/messages.js';
import { CLIENT_METHODS, MASTER_METHODS } from '../../../src/protocol/methods.js';
import { MasterCluster } from '../support/master-cluster.js';

const CALLER = { uid: 0, gid: 0, groups: [] };
const TIMEOUT = { timeoutMs: 60_000 };
const m = MASTER_METHODS;

/** A client that answers recalls when it is let. */
class Client {
  readonly recalled: Recall[][] = [];
  readonly waiting: Deferred<void>[] = [];
  isMute = false;
  peer!: ConnectedPeer;
  sessionId = 0;
  holdings = 0;
  private token = Buffer.alloc(0);
  private sequence = 0;

  constructor(readonly cluster: MasterCluster) {}

  async connect(holds = true): Promise<this> {
    const handlers = {
      recall: async ({ items }: { items: Recall[] }) => {
        this.recalled.push(items);
        if (this.isMute) {
          const let_ = deferred<void>();
          this.waiting.push(let_);
          await let_.promise;
        }
        return { reply: {} };
      },
    };
    const service = { table: CLIENT_METHODS, handlers };
    const { cluster, sessionId, token } = this;
    this.peer = await cluster.until(connectPeer(cluster.endpoint('client'), 'master:1', { role: 'master', service }));
    const { reply } = await cluster.until(
      this.peer.call(m.openSession, { clientName: 'test', sessionId, token, holds }),
    );
    this.sessionId = reply.sessionId;
    this.holdings = reply.holdings;
    if (!reply.resumed) this.token = Buffer.from(reply.token);
    return this;
  }

  async reclaim(holdings: readonly number[] = []): Promise<number[]> {
    return (await this.cluster.until(this.peer.call(m.reclaim, { done: true, holdings }))).reply.grants;
  }

  operation() {
    return { sequence: ++this.sequence, ackedBelow: 1 };
  }

  async lookup(name: string) {
    const request = { caller: CALLER, parent: 1, name: Buffer.from(name), hold: true };
    return (await this.cluster.until(this.peer.call(m.lookup, request))).reply;
  }

  /** Without turning the clock. */
  create(name: string, { operation = this.operation(), openFlags = 0, mode = 0o100644 } = {}) {
    const request = { operation, caller: CALLER, parent: 1, name: Buffer.from(name), mode, openFlags };
    return this.peer.call(m.create, request, TIMEOUT);
  }
}

async function clients(count: number): Promise<readonly [MasterCluster, ...Client[]]> {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const all: Client[] = [];
  for (let i = 0; i < count; i++) all.push(await new Client(cluster).connect());
  return [cluster, ...all];
}

function watch<T>(promise: Promise<T>): { readonly promise: Promise<T>; isDone: boolean } {
  const watched = { promise, isDone: false };
  promise.then(
    () => (watched.isDone = true),
    () => (watched.isDone = true),
  );
  return watched;
}

t.test('a change by another waits for the answer to a recall', async (t) => {
  const [cluster, one, two] = await clients(2);
  if (one === undefined || two === undefined) return;
  const missing = await one.lookup('a');
  t.ok(missing.missing);
  t.not(missing.nameGrant, 0);
  one.isMute = true;
  const creating = watch(two.create('a'));
  await cluster.wait(200);
  t.notOk(creating.isDone);
  t.match(one.recalled, [[{ inode: 1, whole: false, self: true, names: [Buffer.from('a')] }]]);
  const pending = await one.lookup('a');
  t.match([pending.missing, pending.nameGrant], [true, 0], 'the old state, and not covered');
  t.match((await one.cluster.until(one.peer.call(m.status, {}))).reply, { holdings: 1, recalls: 1 });
  one.waiting[0]?.resolve();
  await cluster.until(creating.promise);
  const found = await one.lookup('a');
  t.equal(found.nameGrant, missing.nameGrant, 'the holding goes on');
  t.match([found.attributes?.heldBy, found.attributes?.grant], [1, missing.nameGrant]);
  await cluster.until(one.create('b'));
  t.equal(two.recalled.length, 0, 'who never asked for a holding has none');
  await cluster.stop();
});

t.test('a change that fails, or was made before, recalls nobody and does not wait', async (t) => {
  const [cluster, one, two] = await clients(2);
  if (one === undefined || two === undefined) return;
  const operation = two.operation();
  const first = (await cluster.until(two.create('a', { operation }))).reply;
  await one.lookup('a');
  one.isMute = true;
  const again = watch(two.create('a', { operation }));
  const failing = watch(two.create('a', { mode: 0o040755 }));
  await cluster.wait(100);
  t.ok(again.isDone, 'a stored answer');
  t.equal((await again.promise).reply.attributes?.inode, first.attributes?.inode);
  t.ok(failing.isDone);
  await t.rejects(failing.promise, { code: 'EEXIST' });
  t.equal(one.recalled.length, 0);
  await cluster.stop();
});

t.test('one that comes again while it waits is made once', async (t) => {
  const [cluster, one, two] = await clients(2);
  if (one === undefined || two === undefined) return;
  await one.lookup('a');
  one.isMute = true;
  const operation = two.operation();
  const first = watch(two.create('a', { operation }));
  await cluster.wait(100);
  two.peer.close('cut');
  await cluster.wait(100);
  t.ok(first.isDone);
  await two.connect();
  await two.reclaim();
  const second = watch(two.create('a', { operation }));
  await cluster.wait(100);
  t.notOk(second.isDone);
  for (const waiting of one.waiting) waiting.resolve();
  t.equal((await cluster.until(second.promise)).reply.created, true);
  await cluster.stop();
});

t.test('who does not answer is not waited for', async (t) => {
  const [cluster, one, two] = await clients(2);
  if (one === undefined || two === undefined) return;
  await one.lookup('a');
  one.isMute = true;
  const began = cluster.clock.monotonicMs();
  await cluster.until(two.create('x'));
  const took = cluster.clock.monotonicMs() - began;
  t.ok(took >= HOLDING_TAKEOVER_MS && took < HOLDING_TAKEOVER_MS + 2_500, `${took} ms`);
  await cluster.stop();
});

t.test('a cut that waited takes its turn at the file that the name leads to by then', async (t) => {
  const [cluster, one, two, three] = await clients(3);
  if (one === undefined || two === undefined || three === undefined) return;
  const open = { caller: CALLER, parent: 1, name: Buffer.from('a'), flags: 2 };
  const inodes: number[] = [];
  for (const name of ['a', 'b']) {
    const { reply } = await cluster.until(two.create(name, { openFlags: 2 }));
    inodes.push(reply.attributes?.inode ?? 0);
  }
  for (const inode of inodes) {
    const about = { operation: two.operation(), caller: CALLER, inode, size: 5_000 };
    await cluster.until(two.peer.call(m.setAttributes, about));
  }
  const [, second = 0] = inodes;
  const append = { caller: CALLER, inode: second, flags: 2 | 8 };
  t.ok((await cluster.until(three.peer.call(m.open, append))).reply.appendGranted);
  await one.lookup('a');
  one.isMute = true;
  const cut = watch(two.peer.call(m.open, { ...open, flags: 2 | 4, operation: two.operation() }, TIMEOUT));
  await cluster.wait(100);
  one.isMute = false;
  const rename = { caller: CALLER, parent: 1, name: Buffer.from('b'), newParent: 1, newName: Buffer.from('a') };
  await cluster.until(three.peer.call(m.rename, { ...rename, operation: three.operation() }));
  t.notOk(cut.isDone);
  one.waiting[0]?.resolve();
  await cluster.wait(200);
  t.notOk(cut.isDone, 'another client appends to that one');
  await cluster.until(three.peer.call(m.releaseAppend, { inode: second }));
  t.match((await cluster.until(cut.promise)).reply.attributes, { inode: second, size: 0 });
  t.ok(cluster.parts.appends.isEmpty, 'and the turn at the first is over');
  await cluster.stop();
});

t.test('after a restart changes wait until all have told what they hold', async (t) => {
  const [cluster, one, two] = await clients(2);
  if (one === undefined || two === undefined) return;
  const { nameGrant } = await one.lookup('a');
  const operation = two.operation();
  await cluster.until(two.create('z', { operation }));
  const before = one.holdings;
  await cluster.restartMaster('kill');
  await two.connect();
  await two.reclaim();
  const creating = watch(two.create('a'));
  const again = watch(two.create('z', { operation }));
  await cluster.wait(3_000);
  t.notOk(creating.isDone);
  t.ok(again.isDone, 'but for a stored answer');
  await one.connect();
  t.not(one.holdings, before, 'another set');
  const [grant] = await one.reclaim([1]);
  t.not(grant, 0);
  await cluster.until(creating.promise);
  t.equal(one.recalled.at(-1)?.[0]?.inode, 1);
  t.ok((nameGrant ?? 0) > 0);
  t.same(await one.reclaim([1, 77]), [grant, 0], 'now only what it holds stands');
  await cluster.stop();
});

t.test('and HOLDING_TAKEOVER_MS at most; who comes later holds nothing', async (t) => {
  const [cluster, one, two] = await clients(2);
  if (one === undefined || two === undefined) return;
  await one.lookup('a');
  await cluster.restartMaster('kill');
  const began = cluster.clock.monotonicMs();
  await two.connect();
  await two.reclaim();
  await cluster.until(two.create('a'));
  const took = cluster.clock.monotonicMs() - began;
  t.ok(took >= HOLDING_TAKEOVER_MS - 1_000 && took < HOLDING_TAKEOVER_MS + 2_500, `${took} ms`);
  await one.connect();
  t.same(await one.reclaim([1]), [0]);
  await cluster.stop();
});

t.test('what ended without its client is not told to the next master either', async (t) => {
  const [cluster, one, two] = await clients(2);
  if (one === undefined || two === undefined) return;
  await one.lookup('a');
  one.peer.close('cut');
  await cluster.until(two.create('a'));
  await cluster.restartMaster('kill');
  await two.connect();
  await two.reclaim();
  await one.connect();
  t.same(await one.reclaim([1]), [0]);
  const again = await one.lookup('b');
  t.not(again.nameGrant, 0, 'it may hold it again');
  await cluster.restartMaster('kill');
  await two.connect();
  await two.reclaim();
  await one.connect();
  t.not((await one.reclaim([1]))[0], 0, 'and tell of that');
  await cluster.stop();
});

t.test('after a restart nobody waits for a client that may hold nothing, and it is granted nothing', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const one = await new Client(cluster).connect(false);
  const two = await new Client(cluster).connect();
  t.equal((await one.lookup('a')).nameGrant, 0);
  await cluster.restartMaster('kill');
  const began = cluster.clock.monotonicMs();
  await two.connect();
  await two.reclaim();
  await cluster.until(two.create('a'));
  t.ok(cluster.clock.monotonicMs() - began < 2_000);
  await cluster.stop();
});
