/** The state over log and store: mutations, background commits, back-pressure, failures, restarts. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { SystemClock } from '../../../src/core/clock.js';
import type { CairnError } from '../../../src/core/errors.js';
import { NodeDisk } from '../../../src/core/disk/node-disk.js';
import { SeededRandom } from '../../../src/core/random.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { packed, packNumber, prefixRange, unpacked } from '../../../src/master/state/keys.js';
import { LmdbStore } from '../../../src/master/store/lmdb-store.js';
import { LogState } from '../../../src/master/state/log-state.js';
import type { LogStateOptions } from '../../../src/master/state/log-state.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';

interface Fixture {
  readonly options: LogStateOptions;
  readonly store: MemoryStore;
  readonly disk: CrashDisk;
  readonly clock: ManualClock;
  readonly failures: CairnError[];
}

function fixture(more: Partial<LogStateOptions> = {}): Fixture {
  const [store, disk, clock] = [new MemoryStore(), new CrashDisk(new SeededRandom(3)), new ManualClock()];
  const failures: CairnError[] = [];
  const options = {
    ...{ store, disk, clock, directory: 'log', logger: silentLogger },
    bootNotes: new MemoryNotes(),
    onFailure: (error: CairnError) => void failures.push(error),
    ...more,
  };
  return { options, store, disk, clock, failures };
}

async function settle(): Promise<void> {
  for (let i = 0; i < 200; i++) await Promise.resolve();
}

const put = (state: LogState, key: string, value = 'v'): void => state.mutate((m) => m.put(key, Buffer.from(value)));

void t.test('a mutation sees its own changes, and may change what it iterates over', async (test) => {
  const { options } = fixture();
  const state = await LogState.open(options);
  for (const key of ['Ta', 'Tb', 'Tc']) put(state, key);
  const seen = state.mutate((m) => {
    m.put('Tbb', Buffer.from('new'));
    m.delete('Tc');
    const keys: string[] = [];
    for (const [key] of m.range(prefixRange('T'))) {
      keys.push(key);
      m.delete(key);
      m.put(`U${key}`, Buffer.alloc(0));
    }
    test.equal(m.get('Ta'), undefined);
    return keys;
  });
  test.strictSame(seen, ['Ta', 'Tb', 'Tbb']);
  test.strictSame([...state.range(prefixRange('T'))], []);
  test.equal([...state.range(prefixRange('U'))].length, 3);
  await state.stop();
});

void t.test('a mutation that throws has changed nothing, and one that changes nothing is no record', async (test) => {
  const { options } = fixture();
  const state = await LogState.open(options);
  const before = state.lastSequence;
  test.throws(() =>
    state.mutate((m) => {
      m.put('Ta', Buffer.from('x'));
      throw new RangeError('no');
    }),
  );
  test.equal(
    state.mutate(() => 5),
    5,
  );
  test.equal(state.get('Ta'), undefined);
  test.equal(state.lastSequence, before);
  test.throws(() => state.mutate(() => put(state, 'Tb')), { code: 'INTERNAL' }, 'mutations do not nest');
  put(state, 'Tc');
  await state.stop();
});

void t.test('commits happen in the background, by number and by time', async (test) => {
  const { options, store, clock } = fixture({ commitChanges: 10, commitDelayMs: 100 });
  const state = await LogState.open(options);
  put(state, 'Ta');
  await settle();
  test.equal(store.get('Ta'), undefined);
  clock.advance(100);
  await settle();
  test.ok(store.get('Ta'), 'committed by time');
  for (let i = 0; i < 12; i++) put(state, `Tb${i}`);
  await settle();
  test.ok(store.get('Tb0'), 'committed by number');
  await state.stop();
});

void t.test('P8: the overlay is bounded: `ready` waits for the store, and the memory is given back', async (test) => {
  const { options } = fixture({ maxOverlayChanges: 50, commitChanges: 20 });
  const state = await LogState.open(options);
  let waits = 0;
  for (let i = 0; i < 1000; i++) {
    const room = state.ready();
    if (room !== undefined) {
      waits++;
      await room;
    }
    put(state, `T${packNumber(i)}`);
  }
  test.ok(waits > 5 && waits < 500, `${waits} waits`);
  test.equal([...state.range(prefixRange('T'))].length, 1000);
  await state.stop();
});

void t.test('a store that fails to commit, and a log that fails to write, end the master', async (test) => {
  for (const what of ['store', 'log'] as const) {
    const { options, store, disk, failures } = fixture({ commitChanges: 5 });
    const state = await LogState.open(options);
    put(state, 'Tgood');
    await state.durable();
    if (what === 'store') store.commit = () => Promise.reject(new Error('disk full'));
    else disk.failOn('oplog.append', 2);
    for (let i = 0; i < 10 && failures.length === 0; i++) {
      try {
        put(state, `T${i}`);
      } catch (error) {
        test.equal((error as CairnError).code, 'UNAVAILABLE');
      }
      await settle();
    }
    test.equal(failures.length, 1, `${what}: the owner is told once`);
    test.throws(() => put(state, 'Tlate'), { code: 'UNAVAILABLE' });
    test.throws(() => state.get('Tgood'), { code: 'UNAVAILABLE' }, 'no answer from a state that is not sure');
    await test.rejects(state.durable(), { code: 'UNAVAILABLE' });
    await test.rejects(state.ready() ?? Promise.resolve(), { code: 'UNAVAILABLE' });
    await state.stop();
  }
});

void t.test('stop commits everything; a stopped state takes no mutations', async (test) => {
  const { options, store, disk } = fixture();
  const state = await LogState.open(options);
  for (let i = 0; i < 30; i++) put(state, `T${i}`);
  const stopping = state.stop();
  test.throws(() => put(state, 'Tlate'), { code: 'UNAVAILABLE' });
  await stopping;
  await state.stop();
  test.equal([...store.range(prefixRange('T'))].length, 30);
  disk.powerLoss();
  const again = await LogState.open(options);
  test.equal([...again.range(prefixRange('T'))].length, 30);
  test.equal(again.epoch, state.epoch + 1);
  await again.stop();
});

void t.test('a state is replayed without an epoch: it is read, and changed only when one has begun', async (test) => {
  const { options, disk } = fixture();
  const first = await LogState.open(options);
  put(first, 'Ta');
  await first.durable();
  disk.kill();
  const state = await LogState.replay(options);
  test.equal(state.get('Ta')?.toString(), 'v');
  test.equal(state.epoch, 0);
  test.throws(() => put(state, 'Tb'), { code: 'INTERNAL' });
  await state.beginEpoch();
  test.equal(state.epoch, first.epoch + 1);
  put(state, 'Tb');
  await state.stop();
});

void t.test('metadata of another format is refused', async (test) => {
  const { options, store } = fixture();
  await store.commit([{ key: 'Mformat', value: packed(3) }]);
  await test.rejects(LogState.open(options), { message: /format 3/ });
});

void t.test('on a real disk with LMDB: what was not committed is replayed', async (test) => {
  const directory = mkdtempSync(join(tmpdir(), 'cairn-state-'));
  test.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const open = async (): Promise<{ state: LogState; store: LmdbStore }> => {
    const store = LmdbStore.open(join(directory, 'store'));
    const { options } = fixture({
      store,
      disk: new NodeDisk(),
      directory: join(directory, 'log'),
      clock: new SystemClock(),
    });
    return { store, state: await LogState.open(options) };
  };
  const first = await open();
  for (let i = 0; i < 100; i++) first.state.mutate((m) => m.put(`T${packNumber(i % 10)}`, packed(i)));
  await first.state.durable();
  // Left without a stop, as by kill -9; closing the store only frees its lock.
  await first.store.close();
  const second = await open();
  const values = [...second.state.range(prefixRange('T'))].map(([, value]) => unpacked(value));
  test.strictSame(values, [90, 91, 92, 93, 94, 95, 96, 97, 98, 99]);
  test.equal(second.state.epoch, 2);
  await second.state.stop();
  await second.store.close();
});
