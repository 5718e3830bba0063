/** What reader and writer need of the cluster: bytes of one chunk of a file, with all failover behind it. */
import type { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import type { CopySource } from '../../protocol/generated/messages.js';

/** Noted at a write, to be compared with that of a later sync: whether unsynced bytes may have been lost in between. */
export interface WriteMark {
  /** Of a sync: 0 for a hole. */
  readonly handle: number;
  /** Times that the chunk may have lost unsynced bytes. */
  readonly losses: number;
  /** Times that the master may have lost unsynced operations, and with them the chunk. */
  readonly generation: number;
  /** That the primary gave it, under that lease. Unknown: not told, or of what is not one write. */
  readonly serial?: Serial;
}

/** Of a mutation; of a sync: it covers all up to this. */
export interface Serial {
  readonly leaseId: number;
  readonly serial: number;
}

/**
 * Without a loss at the master another handle is no loss: somebody cut the file, or punched a hole, and what is there now has a
 * count of its own. Where a chunk stands for a lost one it goes on with the count of that.
 */
export function isKept(written: WriteMark, now: WriteMark): boolean {
  if (written.handle === now.handle) return written.losses === now.losses;
  if (written.generation !== now.generation) return false;
  return now.handle === 0 || now.losses <= written.losses;
}

/** What a sync is to be compared with after two writes of a chunk, if the mark of either is known. */
export function joinedMarks(first: WriteMark | undefined, later: WriteMark | undefined): WriteMark | undefined {
  if (first === undefined || later === undefined) return first ?? later;
  if (!isKept(first, later)) return LOST_MARK;
  // What the first wrote is gone with the chunk that was there.
  return first.handle === later.handle ? first : later;
}

/** What is kept by nothing. */
export const LOST_MARK: WriteMark = { handle: 0, losses: -1, generation: -1 };

/** What a sync returns. */
export interface SyncMark extends WriteMark {
  /** The master takes the chunk for one of which nothing was ever acknowledged as synced: it must be told before that is. */
  readonly unsynced: boolean;
}

/** A sync that is under way. */
export interface SyncAhead {
  /** As of `SyncMark`, when it began. */
  readonly unsynced: boolean;
  readonly mark: Promise<SyncMark | undefined>;
}

/** A chunk of a file that was synced. */
export interface SyncedChunk {
  readonly inode: InodeId;
  readonly index: number;
  readonly handle: number;
}

/** One of several writes: bytes of a chunk from `offset` on, with their segmentChecksums there. */
export interface ChunkWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly checksums: readonly number[];
  /** As of `writeRange`. */
  readonly isWanted: () => boolean;
}

export interface ChunkReads {
  /**
   * Exactly `length` bytes (at most MAX_PAYLOAD_BYTES) at `offset` of chunk `index`, verified; holes and what is past
   * the replica's end are zeros. Must not be changed by the caller. EIO when no replica could be read in time.
   */
  readRange(inode: InodeId, index: number, offset: number, length: number): Promise<Buffer>;
}

export interface ChunkWrites {
  /**
   * Writes `bytes` (at most MAX_PAYLOAD_BYTES) at `offset` of chunk `index` to all its replicas; `checksums` are their
   * segmentChecksums there. The bytes must not change meanwhile. Fails when it could not be done in time, with the
   * content of the range in doubt. It is not tried again once `isWanted` says no.
   */
  writeRange(
    inode: InodeId,
    index: number,
    offset: number,
    bytes: Uint8Array,
    checksums: readonly number[],
    isWanted?: () => boolean,
  ): Promise<WriteMark>;
  /**
   * Several small writes, at most MAX_BATCH_WRITES, that do not overlap: each as by `writeRange`, in one message if that succeeds. Never
   * rejects: each has an outcome of its own, in their order.
   */
  writeBatch(
    inode: InodeId,
    index: number,
    writes: readonly ChunkWrite[],
  ): Promise<readonly (WriteMark | CairnError)[]>;
  /**
   * What chunk `index` holds survives power loss; a hole stays one. If the mark is not what a write returned, what was written then may
   * have been lost before it was synced. Tried until `deadlineMs` (monotonic), or as long as any operation.
   */
  syncChunk(inode: InodeId, index: number, deadlineMs?: number): Promise<SyncMark>;
  /**
   * As `syncChunk`, once, sent behind the writes that were sent before, and not after their answers: it covers them if the `serial` of
   * its mark says so. Undefined when nothing is sent; resolves to undefined when it fails.
   */
  syncAhead(inode: InodeId, index: number): SyncAhead | undefined;
  /** The mark that a write of chunk `index` would have now; it syncs what is there, and makes no chunk. */
  markOf(inode: InodeId, index: number): Promise<WriteMark>;
  /**
   * Writes of the file that failed may still be on their way. Resolves when none of them can come behind what others write
   * from then on; undefined when none can. TIMEOUT when the master could not be asked by `deadlineMs` (monotonic).
   */
  settleDoubts(inode: InodeId, deadlineMs: number): Promise<void> | undefined;
  /** The master knows, durably, that these were synced. */
  noteSynced(chunks: readonly SyncedChunk[]): void;
  /** As in WriteMark, now. */
  readonly generation: number;
  /** Begins to ask for the lease of a chunk that will be written soon. */
  prepare(inode: InodeId, index: number): void;
}

export interface ChunkCopies {
  /**
   * Has the chunkservers copy `length` bytes (at most MAX_COPY_RANGE_BYTES) of another chunk, or zeros when there is no
   * source, to `offset` of chunk `index`. Fails as `writeRange`; a source that cannot be read ends the copy early. It is
   * not tried again once `mayGoOn` throws.
   */
  copyRange(
    inode: InodeId,
    index: number,
    range: { readonly offset: number; readonly length: number; readonly source: CopySource | null },
    mayGoOn?: () => void,
  ): Promise<{ readonly copied: number; readonly mark: WriteMark }>;
}
