import t from 'tap';
import { HandleTable } from '../../src/fuse/handle-table.js';

t.test('handles are small numbers from 1, used again, and never more than the capacity', (t) => {
  const table = new HandleTable<string>(2);
  const [a, b] = [table.add('a'), table.add('b')];
  t.same([a, b], [1, 2]);
  t.throws(() => table.add('c'), { code: 'EMFILE' });
  t.equal(table.remove(a), 'a');
  t.throws(() => table.get(a), { code: 'EBADF' });
  t.equal(table.add('c'), a, 'a number that is free is given again');
  t.equal(table.get(b), 'b');
  t.equal(table.size, 2);
  t.same([...table.values()].sort(), ['b', 'c']);
  t.throws(() => table.remove(99), { code: 'EBADF' });
  t.end();
});
