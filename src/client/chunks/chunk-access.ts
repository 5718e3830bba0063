/** A client's way to chunks, put together: where they are, the leases to write them, who reads and writes them. */
import type { Clock } from '../../core/clock.js';
import type { InodeId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES, LEASE_QUESTION_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { MasterTime } from '../../core/master-time.js';
import type { Random } from '../../core/random.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { MasterConnection } from '../session/master-connection.js';
import { BadReplicaReports } from '../session/bad-replica-reports.js';
import type { InodeAttributes } from '../session/wire-attributes.js';
import { ChunkMapCache } from './chunk-map-cache.js';
import { ChunkReader } from './chunk-reader.js';
import type { ChunkServers } from './chunk-servers.js';
import { ChunkWriter } from './chunk-writer.js';
import { FileExtents } from './file-extents.js';
import { WriteLeases } from './write-leases.js';

export interface ChunkAccessOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly master: MasterConnection;
  readonly servers: ChunkServers;
  /** Throws when the file must not be changed any more. */
  readonly requireWritable: (inode: InodeId) => void;
  /** Of an open file, as the master last told; 0 when it is not open. */
  readonly layoutVersion: (inode: InodeId) => number;
  readonly timeoutMs?: number;
}

export class ChunkAccess {
  readonly map: ChunkMapCache;
  readonly leases: WriteLeases;
  readonly reader: ChunkReader;
  readonly writer: ChunkWriter;
  readonly extents: FileExtents;

  constructor(options: ChunkAccessOptions) {
    const { clock, random, logger, master, servers, requireWritable, layoutVersion, timeoutMs } = options;
    this.map = new ChunkMapCache(clock, (inode, firstIndex, count) =>
      master.call(MASTER_METHODS.getChunks, { inode, firstIndex, count }),
    );
    this.leases = new WriteLeases(
      clock,
      (request) => master.call(MASTER_METHODS.leaseChunk, request, { timeoutMs: LEASE_QUESTION_MS }),
      (inode, index, { handle, version, replicas }) =>
        // The grant made the replicas cut themselves: nothing is left to hide.
        this.map.put(inode, index, { handle, version, replicas: [...replicas], validBytes: CHUNK_SIZE_BYTES }),
      layoutVersion,
    );
    const timeout = timeoutMs !== undefined && { timeoutMs };
    const reports = new BadReplicaReports({ clock, logger, master });
    const knownTime = (): MasterTime => master.masterTime;
    this.reader = new ChunkReader({
      map: this.map,
      servers,
      clock,
      random,
      logger,
      knownTime,
      ...timeout,
      report: (replica, error) => reports.tell(replica, error),
    });
    this.writer = new ChunkWriter({
      leases: this.leases,
      servers,
      clock,
      random,
      logger,
      knownTime,
      requireWritable,
      ...timeout,
    });
    this.extents = new FileExtents({ clock, master, servers, logger });
  }

  /** The master told these of a file: what is known of its chunks is believed if it belongs to them. */
  validate({ inode, layoutVersion, change }: InodeAttributes): void {
    this.map.validate(inode, layoutVersion, change);
  }

  /** Chunks were dropped or cut. */
  cut({ inode, size }: InodeAttributes): void {
    this.map.drop(inode);
    // The lease of the chunk across the cut stands: the master answers when its replicas have been cut (P5).
    this.leases.drop(inode, Math.ceil(size / CHUNK_SIZE_BYTES));
  }

  /** The master lost power, and with it what no sync covered. */
  operationsLost(): void {
    this.map.dropAll();
    this.leases.operationsLost();
  }
}
