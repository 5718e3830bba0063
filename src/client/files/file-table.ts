/**
 * The handles that this client has open: how they come and go, and what becomes of the files when the session, or the
 * master's power, is lost.
 */
import type { Clock, Timespec } from '../../core/clock.js';
import type { InodeId } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Credentials, LostListener, OpenFlags, ReadNotes } from '../../filesystem/filesystem.js';
import type { ChunkLocation } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { ChunkAccess } from '../chunks/chunk-access.js';
import type { FileExtents } from '../chunks/file-extents.js';
import { Readahead, ReadaheadBudget } from '../data/readahead.js';
import { WriteBudget } from '../data/write-budget.js';
import { Writer } from '../data/writer.js';
import type { AttributeCache } from '../inodes/attribute-cache.js';
import { withoutName, type KnownInodes } from '../inodes/known-inodes.js';
import type { OpenInode } from '../inodes/open-inode.js';
import type { HeldAppendLeases } from '../session/held-append-leases.js';
import type { FileLocks } from '../session/file-locks.js';
import type { MasterConnection } from '../session/master-connection.js';
import { fromWireAttributes, type InodeAttributes } from '../session/wire-attributes.js';
import { DirectCopies } from './copy-range.js';
import type { FileSyncs } from './file-syncs.js';
import type { InodeChanges } from './inode-changes.js';
import { ClusterOpenFile, type OpenFileHost } from './open-file.js';
import { MAX_LOGGED_INODES } from '../../core/limits.js';

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
  readonly logger: Logger;
  readonly master: MasterConnection;
  readonly cache: AttributeCache;
  readonly chunks: ChunkAccess;
  readonly inodes: KnownInodes;
  readonly changes: InodeChanges;
  readonly syncs: FileSyncs;
  readonly locks: FileLocks;
  readonly appends: HeldAppendLeases;
  readonly tunables: FileTunables;
}

export class FileTable implements OpenFileHost {
  readonly inodes: KnownInodes;
  readonly changes: InodeChanges;
  readonly syncs: FileSyncs;
  readonly locks: FileLocks;
  readonly appends: HeldAppendLeases;
  readonly copies: DirectCopies;
  private lostListener: LostListener | undefined;
  private readonly files = new Set<ClusterOpenFile>();
  private readonly chunks: ChunkAccess;
  private readonly writeBudget: WriteBudget;
  private readonly readBudget: ReadaheadBudget;

  constructor(private readonly options: FileTableOptions) {
    const { chunks, tunables } = options;
    this.inodes = options.inodes;
    this.changes = options.changes;
    this.syncs = options.syncs;
    this.locks = options.locks;
    this.appends = options.appends;
    this.chunks = chunks;
    this.copies = new DirectCopies({
      chunkMap: chunks.map,
      io: chunks.writer,
      extents: chunks.extents,
      minBytes: tunables.minDirectCopyBytes,
    });
    this.writeBudget = new WriteBudget(tunables.maxTotalDirtyBytes);
    this.readBudget = new ReadaheadBudget(tunables.maxTotalReadaheadBytes);
  }

  /** See FileSystem.watchLost. */
  watchLost(listener: LostListener): void {
    this.lostListener = listener;
  }

  // ---- Losses -----------------------------------------------------------------------------------

  /** The master lost power, and with it what no sync covered: all but the first `kept` changes that it had answered. */
  operationsLost(kept: number): void {
    this.options.cache.dropAll();
    this.chunks.operationsLost();
    this.syncs.operationsLost(kept);
    for (const open of this.inodes.open) open.operationsLost();
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
      this.options.logger.error(
        { files: locked.size, some: [...locked].slice(0, MAX_LOGGED_INODES) },
        'locks were lost with the session: what was written under them is given up, the files answer EIO until they are closed',
      );
    }
    for (const inode of this.inodes.locksLost(locked)) this.lostListener?.(inode, 'locks');
    this.chunks.leases.sessionLost();
    for (const { inode, writer } of this.inodes.open) {
      this.chunks.map.drop(inode);
      if (locked.size === 0) writer?.sessionLost();
      else if (writer !== undefined) {
        writer.locksLost(locked.has(inode));
        this.lostListener?.(inode, 'locks');
      }
    }
  }

  // ---- What open files ask for ------------------------------------------------------------------

  get extents(): FileExtents {
    return this.chunks.extents;
  }

  async freeBytes(): Promise<number> {
    const { freeBytes, awayFreeBytes } = await this.options.master.call(MASTER_METHODS.statFs, {});
    // A chunkserver that is away for a moment is no full disk.
    return freeBytes + awayFreeBytes;
  }

  now(): Timespec {
    return this.options.clock.now();
  }

  get notesReads(): boolean {
    return this.options.tunables.noteReads !== 'none';
  }

  // ---- Opening and closing ----------------------------------------------------------------------

  /**
   * Runs `open`, the master's part of an open, in order with this client's own writes when it truncates. `known` is the
   * inode that will be opened, as far as it can be told. The handle is there as soon as the master has answered: what is open
   * may be told over a new connection at any time.
   */
  async openWith(
    known: InodeId | undefined,
    credentials: Credentials,
    flags: OpenFlags,
    open: () => Promise<InodeAttributes>,
  ): Promise<{ readonly file: ClusterOpenFile; readonly attributes: InodeAttributes }> {
    const { inodes } = this;
    const asked = this.options.cache.now();
    const opened = (attributes: InodeAttributes): { file: ClusterOpenFile; attributes: InodeAttributes } => ({
      file: this.opened(credentials, attributes, flags),
      attributes,
    });
    if (flags.truncate !== true) return opened(inodes.learn(await open(), asked));
    const cut = async (): Promise<InodeAttributes> => {
      const attributes = inodes.changedOnce(await open(), asked);
      inodes.layoutChanged(attributes, asked);
      return attributes;
    };
    const writer = known === undefined ? undefined : inodes.get(known)?.writer;
    // Noted before it is asked: what is unpublished now may reach the master behind the cut, before the answer is here.
    const behind = inodes.unclean();
    const attributes = await (writer === undefined ? cut() : writer.truncate(cut));
    const { inode } = attributes;
    const { file } = opened(attributes);
    if (writer !== undefined && inode === known) return { file, attributes };
    if (!behind.has(inode) && inodes.get(inode)?.writer?.isClean !== false) return { file, attributes };
    // It was another file than thought, with bytes of this client's still under way: they are older than the cut.
    try {
      return { file, attributes: await this.changes.changeAttributes(credentials, inode, { size: 0 }, true) };
    } catch (error) {
      // What failed is told by this open.
      file.close().catch(() => undefined);
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
    if (!isNew && attributes.nlink === 0 && this.inodes.get(inode) === undefined) {
      this.giveBack(inode, flags);
      throw withoutName(inode);
    }
    this.chunks.validate(attributes);
    const open = this.inodes.opened(attributes);
    if (flags.read) open.readers++;
    if (flags.write) {
      open.writers++;
      open.writer ??= this.newWriter(open);
    }
    let readahead: Readahead | undefined;
    if (flags.read) {
      readahead = new Readahead(inode, this.chunks.reader, this.readBudget, this.options.tunables.maxReadaheadBytes);
      open.readaheads.add(readahead);
    }
    const file = new ClusterOpenFile(this, open, credentials, flags, readahead);
    this.files.add(file);
    return file;
  }

  /** Whether the first chunk of a file must be asked for before it can be read. */
  needsChunk(inode: InodeId | undefined, flags: OpenFlags): boolean {
    return flags.read && flags.truncate !== true && (inode === undefined || !this.chunks.map.knows(inode, 0));
  }

  /** Takes in what came with the answer to an open, after `opened`: where the first chunk is. */
  learnChunk({ inode, change }: InodeAttributes, chunk: ChunkLocation | null): void {
    const { map } = this.chunks;
    // Something newer may be known by now.
    if (chunk === null || this.inodes.get(inode)?.attributes.change !== change || map.knows(inode, 0)) return;
    map.put(inode, 0, chunk);
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
        this.syncs.closed(open.attributes, writer);
        writer.dispose();
      }
      this.inodes.closed(open.inode);
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

  private giveBack(inode: InodeId, flags: OpenFlags): void {
    this.options.master.giveBack({ inode, readers: flags.read ? 1 : 0, writers: flags.write ? 1 : 0 });
  }

  private newWriter(open: OpenInode): Writer {
    const { clock, logger, master, tunables } = this.options;
    return new Writer({
      inode: open.inode,
      io: this.chunks.writer,
      clock,
      logger,
      budget: this.writeBudget,
      maxDirtyBytes: tunables.maxDirtyBytes,
      publish: async (current, durable, timeoutMs) => {
        const asked = this.inodes.moment;
        const reply = await master.mutate(
          MASTER_METHODS.publish,
          (operation) => {
            this.inodes.requireWritable(open.inode);
            return { operation, ...current() };
          },
          { idempotent: true, needsNoLock: true, isRepeated: true, durable, timeoutMs },
        );
        return this.inodes.changed(fromWireAttributes(reply), asked);
      },
      syncMetadata: (syncedChunks, timeoutMs) => master.sync(syncedChunks, { timeoutMs }),
      attributes: () => open.attributes,
      onWritten: (offset, length) => open.invalidateReads(offset, length),
      onLost: () => this.lostListener?.(open.inode, 'bytes'),
    });
  }
}
