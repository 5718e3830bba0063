/** Recalls with clients that answer when the test says so, and a clock that it moves. */
import t from 'tap';
import { CairnError } from '../../../src/core/errors.js';
import { inodeId, sessionId } from '../../../src/core/ids.js';
import type { SessionId } from '../../../src/core/ids.js';
import { HOLDING_TAKEOVER_MS, MAX_RECALLS_PER_SESSION, RECALL_RESEND_MS } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { SeededRandom } from '../../../src/core/random.js';
import { deferred } from '../../../src/core/sync.js';
import { Holdings } from '../../../src/master/sessions/holdings.js';
import { Recalls } from '../../../src/master/sessions/recalls.js';
import type { Touched } from '../../../src/master/sessions/touched.js';
import type { State } from '../../../src/master/state/state.js';
import type { RecallRequestInit } from '../../../src/protocol/generated/messages.js';
import type { Peer } from '../../../src/protocol/rpc.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const [ONE, TWO, THREE] = [sessionId(1), sessionId(2), sessionId(3)];
const A = inodeId(11);

interface Sent {
  readonly items: RecallRequestInit['items'];
  answer(): void;
}

/** The connection of one client. */
class FakePeer {
  readonly sent: Sent[] = [];
  isClosed = false;
  private readonly calls = new Set<(error: Error) => void>();

  call(_method: unknown, { items }: RecallRequestInit): Promise<unknown> {
    const answered = deferred<unknown>();
    this.calls.add(answered.reject);
    this.sent.push({ items, answer: () => answered.resolve({ reply: {} }) });
    return answered.promise;
  }

  close(): void {
    this.isClosed = true;
    for (const fail of this.calls) fail(new CairnError('DISCONNECTED', 'closed'));
  }
}

class Bench {
  readonly clock = new ManualClock();
  readonly peers = new Map<SessionId, FakePeer>([
    [ONE, new FakePeer()],
    [TWO, new FakePeer()],
    [THREE, new FakePeer()],
  ]);
  readonly heardMs = new Map<SessionId, number>();
  readonly disconnected: SessionId[] = [];
  readonly ended: SessionId[] = [];
  areAllTold = true;
  hasRoom = true;
  readonly holdings = new Holdings({ clock: this.clock, random: new SeededRandom(1) });
  readonly recalls = new Recalls({
    state: {} as State,
    logger: silentLogger,
    holdings: this.holdings,
    nowMs: () => this.clock.monotonicMs(),
    peerOf: (session) => this.peers.get(session) as unknown as Peer,
    silentMs: (session) => this.clock.monotonicMs() - (this.heardMs.get(session) ?? 0),
    disconnect: (session) => {
      this.disconnected.push(session);
      this.peers.get(session)?.close();
      this.peers.delete(session);
    },
    noteEnded: (session) => {
      if (this.hasRoom) this.ended.push(session);
      return this.hasRoom;
    },
    areAllTold: () => this.areAllTold,
  });

  sentTo(session: SessionId): Sent[] {
    return this.peers.get(session)?.sent ?? [];
  }

  /** A second at a time, as the master ticks; `heard`: the sessions that keep themselves. */
  pass(ms: number, heard: readonly SessionId[] = []): void {
    for (let passed = 0; passed < ms; passed += 1_000) {
      this.clock.advance(Math.min(1_000, ms - passed));
      for (const session of heard) this.heardMs.set(session, this.clock.monotonicMs());
      this.recalls.tick();
    }
  }
}

const name = (of: string): Touched => ({
  inode: A,
  key: of,
  item: { inode: A, self: true, names: [Buffer.from(of)], attributes: [], contents: [] },
});

async function isDone(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  void promise.then(() => (done = true));
  for (let i = 0; i < 50; i++) await Promise.resolve();
  return done;
}

t.test('all holders but who asks are told, and all are waited for', async (t) => {
  const { holdings, recalls, sentTo } = bench();
  for (const session of [ONE, TWO, THREE]) holdings.cover(session, A, true);
  const clearing = recalls.begin(THREE);
  const cleared = clearing.clear([name('x')]);
  t.equal(recalls.waiting, 2);
  t.match(sentTo(ONE), [{ items: [{ inode: 11, self: true, names: [Buffer.from('x')] }] }]);
  t.equal(sentTo(TWO).length, 1);
  t.equal(sentTo(THREE).length, 0);
  t.equal(holdings.cover(ONE, A, true), 0, 'nothing is covered meanwhile');
  sentTo(ONE)[0]?.answer();
  t.notOk(await isDone(cleared));
  sentTo(TWO)[0]?.answer();
  t.ok(await isDone(cleared));
  t.equal(recalls.waiting, 0);
  t.equal(holdings.cover(ONE, A, true), 0, 'nor before the change is made');
  clearing.end();
  t.ok(holdings.cover(ONE, A, false) > 0);
});

t.test('a recall without an answer is sent again, with what else waits', async (t) => {
  const bench_ = bench();
  const { holdings, recalls, sentTo, pass } = bench_;
  holdings.cover(ONE, A, true);
  const [first, second] = [recalls.begin(TWO), recalls.begin(THREE)];
  const cleared = [first.clear([name('x')]), second.clear([name('y')])];
  t.equal(sentTo(ONE).length, 2);
  pass(RECALL_RESEND_MS - 1_000, [ONE]);
  t.equal(sentTo(ONE).length, 2);
  pass(1_000, [ONE]);
  t.equal(sentTo(ONE).length, 3);
  t.equal(sentTo(ONE)[2]?.items?.length, 2, 'in one message');
  sentTo(ONE)[2]?.answer();
  t.ok(await isDone(Promise.all(cleared)));
  pass(HOLDING_TAKEOVER_MS, [ONE]);
  t.same(bench_.disconnected, [], 'it answered');
});

t.test('who is unheard of is given up after HOLDING_TAKEOVER_MS, and not before', async (t) => {
  const { holdings, recalls, pass, disconnected, ended } = bench();
  holdings.cover(ONE, A, true);
  const set = holdings.setOf(ONE);
  pass(3_000, [ONE]);
  const cleared = recalls.begin(TWO).clear([name('x')]);
  pass(HOLDING_TAKEOVER_MS - 1_000);
  t.notOk(await isDone(cleared));
  t.equal(holdings.size, 1);
  pass(1_000);
  t.ok(await isDone(cleared));
  t.equal(holdings.size, 0);
  t.not(holdings.setOf(ONE), set);
  t.same(disconnected, [ONE]);
  t.same(ended, [ONE], 'noted for the next master');
  holdings.cover(TWO, A, true);
  pass(HOLDING_TAKEOVER_MS);
  t.ok(await isDone(recalls.begin(THREE).clear([name('x')])), 'who is gone already is not waited for at all');
});

t.test('nobody is given up before that can be noted', async (t) => {
  const bench_ = bench();
  const { holdings, recalls, pass } = bench_;
  holdings.cover(ONE, A, true);
  bench_.hasRoom = false;
  const cleared = recalls.begin(TWO).clear([name('x')]);
  pass(2 * HOLDING_TAKEOVER_MS);
  t.notOk(await isDone(cleared));
  bench_.hasRoom = true;
  pass(1_000);
  t.ok(await isDone(cleared));
});

t.test('who is heard of and does not answer is disconnected, and then as one unheard of', async (t) => {
  const { holdings, recalls, pass, disconnected } = bench();
  holdings.cover(ONE, A, true);
  const set = holdings.setOf(ONE);
  const cleared = recalls.begin(TWO).clear([name('x')]);
  pass(HOLDING_TAKEOVER_MS - 1_000, [ONE]);
  t.same(disconnected, []);
  pass(1_000, [ONE]);
  t.same(disconnected, [ONE]);
  t.not(holdings.setOf(ONE), set, 'back again it learns that nothing stands');
  pass(HOLDING_TAKEOVER_MS - 1_000, [ONE]);
  t.notOk(await isDone(cleared), 'it may believe it yet');
  pass(1_000, [ONE]);
  t.ok(await isDone(cleared));
  t.equal(holdings.size, 0);
});

t.test('who was disconnected and is back knows', async (t) => {
  const { holdings, recalls, pass, peers } = bench();
  holdings.cover(ONE, A, true);
  const cleared = recalls.begin(TWO).clear([name('x')]);
  pass(HOLDING_TAKEOVER_MS, [ONE]);
  peers.set(ONE, new FakePeer());
  pass(1_000, [ONE]);
  t.notOk(await isDone(cleared), 'it is connected');
  recalls.resumed(ONE);
  t.ok(await isDone(cleared), 'and has been told');
  pass(1_000, [ONE]);
  t.ok(holdings.cover(ONE, inodeId(12), true) > 0);
});

t.test('a reconnect during a recall: it is sent again at once', async (t) => {
  const { holdings, recalls, pass, peers, sentTo } = bench();
  holdings.cover(ONE, A, true);
  const cleared = recalls.begin(TWO).clear([name('x')]);
  peers.get(ONE)?.close();
  pass(5_000);
  t.notOk(await isDone(cleared));
  peers.set(ONE, new FakePeer());
  recalls.resumed(ONE);
  t.equal(sentTo(ONE).length, 1);
  sentTo(ONE)[0]?.answer();
  t.ok(await isDone(cleared));
  t.equal(holdings.size, 1, 'the holding goes on');
});

t.test('a session that ends holds nothing', async (t) => {
  const { holdings, recalls } = bench();
  holdings.cover(ONE, A, true);
  const cleared = recalls.begin(TWO).clear([name('x')]);
  recalls.endSession(ONE);
  t.ok(await isDone(cleared));
  t.equal(holdings.size, 0);
});

t.test('a change that is given up waits for nobody; its recall goes on', async (t) => {
  const { holdings, recalls, sentTo, pass } = bench();
  holdings.cover(ONE, A, true);
  const abort = new AbortController();
  const clearing = recalls.begin(TWO, abort.signal);
  const cleared = clearing.clear([name('x')]);
  abort.abort();
  t.ok(await isDone(cleared));
  clearing.end();
  t.ok(holdings.cover(ONE, A, false) > 0);
  t.equal(recalls.waiting, 1, 'who never answers is given up by that');
  pass(RECALL_RESEND_MS, [ONE]);
  t.equal(sentTo(ONE).length, 2);
});

t.test('recalls of one session are bounded', async (t) => {
  const { holdings, recalls, sentTo } = bench();
  holdings.cover(ONE, A, true);
  const cleared: Promise<void>[] = [];
  for (let i = 0; i < MAX_RECALLS_PER_SESSION + 2; i++) cleared.push(recalls.begin(TWO).clear([name(`x${i}`)]));
  await isDone(Promise.resolve());
  t.equal(recalls.waiting, MAX_RECALLS_PER_SESSION);
  sentTo(ONE)[0]?.answer();
  await isDone(Promise.resolve());
  t.equal(recalls.waiting, MAX_RECALLS_PER_SESSION);
});

t.test('after a start nothing is cleared before all have told, or HOLDING_TAKEOVER_MS passed', async (t) => {
  const waits = bench();
  waits.areAllTold = false;
  const cleared = waits.recalls.begin(TWO).clear([]);
  waits.pass(HOLDING_TAKEOVER_MS - 1_000);
  t.notOk(await isDone(cleared));
  waits.pass(1_000);
  t.ok(await isDone(cleared));
  const told = bench();
  told.areAllTold = false;
  const soon = told.recalls.begin(TWO).clear([]);
  told.pass(1_000);
  t.notOk(await isDone(soon));
  told.areAllTold = true;
  told.recalls.tick();
  t.ok(await isDone(soon));
});

function bench(): Bench {
  const made = new Bench();
  return Object.assign(made, { sentTo: made.sentTo.bind(made), pass: made.pass.bind(made) });
}
