/** Random work by two clients under random faults, compared with the model while it runs and when all is quiet. */
import { ROOT_INODE } from '../../src/core/ids.js';
import { SeededRandom } from '../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../src/client/filesystem.js';
import type { FileSystem } from '../../src/client/filesystem.js';
import { ModelFileSystem } from '../support/model-filesystem.js';
import { Actor } from './actor.js';
import { Faults } from './faults.js';
import type { FaultKind } from './faults.js';
import { DoomedWriters, DOOMED } from './doomed.js';
import { checkReplicas, compareTrees, filesOf } from './final-check.js';
import { MASTER, World } from './world.js';

export interface WorkloadOptions {
  readonly seed: number;
  readonly operations?: number;
  /** false: no faults at all. */
  readonly faults?: boolean;
  readonly without?: readonly FaultKind[];
  readonly onLine?: (line: string) => void;
}

export interface WorkloadResult {
  readonly digest: string;
  readonly operations: number;
  readonly simulatedMs: number;
  readonly events: number;
  readonly chunks: number;
}

const CLIENTS = ['client-1', 'client-2'];
/** Longer than leases, session time-outs and the time to notice the dead. */
const QUIET_MS = 90_000;

export async function runWorkload(options: WorkloadOptions): Promise<WorkloadResult> {
  const world = new World({ seed: options.seed, ...(options.onLine === undefined ? {} : { onLine: options.onLine }) });
  const random = new SeededRandom(options.seed ^ 0x5eed);
  const model = new ModelFileSystem();
  let operations = 0;
  let chunks = 0;
  const onOperation = (line: string): void => {
    operations++;
    world.trace.add(`operation ${line}`);
  };
  try {
    await world.runReported(async () => {
      await world.startAll();
      const clients = [];
      for (const name of CLIENTS) clients.push(await world.connect(name));
      const actors = await makeActors({ clients, model, random, onOperation });
      const observer = await world.connect('observer');
      const faults = new Faults({ world, random, clients: CLIENTS, observer, without: options.without ?? [] });
      const doomed = new DoomedWriters(world, new SeededRandom(options.seed ^ 0xd00d));
      if (options.faults !== false) {
        world.background(() => faults.run());
        world.background(() => doomed.run());
      }
      await Promise.all(
        actors.map(async (actor) => {
          for (let count = 0; count < (options.operations ?? 50); count++) {
            await actor.step();
            if (random.below(4) === 0) await world.sleep(random.below(400));
          }
          await actor.handOver();
        }),
      );
      await doomed.stop();
      await faults.stop();
      await observer.close();
      await bringBack(world);
      chunks = await settleAndCheck(world, model, new Set([DOOMED]));
      for (const client of clients) await client.close();
    });
  } finally {
    world.stop();
  }
  const { clock, trace } = world;
  return {
    digest: trace.digest(),
    operations: operations / 2,
    simulatedMs: clock.nowUs / 1000,
    events: clock.eventsRun,
    chunks,
  };
}

/** Two programs on each client, and two whose work goes from client to client. */
export async function makeActors(parts: {
  readonly clients: readonly FileSystem[];
  readonly model: FileSystem;
  readonly random: SeededRandom;
  readonly onOperation: (line: string) => void;
  readonly syncsBeforeClose?: boolean;
}): Promise<Actor[]> {
  const [one, two] = parts.clients;
  if (one === undefined || two === undefined) throw new Error('two clients are needed');
  const plans = [[one], [one], [two], [two], [one, two], [two, one]];
  const actors: Actor[] = [];
  for (const [index, clients] of plans.entries()) {
    const name = `actor-${index}`;
    const make = async (fs: FileSystem) => {
      const node = { kind: 'directory', mode: 0o777 } as const;
      return (await fs.makeNode(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from(name), node)).inode;
    };
    const home = { real: await make(clients[0] ?? one), model: await make(parts.model) };
    const random = new SeededRandom(parts.random.below(2 ** 32));
    const { model, onOperation, syncsBeforeClose = false } = parts;
    actors.push(new Actor({ name, random, clients, model, home, onOperation, syncsBeforeClose }));
  }
  return actors;
}

/** Waits until all is quiet and compares everything, as a new client sees it. Returns the number of chunks. */
export async function settleAndCheck(
  world: World,
  model: FileSystem,
  ignore: ReadonlySet<string> = new Set(),
  ignored: { readonly mayBeLost: boolean } = { mayBeLost: false },
): Promise<number> {
  await world.sleep(QUIET_MS);
  const fresh = await world.connect('final-checker');
  const files = await compareTrees(fresh, model, ignore);
  const left = await filesOf(fresh, ignore);
  const chunks = (await checkReplicas(world, fresh, files)) + (await checkReplicas(world, fresh, left, ignored));
  await fresh.close();
  return chunks;
}

/** Heals the network and starts what is down. */
export async function bringBack(world: World): Promise<void> {
  world.network.healAll();
  for (const name of [MASTER, ...world.chunkservers]) {
    if (!world.isRunning(name)) await world.powerOn(name);
  }
}
