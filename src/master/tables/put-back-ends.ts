/**
 * Ends of files after the state was put back to an older one. Behind the end that this state knows, a chunk may have what was
 * appended since the backup. Nobody asks the chunkservers for that, and it must not show when the file is made longer (P5): so
 * it is cut off before the first lease after that, and before the file grows; not while somebody writes the file who had it
 * open before, as he tells yet how far he came.
 */
import { chunkIndex } from '../../core/ids.js';
import type { ChunkHandle, ChunkIndex, InodeId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES } from '../../core/limits.js';
import type { InodeRecord } from '../../protocol/generated/messages.js';
import { readCounter } from '../state/counters.js';
import type { Mutation } from '../state/state.js';
import { lookupChunk } from './chunk-map.js';
import { getChunk, noteLastLease, shortenChunk } from './chunk-records.js';
import { readInode, saveInode } from './inodes.js';

/** Whether a client writes the file that had it open before this master began, or before its state was found to be put back. */
export type WrittenSinceBefore = (inode: InodeId) => boolean;

/**
 * Cuts what a past that is gone may have put behind the end of the file into the chunk at `index`, by default the one at its end. True
 * when `record`, which the caller saves, was changed.
 */
export function cutPutBackEnd(
  m: Mutation,
  file: { readonly inode: InodeId; readonly record: InodeRecord; readonly index?: ChunkIndex },
  isWrittenSinceBefore: WrittenSinceBefore,
): boolean {
  const floor = readCounter(m, 'lease-floor', 0);
  if (floor === 0) return false;
  const { inode, record } = file;
  const index = file.index ?? chunkIndex(Math.floor(record.size / CHUNK_SIZE_BYTES));
  const validBytes = Math.max(0, record.size - index * CHUNK_SIZE_BYTES);
  if (validBytes >= CHUNK_SIZE_BYTES) return false;
  const handle = lookupChunk(m, inode, record, index);
  const chunk = handle === undefined ? undefined : getChunk(m, handle);
  if (handle === undefined || chunk === undefined || chunk.lastGrant >= floor) return false;
  if (isWrittenSinceBefore(inode) || !shortenChunk(m, handle, validBytes)) return false;
  record.layoutVersion += 1;
  return true;
}

/** The chunk is about to be written under this lease. */
export function noteGrant(
  m: Mutation,
  lease: { readonly handle: ChunkHandle; readonly inode: InodeId; readonly index: ChunkIndex; readonly id: number },
  isWrittenSinceBefore: WrittenSinceBefore,
): void {
  const { handle, inode, index, id } = lease;
  const record = readInode(m, inode);
  if (record !== undefined && cutPutBackEnd(m, { inode, record, index }, isWrittenSinceBefore)) {
    saveInode(m, inode, record);
  }
  noteLastLease(m, handle, id);
}
