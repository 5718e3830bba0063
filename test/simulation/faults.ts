/** Random trouble, of kinds that the promises say a cluster survives, each of which ends by itself. */
import assert from 'node:assert/strict';
import { pick } from '../../src/core/random.js';
import type { Random } from '../../src/core/random.js';
import type { ClusterFileSystem } from '../../src/client/cluster-filesystem.js';
import { MASTER } from './world.js';
import type { World } from './world.js';

export interface FaultOptions {
  readonly world: World;
  readonly random: Random;
  /** Names of the clients' hosts. */
  readonly clients: readonly string[];
  /** For looking at the state of the cluster. */
  readonly observer: ClusterFileSystem;
  /** Kinds to leave out. */
  readonly without?: readonly FaultKind[];
}

export type FaultKind =
  | 'break'
  | 'lost-reply'
  | 'partition'
  | 'half-partition'
  | 'slow'
  | 'kill-chunkserver'
  | 'kill-master'
  | 'power-chunkserver';

const KINDS: readonly FaultKind[] = [
  'break',
  'lost-reply',
  'lost-reply',
  'partition',
  'half-partition',
  'slow',
  'kill-chunkserver',
  'kill-chunkserver',
  'kill-master',
  'power-chunkserver',
  'power-chunkserver',
  'power-chunkserver',
];
/** A cluster that is never left in peace makes no progress, and nobody promises that it does. */
const MAX_FAULT_MS = 12_000;
/** A server that came back has registered and reported. */
const SETTLE_MS = 2_000;
/** Missing replicas are made after 30 s. */
const HEALTHY_MS = 120_000;

const lengthOf = (random: Random): number => 1 + random.below(random.below(2) === 0 ? 500 : MAX_FAULT_MS);

export class Faults {
  private isStopped = false;
  private readonly active = new Set<Promise<void>>();
  private serversDown = 0;

  constructor(private readonly options: FaultOptions) {}

  /** One fault after another, some at once, until `stop`. */
  async run(): Promise<void> {
    const { world, random } = this.options;
    const kinds = KINDS.filter((kind) => this.options.without?.includes(kind) !== true);
    while (!this.isStopped) {
      await world.sleep(random.below(random.below(3) === 0 ? 4000 : 400));
      if (this.isStopped || this.active.size >= 2) continue;
      const kind = pick(random, kinds);
      if (kind === 'power-chunkserver') {
        await Promise.all(this.active);
        if (this.isStopped) return;
        const alone = this.losePowerAlone(lengthOf(random));
        this.active.add(alone);
        await alone;
        this.active.delete(alone);
        continue;
      }
      const fault = this.cause(kind);
      this.active.add(fault);
      const done = (): void => {
        this.active.delete(fault);
      };
      fault.then(done, done);
      world.background(() => fault);
    }
  }

  /** No new fault; resolves when those under way have ended. */
  async stop(): Promise<void> {
    this.isStopped = true;
    await Promise.all(this.active);
  }

  /**
   * A chunkserver's machine goes down and comes back. What is not synced has two replicas, so this needs them both: it
   * comes when nothing else is wrong, and nothing else comes before all chunks have two again.
   */
  private async losePowerAlone(awayMs: number): Promise<void> {
    const { world, random } = this.options;
    if (!(await this.becomesHealthy()) || this.isStopped) return;
    const victim = pick(random, world.chunkservers);
    await world.powerOff(victim);
    await world.sleep(awayMs);
    await world.powerOn(victim);
    await world.sleep(SETTLE_MS);
    assert.ok(await this.becomesHealthy(), `not healthy ${HEALTHY_MS} ms after ${victim} came back`);
  }

  private async becomesHealthy(): Promise<boolean> {
    const { world, observer } = this.options;
    for (let waitedMs = 0; waitedMs < HEALTHY_MS; waitedMs += SETTLE_MS) {
      const { servers, underReplicatedChunks, unavailableChunks } = await observer.status();
      const isUp = world.chunkservers.length === servers.filter((server) => server.alive).length;
      if (isUp && underReplicatedChunks === 0 && unavailableChunks === 0) return true;
      await world.sleep(SETTLE_MS);
    }
    return false;
  }

  private async cause(kind: Exclude<FaultKind, 'power-chunkserver'>): Promise<void> {
    const { world, random, clients } = this.options;
    const [one, two] = this.twoHosts();
    const lengthMs = lengthOf(random);
    switch (kind) {
      case 'break':
        world.network.breakConnection(one, two);
        return;
      case 'lost-reply': {
        // What is asked in this time arrives; the answers do not.
        const client = pick(random, clients);
        world.network.partition(MASTER, client, true);
        await world.sleep(1 + random.below(100));
        world.network.breakConnection(client, MASTER);
        world.network.heal(MASTER, client);
        return;
      }
      case 'partition':
      case 'half-partition':
        world.network.partition(one, two, kind === 'half-partition');
        await world.sleep(lengthMs);
        world.network.heal(one, two);
        return;
      case 'slow':
        world.network.slow(one, two, pick(random, [10, 100, 500]));
        await world.sleep(lengthMs);
        world.network.heal(one, two);
        return;
      case 'kill-master':
        await this.killAndRestart(MASTER, lengthMs);
        return;
      case 'kill-chunkserver':
        // With two replicas, one server at a time may be away.
        if (this.serversDown > 0) return;
        this.serversDown++;
        await this.killAndRestart(pick(random, world.chunkservers), lengthMs);
        this.serversDown--;
        return;
    }
  }

  private async killAndRestart(name: string, awayMs: number): Promise<void> {
    const { world } = this.options;
    if (!world.isRunning(name)) return;
    await world.kill(name);
    await world.sleep(awayMs);
    await world.start(name);
  }

  /** Two that talk to each other. */
  private twoHosts(): [string, string] {
    const { world, random, clients } = this.options;
    const hosts = [MASTER, ...world.chunkservers, ...clients];
    for (;;) {
      const [one, two] = [pick(random, hosts), pick(random, hosts)];
      if (one !== two && !(clients.includes(one) && clients.includes(two))) return [one, two];
    }
  }
}
