/** What a master is given. */
import type { Clock } from '../core/clock.js';
import type { BootNotes } from '../core/disk/boot-notes.js';
import type { Disk } from '../core/disk/disk.js';
import type { Logger } from '../core/logging/logger.js';
import type { Random } from '../core/random.js';
import type { Interceptor } from '../protocol/rpc.js';
import type { Network } from '../protocol/transport.js';
import type { Store } from './store/store.js';

export interface MasterDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly disk: Disk;
  /** For the next start, when the disk fails. */
  readonly bootNotes: BootNotes;
  readonly store: Store;
  readonly logger: Logger;
  /** Around the handlers of all that is served. */
  readonly interceptor?: Interceptor | undefined;
}

export interface MasterConfig {
  /** host:port; port 0 takes a free one. */
  readonly listen: string;
  readonly secret: Buffer;
  /** Of the operation log. */
  readonly logDirectory: string;
  /** Replicas that a chunk shall have (1 to MAX_REPLICAS), and the least with which it is written. */
  readonly wantedReplicas: number;
  readonly minReplicas: number;
  /** A chunkserver that is gone for so long is not waited for: its chunks are copied elsewhere. Default 30 s. */
  readonly repairGraceMs?: number;
  /** Chunks that are copied at a time, in all and by one server. Default 32 and 8. */
  readonly maxCopies?: number;
  readonly maxCopiesPerServer?: number;
  /** A deleted chunk's replicas are kept for so long. Default 10 s. */
  readonly garbageGraceMs?: number;
  /** Chunks that are made ahead of need at most. Default MAX_SPARE_CHUNKS. */
  readonly maxSpareChunks?: number;
  /** Space that is kept for when the disk is full. Default MASTER_RESERVE_BYTES. */
  readonly reserveBytes?: number;
  /** Looks through all of the state before it serves (state-check.ts). */
  readonly checksState?: boolean;
  /** Pause between two rounds of the background work. Default 250 ms. */
  readonly backgroundIntervalMs?: number;
}
