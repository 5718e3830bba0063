/**
 * Random work under random faults, one seed after another, compared with the model (P2-P7, P9-P11).
 * CAIRN_SEEDS=200 runs more of them; CAIRN_SEED=17 runs that one again, CAIRN_LOG=1 with the log of the processes.
 */
import t from 'tap';
import { seeds } from '../world/seeds.js';
import { runWorkload } from '../workloads/workload.js';

// No time-out: a stuck world ends by its own limit of simulated time.
t.setTimeout(0);

for (const seed of seeds(50)) {
  t.test(`seed ${seed}`, async (t) => {
    const result = await runWorkload({ seed });
    t.ok(result.operations > 0);
    t.comment(
      `${result.operations} operations, ${result.chunks} chunks, ${result.events} events, ` +
        `${(result.simulatedMs / 1000).toFixed(0)} simulated seconds`,
    );
  });
}
