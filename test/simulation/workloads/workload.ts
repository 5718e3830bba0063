/** Random work by two clients under random faults, compared with the model while it runs and when all is quiet. */
import { ROOT_INODE } from '../../../src/core/ids.js';
import { pick, SeededRandom } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import type { FileSystem } from '../../../src/filesystem/filesystem.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';
import { Actor } from './actor.js';
import { FaultCounts } from '../faults/fault-counts.js';
import { Faults, PLAIN_KINDS } from '../faults/faults.js';
import type { FaultKind } from '../faults/fault.js';
import { DoomedWriters, DOOMED } from './doomed.js';
import { Health } from '../judges/health.js';
import { checkReplicas, compareTrees, filesOf } from '../judges/final-check.js';
import { MASTER, World } from '../world/world.js';
import type { WorldOptions } from '../world/world.js';

export interface WorkloadOptions {
  readonly seed: number;
  readonly operations?: number;
  /** Programs rest up to so long, now and then. Default 400. */
  readonly pauseMs?: number;
  /** false: no faults at all. */
  readonly faults?: boolean;
  /** Default: those of a plain cluster. */
  readonly kinds?: readonly FaultKind[];
  /** A kind that is to happen. */
  readonly first?: FaultKind;
  readonly counts?: FaultCounts;
  /** Whether the seed says how many chunkservers, disks and replicas there are. Default: three, one, two. */
  readonly isShapeDrawn?: boolean;
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
export const QUIET_MS = 90_000;

/** A cluster that can replace what it loses. */
export function drawShape(random: Random): Pick<WorldOptions, 'chunkservers' | 'dataDirectories' | 'wantedReplicas'> {
  const wantedReplicas = pick(random, [2, 2, 3]);
  const chunkservers = wantedReplicas + pick(random, wantedReplicas === 2 ? [1, 1, 2, 3] : [1, 1, 2]);
  return { wantedReplicas, chunkservers, dataDirectories: pick(random, [1, 1, 1, 2, 2, 3]) };
}

export async function runWorkload(options: WorkloadOptions): Promise<WorkloadResult> {
  const random = new SeededRandom(options.seed ^ 0x5eed);
  const world = new World({
    seed: options.seed,
    ...(options.isShapeDrawn === true ? drawShape(random) : {}),
    ...(options.onLine === undefined ? {} : { onLine: options.onLine }),
  });
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
      const clients: ClusterFileSystem[] = [];
      for (const name of CLIENTS) clients.push(await world.connect(name));
      const awake = (client: FileSystem): Promise<void> =>
        world.awake(CLIENTS[clients.findIndex((each) => each === client)] ?? '');
      const actors = await makeActors({ clients, model, random, onOperation, awake });
      const observer = await world.connect('observer');
      const { kinds = PLAIN_KINDS, first, counts = new FaultCounts([]) } = options;
      const faults = new Faults({
        ...{ world, random, clients: CLIENTS, observer, kinds, counts },
        ...(first === undefined ? {} : { first }),
      });
      const doomed = new DoomedWriters(world, new SeededRandom(options.seed ^ 0xd00d), options.pauseMs);
      if (options.faults !== false) {
        world.background(() => faults.run());
        world.background(() => doomed.run());
      }
      await Promise.all(
        actors.map(async (actor) => {
          for (let count = 0; count < (options.operations ?? 50); count++) {
            await actor.step();
            if (random.below(4) === 0) await world.sleep(random.below(options.pauseMs ?? 400));
          }
          await actor.handOver();
        }),
      );
      await doomed.stop();
      await faults.stop();
      await bringBack(world);
      if (options.isShapeDrawn === true) await new Health(world, observer).demandHealthy('at the end');
      await observer.close();
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
  readonly awake?: (client: FileSystem) => Promise<void>;
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
    const { model, onOperation, awake = () => Promise.resolve(), syncsBeforeClose = false } = parts;
    actors.push(new Actor({ name, random, clients, model, home, onOperation, awake, syncsBeforeClose }));
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
