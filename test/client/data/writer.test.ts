/** The writer of one inode against chunkservers and a master that answer when the test says so. */
import t from 'tap';
import { asCairnError, CairnError } from '../../../src/core/errors.js';
import { inodeId } from '../../../src/core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  MAX_CHUNKS_PER_PAGE,
  MAX_COPY_RANGE_BYTES,
  MAX_FILE_BYTES,
  MAX_PAYLOAD_BYTES,
} from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { deferred, unawaited, type Deferred } from '../../../src/core/sync.js';
import type { InodeAttributes } from '../../../src/client/session/wire-attributes.js';
import { WriteBudget } from '../../../src/client/data/write-budget.js';
import type { ChunkCopies } from '../../../src/client/chunks/chunk-io.js';
import { DirectCopies } from '../../../src/client/files/copy-range.js';
import type { Publication } from '../../../src/client/data/publisher.js';
import { Writer, type Alteration } from '../../../src/client/data/writer.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { setAudits } from '../../../src/core/invariant.js';

setAudits(true);
const INODE = inodeId(7);
const MARK = { handle: 1, losses: 0, generation: 0, unsynced: false };
const IO = {
  ...{ prepare: () => undefined, settleDoubts: () => undefined, noteSynced: () => undefined, generation: 0 },
  markOf: () => Promise.resolve(MARK),
  syncAhead: () => undefined,
  writeBatch: (_inode: number, _index: number, writes: readonly unknown[]) => Promise.resolve(writes.map(() => MARK)),
};
const TIME = { seconds: 0, nanoseconds: 0 };

t.test(
  'an append that waits for room keeps its place, whatever is published meanwhile, and shows with its bytes',
  async (t) => {
    const budget = new WriteBudget(1);
    const writes: number[] = [];
    let size = 0;
    const attributes = (): InodeAttributes => ({
      ...{ inode: INODE, mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0, size, allocatedBytes: 0, change: 1 },
      ...{
        atime: TIME,
        mtime: TIME,
        ctime: TIME,
        layoutVersion: 1,
        hasAcl: false,
        hasXattrs: false,
        heldBy: INODE,
        grant: 0,
      },
    });
    const published: Publication[] = [];
    const writer = new Writer({
      ...{ inode: INODE, clock: new ManualClock(), logger: silentLogger, budget, attributes },
      io: {
        writeRange: (_inode, _index, offset) => Promise.resolve(writes.push(offset)).then(() => MARK),
        syncChunk: () => Promise.resolve(MARK),
        ...IO,
      },
      publish: (current) => {
        const publication = current();
        published.push(publication);
        size = Math.max(size, publication.end);
        return Promise.resolve(attributes());
      },
      syncMetadata: () => Promise.resolve(),
      onWritten: () => undefined,
    });
    // Another file has used up what all may buffer.
    budget.use(1);
    const first = writer.write('end', Buffer.alloc(100));
    await writer.flush();
    t.equal(writer.isClean, false);
    t.equal(writer.size, 0, 'nobody sees a size whose bytes are still to come');
    const second = writer.write('end', Buffer.alloc(10));
    t.equal(writer.size, 0);
    budget.use(-1);
    await Promise.all([first, second]);
    t.equal(writer.size, 110, 'the second went behind the first');
    await writer.flush();
    t.equal(size, 110);
    t.equal(published.at(-1)?.end, 110);
    t.equal(writer.isClean, true);
    writer.dispose();
  },
);

t.test(
  'setuid and setgid go with bytes of who may not leave them, not with a write that came to nothing',
  async (t) => {
    const published: boolean[] = [];
    const attributes = (): InodeAttributes => ({
      ...{ inode: INODE, mode: 0o100755, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 0, allocatedBytes: 0, change: 1 },
      ...{
        atime: TIME,
        mtime: TIME,
        ctime: TIME,
        layoutVersion: 1,
        hasAcl: false,
        hasXattrs: false,
        heldBy: INODE,
        grant: 0,
      },
    });
    const writer = new Writer({
      ...{ inode: INODE, clock: new ManualClock(), logger: silentLogger, budget: new WriteBudget(), attributes },
      io: {
        writeRange: () => Promise.resolve(MARK),
        syncChunk: () => Promise.resolve(MARK),
        ...IO,
      },
      publish: (current) => {
        published.push(current().killPrivileges);
        return Promise.resolve(attributes());
      },
      syncMetadata: () => Promise.resolve(),
      onWritten: () => undefined,
    });
    const next = async (kills: boolean): Promise<boolean | undefined> => {
      await writer.write(0, Buffer.from('x'), kills);
      await writer.flush();
      return published.at(-1);
    };
    await writer.write(0, Buffer.alloc(0), true);
    t.equal(writer.kills, false, 'nothing was written');
    t.equal(await next(false), false);
    await t.rejects(writer.write(MAX_FILE_BYTES, Buffer.from('x'), true), { code: 'EFBIG' });
    t.equal(await next(false), false);
    t.equal(await next(true), true);
    t.equal(writer.kills, false);
    t.equal(await next(false), false, 'once');
    const change: Alteration = (note) => {
      note(MARK);
      return Promise.resolve(1);
    };
    await writer.alter(0, 1, change, true);
    await writer.flush();
    t.equal(published.at(-1), true, 'a copy by the chunkservers is a write');
    writer.dispose();
  },
);

t.test('a copy by the chunkservers that did not begin is no change', async (t) => {
  const published: Publication[] = [];
  let again = 0;
  const attributes = (): InodeAttributes => ({
    ...{ inode: INODE, mode: 0o100755, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 0, allocatedBytes: 0, change: 1 },
    ...{
      atime: TIME,
      mtime: TIME,
      ctime: TIME,
      layoutVersion: 1,
      hasAcl: false,
      hasXattrs: false,
      heldBy: INODE,
      grant: 0,
    },
  });
  const writer = new Writer({
    ...{ inode: INODE, clock: new ManualClock(), logger: silentLogger, budget: new WriteBudget(), attributes },
    io: { writeRange: () => Promise.resolve(MARK), syncChunk: () => Promise.resolve(MARK), ...IO },
    publish: (current) => {
      published.push(current());
      return Promise.resolve(attributes());
    },
    syncMetadata: () => Promise.resolve(),
    onWritten: () => {
      if (again-- > 0) unawaited(writer.write(0, Buffer.from('x')), silentLogger, 'writing on');
    },
  });
  const change: Alteration = (note) => {
    note(MARK);
    return Promise.resolve(1);
  };
  await t.rejects(writer.alter(0, 100, change, true, writer.lockLosses - 1), { code: 'EIO' }, 'locks were lost');
  t.ok(writer.isTold, 'nothing may lie past the end');
  t.equal(writer.pendingMtime, undefined);
  t.same([...writer.unsyncedChunks], []);
  await writer.flush();
  t.same(published, []);
  again = 100;
  await writer.write(0, Buffer.from('x'));
  t.equal(await writer.alter(0, 1, change, true), 0, 'somebody keeps writing there');
  t.equal(writer.kills, false);
  again = 0;
  await writer.flush();
  t.ok(published.length > 0);
  t.notOk(published.some(({ killPrivileges }) => killPrivileges));
  writer.dispose();
});

/** A writer over a master that knows of syncs what it is told; `during` runs while it is being told. */
function syncing(during: () => void = () => undefined) {
  const known = new Set<number>();
  const told: number[][] = [];
  const io = {
    ...IO,
    handle: 1,
    losses: 0,
    synced: [] as number[],
    failing: -1,
    writeRange: (): Promise<typeof MARK> => Promise.resolve({ ...MARK, handle: io.handle, generation: io.generation }),
    writeBatch: (_inode: number, _index: number, writes: readonly unknown[]): Promise<(typeof MARK)[]> =>
      Promise.all(writes.map(() => io.writeRange())),
    syncChunk: (_inode: number, index: number): Promise<typeof MARK> => {
      const handle = io.handle + index;
      io.synced.push(index);
      if (index === io.failing) return Promise.reject(new CairnError('EIO', 'planted'));
      const { generation, losses } = io;
      return Promise.resolve({ ...MARK, handle, generation, losses, unsynced: !known.has(handle) });
    },
  };
  const attributes = (): InodeAttributes => ({
    ...{ inode: INODE, mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 1, allocatedBytes: 0, change: 1 },
    ...{
      atime: TIME,
      mtime: TIME,
      ctime: TIME,
      layoutVersion: 1,
      hasAcl: false,
      hasXattrs: false,
      heldBy: INODE,
      grant: 0,
    },
  });
  const tell = (handles: readonly number[]): Promise<InodeAttributes> => {
    told.push([...handles]);
    const before = new Set(known);
    for (const handle of handles) known.add(handle);
    try {
      during();
    } catch (error) {
      for (const handle of handles) if (!before.has(handle)) known.delete(handle);
      return Promise.reject(asCairnError(error));
    }
    return Promise.resolve(attributes());
  };
  const writer = new Writer({
    ...{ inode: INODE, clock: new ManualClock(), logger: silentLogger, budget: new WriteBudget(), attributes, io },
    publish: (current) => tell(current().syncedChunks),
    syncMetadata: (handles) => tell(handles).then(() => undefined),
    onWritten: () => undefined,
  });
  return { writer, io, told, known };
}

t.test('P1: a sync tells the master, before it returns, which chunks were synced for the first time', async (t) => {
  const { writer, told } = syncing();
  await writer.write(0, Buffer.from('x'));
  await writer.flush();
  t.same(told.splice(0), [[]], 'a flush promises nothing');
  await writer.sync();
  t.same(told.splice(0), [[1]], 'also with nothing left to publish');
  await writer.write(0, Buffer.from('y'));
  await writer.sync([{ inode: INODE, index: 1, handle: 2 }]);
  t.same(told.splice(0), [[2]], 'once; and what was synced for closed handles');
  await writer.sync(Array.from({ length: 1000 }, (_, index) => ({ inode: INODE, index, handle: index })));
  t.same(
    told.map((handles) => handles.length),
    [1000 - MAX_CHUNKS_PER_PAGE, MAX_CHUNKS_PER_PAGE],
    'many in pages',
  );
  writer.dispose();
});

t.test('P1: when the master loses power while a sync tells it, the sync looks at its chunks again', async (t) => {
  let losses = 0;
  const { writer, io, told, known } = syncing(() => {
    if (losses++ > 0) return;
    io.generation++;
    known.clear();
  });
  await writer.write(0, Buffer.from('x'));
  await writer.sync();
  t.same(told, [[1], [1]]);
  t.same(io.synced, [0, 0]);
  t.equal(writer.failures.count, 0, 'the chunk is the same');
  writer.dispose();

  const other = syncing(() => {
    if (losses++ > 2) return;
    other.io.generation++;
    other.io.handle = 9;
  });
  await other.writer.write(0, Buffer.from('x'));
  await other.writer.sync();
  t.equal(other.writer.failures.count, 1, 'another chunk is in its place: the bytes are gone');
  other.writer.dispose();
});

t.test('P1: what a sync could not tell the master is told by the next one', async (t) => {
  let failures = 1;
  const { writer, told } = syncing(() => {
    if (failures-- > 0) throw new CairnError('TIMEOUT', 'planted');
  });
  await writer.write(0, Buffer.from('x'));
  await t.rejects(writer.sync(), { code: 'TIMEOUT' });
  await writer.sync();
  t.same(told, [[1], [1]]);
  writer.dispose();
});

t.test('P1: a file that is closed during a sync leaves what that has yet to make durable', async (t) => {
  const { writer, io } = syncing();
  const unsynced = (): number[] => [...writer.unsyncedChunks.keys()].sort();
  await writer.write(0, Buffer.from('x'));
  await writer.flush();
  const failing = writer.sync();
  io.failing = 0;
  while (io.synced.length === 0) await Promise.resolve();
  t.same(unsynced(), [0]);
  await t.rejects(failing, { code: 'EIO' });
  t.same(unsynced(), [0]);
  io.failing = -1;
  await writer.sync();
  t.same(unsynced(), []);
  writer.dispose();
});

t.test('P1: each part of a copy by the chunkservers counts in what a sync covers', async (t) => {
  for (const second of ['lost', 'not done'] as const) {
    const { writer, io } = syncing();
    let requests = 0;
    const copyRange: ChunkCopies['copyRange'] = (_inode, _index, { length }) => {
      if (requests++ > 0) {
        if (second === 'not done') return Promise.reject(new CairnError('EOPNOTSUPP', 'planted: an older server'));
        // Power failed at every replica before it.
        io.losses = 1;
      }
      return Promise.resolve({ copied: length, mark: { ...MARK, losses: io.losses } });
    };
    const copies = new DirectCopies({
      chunkMap: { locate: () => Promise.resolve({ handle: 0, version: 0, replicas: [], validBytes: 0 }) },
      io: { copyRange },
      extents: {
        async *dataWithin(_inode, start, end) {
          yield await Promise.resolve({ start, end });
        },
      },
    });
    const target = { inode: INODE, writer, kills: false, lockLosses: 0, punch: () => Promise.resolve() };
    const length = MAX_COPY_RANGE_BYTES + 1;
    await copies.copy({ source: { inode: inodeId(8), writer: undefined }, target }, 0, 0, length);
    t.equal(requests, 2);
    await writer.sync();
    t.same(io.synced, [0], second);
    t.equal(writer.failures.count, second === 'lost' ? 1 : 0, second);
    writer.dispose();
  }
});

t.test('P1: a chunk that was synced beside one that could not be is told by the next sync', async (t) => {
  const { writer, io, told } = syncing();
  await writer.write(0, Buffer.from('x'));
  await writer.write(CHUNK_SIZE_BYTES, Buffer.from('x'));
  io.failing = 1;
  await t.rejects(writer.sync(), { code: 'EIO' });
  t.same(told.splice(0), []);
  io.failing = -1;
  await writer.sync();
  t.same(told, [[1, 2]]);
  writer.dispose();
});

t.test(
  'P7: bytes that power took before a sync are told of once, also when the master was not told then',
  async (t) => {
    let failures = 1;
    const { writer, io } = syncing(() => {
      if (failures-- > 0) throw new CairnError('TIMEOUT', 'planted');
    });
    await writer.write(0, Buffer.from('x'));
    await writer.flush().catch(() => undefined);
    failures = 1;
    io.losses = 1;
    await t.rejects(writer.sync(), { code: 'TIMEOUT' });
    t.equal(writer.failures.count, 1);
    await writer.sync();
    t.equal(writer.failures.count, 1);
    writer.dispose();
  },
);

t.test('P2: after a cut, too, no size is told past bytes that are still on their way', async (t) => {
  let size = 0;
  const attributes = (): InodeAttributes => ({
    ...{ inode: INODE, mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0, size, allocatedBytes: 0, change: 1 },
    ...{
      atime: TIME,
      mtime: TIME,
      ctime: TIME,
      layoutVersion: 1,
      hasAcl: false,
      hasXattrs: false,
      heldBy: INODE,
      grant: 0,
    },
  });
  const arrivals = new Map<number, Deferred<void>>();
  const clock = new ManualClock();
  const writer = new Writer({
    ...{ inode: INODE, clock, logger: silentLogger, budget: new WriteBudget(), attributes },
    io: {
      writeRange: (_inode, _index, offset) => (arrivals.get(offset)?.promise ?? Promise.resolve()).then(() => MARK),
      syncChunk: () => Promise.resolve(MARK),
      ...IO,
    },
    publish: (current) => {
      size = Math.max(size, current().end);
      return Promise.resolve(attributes());
    },
    syncMetadata: () => Promise.resolve(),
    onWritten: () => undefined,
  });
  const part = Buffer.alloc(MAX_PAYLOAD_BYTES);
  await writer.write(0, Buffer.concat([part, part, part]));
  await writer.flush();
  t.equal(size, 3 * MAX_PAYLOAD_BYTES);
  const cut = (): Promise<InodeAttributes> => {
    size = 0;
    return Promise.resolve(attributes());
  };
  await writer.truncate(cut);
  for (const offset of [0, MAX_PAYLOAD_BYTES]) arrivals.set(offset, deferred());
  await writer.write(0, part);
  const flushed = writer.flush();
  // The third part arrives before the second.
  await writer.write(MAX_PAYLOAD_BYTES, Buffer.concat([part, part]));
  arrivals.get(0)?.resolve();
  await flushed;
  t.equal(size, MAX_PAYLOAD_BYTES, 'nobody reads zeros in the place of the second part');
  arrivals.get(MAX_PAYLOAD_BYTES)?.resolve();
  await writer.flush();
  t.equal(size, 3 * MAX_PAYLOAD_BYTES);
  writer.dispose();
});

t.test('a write that waits for room and is refused then has changed nothing', async (t) => {
  const budget = new WriteBudget(1);
  const publications: Publication[] = [];
  const attributes = (): InodeAttributes => ({
    ...{ inode: INODE, mode: 0o104755, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 10, allocatedBytes: 0, change: 1 },
    ...{
      atime: TIME,
      mtime: TIME,
      ctime: TIME,
      layoutVersion: 1,
      hasAcl: false,
      hasXattrs: false,
      heldBy: INODE,
      grant: 0,
    },
  });
  const writer = new Writer({
    ...{ inode: INODE, clock: new ManualClock(), logger: silentLogger, budget, attributes },
    io: { writeRange: () => Promise.resolve(MARK), syncChunk: () => Promise.resolve(MARK), ...IO },
    publish: (current) => {
      publications.push(current());
      return Promise.resolve(attributes());
    },
    syncMetadata: () => Promise.resolve(),
    onWritten: () => undefined,
  });
  budget.use(1);
  const [write, append] = [writer.write(0, Buffer.from('x'), true), writer.write('end', Buffer.from('x'), true)];
  const refused = Promise.all([t.rejects(write, { code: 'EIO' }), t.rejects(append, { code: 'EIO' })]);
  writer.locksLost(false);
  budget.use(-1);
  await refused;
  t.equal(writer.isClean, true);
  t.equal(writer.kills, false, 'setuid stays');
  await writer.flush();
  t.same(publications, [], 'and so does mtime');
  writer.dispose();
});
