import t from 'tap';
import { LruMap } from '../../src/core/lru.js';

t.test('P8: it holds at most its bound, the latest used among it, and tells what it forgets', (t) => {
  const evicted: number[] = [];
  const map = new LruMap<number, string>(100, (value, key) => {
    t.equal(value, `v${key}`);
    evicted.push(key);
  });
  for (let key = 0; key < 1000; key++) {
    map.set(key, `v${key}`);
    t.equal(map.get(0), 'v0', 'what is used all the time stays');
    if (map.size > 100) t.fail(`holds ${map.size}`);
  }
  for (let key = 999; key > 950; key--) t.equal(map.peek(key), `v${key}`);
  t.equal(map.peek(500), undefined);
  t.equal(new Set(evicted).size, evicted.length, 'each is told once');
  t.equal(evicted.length + map.size, 1000);
  map.delete(999);
  t.equal(map.get(999), undefined);
  t.equal([...map.values()].length, map.size);
  map.clear();
  t.equal(map.size, 0);
  t.end();
});
