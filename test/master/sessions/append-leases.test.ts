/** Who may append to a file: the table of append leases, with a clock that the test moves. */
import t from 'tap';
import type { Test } from 'tap';
import { inodeId, sessionId } from '../../../src/core/ids.js';
import type { SessionId } from '../../../src/core/ids.js';
import { CairnError } from '../../../src/core/errors.js';
import { APPEND_TAKEOVER_MS, LOCK_POLL_MS } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { deferred } from '../../../src/core/sync.js';
import { AppendLeases } from '../../../src/master/sessions/append-leases.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryTaken } from '../../support/fakes/memory-taken.js';

const INODE = inodeId(7);
const [ONE, TWO, THREE] = [sessionId(1), sessionId(2), sessionId(3)];

class Bench {
  readonly clock = new ManualClock();
  readonly silent = new Map<SessionId, number>();
  readonly log: string[] = [];
  isGraceOver = true;
  fenced: Promise<void> = Promise.resolve();
  readonly appends = new AppendLeases({
    ...{ clock: this.clock, logger: silentLogger },
    silentMs: (session) => this.silent.get(session) ?? 0,
    isGraceOver: () => this.isGraceOver,
    disconnect: (session) => this.log.push(`disconnect ${session}`),
    onLost: () => undefined,
    taken: new MemoryTaken(),
    fence: async (inode) => {
      this.log.push(`fence ${inode}`);
      await this.fenced;
    },
  });
  readonly never = new AbortController().signal;

  acquire(session: SessionId): Promise<boolean> {
    return this.appends.acquire(session, INODE, this.never);
  }
}

/** Whether `promise` has settled once all that can happen without time has happened. */
async function isDone(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  void promise.then(() => (done = true));
  for (let i = 0; i < 20; i++) await Promise.resolve();
  return done;
}

t.test('one holder; who waits gets it in turn, and the holder is told', async (t) => {
  const { appends, acquire, never } = bench(t);
  t.equal(await acquire(ONE), true);
  t.equal(appends.take(ONE, INODE), true, 'again');
  t.equal(appends.take(TWO, INODE), false);
  const poll = appends.poll(ONE, [], never);
  t.notOk(await isDone(poll));
  const [two, three] = [acquire(TWO), acquire(THREE)];
  t.same(await poll, [INODE]);
  const next = appends.poll(ONE, [INODE], never);
  t.notOk(await isDone(next), 'told once');
  appends.release(TWO, INODE);
  t.notOk(await isDone(two), 'only the holder gives it up');
  appends.release(ONE, INODE);
  t.equal(await two, true);
  t.notOk(await isDone(three));
  t.same(await appends.poll(TWO, [], never), [INODE], 'somebody waits already');
  appends.closeInode(TWO, INODE);
  t.equal(await three, true);
  appends.endSession(THREE, true);
  t.ok(appends.isEmpty);
});

t.test('a wait ends by itself, and with its request', async (t) => {
  const { appends, acquire, clock } = bench(t);
  await acquire(ONE);
  const waiting = acquire(TWO);
  clock.advance(LOCK_POLL_MS);
  t.equal(await waiting, false);
  const abort = new AbortController();
  const second = appends.acquire(TWO, INODE, abort.signal);
  abort.abort();
  t.equal(await second, false);
  appends.release(ONE, INODE);
  t.ok(appends.isEmpty, 'granted to nobody');
});

t.test('a session that comes to hold the lease while it waits for a turn has that at once', async (t) => {
  const { appends, acquire } = bench(t);
  await acquire(ONE);
  const two = acquire(TWO);
  const turns = [ONE, TWO, THREE, TWO].map((session) => Promise.resolve(appends.turn(session, INODE, 'cut')));
  const [ownOfOne, first, other, second] = turns;
  if (ownOfOne === undefined || first === undefined || other === undefined || second === undefined) return;
  (await ownOfOne)();
  appends.release(ONE, INODE);
  t.equal(await two, true);
  t.ok(await isDone(first), 'what it appends may wait for the turn');
  t.ok(await isDone(second));
  t.notOk(await isDone(other));
  appends.release(TWO, INODE);
  (await first)();
  t.notOk(await isDone(other), 'both are over before others begin');
  (await second)();
  (await other)();
  t.ok(appends.isEmpty);
});

t.test('a change of the size takes its turn', async (t) => {
  const { appends, acquire } = bench(t);
  const first = appends.turn(TWO, INODE, 'cut');
  if (typeof first !== 'function') throw new Error('nobody appends: there is nothing to wait for');
  t.equal(appends.take(ONE, INODE), false, 'nobody may begin to append at an end that is being moved');
  first();
  t.ok(appends.isEmpty);
  await acquire(ONE);
  const own = appends.turn(ONE, INODE, 'cut');
  if (typeof own !== 'function') throw new Error('the holder does not wait');
  const turn = appends.turn(TWO, INODE, 'cut');
  const later = acquire(THREE);
  if (!(turn instanceof Promise)) throw new Error('it is to wait');
  t.notOk(await isDone(turn));
  appends.release(ONE, INODE);
  t.notOk(await isDone(turn), 'its own change is under way');
  own();
  const done = await turn;
  t.notOk(await isDone(later), 'nobody appends meanwhile');
  t.equal(appends.take(ONE, INODE), false);
  done();
  t.equal(await later, true);
});

t.test(
  'P11: the lease of a client that went goes on once it is fenced off; what it tells later comes too late',
  async (t) => {
    const { appends, acquire, silent, log } = bench(t);
    await acquire(ONE);
    silent.set(ONE, APPEND_TAKEOVER_MS);
    appends.tick();
    t.same(log, [], 'nobody waits for it');
    const two = acquire(TWO);
    appends.tick();
    t.same(log, [`disconnect ${ONE}`, `fence ${INODE}`]);
    t.equal(await two, true);
    silent.set(ONE, 0);
    appends.release(TWO, INODE);
    t.same(appends.replace(ONE, [INODE]), [INODE], 'also when nobody has it by then');
    t.same(appends.replace(ONE, [INODE]), [INODE], 'nor when that answer did not reach it');
    t.same(appends.replace(ONE, []), []);
    t.equal(await acquire(ONE), true);
    t.same(appends.replace(ONE, [INODE]), [], 'its own again');
    appends.endSession(ONE, false);
    t.equal(log.length, 4, 'a session that ends in doubt is fenced off too');
  },
);

t.test(
  'P7: after a restart too, what a client tells comes too late again when the first answer was lost',
  async (t) => {
    const { appends, acquire, clock, bench: b } = bench(t);
    b.isGraceOver = false;
    clock.advance(APPEND_TAKEOVER_MS);
    t.equal(await acquire(TWO), true);
    t.same(appends.replace(ONE, [INODE]), [INODE]);
    appends.release(TWO, INODE);
    b.isGraceOver = true;
    appends.tick();
    t.same(appends.replace(ONE, [INODE]), [INODE]);
  },
);

t.test('P2: while a client is fenced off nobody appends, though it comes back, or ends', async (t) => {
  const back: Record<string, (appends: AppendLeases) => void> = {
    'it tells what it held': (appends) => t.same(appends.replace(ONE, [INODE]), [INODE], 'others are about to append'),
    'it holds nothing any more': (appends) => t.same(appends.replace(ONE, []), []),
    'it closes the file': (appends) => appends.closeInode(ONE, INODE),
    'its session is closed': (appends) => appends.endSession(ONE, true),
  };
  for (const [what, comeBack] of Object.entries(back)) {
    const { appends, acquire, silent, bench: b } = bench(t);
    const fenced = deferred<void>();
    b.fenced = fenced.promise;
    await acquire(ONE);
    silent.set(ONE, APPEND_TAKEOVER_MS);
    const two = acquire(TWO);
    appends.tick();
    silent.set(ONE, 0);
    comeBack(appends);
    t.notOk(await isDone(two), `${what}: its bytes may still be on their way`);
    fenced.resolve();
    t.equal(await two, true, what);
    t.ok(appends.take(TWO, INODE), 'and has it still');
    t.notOk(await isDone(acquire(THREE)), 'alone');
  }
});

t.test('P11: who is back while it is fenced off is fenced again when that failed', async (t) => {
  const { appends, acquire, silent, log, bench: b } = bench(t);
  const fenced = deferred<void>();
  b.fenced = fenced.promise;
  await acquire(ONE);
  silent.set(ONE, APPEND_TAKEOVER_MS);
  const two = acquire(TWO);
  appends.tick();
  silent.set(ONE, 0);
  t.same(appends.replace(ONE, [INODE]), [INODE]);
  fenced.reject(new CairnError('UNAVAILABLE', 'no chunkserver answers'));
  t.notOk(await isDone(two));
  b.fenced = Promise.resolve();
  appends.tick();
  t.equal(await two, true);
  t.same(log, [`disconnect ${ONE}`, `fence ${INODE}`, `fence ${INODE}`], 'it knows already');
});

t.test('nothing is granted to a session that has ended', async (t) => {
  const { appends, acquire } = bench(t);
  await acquire(ONE);
  const two = acquire(TWO);
  const three = acquire(THREE);
  appends.endSession(TWO, false);
  t.equal(await two, false);
  appends.release(ONE, INODE);
  t.equal(await three, true);
});

t.test('P10: after a restart clients tell what they hold before others get it', async (t) => {
  const { appends, acquire, bench: b } = bench(t, false);
  const two = acquire(TWO);
  t.notOk(await isDone(two));
  t.same(appends.replace(ONE, [INODE]), []);
  t.same(await appends.poll(ONE, [], new AbortController().signal), [INODE], 'it is told at once that another waits');
  b.isGraceOver = true;
  appends.tick();
  t.notOk(await isDone(two), 'held by another');
  appends.release(ONE, INODE);
  t.equal(await two, true);

  const late = bench(t, false);
  const wait = late.acquire(TWO);
  late.clock.advance(LOCK_POLL_MS);
  t.equal(await wait, false);
  late.clock.advance(APPEND_TAKEOVER_MS);
  t.equal(await late.acquire(TWO), true, 'not for ever');
  late.appends.release(TWO, INODE);
  t.same(late.appends.replace(ONE, [INODE]), [INODE], 'too late');
});

function bench(_t: Test, settled = true) {
  const b = new Bench();
  b.isGraceOver = settled;
  const { appends, clock, silent, log, never } = b;
  return { bench: b, appends, clock, silent, log, never, acquire: (session: SessionId) => b.acquire(session) };
}
