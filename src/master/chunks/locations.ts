/** Where readers find a file's chunks. */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import { MAX_CHUNKS_PER_PAGE } from '../../core/limits.js';
import type {
  ChunkLocationInit,
  ChunkRecord,
  GetChunksReplyInit,
  GetChunksRequest,
} from '../../protocol/generated/messages.js';
import { checkChunkIndex, lookupChunks, nextChunks } from '../tables/chunk-map.js';
import { getChunk, isLostHole } from '../tables/chunk-records.js';
import type { MapEntry } from '../tables/chunk-map.js';
import { requireInode } from '../tables/inodes.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { StateReader } from '../state/state.js';

/**
 * Members that may be read: those up, and after a restart of the master those that will register any moment. When
 * there is none, those that lost their connection just now; a dead one or a suspect never.
 */
export function readableReplicas(
  servers: ServerRegistry,
  record: { readonly servers: readonly number[]; readonly suspects: readonly number[] },
): number[] {
  const sound = record.servers.filter((id) => !record.suspects.includes(id));
  const likely = sound.filter((id) => ['up', 'expected'].includes(servers.liveness(id)));
  return likely.length > 0 ? likely : sound.filter((id) => servers.liveness(id) === 'lost');
}

export function getChunks(
  deps: { readonly state: StateReader; readonly servers: ServerRegistry },
  request: GetChunksRequest,
): GetChunksReplyInit {
  const { state, servers } = deps;
  const { firstIndex: first, count } = request;
  if (count > MAX_CHUNKS_PER_PAGE) throw new CairnError('EINVAL', `a page has at most ${MAX_CHUNKS_PER_PAGE} chunks`);
  checkChunkIndex(first);
  checkChunkIndex(first + Math.max(0, count - 1));
  const inode = inodeId(request.inode);
  const record = requireInode(state, inode);
  const chunks: ChunkLocationInit[] = [];
  const { mappedOnly } = request;
  if (!mappedOnly) for (let i = 0; i < count; i++) chunks.push({ index: first + i, handle: 0 });
  const recordOf = ({ handle }: MapEntry): ChunkRecord => {
    const chunk = getChunk(state, handle);
    if (chunk === undefined) throw new CairnError('INTERNAL', `chunk ${handle} is mapped but has no record`);
    return chunk;
  };
  const isThere = (entry: MapEntry): boolean => !isLostHole(recordOf(entry));
  const found = mappedOnly
    ? nextChunks(state, inode, record, { first, count, isThere })
    : lookupChunks(state, inode, record, { first, count }).filter(isThere);
  for (const entry of found) {
    const { index, handle } = entry;
    const chunk = recordOf(entry);
    const replicas = readableReplicas(servers, chunk).map((id) => servers.replica(id));
    const { version, validBytes } = chunk;
    chunks[mappedOnly ? chunks.length : index - first] = {
      index,
      handle,
      version,
      replicas,
      validBytes,
      lost: chunk.servers.length === 0,
    };
  }
  return { layoutVersion: record.layoutVersion, chunks };
}
