/** Locks: the table against a plain map of bytes; fairness, bounds; over reconnects, ends of sessions and restarts. */
import t from 'tap';
import { hasCode } from '../../../src/core/errors.js';
import { inodeId, sessionId } from '../../../src/core/ids.js';
import {
  LOCK_HOLD_BACK_MS,
  MAX_LOCK_WAITS_PER_SESSION,
  MAX_LOCKS_PER_FILE,
  SESSION_TTL_MS,
} from '../../../src/core/limits.js';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import { pick } from '../../../src/core/random.js';
import { LockTable } from '../../../src/master/sessions/locks.js';
import type { LockPlace } from '../../../src/master/sessions/locked-file.js';
import { LockTypeType } from '../../../src/protocol/generated/messages.js';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { seededRandom } from '../../support/seed.js';
import { MasterCluster } from '../support/master-cluster.js';
import type { TestClient } from '../support/master-cluster.js';
import { setAudits } from '../../../src/core/invariant.js';

setAudits(true);
const BYTES = 12;
const inode = inodeId(7);
const place = (session: number, owner: string, on = inode): LockPlace => ({
  ...{ session: sessionId(session), inode: on, kind: 'posix', owner },
});
const range = (type: 'read' | 'write', start = 0, end = MAX_LOCK_END) => ({ type, start, end, pid: 1 });

t.test('locks: random requests equal a map of bytes; whoever waits could not have had it', async (t) => {
  const random = seededRandom(t);
  for (let run = 0; run < 30; run++) {
    const granted = new Set<number>();
    const clock = new ManualClock();
    const table = new LockTable(clock, () => undefined);
    const owners = [1, 2, 3].flatMap((session) => ['a', 'b'].map((owner) => place(session, owner)));
    /** For each owner, what it has of each byte. */
    const bytes = owners.map(() => Array.from({ length: BYTES }, () => ''));
    const waits = new Map<number, { who: number; type: 'read' | 'write'; start: number; end: number }>();
    const paint = (who: number, start: number, end: number, with_: string): void => {
      for (let at = start; at <= end; at++) (bytes[who] ?? [])[at] = with_;
    };
    const isFree = (who: number, type: string, start: number, end: number): boolean =>
      bytes.every((row, other) =>
        row.every(
          (held, at) => other === who || at < start || at > end || held === '' || (held === 'read' && type === 'read'),
        ),
      );
    const takeGrants = (): void => {
      for (const session of [1, 2, 3]) {
        const answer = table.poll(sessionId(session), [], []);
        for (const id of answer.granted) {
          const wait = waits.get(id);
          if (wait === undefined) continue;
          waits.delete(id);
          granted.add(id);
          paint(wait.who, wait.start, wait.end, wait.type);
        }
        table.poll(sessionId(session), [], answer.granted);
      }
    };
    for (let step = 1; step < 200; step++) {
      const who = random.below(owners.length);
      const owner = owners[who] ?? place(1, 'a');
      const [one, two] = [random.below(BYTES), random.below(BYTES)];
      const [start, end] = [Math.min(one, two), Math.max(one, two)];
      const type = pick(random, ['read', 'write'] as const);
      switch (random.below(8)) {
        case 0:
        case 1:
          table.unset(owner, { start, end });
          paint(who, start, end, '');
          break;
        case 2:
          table.release(owner);
          paint(who, 0, BYTES - 1, '');
          for (const [id, wait] of waits) if (wait.who === who) waits.delete(id);
          break;
        case 3: {
          // The order in which grants come must not matter, so waits are compared only when nothing overtakes.
          clock.advance(LOCK_HOLD_BACK_MS);
          const waitId = step;
          try {
            if (table.set(owner, range(type, start, end), waitId)) paint(who, start, end, type);
            else waits.set(waitId, { who, type, start, end });
          } catch (error) {
            if (!hasCode(error, 'EDEADLK')) throw error;
          }
          break;
        }
        case 4: {
          const id = pick(random, [...waits.keys(), 0]);
          if (id !== 0 && !table.cancel(owners[waits.get(id)?.who ?? 0]?.session ?? sessionId(1), id)) waits.delete(id);
          break;
        }
        default: {
          let isGranted = true;
          try {
            table.set(owner, range(type, start, end), 0);
          } catch (error) {
            if (!hasCode(error, 'EAGAIN')) throw error;
            isGranted = false;
          }
          if (isGranted !== isFree(who, type, start, end)) t.fail(`step ${step}: granted ${isGranted}`);
          if (isGranted) paint(who, start, end, type);
        }
      }
      takeGrants();
      clock.advance(LOCK_HOLD_BACK_MS);
      takeGrants();
      for (const { who: waiter, type: wanted, start: from, end: to } of waits.values()) {
        if (isFree(waiter, wanted, from, to)) t.fail(`step ${step}: a wait that could be granted is not`);
      }
      for (let at = 0; at < BYTES; at++) {
        const inTheWay = table.conflict(place(9, 'x'), range('write', at, at))?.range.type ?? '';
        const held = bytes.map((row) => row[at] ?? '');
        if ((inTheWay === '') !== held.every((have) => have === '')) t.fail(`step ${step}, byte ${at}`);
        if (held.filter((have) => have !== '').length > 1 && held.includes('write')) t.fail('one writer');
      }
    }
    for (const session of [1, 2, 3]) table.endSession(sessionId(session));
    t.ok(table.isEmpty, 'nothing is left behind');
  }
});

t.test('locks: readers who keep coming do not starve a writer, and wait no longer than the bound', async (t) => {
  const clock = new ManualClock();
  const table = new LockTable(clock, () => undefined);
  const granted = (session: number): number[] => table.poll(sessionId(session), [], []).granted;
  table.set(place(1, 'a'), range('read'), 0);
  t.notOk(table.set(place(2, 'w'), range('write'), 1), 'the writer waits');
  t.notOk(table.set(place(3, 'b'), range('read'), 2), 'a reader who comes later waits behind it');
  t.ok(table.set(place(1, 'a'), range('read', 5, 9), 3), 'not who the writer waits for');
  t.ok(table.set(place(3, 'c'), range('read'), 0), 'nor who does not want to wait');
  clock.advance(LOCK_HOLD_BACK_MS - 1);
  t.strictSame(granted(3), []);
  clock.advance(1);
  t.strictSame(granted(3), [2], 'not for ever');
  t.notOk(table.set(place(3, 'd'), range('read'), 4));
  table.endSession(sessionId(1));
  table.release(place(3, 'b'));
  table.release(place(3, 'c'));
  t.strictSame(granted(2), [1], 'the writer comes first');
  table.endSession(sessionId(2));
  t.ok(granted(3).includes(4));
});

t.test('locks: bounds of a session', async (t) => {
  const table = new LockTable(new ManualClock(), () => undefined);
  table.set(place(1, 'a'), range('write'), 0);
  for (let id = 1; id <= MAX_LOCK_WAITS_PER_SESSION; id++) table.set(place(2, `w${id}`), range('read'), id);
  t.throws(() => table.set(place(2, 'more'), range('read'), 999_999), { code: 'ENOLCK' });
  table.cancel(sessionId(2), 1);
  t.notOk(table.set(place(2, 'more'), range('read'), 999_999));
});

interface Holder {
  readonly client: TestClient;
  readonly inode: number;
}

const lockMessage = (on: number, type: LockTypeType, owner: string) => ({
  ...{ inode: on, type, start: 0, end: 99, owner, pid: 5 },
});

async function set(cluster: MasterCluster, { client, inode: on }: Holder, owner: string, waitId = 0): Promise<boolean> {
  const lock = lockMessage(on, LockTypeType.WRITE, owner);
  return (await cluster.until(client.peer.call(MASTER_METHODS.setLock, { lock, waitId }))).reply.granted;
}

async function open(cluster: MasterCluster): Promise<[Holder, Holder]> {
  const [one, two] = [await cluster.client(), await cluster.client()];
  const file = await one.create('f', 3);
  await two.create('f', 3);
  return [
    { client: one, inode: file },
    { client: two, inode: file },
  ];
}

t.test('locks: a request costs the same beside ten locks or twenty thousand, of one owner or of many', (t) => {
  const clock = new ManualClock();
  /** Milliseconds for 500 requests of an owner on a file where `count` ranges are held. */
  const cost = (count: number, owners: number): number => {
    const table = new LockTable(clock, () => undefined);
    for (let i = 0; i < count; i++) table.set(place(1, `o${i % owners}`), range('read', 4 * i, 4 * i), 0);
    let best = Infinity;
    for (let round = 0; round < 5; round++) {
      const started = performance.now();
      for (let i = 0; i < 250; i++) {
        const at = 4 * ((i * 7919) % count) + 2;
        table.set(place(1, 'o0'), range('write', at, at), 0);
        table.unset(place(1, 'o0'), { start: at, end: at });
        table.conflict(place(2, 'other'), range('write', at - 3, at));
      }
      best = Math.min(best, performance.now() - started);
    }
    return best;
  };
  cost(1_000, 10); // for the compiler
  for (const owners of [1, 20_000]) {
    const [few, many] = [cost(10, Math.min(10, owners)), cost(20_000, owners)];
    t.ok(
      many < 8 * few + 5,
      `${owners} owners: ${few.toFixed(1)} ms beside 10 locks, ${many.toFixed(1)} ms beside 20,000`,
    );
  }
  t.end();
});

t.test('locks: a file has no more than its bound, whoever holds them, and unlocking goes on', (t) => {
  const table = new LockTable(new ManualClock(), () => undefined);
  for (let i = 0; i < MAX_LOCKS_PER_FILE; i++) table.set(place(1 + (i % 2), 'o'), range('read', 2 * i, 2 * i), 0);
  t.throws(() => table.set(place(3, 'o'), range('read'), 0), { code: 'ENOLCK' });
  t.equal(table.set(place(1, 'o'), range('read', 0, 1), 0), true, 'one that takes no more room');
  t.equal(table.set(place(3, 'o', inodeId(8)), range('read'), 0), true, 'another file');
  table.unset(place(1, 'o'), { start: 0, end: 0 });
  table.unset(place(1, 'o'), { start: 1, end: 1 });
  t.equal(table.set(place(3, 'o'), range('read'), 0), true);
  for (const session of [1, 2, 3]) table.endSession(sessionId(session));
  t.ok(table.isEmpty);
  t.end();
});

t.test('locks: thousands that wait for one byte are granted in turn, or together, in a moment', (t) => {
  const clock = new ManualClock();
  const granted: number[] = [];
  const table = new LockTable(clock, (session) => void granted.push(session));
  const started = performance.now();
  table.set(place(1, 'holder'), range('write'), 0);
  for (let i = 1; i <= 2_000; i++) t.equal(table.set(place(2, `r${i}`), range('read'), i) ? 'had' : 'waits', 'waits');
  for (let i = 1; i <= 500; i++) table.set(place(3, `w${i}`), range('write'), i);
  table.release(place(1, 'holder'));
  t.equal(granted.length, 2_000, 'all readers at once');
  for (let i = 1; i <= 2_000; i++) table.release(place(2, `r${i}`));
  for (let i = 1; i <= 500; i++) {
    t.equal(granted.length, 2_000 + i, 'one writer after another');
    table.release(place(3, `w${i}`));
  }
  t.ok(table.isEmpty);
  t.ok(performance.now() - started < 5_000, `${Math.round(performance.now() - started)} ms`);
  t.end();
});

t.test('locks: they end with the last close and with the session, and a poll tells who waits', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const [one, two] = await open(cluster);
  t.ok(await set(cluster, one, 'a'));
  t.notOk(await set(cluster, two, 'b', 11));
  const { peer } = two.client;
  const empty = await cluster.until(peer.call(MASTER_METHODS.pollLocks, { waitIds: [11] }));
  t.strictSame([empty.reply.granted, empty.reply.unknown], [[], []], 'answered without a grant, within the deadline');
  const poll = peer.call(MASTER_METHODS.pollLocks, { waitIds: [11] });
  await cluster.until(one.client.peer.call(MASTER_METHODS.close, { inode: one.inode, readers: 1, writers: 1 }));
  t.strictSame((await cluster.until(poll)).reply.granted, [11]);
  await t.rejects(set(cluster, one, 'a'), { code: 'EBADF' }, 'a lock needs an open file');

  await one.client.create('f', 3);
  t.notOk(await set(cluster, one, 'a', 5));
  const waiting = one.client.peer.call(MASTER_METHODS.pollLocks, { waitIds: [5, 6] });
  t.strictSame((await cluster.until(waiting)).reply.unknown, [6], 'a wait that the master does not know');
  await cluster.until(two.client.peer.call(MASTER_METHODS.closeSession, {}));
  const again = one.client.peer.call(MASTER_METHODS.pollLocks, { waitIds: [5] });
  t.strictSame((await cluster.until(again)).reply.granted, [5]);
  await cluster.stop();
});

t.test('locks: a session that dies gives its locks up, and not before', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const [one, two] = await open(cluster);
  t.ok(await set(cluster, one, 'a'));
  one.client.peer.close('its machine is gone');
  for (let passed = 0; passed < SESSION_TTL_MS - 5_000; passed += 5_000) {
    await cluster.wait(5_000);
    await t.rejects(set(cluster, two, 'b'), { code: 'EAGAIN' });
  }
  await cluster.wait(10_000);
  t.ok(await set(cluster, two, 'b'));
  await cluster.stop();
});

t.test('locks: after a restart none is granted until all have told theirs, or have ended', async (t) => {
  const cluster = new MasterCluster();
  await cluster.start(0);
  const [one, two] = await open(cluster);
  t.ok(await set(cluster, one, 'a'));
  await cluster.restartMaster('kill');
  const opens = [{ inode: one.inode, readers: 1, writers: 1 }];
  const back = { ...two, client: await cluster.client(two.client.sessionId) };
  await cluster.until(back.client.peer.call(MASTER_METHODS.reclaim, { opens, done: true }));
  await t.rejects(set(cluster, back, 'b'), { code: 'UNAVAILABLE' }, 'the holder is not back yet');
  const holder = { ...one, client: await cluster.client(one.client.sessionId) };
  const locks = [lockMessage(one.inode, LockTypeType.WRITE, 'a')];
  await cluster.until(holder.client.peer.call(MASTER_METHODS.reclaim, { opens }));
  await cluster.until(holder.client.peer.call(MASTER_METHODS.reclaim, { locks, done: true }));
  await t.rejects(set(cluster, back, 'b'), { code: 'EAGAIN' }, 'the lock stands');

  await cluster.restartMaster('kill');
  const third = { ...two, client: await cluster.client(two.client.sessionId) };
  await cluster.until(third.client.peer.call(MASTER_METHODS.reclaim, { opens, done: true }));
  for (let passed = 0; passed < SESSION_TTL_MS - 10_000; passed += 5_000) {
    await cluster.wait(5_000);
    await t.rejects(set(cluster, third, 'b'), { code: 'UNAVAILABLE' });
  }
  await cluster.wait(12_000);
  t.ok(await set(cluster, third, 'b'), 'the holder ended');
  await cluster.stop();
});

t.test(
  'locks: what a client tells again replaces what was known; a session cannot take what another holds',
  async (t) => {
    const cluster = new MasterCluster();
    await cluster.start(0);
    const [one, two] = await open(cluster);
    t.ok(await set(cluster, one, 'a'));
    t.notOk(await set(cluster, two, 'b', 3));
    const opens = [{ inode: one.inode, readers: 1, writers: 1 }];
    const back = { ...one, client: await cluster.client(one.client.sessionId) };
    await cluster.until(back.client.peer.call(MASTER_METHODS.reclaim, { opens, done: true }));
    const poll = await cluster.until(two.client.peer.call(MASTER_METHODS.pollLocks, { waitIds: [3] }));
    t.strictSame(poll.reply.granted, [3], 'the lock that was not told again is free');
    const locks = [lockMessage(one.inode, LockTypeType.WRITE, 'a')];
    const lost = back.client.peer.call(MASTER_METHODS.reclaim, { opens, locks, done: true });
    await t.rejects(cluster.until(lost), { code: 'SESSION_EXPIRED' });
    await cluster.stop();
  },
);
