/**
 * One misfortune at one message: the messages of a course of events are counted, and that of a given number is lost, or
 * delivered and its answer lost, or held back, or its server is killed by it, or its client stands still from then on.
 */
import type { World } from '../world/world.js';

/** `lengthMs`: until what was done is undone. */
export interface Strike {
  readonly kind: 'none' | 'lose' | 'lose-answer' | 'hold' | 'cut' | 'kill' | 'suspend' | 'stop';
  readonly lengthMs: number;
}

export class StruckMessage {
  /** Messages up to now. */
  count = 0;
  private isCounting = false;
  readonly events: string[] = [];

  constructor(private readonly world: World) {}

  note(event: string): void {
    this.events.push(`${(this.world.clock.nowUs / 1e6).toFixed(3)} [${this.count}] ${event}`);
  }

  /** From now on messages count, from 0; the one of this number is struck. */
  begin(number: number, strike: Strike): void {
    this.isCounting = true;
    this.world.network.onMessage = (from, to) => {
      if (!this.isCounting || this.count++ !== number) return false;
      this.note(`${strike.kind} ${strike.lengthMs} at ${from} > ${to}`);
      this.strike(strike, from, to);
      return strike.kind === 'lose';
    };
  }

  /** No message counts any more. */
  end(): void {
    this.isCounting = false;
    this.note('over');
  }

  private strike({ kind, lengthMs }: Strike, from: string, to: string): void {
    const { world } = this;
    const { network } = world;
    const later = (undo: () => unknown): void => {
      world.background(async () => {
        await world.sleep(lengthMs);
        await undo();
      });
    };
    if (kind === 'lose-answer') {
      // Behind the message, which arrives at this instant.
      world.clock.schedule(0, () => {
        network.refuse(from, to);
        network.heal(from, to);
      });
    } else if (kind === 'hold' || kind === 'cut') {
      network.partition(from, to, kind === 'hold');
      later(() => network.heal(from, to));
    } else if (kind === 'kill') {
      const server = to.startsWith('client') ? from : to;
      world.background(() => world.kill(server));
      later(() => world.start(server));
    } else if (kind === 'suspend' || kind === 'stop') {
      const client = [from, to].find((host) => host.startsWith('client')) ?? 'client-1';
      world.freeze(client, kind === 'suspend' ? 'suspended' : 'stopped');
      later(() => world.thaw(client));
    }
  }
}
