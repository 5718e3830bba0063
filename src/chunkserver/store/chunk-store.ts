/**
 * The replicas of this server: how they come, are used, are raised to a version and go, and what follows when a file or a disk fails.
 *
 *   disks/             where replicas are: the data directories (one for each disk), and what notices that a disk fails or hangs
 *   replica-index      which there are
 *   open-chunks        their open files (chunk-file: one of them)
 *   arrivals           making, replacing and bringing back a replica
 *   departures         deleting, disowning and setting aside a replica
 *   dirty-replicas     those under mutation, and their cleaning
 *   header-scan        finds those after an unclean stop
 *   aside              replicas of chunks that the master does not know
 *   replica-listing    finds the replicas at start
 *   power-loss         what a start after a loss of power tells the master, and the end of the doubt
 *   rollbacks          disks that were put back to an older state
 *   failed-replicas    what follows when a file fails
 */
import type { Clock } from '../../core/clock.js';
import type { BootNotes } from '../../core/disk/boot-notes.js';
import type { Disk } from '../../core/disk/disk.js';
import { CairnError, asCairnError } from '../../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../../core/ids.js';
import { CLEAN_AFTER_IDLE_MS, CLEAN_STOP_MS, SYNC_BEHIND_BYTES } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { KeyedMutex, unawaited } from '../../core/sync.js';
import type { ChunkFile } from '../chunk/chunk-file.js';
import { Arrivals } from './arrivals.js';
import { AsideReplicas } from './aside.js';
import { isMadeUp } from '../chunk/chunk-format.js';
import { peekHeader } from '../chunk/chunk-header.js';
import { DataDirectories } from '../disks/data-directories.js';
import type { DataDirectory, FoundReplica } from '../disks/data-directory.js';
import { Departures } from './departures.js';
import { DirtyReplicas } from './dirty-replicas.js';
import { DiskProbes } from '../disks/disk-probes.js';
import type { DiskWatch } from '../disks/disk-watch.js';
import { FailedReplicas } from './failed-replicas.js';
import { HeaderScan } from './header-scan.js';
import { Making } from './making.js';
import { OpenChunks, type OpenChunk } from './open-chunks.js';
import { PowerLoss } from './power-loss.js';
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
  /** Of this server. */
  readonly address?: string | undefined;
  /** Chunk files that are kept open. Default MAX_OPEN_CHUNK_FILES. */
  readonly maxOpen?: number | undefined;
  /** Ids of disks that are gone for good. */
  readonly forgetDisks: readonly string[];
  /** Many replicas are gone, or in doubt: the report to the master has to be made again. */
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
  readonly arrivals: Arrivals;
  readonly departures: Departures;
  readonly rollbacks: Rollbacks;
  readonly powerLoss: PowerLoss;
  private readonly listing: ReplicaListing;
  private readonly failed: FailedReplicas;
  /** Arrival, adoption and departure of one chunk go one after another. */
  private readonly changes = new KeyedMutex<ChunkHandle>('chunkserver.chunk');
  private syncingBehind = false;

  constructor(private readonly options: ChunkStoreOptions) {
    const { disk, clock, random, logger } = options;
    this.directories = new DataDirectories({
      disk,
      bootNotes: options.bootNotes,
      random,
      logger,
      watch: options.watch,
      paths: options.directories,
      address: options.address,
      forget: options.forgetDisks,
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
      disk,
      logger,
      directories: this.directories,
      maxOpen: options.maxOpen,
      onOtherVersion: async (chunk, file) => {
        const isDoubted = this.index.get(chunk.handle)?.suspect === true;
        await this.nameAfterHeader(chunk, file, isDoubted || file.suspect);
      },
    });
    this.rollbacks = new Rollbacks(this.directories, this.index, logger);
    this.powerLoss = new PowerLoss(this.directories, this.index, logger, options.forgetDisks.length > 0);
    this.listing = new ReplicaListing(disk, this.directories, this.index, logger);
    this.failed = new FailedReplicas({
      clock,
      logger,
      directories: this.directories,
      index: this.index,
      open: this.open,
      probes: this.probes,
      forget: (handle) => this.departures.forget(handle),
      onBadReplica: options.onBadReplica,
    });
    this.dirty = new DirtyReplicas(clock, logger);
    this.aside = new AsideReplicas({ disk, clock, logger, directories: this.directories });
    const { directories, index, open, dirty, failed, changes, making } = this;
    this.departures = new Departures({
      directories,
      index,
      open,
      dirty,
      failed,
      changes,
      aside: this.aside,
      lengthOf: (handle) => this.use(handle, (file) => Promise.resolve(file.length)),
    });
    this.arrivals = new Arrivals({
      disk,
      watch: options.watch,
      directories,
      index,
      open,
      dirty,
      failed,
      changes,
      making,
      aside: this.aside,
      departures: this.departures,
    });
    this.scan = new HeaderScan({
      disk,
      logger,
      directories,
      index,
      dirty,
      openRenamed: (handle) => this.use(handle, (file) => Promise.resolve(file.dirty)),
      onDoubted: options.onLost,
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

  /** Regular care of the directories. Waits for none. */
  tend(): void {
    this.directories.tend(this.options.clock.monotonicMs());
    for (const directory of this.directories.usable()) {
      this.rollbacks.endIfCompared(directory);
      this.powerLoss.lessenDoubt(directory);
    }
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
        const header = await peekHeader(this.options.disk, path, entry);
        if (header === undefined) throw new CairnError('NO_REPLICA', `${path} has no valid header`);
        // A recovery writes it anew. Where that goes on nothing is to be told.
        if (isMadeUp(header) && !entry.suspect) throw new CairnError('EIO', `the header of ${path} has rotted`);
      } catch (error) {
        throw this.failed.examine({ handle, directory, path }, error);
      }
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

  private async nameAfterHeader(chunk: OpenChunk, file: ChunkFile, suspect: boolean): Promise<void> {
    const { directory, handle } = chunk;
    const path = directory.chunkPath(handle, file.version);
    if (path !== chunk.path) await this.options.disk.rename('chunk.rename', chunk.path, path);
    chunk.path = path;
    if (this.index.get(handle) === undefined) return;
    this.index.set({ handle, version: file.version, directory: directory.number, suspect });
  }

  /** The replicas in `directory` are gone with it, or away. */
  private loseReplicas(directory: DataDirectory): void {
    let lost = 0;
    for (const entry of this.index.entriesIn(directory.number)) {
      this.departures.forget(entry.handle);
      lost++;
    }
    this.open.retireIn(directory);
    this.aside.forgetIn(directory);
    if (lost === 0) return;
    this.options.logger.error({ directory: directory.path, lost }, 'replicas lost with their data directory');
    this.options.onLost();
  }
}
