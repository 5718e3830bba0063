/** Random trouble, of kinds that the promises say a cluster survives, each of which ends by itself. */
import { pick } from '../../src/core/random.js';
import type { Random } from '../../src/core/random.js';
import { MASTER } from './world.js';
import type { World } from './world.js';

export interface FaultOptions {
  readonly world: World;
  readonly random: Random;
  /** Names of the clients' hosts. */
  readonly clients: readonly string[];
  /** Kinds to leave out. */
  readonly without?: readonly FaultKind[];
}

export type FaultKind =
  'break' | 'lost-reply' | 'partition' | 'half-partition' | 'slow' | 'kill-chunkserver' | 'kill-master';

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
];
/** A cluster that is never left in peace makes no progress, and nobody promises that it does. */
const MAX_FAULT_MS = 12_000;

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
      const fault = this.cause(pick(random, kinds));
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

  private async cause(kind: FaultKind): Promise<void> {
    const { world, random, clients } = this.options;
    const [one, two] = this.twoHosts();
    const lengthMs = 1 + random.below(random.below(2) === 0 ? 500 : MAX_FAULT_MS);
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
