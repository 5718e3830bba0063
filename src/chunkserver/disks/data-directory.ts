/**
 * One data directory, usually one disk:
 *
 *   identity            which cluster and server it belongs to, its own id, and all directories of that server (JSON)
 *   session             the boot under which it was last used, whether it was left clean, and its generation (JSON)
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
import {
  BAD_REPLICAS_WINDOW_MS,
  CHUNK_DIRECTORY_FANOUT,
  GENERATION_INTERVAL_MS,
  MAX_BAD_REPLICAS,
  MIB,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { Mutex } from '../../core/sync.js';
import { DirectoryBoot } from './directory-boot.js';
import { encodeIdentity, parseIdentity, type StoredIdentity } from './directory-identity.js';
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
  readonly logger: Logger;
  /** An error that one file cannot explain. */
  readonly onFailure: (directory: DataDirectory, error: unknown) => void;
}

const ASIDE_PATTERN = /^([0-9a-f]{14})\.([0-9a-f]{1,14})\.([0-9]{1,15})$/;
/** Far above a list of MAX_DATA_DIRECTORIES directories. */
const MAX_JSON_BYTES = 2 * MIB;
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
  /** All its replicas were synced when it was used last. */
  leftClean = false;
  /** Left clean, or used last under this boot and nothing in doubt: replicas that are dirty are not suspect. */
  trusted = false;
  /** The start after a loss of power, or another one in its place: what is not here was not synced. */
  lostPower = false;
  /**
   * What such a start has not come to the end of: it has not told the master what it found, or some of it is suspect yet. One that takes
   * its place in the same boot begins anew with that.
   */
  private doubt: Doubt | undefined;
  /** Why the directory is out of service. */
  failure: CairnError | undefined;
  freeBytes = 0;
  totalBytes = 0;
  /**
   * Grows after each start, once the master has seen it, and while it is written to, durably and before the master is told: so
   * one that the master knows with a higher one was put back to an older state.
   */
  generation = 0;
  /** As it was found at the start of this process. */
  foundGeneration = 0;
  /** It was put back to an older state, and some of its replicas may miss mutations still. */
  rolledBack = false;
  private hasJoined = false;
  private changed = false;
  private raisedMs = -Infinity;
  private raising = false;
  private readonly sessionWrites = new Mutex('chunkserver.session');
  private measuring = false;

  /**
   * Subdirectories from which files were removed, with the count of the last of these: power loss may bring them back. All of
   * them at first: an earlier process may have removed some.
   */
  private readonly unsyncedRemovals = new Map<string, number>();
  private removals = 0;
  /** Replicas that met an error of the disk, and when. */
  private readonly badReplicas = new Map<ChunkHandle, number>();

  readonly path: string;
  readonly number: number;
  readonly boot: DirectoryBoot;
  private readonly disk: Disk;
  private readonly logger: Logger;

  constructor(private readonly options: DataDirectoryOptions) {
    const { disk, path, number, logger, bootNotes } = options;
    this.path = path;
    this.number = number;
    this.disk = disk;
    this.logger = logger;
    this.boot = new DirectoryBoot({ bootNotes, bootId: disk.bootId(), path, logger });
  }

  /** Reads what it says of itself, and changes nothing: it may be the mount point of a disk that is not there. */
  async look(): Promise<void> {
    this.identity = parseIdentity(await this.readJson('identity'), this.path);
  }

  /** Locks and reads what is not chunks; makes what is missing. */
  async open(): Promise<void> {
    const { count } = this.boot;
    if (await this.makeDirectory(this.path)) await this.disk.syncDirectory('directory.sync', dirname(this.path));
    // That is this user's alone also where the directory itself is one that many share, as /tmp.
    await this.makeDirectory(`${this.path}/chunks`);
    this.unlock = await this.disk.lock('directory.lock', `${this.path}/chunks`);
    const session = await this.readJson('session');
    this.leftClean = session?.['clean'] === true;
    const { disk, list } = this.identity ?? {};
    const place = list?.disks.find(({ id }) => id === disk)?.path;
    const isIntact = this.boot.begin(session?.['bootId'], disk, place);
    const doubt = isIntact ? doubtOf(session) : 'unreported';
    this.trusted = session === undefined || this.leftClean || doubt === undefined;
    this.doubt = this.trusted ? undefined : doubt;
    this.lostPower = this.doubt === 'unreported';
    this.rolledBack = session?.['rolledBack'] === true;
    this.foundGeneration = this.generation = generationOf(session);
    // Raised once the master has seen what was found here: starts without one would hide that it was put back.
    await this.writeSession({ raise: false, clean: false });
    // Unless it was given up meanwhile, because it had hung.
    this.boot.clear(count);
    await this.makeDirectory(`${this.path}/incoming`);
    await this.makeDirectory(`${this.path}/aside`);
    this.mark = parseMark(await this.readJson('master-mark'));
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
    const stored = this.identity?.disk === undefined ? undefined : await this.readJson('identity');
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
    if (this.failure === undefined) this.boot.clear(count);
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
    await this.writeJson('identity', encodeIdentity(identity));
    this.identity = identity;
  }

  async writeMark(mark: StoredMark): Promise<void> {
    await this.writeJson('master-mark', mark);
    this.mark = mark;
  }

  /** A replica in it was changed, made or removed. */
  noteChange(): void {
    this.changed = true;
  }

  /** The master has seen the generation that was found. */
  noteJoined(): void {
    if (this.hasJoined) return;
    this.hasJoined = true;
    this.changed = true;
  }

  /** Raises the generation if anything was changed, and not more often than GENERATION_INTERVAL_MS. */
  async raiseGeneration(nowMs: number): Promise<void> {
    // One that is behind stays behind until all that may be wrong with it was mended.
    if (!this.changed || !this.hasJoined || this.rolledBack || this.raising) return;
    if (this.raisedMs + GENERATION_INTERVAL_MS > nowMs) return;
    this.raising = true;
    try {
      this.raisedMs = nowMs;
      this.changed = false;
      await this.writeSession({ raise: true, clean: false });
    } catch (error) {
      this.changed = true;
      throw error;
    } finally {
      this.raising = false;
    }
  }

  /** The master knows a newer state of it. */
  async beginRollback(): Promise<void> {
    this.rolledBack = true;
    await this.writeSession({ raise: false, clean: false });
  }

  /** Everything in it is as it should be again. `generation`: the highest that the master knows. */
  async endRollback(generation: number): Promise<void> {
    this.rolledBack = false;
    this.generation = Math.max(this.generation, generation);
    await this.writeSession({ raise: true, clean: false });
  }

  /** The master has been told what is here, of which so many are suspect yet. */
  async lessenDoubt(suspects: number): Promise<void> {
    const { doubt } = this;
    if (doubt === undefined || (doubt === 'suspects' && suspects > 0)) return;
    this.doubt = suspects > 0 ? 'suspects' : undefined;
    await this.writeSession({ raise: false, clean: false });
  }

  private writeSession({ raise, clean }: { readonly raise: boolean; readonly clean: boolean }): Promise<void> {
    return this.sessionWrites.run(async () => {
      const generation = this.generation + (raise ? 1 : 0);
      const { rolledBack, doubt } = this;
      await this.writeJson('session', { bootId: this.boot.id, clean, generation, rolledBack, doubt });
      this.generation = generation;
    });
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
      if (clean && this.failure === undefined) {
        await this.writeSession({ raise: this.hasJoined && !this.rolledBack, clean: true });
      }
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

  private async readJson(name: string): Promise<Record<string, unknown> | undefined> {
    const path = `${this.path}/${name}`;
    let file;
    try {
      file = await this.disk.open(`directory.${name}`, path, 'existing');
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined;
      throw error;
    }
    try {
      const size = await file.size(`directory.${name}`);
      if (size > MAX_JSON_BYTES) throw new SyntaxError('too long');
      const bytes = Buffer.alloc(size);
      const count = await file.read(`directory.${name}`, bytes, 0);
      const value: unknown = JSON.parse(bytes.toString('utf8', 0, count));
      if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
      throw new SyntaxError('not an object');
    } catch (error) {
      if (error instanceof SyntaxError) throw new CairnError('EINVAL', `${path} is not readable: ${error.message}`);
      throw error;
    } finally {
      await file.close();
    }
  }

  private async writeJson(name: string, value: object): Promise<void> {
    const path = `${this.path}/${name}`;
    const file = await this.disk.open(`directory.${name}`, `${path}.new`, 'create');
    try {
      await file.truncate(`directory.${name}`, 0);
      await file.write(`directory.${name}`, Buffer.from(JSON.stringify(value) + '\n'), 0);
      await file.datasync(`directory.${name}`);
    } finally {
      await file.close();
    }
    await this.disk.rename(`directory.${name}`, `${path}.new`, path);
    await this.disk.syncDirectory(`directory.${name}`, this.path);
  }
}

type Doubt = 'unreported' | 'suspects';

function doubtOf(session: Readonly<Record<string, unknown>> | undefined): Doubt | undefined {
  const doubt = session?.['doubt'];
  return doubt === 'unreported' || doubt === 'suspects' ? doubt : undefined;
}

/** Those that older versions left have none. */
function generationOf(session: Readonly<Record<string, unknown>> | undefined): number {
  const generation = session?.['generation'];
  return Number.isSafeInteger(generation) ? Number(generation) : 0;
}
