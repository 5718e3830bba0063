/**
 * The work of shared-file.ts under trouble, and then a loss of power at all machines, which keeps nothing that was not synced. Seeds take
 * turns: in one of three, only what loses nothing happens, and no call may fail.
 */
import t from 'tap';
import { SeededRandom } from '../../../src/core/random.js';
import { seeds } from '../world/seeds.js';
import { MASTER, World } from '../world/world.js';
import { SharedFile } from '../workloads/shared-file.js';

t.setTimeout(0);

const STEPS = 60;
const PAUSE_MS = 2_500;

type Trouble = (world: World, random: SeededRandom) => Promise<void>;

const oneOf = (world: World, random: SeededRandom): string =>
  world.chunkservers[random.below(world.chunkservers.length)] ?? MASTER;

const eitherOf = (world: World, random: SeededRandom): string =>
  random.below(2) === 0 ? MASTER : oneOf(world, random);

async function blackout(world: World, names: readonly string[], forMs: number): Promise<void> {
  for (const name of names) await world.powerOff(name, 'nothing');
  await world.sleep(forMs);
  for (const name of names) await world.powerOn(name);
}

const HARMLESS: readonly Trouble[] = [
  async (world, random) => {
    await world.kill(MASTER);
    await world.sleep(500 + random.below(2_000));
    await world.start(MASTER);
  },
  async (world, random) => {
    const server = oneOf(world, random);
    await world.kill(server);
    await world.sleep(random.below(12_000));
    await world.start(server);
  },
  async (world, random) => {
    world.network.refuse('client-1', eitherOf(world, random));
    world.network.healAll();
  },
  async (world, random) => {
    world.network.partition(eitherOf(world, random), 'client-1', true);
    await world.sleep(random.below(14_000));
    world.network.healAll();
  },
  async (world, random) => {
    world.network.partition(MASTER, oneOf(world, random), true);
    await world.sleep(random.below(7_000));
    world.network.healAll();
  },
];

const LOSSES: readonly Trouble[] = [
  (world, random) => blackout(world, world.chunkservers, 1_000 + random.below(3_000)),
  (world, random) => blackout(world, [MASTER], 500 + random.below(2_000)),
];

for (const seed of seeds(6, Number(process.env['CAIRN_FIRST_SEED'] ?? 1))) {
  const mayFail = seed % 3 !== 0;
  t.test(`P1, P7: parts of one file${mayFail ? ' and losses of power' : ''}: seed ${seed}`, async (t) => {
    const world = new World({ seed });
    const random = new SeededRandom(seed ^ 0x5a5a);
    const troubles = mayFail ? [...HARMLESS, ...LOSSES] : HARMLESS;
    await world.runReported(async () => {
      await world.startAll();
      const one = await world.connect('client-1');
      const two = await world.connect('client-2');
      const shared = new SharedFile({ world, random, one, two, programs: 1 + random.below(4), steps: STEPS, mayFail });
      let isOver = false;
      const trouble = async (): Promise<void> => {
        while (!isOver) {
          await world.sleep(random.below(PAUSE_MS));
          await troubles[random.below(troubles.length)]?.(world, random);
        }
      };
      const ended = trouble();
      world.background(() => ended);
      await shared.run();
      isOver = true;
      await ended;
      await blackout(world, [MASTER, ...world.chunkservers], 1_000);
      await world.sleep(20_000);
      await shared.check(await world.connect('fresh'));
      const counts = [...shared.counts].map(([kind, count]) => `${kind} ${count}`);
      t.comment(`${counts.join(', ')}; ${(world.clock.nowUs / 1e6).toFixed(0)} simulated seconds`);
    });
    world.stop();
  });
}
