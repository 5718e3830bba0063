/**
 * What this client knows of an inode that it has open: how often, the attributes the master last told, and the bytes
 * that were written here and that the master does not know of yet.
 */
import { compareTimespec } from '../../core/clock.js';
import type { Timespec } from '../../core/clock.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_FILE_BYTES } from '../../core/limits.js';
import { isReadToNote } from '../../core/relatime.js';
import type { InodeAttributes } from '../session/wire-attributes.js';
import type { Readahead } from '../data/readahead.js';
import type { Writer } from '../data/writer.js';

export class OpenInode {
  readers = 0;
  writers = 0;
  /** Of those that were closed: the master is told with the last close, as it may not know all that was written. */
  owedWriters = 0;
  /** From the first open for writing on. */
  writer: Writer | undefined;
  readonly readaheads = new Set<Readahead>();
  /** When it was read, until the master is told: with the next close. */
  readAt: Timespec | undefined;
  /** Locks on it ended with the session: who trusts in them must not read or write any more, until all have closed it. */
  locksLost = false;
  private known: InodeAttributes;

  constructor(
    readonly inode: InodeId,
    attributes: InodeAttributes,
  ) {
    this.known = attributes;
  }

  /** As the master last told. */
  get attributes(): InodeAttributes {
    return this.known;
  }

  /** Takes in what the master told, unless something newer is known. */
  learn(attributes: InodeAttributes): void {
    if (attributes.change >= this.known.change) this.known = attributes;
  }

  /** The master lost operations: what it tells next may be older than what is known. */
  operationsLost(): void {
    this.known = { ...this.known, change: 0 };
    this.invalidateReads(0, MAX_FILE_BYTES);
    this.writer?.operationsLost();
  }

  /** `told` by the master, or what it told later, with what was written here and not published. */
  overlay(told: InodeAttributes): InodeAttributes {
    const { writer, readAt } = this;
    const newest = this.known.change > told.change ? this.known : told;
    const isRead = readAt !== undefined && compareTimespec(readAt, newest.atime) > 0;
    const attributes = isRead ? { ...newest, atime: readAt } : newest;
    if (writer === undefined || writer.isClean) return attributes;
    const size = Math.max(attributes.size, writer.size);
    const written = writer.pendingMtime;
    if (written === undefined) return size === attributes.size ? attributes : { ...attributes, size };
    const ctime = compareTimespec(written, attributes.ctime) > 0 ? written : attributes.ctime;
    return { ...attributes, size, mtime: written, ctime };
  }

  /** Its content was read at `now`. */
  noteRead(now: Timespec): void {
    if (this.readAt === undefined && isReadToNote(this.known, now)) this.readAt = now;
  }

  invalidateReads(offset: number, length: number): void {
    for (const readahead of this.readaheads) readahead.invalidate(offset, length);
  }
}
