/**
 * The files that this client has open: one OpenInode each, with its writer, and what the caches of attributes, chunk
 * maps and leases must forget when a file changes.
 */
import type { Clock, Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  LEASE_QUESTION_MS,
  MAX_CHUNKS_PER_PAGE,
  MAX_FAILED_FILES,
  MAX_FILE_BYTES,
} from '../../core/limits.js';
import { isReadToNote } from '../../core/relatime.js';
import type { Logger } from '../../core/logging/logger.js';
import type { MasterTime } from '../../core/master-time.js';
import type { Random } from '../../core/random.js';
import type { ChunkLocation, OpenStateInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import { AppendLeases } from '../session/append-leases.js';
import type { AttributeCache, Moment } from '../inodes/attribute-cache.js';
import { fromWireAttributes, toWireCaller, type InodeAttributes } from '../session/wire-attributes.js';
import { isKept } from '../chunks/chunk-io.js';
import type { SyncedChunk, WriteMark } from '../chunks/chunk-io.js';
import { ChunkMapCache } from '../chunks/chunk-map-cache.js';
import { ChunkReader } from '../chunks/chunk-reader.js';
import type { ChunkServers } from '../chunks/chunk-servers.js';
import { ChunkWriter } from '../chunks/chunk-writer.js';
import { DirectCopies } from './copy-range.js';
import type { AttributeChanges, Credentials, LostListener, OpenFlags, ReadNotes } from '../../filesystem/filesystem.js';
import { FileExtents } from '../chunks/file-extents.js';
import { FileLocks } from '../session/file-locks.js';
import { WriteLeases } from '../chunks/write-leases.js';
import { LruMap } from '../../core/lru.js';
import type { MasterConnection } from '../session/master-connection.js';
import { ClusterOpenFile, locksLost, type OpenFileHost } from './open-file.js';
import { OpenInode } from '../inodes/open-inode.js';
import { Readahead, ReadaheadBudget } from '../data/readahead.js';
import { ReplicaReports } from '../session/replica-reports.js';
import { WriteBudget } from '../data/write-budget.js';
import { UnsyncedFiles } from '../data/unsynced-files.js';
import type { UnsyncedChunks } from '../data/unsynced-files.js';
import { Writer } from '../data/writer.js';
import { lostBeforeSync } from '../data/written-chunks.js';

export interface FileTunables {
  /** Time that an operation is tried for. Default CLIENT_OPERATION_TIMEOUT_MS. */
  readonly operationTimeoutMs?: number;
  /** Bound on what one file, and all together, have buffered for writing. */
  readonly maxDirtyBytes?: number;
  readonly maxTotalDirtyBytes?: number;
  /** Bound on what is read ahead of one open file, and of all together. */
  readonly maxReadaheadBytes?: number;
  readonly maxTotalReadaheadBytes?: number;
  /** Bytes of a copy from file to file from which on the chunkservers do it. */
  readonly minDirectCopyBytes?: number;
  /** Default 'all'. */
  readonly noteReads?: ReadNotes;
}

export interface FileTableOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly master: MasterConnection;
  readonly servers: ChunkServers;
  readonly cache: AttributeCache;
  readonly tunables: FileTunables;
}

export class FileTable implements OpenFileHost {
  private readonly inodes = new Map<InodeId, OpenInode>();
  /** See FileSystem.watchLost. */
  lostListener: LostListener | undefined;
  private readonly files = new Set<ClusterOpenFile>();
  private readonly unsynced = new UnsyncedFiles();
  /** Times that locks were lost with a session. */
  lockLosses = 0;
  /** Of those that are open: locks on them were lost. */
  private readonly withLostLocks = new Set<InodeId>();
  /** Failed write-backs that only a close has told, if anything. */
  private readonly failed = new LruMap<InodeId, CairnError>(MAX_FAILED_FILES);
  readonly locks: FileLocks;
  readonly appends: AppendLeases;
  readonly extents: FileExtents;
  readonly copies: DirectCopies;
  private readonly chunkMap: ChunkMapCache;
  private readonly leases: WriteLeases;
  private readonly reader: ChunkReader;
  private readonly chunkWriter: ChunkWriter;
  private readonly writeBudget: WriteBudget;
  private readonly readBudget: ReadaheadBudget;

  constructor(private readonly options: FileTableOptions) {
    const { clock, random, logger, master, servers, cache, tunables } = options;
    this.chunkMap = new ChunkMapCache(clock, (inode, firstIndex, count) =>
      master.call(MASTER_METHODS.getChunks, { inode, firstIndex, count }),
    );
    this.leases = new WriteLeases(
      clock,
      (request) => master.call(MASTER_METHODS.leaseChunk, request, { timeoutMs: LEASE_QUESTION_MS }),
      (inode, index, { handle, version, replicas }) =>
        // The grant made the replicas cut themselves: nothing is left to hide.
        this.chunkMap.put(inode, index, { handle, version, replicas: [...replicas], validBytes: CHUNK_SIZE_BYTES }),
      (inode) => this.inodes.get(inode)?.attributes.layoutVersion ?? 0,
    );
    const timeout = tunables.operationTimeoutMs !== undefined && { timeoutMs: tunables.operationTimeoutMs };
    const reports = new ReplicaReports({ clock, logger, master });
    const knownTime = (): MasterTime => master.masterTime;
    this.reader = new ChunkReader({
      ...{ map: this.chunkMap, servers, clock, random, logger, knownTime, ...timeout },
      report: (replica, error) => reports.tell(replica, error),
    });
    this.chunkWriter = new ChunkWriter({
      ...{ leases: this.leases, servers, clock, random, logger, knownTime, ...timeout },
      requireWritable: (inode) => this.requireWritable(inode),
    });
    this.extents = new FileExtents({ clock, master, servers, logger });
    this.copies = new DirectCopies({
      ...{ chunkMap: this.chunkMap, io: this.chunkWriter, extents: this.extents },
      minBytes: tunables.minDirectCopyBytes,
    });
    this.locks = new FileLocks({
      ...{ master, clock, random, logger },
      requireUsable: (inode) => this.requireWritable(inode),
      publish: (inode) => this.publish(inode),
      refresh: async (inode, attributes) => {
        if (attributes !== undefined) this.changed(attributes);
        else {
          cache.dropAttributes(inode);
          await this.freshAttributes(inode);
        }
      },
    });
    this.appends = new AppendLeases({
      ...{ master, clock, random, logger },
      publish: (inode) => this.publish(inode),
      learn: (attributes) => {
        this.changed(attributes);
      },
      discard: (inode) => this.inodes.get(inode)?.writer?.discardUnpublished(),
    });
    this.writeBudget = new WriteBudget(tunables.maxTotalDirtyBytes);
    this.readBudget = new ReadaheadBudget(tunables.maxTotalReadaheadBytes);
  }

  /** What the session holds open, for the master after a reconnect. */
  *openStates(): Generator<OpenStateInit> {
    for (const { inode, readers, writers, owedWriters } of this.inodes.values()) {
      yield { inode, readers, writers: writers + owedWriters };
    }
  }

  /** The master lost power, and with it what no sync covered. */
  operationsLost(): void {
    this.options.cache.dropAll();
    this.chunkMap.dropAll();
    this.leases.operationsLost();
    this.unsynced.operationsLost();
    for (const open of this.inodes.values()) open.operationsLost();
  }

  /** Times that changes of this client may have been lost. */
  get losses(): number {
    return this.options.master.losses;
  }

  /**
   * The master forgot the session: what it had not been told is lost, and what is cached may be. With locks, also what was
   * written and not sent of any file: a lock on one file often stands for another.
   */
  sessionLost(): void {
    this.options.cache.dropAll();
    this.appends.sessionLost();
    const locked = this.locks.sessionLost();
    if (locked.size > 0) {
      this.lockLosses++;
      this.options.logger.error(
        { files: locked.size, some: [...locked].slice(0, MAX_LOGGED_INODES) },
        'locks were lost with the session: what was written under them is given up, the files answer EIO until they are closed',
      );
    }
    for (const inode of locked) {
      const open = this.inodes.get(inode);
      if (open === undefined) continue;
      open.locksLost = true;
      this.withLostLocks.add(inode);
      this.lostListener?.(inode, 'locks');
    }
    this.leases.sessionLost();
    for (const { inode, writer } of this.inodes.values()) {
      this.chunkMap.drop(inode);
      if (locked.size === 0) writer?.sessionLost();
      else if (writer !== undefined) {
        writer.locksLost(locked.has(inode));
        this.lostListener?.(inode, 'locks');
      }
    }
  }

  get hasLostLocks(): boolean {
    return this.withLostLocks.size > 0;
  }

  /**
   * Refuses what would change a file on which locks were lost: others may hold them by now; and what began before some were
   * lost on any file (`since`).
   */
  requireWritable(inode: InodeId, since = this.lockLosses): void {
    if (this.inodes.get(inode)?.locksLost === true || since !== this.lockLosses) throw locksLost();
  }

  /** `attributes` with what was written here and not published. */
  overlay(attributes: InodeAttributes): InodeAttributes {
    return this.inodes.get(attributes.inode)?.overlay(attributes) ?? attributes;
  }

  /** Takes in what the master told, in answer to a request sent at `asked`. */
  learn(attributes: InodeAttributes, asked: Moment): InodeAttributes {
    this.options.cache.putAttributes(attributes, asked);
    const open = this.inodes.get(attributes.inode);
    if (open !== undefined && attributes.change > open.attributes.change) {
      const cut = attributes.layoutVersion !== open.attributes.layoutVersion;
      open.learn(attributes);
      this.chunkMap.validate(attributes.inode, attributes.layoutVersion, attributes.change);
      open.invalidateReads(0, MAX_FILE_BYTES);
      if (cut) this.layoutChanged(attributes);
    }
    return attributes;
  }

  /** The master notes the read of a directory or symlink by itself; this client is to see that. */
  noteRead(inode: InodeId): void {
    const { cache, clock } = this.options;
    const known = cache.getAttributes(inode);
    if (known !== undefined && isReadToNote(known, clock.now())) cache.dropAttributes(inode);
  }

  /** At most the cache time-out old, without what is unpublished. */
  async freshAttributes(inode: InodeId): Promise<InodeAttributes> {
    const { cache, master } = this.options;
    const known = cache.getAttributes(inode);
    if (known !== undefined) return this.requireReachable(known);
    const asked = cache.now();
    const attributes = this.learn(
      fromWireAttributes(await master.call(MASTER_METHODS.getAttributes, { inode })),
      asked,
    );
    return this.requireReachable(attributes);
  }

  /** setAttributes, in order with this client's own writes to the file. */
  async changeAttributes(
    credentials: Credentials,
    inode: InodeId,
    changes: AttributeChanges,
    openedForWriting: boolean,
  ): Promise<InodeAttributes> {
    const { atime, mtime, ...plain } = changes;
    const { lockLosses } = this;
    const change = async (): Promise<InodeAttributes> => {
      const reply = await this.options.master.mutate(
        MASTER_METHODS.setAttributes,
        (operation) => {
          // Also when it is repeated in a new session.
          if (changes.size !== undefined) this.requireWritable(inode, lockLosses);
          return {
            ...{ operation, caller: toWireCaller(credentials), inode, ...plain, openedForWriting },
            ...(atime === 'now' ? { atimeNow: true } : { atime }),
            ...(mtime === 'now' ? { mtimeNow: true } : { mtime }),
          };
        },
        { idempotent: true },
      );
      const attributes = this.changed(fromWireAttributes(reply));
      if (changes.size !== undefined) this.layoutChanged(attributes);
      return attributes;
    };
    const open = this.inodes.get(inode);
    if (open !== undefined && atime !== undefined) open.readAt = undefined;
    const writer = open?.writer;
    if (writer !== undefined && changes.size !== undefined) return writer.truncate(change);
    if (writer !== undefined && mtime !== undefined) return writer.setTimes(change);
    // What a write takes off the mode it takes off before this change, not after it.
    const depends = changes.mode !== undefined || changes.uid !== undefined || changes.gid !== undefined;
    if (depends && writer?.kills === true) await writer.flush();
    return change();
  }

  async setSize(credentials: Credentials, inode: InodeId, size: number): Promise<void> {
    await this.changeAttributes(credentials, inode, { size }, true);
  }

  /** Setuid and setgid go with the first write of who may not keep them; seen at once, not with the next publication. */
  async killPrivileges(credentials: Credentials, inode: InodeId): Promise<void> {
    await this.changeAttributes(credentials, inode, { killPrivileges: true }, true);
  }

  async punch(inode: InodeId, firstIndex: number, count: number): Promise<void> {
    const { lockLosses } = this;
    const change = async (): Promise<InodeAttributes> => {
      const reply = await this.options.master.mutate(
        MASTER_METHODS.punchChunks,
        (operation) => {
          this.requireWritable(inode, lockLosses);
          return { operation, inode, firstIndex, count };
        },
        { idempotent: true },
      );
      const attributes = this.changed(fromWireAttributes(reply));
      this.layoutChanged(attributes);
      this.leases.drop(inode, firstIndex);
      writer?.forgetUnsynced(firstIndex, count);
      return attributes;
    };
    const writer = this.inodes.get(inode)?.writer;
    await (writer === undefined ? change() : writer.truncate(change));
  }

  async extend(credentials: Credentials, inode: InodeId, end: number): Promise<void> {
    const { master, clock } = this.options;
    const mtime = clock.now();
    const killPrivileges = credentials.uid !== 0;
    const reply = await master.mutate(
      MASTER_METHODS.publish,
      (operation) => {
        this.requireWritable(inode);
        return { operation, inode, end, mtime, killPrivileges };
      },
      { idempotent: true },
    );
    this.changed(fromWireAttributes(reply));
  }

  async freeBytes(): Promise<number> {
    const { freeBytes, awayFreeBytes } = await this.options.master.call(MASTER_METHODS.statFs, {});
    // A chunkserver that is away for a moment is no full disk.
    return freeBytes + awayFreeBytes;
  }

  /** What was written here is published. */
  async publish(inode: InodeId): Promise<void> {
    const writer = this.inodes.get(inode)?.writer;
    if (writer?.isClean === false) await writer.flush();
  }

  now(): Timespec {
    return this.options.clock.now();
  }

  get notesReads(): boolean {
    return this.options.tunables.noteReads !== 'none';
  }

  /** What this client wrote to the file survives power loss, also what it wrote through handles that are closed. */
  async syncFile(inode: InodeId, writer: Writer | undefined): Promise<void> {
    const failure = this.failed.peek(inode);
    if (failure !== undefined) {
      this.failed.delete(inode);
      throw failure;
    }
    for (;;) {
      const { generation } = this.leases;
      const chunks = this.unsynced.get(inode) ?? (await this.chunksOf(inode));
      const synced = await this.syncClosed(inode, chunks);
      if (writer === undefined) await this.options.master.sync(synced.map(({ handle }) => handle));
      else await writer.sync(synced);
      // The master lost power meanwhile: it may know nothing of a chunk that was synced, or of its having been.
      if (this.leases.generation !== generation) continue;
      this.chunkWriter.noteSynced(synced);
      this.unsynced.done(inode, chunks);
      return;
    }
  }

  /** Returns the chunks that the master takes for unsynced. */
  private async syncClosed(inode: InodeId, chunks: UnsyncedChunks): Promise<SyncedChunk[]> {
    const synced: SyncedChunk[] = [];
    const lost = new Set<number>();
    const sync = async ([index, written]: [number, WriteMark | undefined]): Promise<void> => {
      const now = await this.chunkWriter.syncChunk(inode, index);
      if (now.unsynced) synced.push({ inode, index, handle: now.handle });
      if (written !== undefined && !isKept(written, now)) lost.add(index);
    };
    await Promise.all([...chunks].map(sync));
    if (lost.size === 0) return synced;
    this.unsynced.lossTold(inode, chunks, lost);
    throw lostBeforeSync(inode);
  }

  /**
   * Runs `open`, the master's part of an open, in order with this client's own writes when it truncates. `known` is the
   * inode that will be opened, as far as it can be told.
   */
  async openWith(
    known: InodeId | undefined,
    credentials: Credentials,
    flags: OpenFlags,
    open: () => Promise<InodeAttributes>,
  ): Promise<InodeAttributes> {
    const asked = this.options.cache.now();
    if (flags.truncate !== true) return this.learn(await open(), asked);
    const cut = async (): Promise<InodeAttributes> => {
      const attributes = this.changed(await open());
      this.layoutChanged(attributes);
      return attributes;
    };
    const writer = known === undefined ? undefined : this.inodes.get(known)?.writer;
    // Noted before it is asked: what is unpublished now may reach the master behind the cut, before the answer is here.
    const behind = this.unclean();
    const attributes = await (writer === undefined ? cut() : writer.truncate(cut));
    const { inode } = attributes;
    if (writer !== undefined && inode === known) return attributes;
    if (!behind.has(inode) && this.inodes.get(inode)?.writer?.isClean !== false) return attributes;
    // It was another file than thought, with bytes of this client's still under way: they are older than the cut.
    try {
      return await this.changeAttributes(credentials, inode, { size: 0 }, true);
    } catch (error) {
      this.giveBack(inode, flags);
      throw error;
    }
  }

  /** A handle on an inode that the master has opened. ESTALE when it has no name any more and was not open here. */
  opened(
    credentials: Credentials,
    attributes: InodeAttributes,
    flags: OpenFlags,
    { isNew = false }: { readonly isNew?: boolean } = {},
  ): ClusterOpenFile {
    const { inode } = attributes;
    if (!isNew && attributes.nlink === 0 && !this.inodes.has(inode)) {
      this.giveBack(inode, flags);
      throw withoutName(inode);
    }
    this.chunkMap.validate(inode, attributes.layoutVersion, attributes.change);
    let open = this.inodes.get(inode);
    open?.learn(attributes);
    if (open === undefined) {
      open = new OpenInode(inode, attributes);
      this.inodes.set(inode, open);
    }
    if (flags.read) open.readers++;
    if (flags.write) {
      open.writers++;
      open.writer ??= this.newWriter(open);
    }
    let readahead: Readahead | undefined;
    if (flags.read) {
      readahead = new Readahead(inode, this.reader, this.readBudget, this.options.tunables.maxReadaheadBytes);
      open.readaheads.add(readahead);
    }
    const file = new ClusterOpenFile(this, open, credentials, flags, readahead);
    this.files.add(file);
    return file;
  }

  /** Whether the first chunk of a file must be asked for before it can be read. */
  needsChunk(inode: InodeId | undefined, flags: OpenFlags): boolean {
    return flags.read && flags.truncate !== true && (inode === undefined || !this.chunkMap.knows(inode, 0));
  }

  /** Takes in what came with the answer to an open, after `opened`: where the first chunk is. */
  learnChunk({ inode, change }: InodeAttributes, chunk: ChunkLocation | null): void {
    // Something newer may be known by now.
    if (chunk === null || this.inodes.get(inode)?.attributes.change !== change || this.chunkMap.knows(inode, 0)) return;
    this.chunkMap.put(inode, 0, chunk);
  }

  release(file: ClusterOpenFile, open: OpenInode): void {
    this.files.delete(file);
    const { flags, readahead } = file;
    if (readahead !== undefined) {
      readahead.dispose();
      open.readaheads.delete(readahead);
    }
    if (flags.read) open.readers--;
    const { writer } = open;
    if (flags.write) open.writers--;
    const isLast = open.readers + open.writers === 0;
    const isOwed = open.writers === 0 && writer?.isTold === false;
    if (flags.write && isOwed) open.owedWriters++;
    let writers = flags.write && !isOwed ? 1 : 0;
    if (isLast) {
      writers += open.owedWriters;
      if (writer !== undefined) {
        this.unsynced.put(open.inode, writer.unsyncedChunks);
        const { count, told, last } = writer.failures;
        if (count > told) this.failed.set(open.inode, last);
        else if (!writer.isClean) this.failed.set(open.inode, notPublished(open.inode));
        writer.dispose();
      }
      this.inodes.delete(open.inode);
      this.withLostLocks.delete(open.inode);
      this.appends.closed(open.inode);
    }
    const { inode, readAt } = open;
    if (readAt !== undefined) {
      open.readAt = undefined;
      this.options.cache.dropAttributes(inode);
    }
    const last = { ...(readAt && { atime: readAt }), untold: isLast && isOwed };
    this.options.master.giveBack({ inode, readers: flags.read ? 1 : 0, writers, ...last });
  }

  /** Closes every open file; fails with the first failure. */
  async close(): Promise<void> {
    const results = await Promise.allSettled([...this.files].map((file) => file.close()));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /** Files with bytes that are on their way, or that the master was not told of. */
  private unclean(): Set<InodeId> {
    const found = new Set<InodeId>();
    for (const { inode, writer } of this.inodes.values()) if (writer?.isClean === false) found.add(inode);
    return found;
  }

  private giveBack(inode: InodeId, flags: OpenFlags): void {
    this.options.master.giveBack({ inode, readers: flags.read ? 1 : 0, writers: flags.write ? 1 : 0 });
  }

  /** An inode without a name is there for those who have it open; the master collects it when it comes to it. */
  private requireReachable(attributes: InodeAttributes): InodeAttributes {
    if (attributes.nlink > 0 || this.inodes.has(attributes.inode)) return attributes;
    throw withoutName(attributes.inode);
  }

  /** Takes in the answer to an own change: nothing asked before it is believed any more. */
  private changed(attributes: InodeAttributes): InodeAttributes {
    const { cache } = this.options;
    cache.dropAttributes(attributes.inode);
    return this.learn(attributes, cache.now());
  }

  /** Chunks were dropped or cut: what is known of them is void. */
  private layoutChanged({ inode, size }: InodeAttributes): void {
    this.chunkMap.drop(inode);
    // The lease of the chunk across the cut stands: the master answers when its replicas have been cut (P5).
    this.leases.drop(inode, Math.ceil(size / CHUNK_SIZE_BYTES));
    this.unsynced.cut(inode, Math.ceil(size / CHUNK_SIZE_BYTES));
    if (size === 0) this.failed.delete(inode);
    this.inodes.get(inode)?.invalidateReads(0, MAX_FILE_BYTES);
  }

  /** Indexes of the chunks of a file, without its holes. */
  private async chunksOf(inode: InodeId): Promise<UnsyncedChunks> {
    const found = new Map<number, WriteMark | undefined>();
    const { size } = await this.freshAttributes(inode);
    const end = Math.ceil(size / CHUNK_SIZE_BYTES);
    for (let firstIndex = 0; firstIndex < end; firstIndex += MAX_CHUNKS_PER_PAGE) {
      const count = Math.min(MAX_CHUNKS_PER_PAGE, end - firstIndex);
      const { chunks } = await this.options.master.call(MASTER_METHODS.getChunks, { inode, firstIndex, count });
      for (const { index, handle } of chunks) if (handle !== 0) found.set(index, undefined);
    }
    return found;
  }

  private newWriter(open: OpenInode): Writer {
    const { clock, logger, master, tunables } = this.options;
    return new Writer({
      ...{ inode: open.inode, io: this.chunkWriter, clock, logger, budget: this.writeBudget },
      publish: async (current, durable, timeoutMs) =>
        this.changed(
          fromWireAttributes(
            await master.mutate(
              MASTER_METHODS.publish,
              (operation) => {
                this.requireWritable(open.inode);
                return { operation, ...current() };
              },
              { idempotent: true, needsNoLock: true, durable, timeoutMs },
            ),
          ),
        ),
      syncMetadata: (syncedChunks, timeoutMs) => master.sync(syncedChunks, { timeoutMs }),
      attributes: () => open.attributes,
      onWritten: (offset, length) => open.invalidateReads(offset, length),
      onLost: () => this.lostListener?.(open.inode, 'bytes'),
      ...(tunables.maxDirtyBytes !== undefined && { maxDirtyBytes: tunables.maxDirtyBytes }),
    });
  }
}

const MAX_LOGGED_INODES = 10;

const notPublished = (inode: InodeId): CairnError =>
  new CairnError('EIO', `inode ${inode}: the size of what was written last could not be told to the master`);

const withoutName = (inode: InodeId): CairnError =>
  new CairnError('ESTALE', `inode ${inode} has no name any more, and is not open here`);
