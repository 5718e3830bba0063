/** What a `Store` promises, checked on each implementation. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { Test } from 'tap';
import { keys, packNumber } from '../../../src/master/state/keys.js';
import { inodeId } from '../../../src/core/ids.js';
import { LmdbStore } from '../../../src/master/store/lmdb-store.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import type { Store } from '../../../src/master/store/store.js';
import { seededRandom } from '../../support/seed.js';

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');

function conformance(name: string, makeStore: (test: Test) => { store: Store; reopen: () => Promise<Store> }): void {
  void t.test(`${name}: values come back as they were put`, async (test) => {
    const { store } = makeStore(test);
    test.equal(store.get('I'), undefined);
    const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    await store.commit([
      { key: `D${all.toString('latin1')}`, value: all },
      { key: 'X', value: Buffer.alloc(0) },
      { key: 'Y', value: Buffer.alloc(64 * 1024, 7) },
    ]);
    test.same(Buffer.from(store.get(`D${all.toString('latin1')}`) ?? []), all);
    test.equal(store.get('X')?.length, 0, 'an empty value is not a missing one');
    test.equal(store.get('Y')?.length, 64 * 1024);
    const kept = store.get('Y');
    store.get('X');
    test.equal(kept?.[100], 7, 'a value stays as it is when others are read');
    await store.close();
  });

  void t.test(`${name}: the last change of a key counts, null deletes, also what is not there`, async (test) => {
    const { store } = makeStore(test);
    await store.commit([
      { key: 'a', value: bytes('1') },
      { key: 'b', value: bytes('1') },
    ]);
    await store.commit([
      { key: 'a', value: null },
      { key: 'b', value: null },
      { key: 'b', value: bytes('2') },
      { key: 'never', value: null },
    ]);
    test.equal(store.get('a'), undefined);
    test.same(Buffer.from(store.get('b') ?? []), bytes('2'));
    await store.commit([]);
    await store.close();
  });

  void t.test(`${name}: ranges are in byte order, start included, end not, and lazy`, async (test) => {
    const { store } = makeStore(test);
    const random = seededRandom(test);
    const model = new Map<string, string>();
    for (let round = 0; round < 20; round++) {
      const changes = Array.from({ length: 100 }, () => {
        const key = `C${packNumber(random.below(3))}${random.bytes(1 + random.below(3)).toString('latin1')}`;
        const value = random.below(4) === 0 ? null : random.bytes(3);
        return { key, value };
      });
      for (const { key, value } of changes) {
        if (value === null) model.delete(key);
        else model.set(key, value.toString('hex'));
      }
      await store.commit(changes);
      const edges = [...model.keys(), 'C', 'D'].sort();
      const start = edges[random.below(edges.length)] ?? '';
      const end = edges[random.below(edges.length)] ?? '';
      const expected = [...model].filter(([key]) => key >= start && key < end).sort(([a], [b]) => (a < b ? -1 : 1));
      const found = [...store.range({ start, end })].map(([key, value]) => [key, Buffer.from(value).toString('hex')]);
      test.strictSame(found, expected);
      for (const [key] of store.range({ start: '', end: 'Z' })) {
        test.equal(
          key,
          edges.find((edge) => model.has(edge)),
        );
        break;
      }
    }
    await store.close();
  });

  void t.test(`${name}: what was committed is there after closing and opening`, async (test) => {
    const { store, reopen } = makeStore(test);
    const key = keys.dentry(inodeId(2 ** 52), bytes('n\xff\x80'));
    await store.commit([{ key, value: bytes('x') }]);
    await store.close();
    const again = await reopen();
    test.same(Buffer.from(again.get(key) ?? []), bytes('x'));
    await again.close();
    await again.close();
  });

  void t.test(`${name}: a large transaction, and reads while it runs see all of it or nothing`, async (test) => {
    const { store } = makeStore(test);
    const changes = Array.from({ length: 5000 }, (_, i) => ({ key: `K${packNumber(i)}`, value: bytes(String(i)) }));
    const commit = store.commit(changes);
    for (let looks = 0; looks < 100; looks++) {
      const [first, last] = [store.get(`K${packNumber(0)}`), store.get(`K${packNumber(4999)}`)];
      test.equal(first === undefined, last === undefined);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await commit;
    let count = 0;
    for (const _ of store.range({ start: 'K', end: 'L' })) count++;
    test.equal(count, 5000);
    await store.close();
  });
}

conformance('MemoryStore', () => {
  const store = new MemoryStore();
  return { store, reopen: () => Promise.resolve(store) };
});

conformance('LmdbStore', (test) => {
  const directory = mkdtempSync(join(tmpdir(), 'cairn-store-'));
  test.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, 'store');
  return { store: LmdbStore.open(path), reopen: () => Promise.resolve(LmdbStore.open(path)) };
});

void t.test('LmdbStore: a place that cannot be opened is a clear error', (test) => {
  test.throws(() => LmdbStore.open('/dev/null/store'), { name: 'CairnError', message: /\/dev\/null\/store/ });
  test.end();
});
