/**
 * P10: kill -9 of the master loses no operation that returned; power loss loses at most what was never durable, and
 * never a part of an operation. Random mutations, commits, flushes and crashes at any step of them, against a model.
 */
import t from 'tap';
import { SeededRandom } from '../../../src/core/random.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { packed, packNumber, unpacked } from '../../../src/master/state/keys.js';
import { LogState } from '../../../src/master/state/log-state.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import type { StateReader } from '../../../src/master/state/state.js';
import type { Key, Store, StoreChange } from '../../../src/master/store/store.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';
import { testSeed } from '../../support/seed.js';

type Changes = ReadonlyMap<Key, Buffer | null>;
const COUNT = 'Tcount';

/** The store as one life of a process sees it: a commit that runs when it dies has happened, or has not. */
class MortalStore implements Store {
  dead = false;
  constructor(
    private readonly inner: MemoryStore,
    private readonly random: SeededRandom,
  ) {}
  get(key: Key): Uint8Array | undefined {
    return this.inner.get(key);
  }
  range(range: { start: Key; end: Key }): Iterable<readonly [Key, Uint8Array]> {
    return this.inner.range(range);
  }
  async commit(changes: Iterable<StoreChange>): Promise<void> {
    const taken = [...changes];
    for (let i = this.random.below(4); i > 0; i--) await Promise.resolve();
    if (this.dead) throw new Error('the process is dead');
    await this.inner.commit(taken);
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

function modelAfter(history: readonly Changes[], count: number): Map<Key, string> {
  const model = new Map<Key, string>();
  for (const changes of history.slice(0, count)) {
    for (const [key, value] of changes) {
      if (value === null) model.delete(key);
      else model.set(key, value.toString('hex'));
    }
  }
  return model;
}

function content(reader: StateReader, start = 'T', end = 'U'): [Key, string][] {
  return [...reader.range({ start, end })].map(([key, value]) => [key, Buffer.from(value).toString('hex')]);
}

const sorted = (model: Map<Key, string>): [Key, string][] => [...model].sort(([a], [b]) => (a < b ? -1 : 1));

function open(test: Tap, world: World, store: MortalStore, clock: ManualClock): Promise<LogState> {
  return LogState.open({
    store,
    disk: world.disk,
    bootNotes: new MemoryNotes(),
    directory: 'log',
    clock,
    logger: silentLogger,
    onFailure: (error) => {
      if (!store.dead) test.fail(error.message);
    },
    segmentBytes: 600,
    commitChanges: 20,
    commitDelayMs: 10,
    transactionChanges: 7,
  });
}

/** A start that dies on the way. What was there before must be there afterwards. */
async function stillbirth(test: Tap, random: SeededRandom, world: World): Promise<void> {
  const store = new MortalStore(world.store, random);
  const opening = open(test, world, store, new ManualClock()).catch((error: unknown) => {
    if (!store.dead) throw error;
  });
  for (let i = random.below(120); i > 0; i--) await Promise.resolve();
  store.dead = true;
  if (random.below(2) === 0) world.disk.kill();
  else {
    world.disk.powerLoss();
    world.atLeast = world.durable;
  }
  await opening;
}

async function life(test: Tap, random: SeededRandom, world: World): Promise<void> {
  while (random.below(3) === 0) await stillbirth(test, random, world);
  const clock = new ManualClock();
  const store = new MortalStore(world.store, random);
  const state = await open(test, world, store, clock);
  test.ok(state.epoch > world.epoch, 'the epoch grows with each start');
  world.epoch = state.epoch;
  const counted = state.get(COUNT);
  const count = counted === undefined ? 0 : unpacked(counted);
  test.ok(
    count >= world.atLeast && count <= world.history.length,
    `${world.atLeast} <= ${count} <= ${world.history.length}`,
  );
  world.history.length = count;
  test.strictSame(
    content(state),
    sorted(modelAfter(world.history, count)),
    `P10: all of ${count} operations, no part more`,
  );
  world.atLeast = count;

  world.durable = count;
  for (let step = random.below(60); step > 0; step--) {
    const choice = random.below(12);
    if (choice === 0) clock.advance(random.below(15));
    else if (choice === 1) {
      const before = world.history.length;
      const flush = state.durable().then(() => (world.durable = Math.max(world.durable, before)));
      if (random.below(2) === 0) await flush;
      else flush.catch((error: unknown) => store.dead || test.fail(String(error)));
    } else if (choice === 2) {
      const model = modelAfter(world.history, world.history.length);
      const start = `T${packNumber(random.below(30))}`;
      const expected = sorted(model).filter(([key]) => key >= start && key < 'U');
      test.strictSame(content(state, start), expected, 'ranges merge overlay and store');
      const keys = Array.from({ length: 30 }, (_, i) => `T${packNumber(i)}`);
      const values = keys.map((key) => state.get(key)).map((value) => value && Buffer.from(value).toString('hex'));
      const wanted = keys.map((key) => model.get(key));
      test.strictSame(values, wanted, 'each key reads as the last mutation left it');
    } else if (choice === 3) {
      const before = world.history.length;
      test.throws(() =>
        state.mutate((m) => {
          m.put('Tnever', Buffer.from('x'));
          throw new RangeError('changed its mind');
        }),
      );
      test.equal(state.get('Tnever'), undefined);
      test.equal(world.history.length, before);
    } else {
      await state.ready();
      const changes = new Map<Key, Buffer | null>([[COUNT, packed(world.history.length + 1)]]);
      for (let i = random.below(6); i > 0; i--) {
        changes.set(`T${packNumber(random.below(30))}`, random.below(3) === 0 ? null : random.bytes(random.below(40)));
      }
      state.mutate((m) => {
        for (const [key, value] of changes) {
          if (value === null) m.delete(key);
          else m.put(key, value);
        }
      });
      world.history.push(changes);
    }
    for (let i = random.below(8); i > 0; i--) await Promise.resolve();
  }

  const end = random.below(3);
  if (end === 0) {
    await state.stop();
    test.strictSame(content(world.store), sorted(modelAfter(world.history, world.history.length)), 'stop commits all');
    world.atLeast = world.durable = world.history.length;
    store.dead = true;
    world.disk.powerLoss();
    return;
  }
  store.dead = true;
  if (end === 1) {
    world.atLeast = world.history.length;
    world.disk.kill();
  } else {
    world.atLeast = world.durable;
    world.disk.powerLoss();
  }
  // What the dead process still had in flight fails now.
  for (let i = 0; i < 50; i++) await Promise.resolve();
}

interface World {
  readonly store: MemoryStore;
  readonly disk: CrashDisk;
  readonly history: Changes[];
  /** Operations that the next start must find. */
  atLeast: number;
  /** Operations that survive power loss. */
  durable: number;
  epoch: number;
}
type Tap = typeof t;

void t.test('P10: crashes at any step', async (test) => {
  const first = testSeed(test);
  for (let run = 0; run < 60; run++) {
    // The first run of CAIRN_SEED is the one that a failure names.
    const seed = first + run;
    const random = new SeededRandom(seed);
    const world: World = {
      store: new MemoryStore(),
      disk: new CrashDisk(random),
      history: [],
      atLeast: 0,
      durable: 0,
      epoch: 0,
    };
    await test.test(`CAIRN_SEED=${seed}`, async (sub) => {
      for (let lives = 0; lives < 12; lives++) await life(sub as unknown as Tap, random, world);
    });
    if (!test.passing()) break;
  }
});
