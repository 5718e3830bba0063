/** An open file of the cluster: its own place in the readahead, and the inode's writer that all handles share. */
import type { Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { MAX_FILE_BYTES } from '../../core/limits.js';
import type {
  AllocateMode,
  Attributes,
  Credentials,
  OpenFile,
  OpenFlags,
  WriteOptions,
} from '../../filesystem/filesystem.js';
import type { HeldAppendLeases } from '../session/held-append-leases.js';
import type { FileExtents } from '../chunks/file-extents.js';
import { allocate } from './allocate.js';
import { copyRange, type DirectCopies, type DirectEnds } from './copy-range.js';
import { losesPrivileges } from '../../filesystem/permits.js';
import { owned, takeCopy, type Loan } from '../../filesystem/loan.js';
import { locksLost, type KnownInodes } from '../inodes/known-inodes.js';
import type { OpenInode } from '../inodes/open-inode.js';
import type { FileSyncs } from './file-syncs.js';
import type { InodeChanges } from './inode-changes.js';
import type { Readahead } from '../data/readahead.js';
import type { Writer } from '../data/writer.js';

/** What an open file needs of the file system that it belongs to. */
export interface OpenFileHost {
  readonly inodes: KnownInodes;
  readonly changes: InodeChanges;
  readonly syncs: FileSyncs;
  readonly extents: FileExtents;
  readonly copies: DirectCopies;
  readonly appends: HeldAppendLeases;
  now(): Timespec;
  /** Whether reads move atime at all. */
  readonly notesReads: boolean;
  freeBytes(): Promise<number>;
  /** Times that unsynced changes of this client may have been lost with the master's power. */
  readonly losses: number;
  /** Gives the open back to the master, in the background. */
  release(file: ClusterOpenFile, open: OpenInode): void;
}

export class ClusterOpenFile implements OpenFile {
  private closed: Promise<void> | undefined;
  /** Failures of write-back that this handle's user was told by a write or an fsync, or that came before it was opened. */
  private seenFailures: number;
  /** And by a flush. Nobody may have looked: it comes with the close of another descriptor, or the end of a child process. */
  private flushedFailures: number;
  /** Losses at the master, likewise. */
  private seenLosses: number;

  constructor(
    private readonly host: OpenFileHost,
    private readonly open: OpenInode,
    private readonly credentials: Credentials,
    readonly flags: OpenFlags,
    readonly readahead: Readahead | undefined,
  ) {
    this.seenFailures = this.flushedFailures = open.writer?.failures.count ?? 0;
    this.seenLosses = host.losses;
  }

  get inode(): OpenInode['inode'] {
    return this.open.inode;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const { parts } = await this.lend(offset, length);
    const [only] = parts;
    if (parts.length !== 1 || only === undefined) return Buffer.concat(parts);
    return Buffer.from(only.buffer, only.byteOffset, only.length);
  }

  async lend(offset: number, length: number): Promise<Loan> {
    const { readahead } = this;
    if (this.closed !== undefined || readahead === undefined) throw notOpenFor('reading');
    this.requireLocks();
    checkOffset(offset);
    const size = await this.sizeFor(offset + length);
    const count = Math.min(length, size - offset);
    if (count <= 0) return owned(Buffer.alloc(0));
    if (this.host.notesReads && this.flags.noAtime !== true) this.open.noteRead(this.host.now());
    const { writer } = this.open;
    if (writer === undefined || writer.isClean) return readahead.lend(offset, count, size);
    return this.readOver(writer, readahead, offset, count);
  }

  async write(offset: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<number> {
    return this.writeBy(this.credentials, offset, bytes, options);
  }

  private async writeBy(
    by: Credentials,
    offset: number,
    bytes: Uint8Array,
    options: WriteOptions = {},
  ): Promise<number> {
    const kills = options.killPrivileges ?? by.uid !== 0;
    const appends = options.append ?? this.flags.append === true;
    const writer = this.writerOf();
    const { lockLosses } = writer;
    this.throwFailure(writer);
    this.requireLocks();
    if (!appends) checkRange(offset, bytes.length);
    // An append need not know what another client made of the file, but for set-user-ID that it must take away.
    if (kills && appends) await this.host.inodes.freshAttributes(this.open.inode);
    if (kills && bytes.length > 0) await this.losePrivileges(by);
    if (appends) await this.append(writer, bytes, kills, lockLosses);
    else await writer.write(offset, bytes, kills, lockLosses);
    if (this.flags.sync === true) {
      await writer.sync();
      this.throwFailure(writer);
    }
    return bytes.length;
  }

  private async append(writer: Writer, bytes: Uint8Array, kills: boolean, since: number): Promise<void> {
    const { appends } = this.host;
    const { inode } = this.open;
    const lease = appends.tryBegin(inode, bytes.length) ?? (await appends.begin(inode, bytes.length));
    try {
      await writer.write('end', bytes, kills, since);
    } finally {
      appends.end(lease);
    }
  }

  async flush(): Promise<void> {
    if (this.closed !== undefined) throw notOpenFor('flushing');
    const writer = this.flags.write ? this.open.writer : undefined;
    if (writer === undefined) return;
    await writer.flush();
    this.requireLocks();
    this.throwOnClose(writer);
  }

  async sync(): Promise<void> {
    if (this.closed !== undefined) throw notOpenFor('syncing');
    this.requireLocks();
    // Also through a handle for reading: fsync(2) is about the file.
    const { writer, inode } = this.open;
    try {
      await this.host.syncs.syncFile(inode, writer);
    } catch (error) {
      // Told with this one: what was lost meanwhile is why.
      this.tellLosses();
      throw error;
    }
    this.requireLocks();
    const loss = this.tellLosses();
    if (loss !== undefined) throw loss;
  }

  /** What an fsync through this handle is to tell, and tells at once: failures of write-back, and losses at the master. */
  private tellLosses(): CairnError | undefined {
    const { failures } = this.open.writer ?? {};
    // What nobody was told is told to whoever syncs the file first, as Linux does.
    const isFailed = failures !== undefined && (failures.count > failures.told || failures.count !== this.seenFailures);
    this.seenFailures = failures?.tell() ?? this.seenFailures;
    const isLost = this.host.syncs.changed.tell(this.inode) || this.seenLosses !== this.host.losses;
    this.seenLosses = this.host.losses;
    if (isFailed) return failures.last;
    return isLost ? changesLost() : undefined;
  }

  async truncate(size: number, by = this.credentials): Promise<void> {
    this.writerOf();
    this.requireLocks();
    checkRange(size, 0);
    await this.host.changes.setSize(by, this.open.inode, size);
  }

  async seek(offset: number, whence: 'data' | 'hole'): Promise<number> {
    if (this.closed !== undefined) throw notOpenFor('seeking');
    this.requireLocks();
    const { inode } = this.open;
    const size = await this.publishedSize();
    if (!Number.isSafeInteger(offset) || offset < 0 || offset >= size) {
      throw new CairnError('ENXIO', `offset ${offset} is not in the file of ${size} bytes`);
    }
    const { extents } = this.host;
    const place = { inode, size, change: this.open.attributes.change };
    return whence === 'data' ? extents.nextData(place, offset) : extents.nextHole(place, offset);
  }

  async allocate(offset: number, length: number, mode: AllocateMode = {}, by = this.credentials): Promise<void> {
    const writer = this.writerOf();
    this.throwFailure(writer);
    this.requireLocks();
    const { inode } = this.open;
    const { host } = this;
    const { lockLosses } = writer;
    await allocate(
      {
        inode,
        extents: host.extents,
        publishedSize: () => this.publishedSize(),
        write: (at, bytes) => writer.write(at, bytes, false, lockLosses),
        keep: (index, look) => writer.keep(index, look),
        punch: (firstIndex, count) => {
          writer.demandLocks(lockLosses);
          return host.changes.punch(inode, firstIndex, count);
        },
        extend: async (end) => {
          if (by.uid !== 0) await this.losePrivileges(by);
          await writer.flush();
          this.throwFailure(writer);
          writer.demandLocks(lockLosses);
          await host.changes.extend(by, inode, end);
        },
        freeBytes: () => host.freeBytes(),
      },
      offset,
      length,
      mode,
    );
  }

  async copyFrom(
    source: OpenFile,
    sourceOffset: number,
    offset: number,
    length: number,
    by = this.credentials,
  ): Promise<number> {
    const writer = this.writerOf();
    if (this.flags.append === true) throw notOpenFor('writing at an offset');
    const { lockLosses } = writer;
    const mayGoOn = (): void => writer.demandLocks(lockLosses);
    const write = (at: number, bytes: Uint8Array): Promise<number> => this.writeBy(by, at, bytes);
    const range = { source, sourceOffset, target: this, offset, length, mayGoOn, write };
    const copied = await copyRange(range, this.host.copies, () => this.directEnds(writer, source, lockLosses, by));
    if (this.flags.sync === true && copied > 0) {
      await writer.sync();
      this.throwFailure(writer);
    }
    return copied;
  }

  async attributes(): Promise<Attributes> {
    return this.open.overlay(await this.host.inodes.freshAttributes(this.open.inode));
  }

  close(): Promise<void> {
    this.closed ??= this.finish();
    return this.closed;
  }

  private async finish(): Promise<void> {
    const writer = this.flags.write ? this.open.writer : undefined;
    try {
      if (writer === undefined) return;
      if (!writer.isClean) await writer.flush();
      this.requireLocks();
      if (writer.failures.count !== this.flushedFailures) this.throwOnClose(writer);
    } finally {
      this.host.release(this, this.open);
    }
  }

  /** What this client wrote is published; the size as all see it. */
  private async publishedSize(): Promise<number> {
    const { writer } = this.open;
    if (writer?.isClean === false) await writer.flush();
    return Math.max((await this.host.inodes.freshAttributes(this.open.inode)).size, writer?.size ?? 0);
  }

  /** What comes before a write, and the ends of a copy from `source` if both are files of this client. */
  private async directEnds(
    writer: Writer,
    source: OpenFile,
    lockLosses: number,
    by: Credentials,
  ): Promise<DirectEnds | undefined> {
    if (!(source instanceof ClusterOpenFile) || source.host !== this.host) return undefined;
    // To be refused by its `read`.
    if (source.closed !== undefined || source.readahead === undefined || source.open.locksLost) return undefined;
    this.throwFailure(writer);
    this.requireLocks();
    const kills = by.uid !== 0;
    if (kills) await this.losePrivileges(by);
    source.open.noteRead(this.host.now());
    const { inode, host } = this;
    return {
      source: { inode: source.inode, writer: source.open.writer },
      target: { inode, writer, kills, lockLosses, punch: (index) => host.changes.punch(inode, index, 1) },
    };
  }

  private async losePrivileges(by: Credentials): Promise<void> {
    const { attributes, inode } = this.open;
    if (losesPrivileges(attributes, by)) await this.host.changes.killPrivileges(by, inode);
  }

  private writerOf(): Writer {
    const { writer } = this.open;
    if (this.closed !== undefined || !this.flags.write || writer === undefined) throw notOpenFor('writing');
    return writer;
  }

  /** Who counts on a lock that was lost must not go on. */
  private requireLocks(): void {
    if (this.open.locksLost) throw locksLost();
  }

  /** P7: tells a failure of write-back, once through this handle, by a write or an fsync. */
  private throwFailure(writer: Writer): void {
    if (writer.failures.count === this.seenFailures) return;
    this.seenFailures = writer.failures.tell();
    throw writer.failures.last;
  }

  /** As `throwFailure`, by a close: the next write or fsync tells it again. */
  private throwOnClose(writer: Writer): void {
    if (writer.failures.count === this.seenFailures) return;
    this.flushedFailures = writer.failures.count;
    throw writer.failures.last;
  }

  /** The size as it matters to a read up to `end`: at the end of the file, another client may have appended. */
  private async sizeFor(end: number): Promise<number> {
    const { open, host } = this;
    const local = open.writer?.size ?? open.attributes.size;
    if (host.inodes.areHeld) {
      // Also what is there may have been changed by another client.
      const held = host.inodes.heldAttributes(open.inode);
      if (held !== undefined && held.change === open.attributes.change) return Math.max(held.size, local);
    } else if (end <= local) return local;
    const attributes = await this.host.inodes.freshAttributes(open.inode);
    return Math.max(attributes.size, open.writer?.size ?? 0);
  }

  /** What the chunkservers have, with what is still buffered here laid over it. */
  private async readOver(writer: Writer, readahead: Readahead, offset: number, length: number): Promise<Loan> {
    const extents = writer.pinOverlay(offset, length);
    try {
      if (extents.length === 0) return await readahead.lend(offset, length, this.open.attributes.size);
      const size = this.open.attributes.size;
      const result = Buffer.allocUnsafe(length);
      const single = extents.length === 1 ? extents[0] : undefined;
      const covered =
        single !== undefined && single.offset <= offset && single.offset + single.length >= offset + length;
      if (!covered) {
        takeCopy(await readahead.lend(offset, length, size), result);
      }
      for (const extent of extents) {
        const from = Math.max(offset, extent.offset);
        const to = Math.min(offset + length, extent.offset + extent.length);
        extent.buffer.copy(result, from - offset, from - extent.offset, to - extent.offset);
      }
      return owned(result);
    } finally {
      writer.unpin(extents);
    }
  }
}

const notOpenFor = (what: string): CairnError => new CairnError('EBADF', `the file is closed, or not open for ${what}`);

/** P1: the master lost power between a change and its sync. */
export const changesLost = (): CairnError =>
  new CairnError('EIO', 'the master lost power: changes that were not synced may be gone');

function checkOffset(offset: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new CairnError('EINVAL', `an offset must be a whole number of bytes from 0, got ${offset}`);
  }
}

function checkRange(offset: number, length: number): void {
  checkOffset(offset);
  if (offset + length > MAX_FILE_BYTES) {
    throw new CairnError('EFBIG', `a file has at most ${MAX_FILE_BYTES} bytes, asked for ${offset + length}`);
  }
}
