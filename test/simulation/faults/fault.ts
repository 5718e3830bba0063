/** What a kind of fault is. */
import type { Random } from '../../../src/core/random.js';
import type { Health } from '../judges/health.js';
import type { World } from '../world/world.js';

export type FaultKind = string;

/** What a fault has to work with. */
export interface FaultScene {
  readonly world: World;
  readonly random: Random;
  /** Names of the clients' hosts. */
  readonly clients: readonly string[];
  /** Whether programs run that may not see any error: then nothing lasts for so long that they would. */
  readonly isGentle: boolean;
  readonly health: Health;
  /** Makes readers look now: something has just come back that may have missed what happened. */
  readonly bustle: () => void;
}

export interface Fault {
  readonly kind: FaultKind;
  /** How often it is drawn, beside others. */
  readonly weight: number;
  readonly budget: 'free' | 'place' | 'loss';
  /** A loss that no other fault comes beside: it needs the other replicas to be there in time, not only some day. */
  readonly isAlone?: (world: World) => boolean;
  /** Programs are told of it: it is not for those that may not see any error. */
  readonly isTold?: boolean;
  /** Brings it about and ends it. `victim` is a chunkserver, of the budget. Returns whether it took effect. */
  run(scene: FaultScene, victim: string): Promise<boolean>;
}
