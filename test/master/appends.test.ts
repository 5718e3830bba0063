/** Who may append to a file: the table of append leases, with a clock that the test moves. */
import t from 'tap';
import type { Test } from 'tap';
import { inodeId, sessionId } from '../../src/core/ids.js';
import type { SessionId } from '../../src/core/ids.js';
import { APPEND_TAKEOVER_MS, LOCK_POLL_MS } from '../../src/core/limits.js';
import { silentLogger } from '../../src/core/logger.js';
import { AppendLeases } from '../../src/master/appends.js';
import { ManualClock } from '../support/manual-clock.js';

const INODE = inodeId(7);
const [ONE, TWO, THREE] = [sessionId(1), sessionId(2), sessionId(3)];

class Bench {
  readonly clock = new ManualClock();
  readonly silent = new Map<SessionId, number>();
  readonly log: string[] = [];
  settled = true;
  readonly appends = new AppendLeases({
    ...{ clock: this.clock, logger: silentLogger },
    silentMs: (session) => this.silent.get(session) ?? 0,
    isSettled: () => this.settled,
    disconnect: (session) => this.log.push(`disconnect ${session}`),
    fence: async (inode) => {
      this.log.push(`fence ${inode}`);
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

t.test('a change of the size takes its turn', async (t) => {
  const { appends, acquire } = bench(t);
  t.equal(appends.turn(TWO, INODE), undefined, 'nobody appends');
  await acquire(ONE);
  t.equal(appends.turn(ONE, INODE), undefined, 'the holder itself');
  const turn = appends.turn(TWO, INODE);
  const later = acquire(THREE);
  if (turn === undefined) throw new Error('it is to wait');
  t.notOk(await isDone(turn));
  appends.release(ONE, INODE);
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
    t.same(appends.replace(ONE, []), []);
    t.equal(await acquire(ONE), true);
    t.same(appends.replace(ONE, [INODE]), [], 'its own again');
    appends.endSession(ONE, false);
    t.equal(log.length, 4, 'a session that ends in doubt is fenced off too');
  },
);

t.test('P10: after a restart clients tell what they hold before others get it', async (t) => {
  const { appends, acquire, bench: b } = bench(t, false);
  const two = acquire(TWO);
  t.notOk(await isDone(two));
  t.same(appends.replace(ONE, [INODE]), []);
  b.settled = true;
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
  b.settled = settled;
  const { appends, clock, silent, log, never } = b;
  return { bench: b, appends, clock, silent, log, never, acquire: (session: SessionId) => b.acquire(session) };
}
