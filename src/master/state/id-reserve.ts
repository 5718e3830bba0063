/**
 * Ids that are handed to other machines and must never be given twice, power loss included: the counter in the state
 * runs ahead by a block, flushed before the first id of the block is used. What a crash leaves of a block is skipped.
 */
import { keys, packed } from './keys.js';
import type { MetaName } from './keys.js';
import { readCounter } from './counters.js';
import type { Mutation, State, StateReader } from './state.js';

const FIRST_ID = 1;

export class IdReserve {
  private next = 0;
  private limit = 0;
  private refilling: Promise<void> | undefined;
  /** Counts jumps: a block that was reserved before one is not used after it. */
  private jumps = 0;

  constructor(
    private readonly state: State,
    private readonly name: MetaName,
    private readonly blockSize: number,
  ) {}

  /** The next id. Higher than all given before, durable as given. */
  async take(): Promise<number> {
    while (this.next >= this.limit) {
      this.refilling ??= this.refill().finally(() => (this.refilling = undefined));
      await this.refilling;
    }
    return this.next++;
  }

  /** As part of `m`: every id given from now on is at least `floor`. */
  jumpTo(m: Mutation, floor: number): void {
    this.jumps++;
    this.next = 0;
    this.limit = 0;
    m.put(keys.meta(this.name), packed(Math.max(floor, readReserved(m, this.name))));
  }

  private async refill(): Promise<void> {
    const { jumps } = this;
    const first = this.state.mutate((m) => {
      const reserved = readReserved(m, this.name);
      m.put(keys.meta(this.name), packed(reserved + this.blockSize));
      return reserved;
    });
    await this.state.durable();
    if (jumps !== this.jumps) return;
    this.next = first;
    this.limit = first + this.blockSize;
  }
}

/** All ids given so far are below this. */
export function readReserved(reader: StateReader, name: MetaName): number {
  return readCounter(reader, name, FIRST_ID);
}
