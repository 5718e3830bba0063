/** Holes punched into a file, chunk by chunk; what is less than a chunk its writer fills with zeros. */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import { MAX_CHUNKS_PER_RECORD } from '../../core/limits.js';
import { isRegular } from '../../core/mode.js';
import type { AttributesInit, PunchChunksRequest } from '../../protocol/generated/messages.js';
import { checkChunkIndex, punchChunkMap } from '../tables/chunk-map.js';
import { attributesOf, requireInode, saveInode } from '../tables/inodes.js';
import type { OperationContext } from '../tables/inodes.js';
import type { Mutation } from '../state/state.js';

/** The writer has the file open, and publishes size and times afterwards. Errors: EINVAL, EFBIG, ESTALE. */
export function punchChunks(m: Mutation, context: OperationContext, request: PunchChunksRequest): AttributesInit {
  const { firstIndex: first, count } = request;
  if (count === 0 || count > MAX_CHUNKS_PER_RECORD) {
    throw new CairnError('EINVAL', `1 to ${MAX_CHUNKS_PER_RECORD} chunks are punched at a time, not ${count}`);
  }
  checkChunkIndex(first);
  checkChunkIndex(first + count - 1);
  const inode = inodeId(request.inode);
  const record = requireInode(m, inode);
  if (!isRegular(record.mode)) throw new CairnError('EINVAL', `inode ${inode} is no regular file`);
  punchChunkMap(m, inode, record, { first, count });
  record.mtime = context.now;
  record.ctime = context.now;
  saveInode(m, inode, record);
  return attributesOf(inode, record);
}
