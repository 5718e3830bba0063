/** Replicas that come: made empty, made as a copy in place of what is there, or brought back from aside. */
import type { Disk } from '../../core/disk/disk.js';
import { asCairnError, CairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../../core/ids.js';
import type { KeyedMutex } from '../../core/sync.js';
import { ChunkFile } from '../chunk/chunk-file.js';
import { peekHeader } from '../chunk/chunk-header.js';
import type { DataDirectories } from '../disks/data-directories.js';
import type { DataDirectory, FoundReplica } from '../disks/data-directory.js';
import type { DiskWatch } from '../disks/disk-watch.js';
import type { AsideReplicas } from './aside.js';
import type { Departures } from './departures.js';
import type { DirtyReplicas } from './dirty-replicas.js';
import type { FailedReplicas } from './failed-replicas.js';
import type { Making } from './making.js';
import type { OpenChunks } from './open-chunks.js';
import type { ReplicaIndex } from './replica-index.js';

export interface ArrivalsDeps {
  readonly disk: Disk;
  readonly watch: DiskWatch;
  readonly directories: DataDirectories;
  readonly index: ReplicaIndex;
  readonly making: Making;
  readonly open: OpenChunks;
  readonly dirty: DirtyReplicas;
  readonly aside: AsideReplicas;
  readonly failed: FailedReplicas;
  readonly departures: Departures;
  /** What is done to one chunk goes one after another. */
  readonly changes: KeyedMutex<ChunkHandle>;
}

export class Arrivals {
  constructor(private readonly deps: ArrivalsDeps) {}

  /** Makes an empty replica; does nothing when there is one at `version` already. */
  async create(handle: ChunkHandle, version: ChunkVersion): Promise<void> {
    this.deps.making.begins(handle);
    await this.deps.changes.run(handle, async () => {
      const existing = this.deps.index.get(handle);
      if (existing !== undefined) {
        if (existing.version === version) return;
        throw new CairnError('STALE_VERSION', `chunk ${handle} exists at version ${existing.version}, not ${version}`);
      }
      await this.deps.directories.inOne(async (directory) => {
        const path = directory.chunkPath(handle, version);
        const file = await this.createFile(directory, path, { handle, version });
        this.deps.open.hold({ handle, directory, path, file: Promise.resolve(file), opened: file });
        this.deps.index.set({ handle, version, directory: directory.number, suspect: false });
        directory.session.noteChange();
      });
      this.deps.dirty.mutated(handle);
    });
  }

  /**
   * Makes a replica at `version` from what `fill` writes, in place of what is there. It appears whole and synced, or
   * not at all: not when `confirm`, asked when it is whole and in the moment in which it appears, throws.
   */
  async replace(
    handle: ChunkHandle,
    version: ChunkVersion,
    fill: (file: ChunkFile) => Promise<void>,
    confirm: () => void,
  ): Promise<void> {
    await this.deps.changes.run(handle, async () => {
      await this.deps.directories.inOne(async (directory) => {
        const incoming = directory.incomingPath(handle, version);
        const file = await this.createFile(directory, incoming, { handle, version });
        try {
          await fill(file);
          await file.adopt(version);
          confirm();
        } catch (error) {
          await this.discardIncoming(incoming);
          throw error;
        } finally {
          await file.close();
        }
        const before = this.deps.index.get(handle);
        if (before !== undefined) await this.deps.departures.discard(before);
        try {
          await this.demandNoneBeside(directory, { handle, version });
        } catch (error) {
          await this.discardIncoming(incoming);
          throw error;
        }
        await this.putInPlace(directory, incoming, { handle, version });
        directory.session.noteChange();
        try {
          // All this may have taken long: given up meanwhile it would be here without anybody's knowledge.
          confirm();
        } catch (error) {
          await directory.removeReplica({ handle, version });
          throw error;
        }
        this.deps.index.set({ handle, version, directory: directory.number, suspect: false });
      });
    });
  }

  /**
   * EEXIST when it may have appeared, and the disk does not allow that it goes: one on another disk, which is written to, and is
   * away when this one is back, would be missed by nobody.
   */
  private async putInPlace(directory: DataDirectory, incoming: string, replica: FoundReplica): Promise<void> {
    const { handle, version } = replica;
    const path = directory.chunkPath(handle, version);
    try {
      await this.deps.disk.rename('chunk.rename', incoming, path);
      await directory.syncEntry(handle);
    } catch (error) {
      await this.discardIncoming(incoming);
      await directory.demandNone(replica).catch(() => {
        this.deps.failed.examine({ handle, directory, path }, error);
        throw mayBeLeft(path, error);
      });
      throw error;
    }
  }

  /** What cannot be deleted goes with the next start, or in favour of the next copy. */
  private async discardIncoming(path: string): Promise<void> {
    await this.deps.disk.unlink('chunk.discard', path).catch(() => undefined);
  }

  /** Brings back what was set aside at `version`, in place of an older replica. Does nothing when it is gone, or not newer. */
  async restore(handle: ChunkHandle, version: ChunkVersion): Promise<void> {
    await this.deps.changes.run(handle, async () => {
      const entry = this.deps.aside.get(handle);
      const present = this.deps.index.get(handle);
      if (entry?.version !== version || (present !== undefined && present.version >= version)) return;
      // While it is aside: one that cannot be read is offered again.
      const header = await peekHeader(this.deps.disk, this.deps.aside.pathOf(entry), entry);
      if (present !== undefined) await this.deps.departures.discard(present);
      await this.deps.aside.takeBack(entry);
      const isDirty = header?.dirty === true;
      const { session, boot } = this.deps.directories.of(entry);
      const isDoubtful = isDirty && header.bootId !== boot.id;
      const suspect = entry.suspect || session.rolledBack || isDoubtful || header?.syncFailed === true;
      this.deps.index.set({ ...entry, suspect });
      if (isDirty && !suspect) this.deps.dirty.found(handle);
    });
  }

  /**
   * A file of before at its version, which could not be deleted or comes back with a power loss, would be taken for the replica.
   * EEXIST when a disk does not allow that it is deleted: that disk has failed, and not the one that the replica is made on.
   */
  private async demandNoneBeside(directory: DataDirectory, replica: FoundReplica): Promise<void> {
    for (const other of this.deps.directories.usable()) {
      // Where nothing is known to have been removed, a disk that hangs is not waited for: copies are to go on beside it.
      const isLookedAt = this.deps.watch.answers(other.number) || other.mayBringBack(replica.handle);
      if (other === directory || !isLookedAt) continue;
      try {
        await other.demandNone(replica);
      } catch (error) {
        const path = other.chunkPath(replica.handle, replica.version);
        this.deps.failed.examine({ handle: replica.handle, directory: other, path }, error);
        throw mayBeLeft(path, error);
      }
    }
  }

  private async createFile({ boot }: DataDirectory, path: string, chunk: FoundReplica): Promise<ChunkFile> {
    const { handle, version } = chunk;
    const { disk } = this.deps;
    try {
      return await ChunkFile.create(disk, path, handle, version, boot.id);
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
      // Not in the index: left over from a creation or copy that was cut short.
      await disk.unlink('chunk.discard', path);
      return ChunkFile.create(disk, path, handle, version, boot.id);
    }
  }
}

/** Tells the master that another copy at this version is not to be made here. */
function mayBeLeft(path: string, cause: unknown): CairnError {
  const { code, message } = asCairnError(cause);
  return new CairnError('EEXIST', `${path} may be left beside the copy: ${code} ${message}`, { cause });
}
