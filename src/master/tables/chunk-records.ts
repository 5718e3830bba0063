/**
 * The chunk records: 'K' handle → ChunkRecord, and with it 'R' (which chunks a server holds) and 'W' (which chunks need care),
 * kept in step by `saveChunk`. A freed chunk is garbage ('G'), and keeps its 'K' and 'R' until the collector has deleted its
 * replicas.
 */
import { CairnError } from '../../core/errors.js';
import { chunkHandle } from '../../core/ids.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_CHUNKS_PER_PAGE } from '../../core/limits.js';
import { ChunkRecord } from '../../protocol/generated/messages.js';
import { keys } from '../state/keys.js';
import { deleteLease } from './lease-records.js';
import type { Mutation, StateReader } from '../state/state.js';

const EMPTY = new Uint8Array(0);

export function getChunk(reader: StateReader, handle: ChunkHandle): ChunkRecord | undefined {
  const value = reader.get(keys.chunk(handle));
  return value === undefined ? undefined : ChunkRecord.decode(value);
}

/** The chunk was freed: its replicas are deleted, and nothing becomes of it any more. */
export function isGarbage(reader: StateReader, handle: ChunkHandle): boolean {
  return reader.get(keys.garbage(handle)) !== undefined;
}

/** There is no such chunk, or it was freed. */
export function isGone(reader: StateReader, handle: ChunkHandle): boolean {
  return reader.get(keys.chunk(handle)) === undefined || isGarbage(reader, handle);
}

/**
 * True when no server has the chunk any more and nobody was ever told that anything in it survives power loss: it reads
 * as a hole, as what was never synced may after a power failure. It stays in the map until it is written anew: it
 * carries the losses that a living writer is to be told of, and is as it was if a replica turns up.
 */
export function isLostHole(record: ChunkRecord): boolean {
  return record.servers.length === 0 && record.unsynced;
}

/** In `gone`, of an earlier release: a server that was removed, which comes back under another id. */
const ANY_SERVER = 0;

/** Takes `server` out of the members, which lost its replica at the version that they have. */
export function takeOutMember(record: ChunkRecord, server: number): void {
  record.servers = record.servers.filter((id) => id !== server);
  record.suspects = record.suspects.filter((id) => id !== server);
  if (!record.gone.includes(server)) record.gone.push(server);
}

/** Whether what this server has of a lost chunk at its version is what was lost: it was a member then. `formerly`: before it was removed. */
export function mayBringBack(record: ChunkRecord, server: { readonly id: number; readonly formerly: number }): boolean {
  // Lost before that was noted.
  if (record.gone.length === 0) return true;
  return [server.id, server.formerly, ANY_SERVER].some((id) => record.gone.includes(id));
}

/** True when `record` belongs in the index of chunks that need care. */
function needsCare(record: ChunkRecord, wantedReplicas: number): boolean {
  if (isLostHole(record)) return false;
  return record.needsRecovery || record.servers.length !== wantedReplicas || record.damagedBlocks > 0;
}

/** Writes `record` and brings the indexes 'R' and 'W' in step with it. */
export function saveChunk(m: Mutation, handle: ChunkHandle, record: ChunkRecord, wantedReplicas: number): void {
  const before = getChunk(m, handle);
  for (const server of before?.servers ?? []) {
    if (!record.servers.includes(server)) m.delete(keys.serverChunk(server as ServerId, handle));
  }
  for (const server of record.servers) {
    if (before === undefined || !before.servers.includes(server)) {
      m.put(keys.serverChunk(server as ServerId, handle), EMPTY);
    }
  }
  const degraded = keys.degraded(handle);
  const marked = m.get(degraded) !== undefined;
  const marks = needsCare(record, wantedReplicas) && !isGarbage(m, handle);
  if (marks && !marked) m.put(degraded, EMPTY);
  if (!marks && marked) m.delete(degraded);
  m.put(keys.chunk(handle), ChunkRecord.encode(record).finish());
}

/** An fsync that covers these chunks is about to be acknowledged: from now on to lose one is an error (P1). */
export function markSynced(m: Mutation, handles: readonly number[]): void {
  if (handles.length > MAX_CHUNKS_PER_PAGE) {
    throw new CairnError('PROTOCOL', `a sync names at most ${MAX_CHUNKS_PER_PAGE} chunks`);
  }
  for (const handle of handles) makeLossAnError(m, chunkHandle(handle));
}

/**
 * From now on the chunk does not pass for a hole when it is lost: something in it was synced, or a replica went that no
 * power loss explains. A disk that fails takes bytes with it that had long been on the disk, whether or not anybody
 * called fsync.
 */
export function makeLossAnError(m: Mutation, handle: ChunkHandle): void {
  const record = getChunk(m, handle);
  if (record?.unsynced !== true || isGarbage(m, handle)) return;
  m.put(keys.chunk(handle), ChunkRecord.encode({ ...record, unsynced: false }).finish());
  if (record.servers.length === 0) m.put(keys.degraded(handle), EMPTY);
}

/** The chunk counts to `validBytes` at most: a truncate cut its file there. False when it did not reach so far. */
export function shortenChunk(m: Mutation, handle: ChunkHandle, validBytes: number): boolean {
  const record = getChunk(m, handle);
  if (record === undefined || record.validBytes <= validBytes) return false;
  m.put(keys.chunk(handle), ChunkRecord.encode({ ...record, validBytes }).finish());
  return true;
}

/** The primary made the cut at `validBytes`, in the chunk's version: what comes behind it from now on counts. */
export function endCut(
  m: Mutation,
  handle: ChunkHandle,
  { version, validBytes }: { readonly version: number; readonly validBytes: number },
): void {
  const record = getChunk(m, handle);
  if (record?.version !== version || record.validBytes !== validBytes) return;
  m.put(keys.chunk(handle), ChunkRecord.encode({ ...record, validBytes: CHUNK_SIZE_BYTES }).finish());
}

/** What was written since a state was put back is told by this from what was not (chunks/reports.ts, tables/put-back-ends.ts). */
export function noteLastLease(m: Mutation, handle: ChunkHandle, leaseId: number): void {
  const record = getChunk(m, handle);
  if (record === undefined) return;
  m.put(keys.chunk(handle), ChunkRecord.encode({ ...record, lastLease: leaseId, lastGrant: leaseId }).finish());
}

/** Forgets a chunk whose replicas are deleted, or will be when their servers report them as unknown. */
export function forgetChunk(m: Mutation, handle: ChunkHandle): void {
  for (const server of getChunk(m, handle)?.servers ?? []) m.delete(keys.serverChunk(server as ServerId, handle));
  m.delete(keys.chunk(handle));
  m.delete(keys.garbage(handle));
  deleteLease(m, handle);
}
