/**
 * All data directories of this server: which are in service, the identity that they share, their space, and which one a
 * new replica goes to.
 */
import type { BootNotes } from '../../core/disk/boot-notes.js';
import type { Disk, DiskSpace } from '../../core/disk/disk.js';
import { CairnError, asCairnError, hasCode } from '../../core/errors.js';
import { LOW_SPACE_BYTES, MAX_DATA_DIRECTORIES } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import type { DiskStateInit } from '../../protocol/generated/messages.js';
import { DataDirectory, type PlacedReplica } from './data-directory.js';
import type { DiskList, Identity, KnownDisk } from './directory-identity.js';
import type { DiskWatch } from './disk-watch.js';
import { furtherMark, NO_MARK, type StoredMark } from './master-mark.js';

export interface DataDirectoriesOptions {
  readonly disk: Disk;
  readonly bootNotes: BootNotes;
  readonly random: Random;
  readonly logger: Logger;
  readonly paths: readonly string[];
  /** Of this server. */
  readonly address?: string | undefined;
  readonly watch: DiskWatch;
  /** Ids of disks that are gone for good. */
  readonly forget: readonly string[];
  /** A directory went out of service, and its replicas with it. */
  readonly onFailure: (directory: DataDirectory) => void;
  /** A directory has had an error that may be one of a single file. */
  readonly onDoubt: (directory: DataDirectory, error: unknown) => void;
}

export class DataDirectories {
  private readonly all: DataDirectory[];
  private list: DiskList = { changes: 0, disks: [] };
  /** Disks of this server that were not there when it started. */
  private missing: readonly KnownDisk[] = [];
  private joinsAs: Identity | undefined;

  constructor(private readonly options: DataDirectoriesOptions) {
    const { paths, disk, bootNotes, address, logger } = options;
    if (paths.length > MAX_DATA_DIRECTORIES) {
      throw new CairnError('EINVAL', `a chunkserver has at most ${MAX_DATA_DIRECTORIES} data directories`);
    }
    this.all = paths.map((path, number) => {
      const onFailure = (directory: DataDirectory, error: unknown): void => this.lose(directory, error);
      return new DataDirectory({ disk, bootNotes, path, number, address, logger, onFailure });
    });
  }

  /**
   * Opens them and runs `list` on each. One that fails or does not answer is out of service, and so is one that is empty where
   * a disk was: the disk is not mounted. Fails when none is usable or they belong to different servers.
   */
  async open(list: (directory: DataDirectory) => Promise<void>): Promise<void> {
    await this.eachUsable((directory) => directory.look());
    this.refuseStrangers();
    this.missDisks();
    await this.eachUsable(async (directory) => {
      await directory.open();
      // Given up meanwhile: it answered too late.
      if (directory.failure === undefined) await list(directory);
    });
    if (this.usable().length === 0) {
      const reasons = this.all.map(({ failure }) => failure?.message).join('; ');
      throw new CairnError('EIO', `no data directory is usable: ${reasons}`);
    }
    this.joinsAs = this.findIdentity();
    if (this.joinsAs !== undefined) await this.agreeOnDisks(this.joinsAs);
  }

  /** Runs `action` on those in service; one where it fails is in service no more. */
  private async eachUsable(action: (directory: DataDirectory) => Promise<void>): Promise<void> {
    for (const directory of this.usable()) {
      try {
        await this.options.watch.runPatiently(directory.number, () => action(directory));
      } catch (error) {
        if (!DataDirectory.isFailure(error) && this.options.watch.answers(directory.number)) throw error;
        this.lose(directory, error);
      }
    }
  }

  private refuseStrangers(): void {
    const ids = new Map<string, string>();
    let first: DataDirectory | undefined;
    for (const directory of this.usable()) {
      const { identity, path } = directory;
      if (identity === undefined) continue;
      first ??= directory;
      // It may have died while it wrote down in each that it has another id.
      const isRenewed = identity.before === first.identity?.serverId || first.identity?.before === identity.serverId;
      const isOfOther =
        identity.clusterId !== first.identity?.clusterId ||
        (identity.serverId !== first.identity.serverId && !isRenewed);
      if (isOfOther) {
        throw new CairnError(
          'EINVAL',
          `data directories ${first.path} and ${path} belong to different chunkservers: start each with its own`,
        );
      }
      if (identity.disk === undefined) continue;
      const other = ids.get(identity.disk);
      if (other !== undefined) {
        throw new CairnError(
          'EINVAL',
          `data directories ${other} and ${path} are copies of one: start with one of them`,
        );
      }
      ids.set(identity.disk, path);
    }
  }

  /** Finds out which of the disks that this server has are not there. */
  private missDisks(): void {
    for (const { identity } of this.usable()) {
      if (identity?.list !== undefined && identity.list.changes > this.list.changes) this.list = identity.list;
    }
    const there = new Map(this.usable().map((directory) => [directory.identity?.disk, directory.path]));
    const forgotten = new Set(this.options.forget);
    for (const id of forgotten) {
      const path = there.get(id);
      if (path !== undefined) throw new CairnError('EINVAL', `disk ${id} is not gone: it is at ${path}`);
    }
    this.missing = this.list.disks.filter(({ id }) => !there.has(id) && !forgotten.has(id));
    for (const { id, path } of this.missing) {
      const directory = this.usable().find((each) => each.path === path);
      // It failed before it told its id. It may be put elsewhere, and another one in its place.
      this.all.find((each) => each.path === path && each.failure !== undefined)?.noteFailing(id);
      const remedy = `if it is gone for good, start this chunkserver once with --forget-disk ${id}`;
      // Nothing at all is written there: a disk may be mounted over it later.
      if (directory !== undefined) {
        const message = `${path} is empty, and disk ${id} of this chunkserver was there: is it not mounted? Mount it and start again; ${remedy}`;
        this.takeOut(directory, new CairnError('ENODEV', message));
      } else if (!this.all.some((each) => each.path === path)) {
        const reason = `disk ${id} of this chunkserver, which was at ${path}, is not among its --disk directories: add it; ${remedy}`;
        this.options.logger.error({ path, id, reason }, 'a disk is missing');
      }
    }
  }

  /**
   * Makes the list of all disks known in each. One that is new is in its own list before it is in any other, so that it is
   * not missed after a crash in between.
   */
  private async agreeOnDisks(identity: Identity): Promise<void> {
    const kept = new Map(this.missing.map((disk) => [disk.id, disk.path]));
    const news: DataDirectory[] = [];
    for (const directory of this.usable()) {
      if (directory.identity?.disk === undefined) news.push(directory);
      else kept.set(directory.identity.disk, directory.path);
    }
    const before = new Map(this.list.disks.map((disk) => [disk.id, disk.path]));
    const isSame = kept.size === before.size && [...kept].every(([id, path]) => before.get(id) === path);
    if (!isSame) this.list = listOf(this.list.changes + 1, kept);
    for (const directory of news) {
      const disk = this.options.random.bytes(8).toString('hex');
      kept.set(disk, directory.path);
      this.list = listOf(this.list.changes + 1, kept);
      await directory.writeIdentity({ ...(directory.identity ?? identity), disk, list: this.list });
    }
    for (const directory of this.usable()) {
      const disk = directory.identity?.disk;
      if (directory.identity?.list?.changes === this.list.changes) continue;
      await directory.writeIdentity({ ...(directory.identity ?? identity), disk, list: this.list });
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
  of(entry: PlacedReplica): DataDirectory {
    const directory = this.all[entry.directory];
    if (directory === undefined) throw new CairnError('INTERNAL', `no data directory ${entry.directory}`);
    return directory;
  }

  /** The path of a replica's file, by its entry. */
  pathOf(entry: PlacedReplica): string {
    return this.of(entry).chunkPath(entry.handle, entry.version);
  }

  /** What is in those in service needs not be looked at before it is served. */
  get trusted(): boolean {
    return this.usable().every((directory) => directory.session.trusted);
  }

  get lostPower(): boolean {
    return this.usable().some((directory) => directory.session.lostPower);
  }

  /**
   * As which server this process joins: a process whose disks have all failed meanwhile goes on as who it was, as nobody it
   * would join as one more server.
   */
  get identity(): Identity | undefined {
    return this.joinsAs;
  }

  private findIdentity(): Identity | undefined {
    const known = this.usable().flatMap((directory) => (directory.identity === undefined ? [] : [directory.identity]));
    // Where a renewal was cut short, the directory that has the new one knows better.
    const identity = known.find(({ before }) => before !== undefined) ?? known[0];
    return identity === undefined ? undefined : { clusterId: identity.clusterId, serverId: identity.serverId };
  }

  async setIdentity(identity: Identity): Promise<void> {
    this.joinsAs = identity;
    for (const directory of this.usable()) {
      const { identity: known } = directory;
      if (known === undefined || known.serverId === identity.serverId) continue;
      await directory.writeIdentity({ ...known, ...identity, before: known.serverId });
    }
    await this.agreeOnDisks(identity);
  }

  /** Some disk of this server is not there or out of service: what is not found here may be there. */
  get someAway(): boolean {
    return this.missing.length > 0 || this.all.some((directory) => directory.failure !== undefined);
  }

  /** What the master is told. `isJoined`: it has seen what the directories were like when this process began. */
  states(isJoined: boolean): DiskStateInit[] {
    const states = this.all.map(({ path, number, identity, failure, session }) => ({
      id: identity?.disk ?? this.missing.find((disk) => disk.path === path)?.id ?? '',
      path,
      // Not before it has joined: the generation of a disk with a problem is not looked at.
      problem: failure?.message ?? (isJoined && !this.options.watch.answers(number) ? 'its disk does not answer' : ''),
      generation: isJoined ? session.generation : session.foundGeneration,
    }));
    const others = this.missing.filter((disk) => !this.all.some(({ path }) => path === disk.path));
    const problem = 'it is not among the directories that the chunkserver was started with';
    return [...states, ...others.map(({ id, path }) => ({ id, path, problem, generation: 0 }))];
  }

  byDisk(id: string): DataDirectory | undefined {
    return this.usable().find((directory) => directory.identity?.disk === id);
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

  /** Asks the disks for their free space, and counts the generations of those that are written to. Waits for none. */
  tend(nowMs: number): void {
    for (const directory of this.usable()) {
      if (!this.options.watch.answers(directory.number)) {
        directory.noteFailing();
        continue;
      }
      const work = Promise.all([directory.measure(), directory.session.raiseGeneration(nowMs)]);
      work.catch((error: unknown) => {
        if (DataDirectory.isFailureOfAll(error)) this.lose(directory, error);
        else this.doubt(directory, error);
      });
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
        else if (DataDirectory.isFailure(error)) this.doubt(choice, error);
        else if (!hasCode(error, 'ENOSPC', 'EDQUOT')) throw error;
        if (candidates.length === 0) throw error;
      }
    }
  }

  /** Takes a directory out of service, once. */
  lose(directory: DataDirectory, error: unknown): void {
    if (directory.failure !== undefined) return;
    directory.noteFailing();
    this.takeOut(directory, error);
  }

  private takeOut(directory: DataDirectory, error: unknown): void {
    directory.takeOutOfService(error);
    this.options.onFailure(directory);
  }

  private doubt(directory: DataDirectory, error: unknown): void {
    // One without space does not fail.
    if (DataDirectory.isFailure(error)) directory.noteFailing();
    this.options.onDoubt(directory, error);
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

const listOf = (changes: number, disks: ReadonlyMap<string, string>): DiskList => ({
  changes,
  disks: [...disks].map(([id, path]) => ({ id, path })),
});
