/** Several writes of one chunk in one message, each as it would be alone. */
import { blockSegments, segmentsMatch } from '../../core/checksum.js';
import { CairnError } from '../../core/errors.js';
import { CHUNK_SIZE_BYTES, MAX_BATCH_WRITES } from '../../core/limits.js';
import type { WriteBatchRequest } from '../../protocol/generated/messages.js';
import type { ChunkWrite } from '../chunk/chunk-file.js';

type Batch = Pick<WriteBatchRequest, 'handle' | 'offsets' | 'lengths' | 'checksums'>;

/** The writes of a request, as views of its payload, verified. EINVAL when it does not fit together, CORRUPT when bytes are damaged. */
export function writesOf({ handle, offsets, lengths, checksums }: Batch, payload: Uint8Array): ChunkWrite[] {
  if (offsets.length === 0 || offsets.length > MAX_BATCH_WRITES || offsets.length !== lengths.length) {
    throw new CairnError('EINVAL', `${offsets.length} writes of ${lengths.length} lengths to chunk ${handle}`);
  }
  let start = 0;
  let segment = 0;
  const writes = offsets.map((offset, i) => {
    const bytes = payload.subarray(start, start + (lengths[i] ?? 0));
    start += lengths[i] ?? 0;
    const count = [...blockSegments(bytes.length, offset)].length;
    const write = { offset, bytes, checksums: checksums.slice(segment, segment + count) };
    segment += count;
    checkWrite(handle, write);
    return write;
  });
  if (start !== payload.length || segment !== checksums.length) {
    throw new CairnError('EINVAL', `${payload.length} bytes for writes of ${start} to chunk ${handle}`);
  }
  return writes;
}

/** EINVAL unless it lies within the chunk, CORRUPT unless its bytes have their checksums. */
export function checkWrite(handle: number, { offset, bytes, checksums }: ChunkWrite): void {
  if (bytes.length === 0 || offset + bytes.length > CHUNK_SIZE_BYTES) {
    throw new CairnError('EINVAL', `write of ${bytes.length} bytes at ${offset} of chunk ${handle}`);
  }
  if (!segmentsMatch(bytes, offset, checksums)) {
    throw new CairnError('CORRUPT', `the bytes for chunk ${handle} at ${offset} were damaged on the way`);
  }
}
