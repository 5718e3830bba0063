/** Faults of processes and of whole machines. */
import { pick } from '../../../src/core/random.js';
import { lengthOf } from './fault-length.js';
import type { Fault, FaultScene } from './fault.js';
import { MASTER } from '../world/world.js';
import type { World } from '../world/world.js';

/** A server that came back has registered and reported. */
const SETTLE_MS = 2_000;

export const MACHINE_FAULTS: readonly Fault[] = [
  {
    kind: 'kill-chunkserver',
    weight: 2,
    budget: 'place',
    run: (scene, server) => killAndRestart(scene, server, lengthOf(scene, 60_000)),
  },
  {
    kind: 'kill-master',
    weight: 1,
    budget: 'free',
    run: (scene) => killAndRestart(scene, MASTER, lengthOf(scene, 20_000)),
  },
  {
    kind: 'end-chunkserver',
    weight: 1,
    budget: 'place',
    run: (scene, server) => endAndRestart(scene, server, lengthOf(scene, 20_000)),
  },
  {
    kind: 'end-master',
    weight: 1,
    budget: 'free',
    run: (scene) => endAndRestart(scene, MASTER, lengthOf(scene, 10_000)),
  },
  {
    // Its disk keeps any part of what was not synced.
    kind: 'power-chunkserver',
    weight: 3,
    budget: 'loss',
    run: async (scene, server) => {
      const { world } = scene;
      const lost = await world.powerOff(server);
      await world.sleep(lengthOf(scene));
      world.network.hostUp(server);
      await startRoughly(scene, server);
      await world.sleep(SETTLE_MS);
      return lost > 0;
    },
  },
  {
    kind: 'suspend-chunkserver',
    weight: 2,
    budget: 'place',
    run: (scene, server) => freeze(scene, server, 'suspended', 40_000),
  },
  {
    // It comes back with replicas that are old by then, deletes them slowly, and its answers are lost now and then: what the master
    // has asked for and given up may come to pass when it has asked for something else.
    kind: 'slow-return',
    weight: 2,
    budget: 'place',
    run: async (scene, server) => {
      const { world, random } = scene;
      const disk = world.disk(server);
      const delayUs = pick(random, [300e3, 3e6, 9e6]);
      const labels = pick(random, [['chunk.unlink'], ['chunk.unlink', 'chunk.sync'], ['chunk.unlink', 'chunk.write']]);
      await world.kill(server);
      await world.sleep(scene.isGentle ? lengthOf(scene) : 11_000 + random.below(30_000));
      const slow = disk.plant((label) => labels.includes(label), { delayUs });
      await startIfDown(world, server);
      for (let count = 1 + random.below(5); count > 0; count--) {
        await world.sleep(random.below(scene.isGentle ? 1_500 : 8_000));
        world.network.partition(server, MASTER, true);
        await world.sleep(1 + random.below(random.below(2) === 0 ? 100 : 2_000));
        world.network.breakConnection(server, MASTER);
        world.network.heal(server, MASTER);
      }
      await world.sleep(lengthOf(scene, 20_000));
      disk.lift(slow);
      scene.bustle();
      // What is under way still takes its time: a disk that does not answer for that long is trouble enough.
      await world.sleep(delayUs / 1000);
      return slow.hits > 0;
    },
  },
  {
    kind: 'stop-chunkserver',
    weight: 1,
    budget: 'place',
    run: (scene, server) => freeze(scene, server, 'stopped', 40_000),
  },
  {
    kind: 'suspend-master',
    weight: 1,
    budget: 'free',
    run: (scene) => freeze(scene, MASTER, pick(scene.random, ['suspended', 'stopped']), 30_000),
  },
  {
    // For longer than sessions live, sometimes.
    kind: 'suspend-client',
    weight: 1,
    budget: 'free',
    run: (scene) =>
      freeze(scene, pick(scene.random, scene.clients), pick(scene.random, ['suspended', 'stopped']), 100_000),
  },
];

async function killAndRestart({ world }: FaultScene, name: string, awayMs: number): Promise<boolean> {
  if (!world.isRunning(name)) return false;
  await world.kill(name);
  await world.sleep(awayMs);
  await startIfDown(world, name);
  return true;
}

/** An orderly end, after which nothing is in doubt. */
async function endAndRestart({ world }: FaultScene, name: string, awayMs: number): Promise<boolean> {
  if (!world.isRunning(name) || world.isFrozen(name)) return false;
  const isDone = await world.end(name);
  await world.sleep(awayMs);
  await startIfDown(world, name);
  return isDone;
}

/**
 * Starts that are killed at any moment, now and then, before one that is not; with many replicas to look at, as it seems, when the
 * disk takes long for each.
 */
export async function startRoughly(
  { world, random }: Pick<FaultScene, 'world' | 'random'>,
  name: string,
): Promise<boolean> {
  let kills = random.below(3) === 0 ? 1 + random.below(2) : 0;
  if (kills === 0) return startIfDown(world, name);
  const disk = world.disk(name);
  const delayUs = pick(random, [0, 400e3, 4e6]);
  const slow = disk.plant((label) => label === 'chunk.peek', { delayUs });
  for (; kills > 0 && !world.isRunning(name); kills--) {
    world.background(() => world.tryStart(name));
    await world.sleep(random.below(pick(random, [20, 500, 2_000])));
    await world.kill(name);
    await world.sleep(random.below(2_000));
  }
  const isUp = await startIfDown(world, name);
  world.background(async () => {
    await world.sleep(random.below(20_000));
    disk.lift(slow);
  });
  return isUp;
}

/** A server that dies at its start, as when no disk of it can be used, stays down until somebody helps. */
export async function startIfDown(world: World, name: string): Promise<boolean> {
  if (world.isRunning(name)) return true;
  return world.tryStart(name);
}

async function freeze(
  scene: FaultScene,
  name: string,
  kind: 'suspended' | 'stopped',
  roughMs: number,
): Promise<boolean> {
  const { world } = scene;
  if (!world.isRunning(name) || world.isFrozen(name)) return false;
  world.freeze(name, kind);
  if (scene.isGentle) {
    // Nobody may have done without it for so long that its programs are told.
    await world.sleep(lengthOf(scene, scene.clients.includes(name) ? 8_000 : roughMs));
  } else {
    // Mostly for longer than it takes until others go on without it, and not for so long that nobody remembers it.
    const { random } = scene;
    await world.sleep(random.below(3) === 0 ? lengthOf(scene, roughMs) : 9_000 + random.below(25_000));
    if (random.below(8) === 0) scene.bustle();
  }
  const held = world.thaw(name);
  scene.bustle();
  return held > 0;
}
