/**
 * The replicas of this server: creation, use, versions, deletion, and what follows when a file or a disk fails.
 *
 *   disks/             where replicas are: the data directories (one for each disk), and what notices that a disk fails or hangs
 *   replica-index      which there are
 *   open-chunks        their open files (chunk-file: one of them)
 *   dirty-replicas     those under mutation, and their cleaning
 *   header-scan        finds those after an unclean stop
 *   aside              replicas of chunks that the master does not know
 *   replica-listing    finds the replicas at start
 *   rollbacks          disks that were put back to an older state
 *   failed-replicas    what follows when a file fails
 */
import type { Clock } from '../../core/clock.js';
import type { BootNotes } from '../../core/disk/boot-notes.js';
import type { Disk } from '../../core/disk/disk.js';
import { CairnError, asCairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../../core/ids.js';
import { CLEAN_AFTER_IDLE_MS, CLEAN_STOP_MS, SYNC_BEHIND_BYTES } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { KeyedMutex, unawaited } from '../../core/sync.js';
import { ChunkFile } from '../chunk/chunk-file.js';
import { AsideReplicas } from './aside.js';
import { peekHeader } from '../chunk/chunk-header.js';
import { DataDirectories } from '../disks/data-directories.js';
import type { DataDirectory, FoundReplica } from '../disks/data-directory.js';
import { DirtyReplicas } from './dirty-replicas.js';
import { DiskProbes } from '../disks/disk-probes.js';
import type { DiskWatch } from '../disks/disk-watch.js';
import { FailedReplicas } from './failed-replicas.js';
import { HeaderScan } from './header-scan.js';
import { Making, type BegunSince } from './making.js';
import { OpenChunks, type OpenChunk } from './open-chunks.js';
import { ReplicaIndex, type IndexEntry } from './replica-index.js';
import { ReplicaListing } from './replica-listing.js';
import { Rollbacks } from './rollbacks.js';

export interface ChunkStoreOptions {
  /** The disk as `watch` gives it. */
  readonly disk: Disk;
  readonly watch: DiskWatch;
  readonly bootNotes: BootNotes;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly directories: readonly string[];
  /** Chunk files that are kept open. Default MAX_OPEN_CHUNK_FILES. */
  readonly maxOpen?: number | undefined;
  /** Ids of disks that are gone for good. */
  readonly forgetDisks: readonly string[];
  /** Many replicas are gone: the report to the master has to be made again. */
  readonly onLost: () => void;
  /** One replica is gone (NO_REPLICA), or cannot be believed any more. */
  readonly onBadReplica: (replica: FoundReplica, error: CairnError) => void;
}

/** Replicas among which one in a certain directory is looked for at a time. */
const LOOK_AHEAD = 64;

export class ChunkStore {
  readonly index = new ReplicaIndex();
  readonly making = new Making();
  /** The disks: their identity, space and state. */
  readonly directories: DataDirectories;
  private readonly open: OpenChunks;
  private readonly dirty: DirtyReplicas;
  private readonly scan: HeaderScan;
  private readonly probes: DiskProbes;
  /** In each directory, the replica that was looked at last. */
  private readonly lookedAt = new Map<DataDirectory, number>();
  readonly aside: AsideReplicas;
  readonly rollbacks: Rollbacks;
  private readonly listing: ReplicaListing;
  private readonly failed: FailedReplicas;
  /** Creation, adoption and removal of one chunk go one after another. */
  private readonly changes = new KeyedMutex<ChunkHandle>('chunkserver.chunk');
  private syncingBehind = false;
  private isReported = false;

  constructor(private readonly options: ChunkStoreOptions) {
    const { disk, clock, random, logger } = options;
    this.directories = new DataDirectories({
      ...{
        disk,
        bootNotes: options.bootNotes,
        random,
        logger,
        watch: options.watch,
        paths: options.directories,
        forget: options.forgetDisks,
      },
      onFailure: (directory) => this.loseReplicas(directory),
      onDoubt: (directory) => this.probes.soon(directory),
    });
    this.probes = new DiskProbes({
      clock,
      directories: () => this.directories.usable(),
      answers: (directory) => options.watch.answers(directory.number),
      onFailed: (directory, error) => this.directories.lose(directory, error),
      lookAtReplica: (directory) => this.lookAtReplica(directory),
    });
    this.open = new OpenChunks({
      ...{ disk, logger, directories: this.directories, maxOpen: options.maxOpen },
      onOtherVersion: async (chunk, file) => {
        const isDoubted = this.index.get(chunk.handle)?.suspect === true;
        await this.nameAfterHeader(chunk, file, isDoubted || file.suspect);
      },
    });
    this.rollbacks = new Rollbacks(this.directories, this.index, logger);
    this.listing = new ReplicaListing(disk, this.directories, this.index, logger);
    this.failed = new FailedReplicas({
      ...{ clock, logger, directories: this.directories, index: this.index, open: this.open, probes: this.probes },
      forget: (handle) => this.forget(handle),
      onBadReplica: options.onBadReplica,
    });
    this.dirty = new DirtyReplicas(clock, logger);
    this.aside = new AsideReplicas({ disk, clock, logger, directories: this.directories });
    this.scan = new HeaderScan({
      ...{ disk, logger, directories: this.directories, index: this.index, dirty: this.dirty },
      openRenamed: (handle) => this.use(handle, (file) => Promise.resolve(file.dirty)),
    });
  }

  /** Opens the directories and lists the replicas. Fails when none is usable or they belong to different servers. */
  async start(): Promise<void> {
    this.options.watch.start(() => this.options.onLost());
    await this.directories.open(async (directory) => {
      await this.listing.take(directory);
      await this.aside.list(directory);
      if (directory.session.rolledBack) this.rollbacks.suspectAll(directory);
    });
    // Reading every header finds what was under mutation. Only after a power loss must it come before serving.
    const { trusted } = this.directories;
    const scan = this.scan.start();
    if (trusted) {
      scan.catch((error: unknown) => this.options.logger.warn({ reason: String(error) }, 'header scan failed'));
    } else {
      await scan;
    }
    this.probes.start();
  }

  /** Runs a request about a replica; not while its disk does not answer (DiskWatch.run). */
  answering<T>(handle: ChunkHandle, work: () => Promise<T>): Promise<T> {
    return this.options.watch.run(this.index.get(handle)?.directory, work);
  }

  /**
   * There is no replica here, but some disk does not answer, on which what there was may still be under work. `isBusy`: it has
   * a mutation under way.
   */
  isHeldUp(handle: ChunkHandle, isBusy: boolean): boolean {
    if (this.options.watch.allAnswer || this.index.get(handle) !== undefined) return false;
    return isBusy || this.changes.isBusy(handle);
  }

  /** Its disk was put back to an older state, and it has not been compared with another replica since. */
  isOlder(handle: ChunkHandle): boolean {
    const entry = this.entry(handle);
    return entry.suspect && this.directories.of(entry).session.rolledBack;
  }

  /** Its disk has not answered for long: it counts as lost until it does. */
  isAbsent(entry: IndexEntry): boolean {
    return this.options.watch.isAbsent(entry.directory);
  }

  /** The machine lost power since the directories were used last, and nothing else happened: what is gone was not synced. */
  get afterPowerLoss(): boolean {
    return this.lostPower && !this.directories.someAway;
  }

  /** As `afterPowerLoss`, but a disk is away: what is not found may be there. */
  get disksAway(): boolean {
    return this.lostPower && this.directories.someAway;
  }

  private get lostPower(): boolean {
    return this.directories.lostPower && this.options.forgetDisks.length === 0;
  }

  /** Regular care of the directories. Waits for none. */
  tend(): void {
    this.directories.tend(this.options.clock.monotonicMs());
    for (const directory of this.directories.usable()) {
      this.rollbacks.endIfCompared(directory);
      if (this.isReported) this.lessenDoubt(directory);
    }
  }

  /** The master has all that a start found. */
  noteReported(): void {
    this.isReported = true;
  }

  private lessenDoubt(directory: DataDirectory): void {
    const work = directory.session.lessenDoubt(this.index.suspectCount(directory.number)).catch((error: unknown) => {
      this.options.logger.warn({ directory: directory.path, reason: asCairnError(error).message }, 'stays in doubt');
    });
    unawaited(work, this.options.logger, 'the end of a doubt');
  }

  /** The replica's entry. Fails with NO_REPLICA, or with UNAVAILABLE while a disk is away that may have it. */
  entry(handle: ChunkHandle): IndexEntry {
    const entry = this.index.get(handle);
    if (entry !== undefined) return entry;
    if (this.directories.someAway) {
      // Not lost: nothing of a chunk is given up because of a disk that may come back.
      throw new CairnError('UNAVAILABLE', `chunk ${handle} is not here, or on a disk of this server that is not there`);
    }
    throw new CairnError('NO_REPLICA', `this server has no replica of chunk ${handle}`);
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
        throw this.failed.examine({ handle, directory, path }, error);
      }
    });
  }

  /** Makes an empty replica; does nothing when there is one at `version` already. */
  async create(handle: ChunkHandle, version: ChunkVersion): Promise<void> {
    this.making.begins(handle);
    await this.changes.run(handle, async () => {
      const existing = this.index.get(handle);
      if (existing !== undefined) {
        if (existing.version === version) return;
        throw new CairnError('STALE_VERSION', `chunk ${handle} exists at version ${existing.version}, not ${version}`);
      }
      await this.directories.inOne(async (directory) => {
        const path = directory.chunkPath(handle, version);
        const file = await this.createFile(directory, path, { handle, version });
        this.open.hold({ handle, directory, path, file: Promise.resolve(file), opened: file });
        this.index.set({ handle, version, directory: directory.number, suspect: false });
        directory.session.noteChange();
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
      throw this.failed.examine(chunk, error);
    } finally {
      this.open.unpin(chunk);
    }
  }

  /** As `use`, for actions that change the content. */
  async mutate<T>(handle: ChunkHandle, action: (file: ChunkFile) => Promise<T>): Promise<T> {
    this.dirty.mutated(handle);
    const result = await this.use(handle, action);
    const chunk = this.open.get(handle);
    chunk?.directory.session.noteChange();
    if (!this.syncingBehind && (chunk?.opened?.unsyncedBytes ?? 0) >= SYNC_BEHIND_BYTES) {
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
      await this.answering(handle, () => this.use(handle, (file) => file.sync()));
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
      throw this.failed.examine(chunk, error);
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
        // What `prepare` changes is not synced when something fails behind it.
        this.dirty.mutated(handle);
        await prepare(file);
        await file.adopt(version);
        await this.nameAfterHeader(chunk, file, false);
        await chunk.directory.syncEntry(handle);
        chunk.entrySynced = true;
        chunk.directory.session.noteChange();
        if (!file.dirty) this.dirty.forget(handle);
      }),
    );
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
    await this.changes.run(handle, async () => {
      await this.directories.inOne(async (directory) => {
        const incoming = directory.incomingPath(handle, version);
        const file = await this.createFile(directory, incoming, { handle, version });
        try {
          await fill(file);
          await file.adopt(version);
          confirm();
        } catch (error) {
          await this.options.disk.unlink('chunk.discard', incoming);
          throw error;
        } finally {
          await file.close();
        }
        if (this.index.get(handle) !== undefined) await this.discard(handle);
        try {
          await this.demandNoneBeside(directory, { handle, version });
        } catch (error) {
          await this.options.disk.unlink('chunk.discard', incoming);
          throw error;
        }
        const path = directory.chunkPath(handle, version);
        await this.options.disk.rename('chunk.rename', incoming, path);
        await directory.syncEntry(handle);
        directory.session.noteChange();
        try {
          // All this may have taken long: given up meanwhile it would be here without anybody's knowledge.
          confirm();
        } catch (error) {
          await directory.removeReplica({ handle, version });
          throw error;
        }
        this.index.set({ handle, version, directory: directory.number, suspect: false });
      });
    });
  }

  /**
   * A file of before at its version, which could not be deleted or comes back with a power loss, would be taken for the replica.
   * UNAVAILABLE when a disk does not allow that it is deleted: that disk has failed, and not the one that the replica is made on.
   */
  private async demandNoneBeside(directory: DataDirectory, replica: FoundReplica): Promise<void> {
    for (const other of this.directories.usable()) {
      // Where nothing is known to have been removed, a disk that hangs is not waited for: copies are to go on beside it.
      const isLookedAt = this.options.watch.answers(other.number) || other.mayBringBack(replica.handle);
      if (other === directory || !isLookedAt) continue;
      try {
        await other.demandNone(replica);
      } catch (error) {
        const path = other.chunkPath(replica.handle, replica.version);
        this.failed.examine({ handle: replica.handle, directory: other, path }, error);
        const { code, message } = asCairnError(error);
        throw new CairnError('UNAVAILABLE', `an older ${path} may be left beside the copy: ${code} ${message}`, {
          cause: error,
        });
      }
    }
  }

  /** Deletes a replica at `version` or lower, unless it was begun since; one that is not there is fine. */
  async remove(handle: ChunkHandle, version: ChunkVersion, begun?: BegunSince): Promise<void> {
    await this.changes.run(handle, async () => {
      const entry = this.index.get(handle);
      if (entry !== undefined && entry.version <= version && begun?.has(handle) !== true) await this.discard(handle);
    });
  }

  /** As `remove`, without a word to the disk: the file stays until the next start reports it. */
  disown(handle: ChunkHandle, version: ChunkVersion): void {
    const entry = this.index.get(handle);
    if (entry === undefined || entry.version > version) return;
    this.forget(handle);
    this.failed.abandon(handle, new CairnError('NO_REPLICA', `chunk ${handle} is deleted here`));
  }

  /**
   * Moves a replica at `version` or lower out of the way (aside.ts). One that is not there is fine; one without a byte, as those
   * of chunks that were made ahead and not used, is deleted.
   */
  async setAside(handle: ChunkHandle, version: ChunkVersion): Promise<void> {
    await this.changes.run(handle, async () => {
      if ((this.index.get(handle)?.version ?? Infinity) > version) return;
      const isEmpty = await this.isEmpty(handle);
      // As it is now: a header may have told another version, or that there is no replica.
      const entry = this.index.get(handle);
      if (entry === undefined) return;
      if (isEmpty) {
        await this.discard(handle);
        return;
      }
      const chunk = this.open.get(handle);
      if (chunk !== undefined) await this.open.retire(chunk);
      try {
        await this.aside.put(entry);
      } catch (error) {
        const directory = this.directories.of(entry);
        throw this.failed.examine({ handle, directory, path: this.directories.pathOf(entry) }, error);
      }
      this.forget(handle);
    });
  }

  /** Brings back what was set aside at `version`, in place of an older replica. Does nothing when it is gone, or not newer. */
  async restore(handle: ChunkHandle, version: ChunkVersion): Promise<void> {
    await this.changes.run(handle, async () => {
      const entry = this.aside.get(handle);
      const present = this.index.get(handle);
      if (entry?.version !== version || (present !== undefined && present.version >= version)) return;
      if (present !== undefined) await this.discard(handle);
      await this.aside.takeBack(entry);
      const header = await peekHeader(this.options.disk, this.directories.pathOf(entry));
      const isDirty = header?.dirty === true;
      const { session, boot } = this.directories.of(entry);
      const isDoubtful = isDirty && header.bootId !== boot.id;
      const suspect = entry.suspect || session.rolledBack || isDoubtful || header?.syncFailed === true;
      this.index.set({ ...entry, suspect });
      if (isDirty && !suspect) this.dirty.found(handle);
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
      const section = async (): Promise<void> => {
        await this.sync(handle);
        await this.use(handle, (file) => file.markClean());
        this.open.get(handle)?.directory.session.noteChange();
      };
      await this.answering(handle, () => exclusive(handle, section));
    };
    await this.dirty.clean(markClean, { idleMs, untilMs });
  }

  /** Marks all replicas clean, within CLEAN_STOP_MS, and closes everything. No operation may be running. */
  async stop(): Promise<void> {
    await this.scan.stop();
    this.options.watch.stop();
    await this.probes.stop();
    await this.clean((_, section) => section(), -1, this.options.clock.monotonicMs() + CLEAN_STOP_MS);
    // A start after a clean stop reads no header, and would not know which are suspect.
    const clean = this.scan.complete && this.dirty.none && this.index.suspectCount() === 0;
    await this.open.stop();
    await this.directories.close(clean);
  }

  /** Looks at the next replica in the directory: that its file is there and has a header. Never rejects. */
  private async lookAtReplica(directory: DataDirectory): Promise<void> {
    const page = this.index.page(this.lookedAt.get(directory) ?? -1, LOOK_AHEAD);
    const entry = page.find((candidate) => candidate.directory === directory.number && !candidate.suspect);
    this.lookedAt.set(directory, entry?.handle ?? page.at(-1)?.handle ?? -1);
    // What is wrong with it is told on the way.
    if (entry !== undefined) await this.check(entry.handle).catch(() => undefined);
  }

  private async createFile({ boot }: DataDirectory, path: string, chunk: FoundReplica): Promise<ChunkFile> {
    const { handle, version } = chunk;
    const { disk } = this.options;
    try {
      return await ChunkFile.create(disk, path, handle, version, boot.id);
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
      // Not in the index: left over from a creation or copy that was cut short.
      await disk.unlink('chunk.discard', path);
      return ChunkFile.create(disk, path, handle, version, boot.id);
    }
  }

  private async nameAfterHeader(chunk: OpenChunk, file: ChunkFile, suspect: boolean): Promise<void> {
    const { directory, handle } = chunk;
    const path = directory.chunkPath(handle, file.version);
    if (path !== chunk.path) await this.options.disk.rename('chunk.rename', chunk.path, path);
    chunk.path = path;
    if (this.index.get(handle) === undefined) return;
    this.index.set({ handle, version: file.version, directory: directory.number, suspect });
  }

  private async isEmpty(handle: ChunkHandle): Promise<boolean> {
    try {
      return (await this.use(handle, (file) => Promise.resolve(file.length))) === 0;
    } catch {
      // What cannot be read is no reason to delete it.
      return false;
    }
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
    const directory = this.directories.of(entry);
    directory.session.noteChange();
    await directory.removeReplica(entry);
  }

  /** The replicas in `directory` are gone with it, or away. */
  private loseReplicas(directory: DataDirectory): void {
    let lost = 0;
    for (const entry of this.index.entriesIn(directory.number)) {
      this.forget(entry.handle);
      lost++;
    }
    this.open.retireIn(directory);
    this.aside.forgetIn(directory);
    if (lost === 0) return;
    this.options.logger.error({ directory: directory.path, lost }, 'replicas lost with their data directory');
    this.options.onLost();
  }
}
