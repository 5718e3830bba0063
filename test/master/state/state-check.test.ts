/** A state that was copied while it changed is told from one that is whole. */
import t from 'tap';
import { chunkHandle, chunkIndex, inodeId } from '../../../src/core/ids.js';
import { keys, packed } from '../../../src/master/state/keys.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import { checkState } from '../../../src/master/state/state-check.js';
import type { Key } from '../../../src/master/store/store.js';
import { ChunkRecord, DentryRecord, InodeRecord } from '../../../src/protocol/generated/messages.js';

const [root, file, chunk] = [inodeId(1), inodeId(2), chunkHandle(9)];

async function whole(): Promise<MemoryStore> {
  const store = new MemoryStore();
  await store.commit([
    { key: keys.inode(root), value: InodeRecord.encode({ mode: 0o40755 }).finish() },
    { key: keys.inode(file), value: InodeRecord.encode({ mode: 0o100644, size: 5 }).finish() },
    { key: keys.dentry(root, Buffer.from('f')), value: DentryRecord.encode({ inode: file }).finish() },
    { key: keys.fileChunk(file, chunkIndex(0)), value: packed(chunk) },
    { key: keys.chunk(chunk), value: ChunkRecord.encode({ version: 1, servers: [1] }).finish() },
    { key: keys.meta('epoch'), value: packed(3) },
  ]);
  return store;
}

t.test('a whole state', async (t) => {
  t.equal(checkState(await whole()), 6);
});

t.test('one that is not of one moment', async (t) => {
  const faults: readonly (readonly [string, Key, Uint8Array | null])[] = [
    ['a name without its inode', keys.inode(file), null],
    ['a chunk that is not there', keys.chunk(chunk), null],
    ['a record that is torn', keys.chunk(chunk), Buffer.from([0xff, 0xff, 0xff])],
  ];
  for (const [what, key, value] of faults) {
    const store = await whole();
    await store.commit([{ key, value }]);
    t.throws(() => checkState(store), { code: 'CORRUPT', message: /while the master ran/ }, what);
  }
  const store = await whole();
  const mixed = {
    get: (key: Key) => store.get(key),
    *range() {
      const entries = [...store.range({ start: 'A', end: '[' })];
      yield* entries.slice(3);
      yield* entries.slice(0, 3);
    },
  };
  t.throws(() => checkState(mixed), { code: 'CORRUPT', message: /out of order/ });
});
