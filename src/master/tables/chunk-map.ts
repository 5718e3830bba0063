/**
 * The chunk map of files, as functions over a mutation: 'F' inode, index → handle and the layout version under which it was
 * allocated. A missing entry is a hole.
 *
 * A truncate that drops more chunks than one log record may hold (MAX_CHUNKS_PER_RECORD) leaves a PendingCut in the
 * inode: entries at or past its index that were allocated under an older layout count as holes from then on, and
 * `continueCuts` takes them out step by step. So a truncate is atomic whatever its size.
 */
import { CairnError } from '../../core/errors.js';
import { chunkHandle, chunkIndex, inodeId } from '../../core/ids.js';
import type { ChunkHandle, ChunkIndex, InodeId, ServerId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_CHUNKS_PER_RECORD, MAX_FILE_BYTES } from '../../core/limits.js';
import type { ChunkRecord, InodeRecord } from '../../protocol/generated/messages.js';
import { getChunk, saveChunk, shortenChunk } from './chunk-records.js';
import { addToCounter, allocatedBytes, readInode, saveInode } from './inodes.js';
import { keys, PREFIX_LENGTH, packNumber, prefixRange, unpacked, unpackNumber } from '../state/keys.js';
import type { Mutation, StateReader } from '../state/state.js';

const EMPTY = new Uint8Array(0);

export interface MapEntry {
  readonly index: ChunkIndex;
  readonly handle: ChunkHandle;
}

const MAX_CHUNK_INDEX = MAX_FILE_BYTES / CHUNK_SIZE_BYTES - 1;

export function checkChunkIndex(index: number): void {
  if (!Number.isSafeInteger(index) || index < 0) throw new CairnError('EINVAL', `${index} is no index of a chunk`);
  if (index > MAX_CHUNK_INDEX) throw new CairnError('EFBIG', `chunk ${index} is past the largest file`);
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
    lastGrant: options.lease,
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
    damagedBlocks: 0,
  };
  saveChunk(m, handle, record, options.wantedReplicas);
  addToCounter(m, 'chunk-count', 1);
  inodeRecord.chunkCount += 1;
  saveInode(m, inode, inodeRecord);
}

/** Takes one entry out of the map and makes its chunk garbage. Changes `record`, if the inode is there; the caller writes it. */
function freeEntry(m: Mutation, record: InodeRecord | undefined, key: string, value: Uint8Array): void {
  const handle = chunkHandle(unpacked(value));
  m.delete(key);
  m.put(keys.garbage(handle), EMPTY);
  if (m.get(keys.degraded(handle)) !== undefined) m.delete(keys.degraded(handle));
  addToCounter(m, 'chunk-count', -1);
  if (record !== undefined) record.chunkCount = Math.max(0, record.chunkCount - 1);
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
    if (handle !== undefined && shortenChunk(m, handle, validBytes)) changed = true;
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
  if (record === undefined)
    return dropSome(m, inode, MAX_CHUNKS_PER_RECORD) < MAX_CHUNKS_PER_RECORD ? undefined : OF_REMOVED;
  const newest = record.pendingCuts.at(-1);
  if (newest === undefined) {
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

/** Of an inode that is not there any more: always from the beginning. */
const OF_REMOVED: CutProgress = { nextIndex: 0, layoutVersion: 0 };

/**
 * Drops every chunk of an inode that the caller removes: at most `limit` now, and what is left as a pending cut (`continueCuts`).
 * Returns how many now.
 */
export function removeChunks(m: Mutation, inode: InodeId, record: InodeRecord, limit: number): number {
  if (record.chunkCount > 0) return dropSome(m, inode, limit);
  m.delete(keys.pendingCut(inode));
  return 0;
}

/** Frees at most `limit` chunks of an inode that is gone, and marks it when some may be left. Returns how many. */
function dropSome(m: Mutation, inode: InodeId, limit: number): number {
  const entries = entriesFrom(m, inode, 0, limit);
  for (const [key, value] of entries) freeEntry(m, undefined, key, value);
  if (entries.length < limit) m.delete(keys.pendingCut(inode));
  else m.put(keys.pendingCut(inode), EMPTY);
  return entries.length;
}

/** Whether stat(2) shows more blocks once the file has a chunk in this place, which has none. */
export function isHoleThatShows(
  reader: StateReader,
  { inode, index }: { readonly inode: InodeId; readonly index: ChunkIndex },
): boolean {
  const record = readInode(reader, inode);
  if (record === undefined || lookupChunk(reader, inode, record, index) !== undefined) return false;
  return allocatedBytes({ ...record, chunkCount: record.chunkCount + 1 }) !== allocatedBytes(record);
}
