/**
 * The chunk map of files and the chunk records, as functions over a mutation.
 *
 * 'F' inode, index → handle and the layout version under which it was allocated. A missing entry is a hole.
 * 'K' handle → ChunkRecord, and with it 'R' (which chunks a server holds) and 'W' (which chunks need care), kept in
 * step by `saveChunk`. A freed chunk keeps its 'K' and 'R' until the collector has deleted its replicas ('G').
 *
 * A truncate that drops more chunks than one log record may hold (MAX_CHUNKS_PER_RECORD) leaves a PendingCut in the
 * inode: entries at or past its index that were allocated under an older layout count as holes from then on, and
 * `continueCuts` takes them out step by step. So a truncate is atomic whatever its size.
 */
import { CairnError } from '../../core/errors.js';
import { chunkHandle, chunkIndex, inodeId } from '../../core/ids.js';
import type { ChunkHandle, ChunkIndex, InodeId, ServerId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_CHUNKS_PER_PAGE, MAX_CHUNKS_PER_RECORD } from '../../core/limits.js';
import { ChunkRecord } from '../../protocol/generated/messages.js';
import type { InodeRecord } from '../../protocol/generated/messages.js';
import { addToCounter, readInode, saveInode } from './inodes.js';
import { keys, PREFIX_LENGTH, packNumber, prefixRange, unpacked, unpackNumber } from '../state/keys.js';
import type { Mutation, StateReader } from '../state/state.js';

const EMPTY = new Uint8Array(0);

export interface MapEntry {
  readonly index: ChunkIndex;
  readonly handle: ChunkHandle;
}

export function getChunk(reader: StateReader, handle: ChunkHandle): ChunkRecord | undefined {
  const value = reader.get(keys.chunk(handle));
  return value === undefined ? undefined : ChunkRecord.decode(value);
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
  return !isLostHole(record) && (record.needsRecovery || record.servers.length !== wantedReplicas);
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
  const marks = needsCare(record, wantedReplicas) && m.get(keys.garbage(handle)) === undefined;
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
  if (record?.unsynced !== true || m.get(keys.garbage(handle)) !== undefined) return;
  m.put(keys.chunk(handle), ChunkRecord.encode({ ...record, unsynced: false }).finish());
  if (record.servers.length === 0) m.put(keys.degraded(handle), EMPTY);
}

/** True when an entry allocated under `layoutVersion` was dropped by a truncate that is not worked off yet. */
function isCut(record: InodeRecord, index: number, layoutVersion: number): boolean {
  return record.pendingCuts.some((cut) => index >= cut.firstIndex && layoutVersion < cut.layoutVersion);
}

function indexOfKey(key: string): ChunkIndex {
  return chunkIndex(unpackNumber(key, PREFIX_LENGTH));
}

function layoutOf(value: Uint8Array): number {
  return value.length < 14 ? 0 : unpacked(value.subarray(7));
}

/** The chunk at `index`, or undefined for a hole. */
export function lookupChunk(
  reader: StateReader,
  inode: InodeId,
  record: InodeRecord,
  index: ChunkIndex,
): ChunkHandle | undefined {
  const value = reader.get(keys.fileChunk(inode, index));
  if (value === undefined || isCut(record, index, layoutOf(value))) return undefined;
  return chunkHandle(unpacked(value));
}

/** The chunks with indexes in [first, first + count), in order; holes are left out. */
export function lookupChunks(
  reader: StateReader,
  inode: InodeId,
  record: InodeRecord,
  range: { readonly first: number; readonly count: number },
): MapEntry[] {
  const found: MapEntry[] = [];
  const start = keys.fileChunk(inode, chunkIndex(range.first));
  const end = keys.fileChunk(inode, chunkIndex(range.first + range.count));
  for (const [key, value] of reader.range({ start, end })) {
    const index = indexOfKey(key);
    if (!isCut(record, index, layoutOf(value))) found.push({ index, handle: chunkHandle(unpacked(value)) });
  }
  return found;
}

/** The first `count` chunks that are there, and so also by `isThere`, at or past `first`, in order. */
export function nextChunks(
  reader: StateReader,
  inode: InodeId,
  record: InodeRecord,
  range: { readonly first: number; readonly count: number; readonly isThere?: (entry: MapEntry) => boolean },
): MapEntry[] {
  const found: MapEntry[] = [];
  const start = keys.fileChunk(inode, chunkIndex(range.first));
  for (const [key, value] of reader.range({ start, end: prefixRange('F' + packNumber(inode)).end })) {
    if (found.length === range.count) break;
    const index = indexOfKey(key);
    const entry = { index, handle: chunkHandle(unpacked(value)) };
    if (!isCut(record, index, layoutOf(value)) && range.isThere?.(entry) !== false) found.push(entry);
  }
  return found;
}

/**
 * Puts a new chunk into the hole at `index`, or in place of the chunk `replaces`. Fails with EBUSY when another one is
 * there. Changes `inodeRecord` and writes it.
 */
export function addChunk(
  m: Mutation,
  options: {
    readonly inode: InodeId;
    readonly inodeRecord: InodeRecord;
    readonly index: ChunkIndex;
    readonly handle: ChunkHandle;
    readonly version: number;
    readonly lease: number;
    readonly servers: readonly ServerId[];
    readonly wantedReplicas: number;
    readonly replaces?: ChunkHandle;
  },
): void {
  const { inode, inodeRecord, index, handle, replaces } = options;
  const key = keys.fileChunk(inode, index);
  const old = m.get(key);
  let losses = 0;
  let unsynced = true;
  if (old !== undefined) {
    if (!isCut(inodeRecord, index, layoutOf(old))) {
      if (chunkHandle(unpacked(old)) !== replaces) {
        throw new CairnError('EBUSY', `chunk ${index} of inode ${inode} is there already`);
      }
      const lost = getChunk(m, replaces);
      losses = lost?.losses ?? 0;
      // What stands for synced bytes must not pass for a hole when it is lost in turn.
      unsynced = lost?.unsynced ?? true;
      inodeRecord.layoutVersion += 1;
    }
    freeEntry(m, inodeRecord, key, old);
  }
  m.put(key, Buffer.from(packNumber(handle) + packNumber(inodeRecord.layoutVersion), 'latin1'));
  const record: ChunkRecord = {
    version: options.version,
    lastVersion: options.version,
    lastLease: options.lease,
    servers: [...options.servers],
    validBytes: CHUNK_SIZE_BYTES,
    inode,
    index,
    needsRecovery: false,
    suspects: [],
    losses,
    unsynced,
    gone: [],
    leftAtVersion: [],
  };
  saveChunk(m, handle, record, options.wantedReplicas);
  addToCounter(m, 'chunk-count', 1);
  inodeRecord.chunkCount += 1;
  saveInode(m, inode, inodeRecord);
}

/** Takes one entry out of the map and makes its chunk garbage. Changes `record`; the caller writes it. */
function freeEntry(m: Mutation, record: InodeRecord, key: string, value: Uint8Array): void {
  const handle = chunkHandle(unpacked(value));
  m.delete(key);
  m.put(keys.garbage(handle), EMPTY);
  if (m.get(keys.degraded(handle)) !== undefined) m.delete(keys.degraded(handle));
  addToCounter(m, 'chunk-count', -1);
  record.chunkCount = Math.max(0, record.chunkCount - 1);
}

/** The first `limit` entries of the map at or past `first`, dropped ones included. */
function entriesFrom(m: Mutation, inode: InodeId, first: number, limit: number): (readonly [string, Uint8Array])[] {
  const entries: (readonly [string, Uint8Array])[] = [];
  const end = prefixRange('F' + packNumber(inode)).end;
  for (const entry of m.range({ start: keys.fileChunk(inode, chunkIndex(first)), end })) {
    if (entries.length >= limit) break;
    entries.push(entry);
  }
  return entries;
}

/**
 * Cuts the file's chunks to `newSize` bytes: chunks wholly behind it are dropped, the one across it reads as zeros
 * past it (P5), whatever was published. Changes `record` (chunk count, layout version, pending cuts), which the
 * caller writes; its size is left to the caller. Call it whenever a file shrinks, and when a writer died.
 */
export function truncateChunkMap(m: Mutation, inode: InodeId, record: InodeRecord, newSize: number): void {
  const firstDropped = Math.ceil(newSize / CHUNK_SIZE_BYTES);
  const entries = entriesFrom(m, inode, firstDropped, MAX_CHUNKS_PER_RECORD + 1);
  let changed = entries.length > 0;
  if (entries.length > MAX_CHUNKS_PER_RECORD) {
    entries.pop();
    record.pendingCuts.push({ firstIndex: firstDropped, layoutVersion: record.layoutVersion + 1 });
    m.put(keys.pendingCut(inode), EMPTY);
  }
  for (const [key, value] of entries) freeEntry(m, record, key, value);

  const validBytes = newSize % CHUNK_SIZE_BYTES;
  if (validBytes > 0) {
    const handle = lookupChunk(m, inode, record, chunkIndex(firstDropped - 1));
    const chunk = handle === undefined ? undefined : getChunk(m, handle);
    if (handle !== undefined && chunk !== undefined && chunk.validBytes > validBytes) {
      m.put(keys.chunk(handle), ChunkRecord.encode({ ...chunk, validBytes }).finish());
      changed = true;
    }
  }
  if (changed) record.layoutVersion += 1;
}

/**
 * Makes holes of the chunks with indexes in [first, first + count), at most MAX_CHUNKS_PER_RECORD. Changes `record`, which
 * the caller writes.
 */
export function punchChunkMap(
  m: Mutation,
  inode: InodeId,
  record: InodeRecord,
  range: { readonly first: number; readonly count: number },
): void {
  const start = keys.fileChunk(inode, chunkIndex(range.first));
  const end = keys.fileChunk(inode, chunkIndex(range.first + range.count));
  const entries = [...m.range({ start, end })];
  for (const [key, value] of entries) freeEntry(m, record, key, value);
  if (entries.length > 0) record.layoutVersion += 1;
}

/** How far the pending cuts of an inode are worked off. */
export interface CutProgress {
  readonly nextIndex: number;
  /** Of the newest cut that was seen: another one means to start over. */
  readonly layoutVersion: number;
}

/**
 * One step of working off the pending cuts of `inode`: looks at no more than MAX_CHUNKS_PER_RECORD chunks. Returns
 * where to go on, or undefined when all is done.
 */
export function continueCuts(m: Mutation, inode: InodeId, progress: CutProgress | undefined): CutProgress | undefined {
  const record = readInode(m, inode);
  const newest = record?.pendingCuts.at(-1);
  if (record === undefined || newest === undefined) {
    m.delete(keys.pendingCut(inode));
    return undefined;
  }
  const { layoutVersion } = newest;
  let next = Math.min(...record.pendingCuts.map((cut) => cut.firstIndex));
  if (progress?.layoutVersion === layoutVersion) next = Math.max(next, progress.nextIndex);
  const entries = entriesFrom(m, inode, next, MAX_CHUNKS_PER_RECORD);
  for (const [key, value] of entries) {
    const index = indexOfKey(key);
    if (isCut(record, index, layoutOf(value))) freeEntry(m, record, key, value);
    next = index + 1;
  }
  const done = entries.length < MAX_CHUNKS_PER_RECORD;
  if (done) {
    record.pendingCuts = [];
    m.delete(keys.pendingCut(inode));
  }
  saveInode(m, inode, record);
  return done ? undefined : { nextIndex: next, layoutVersion };
}

/** Inodes with pending cuts, at most `limit`. */
export function inodesWithCuts(reader: StateReader, limit: number): InodeId[] {
  const found: InodeId[] = [];
  for (const [key] of reader.range(prefixRange('T'))) {
    if (found.length >= limit) break;
    found.push(inodeId(unpackNumber(key, 1)));
  }
  return found;
}

/**
 * One step of dropping every chunk of an inode that is going away: frees at most `limit` chunks. Returns how many;
 * fewer than `limit` means that none is left. Changes `record`; the caller writes or deletes it.
 */
export function dropChunks(m: Mutation, inode: InodeId, record: InodeRecord, limit: number): number {
  const entries = entriesFrom(m, inode, 0, limit);
  for (const [key, value] of entries) freeEntry(m, record, key, value);
  return entries.length;
}

/** Forgets a chunk whose replicas are deleted, or will be when their servers report them as unknown. */
export function forgetChunk(m: Mutation, handle: ChunkHandle): void {
  for (const server of getChunk(m, handle)?.servers ?? []) m.delete(keys.serverChunk(server as ServerId, handle));
  m.delete(keys.chunk(handle));
  m.delete(keys.garbage(handle));
  if (m.get(keys.lease(handle)) !== undefined) m.delete(keys.lease(handle));
}
