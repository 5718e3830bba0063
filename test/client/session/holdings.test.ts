/** What a client holds: for how long it may believe what it was told, and what ends that. */
import t from 'tap';
import { Holdings, Moments } from '../../../src/client/session/holdings.js';
import { inodeId } from '../../../src/core/ids.js';
import { HOLDING_TAKEOVER_MS, HOLDING_VALID_MS } from '../../../src/core/limits.js';
import type { Timespec } from '../../../src/core/clock.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const DIRECTORY = inodeId(7);

function make(maxHeld?: number): { clock: ManualClock; moments: Moments; holdings: Holdings } {
  const [clock, moments] = [new ManualClock(), new Moments()];
  return { clock, moments, holdings: new Holdings(clock, moments, true, maxHeld) };
}

t.test('what is held is believed for a while after a heartbeat was sent that was answered', async (t) => {
  const { clock, moments, holdings } = make();
  const holding = holdings.take(DIRECTORY, 1, moments.now());
  if (holding === undefined) throw new Error('not taken');
  t.notOk(holdings.isGood(holding), 'before the first');
  const answered = holdings.asking();
  clock.advance(3_000);
  answered();
  t.equal(holdings.validMs, HOLDING_VALID_MS - 3_000, 'it counts from when it was sent');
  t.ok(holdings.isGood(holding));
  clock.advance(HOLDING_VALID_MS - 3_001);
  t.ok(holdings.isGood(holding));
  clock.advance(1);
  t.notOk(holdings.isGood(holding));
  t.ok(HOLDING_VALID_MS < HOLDING_TAKEOVER_MS);
  holdings.asking()();
  t.ok(holdings.isGood(holding), 'the master has not given this client up meanwhile');
});

t.test('a machine that was suspended stops to believe, though its monotonic clock stood still', async (t) => {
  let suspendedMs = 0;
  class Suspended extends ManualClock {
    override now(): Timespec {
      const { seconds, nanoseconds } = super.now();
      return { seconds: seconds + suspendedMs / 1000, nanoseconds };
    }
  }
  const holdings = new Holdings(new Suspended(), new Moments(), true);
  const holding = holdings.take(DIRECTORY, 1, 0);
  if (holding === undefined) throw new Error('not taken');
  holdings.asking()();
  t.ok(holdings.isGood(holding));
  suspendedMs = HOLDING_VALID_MS;
  t.notOk(holdings.isGood(holding));
  suspendedMs = -3_600_000;
  t.ok(holdings.validMs <= HOLDING_VALID_MS, 'a clock that was set back allows no more than the monotonic one');
});

t.test('an answer to what was asked before a holding ended does not bring it back', async (t) => {
  for (const end of [
    ({ holdings }: ReturnType<typeof make>) => holdings.end(DIRECTORY),
    ({ holdings }: ReturnType<typeof make>) => holdings.endAll(),
  ]) {
    const made = make();
    const { holdings, moments } = made;
    const asked = moments.now();
    const holding = holdings.take(DIRECTORY, 1, asked);
    end(made);
    t.equal(holding?.stands, false);
    t.equal(holdings.take(DIRECTORY, 2, asked), undefined, 'the recall overtook the answer');
    t.ok(holdings.take(DIRECTORY, 3, moments.now()), 'asked afterwards');
  }
});

t.test('under another grant than the one that stands nothing is believed, nor without any', async (t) => {
  const { holdings, moments } = make();
  const holding = holdings.take(DIRECTORY, 4, moments.now());
  t.equal(holdings.take(DIRECTORY, 4, moments.now()), holding);
  t.equal(holdings.take(DIRECTORY, 5, moments.now()), undefined);
  t.equal(holdings.take(inodeId(8), 0, moments.now()), undefined);
  t.equal(new Holdings(new ManualClock(), moments, false).take(DIRECTORY, 4, 0), undefined, 'not wanted');
});

t.test('of too many those that were not used are given back, when no kernel believes them any more', async (t) => {
  const { clock, holdings, moments } = make(8);
  holdings.asking()();
  const first = holdings.take(inodeId(1), 1, moments.now());
  if (first === undefined) throw new Error('not taken');
  for (let n = 2; n <= 8; n++) {
    holdings.take(inodeId(n), n, moments.now());
    t.ok(holdings.isGood(first), 'it is used');
  }
  t.ok(holdings.size <= 8);
  t.same(holdings.takeReleased(), [], 'not before');
  clock.advance(HOLDING_VALID_MS);
  const asked = moments.now();
  const released = holdings.takeReleased();
  t.ok(released.length > 0 && released.every(({ inode, grant }) => inode === grant && inode !== 1));
  const [given] = released;
  t.equal(
    holdings.take(inodeId(given?.inode ?? 0), given?.grant ?? 0, asked),
    undefined,
    'told before the master heard of it',
  );
  t.same(holdings.takeReleased(), [], 'once');
});

t.test('what is asked for again before it is given back is kept', async (t) => {
  const { clock, holdings, moments } = make(4);
  for (let n = 1; n <= 4; n++) holdings.take(inodeId(n), n, moments.now());
  t.ok(holdings.take(inodeId(1), 1, moments.now()), 'told under the same grant');
  clock.advance(HOLDING_VALID_MS);
  t.notOk(holdings.takeReleased().some(({ inode }) => inode === 1));
});

t.test('a new master is told what is held; one that gave this client up has nothing of it', async (t) => {
  const { holdings, moments } = make(4);
  t.equal(holdings.standing(5, true), 'all stand', 'there is none');
  holdings.knownAs(5);
  const held = [1, 2, 3, 4].map((n) => holdings.take(inodeId(n), n, moments.now()));
  t.equal(holdings.standing(5, false), 'all stand');
  t.equal(holdings.standing(6, true), 'to be told');
  const told = holdings.inodes();
  t.same([...told].sort(), [1, 2, 3, 4], 'those that are to be given back, too: a kernel believes them yet');
  const ended = holdings.granted(
    told,
    told.map((inode) => (inode === 4 ? 0 : inode + 10)),
  );
  t.same(ended, [4], 'refused');
  t.equal(held[3]?.stands, false);
  t.equal(held[2]?.grant, 13, 'what was told under it stands under the new grant');
  t.equal(holdings.standing(6, false), 'none stands', 'the connection broke before all were told');
  holdings.knownAs(6);
  t.equal(holdings.standing(6, false), 'all stand');
  t.equal(holdings.standing(7, false), 'none stands');
});
