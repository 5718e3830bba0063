import t from 'tap';
import { pick, SeededRandom, SystemRandom } from '../../src/core/random.js';

t.test('the same seed gives the same numbers and bytes, another seed others', (t) => {
  const numbers = (seed: number): string => {
    const random = new SeededRandom(seed);
    return [...Array.from({ length: 50 }, () => random.below(1_000_000)), random.bytes(16).toString('hex')].join();
  };
  t.equal(numbers(1), numbers(1));
  t.not(numbers(1), numbers(2));
  t.end();
});

t.test('below is even over its range and stays within it', (t) => {
  for (const random of [new SeededRandom(3), new SystemRandom()]) {
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 20_000; i++) {
      const n = random.below(10);
      counts[n] = (counts[n] ?? 0) + 1;
    }
    t.equal(counts.length, 10);
    // 2,000 each with a deviation of 42: nine deviations never happen by chance.
    for (const count of counts) t.ok(Math.abs(count - 2000) < 400, `${count} of 20,000`);
    t.equal(random.below(1), 0);
  }
  t.end();
});

t.test('pick takes one of the items and refuses an empty list', (t) => {
  const random = new SeededRandom(5);
  const seen = new Set(Array.from({ length: 100 }, () => pick(random, ['a', 'b', 'c'])));
  t.same([...seen].sort(), ['a', 'b', 'c']);
  t.throws(() => pick(random, []), RangeError);
  t.end();
});
