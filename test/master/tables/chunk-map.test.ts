/** The chunk map against a model: holes, truncates of any size in bounded records, and exact counts. */
import t from 'tap';
import { chunkHandle, chunkIndex, inodeId } from '../../../src/core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_CHUNKS_PER_PAGE, MAX_CHUNKS_PER_RECORD } from '../../../src/core/limits.js';
import {
  addChunk,
  continueCuts,
  inodesWithCuts,
  lookupChunk,
  lookupChunks,
  truncateChunkMap,
} from '../../../src/master/tables/chunk-map.js';
import { getChunk, isLostHole, markSynced } from '../../../src/master/tables/chunk-records.js';
import type { CutProgress } from '../../../src/master/tables/chunk-map.js';
import { readCounter } from '../../../src/master/state/counters.js';
import { newInodeRecord, readInode, saveInode } from '../../../src/master/tables/inodes.js';
import { keys, prefixRange } from '../../../src/master/state/keys.js';
import { SortedMap } from '../../../src/master/store/sorted-map.js';
import type { Mutation } from '../../../src/master/state/state.js';
import { ChunkRecord } from '../../../src/protocol/generated/messages.js';
import type { Key, KeyRange } from '../../../src/master/store/store.js';
import { seededRandom } from '../../support/seed.js';

class PlainMutation implements Mutation {
  private readonly entries = new SortedMap<Uint8Array>();
  readonly changes = new Map<Key, Uint8Array | null>();
  puts = 0;
  get(key: Key): Uint8Array | undefined {
    return this.entries.get(key);
  }
  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]> {
    return [...this.entries.range(range)];
  }
  put(key: Key, value: Uint8Array): void {
    this.puts++;
    this.entries.set(key, value);
  }
  delete(key: Key): void {
    this.entries.delete(key);
  }
}

const INODE = inodeId(7);

function emptyFile(): PlainMutation {
  const m = new PlainMutation();
  saveInode(m, INODE, newInodeRecord({ mode: 0o100644, uid: 0, gid: 0, now: { seconds: 0, nanoseconds: 0 } }));
  return m;
}

function record(m: Mutation) {
  const found = readInode(m, INODE);
  if (found === undefined) throw new Error('no inode');
  return found;
}

function add(m: Mutation, index: number, handle: number): void {
  const about = { inode: INODE, inodeRecord: record(m), index: chunkIndex(index), handle: chunkHandle(handle) };
  addChunk(m, { ...about, version: 1, lease: 1, servers: [], wantedReplicas: 0 });
}

function truncate(m: Mutation, size: number): void {
  const inode = record(m);
  truncateChunkMap(m, INODE, inode, size);
  saveInode(m, INODE, inode);
}

function handleAt(m: Mutation, index: number): number {
  return lookupChunk(m, INODE, record(m), chunkIndex(index)) ?? 0;
}

t.test('P5: the chunk across the new end reads as zeros past it, those behind are dropped', async (t) => {
  const m = emptyFile();
  for (const index of [0, 1, 3]) add(m, index, 10 + index);
  t.throws(() => add(m, 1, 99), { code: 'EBUSY' });
  truncate(m, CHUNK_SIZE_BYTES + 100);
  t.same(lookupChunks(m, INODE, record(m), { first: 0, count: 10 }), [
    { index: 0, handle: 10 },
    { index: 1, handle: 11 },
  ]);
  t.equal(getChunk(m, chunkHandle(11))?.validBytes, 100);
  t.equal(record(m).layoutVersion, 1);
  t.equal(record(m).chunkCount, 2);
  t.equal(readCounter(m, 'chunk-count', 0), 2);
  t.ok(m.get(keys.garbage(chunkHandle(13))));
  truncate(m, CHUNK_SIZE_BYTES + 200);
  t.equal(getChunk(m, chunkHandle(11))?.validBytes, 100, 'growing brings nothing back');
  t.equal(record(m).layoutVersion, 1);
});

t.test('a truncate of more than a record holds is atomic, and is worked off in steps', async (t) => {
  const m = emptyFile();
  const count = MAX_CHUNKS_PER_RECORD * 2 + 10;
  for (let i = 0; i < count; i++) add(m, i, i + 1);
  m.puts = 0;
  truncate(m, CHUNK_SIZE_BYTES);
  t.ok(m.puts < MAX_CHUNKS_PER_RECORD * 2 + 20, 'a bounded record');
  t.same(lookupChunks(m, INODE, record(m), { first: 0, count }), [{ index: 0, handle: 1 }]);
  t.same(inodesWithCuts(m, 10), [INODE]);

  t.comment('the file grows again before that is done');
  add(m, count - 1, 1_000_001);
  add(m, 5, 1_000_002);
  let progress: CutProgress | undefined = continueCuts(m, INODE, undefined);
  truncate(m, CHUNK_SIZE_BYTES * 6);
  add(m, count - 1, 1_000_003);
  for (let steps = 0; progress !== undefined; steps++) {
    t.ok(steps < 10);
    progress = continueCuts(m, INODE, progress);
  }
  t.same(lookupChunks(m, INODE, record(m), { first: 0, count }), [
    { index: 0, handle: 1 },
    { index: 5, handle: 1_000_002 },
    { index: count - 1, handle: 1_000_003 },
  ]);
  t.equal(record(m).chunkCount, 3);
  t.equal(readCounter(m, 'chunk-count', 0), 3);
  t.same(record(m).pendingCuts, []);
  t.same([...m.range(prefixRange('F'))].length, 3);
});

t.test('P3: only a chunk that is known to be unsynced may be a hole; one of an older release may not', (t) => {
  const m = emptyFile();
  add(m, 0, 1);
  const chunk = (): ChunkRecord => {
    const found = getChunk(m, chunkHandle(1));
    if (found === undefined) throw new Error('no chunk');
    return found;
  };
  const isHole = (): boolean => isLostHole(chunk());
  t.equal(isHole(), true, 'no server has it');
  markSynced(m, [1, 99]);
  t.equal(isHole(), false);
  t.ok(m.get(keys.degraded(chunkHandle(1))), 'its loss is an error, and counts');
  // What an older release wrote: without the field.
  const { unsynced, ...older } = chunk();
  t.equal(unsynced, false);
  m.put(keys.chunk(chunkHandle(1)), ChunkRecord.encode(older).finish());
  t.equal(isHole(), false);
  t.throws(
    () =>
      markSynced(
        m,
        Array.from({ length: MAX_CHUNKS_PER_PAGE + 1 }, (_, i) => i),
      ),
    { code: 'PROTOCOL' },
  );
  t.end();
});

t.test('random allocations and truncates against a model', async (t) => {
  const random = seededRandom(t);
  const m = emptyFile();
  const model = new Map<number, { handle: number; valid: number }>();
  for (let step = 1; step <= 2000; step++) {
    if (random.below(3) > 0) {
      const index = random.below(40);
      if (model.has(index)) continue;
      add(m, index, step);
      model.set(index, { handle: step, valid: CHUNK_SIZE_BYTES });
    } else {
      const size = random.below(40) * CHUNK_SIZE_BYTES + (random.below(2) === 0 ? 0 : 1 + random.below(1000));
      truncate(m, size);
      for (const [index, chunk] of model) {
        const left = size - index * CHUNK_SIZE_BYTES;
        if (left <= 0) model.delete(index);
        else chunk.valid = Math.min(chunk.valid, left);
      }
    }
    for (let index = 0; index < 40; index++) {
      const expected = model.get(index);
      const handle = handleAt(m, index);
      if (handle !== (expected?.handle ?? 0)) t.fail(`step ${step}: chunk ${index} is ${handle}`);
      if (handle !== 0 && getChunk(m, chunkHandle(handle))?.validBytes !== expected?.valid) t.fail(`step ${step}`);
    }
    if (record(m).chunkCount !== model.size) t.fail(`step ${step}: count`);
  }
});
