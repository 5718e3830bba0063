/** Faults of connections and links. What is lost is told, or not; nothing that was said before is lost with it. */
import { pick } from '../../../src/core/random.js';
import { lengthOf } from './fault-length.js';
import type { Fault, FaultScene } from './fault.js';
import { MASTER } from '../world/world.js';

export const NETWORK_FAULTS: readonly Fault[] = [
  {
    kind: 'break',
    weight: 2,
    budget: 'free',
    run: async (scene) => {
      const [one, two] = twoHosts(scene);
      return scene.world.network.breakConnection(one, two);
    },
  },
  {
    // What is asked in this time arrives; the answers do not.
    kind: 'lost-reply',
    weight: 3,
    budget: 'free',
    run: async ({ world, random, clients }) => {
      const client = pick(random, clients);
      world.network.partition(MASTER, client, true);
      await world.sleep(1 + random.below(100));
      const isBroken = world.network.breakConnection(client, MASTER);
      world.network.heal(MASTER, client);
      return isBroken;
    },
  },
  {
    // The same between a chunkserver and the master: what the server did for the master is not known there.
    kind: 'lost-answer',
    weight: 2,
    budget: 'free',
    run: async ({ world, random }, server) => {
      world.network.partition(server, MASTER, true);
      await world.sleep(1 + random.below(random.below(2) === 0 ? 100 : 4000));
      const isBroken = world.network.breakConnection(server, MASTER);
      world.network.heal(server, MASTER);
      return isBroken;
    },
  },
  {
    kind: 'partition',
    weight: 2,
    budget: 'free',
    run: async (scene) => {
      const { world } = scene;
      const [one, two] = twoHosts(scene);
      world.network.partition(one, two);
      await world.sleep(lengthOf(scene));
      world.network.heal(one, two);
      return true;
    },
  },
  {
    kind: 'half-partition',
    weight: 2,
    budget: 'free',
    run: async (scene) => {
      const { world } = scene;
      const [one, two] = twoHosts(scene);
      world.network.partition(one, two, true);
      await world.sleep(lengthOf(scene));
      world.network.heal(one, two);
      return true;
    },
  },
  {
    kind: 'slow-link',
    weight: 2,
    budget: 'free',
    run: async (scene) => {
      const { world, random } = scene;
      const [one, two] = twoHosts(scene);
      world.network.slow(one, two, pick(random, [10, 100, 500]));
      await world.sleep(lengthOf(scene));
      world.network.heal(one, two);
      return true;
    },
  },
  {
    // Some of the others reach the server and some do not, and those are told so at once.
    kind: 'resets',
    weight: 3,
    budget: 'place',
    run: async (scene, server) => {
      const { world, random, clients } = scene;
      const others = [MASTER, ...world.chunkservers, ...clients].filter((name) => name !== server);
      const cutOff = others.filter((name) => random.below(name === MASTER ? 4 : 2) > 0);
      let broken = 0;
      for (const name of cutOff) broken += world.network.refuse(name, server);
      await world.sleep(lengthOf(scene, 40_000));
      for (const name of cutOff) world.network.heal(name, server);
      scene.bustle();
      return broken > 0;
    },
  },
];

/** Two that talk to each other. */
function twoHosts({ world, random, clients }: FaultScene): [string, string] {
  const hosts = [MASTER, ...world.chunkservers, ...clients];
  for (;;) {
    const [one, two] = [pick(random, hosts), pick(random, hosts)];
    if (one !== two && !(clients.includes(one) && clients.includes(two))) return [one, two];
  }
}
