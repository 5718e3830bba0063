/** What reader and writer need of the cluster: bytes of one chunk of a file, with all failover behind it. */
import type { InodeId } from '../core/ids.js';

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
   * content of the range in doubt.
   */
  writeRange(
    inode: InodeId,
    index: number,
    offset: number,
    bytes: Uint8Array,
    checksums: readonly number[],
  ): Promise<void>;
  /** What was written to chunk `index` survives power loss. */
  syncChunk(inode: InodeId, index: number): Promise<void>;
  /** Begins to ask for the lease of a chunk that will be written soon. */
  prepare(inode: InodeId, index: number): void;
}
