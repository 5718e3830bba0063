/** Who holds what: grants, what they cover, their bounds, and what is not granted for a while. */
import t from 'tap';
import { inodeId, sessionId } from '../../../src/core/ids.js';
import {
  HOLDING_CALM_MAX_MS,
  HOLDING_CALM_MIN_MS,
  HOLDING_RESTLESS_MS,
  MAX_HOLDERS,
  MAX_PARTIAL_RECALLS,
} from '../../../src/core/limits.js';
import { SeededRandom } from '../../../src/core/random.js';
import { Holdings } from '../../../src/master/sessions/holdings.js';
import type { Holder } from '../../../src/master/sessions/holdings.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const [ONE, TWO] = [sessionId(1), sessionId(2)];
const [A, B, C] = [inodeId(11), inodeId(12), inodeId(13)];

function bench(bounds: { readonly maxHoldings?: number; readonly maxPerSession?: number } = {}) {
  const clock = new ManualClock();
  return { clock, holdings: new Holdings({ clock, random: new SeededRandom(1), ...bounds }) };
}

function holderOf(holdings: Holdings, session: typeof ONE, inode: typeof A): Holder {
  const holder = holdings.othersOf(inode, undefined).find((one) => one.session === session);
  if (holder === undefined) throw new Error('it holds nothing');
  return holder;
}

t.test('a holding is granted to who asks for it, and covers from then on', async (t) => {
  const { holdings } = bench();
  t.equal(holdings.cover(ONE, A, false), 0);
  t.equal(holdings.size, 0);
  const grant = holdings.cover(ONE, A, true);
  t.ok(grant > 0);
  t.equal(holdings.cover(ONE, A, false), grant);
  t.equal(holdings.cover(ONE, A, true), grant, 'the same');
  t.equal(holdings.cover(TWO, A, false), 0);
  t.notOk(holdings.isHeldByOthers(A, ONE));
  t.ok(holdings.isHeldByOthers(A, TWO));
  t.ok(holdings.isHeldByOthers(A, undefined), 'the master is another');
  t.ok(holdings.cover(TWO, A, true) > grant, 'any number hold the same');
});

t.test('what is pending is covered for nobody, and not granted', async (t) => {
  const { holdings } = bench();
  const grant = holdings.cover(ONE, A, true);
  holdings.mark(A);
  holdings.mark(A);
  t.equal(holdings.cover(ONE, A, true), 0);
  t.equal(holdings.cover(TWO, A, true), 0);
  t.ok(holdings.cover(TWO, B, true) > 0);
  holdings.unmark(A);
  t.equal(holdings.cover(ONE, A, true), 0, 'another change waits');
  holdings.unmark(A);
  t.equal(holdings.cover(ONE, A, true), grant, 'the holding went on');
});

t.test('a release ends the holding with its number, and no other', async (t) => {
  const { holdings } = bench();
  const first = holdings.cover(ONE, A, true);
  holdings.release(ONE, A, first + 1);
  t.equal(holdings.size, 1);
  holdings.release(ONE, A, first);
  t.equal(holdings.size, 0);
  const second = holdings.cover(ONE, A, true);
  t.ok(second > first);
  holdings.release(ONE, A, first);
  t.equal(holdings.cover(ONE, A, false), second, 'a release that came late');
});

t.test('bounds: over them nothing is granted, and what is held stays', async (t) => {
  const { holdings } = bench({ maxHoldings: 3, maxPerSession: 2 });
  t.ok(holdings.cover(ONE, A, true) > 0);
  t.ok(holdings.cover(ONE, B, true) > 0);
  t.equal(holdings.cover(ONE, C, true), 0, 'of a session');
  t.ok(holdings.cover(TWO, A, true) > 0);
  t.equal(holdings.cover(TWO, B, true), 0, 'of all');
  t.ok(holdings.cover(ONE, A, true) > 0);
  holdings.endSession(ONE);
  t.ok(holdings.cover(TWO, B, true) > 0, 'there is room again');

  const crowd = bench().holdings;
  for (let i = 1; i <= MAX_HOLDERS; i++) t.ok(crowd.cover(sessionId(i), A, true) > 0);
  t.equal(crowd.cover(sessionId(MAX_HOLDERS + 1), A, true), 0, 'of one inode');
  t.ok(crowd.cover(sessionId(1), A, true) > 0);
});

/** Recalls parts of it until all of it is to go. */
function recallWhole(holdings: Holdings, session: typeof ONE, inode: typeof A): void {
  const holder = holderOf(holdings, session, inode);
  while (!holdings.notePartial(holder));
  holdings.end(holder);
}

t.test('a holding of which parts are recalled again and again is recalled whole', async (t) => {
  const { holdings, clock } = bench();
  holdings.cover(ONE, A, true);
  const holder = holderOf(holdings, ONE, A);
  for (let i = 1; i < MAX_PARTIAL_RECALLS; i++) t.notOk(holdings.notePartial(holder));
  clock.advance(HOLDING_RESTLESS_MS);
  for (let i = 1; i < MAX_PARTIAL_RECALLS; i++) t.notOk(holdings.notePartial(holder), 'counted anew');
  t.ok(holdings.notePartial(holder));
  t.equal(holdings.cover(ONE, A, true), 0, 'covers nothing until the answer');
  t.ok(holdings.isHeldByOthers(A, TWO), 'which others wait for');
});

t.test('what comes and goes is not granted for a while, and longer each time', async (t) => {
  const { holdings, clock } = bench();
  let calmMs = HOLDING_CALM_MIN_MS;
  for (let round = 0; round < 8; round++) {
    for (const session of [ONE, TWO]) {
      t.ok(holdings.cover(session, A, true) > 0);
      recallWhole(holdings, session, A);
    }
    t.equal(holdings.cover(ONE, A, true), 0);
    t.ok(holdings.cover(ONE, B, true) > 0, 'others are');
    clock.advance(calmMs - 1);
    t.equal(holdings.cover(ONE, A, true), 0);
    clock.advance(1);
    calmMs = Math.min(2 * calmMs, HOLDING_CALM_MAX_MS);
  }
  t.equal(calmMs, HOLDING_CALM_MAX_MS);
  clock.advance(HOLDING_CALM_MAX_MS);
  for (const session of [ONE, TWO]) {
    t.ok(holdings.cover(session, A, true) > 0);
    recallWhole(holdings, session, A);
  }
  clock.advance(HOLDING_CALM_MIN_MS);
  t.ok(holdings.cover(ONE, A, true) > 0, 'after a calm time it begins anew');
});

t.test('all holdings of a session end at once: the set is another one', async (t) => {
  const { holdings } = bench();
  holdings.cover(ONE, A, true);
  holdings.cover(ONE, B, true);
  holdings.cover(TWO, A, true);
  const set = holdings.setOf(ONE);
  t.equal(holdings.setOf(ONE), set);
  holdings.endAll(ONE);
  t.not(holdings.setOf(ONE), set);
  t.equal(holdings.size, 1);

  holdings.cover(ONE, A, true);
  const second = holdings.setOf(ONE);
  holdings.dismiss(ONE);
  const third = holdings.setOf(ONE);
  t.not(third, second);
  t.ok(holdings.isHeldByOthers(A, TWO), 'it may believe it yet');
  t.equal(holdings.cover(ONE, A, true), 0);
  t.equal(holdings.cover(ONE, C, true), 0, 'nothing is granted meanwhile');
  holdings.endAll(ONE);
  t.equal(holdings.setOf(ONE), third, 'which it was told of');
  t.ok(holdings.cover(ONE, C, true) > 0);
});
