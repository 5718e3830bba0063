/**
 * The master's disk is full: what grows the namespace is refused with ENOSPC at once, the rest goes on from the reserve,
 * nothing is lost or done in part, and all is well without a restart when there is space again. A sync that failed is
 * believed by nobody.
 */
import t from 'tap';
import { CairnError } from '../../../src/core/errors.js';
import { KIB, MIB } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { SeededRandom } from '../../../src/core/random.js';
import { prefixRange } from '../../../src/master/state/keys.js';
import { LogState } from '../../../src/master/state/log-state.js';
import type { LogStateOptions } from '../../../src/master/state/log-state.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import { OperationLog } from '../../../src/master/log/operation-log.js';
import type { Key, NewValue, StoreChange } from '../../../src/master/store/store.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';
import { seededRandom } from '../../support/seed.js';

const RESERVE = 256 * KIB;
const RESERVE_FILE = 'log/reserve';

/** A database that finds no space, or whose disk errs. */
class TroubledStore extends MemoryStore {
  isFull = false;
  readonly errors: CairnError[] = [];
  tries = 0;

  override commit(changes: Iterable<StoreChange>): Promise<void> {
    this.tries++;
    const error = this.errors.shift() ?? (this.isFull ? new CairnError('ENOSPC', 'planted') : undefined);
    return error === undefined ? super.commit(changes) : Promise.reject(error);
  }
}

interface Fixture {
  readonly options: LogStateOptions;
  readonly store: TroubledStore;
  readonly disk: CrashDisk;
  readonly clock: ManualClock;
  readonly failures: CairnError[];
}

function fixture(more: Partial<LogStateOptions> = {}): Fixture {
  const [store, disk, clock] = [new TroubledStore(), new CrashDisk(new SeededRandom(3)), new ManualClock()];
  disk.capacity = 8 * MIB;
  const failures: CairnError[] = [];
  const options = {
    ...{ store, disk, clock, directory: 'log', logger: silentLogger, reserveBytes: RESERVE },
    bootNotes: new MemoryNotes(),
    onFailure: (error: CairnError) => void failures.push(error),
    ...more,
  };
  return { options, store, disk, clock, failures };
}

async function settle(): Promise<void> {
  for (let i = 0; i < 500; i++) await Promise.resolve();
}

const inode = (number: number): Key => `I${String(number).padStart(6, '0')}`;
const create = (state: LogState, number: number): void =>
  state.mutate((m) => m.put(inode(number), Buffer.alloc(80, number % 256)));
const remove = (state: LogState, number: number): void => state.mutate((m) => m.delete(inode(number)));
const count = (state: LogState): number => [...state.range(prefixRange('I'))].length;

void t.test('P10: what a full disk took of a record is cut off before the next, whatever comes then', async (test) => {
  const random = seededRandom(test);
  for (let round = 0; round < 40; round++) {
    const disk = new CrashDisk(random);
    const failures: CairnError[] = [];
    const open = (replayed: string[]): Promise<OperationLog> =>
      OperationLog.open({
        // Each its own process: what the old one had begun does not go on after its death.
        ...{ disk: disk.forProcess(), directory: 'log', logger: silentLogger, checkpoint: 0, segmentBytes: 2_000 },
        apply: ({ changes }) => void replayed.push([...changes.values()].map((value) => String(value?.length)).join()),
        onFailure: (error) => failures.push(error),
      });
    const log = await open([]);
    const accepted: string[] = [];
    let durable = 0;
    let refused = 0;
    for (let i = 0; i < 60; i++) {
      // Less than the next record needs, at times; or the space of it to the byte.
      disk.capacity = disk.usedBytes() + (random.below(2) === 0 ? random.below(200) : 10_000);
      const length = random.below(300);
      // Not zeros: the end of a later record would complete what is left of a refused one.
      const changes = new Map<Key, NewValue>([['Ix', Buffer.from(random.bytes(length))]]);
      try {
        log.append(1, changes);
        accepted.push(String(length));
      } catch (error) {
        test.match(error, { code: 'ENOSPC' });
        refused++;
      }
      if (random.below(8) === 0) {
        await log.durable();
        durable = accepted.length;
      }
      if (random.below(4) === 0) await settle();
    }
    test.ok(refused > 5 && accepted.length > 20, `${refused} refused, ${accepted.length} accepted`);
    test.strictSame(failures, [], 'a full disk is no failure');
    disk.capacity = Infinity;
    const lost = random.below(2) === 0;
    if (lost) disk.powerLoss();
    else disk.kill();
    const replayed: string[] = [];
    await (await open(replayed)).close();
    test.strictSame(replayed, accepted.slice(0, replayed.length), 'what is there is what was accepted, in order');
    const kept = lost ? durable : accepted.length;
    if (replayed.length < kept) test.fail(`${replayed.length} of ${kept} records are left`);
  }
});

void t.test('a segment that finds no space leaves nothing, and is made when there is some', async (test) => {
  const disk = new CrashDisk(new SeededRandom(5));
  const failures: CairnError[] = [];
  const log = await OperationLog.open({
    ...{ disk, directory: 'log', logger: silentLogger, checkpoint: 0, segmentBytes: 1_000 },
    apply: () => undefined,
    onFailure: (error) => failures.push(error),
  });
  disk.failOn('oplog.header', 0, 'ENOSPC');
  const append = async (): Promise<number> => {
    const sequence = log.append(1, new Map([['Ix', Buffer.alloc(300)]]));
    await settle();
    return sequence;
  };
  for (let i = 0; i < 6; i++) await append();
  test.equal(disk.paths().length, 1, 'the log goes on in the segment that it has');
  for (let i = 0; i < 300; i++) await append();
  test.ok(disk.paths().length > 1, 'and tries again');
  test.strictSame(failures, []);
  await log.close();
});

void t.test(
  'ENOSPC for what grows, at once; removals go on from the reserve; all is well again by itself',
  async (test) => {
    const { options, disk, store, clock, failures } = fixture();
    const state = await LogState.open(options);
    await state.watchSpace();
    test.equal(disk.content(RESERVE_FILE).length, RESERVE, 'the reserve is taken');
    for (let i = 0; i < 1_000; i++) create(state, i);
    await state.durable();
    await disk.fill();
    const before = state.lastSequence;
    test.throws(() => create(state, 5_000), { code: 'ENOSPC', message: /full: free space/ });
    test.equal(state.lastSequence, before);
    test.equal(state.get(inode(5_000)), undefined);
    for (let i = 0; i < 900; i++) remove(state, i);
    for (let i = 900; i < 1_000; i++) create(state, i); // they are there: nothing grows
    await state.durable();
    const left = disk.content(RESERVE_FILE).length;
    test.ok(left < RESERVE, `${left} bytes are left of the reserve`);
    test.throws(() => create(state, 5_000), { code: 'ENOSPC' }, 'the reserve is not for that');
    test.equal(
      state.mutateIfRoom((m) => m.delete(inode(900))),
      false,
      'what can be left undone is left undone',
    );
    await state.watchSpace();
    test.throws(() => create(state, 5_000), { code: 'ENOSPC' });
    test.equal(count(state), 100, 'reading goes on');

    await disk.unlink('test', 'filler');
    await state.watchSpace();
    test.equal(disk.content(RESERVE_FILE).length, RESERVE, 'the reserve is taken back');
    create(state, 5_000);
    clock.advance(1_000);
    await settle();
    test.ok(store.get(inode(5_000)));
    test.strictSame(failures, []);
    disk.kill();
    const again = await LogState.open(options);
    test.equal(count(again), 101, 'P10: nothing was lost');
    await again.stop();
  },
);

void t.test('the namespace stops growing before the disk is quite full', async (test) => {
  const { options, disk } = fixture();
  const state = await LogState.open(options);
  await state.watchSpace();
  await disk.fill(3 * RESERVE);
  await state.watchSpace();
  create(state, 1);
  await disk.fill(RESERVE);
  await state.watchSpace();
  test.throws(() => create(state, 2), { code: 'ENOSPC' });
  remove(state, 1);
  test.equal(disk.content(RESERVE_FILE).length, RESERVE, 'there was space without the reserve');
  await state.stop();
});

void t.test('space that the database can use again counts as free', async (test) => {
  const { options, disk, store } = fixture();
  const state = await LogState.open(options);
  await state.watchSpace();
  await disk.fill(RESERVE);
  await state.watchSpace();
  test.throws(() => create(state, 1), { code: 'ENOSPC' });
  Object.assign(store, { reusableBytes: () => 8 * MIB });
  await state.watchSpace();
  create(state, 1);
  await state.stop();
});

void t.test('a transaction without space is tried again; the log is not cut, and nobody waits for it', async (test) => {
  const { options, disk, store, clock, failures } = fixture({ commitChanges: 20, maxOverlayChanges: 50 });
  const state = await LogState.open(options);
  await state.watchSpace();
  create(state, 0);
  store.isFull = true;
  for (let i = 1; i <= 40; i++) create(state, i);
  await settle();
  test.equal(disk.content(RESERVE_FILE).length, 0, 'the reserve was given for it');
  test.throws(() => create(state, 41), { code: 'ENOSPC' });
  for (let i = 0; i < 60; i++) state.mutate((m) => m.put(`T${i}`, Buffer.from('x')));
  await test.rejects(state.ready() ?? Promise.resolve(), { code: 'ENOSPC' }, 'the overlay is full: no waiting');
  const { tries } = store;
  clock.advance(1_000);
  await settle();
  test.equal(store.tries, tries + 1, 'one try a second');
  test.equal(count(state), 41);
  store.isFull = false;
  clock.advance(1_000);
  await settle();
  test.equal([...store.range(prefixRange('I'))].length, 41, 'it is in the store now');
  await state.watchSpace();
  create(state, 41);
  test.equal(state.ready(), undefined);
  test.strictSame(failures, []);

  // And a stop does not wait either.
  store.isFull = true;
  create(state, 42);
  clock.advance(1_000);
  await settle();
  await state.stop();
  test.equal(store.get(inode(42)), undefined);
  store.isFull = false;
  disk.powerLoss();
  const again = await LogState.open(options);
  test.equal(count(again), 43, 'P1: the log has what the store has not');
  await again.stop();
});

void t.test('an error of the database is tried again a few times, and then ends the master', async (test) => {
  const { options, store, clock, failures } = fixture({ commitChanges: 1 });
  const state = await LogState.open(options);
  const eio = new CairnError('EIO', 'planted');
  store.errors.push(eio, eio);
  create(state, 1);
  for (let i = 0; i < 3; i++) {
    await settle();
    clock.advance(1_000);
  }
  await settle();
  test.ok(store.get(inode(1)));
  test.strictSame(failures, []);
  store.errors.push(eio, eio, eio);
  create(state, 2);
  for (let i = 0; i < 3; i++) {
    await settle();
    clock.advance(1_000);
  }
  await settle();
  test.equal(failures.length, 1);
  await state.stop();
});

void t.test('a start on a full disk serves from the reserve, or says what is wrong', async (test) => {
  const { options, disk, store } = fixture();
  const first = await LogState.open(options);
  await first.watchSpace();
  create(first, 1);
  await first.durable();
  disk.kill();
  await disk.fill();
  store.errors.push(new CairnError('ENOSPC', 'planted'));
  const second = await LogState.open(options);
  test.equal(count(second), 1);
  await second.watchSpace();
  test.throws(() => create(second, 2), { code: 'ENOSPC' });
  remove(second, 1);
  disk.kill();
  // Now without a reserve.
  await (await disk.open('test', RESERVE_FILE, 'existing')).truncate('test', 0);
  await disk.fill();
  await test.rejects(LogState.open(options), { message: /full|no space/ });
  await disk.unlink('test', 'filler');
  const third = await LogState.open(options);
  test.equal(count(third), 0, 'P10: the failed starts lost nothing, and did nothing');
  await third.stop();
});

void t.test(
  'P1: what a failed sync left in the page cache only is not called flushed after a restart',
  async (test) => {
    const { options, disk, failures } = fixture();
    const state = await LogState.open(options);
    create(state, 1);
    disk.failOn('oplog.flush');
    await test.rejects(state.durable(), { code: 'UNAVAILABLE' });
    await test.rejects(state.durable(), { code: 'UNAVAILABLE' }, 'it is not asked again');
    test.equal(failures.length, 1, 'the process ends');
    disk.kill();
    const again = await LogState.open(options);
    test.equal(count(again), 1, 'the page cache still has it');
    await again.durable();
    disk.powerLoss();
    const third = await LogState.open(options);
    test.equal(count(third), 1, 'and it is durable, as was said');
    await third.stop();
  },
);
