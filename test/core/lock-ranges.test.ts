/** Locked ranges against a plain list of bytes, and the tree of intervals against a plain list of intervals. */
import t from 'tap';
import { IntervalTree } from '../../src/core/interval-tree.js';
import { LockRanges } from '../../src/core/lock-ranges.js';
import { pick } from '../../src/core/random.js';
import { seededRandom } from '../support/seed.js';
import { setAudits } from '../../src/core/invariant.js';

setAudits(true);
t.test('ranges of an owner: set, unlocked, merged and split like a list of bytes', (t) => {
  const random = seededRandom(t);
  const size = 24;
  for (let run = 0; run < 200; run++) {
    const ranges = new LockRanges();
    const bytes = Array.from({ length: size }, () => '');
    for (let step = 0; step < 60; step++) {
      const start = random.below(size);
      const end = start + random.below(size - start);
      const type = pick(random, ['read', 'write', 'unlock'] as const);
      if (type === 'unlock') ranges.clear({ start, end });
      else {
        const lock = { type, start, end, pid: step };
        const isCovered = bytes.slice(start, end + 1).every((held) => held === type);
        if (ranges.covers(lock) !== isCovered) throw new Error('covers');
        ranges.set(lock);
      }
      bytes.fill(type === 'unlock' ? '' : type, start, end + 1);
      const expected: { type: string; start: number; end: number }[] = [];
      for (const [at, held] of bytes.entries()) {
        const last = expected.at(-1);
        if (held === '') continue;
        if (last?.type === held && last.end === at - 1) last.end = at;
        else expected.push({ type: held, start: at, end: at });
      }
      const held = [...ranges].map(({ type, start, end }) => ({ type, start, end }));
      if (JSON.stringify(held) !== JSON.stringify(expected)) t.same(held, expected, `run ${run}, step ${step}`);
      if (ranges.hasWrites !== bytes.includes('write') || ranges.size !== expected.length) t.fail('counts');
      const touching = ranges.overlapping({ start, end }).map((range) => range.start);
      const wanted = expected.filter((range) => range.start <= end && range.end >= start).map((range) => range.start);
      if (JSON.stringify(touching) !== JSON.stringify(wanted)) t.same(touching, wanted);
    }
  }
  t.end();
});

t.test('intervals: what overlaps, but of one group, as in a plain list', (t) => {
  const random = seededRandom(t);
  for (let run = 0; run < 40; run++) {
    const tree = new IntervalTree<{ start: number; end: number; order: number; group: string }>();
    let list: { start: number; end: number; order: number; group: string }[] = [];
    for (let step = 0; step < 300; step++) {
      const item = list[random.below(list.length + 1)];
      if (item !== undefined && random.below(5) < 2) {
        tree.delete(item);
        list = list.filter((other) => other !== item);
      } else {
        const start = random.below(100);
        const added = { start, end: start + random.below(20), order: step, group: pick(random, ['a', 'b', 'c']) };
        tree.insert(added);
        list.push(added);
      }
      const [from, to] = [random.below(100), random.below(120)].sort((a, b) => a - b) as [number, number];
      const except = pick(random, ['a', 'b', 'none']);
      const expected = list
        .filter(({ start, end, group }) => start <= to && end >= from && group !== except)
        .sort((a, b) => a.start - b.start || a.order - b.order);
      const found = tree.all(from, to, except);
      if (found.length !== expected.length || found.some((each, i) => each !== expected[i])) t.same(found, expected);
      if (tree.first(from, to, except) !== expected[0]) t.fail('first');
      if (tree.size !== list.length) t.fail('size');
    }
  }
  t.throws(() => new IntervalTree().delete({ start: 1, order: 1 }), RangeError);
  t.end();
});
