/** A master whose state is older than what its cluster has seen knows it by the marks that others show, and gives nothing twice. */
import t from 'tap';
import { SeededRandom } from '../../../src/core/random.js';
import { WITNESS_WAIT_MS } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { readCounter } from '../../../src/master/state/counters.js';
import { IdReserve } from '../../../src/master/state/id-reserve.js';
import { keys, packed } from '../../../src/master/state/keys.js';
import { LogState } from '../../../src/master/state/log-state.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import type { StoreChange } from '../../../src/master/store/store.js';
import { Timeline } from '../../../src/master/state/timeline.js';
import type { MasterMark } from '../../../src/protocol/generated/messages.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';

type Copy = readonly StoreChange[];

/** Of one start of a master to its orderly stop. */
class Life {
  branches = 0;
  readonly clock = new ManualClock();
  readonly handles: IdReserve;
  readonly leaseIds: IdReserve;
  readonly timeline: Timeline;

  private constructor(
    readonly state: LogState,
    private readonly store: MemoryStore,
    readonly disk: CrashDisk,
    seed: number,
    expectsServers: boolean,
  ) {
    this.handles = new IdReserve(state, 'next-handle', 8);
    this.leaseIds = new IdReserve(state, 'next-lease', 8);
    this.timeline = new Timeline({
      ...{ state, clock: this.clock, random: new SeededRandom(seed), logger: silentLogger, expectsServers },
      ...{ handles: this.handles, leaseIds: this.leaseIds, onBranch: () => void this.branches++ },
    });
  }

  static lives = 0;

  static async begin(copy: Copy, expectsServers = false): Promise<Life> {
    const store = new MemoryStore();
    await store.commit(copy);
    const disk = new CrashDisk(new SeededRandom(1));
    const clock = new ManualClock();
    const bootNotes = new MemoryNotes();
    const options = {
      store,
      disk,
      bootNotes,
      clock,
      directory: 'log',
      logger: silentLogger,
      onFailure: () => undefined,
    };
    const life = new Life(await LogState.open(options), store, disk, ++Life.lives, expectsServers);
    await life.state.durable();
    return life;
  }

  /** Some changes, an inode among them. */
  async work(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      this.state.mutate((m) => m.put(keys.meta('next-inode'), packed(readCounter(m, 'next-inode', 2) + 1)));
    }
    await this.state.durable();
  }

  async end(): Promise<Copy> {
    await this.state.stop();
    return [...this.store.range({ start: '', end: '\uffff' })].map(([key, value]) => ({ key, value }));
  }

  get nextInode(): number {
    return readCounter(this.state, 'next-inode', 2);
  }
}

const shown = async (life: Life, mark: MasterMark): Promise<boolean> =>
  (await life.timeline.take(mark, 'a test')) !== undefined;

t.test('marks of its own past say nothing, over any number of starts', async (t) => {
  let copy: Copy = [];
  const marks: MasterMark[] = [];
  for (let i = 0; i < 300; i++) {
    const life = await Life.begin(copy);
    await life.work(2);
    marks.push({ ...life.timeline.mark, handle: await life.handles.take(), leaseId: await life.leaseIds.take() });
    for (const mark of marks)
      if (await shown(life, mark)) t.fail(`start ${i} takes ${JSON.stringify(mark)} for another past`);
    t.equal(life.branches, 0);
    copy = await life.end();
  }
});

t.test('a mark that is ahead, of any kind, makes all counters jump, once', async (t) => {
  const first = await Life.begin([]);
  await first.work(5);
  const [handle, leaseId] = [await first.handles.take(), await first.leaseIds.take()];
  const backup = await first.end();
  const second = await Life.begin(backup);
  await second.work(10);
  const live = second.timeline.mark;
  await second.work(10);
  const late = second.timeline.mark;
  const copy = await second.end();
  const third = await Life.begin(copy);
  await third.work(1);
  const cases: readonly (readonly [string, Copy, MasterMark])[] = [
    ['a later epoch', backup, { ...third.timeline.mark }],
    ['the same epoch of another start', backup, live],
    ['a later record of an epoch', await cutBack(backup), late],
    ['a handle', backup, { ...empty, handle: handle + 20 }],
    ['a lease', backup, { ...empty, leaseId: leaseId + 20 }],
  ];
  for (const [what, from, mark] of cases) {
    const life = await Life.begin(from);
    const before = { inode: life.nextInode, epoch: life.state.epoch, handle: await life.handles.take() };
    const parted = await life.timeline.take(mark, what);
    t.equal(life.branches, 1, what);
    t.ok(life.state.epoch > Math.max(before.epoch, mark.epoch), `${what}: epoch`);
    t.equal(life.state.lossEpoch, life.state.epoch, `${what}: clients learn of it`);
    t.ok((await life.handles.take()) > Math.max(before.handle, mark.handle) + 2 ** 32, `${what}: handles`);
    t.ok((await life.leaseIds.take()) > mark.leaseId + 2 ** 32, `${what}: leases`);
    t.ok(life.nextInode > before.inode + 2 ** 30, `${what}: inodes`);
    const { from: firstParted, below } = parted ?? { from: 0, below: 0 };
    t.same([firstParted, below], [before.inode, life.nextInode], `${what}: inodes that are not to be trusted`);
    const isTold = mark.epoch > 0;
    t.equal(await shown(life, mark), isTold, `${what}: who comes later with it is known as of another past`);
    t.equal(life.branches, 1, `${what}: one jump is enough`);
    const own = life.timeline.mark;
    t.notOk(await shown(life, own), `${what}: its own marks are in order`);
    const next = await Life.begin(await life.end());
    t.notOk(await shown(next, own), `${what}: also after another start`);
    t.equal(await shown(next, mark), isTold, `${what}: which knows the other past, too`);
    t.equal(next.branches, 0, `${what}: and need not jump again`);
  }
});

t.test('two states that were put back to one backup give nothing twice', async (t) => {
  const backup = await (await Life.begin([])).end();
  const before = await Life.begin(backup);
  await before.work(20);
  const restored = await Life.begin(backup);
  t.ok(await shown(restored, before.timeline.mark));
  await restored.work(20);
  const again = await Life.begin(backup);
  t.ok(await shown(again, restored.timeline.mark));
  t.equal(again.branches, 1);
  for (const name of ['next-inode', 'version-floor'] as const) {
    t.ok(readCounter(again.state, name, 0) > readCounter(restored.state, name, 0), name);
  }
});

t.test('a jump that finds no space is made when the mark is shown again', async (t) => {
  const backup = await (await Life.begin([])).end();
  const second = await Life.begin(backup);
  await second.work(20);
  const mark = second.timeline.mark;
  const life = await Life.begin(await cutBack(backup));
  life.disk.failOn('oplog.append', 0, 'ENOSPC');
  await t.rejects(life.timeline.take(mark, 'a test'), { code: 'ENOSPC' });
  t.equal(life.branches, 0);
  const before = life.nextInode;
  t.ok(await shown(life, mark));
  t.equal(life.branches, 1);
  t.ok(life.nextInode > before + 2 ** 30, 'nothing is given twice');
});

const empty: MasterMark = { epoch: 0, incarnation: 0, sequence: 0, handle: 0, leaseId: 0 };

/** The state of a further start that ended long ago, so that the mark's epoch is no news. */
async function cutBack(backup: Copy): Promise<Copy> {
  return (await Life.begin(backup)).end();
}

t.test('inode numbers wait for the first chunkserver, and not for long', async (t) => {
  const life = await Life.begin([], true);
  let witnessed = 0;
  void life.timeline.witnessed()?.then(() => witnessed++);
  life.clock.advance(WITNESS_WAIT_MS - 1);
  await Promise.resolve();
  t.equal(witnessed, 0);
  life.clock.advance(1);
  await Promise.resolve();
  t.equal(witnessed, 1, 'none came');
  t.equal(life.timeline.witnessed(), undefined);
  const other = await Life.begin([], true);
  other.timeline.noteWitness();
  t.equal(other.timeline.witnessed(), undefined, 'one came');
  t.equal((await Life.begin([])).timeline.witnessed(), undefined, 'none is known');
});
