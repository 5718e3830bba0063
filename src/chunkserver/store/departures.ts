/** Replicas that go: deleted, disowned, or set aside. */
import { CairnError } from '../../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../../core/ids.js';
import type { KeyedMutex } from '../../core/sync.js';
import type { DataDirectories } from '../disks/data-directories.js';
import type { AsideReplicas } from './aside.js';
import type { DirtyReplicas } from './dirty-replicas.js';
import type { FailedReplicas } from './failed-replicas.js';
import type { BegunSince } from './making.js';
import type { OpenChunks } from './open-chunks.js';
import type { IndexEntry, ReplicaIndex } from './replica-index.js';

export interface DeparturesDeps {
  readonly directories: DataDirectories;
  readonly index: ReplicaIndex;
  readonly open: OpenChunks;
  readonly dirty: DirtyReplicas;
  readonly aside: AsideReplicas;
  readonly failed: FailedReplicas;
  /** What is done to one chunk goes one after another. */
  readonly changes: KeyedMutex<ChunkHandle>;
  /** Bytes of data in a replica, which is opened for it. */
  readonly lengthOf: (handle: ChunkHandle) => Promise<number>;
}

export class Departures {
  constructor(private readonly deps: DeparturesDeps) {}

  /** Deletes a replica at `version` or lower, unless it was begun since; one that is not there is fine. */
  async remove(handle: ChunkHandle, version: ChunkVersion, begun?: BegunSince): Promise<void> {
    await this.deps.changes.run(handle, async () => {
      const entry = this.deps.index.get(handle);
      if (entry !== undefined && entry.version <= version && begun?.has(handle) !== true) await this.discard(entry);
    });
  }

  /** As `remove`, without a word to the disk: the file stays until the next start reports it. */
  disown(handle: ChunkHandle, version: ChunkVersion): void {
    const entry = this.deps.index.get(handle);
    if (entry === undefined || entry.version > version) return;
    this.forget(handle);
    this.deps.failed.abandon(handle, new CairnError('NO_REPLICA', `chunk ${handle} is deleted here`));
  }

  /**
   * Moves a replica at `version` or lower out of the way (aside.ts), unless it was begun since. One that is not there is fine; one
   * without a byte, as those of chunks that were made ahead and not used, is deleted.
   */
  async setAside(handle: ChunkHandle, version: ChunkVersion, begun?: BegunSince): Promise<void> {
    await this.deps.changes.run(handle, async () => {
      if ((this.deps.index.get(handle)?.version ?? Infinity) > version || begun?.has(handle) === true) return;
      const isEmpty = await this.isEmpty(handle);
      // As it is now: a header may have told another version, or that there is no replica.
      const entry = this.deps.index.get(handle);
      if (entry === undefined) return;
      if (isEmpty) {
        await this.discard(entry);
        return;
      }
      const chunk = this.deps.open.get(handle);
      if (chunk !== undefined) await this.deps.open.retire(chunk);
      try {
        await this.deps.aside.put(entry);
      } catch (error) {
        const directory = this.deps.directories.of(entry);
        throw this.deps.failed.examine({ handle, directory, path: this.deps.directories.pathOf(entry) }, error);
      }
      this.forget(handle);
    });
  }

  /** Takes a replica out of service and deletes its file. Waits for who uses it. */
  async discard(entry: IndexEntry): Promise<void> {
    const { handle } = entry;
    this.forget(handle);
    const chunk = this.deps.open.get(handle);
    if (chunk !== undefined) await this.deps.open.retire(chunk);
    const directory = this.deps.directories.of(entry);
    directory.session.noteChange();
    await directory.removeReplica(entry);
  }

  /** The replica is not here any more. */
  forget(handle: ChunkHandle): void {
    this.deps.index.delete(handle);
    this.deps.dirty.forget(handle);
  }

  private async isEmpty(handle: ChunkHandle): Promise<boolean> {
    try {
      return (await this.deps.lengthOf(handle)) === 0;
    } catch {
      // What cannot be read is no reason to delete it.
      return false;
    }
  }
}
