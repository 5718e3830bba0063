/**
 * Writers and readers of versioned files under rough trouble: faults of all kinds, several at once, for as long as they
 * please. Calls may fail meanwhile; in the end all that was closed is there, but for what was not synced when a server lost it and
 * the others were away for long.
 */
import { SeededRandom } from '../../../src/core/random.js';
import { bringBack, drawShape, QUIET_MS } from './workload.js';
import type { FaultCounts } from '../faults/fault-counts.js';
import { Faults } from '../faults/faults.js';
import type { FaultKind } from '../faults/fault.js';
import { checkReplicas, demandQuiet, filesOf } from '../judges/final-check.js';
import { Health } from '../judges/health.js';
import { VersionedFiles, VERSIONED } from './versioned-files.js';
import { World } from '../world/world.js';

export interface StormOptions {
  readonly seed: number;
  readonly counts: FaultCounts;
  readonly kinds?: readonly FaultKind[];
  /** A kind that is to happen. */
  readonly first?: FaultKind;
  readonly onLine?: (line: string) => void;
}

export interface StormResult {
  readonly digest: string;
  readonly reads: number;
  readonly writes: number;
  /** Calls that failed, by what they said. */
  readonly errors: ReadonlyMap<string, number>;
  readonly simulatedMs: number;
}

const CLIENTS = ['client-1', 'client-2', 'client-3'];
const LENGTH_MS = 100_000;
/** Faults wait for the cluster to become whole, time and again. */
const LIMITS = { limitMs: 3 * 3_600_000 };

export async function runStorm(options: StormOptions): Promise<StormResult> {
  const { seed, counts, kinds, first, onLine } = options;
  const random = new SeededRandom(seed ^ 0x570a);
  const world = new World({ seed, ...drawShape(random), ...(onLine === undefined ? {} : { onLine }) });
  let versioned: VersionedFiles | undefined;
  try {
    await world.runReported(async () => {
      await world.startAll();
      const clients = [];
      for (const host of CLIENTS) clients.push({ host, fs: await world.connect(host) });
      const observer = await world.connect('observer');
      const files = 2 + random.below(3);
      versioned = new VersionedFiles({ world, random, clients, files });
      await versioned.start();
      // Some storms come when everything is at rest.
      if (random.below(2) === 0) await world.sleep(90_000);
      const faults = new Faults({
        ...{ world, random, clients: CLIENTS, observer, counts, isGentle: false },
        bustle: () => versioned?.bustle(),
        onLongAbsence: () => versioned?.losePower(),
        ...(kinds === undefined ? {} : { kinds }),
        ...(first === undefined ? {} : { first }),
      });
      world.background(() => faults.run());
      await world.sleep(LENGTH_MS);
      await faults.stop();
      await versioned.stop();
      await bringBack(world);
      await new Health(world, observer).demandHealthy('at the end');
      await world.sleep(QUIET_MS);
      const fresh = await world.connect('final-checker');
      await versioned.check(fresh);
      await checkReplicas(world, fresh, await filesOf(fresh, new Set([VERSIONED])));
      await demandQuiet(world, fresh);
      await fresh.close();
    }, LIMITS);
  } finally {
    world.stop();
  }
  const { reads, writes, errors } = versioned?.counts ?? { reads: 0, writes: 0, errors: new Map<string, number>() };
  return { digest: world.trace.digest(), reads, writes, errors, simulatedMs: world.clock.nowUs / 1000 };
}
