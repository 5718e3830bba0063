/** What follows when an operation on a replica's file fails: for that replica, for its disk, and for who asked. */
import type { Clock } from '../../core/clock.js';
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { unawaited } from '../../core/sync.js';
import type { DataDirectories } from '../disks/data-directories.js';
import { DataDirectory, type FoundReplica } from '../disks/data-directory.js';
import type { DiskProbes } from '../disks/disk-probes.js';
import type { OpenChunk, OpenChunks } from './open-chunks.js';
import type { ReplicaIndex } from './replica-index.js';

/** Where a replica's file is. */
type ReplicaFile = Pick<OpenChunk, 'handle' | 'directory' | 'path'>;

export interface FailedReplicasDeps {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly directories: DataDirectories;
  readonly index: ReplicaIndex;
  readonly open: OpenChunks;
  readonly probes: DiskProbes;
  /** The replica is not here any more. */
  readonly forget: (handle: ChunkHandle) => void;
  /** One replica is gone (NO_REPLICA), or cannot be believed any more. */
  readonly onBadReplica: (replica: FoundReplica, error: CairnError) => void;
}

export class FailedReplicas {
  constructor(private readonly deps: FailedReplicasDeps) {}

  /** Draws the consequences of a failed operation on a chunk's file. Returns the error for the caller. */
  examine(where: ReplicaFile, error: unknown): unknown {
    const { handle, directory, path } = where;
    if (DataDirectory.isFailureOfAll(error)) this.deps.directories.lose(directory, error);
    else if (DataDirectory.isFailure(error)) this.doubt(where, error);
    else if (hasCode(error, 'CORRUPT') && DataDirectory.isFailure(error.cause)) this.noteBad(where, error);
    if (!hasCode(error, 'ENOENT', 'NO_REPLICA')) return error;
    const gone = new CairnError('NO_REPLICA', `chunk ${handle} is not readable here: ${error.message}`, {
      cause: error,
    });
    const entry = this.deps.index.get(handle);
    if (entry !== undefined && this.deps.directories.pathOf(entry) === path) {
      this.deps.logger.error({ path, reason: error.message }, 'replica is gone or was never finished');
      this.deps.forget(handle);
      this.abandon(handle, gone);
      this.deps.onBadReplica(entry, gone);
    }
    return gone;
  }

  /** An error of the disk at one file: that replica is not believed any more. Whether it is the disk is looked into. */
  private doubt(where: ReplicaFile, error: unknown): void {
    const { handle, path } = where;
    this.noteBad(where, error);
    const entry = this.deps.index.get(handle);
    if (entry === undefined || this.deps.directories.pathOf(entry) !== path) return;
    const reason = asCairnError(error);
    this.abandon(handle, reason);
    if (entry.suspect) return;
    this.deps.index.set({ ...entry, suspect: true });
    this.deps.onBadReplica(entry, new CairnError('EIO', reason.message, { cause: error }));
  }

  private noteBad({ handle, directory }: ReplicaFile, error: unknown): void {
    directory.noteBadReplica(handle, this.deps.clock.monotonicMs(), error);
    if (directory.failure === undefined) this.deps.probes.soon(directory);
  }

  /** The next use of the replica opens its file anew. */
  abandon(handle: ChunkHandle, reason: CairnError): void {
    const chunk = this.deps.open.get(handle);
    if (chunk === undefined) return;
    chunk.opened?.abandon(reason);
    unawaited(this.deps.open.retire(chunk), this.deps.logger, 'closing a chunk');
  }
}
