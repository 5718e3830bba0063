/**
 * Replicas of chunks that the master does not know: moved out of the way rather than deleted, because its metadata may have been
 * put back to an older state, and the newer one may come again. Each is a file `aside/H.V.T` of its data directory, T being the
 * second in which it was set aside. Nobody reads it and a new chunk of that handle may be made beside it. It goes after
 * ASIDE_KEEP_MS, or before that when the disk is nearly full; it comes back when a master asks for it.
 *
 * In memory a replica takes twice the room of one in service, of which there may be as many.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle, ChunkVersion } from '../../core/ids.js';
import { chunkVersion } from '../../core/ids.js';
import { ASIDE_KEEP_MS, ASIDE_MIN_FREE_BYTES, MAX_ASIDE_DELETED } from '../../core/limits.js';
import type { Disk } from '../../core/disk/disk.js';
import type { Logger } from '../../core/logging/logger.js';
import type { DataDirectories } from '../disks/data-directories.js';
import type { DataDirectory, FoundReplica } from '../disks/data-directory.js';
import { ReplicaIndex, type IndexEntry } from './replica-index.js';

export interface AsideOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly directories: DataDirectories;
}

const PAGE = 4096;
/** Nothing is deleted by a clock that was moved, or that this process does not know yet, before it went evenly for so long. */
const EVEN_CLOCK_MS = 3_600_000;
const UNEVEN_MS = 60_000;
/** A clock that says less was not set when the replica was set aside: its time begins anew. */
const SANE_SECONDS = 1_600_000_000;

export class AsideReplicas {
  private readonly index = new ReplicaIndex();
  /** When each was set aside, in seconds, in place of the version. */
  private readonly since = new ReplicaIndex();
  /** The wall clock minus the monotonic one, and since when it is that. */
  private clockOffset: { readonly ms: number; readonly sinceMs: number } | undefined;

  constructor(private readonly options: AsideOptions) {}

  get size(): number {
    return this.index.size;
  }

  /** The highest handle there ever was. */
  get highest(): number {
    return this.index.highest;
  }

  page(after: number, limit: number): IndexEntry[] {
    return this.index.page(after, limit);
  }

  get(handle: ChunkHandle): IndexEntry | undefined {
    return this.index.get(handle);
  }

  /** Lists what is aside in a directory. */
  async list(directory: DataDirectory): Promise<void> {
    const now = this.options.clock.now().seconds;
    for await (const found of directory.aside()) {
      // One that another directory has as well is told by its version; what is of no use goes with its time.
      const other = this.index.get(found.handle);
      if (other !== undefined && other.version >= found.version) continue;
      let { seconds } = found;
      if (seconds < SANE_SECONDS && now >= SANE_SECONDS) {
        seconds = now;
        const from = directory.asidePath(found.handle, found.version, found.seconds);
        await this.options.disk.rename('aside.rename', from, this.pathIn(directory, found, seconds));
      }
      this.note({ ...found, directory: directory.number, suspect: false }, seconds);
    }
  }

  /** Moves a replica's file, which nobody has open, out of the way. */
  async put(entry: IndexEntry): Promise<void> {
    const { disk, clock, directories } = this.options;
    const directory = directories.of(entry);
    const { seconds } = clock.now();
    await disk.rename('aside.rename', directories.pathOf(entry), this.pathIn(directory, entry, seconds));
    await directory.syncAside();
    const other = this.index.get(entry.handle);
    const otherSince = this.secondsOf(entry.handle);
    if (other !== undefined && (other.version !== entry.version || otherSince !== seconds)) {
      const [older, olderSince] = other.version > entry.version ? [entry, seconds] : [other, otherSince];
      await this.unlink(older, olderSince);
      if (older === entry) return;
    }
    this.note(entry, seconds);
  }

  /** Where the file of one that is aside is. */
  pathOf(entry: IndexEntry): string {
    return this.pathIn(this.options.directories.of(entry), entry, this.secondsOf(entry.handle));
  }

  /** Puts a replica's file back among those in service. */
  async takeBack(entry: IndexEntry): Promise<void> {
    const { disk, directories } = this.options;
    const directory = directories.of(entry);
    await disk.rename('aside.rename', this.pathOf(entry), directory.chunkPath(entry.handle, entry.version));
    await directory.syncEntry(entry.handle);
    this.drop(entry.handle);
  }

  /** The replicas in `directory` are gone with it. */
  forgetIn(directory: DataDirectory): void {
    for (const entry of this.all()) if (entry.directory === directory.number) this.drop(entry.handle);
  }

  /** Deletes those whose time is over, and the oldest on a disk that is nearly full. To be called now and then. */
  async tidy(): Promise<void> {
    const isEven = this.lookAtClock();
    if (this.size === 0) return;
    const { clock, directories, logger } = this.options;
    const expired = isEven ? clock.now().seconds - ASIDE_KEEP_MS / 1000 : -Infinity;
    const oldest = new Map<number, IndexEntry[]>();
    const over: IndexEntry[] = [];
    for (const entry of this.all()) {
      if (this.secondsOf(entry.handle) < expired) {
        if (over.length < MAX_ASIDE_DELETED) over.push(entry);
      } else if (isTight(directories.of(entry))) oldest.set(entry.directory, this.withOldest(oldest, entry));
    }
    for (const entry of over) await this.delete(entry);
    if (over.length > 0)
      logger.info({ count: over.length, left: this.size }, 'replicas were aside for long enough: deleted');
    for (const [, entries] of oldest) {
      let count = 0;
      for (const entry of entries) {
        const directory = directories.of(entry);
        if (!isTight(directory)) break;
        await this.delete(entry);
        await directory.measure();
        count++;
      }
      logger.warn({ count, left: this.size }, 'the disk is nearly full: replicas that were kept aside are deleted');
    }
  }

  /** Whether the wall clock goes as the monotonic one does, for long. */
  private lookAtClock(): boolean {
    const nowMs = this.options.clock.monotonicMs();
    const ms = this.options.clock.now().seconds * 1000 - nowMs;
    const before = this.clockOffset;
    if (before === undefined || Math.abs(ms - before.ms) > UNEVEN_MS) this.clockOffset = { ms, sinceMs: nowMs };
    return nowMs - (this.clockOffset?.sinceMs ?? nowMs) >= EVEN_CLOCK_MS;
  }

  /** The MAX_ASIDE_DELETED of a directory that are aside for longest, the oldest first. */
  private withOldest(known: ReadonlyMap<number, IndexEntry[]>, entry: IndexEntry): IndexEntry[] {
    const entries = [...(known.get(entry.directory) ?? []), entry];
    entries.sort((a, b) => this.secondsOf(a.handle) - this.secondsOf(b.handle));
    return entries.slice(0, MAX_ASIDE_DELETED);
  }

  private *all(): Generator<IndexEntry> {
    for (let after = -1; ;) {
      const page = this.index.page(after, PAGE);
      const last = page.at(-1);
      if (last === undefined) return;
      after = last.handle;
      yield* page;
    }
  }

  private async delete(entry: IndexEntry): Promise<void> {
    const seconds = this.secondsOf(entry.handle);
    this.drop(entry.handle);
    await this.unlink(entry, seconds);
  }

  private async unlink(entry: IndexEntry, seconds: number): Promise<void> {
    const path = this.pathIn(this.options.directories.of(entry), entry, seconds);
    await this.options.disk.unlink('aside.unlink', path).catch((error: unknown) => {
      if (hasCode(error, 'ENOENT')) return;
      this.options.logger.warn({ path, reason: asCairnError(error).message }, 'deleting failed');
    });
  }

  private pathIn(directory: DataDirectory, { handle, version }: FoundReplica, seconds: number): string {
    return directory.asidePath(handle, version, seconds);
  }

  private secondsOf(handle: ChunkHandle): number {
    return this.since.get(handle)?.version ?? 0;
  }

  private note(entry: IndexEntry, seconds: number): void {
    this.index.set(entry);
    const asVersion: ChunkVersion = chunkVersion(seconds);
    this.since.set({ ...entry, version: asVersion });
  }

  private drop(handle: ChunkHandle): void {
    this.index.delete(handle);
    this.since.delete(handle);
  }
}

function isTight(directory: DataDirectory): boolean {
  return directory.freeBytes < Math.min(ASIDE_MIN_FREE_BYTES, directory.totalBytes / 16);
}
