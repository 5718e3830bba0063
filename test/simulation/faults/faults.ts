/**
 * Random trouble, of kinds that the promises say a cluster survives, each of which ends by itself.
 *
 *   fault-network   connections and links           free: any number at a time
 *   fault-machines  processes and machines          place: a server that is away; at most one less than there are replicas
 *   fault-master    the master's disk               free
 *   fault-disks     volumes and their calls         loss: a server that may lose replicas, or what was not synced
 *
 * Losses need the replicas of the other servers: they come when all is whole, and no other before all is whole again. What is
 * only away may come beside them; for so long, too, that what was not synced is given up (long-absences.ts).
 */
import { pick } from '../../../src/core/random.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import type { FaultCounts } from './fault-counts.js';
import { DISK_FAULTS } from './fault-disks.js';
import { MACHINE_FAULTS } from './fault-machines.js';
import type { Fault, FaultKind, FaultScene } from './fault.js';
import { LongAbsences } from './long-absences.js';
import { MASTER_FAULTS } from './fault-master.js';
import { NETWORK_FAULTS } from './fault-network.js';
import { Health } from '../judges/health.js';

export interface FaultOptions extends Omit<FaultScene, 'isGentle' | 'health' | 'bustle'> {
  /** For looking at the state of the cluster. */
  readonly observer: ClusterFileSystem;
  readonly counts?: FaultCounts;
  readonly bustle?: () => void;
  /** What was closed and not synced may be gone, though no more was lost at once than a cluster survives. */
  readonly onLongAbsence?: () => void;
  /** Default: yes. */
  readonly isGentle?: boolean;
  /** Default: PLAIN_KINDS. */
  readonly kinds?: readonly FaultKind[];
  /** Comes first, to be sure of it. */
  readonly first?: FaultKind;
}

export const FAULTS: readonly Fault[] = [...NETWORK_FAULTS, ...MACHINE_FAULTS, ...DISK_FAULTS, ...MASTER_FAULTS];

/** Those that any cluster gets over, be it of as many servers as replicas. */
export const PLAIN_KINDS: readonly FaultKind[] = [
  'break',
  'lost-reply',
  'partition',
  'half-partition',
  'slow-link',
  'kill-chunkserver',
  'kill-master',
  'power-chunkserver',
];

/** Faults at a time. */
const MAX_ACTIVE = 2;
const MAX_ACTIVE_ROUGH = 4;
/** While a loss heals, other faults go on for up to so long. */
const ROUGH_HEALING_MS = 40_000;

export class Faults {
  private isStopped = false;
  private running: Promise<void> = Promise.resolve();
  private readonly scene: FaultScene;
  private readonly health: Health;
  private readonly deck: Fault[];
  private readonly active = new Set<Promise<void>>();
  /** Servers that a fault has. */
  private readonly victims = new Set<string>();

  constructor(private readonly options: FaultOptions) {
    const { world, random, clients, isGentle = true, kinds = PLAIN_KINDS, bustle = () => undefined } = options;
    this.health = new Health(world, options.observer);
    this.scene = { world, random, clients, isGentle, health: this.health, bustle };
    const fit = FAULTS.filter(({ kind, isTold }) => kinds.includes(kind) && !(isGentle && isTold === true));
    this.deck = fit.flatMap((fault) => Array.from({ length: fault.weight }, () => fault));
  }

  /** One fault after another, some at once, until `stop`. */
  run(): Promise<void> {
    this.running = this.go();
    return this.running;
  }

  private async go(): Promise<void> {
    const { world, random, first } = this.options;
    let next = this.deck.find((fault) => fault.kind === first);
    while (!this.isStopped) {
      await world.sleep(random.below(random.below(3) === 0 ? 4000 : 400));
      if (this.isStopped) return;
      const fault = next ?? pick(random, this.deck);
      if (fault.budget === 'loss') {
        next = undefined;
        await this.lose(fault);
      } else if (this.begin(fault)) next = undefined;
    }
  }

  /** No new fault; resolves when those under way have ended, and their damage is repaired. */
  async stop(): Promise<void> {
    this.isStopped = true;
    await this.running;
    await this.calm();
  }

  /** A fault beside others. False: there is no room for it now. */
  private begin(fault: Fault): boolean {
    const { world } = this.options;
    if (this.active.size >= (this.scene.isGentle ? MAX_ACTIVE : MAX_ACTIVE_ROUGH)) return false;
    // One replica of each chunk is not touched, so that nobody waits for longer than he may.
    if (fault.budget === 'place' && this.scene.isGentle && this.victims.size >= world.wantedReplicas - 1) return false;
    const victim = this.pickVictim();
    if (victim === undefined) return false;
    if (fault.budget === 'place') this.victims.add(victim);
    this.track(this.cause(fault, victim));
    return true;
  }

  /** One loss, or one on each of as many servers as may lose something at a time. */
  private async lose(first: Fault): Promise<void> {
    const { world, random, onLongAbsence = () => undefined } = this.options;
    await this.calm();
    if (this.isStopped) return;
    await this.health.demandHealthy(`before ${first.kind}`);
    if (this.isStopped) return;
    const losses = this.deck.filter((fault) => fault.budget === 'loss');
    const count = 1 + random.below(world.wantedReplicas - 1);
    const faults = [first, ...Array.from({ length: count - 1 }, () => pick(random, losses))];
    const victims: string[] = [];
    const under = faults.map((fault) => {
      const victim = this.pickVictim() ?? '';
      this.victims.add(victim);
      victims.push(victim);
      return this.cause(fault, victim);
    });
    const lost = Promise.all(under).then(() => undefined);
    this.track(lost);
    const absences = new LongAbsences(world, victims, onLongAbsence);
    world.background(() => absences.watch());
    const isAlone = faults.some((fault) => fault.isAlone?.(world) === true);
    if (!this.scene.isGentle && !isAlone) await this.besides(ROUGH_HEALING_MS);
    await lost;
    await this.calm();
    await this.health.demandHealthy(`after ${faults.map((fault) => fault.kind).join(' and ')}`);
    absences.stop();
  }

  /** Faults that lose nothing, for a while. */
  private async besides(lengthMs: number): Promise<void> {
    const { world, random } = this.options;
    const harmless = this.deck.filter((fault) => fault.budget !== 'loss');
    const endUs = world.clock.nowUs + random.below(lengthMs) * 1000;
    while (!this.isStopped && harmless.length > 0 && world.clock.nowUs < endUs) {
      await world.sleep(random.below(4000));
      this.begin(pick(random, harmless));
    }
  }

  private async cause(fault: Fault, victim: string): Promise<void> {
    const { world, counts } = this.options;
    world.trace.add(`trouble ${fault.kind} ${victim}`);
    try {
      const tookEffect = await fault.run(this.scene, victim);
      counts?.note(fault.kind, tookEffect);
    } finally {
      world.trace.add(`trouble ${fault.kind} ${victim} has ended`);
      if (fault.budget !== 'free') this.victims.delete(victim);
    }
  }

  private track(fault: Promise<void>): void {
    this.active.add(fault);
    const done = (): void => {
      this.active.delete(fault);
    };
    fault.then(done, done);
    this.options.world.background(() => fault);
  }

  /** Waits for what is under way. */
  private async calm(): Promise<void> {
    while (this.active.size > 0) await Promise.all(this.active);
  }

  private pickVictim(): string | undefined {
    const { world, random } = this.options;
    const free = world.chunkservers.filter((name) => !this.victims.has(name));
    return free.length > 0 ? pick(random, free) : undefined;
  }
}
