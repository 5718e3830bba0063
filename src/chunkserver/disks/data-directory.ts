/**
 * One data directory, usually one disk:
 *
 *   identity            which cluster and server it belongs to, its own id, and all directories of that server (JSON)
 *   session             how it was used last (JSON; directory-session.ts)
 *   chunks/XX/H.V       chunk file: handle H and version V in hexadecimal; XX from the handle
 *   incoming/           copies not complete yet; emptied at start
 *   aside/H.V.T         replicas of chunks that the master does not know, with the second in which they were set aside
 *   master-mark         how far the server has followed its master (JSON)
 *
 * The version in the name lets a start list the replicas without opening them; the header of the file decides.
 */
import { dirname } from 'node:path';
import type { BootNotes } from '../../core/disk/boot-notes.js';
import type { Disk } from '../../core/disk/disk.js';
import { CairnError, asCairnError, hasCode } from '../../core/errors.js';
import { chunkHandle, chunkVersion, type ChunkHandle, type ChunkVersion } from '../../core/ids.js';
import { BAD_REPLICAS_WINDOW_MS, CHUNK_DIRECTORY_FANOUT, MAX_BAD_REPLICAS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { DirectoryBoot } from './directory-boot.js';
import { encodeIdentity, parseIdentity, type StoredIdentity } from './directory-identity.js';
import { DirectorySession } from './directory-session.js';
import { JsonFiles } from './json-files.js';
import { NO_MARK, parseMark, type StoredMark } from './master-mark.js';
import { SharedRun } from '../../core/shared-run.js';

export interface FoundReplica {
  readonly handle: ChunkHandle;
  readonly version: ChunkVersion;
}

export interface PlacedReplica extends FoundReplica {
  /** The number of its data directory. */
  readonly directory: number;
}

export interface DataDirectoryOptions {
  readonly disk: Disk;
  readonly bootNotes: BootNotes;
  readonly path: string;
  readonly number: number;
  /** Of its server. */
  readonly address?: string | undefined;
  readonly logger: Logger;
  /** An error that one file cannot explain. */
  readonly onFailure: (directory: DataDirectory, error: unknown) => void;
}

const ASIDE_PATTERN = /^([0-9a-f]{14})\.([0-9a-f]{1,14})\.([0-9]{1,15})$/;
const NAME_PATTERN = /^([0-9a-f]{14})\.([0-9a-f]{1,14})$/;
/** Neighbouring handles share a subdirectory, and with it the fsync of their entries. */
const HANDLES_PER_SUBDIRECTORY = 4096;
const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');

function subdirectoryOf(handle: ChunkHandle): string {
  return hex(Math.floor(handle / HANDLES_PER_SUBDIRECTORY) % CHUNK_DIRECTORY_FANOUT, 2);
}

export class DataDirectory {
  private readonly subdirectorySyncs = new Map<string, SharedRun>();
  private asideSync: SharedRun | undefined;
  private unlock: (() => Promise<void>) | undefined;
  private probes = 0;
  /** What it says of itself; undefined before it has a server. */
  identity: StoredIdentity | undefined;
  mark: StoredMark = NO_MARK;
  /** Why the directory is out of service. */
  failure: CairnError | undefined;
  freeBytes = 0;
  totalBytes = 0;
  private measuring = false;
  /**
   * Subdirectories from which files were removed, with the count of the last of these: power loss may bring them back. All of
   * them at first: an earlier process may have removed some.
   */
  private readonly unsyncedRemovals = new Map<string, number>();
  private removals = 0;
  /** Replicas that met an error of the disk, and when. */
  private readonly badReplicas = new Map<ChunkHandle, number>();
  /** Replicas of which a sync failed, and whose files do not say so: the next opening, or the next start, has to know. */
  readonly unmarked = new Set<ChunkHandle>();

  readonly path: string;
  readonly number: number;
  readonly boot: DirectoryBoot;
  readonly session: DirectorySession;
  private readonly disk: Disk;
  private readonly files: JsonFiles;
  private readonly logger: Logger;

  constructor(private readonly options: DataDirectoryOptions) {
    const { disk, path, number, address, logger, bootNotes } = options;
    this.path = path;
    this.number = number;
    this.disk = disk;
    this.logger = logger;
    this.files = new JsonFiles(disk, path);
    this.boot = new DirectoryBoot({ bootNotes, bootId: disk.bootId(), path, address, logger });
    this.session = new DirectorySession(this.files, this.boot);
  }

  /** Reads what it says of itself, and changes nothing: it may be the mount point of a disk that is not there. */
  async look(): Promise<void> {
    this.identity = parseIdentity(await this.files.read('identity'), this.path);
  }

  /** Locks and reads what is not chunks; makes what is missing. */
  async open(): Promise<void> {
    const { count } = this.boot;
    if (await this.makeDirectory(this.path)) await this.disk.syncDirectory('directory.sync', dirname(this.path));
    // That is this user's alone also where the directory itself is one that many share, as /tmp.
    await this.makeDirectory(`${this.path}/chunks`);
    this.unlock = await this.disk.lock('directory.lock', `${this.path}/chunks`);
    await this.session.begin(this.identity);
    // Unless it was given up meanwhile, because it had hung.
    this.boot.clear(count);
    await this.makeDirectory(`${this.path}/incoming`);
    await this.makeDirectory(`${this.path}/aside`);
    this.mark = await this.readMark();
    for (let i = 0; i < CHUNK_DIRECTORY_FANOUT; i++) {
      await this.makeDirectory(`${this.path}/chunks/${hex(i, 2)}`);
      this.unsyncedRemovals.set(hex(i, 2), 0);
    }
    const leftovers: string[] = [];
    for await (const name of this.disk.list('directory.list', `${this.path}/incoming`)) leftovers.push(name);
    for (const name of leftovers) await this.disk.unlink('directory.clear', `${this.path}/incoming/${name}`);
    await this.disk.syncDirectory('directory.sync', `${this.path}/chunks`);
    await this.disk.syncDirectory('directory.sync', this.path);
    await this.measure();
  }

  /** The replicas by the names of their files. */
  async *replicas(): AsyncIterable<FoundReplica> {
    for (let i = 0; i < CHUNK_DIRECTORY_FANOUT; i++) {
      for await (const name of this.disk.list('directory.list', `${this.path}/chunks/${hex(i, 2)}`)) {
        const match = NAME_PATTERN.exec(name);
        if (match?.[1] === undefined || match[2] === undefined) continue;
        yield { handle: chunkHandle(parseInt(match[1], 16)), version: chunkVersion(parseInt(match[2], 16)) };
      }
    }
  }

  /** The replicas that were set aside. */
  async *aside(): AsyncIterable<FoundReplica & { readonly seconds: number }> {
    for await (const name of this.disk.list('directory.list', `${this.path}/aside`)) {
      const [, handle, version, seconds] = ASIDE_PATTERN.exec(name) ?? [];
      if (handle === undefined || version === undefined || seconds === undefined) continue;
      const found = { handle: chunkHandle(parseInt(handle, 16)), version: chunkVersion(parseInt(version, 16)) };
      yield { ...found, seconds: Number(seconds) };
    }
  }

  asidePath(handle: ChunkHandle, version: ChunkVersion, seconds: number): string {
    return `${this.path}/aside/${hex(handle, 14)}.${hex(version, 1)}.${seconds}`;
  }

  syncAside(): Promise<void> {
    this.asideSync ??= new SharedRun(() => this.disk.syncDirectory('directory.sync', `${this.path}/aside`));
    return this.asideSync.run();
  }

  chunkPath(handle: ChunkHandle, version: ChunkVersion): string {
    return `${this.path}/chunks/${subdirectoryOf(handle)}/${hex(handle, 14)}.${hex(version, 1)}`;
  }

  incomingPath(handle: ChunkHandle, version: ChunkVersion): string {
    return `${this.path}/incoming/${hex(handle, 14)}.${hex(version, 1)}`;
  }

  /** Deletes a replica's file. One that is gone is fine; failure is only told to the log: it costs space. */
  async removeReplica(replica: FoundReplica): Promise<void> {
    await this.unlinkReplica(replica).catch((error: unknown) => {
      const path = this.chunkPath(replica.handle, replica.version);
      this.logger.warn({ path, reason: asCairnError(error).message }, 'deleting failed');
    });
  }

  /** A file was removed here by this process, beside that of the chunk or in its place, and power loss may bring it back. */
  mayBringBack(handle: ChunkHandle): boolean {
    return (this.unsyncedRemovals.get(subdirectoryOf(handle)) ?? 0) > 0;
  }

  /** No file of this replica is here, whatever comes. Fails when the disk does not allow that. */
  async demandNone(replica: FoundReplica): Promise<void> {
    await this.unlinkReplica(replica);
    const name = subdirectoryOf(replica.handle);
    const last = this.unsyncedRemovals.get(name);
    if (last === undefined) return;
    await this.syncEntry(replica.handle);
    if (this.unsyncedRemovals.get(name) === last) this.unsyncedRemovals.delete(name);
  }

  private async unlinkReplica({ handle, version }: FoundReplica): Promise<void> {
    try {
      await this.disk.unlink('chunk.unlink', this.chunkPath(handle, version));
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error;
      return;
    }
    this.unmarked.delete(handle);
    // Not before: a sync that another chunk needed meanwhile does not cover it.
    this.unsyncedRemovals.set(subdirectoryOf(handle), ++this.removals);
  }

  /** The entry of a chunk's file survives power loss. Chunks of one subdirectory share the fsync. */
  syncEntry(handle: ChunkHandle): Promise<void> {
    const name = subdirectoryOf(handle);
    let sync = this.subdirectorySyncs.get(name);
    if (sync === undefined) {
      sync = new SharedRun(() => this.disk.syncDirectory('directory.sync', `${this.path}/chunks/${name}`));
      this.subdirectorySyncs.set(name, sync);
    }
    return sync.run().catch((error: unknown) => {
      if (DataDirectory.isFailure(error)) this.options.onFailure(this, error);
      throw error;
    });
  }

  /** Whether the disk is there, takes a few bytes and gives them back. */
  async probe(name: 'probe-1' | 'probe-2'): Promise<void> {
    const path = `${this.path}/${name}`;
    const { count } = this.boot;
    const stored = this.identity?.disk === undefined ? undefined : await this.files.read('identity');
    if (stored?.['disk'] !== this.identity?.disk) {
      throw new CairnError('ENODEV', `${this.path} is not the disk any more that it was: is it unmounted?`);
    }
    const written = Buffer.alloc(512, `${this.disk.bootId()} ${++this.probes} `);
    const file = await this.disk.open('directory.probe', path, 'create');
    try {
      await file.write('directory.probe', written, 0);
      await file.datasync('directory.probe');
      const read = Buffer.alloc(written.length);
      await file.read('directory.probe', read, 0);
      if (!read.equals(written)) throw new CairnError('EIO', `${path} does not hold what was written to it`);
    } finally {
      await file.close();
    }
    if (this.failure === undefined && this.unmarked.size === 0) this.boot.clear(count);
  }

  /** A sync of a replica failed, and its file could not be marked. */
  noteUnmarked(handle: ChunkHandle): void {
    this.unmarked.add(handle);
    this.noteFailing();
  }

  /** A replica met an error of the disk. Too many of them say that the disk fails. */
  noteBadReplica(handle: ChunkHandle, nowMs: number, error: unknown): void {
    for (const [other, atMs] of this.badReplicas) {
      if (atMs + BAD_REPLICAS_WINDOW_MS < nowMs) this.badReplicas.delete(other);
    }
    this.badReplicas.set(handle, nowMs);
    this.noteFailing();
    if (this.badReplicas.size >= MAX_BAD_REPLICAS) this.options.onFailure(this, error);
  }

  /** It fails or hangs, as far as can be told: the next start goes on as after a power loss. */
  noteFailing(disk = this.identity?.disk): void {
    this.boot.leave(disk);
  }

  async measure(): Promise<void> {
    // On a disk that hangs, one call is enough.
    if (this.measuring) return;
    this.measuring = true;
    try {
      const { totalBytes, freeBytes } = await this.disk.space('directory.space', this.path);
      if (this.failure !== undefined) return;
      this.totalBytes = totalBytes;
      this.freeBytes = freeBytes;
    } finally {
      this.measuring = false;
    }
  }

  async writeIdentity(identity: StoredIdentity): Promise<void> {
    await this.files.write('identity', encodeIdentity(identity));
    this.identity = identity;
  }

  /** One that has rotted is none: those of other directories, and the replicas, tell most of it. */
  private async readMark(): Promise<StoredMark> {
    try {
      return parseMark(await this.files.read('master-mark'));
    } catch (error) {
      if (!hasCode(error, 'EINVAL')) throw error;
      this.logger.error(
        { directory: this.path, reason: asCairnError(error).message },
        'the mark of the master has rotted',
      );
      return NO_MARK;
    }
  }

  async writeMark(mark: StoredMark): Promise<void> {
    await this.files.write('master-mark', mark);
    this.mark = mark;
  }

  /** True when `error` is the disk's, and not of what was asked of it or of its lack of space. */
  static isFailure(error: unknown): boolean {
    return hasCode(error, 'EIO') || DataDirectory.isFailureOfAll(error);
  }

  /** True when `error` says that nothing of the disk can be used, and not one of its files alone. */
  static isFailureOfAll(error: unknown): boolean {
    return hasCode(error, 'EROFS', 'ENODEV', 'ENXIO');
  }

  takeOutOfService(error: unknown): void {
    if (this.failure !== undefined) return;
    this.failure = asCairnError(error);
    this.freeBytes = 0;
    this.totalBytes = 0;
    this.logger.error({ directory: this.path, reason: this.failure.message }, 'data directory fails: out of service');
  }

  /** Does nothing when it was not opened. */
  async close(clean: boolean): Promise<void> {
    if (this.unlock === undefined) return;
    try {
      if (clean && this.failure === undefined) await this.session.end();
    } finally {
      await this.unlock();
      this.unlock = undefined;
    }
  }

  /** False when it was there already. */
  private async makeDirectory(path: string): Promise<boolean> {
    try {
      await this.disk.mkdir('directory.make', path);
      return true;
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
      return false;
    }
  }
}
