/**
 * What was closed and not synced, and is gone at servers that had a loss, is on the others. While they are away the cluster waits
 * for them, but not for ever: then it goes on with what is there, and unsynced writes are lost, as by a power loss everywhere
 * (docs/failure-model.md). This tells when that may have happened, by what the network delivered.
 */
import { SUSPECT_GRACE_MS } from '../../../src/core/limits.js';
import { MASTER } from '../world/world.js';
import type { World } from '../world/world.js';

const LOOK_MS = 500;
/** Nobody may be late who looks once in a while. */
const LONG_MS = SUSPECT_GRACE_MS - 2 * LOOK_MS;

export class LongAbsences {
  /** Those that are away for so long now. */
  private away = new Set<string>();
  private isOver = false;

  constructor(
    private readonly world: World,
    /** Servers that have, or have had, a loss. */
    private readonly lost: readonly string[],
    /** So many others are away for so long that they may have been all that had a chunk's unsynced writes. */
    private readonly onLong: () => void,
  ) {}

  /** Looks until `stop`. */
  async watch(): Promise<void> {
    while (!this.isOver) {
      this.look();
      await this.world.sleep(LOOK_MS);
    }
  }

  /** All is whole again. */
  stop(): void {
    this.isOver = true;
  }

  private look(): void {
    const { world, lost } = this;
    const others = world.chunkservers.filter((name) => !lost.includes(name));
    const away = new Set(others.filter((name) => world.network.silentMs(name, MASTER) >= LONG_MS));
    const isNew = [...away].some((name) => !this.away.has(name));
    this.away = away;
    if (isNew && away.size + lost.length >= world.wantedReplicas) this.onLong();
  }
}
