/** The same seed gives the same run, to the byte; another seed another. */
import t from 'tap';
import { seeds } from './seeds.js';
import { runWorkload } from '../workloads/workload.js';

t.setTimeout(0);

for (const seed of seeds(2, 101)) {
  t.test(`seed ${seed} twice`, async (t) => {
    const first: string[] = [];
    const one = await runWorkload({ seed, operations: 25, onLine: (line) => first.push(line) });
    let at = 0;
    let difference: string | undefined;
    const compare = (line: string): void => {
      const expected = first[at++];
      if (difference === undefined && line !== expected) {
        difference = `line ${at}: ${expected ?? 'the end'} | ${line}`;
      }
    };
    const two = await runWorkload({ seed, operations: 25, onLine: compare });
    t.equal(difference, undefined, 'the first line that differs');
    t.equal(two.digest, one.digest);
    t.same(two, one);
    const other = await runWorkload({ seed: seed + 1000, operations: 25 });
    t.not(other.digest, one.digest);
  });
}
