/** The chunk map of a file: which chunk holds which 64 MiB of it. */
import { chunkHandle, chunkIndex } from '../core/ids.js';
import type { InodeId } from '../core/ids.js';
import { CHUNK_SIZE_BYTES } from '../core/limits.js';
import { ChunkRecord } from '../protocol/generated/messages.js';
import type { InodeRecord } from '../protocol/generated/messages.js';
import { keys, PREFIX_LENGTH, prefixRange, unpacked } from './keys.js';
import type { Mutation } from './state.js';

const EMPTY = new Uint8Array(0);

/**
 * Cuts the map to `newSize`: chunks behind it become garbage, the one at the boundary reads as zeros past it (P5), and
 * the layout version changes, so that cached maps are dropped. The caller saves `record`.
 */
export function truncateChunkMap(m: Mutation, inode: InodeId, record: InodeRecord, newSize: number): void {
  record.layoutVersion++;
  if (record.chunkCount === 0) return;
  const kept = Math.ceil(newSize / CHUNK_SIZE_BYTES);
  const start = keys.fileChunk(inode, chunkIndex(kept));
  for (const [key, value] of m.range({ start, end: prefixRange(start.slice(0, PREFIX_LENGTH)).end })) {
    m.delete(key);
    m.put(keys.garbage(chunkHandle(unpacked(value))), EMPTY);
    record.chunkCount--;
  }
  const validBytes = newSize % CHUNK_SIZE_BYTES;
  if (validBytes === 0) return;
  const boundary = m.get(keys.fileChunk(inode, chunkIndex(kept - 1)));
  if (boundary === undefined) return;
  const chunkKey = keys.chunk(chunkHandle(unpacked(boundary)));
  const stored = m.get(chunkKey);
  if (stored === undefined) return;
  const chunk = ChunkRecord.decode(stored);
  if (chunk.validBytes <= validBytes) return;
  chunk.validBytes = validBytes;
  m.put(chunkKey, ChunkRecord.encode(chunk).finish());
}
