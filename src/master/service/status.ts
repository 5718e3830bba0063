/** What operators see of the cluster. Its cost is bounded: counts that would need a long walk are lower bounds. */
import { chunkHandle } from '../../core/ids.js';
import type { ChunkHandle } from '../../core/ids.js';
import type { ServerStatusInit, StatFsReplyInit, StatusReplyInit } from '../../protocol/generated/messages.js';
import { getChunk, isGarbage } from '../tables/chunk-records.js';
import { readCounter } from '../state/counters.js';
import { keys, PREFIX_LENGTH, packNumber, prefixRange, unpackNumber } from '../state/keys.js';
import type { Key } from '../store/store.js';
import { countInodes } from '../namespace/namespace.js';
import { recountedUpTo } from '../maintenance/recount.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { StateReader } from '../state/state.js';
import { MAX_STATUS_WALK } from '../../core/limits.js';

export function clusterStatus(
  deps: { readonly state: StateReader; readonly servers: ServerRegistry; readonly wantedReplicas: number },
  about: Pick<
    StatusReplyInit,
    'clusterId' | 'epoch' | 'sessions' | 'logSequence' | 'masterShortOfSpace' | 'holdings' | 'recalls'
  >,
): StatusReplyInit {
  const { state, servers, wantedReplicas } = deps;
  const seen = new Set<ChunkHandle>();
  let walked = 0;
  let underReplicated = 0;
  let unavailable = 0;
  let surplus = 0;
  let damaged = 0;
  let doubtful = 0;
  const walk = (prefix: Key, handleAt: number, start?: Key): void => {
    const range = prefixRange(prefix);
    for (const [key] of state.range({ ...range, ...(start !== undefined && { start }) })) {
      if (walked++ >= MAX_STATUS_WALK) return;
      const handle = chunkHandle(unpackNumber(key, handleAt));
      if (seen.has(handle)) continue;
      seen.add(handle);
      const record = getChunk(state, handle);
      if (record === undefined || isGarbage(state, handle)) continue;
      const live = record.servers.filter((id) => servers.isUp(id) && !record.suspects.includes(id)).length;
      if (record.damagedBlocks > 0 && live > 0) damaged++;
      if (record.needsRecovery && live > 0) doubtful++;
      if (live === 0) unavailable++;
      else if (live < wantedReplicas) underReplicated++;
      else if (live > wantedReplicas) surplus++;
    }
  };
  walk('W', 1);
  for (const server of servers.all()) if (server.peer === null) walk('R' + packNumber(server.id), PREFIX_LENGTH);
  // What the index does not tell yet, because another number of replicas is wanted than before.
  const recounted = recountedUpTo(state);
  const walkedBefore = walked;
  if (recounted !== undefined) walk('K', 1, keys.chunk(chunkHandle(recounted + 1)));
  const unexamined = walked - walkedBefore;
  let garbage = 0;
  for (const _ of state.range(prefixRange('G'))) if (++garbage >= MAX_STATUS_WALK) break;
  return {
    ...about,
    wantedReplicas,
    inodes: countInodes(state),
    chunks: readCounter(state, 'chunk-count', 0),
    underReplicatedChunks: underReplicated,
    unavailableChunks: unavailable,
    garbageChunks: garbage,
    surplusChunks: surplus,
    damagedChunks: damaged,
    doubtfulChunks: doubtful,
    unexaminedChunks: unexamined,
    servers: servers.all().map(({ id, address, peer, load, disks, removal }): ServerStatusInit => ({
      serverId: id,
      address,
      alive: peer !== null,
      chunks: load.chunks,
      aside: load.aside,
      totalBytes: load.totalBytes,
      freeBytes: load.freeBytes,
      beingRemoved: removal !== 'no',
      lastHeardMs: Math.round(servers.silentMs(id)),
      disks,
    })),
  };
}

/** statfs(2): what fits in files, with the replicas that are wanted. */
export function fileSystemStats(deps: {
  readonly state: StateReader;
  readonly servers: ServerRegistry;
  readonly wantedReplicas: number;
}): StatFsReplyInit {
  let totalBytes = 0;
  let freeBytes = 0;
  let awayFreeBytes = 0;
  for (const { peer, load } of deps.servers.all()) {
    totalBytes += load.totalBytes;
    if (peer !== null) freeBytes += load.freeBytes;
    else awayFreeBytes += load.freeBytes;
  }
  const share = (bytes: number): number => Math.floor(bytes / deps.wantedReplicas);
  return {
    totalBytes: share(totalBytes),
    freeBytes: share(freeBytes),
    awayFreeBytes: share(awayFreeBytes),
    inodes: countInodes(deps.state),
  };
}
