/**
 * The replicas of this server: creation, use, versions, deletion, and what follows when a file or a disk fails.
 *
 *   data-directories   where replicas are (data-directory: one disk)
 *   replica-index      which there are
 *   open-chunks        their open files (chunk-file: one of them)
 *   dirty-replicas     those under mutation, and their cleaning
 *   header-scan        finds those after an unclean stop
 */
import type { Clock } from '../core/clock.js';
import type { Disk, DiskSpace } from '../core/disk.js';
import { CairnError, asCairnError, hasCode } from '../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../core/ids.js';
import { CLEAN_AFTER_IDLE_MS, CLEAN_STOP_MS, SYNC_BEHIND_BYTES } from '../core/limits.js';
import type { Logger } from '../core/logger.js';
import type { Random } from '../core/random.js';
import { KeyedMutex, unawaited } from '../core/sync.js';
import { ChunkFile } from './chunk-file.js';
import { peekHeader } from './chunk-header.js';
import { DataDirectories } from './data-directories.js';
import { DataDirectory, type FoundReplica, type Identity } from './data-directory.js';
import { DirtyReplicas } from './dirty-replicas.js';
import { HeaderScan } from './header-scan.js';
import { OpenChunks, type OpenChunk } from './open-chunks.js';
import { ReplicaIndex, type IndexEntry } from './replica-index.js';

export interface ChunkStoreOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly directories: readonly string[];
  /** Many replicas are gone: the report to the master has to be made again. */
  readonly onLost: () => void;
  /** One replica is gone (NO_REPLICA), or cannot be believed any more. */
  readonly onBadReplica: (replica: FoundReplica, error: CairnError) => void;
}

/** Where a replica's file is. */
type ReplicaFile = Pick<OpenChunk, 'handle' | 'directory' | 'path'>;

export class ChunkStore {
  readonly index = new ReplicaIndex();
  private readonly directories: DataDirectories;
  private readonly open: OpenChunks;
  private readonly dirty: DirtyReplicas;
  private readonly scan: HeaderScan;
  /** Creation, adoption and removal of one chunk go one after another. */
  private readonly changes = new KeyedMutex<ChunkHandle>();
  private syncingBehind = false;

  constructor(private readonly options: ChunkStoreOptions) {
    const { disk, clock, random, logger } = options;
    this.directories = new DataDirectories({
      ...{ disk, random, logger, paths: options.directories },
      onFailure: (directory) => this.loseReplicas(directory),
    });
    this.open = new OpenChunks({
      ...{ disk, logger, directories: this.directories },
      onOtherVersion: (chunk, file) => this.nameAfterHeader(chunk, file),
    });
    this.dirty = new DirtyReplicas(clock, logger);
    this.scan = new HeaderScan({
      ...{ disk, logger, directories: this.directories, index: this.index, dirty: this.dirty },
      openRenamed: (handle) => this.use(handle, (file) => Promise.resolve(file.dirty)),
    });
  }

  /** Opens the directories and lists the replicas. Fails when none is usable or they belong to different servers. */
  async start(): Promise<void> {
    await this.directories.open((directory) => this.list(directory));
    // Reading every header finds what was under mutation. Only after a power loss must it come before serving.
    const { trusted } = this.directories;
    const scan = this.scan.start();
    if (trusted) {
      scan.catch((error: unknown) => this.options.logger.warn({ reason: String(error) }, 'header scan failed'));
    } else {
      await scan;
    }
  }

  get identity(): Identity | undefined {
    return this.directories.identity;
  }

  setIdentity(identity: Identity): Promise<void> {
    return this.directories.setIdentity(identity);
  }

  space(): DiskSpace {
    return this.directories.space();
  }

  /** Asks the disks for their free space; one that does not answer goes out of service. */
  measure(): Promise<void> {
    return this.directories.measure();
  }

  /** The replica's entry. Fails with NO_REPLICA. */
  entry(handle: ChunkHandle): IndexEntry {
    const entry = this.index.get(handle);
    if (entry === undefined) throw new CairnError('NO_REPLICA', `this server has no replica of chunk ${handle}`);
    return entry;
  }

  /** Fails unless the replica's file is there, is whole enough to be opened, and its header can be read. */
  async check(handle: ChunkHandle): Promise<void> {
    // Opens it if it is not open, so that its name is that of its version.
    await this.use(handle, () => Promise.resolve());
    await this.changes.run(handle, async () => {
      const entry = this.entry(handle);
      const directory = this.directories.of(entry);
      const path = this.directories.pathOf(entry);
      try {
        const header = await peekHeader(this.options.disk, path);
        if (header === undefined) throw new CairnError('NO_REPLICA', `${path} has no valid header`);
      } catch (error) {
        throw this.examine({ handle, directory, path }, error);
      }
    });
  }

  /** Makes an empty replica; does nothing when there is one at `version` already. */
  async create(handle: ChunkHandle, version: ChunkVersion): Promise<void> {
    await this.changes.run(handle, async () => {
      const existing = this.index.get(handle);
      if (existing !== undefined) {
        if (existing.version === version) return;
        throw new CairnError('STALE_VERSION', `chunk ${handle} exists at version ${existing.version}, not ${version}`);
      }
      await this.directories.inOne(async (directory) => {
        const path = directory.chunkPath(handle, version);
        const file = await this.createFile(path, handle, version);
        this.open.hold({ handle, directory, path, file: Promise.resolve(file), opened: file });
        this.index.set({ handle, version, directory: directory.number, suspect: false });
      });
      this.dirty.mutated(handle);
    });
  }

  /** Runs `action` on the open file of a replica. */
  async use<T>(handle: ChunkHandle, action: (file: ChunkFile) => Promise<T>): Promise<T> {
    const chunk = this.open.pin(this.entry(handle));
    try {
      return await action(await chunk.file);
    } catch (error) {
      throw this.examine(chunk, error);
    } finally {
      this.open.unpin(chunk);
    }
  }

  /** As `use`, for actions that change the content. */
  async mutate<T>(handle: ChunkHandle, action: (file: ChunkFile) => Promise<T>): Promise<T> {
    this.dirty.mutated(handle);
    const result = await this.use(handle, action);
    if (!this.syncingBehind && (this.open.get(handle)?.opened?.unsyncedBytes ?? 0) >= SYNC_BEHIND_BYTES) {
      this.syncingBehind = true;
      unawaited(this.syncBehind(handle), this.options.logger, 'syncing ahead');
    }
    return result;
  }

  /**
   * Sends a stream of writes to the disk while it goes on, so that the fsync at its end finds little to wait for. One
   * chunk at a time: it takes a thread of the pool. Never rejects.
   */
  private async syncBehind(handle: ChunkHandle): Promise<void> {
    try {
      await this.use(handle, (file) => file.sync());
    } catch (error) {
      // The file refuses all use from now on, or is gone.
      this.options.logger.warn({ chunk: handle, reason: asCairnError(error).message }, 'syncing ahead failed');
    } finally {
      this.syncingBehind = false;
    }
  }

  /** The content, and that there is such a file, survives power loss. */
  async sync(handle: ChunkHandle): Promise<void> {
    const chunk = this.open.pin(this.entry(handle));
    try {
      const file = await chunk.file;
      if (chunk.entrySynced) await file.sync();
      else {
        await Promise.all([file.sync(), chunk.directory.syncEntry(handle)]);
        chunk.entrySynced = true;
      }
    } catch (error) {
      throw this.examine(chunk, error);
    } finally {
      this.open.unpin(chunk);
    }
  }

  /** Raises the version, content and version synced. `prepare` brings the content to its final state before. */
  async adopt(handle: ChunkHandle, version: ChunkVersion, prepare: (file: ChunkFile) => Promise<void>): Promise<void> {
    await this.changes.run(handle, () =>
      this.use(handle, async (file) => {
        const chunk = this.open.get(handle);
        if (chunk === undefined) throw new CairnError('INTERNAL', `chunk ${handle} is not open`);
        await prepare(file);
        await file.adopt(version);
        await this.nameAfterHeader(chunk, file);
        await chunk.directory.syncEntry(handle);
        chunk.entrySynced = true;
        this.dirty.forget(handle);
      }),
    );
  }

  /**
   * Makes a replica at `version` from what `fill` writes, in place of an older one. It appears whole and synced, or
   * not at all.
   */
  async replace(handle: ChunkHandle, version: ChunkVersion, fill: (file: ChunkFile) => Promise<void>): Promise<void> {
    await this.changes.run(handle, async () => {
      await this.directories.inOne(async (directory) => {
        const incoming = directory.incomingPath(handle, version);
        const file = await this.createFile(incoming, handle, version);
        try {
          await fill(file);
          await file.adopt(version);
        } catch (error) {
          await this.options.disk.unlink('chunk.discard', incoming);
          throw error;
        } finally {
          await file.close();
        }
        if (this.index.get(handle) !== undefined) await this.discard(handle);
        await this.options.disk.rename('chunk.rename', incoming, directory.chunkPath(handle, version));
        await directory.syncEntry(handle);
        this.index.set({ handle, version, directory: directory.number, suspect: false });
      });
    });
  }

  /** Deletes a replica at `version` or lower; one that is not there is fine. */
  async remove(handle: ChunkHandle, version: ChunkVersion): Promise<void> {
    await this.changes.run(handle, async () => {
      const entry = this.index.get(handle);
      if (entry !== undefined && entry.version <= version) await this.discard(handle);
    });
  }

  /** Syncs and marks clean replicas that were not changed for a while. `exclusive` keeps mutations away meanwhile. */
  async clean(
    exclusive: (handle: ChunkHandle, section: () => Promise<void>) => Promise<void>,
    idleMs = CLEAN_AFTER_IDLE_MS,
    untilMs = Infinity,
  ): Promise<void> {
    const markClean = async (handle: ChunkHandle): Promise<void> => {
      if (this.index.get(handle) === undefined) return;
      await exclusive(handle, async () => {
        await this.sync(handle);
        await this.use(handle, (file) => file.markClean());
      });
    };
    await this.dirty.clean(markClean, { idleMs, untilMs });
  }

  /** Marks all replicas clean, within CLEAN_STOP_MS, and closes everything. No operation may be running. */
  async stop(): Promise<void> {
    await this.scan.stop();
    await this.clean((_, section) => section(), -1, this.options.clock.monotonicMs() + CLEAN_STOP_MS);
    const clean = this.scan.complete && this.dirty.none;
    await this.open.stop();
    await this.directories.close(clean);
  }

  /** Takes the replicas in a directory into the index; of two versions of one, the higher. */
  private async list(directory: DataDirectory): Promise<void> {
    const superseded: FoundReplica[] = [];
    for await (const found of directory.replicas()) {
      const other = this.index.get(found.handle);
      if (other !== undefined && other.version >= found.version) {
        superseded.push(found);
        continue;
      }
      if (other !== undefined) await this.directories.of(other).removeReplica(other);
      this.index.set({ ...found, directory: directory.number, suspect: false });
    }
    for (const found of superseded) await directory.removeReplica(found);
  }

  private async createFile(path: string, handle: ChunkHandle, version: ChunkVersion): Promise<ChunkFile> {
    try {
      return await ChunkFile.create(this.options.disk, path, handle, version);
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
      // Not in the index: left over from a creation or copy that was cut short.
      await this.options.disk.unlink('chunk.discard', path);
      return ChunkFile.create(this.options.disk, path, handle, version);
    }
  }

  private async nameAfterHeader(chunk: OpenChunk, file: ChunkFile): Promise<void> {
    const { directory, handle } = chunk;
    const path = directory.chunkPath(handle, file.version);
    if (path !== chunk.path) await this.options.disk.rename('chunk.rename', chunk.path, path);
    chunk.path = path;
    if (this.index.get(handle) === undefined) return;
    this.index.set({ handle, version: file.version, directory: directory.number, suspect: file.suspect });
  }

  private forget(handle: ChunkHandle): void {
    this.index.delete(handle);
    this.dirty.forget(handle);
  }

  private async discard(handle: ChunkHandle): Promise<void> {
    const entry = this.entry(handle);
    this.forget(handle);
    const chunk = this.open.get(handle);
    if (chunk !== undefined) await this.open.retire(chunk);
    await this.directories.of(entry).removeReplica(entry);
  }

  /** Draws the consequences of a failed operation on a chunk's file. Returns the error for the caller. */
  private examine({ handle, directory, path }: ReplicaFile, error: unknown): unknown {
    if (DataDirectory.isFailure(error)) this.directories.lose(directory, error);
    if (!hasCode(error, 'ENOENT', 'NO_REPLICA')) return error;
    const gone = new CairnError('NO_REPLICA', `chunk ${handle} is not readable here: ${error.message}`, {
      cause: error,
    });
    const entry = this.index.get(handle);
    if (entry !== undefined && this.directories.pathOf(entry) === path) {
      this.options.logger.error({ path, reason: error.message }, 'replica is gone or was never finished');
      this.forget(handle);
      const chunk = this.open.get(handle);
      if (chunk !== undefined) unawaited(this.open.retire(chunk), this.options.logger, 'closing a chunk');
      this.options.onBadReplica(entry, gone);
    }
    return gone;
  }

  /** The replicas in `directory` are gone with it. */
  private loseReplicas(directory: DataDirectory): void {
    let lost = 0;
    for (let after = -1; ;) {
      const page = this.index.page(after, 4096);
      const last = page.at(-1);
      if (last === undefined) break;
      after = last.handle;
      for (const entry of page) {
        if (entry.directory !== directory.number) continue;
        this.forget(entry.handle);
        lost++;
      }
    }
    this.open.retireIn(directory);
    this.options.logger.error({ directory: directory.path, lost }, 'replicas lost with their data directory');
    this.options.onLost();
  }
}
