/**
 * All data directories of this server: which are in service, the identity that they share, their space, and which one a
 * new replica goes to.
 */
import type { Disk, DiskSpace } from '../core/disk.js';
import { CairnError, asCairnError, hasCode } from '../core/errors.js';
import { LOW_SPACE_BYTES, MAX_DATA_DIRECTORIES } from '../core/limits.js';
import type { Logger } from '../core/logger.js';
import type { Random } from '../core/random.js';
import { DataDirectory, type Identity } from './data-directory.js';
import type { DiskWatch } from './disk-watch.js';
import { furtherMark, NO_MARK, type StoredMark } from './master-mark.js';
import type { IndexEntry } from './replica-index.js';

export interface DataDirectoriesOptions {
  readonly disk: Disk;
  readonly random: Random;
  readonly logger: Logger;
  readonly paths: readonly string[];
  readonly watch: DiskWatch;
  /** A directory went out of service, and its replicas with it. */
  readonly onFailure: (directory: DataDirectory) => void;
  /** A directory has had an error that may be one of a single file. */
  readonly onDoubt: (directory: DataDirectory, error: unknown) => void;
}

export class DataDirectories {
  private readonly all: DataDirectory[];

  constructor(private readonly options: DataDirectoriesOptions) {
    const { paths, disk, logger } = options;
    if (paths.length > MAX_DATA_DIRECTORIES) {
      throw new CairnError('EINVAL', `a chunkserver has at most ${MAX_DATA_DIRECTORIES} data directories`);
    }
    this.all = paths.map((path, number) => {
      return new DataDirectory(disk, path, number, logger, (directory, error) => this.lose(directory, error));
    });
  }

  /**
   * Opens them and runs `list` on each. One that fails is out of service. Fails when none is usable or they belong to
   * different servers.
   */
  async open(list: (directory: DataDirectory) => Promise<void>): Promise<void> {
    for (const directory of this.all) {
      try {
        await directory.open();
        await list(directory);
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
      // It died while it wrote down in each that it has another id.
      const isRenewed = other.before === first?.serverId || first?.before === other.serverId;
      const isSame = other.serverId === first?.serverId || isRenewed;
      if (first !== undefined && (other.clusterId !== first.clusterId || !isSame)) {
        throw new CairnError(
          'EINVAL',
          `data directories ${first.path} and ${other.path} belong to different chunkservers: start each with its own`,
        );
      }
    }
  }

  /** Closes them, left clean when `clean`. Never rejects. */
  async close(clean: boolean): Promise<void> {
    for (const directory of this.all) {
      if (!this.options.watch.answers(directory.number)) continue;
      await directory.close(clean).catch((error: unknown) => {
        this.options.logger.warn(
          { directory: directory.path, reason: asCairnError(error).message },
          'directory not left clean',
        );
      });
    }
  }

  /** Where a replica is. */
  of(entry: IndexEntry): DataDirectory {
    const directory = this.all[entry.directory];
    if (directory === undefined) throw new CairnError('INTERNAL', `no data directory ${entry.directory}`);
    return directory;
  }

  /** The path of a replica's file, by its entry. */
  pathOf(entry: IndexEntry): string {
    return this.of(entry).chunkPath(entry.handle, entry.version);
  }

  /** None in service was used last under another boot and not left clean. */
  get trusted(): boolean {
    return this.usable().every((directory) => directory.trusted);
  }

  get identity(): Identity | undefined {
    const known = this.usable().flatMap(({ identity }) => (identity === undefined ? [] : [identity]));
    // Where a renewal was cut short, the directory that has the new one knows better.
    return known.find(({ before }) => before !== undefined) ?? known[0];
  }

  async setIdentity(identity: Identity): Promise<void> {
    for (const directory of this.usable()) {
      const { identity: known } = directory;
      if (known?.serverId === identity.serverId) continue;
      await directory.writeIdentity(known === undefined ? identity : { ...identity, before: known.serverId });
    }
  }

  /** The furthest of those in the directories. */
  get mark(): StoredMark {
    return this.usable().reduce((mark, directory) => furtherMark(mark, directory.mark), NO_MARK);
  }

  async setMark(mark: StoredMark): Promise<void> {
    for (const directory of this.usable()) await directory.writeMark(mark);
  }

  space(): DiskSpace {
    let totalBytes = 0;
    let freeBytes = 0;
    for (const directory of this.usable()) {
      totalBytes += directory.totalBytes;
      if (this.options.watch.answers(directory.number)) freeBytes += directory.freeBytes;
    }
    return { totalBytes, freeBytes };
  }

  /** Asks the disks for their free space; one that fails goes out of service. */
  async measure(): Promise<void> {
    for (const directory of this.usable()) {
      try {
        await this.options.watch.run(directory.number, () => directory.measure());
      } catch (error) {
        if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) this.lose(directory, error);
      }
    }
  }

  /** Runs `action` on a directory, one with more free space rather first, and on others until one is not full. */
  async inOne(action: (directory: DataDirectory) => Promise<void>): Promise<void> {
    const usable = this.usable();
    if (usable.length === 0) throw new CairnError('EIO', 'no data directory is in service');
    let candidates = usable.filter((directory) => this.options.watch.answers(directory.number));
    if (candidates.length === 0) throw new CairnError('UNAVAILABLE', 'no data directory answers: its disk hangs');
    for (;;) {
      const roomy = candidates.filter((directory) => directory.freeBytes >= LOW_SPACE_BYTES);
      const choice = this.weighted(roomy.length > 0 ? roomy : candidates);
      try {
        return await action(choice);
      } catch (error) {
        candidates = candidates.filter((directory) => directory !== choice);
        if (DataDirectory.isFailureOfAll(error)) this.lose(choice, error);
        else if (DataDirectory.isFailure(error)) this.options.onDoubt(choice, error);
        else if (!hasCode(error, 'ENOSPC', 'EDQUOT')) throw error;
        if (candidates.length === 0) throw error;
      }
    }
  }

  /** Takes a directory out of service, once. */
  lose(directory: DataDirectory, error: unknown): void {
    if (directory.failure !== undefined) return;
    directory.takeOutOfService(error);
    this.options.onFailure(directory);
  }

  /** Those in service. */
  usable(): DataDirectory[] {
    return this.all.filter((directory) => directory.failure === undefined);
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
}
