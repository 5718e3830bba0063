/** Faults of the master's own disk. What it said is true, or it says nothing: its process ends, and another one reads the log. */
import { pick } from '../../../src/core/random.js';
import { KIB } from '../../../src/core/limits.js';
import { lengthOf } from './fault-length.js';
import { startIfDown } from './fault-machines.js';
import type { Fault } from './fault.js';
import { MASTER } from '../world/world.js';

const LABELS = ['oplog.append', 'oplog.flush', 'oplog.flush', 'oplog.create', 'oplog.header', 'oplog.delete'] as const;

export const MASTER_FAULTS: readonly Fault[] = [
  {
    // Its process ends as soon as it cannot write or sync, and its starts fail, until the disk is in order.
    kind: 'master-disk-error',
    weight: 1,
    budget: 'free',
    run: async (scene) => {
      const { world, random } = scene;
      // A start that cannot read the log does not know what there was: clients are told.
      const label = random.below(3) === 0 && !scene.isGentle ? undefined : pick(random, LABELS);
      const oneIn = pick(random, [1, 1, 5]);
      const failing = world
        .disk(MASTER)
        .plant(
          (each, path) =>
            path.startsWith('/log') && (label === undefined || each === label) && random.below(oneIn) === 0,
          { failWith: 'EIO' },
        );
      await world.sleep(1_000 + lengthOf(scene, 20_000));
      world.disk(MASTER).lift(failing);
      await startIfDown(world, MASTER);
      return failing.hits > 0;
    },
  },
  {
    kind: 'slow-master-disk',
    weight: 1,
    budget: 'free',
    run: async (scene) => {
      const { world, random, isGentle } = scene;
      const delayUs = pick(random, isGentle ? [10e3, 100e3, 500e3] : [10e3, 100e3, 1e6, 5e6, 20e6]);
      const slow = world.disk(MASTER).plant((_, path) => path.startsWith('/log'), { delayUs });
      await world.sleep(lengthOf(scene, 30_000));
      world.disk(MASTER).lift(slow);
      return slow.hits > 0;
    },
  },
  {
    // Whatever makes the namespace larger is told so; the rest goes on out of the reserve.
    kind: 'full-master',
    weight: 1,
    budget: 'free',
    isTold: true,
    run: async (scene) => {
      const { world, random } = scene;
      world.disk(MASTER).fill(random.below(2) === 0 ? 0 : random.below(64 * KIB), '/log');
      await world.sleep(1_000 + lengthOf(scene, 40_000));
      const isShort = await scene.health.isMasterShortOfSpace();
      world.disk(MASTER).makeRoom('/log');
      return isShort;
    },
  },
];
