/**
 * The replicas of this server on all its data directories: where each is, open files in a bounded LRU, creation,
 * deletion, versions, and cleaning (syncing idle replicas, so that a power loss casts no doubt on them).
 */
import type { Clock } from '../core/clock.js';
import type { Disk, DiskSpace } from '../core/disk.js';
import { CairnError, asCairnError, hasCode } from '../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../core/ids.js';
import {
  CLEAN_AFTER_IDLE_MS,
  CLEAN_STOP_MS,
  LOW_SPACE_BYTES,
  MAX_OPEN_CHUNK_FILES,
  SYNC_BEHIND_BYTES,
} from '../core/limits.js';
import type { Logger } from '../core/logger.js';
import type { Random } from '../core/random.js';
import { KeyedMutex } from '../core/sync.js';
import { ChunkFile, peekHeader } from './chunk-file.js';
import { DataDirectory, type FoundReplica, type Identity } from './data-directory.js';
import { ReplicaIndex, type IndexEntry } from './replica-index.js';

interface OpenChunk {
  readonly handle: ChunkHandle;
  readonly directory: DataDirectory;
  path: string;
  file: Promise<ChunkFile>;
  /** `file`, once it is there. */
  opened: ChunkFile | undefined;
  pins: number;
  /** The entry in the directory is known to survive power loss. */
  entrySynced: boolean;
  /** Called when the last user has gone and the chunk is to be closed. */
  retired: (() => void) | undefined;
}

export interface ChunkStoreOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly directories: readonly string[];
  /** Replicas have become unavailable: the report to the master has to be made again. */
  readonly onLost: () => void;
}

/** Files whose headers are read at the same time after an unclean stop. */
const SCAN_WIDTH = 16;
/** Replicas that are cleaned at the same time. */
const CLEAN_WIDTH = 4;

export class ChunkStore {
  readonly index = new ReplicaIndex();
  private readonly directories: DataDirectory[];
  /** Open chunks, least recently used first. */
  private readonly open = new Map<ChunkHandle, OpenChunk>();
  /** Replicas under mutation, with the time of the last one, oldest first. */
  private readonly dirty = new Map<ChunkHandle, number>();
  /** Creation, adoption and removal of one chunk go one after another. */
  private readonly changes = new KeyedMutex<ChunkHandle>();
  private readonly closing = new Set<Promise<void>>();
  private scan: Promise<void> = Promise.resolve();
  /** Every dirty replica is known. */
  private scanned = false;
  private stopping = false;
  private cleaning = false;
  private syncingBehind = false;
  /** A replica could not be cleaned: the directories cannot be left clean. */
  private uncleaned = false;

  constructor(private readonly options: ChunkStoreOptions) {
    this.directories = options.directories.map(
      (path, number) => new DataDirectory(options.disk, path, number, options.logger),
    );
  }

  /** Opens the directories and lists the replicas. Fails when none is usable or they belong to different servers. */
  async start(): Promise<void> {
    for (const directory of this.directories) {
      try {
        await directory.open();
        await this.list(directory);
      } catch (error) {
        if (!DataDirectory.isFailure(error)) throw error;
        this.lose(directory, error);
      }
    }
    const usable = this.usable();
    if (usable.length === 0) throw new CairnError('EIO', 'no data directory is usable: see the log, replace the disks');
    const identities = usable.flatMap((d) => (d.identity === undefined ? [] : [{ ...d.identity, path: d.path }]));
    const first = identities[0];
    for (const other of identities) {
      if (first !== undefined && (other.clusterId !== first.clusterId || other.serverId !== first.serverId)) {
        throw new CairnError(
          'EINVAL',
          `data directories ${first.path} and ${other.path} belong to different chunkservers: start each with its own`,
        );
      }
    }
    // Reading every header finds what was under mutation. Only after a power loss must it come before serving.
    const untrusted = usable.some((directory) => !directory.trusted);
    this.scan = this.scanHeaders();
    if (untrusted) await this.scan;
    else this.scan.catch((error: unknown) => this.options.logger.warn({ reason: String(error) }, 'header scan failed'));
  }

  get identity(): Identity | undefined {
    return this.usable().find((directory) => directory.identity !== undefined)?.identity;
  }

  async setIdentity(identity: Identity): Promise<void> {
    for (const directory of this.usable()) {
      if (directory.identity === undefined) await directory.writeIdentity(identity);
    }
  }

  space(): DiskSpace {
    let totalBytes = 0;
    let freeBytes = 0;
    for (const directory of this.usable()) {
      totalBytes += directory.totalBytes;
      freeBytes += directory.freeBytes;
    }
    return { totalBytes, freeBytes };
  }

  /** Asks the disks for their free space; one that does not answer goes out of service. */
  async measure(): Promise<void> {
    for (const directory of this.usable()) {
      try {
        await directory.measure();
      } catch (error) {
        this.lose(directory, error);
      }
    }
  }

  /** The replica's entry. Fails with NO_REPLICA. */
  entry(handle: ChunkHandle): IndexEntry {
    const entry = this.index.get(handle);
    if (entry === undefined) throw new CairnError('NO_REPLICA', `this server has no replica of chunk ${handle}`);
    return entry;
  }

  /** Makes an empty replica; does nothing when there is one at `version` already. */
  async create(handle: ChunkHandle, version: ChunkVersion): Promise<void> {
    await this.changes.run(handle, async () => {
      const existing = this.index.get(handle);
      if (existing !== undefined) {
        if (existing.version === version) return;
        throw new CairnError('STALE_VERSION', `chunk ${handle} exists at version ${existing.version}, not ${version}`);
      }
      await this.inSomeDirectory(async (directory) => {
        const path = directory.chunkPath(handle, version);
        const file = await this.createFile(path, handle, version);
        this.hold({ handle, directory, path, file: Promise.resolve(file), opened: file });
        this.index.set({ handle, version, directory: directory.number, suspect: false });
      });
      this.dirty.set(handle, this.options.clock.monotonicMs());
    });
  }

  /** Runs `action` on the open file of a replica. */
  async use<T>(handle: ChunkHandle, action: (file: ChunkFile) => Promise<T>): Promise<T> {
    const chunk = this.pin(this.entry(handle));
    try {
      return await action(await chunk.file);
    } catch (error) {
      throw this.examine(chunk, error);
    } finally {
      this.unpin(chunk);
    }
  }

  /** As `use`, for actions that change the content. */
  async mutate<T>(handle: ChunkHandle, action: (file: ChunkFile) => Promise<T>): Promise<T> {
    this.dirty.delete(handle);
    this.dirty.set(handle, this.options.clock.monotonicMs());
    const result = await this.use(handle, action);
    if (!this.syncingBehind && (this.open.get(handle)?.opened?.unsyncedBytes ?? 0) >= SYNC_BEHIND_BYTES) {
      this.syncingBehind = true;
      void this.syncBehind(handle);
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
    const chunk = this.pin(this.entry(handle));
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
      this.unpin(chunk);
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
        this.dirty.delete(handle);
      }),
    );
  }

  /**
   * Makes a replica at `version` from what `fill` writes, in place of an older one. It appears whole and synced, or
   * not at all.
   */
  async replace(handle: ChunkHandle, version: ChunkVersion, fill: (file: ChunkFile) => Promise<void>): Promise<void> {
    await this.changes.run(handle, async () => {
      await this.inSomeDirectory(async (directory) => {
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
    if (this.cleaning) return;
    this.cleaning = true;
    const { clock, logger } = this.options;
    const worker = async (): Promise<void> => {
      for (const [handle, lastMs] of this.dirty) {
        if (lastMs + idleMs > clock.monotonicMs() || clock.monotonicMs() > untilMs) return;
        this.dirty.delete(handle);
        if (this.index.get(handle) === undefined) continue;
        try {
          await exclusive(handle, async () => {
            await this.sync(handle);
            await this.use(handle, (file) => file.markClean());
          });
        } catch (error) {
          this.uncleaned = true;
          logger.warn({ handle, reason: asCairnError(error).message }, 'cleaning a replica failed');
        }
      }
    };
    try {
      await Promise.all(Array.from({ length: CLEAN_WIDTH }, worker));
    } finally {
      this.cleaning = false;
    }
  }

  /** Marks all replicas clean, within CLEAN_STOP_MS, and closes everything. No operation may be running. */
  async stop(): Promise<void> {
    this.stopping = true;
    const { clock, logger } = this.options;
    await this.scan.catch(() => undefined);
    await this.clean((_, section) => section(), -1, clock.monotonicMs() + CLEAN_STOP_MS);
    const clean = this.scanned && this.dirty.size === 0 && !this.uncleaned;
    for (const chunk of [...this.open.values()]) void this.retire(chunk);
    await Promise.all(this.closing);
    for (const directory of this.directories) {
      await directory.close(clean).catch((error: unknown) => {
        logger.warn({ directory: directory.path, reason: asCairnError(error).message }, 'directory not left clean');
      });
    }
  }

  // ---- Directories ----------------------------------------------------------------------------------

  private usable(): DataDirectory[] {
    return this.directories.filter((directory) => directory.failure === undefined);
  }

  private directory(entry: IndexEntry): DataDirectory {
    const directory = this.directories[entry.directory];
    if (directory === undefined) throw new CairnError('INTERNAL', `no data directory ${entry.directory}`);
    return directory;
  }

  /** Tries the directories, one with more free space rather first, until one is not full. */
  private async inSomeDirectory(action: (directory: DataDirectory) => Promise<void>): Promise<void> {
    let candidates = this.usable();
    if (candidates.length === 0) throw new CairnError('EIO', 'no data directory is in service');
    for (;;) {
      const roomy = candidates.filter((directory) => directory.freeBytes >= LOW_SPACE_BYTES);
      const choice = this.weighted(roomy.length > 0 ? roomy : candidates);
      try {
        return await action(choice);
      } catch (error) {
        candidates = candidates.filter((directory) => directory !== choice);
        if (DataDirectory.isFailure(error)) this.lose(choice, error);
        else if (!hasCode(error, 'ENOSPC', 'EDQUOT')) throw error;
        if (candidates.length === 0) throw error;
      }
    }
  }

  private weighted(candidates: readonly DataDirectory[]): DataDirectory {
    const total = candidates.reduce((sum, directory) => sum + directory.freeBytes, 0);
    let at = (this.options.random.below(2 ** 32) / 2 ** 32) * total;
    let chosen = candidates[0];
    for (const directory of candidates) {
      chosen = directory;
      at -= directory.freeBytes;
      if (at < 0) break;
    }
    if (chosen === undefined) throw new CairnError('INTERNAL', 'no directory to choose from');
    return chosen;
  }

  private lose(directory: DataDirectory, error: unknown): void {
    if (directory.failure !== undefined) return;
    directory.takeOutOfService(error);
    let lost = 0;
    for (let after = -1; ;) {
      const page = this.index.page(after, 4096);
      const last = page.at(-1);
      if (last === undefined) break;
      after = last.handle;
      for (const entry of page) {
        if (entry.directory !== directory.number) continue;
        this.index.delete(entry.handle);
        this.dirty.delete(entry.handle);
        lost++;
      }
    }
    for (const chunk of [...this.open.values()]) if (chunk.directory === directory) void this.retire(chunk);
    this.options.logger.error({ directory: directory.path, lost }, 'replicas lost with their data directory');
    this.options.onLost();
  }

  private async list(directory: DataDirectory): Promise<void> {
    const superseded: FoundReplica[] = [];
    for await (const found of directory.replicas()) {
      const other = this.index.get(found.handle);
      if (other !== undefined && other.version >= found.version) {
        superseded.push(found);
        continue;
      }
      if (other !== undefined) await this.unlinkQuietly(this.directory(other).chunkPath(other.handle, other.version));
      this.index.set({ ...found, directory: directory.number, suspect: false });
    }
    for (const { handle, version } of superseded) await this.unlinkQuietly(directory.chunkPath(handle, version));
  }

  /** Reads the headers where the last stop was not clean: the dirty ones are to be cleaned, or are suspect. */
  private async scanHeaders(): Promise<void> {
    const { disk, clock, logger } = this.options;
    for (let after = -1; !this.stopping;) {
      const page = this.index.page(after, SCAN_WIDTH);
      const last = page.at(-1);
      if (last === undefined) {
        this.scanned = true;
        return;
      }
      after = last.handle;
      const scanOne = async (entry: IndexEntry): Promise<void> => {
        const directory = this.directory(entry);
        if (directory.failure !== undefined || directory.leftClean) return;
        const path = directory.chunkPath(entry.handle, entry.version);
        const header = await peekHeader(disk, path).catch((error: unknown) => {
          // It may have been renamed or removed meanwhile; opening it for use will tell.
          if (!hasCode(error, 'ENOENT'))
            logger.warn({ path, reason: asCairnError(error).message }, 'unreadable replica');
          return null;
        });
        const now = this.index.get(entry.handle);
        if (header === null || now?.version !== entry.version) return;
        if (header === undefined) {
          this.index.delete(entry.handle);
          await this.unlinkQuietly(path);
        } else if (header.version !== entry.version) {
          await this.use(entry.handle, (file) => {
            if (file.dirty) this.dirty.set(entry.handle, clock.monotonicMs());
            return Promise.resolve();
          });
        } else if (header.dirty) {
          if (header.bootId !== disk.bootId()) this.index.set({ ...now, suspect: true });
          else if (!this.dirty.has(entry.handle)) this.dirty.set(entry.handle, clock.monotonicMs());
        }
      };
      await Promise.all(page.map(scanOne));
    }
  }

  // ---- Files ----------------------------------------------------------------------------------------

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

  private hold(chunk: Pick<OpenChunk, 'handle' | 'directory' | 'path' | 'file' | 'opened'>): OpenChunk {
    const held: OpenChunk = { ...chunk, pins: 0, entrySynced: false, retired: undefined };
    this.open.set(chunk.handle, held);
    if (this.open.size > MAX_OPEN_CHUNK_FILES) {
      for (const candidate of this.open.values()) {
        if (candidate.pins > 0 || candidate === held) continue;
        void this.retire(candidate);
        break;
      }
    }
    return held;
  }

  private pin(entry: IndexEntry): OpenChunk {
    let chunk = this.open.get(entry.handle);
    if (chunk === undefined) {
      const directory = this.directory(entry);
      const path = directory.chunkPath(entry.handle, entry.version);
      const opening = ChunkFile.open(this.options.disk, path, directory.leftClean);
      const held = this.hold({ handle: entry.handle, directory, path, file: opening, opened: undefined });
      held.file = opening.then(async (file) => {
        held.opened = file;
        if (file.version !== entry.version) await this.nameAfterHeader(held, file);
        return file;
      });
      // Everyone who pins it awaits `file` and sees the failure; the next one tries again.
      held.file.catch(() => {
        if (this.open.get(held.handle) === held) this.open.delete(held.handle);
      });
      chunk = held;
    } else {
      this.open.delete(entry.handle);
      this.open.set(entry.handle, chunk);
    }
    chunk.pins++;
    return chunk;
  }

  private unpin(chunk: OpenChunk): void {
    chunk.pins--;
    if (chunk.pins === 0) chunk.retired?.();
  }

  /**
   * Takes a chunk out of the open ones, and closes it once nobody uses it; at once if so now, so that whoever opens it
   * again finds its table written. Resolves when it is closed; never rejects.
   */
  private retire(chunk: OpenChunk): Promise<void> {
    if (this.open.get(chunk.handle) === chunk) this.open.delete(chunk.handle);
    if (chunk.pins === 0) return this.closeFile(chunk);
    return new Promise((resolve) => {
      const before = chunk.retired;
      chunk.retired = () => {
        before?.();
        resolve(before === undefined ? this.closeFile(chunk) : undefined);
      };
    });
  }

  private closeFile(chunk: OpenChunk): Promise<void> {
    if (chunk.opened === undefined) return Promise.resolve();
    const closed = chunk.opened
      .close()
      .catch((error: unknown) => {
        this.options.logger.warn({ path: chunk.path, reason: asCairnError(error).message }, 'closing failed');
      })
      .finally(() => this.closing.delete(closed));
    this.closing.add(closed);
    return closed;
  }

  private async discard(handle: ChunkHandle): Promise<void> {
    const entry = this.entry(handle);
    this.index.delete(handle);
    this.dirty.delete(handle);
    const chunk = this.open.get(handle);
    if (chunk !== undefined) await this.retire(chunk);
    await this.unlinkQuietly(this.directory(entry).chunkPath(handle, entry.version));
  }

  private async unlinkQuietly(path: string): Promise<void> {
    await this.options.disk.unlink('chunk.unlink', path).catch((error: unknown) => {
      if (!hasCode(error, 'ENOENT')) {
        this.options.logger.warn({ path, reason: asCairnError(error).message }, 'deleting failed');
      }
    });
  }

  private async nameAfterHeader(chunk: OpenChunk, file: ChunkFile): Promise<void> {
    const { directory, handle } = chunk;
    const path = directory.chunkPath(handle, file.version);
    if (path !== chunk.path) await this.options.disk.rename('chunk.rename', chunk.path, path);
    chunk.path = path;
    if (this.index.get(handle) === undefined) return;
    this.index.set({ handle, version: file.version, directory: directory.number, suspect: file.suspect });
  }

  /** Draws the consequences of a failed operation on a chunk's file. Returns the error for the caller. */
  private examine(chunk: OpenChunk, error: unknown): unknown {
    if (DataDirectory.isFailure(error)) this.lose(chunk.directory, error);
    if (!hasCode(error, 'ENOENT', 'NO_REPLICA')) return error;
    const { handle, path } = chunk;
    const entry = this.index.get(handle);
    if (entry !== undefined && this.directory(entry).chunkPath(handle, entry.version) === path) {
      this.options.logger.error({ path, reason: error.message }, 'replica is gone or was never finished');
      this.index.delete(handle);
      this.dirty.delete(handle);
      void this.retire(chunk);
      this.options.onLost();
    }
    return new CairnError('NO_REPLICA', `chunk ${handle} is not readable here: ${error.message}`, { cause: error });
  }
}
