/**
 * Two misfortunes that overlap, each pair in turn: the second one comes while the first lasts, to the same server or to another one,
 * beside writers, and readers who know the chunks from before. There are three replicas, so that whatever two of them meet with,
 * one is left. In the end everything is whole, and what was synced is there.
 *
 * CAIRN_SEEDS=300 goes on through the pairs with other seeds, CAIRN_SEED=17 runs that one again.
 */
import assert from 'node:assert/strict';
import { asCairnError } from '../../../src/core/errors.js';
import { KIB } from '../../../src/core/limits.js';
import { pick, SeededRandom } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import { backUp } from '../world/administrator.js';
import { checkReplicas, demandQuiet, filesOf } from '../judges/final-check.js';
import { Health } from '../judges/health.js';
import { seeds } from '../world/seeds.js';
import { VersionedFiles, VERSIONED } from '../workloads/versioned-files.js';
import type { VersionedClient } from '../workloads/versioned-files.js';
import { bringBack, QUIET_MS } from '../workloads/workload.js';
import { MASTER, World } from '../world/world.js';

interface Scene {
  readonly world: World;
  readonly random: Random;
  readonly versioned: VersionedFiles;
  /** Work that is to go on until this is called. */
  readonly restored: () => void;
}

/** Begins it, and returns what ends it. */
type Misfortune = (scene: Scene, server: string) => Promise<() => Promise<void>>;

const DAYS_MS = 86_400_000;
const CLIENTS = ['client-1', 'client-2', 'client-3'];
const LIMITS = { limitMs: 3 * 3_600_000 };

async function startAgain({ world }: Scene, server: string): Promise<void> {
  if (world.isFrozen(server)) world.thaw(server);
  await world.kill(server);
  await world.tryStart(server);
}

async function masterAgain(world: World): Promise<void> {
  await world.kill(MASTER);
  await world.start(MASTER);
}

const MISFORTUNES: Readonly<Record<string, Misfortune>> = {
  'disk away': async (scene, server) => {
    const { world, random } = scene;
    const volume = pick(random, world.dataDirectories);
    await world.kill(server);
    world.disk(server).unmount(volume);
    await startAgain(scene, server);
    return async () => {
      await world.kill(server);
      world.disk(server).mount(volume);
      await startAgain(scene, server);
    };
  },
  'disk hangs': (scene, server) => {
    const { world, random } = scene;
    const volume = pick(random, world.dataDirectories);
    const hung = world.disk(server).plant((_, path) => path.startsWith(`${volume}/`), { hangs: true });
    return Promise.resolve(async () => {
      world.disk(server).lift(hung);
      await startAgain(scene, server);
    });
  },
  rot: ({ world, random }, server) => {
    const disk = world.disk(server);
    const files = world.dataDirectories.flatMap((volume) => disk.files(`${volume}/chunks`));
    for (let count = Math.min(files.length, 1 + random.below(6)); count > 0; count--) {
      const path = pick(random, files);
      const size = disk.content(path).length;
      if (size > 16 * KIB) disk.rot(path, 16 * KIB + random.below(size - 16 * KIB));
    }
    return Promise.resolve(() => Promise.resolve());
  },
  'disk full': ({ world, random }, server) => {
    const volume = pick(random, world.dataDirectories);
    world.disk(server).fill(random.below(16 * KIB), volume);
    return Promise.resolve(() => {
      world.disk(server).makeRoom(volume);
      return Promise.resolve();
    });
  },
  killed: async (scene, server) => {
    await scene.world.kill(server);
    return () => startAgain(scene, server);
  },
  suspended: ({ world }, server) => {
    if (!world.isFrozen(server)) world.freeze(server, 'suspended');
    return Promise.resolve(() => {
      if (world.isFrozen(server)) world.thaw(server);
      return Promise.resolve();
    });
  },
  'removed by force': async (scene, server) => {
    const { world } = scene;
    await world.kill(server);
    await world.sleep(13_000);
    const operator = await world.connect('operator');
    for (let attempts = 0, done = false; !done && attempts < 60; attempts++) {
      try {
        const { servers } = await operator.status();
        const known = servers.find(({ address }) => address.startsWith(`${server}:`));
        done = known === undefined || (await operator.removeServer(known.serverId, attempts === 0)).removed;
      } catch (error) {
        if (asCairnError(error).code === 'ENOENT') done = true;
      }
      await world.sleep(500);
    }
    await operator.close();
    return () => startAgain(scene, server);
  },
  'other replicas': async ({ world }) => {
    world.wantedReplicas = 2;
    await masterAgain(world);
    return async () => {
      world.wantedReplicas = 3;
      await masterAgain(world);
    };
  },
  'master put back': async ({ world, versioned, random, restored }) => {
    const backup = versioned.backup();
    const restoreState = backUp(world);
    if (random.below(2) === 0) await masterAgain(world);
    return async () => {
      await world.kill(MASTER);
      await restoreState();
      versioned.putBack(backup);
      restored();
      await world.start(MASTER);
    };
  },
  'clock jumps': ({ world, random }, server) => {
    const host = pick(random, [MASTER, server]);
    const byMs = pick(random, [-400, -1, 1, 30]) * DAYS_MS;
    world.moveClock(host, byMs);
    return Promise.resolve(() => {
      world.moveClock(host, -byMs);
      return Promise.resolve();
    });
  },
};

const NAMES = Object.keys(MISFORTUNES);
const PAIRS = NAMES.flatMap((one) => NAMES.map((other) => [one, other] as const));

async function runPair(seed: number): Promise<string> {
  const random = new SeededRandom(seed ^ 0x9a17);
  const [one, other] = PAIRS[(seed * 37) % PAIRS.length] ?? assert.fail();
  const world = new World({ seed, chunkservers: 4, wantedReplicas: 3, dataDirectories: 1 + random.below(2) });
  const [first, second] = [pick(random, world.chunkservers), pick(random, world.chunkservers)];
  const title = `${one} at ${first}, ${other} at ${second}`;
  try {
    await world.runReported(async () => {
      await world.startAll();
      const clients: VersionedClient[] = [];
      for (const host of CLIENTS) clients.push({ host, fs: await world.connect(host) });
      const versioned = new VersionedFiles({ world, random, clients, files: 3 + random.below(3) });
      await versioned.start();
      const scene = { world, random, versioned, restored: () => undefined };
      await world.sleep(random.below(2) === 0 ? 90_000 : random.below(20_000));
      const ends: (() => Promise<void>)[] = [];
      for (const [name, server] of [
        [one, first],
        [other, second],
      ] as const) {
        world.trace.add(`misfortune ${name} at ${server}`);
        ends.push((await MISFORTUNES[name]?.(scene, server)) ?? assert.fail());
        await world.sleep(pick(random, [500, 5_000, 12_000, 50_000]));
      }
      if (random.below(2) === 0) ends.reverse();
      for (const end of ends) {
        await end();
        versioned.bustle();
        await world.sleep(random.below(15_000));
      }
      for (const name of world.chunkservers) if (world.isFrozen(name)) world.thaw(name);
      await bringBack(world);
      const observer = await world.connect('observer');
      await new Health(world, observer).demandHealthy(`after ${title}`);
      await versioned.check(observer);
      await versioned.stop();
      await world.sleep(QUIET_MS);
      const fresh = await world.connect('final-checker');
      await versioned.check(fresh);
      await checkReplicas(world, fresh, await filesOf(fresh, new Set([VERSIONED])));
      await demandQuiet(world, fresh);
    }, LIMITS);
  } catch (error) {
    throw new Error(title, { cause: error });
  } finally {
    world.stop();
  }
  return title;
}

// It speaks TAP by itself, as fault-kinds.test.ts does.
const all = seeds(12, Number(process.env['CAIRN_FIRST_SEED'] ?? 1));
let number = 0;
process.stdout.write('TAP version 14\n');
for (const seed of all) {
  number++;
  try {
    process.stdout.write(`ok ${number} - seed ${seed}: ${await runPair(seed)}\n`);
  } catch (error) {
    const { message, cause } = error as Error;
    process.stdout.write(`not ok ${number} - seed ${seed}: ${message}\n`);
    process.stdout.write(String(cause instanceof Error ? cause.stack : cause).replace(/^/gm, '# ') + '\n');
    process.exitCode = 1;
  }
}
process.stdout.write(`1..${number}\n`);
