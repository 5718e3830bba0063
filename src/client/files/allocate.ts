/** fallocate(2) on an open file. */
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_CHUNKS_PER_RECORD, MAX_FILE_BYTES, MAX_PAYLOAD_BYTES } from '../../core/limits.js';
import type { FileExtents } from '../chunks/file-extents.js';
import type { AllocateMode } from '../../filesystem/filesystem.js';

export interface AllocateTarget {
  readonly inode: InodeId;
  readonly extents: FileExtents;
  /** All that was written before is published; the size as it is then. */
  publishedSize(): Promise<number>;
  write(offset: number, bytes: Uint8Array): Promise<unknown>;
  /** Runs `look`; a sync makes durable what it finds in a chunk, as if it was written now. */
  keep(index: number, look: () => Promise<void>): Promise<void>;
  /** Makes holes of whole chunks. */
  punch(firstIndex: number, count: number): Promise<void>;
  /** The file has at least `end` bytes, and was changed now. */
  extend(end: number): Promise<void>;
  /** Bytes that the cluster has room for. */
  freeBytes(): Promise<number>;
}

const ZEROS = Buffer.alloc(MAX_PAYLOAD_BYTES);

/**
 * EINVAL, EFBIG, ENOSPC. Allocating reserves nothing: chunks are made when they are written, so a later write may still
 * find the disks full. What is certain now not to fit is refused.
 */
export async function allocate(
  target: AllocateTarget,
  offset: number,
  length: number,
  { keepSize = false, punchHole = false, zeroRange = false }: AllocateMode,
): Promise<void> {
  checkRange(offset, length);
  if (length === 0 || (punchHole && (!keepSize || zeroRange))) {
    throw new CairnError('EINVAL', 'fallocate of no bytes, or with modes that exclude each other');
  }
  const end = offset + length;
  const size = await target.publishedSize();
  if (punchHole || zeroRange) await makeZero(target, offset, Math.min(end, size));
  else if (end > size && end - Math.max(offset, size) > (await target.freeBytes())) {
    throw new CairnError('ENOSPC', `the cluster has no room for ${length} bytes`);
  }
  await target.extend(keepSize ? 0 : end);
}

/** P5: whole chunks become holes, the rest is overwritten where there is anything. */
async function makeZero(target: AllocateTarget, offset: number, end: number): Promise<void> {
  const firstWhole = Math.ceil(offset / CHUNK_SIZE_BYTES);
  const afterWhole = Math.max(firstWhole, Math.floor(end / CHUNK_SIZE_BYTES));
  const firstEnd = Math.min(end, firstWhole * CHUNK_SIZE_BYTES);
  if (offset < firstEnd) await overwrite(target, offset, firstEnd);
  const lastStart = Math.max(firstEnd, afterWhole * CHUNK_SIZE_BYTES);
  if (lastStart < end) await overwrite(target, lastStart, end);
  for (let index = firstWhole; index < afterWhole; index += MAX_CHUNKS_PER_RECORD) {
    await target.punch(index, Math.min(MAX_CHUNKS_PER_RECORD, afterWhole - index));
  }
}

/** Bytes of one chunk. */
async function overwrite(target: AllocateTarget, offset: number, end: number): Promise<void> {
  await target.keep(Math.floor(offset / CHUNK_SIZE_BYTES), async () => {
    for await (const data of target.extents.dataWithin(target.inode, offset, end)) {
      for (let at = data.start; at < data.end; at += ZEROS.length) {
        await target.write(at, ZEROS.subarray(0, Math.min(ZEROS.length, data.end - at)));
      }
    }
  });
}

export function checkRange(offset: number, length: number): void {
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) {
    throw new CairnError('EINVAL', `there are no ${length} bytes at ${offset}`);
  }
  if (offset + length > MAX_FILE_BYTES) {
    throw new CairnError('EFBIG', `a file has at most ${MAX_FILE_BYTES} bytes, asked for ${offset + length}`);
  }
}
