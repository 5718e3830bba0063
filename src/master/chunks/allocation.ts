/** Chunks for holes of files, and in place of lost ones: each comes with its first lease. */
import { CairnError } from '../../core/errors.js';
import type { ChunkHandle, ChunkIndex, InodeId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES } from '../../core/limits.js';
import { isRegular } from '../../core/mode.js';
import { KeyedMutex } from '../../core/sync.js';
import type { InodeRecord } from '../../protocol/generated/messages.js';
import type { State, StateReader } from '../state/state.js';
import { addChunk, lookupChunk } from '../tables/chunk-map.js';
import { getChunk, isLostHole } from '../tables/chunk-records.js';
import { readInode } from '../tables/inodes.js';
import { saveLease } from '../tables/lease-records.js';
import type { ChunkLocks } from './chunk-locks.js';
import { primaryOf, recordOf } from './lease-table.js';
import type { Lease, LeaseTable } from './lease-table.js';
import { NEW_CHUNK_VERSION } from './new-chunks.js';
import type { NewChunk, NewChunks } from './new-chunks.js';
import type { ChunkConfig } from './chunk-recovery.js';

/** The lease that a writer found failing. */
export interface FailedLease {
  readonly version: number;
  readonly leaseId: number;
}

export interface LeaseRequest {
  readonly inode: InodeId;
  readonly index: ChunkIndex;
  readonly failed: FailedLease | undefined;
  /** Only what is there is wanted: no chunk is made. */
  readonly keepsHoles: boolean;
}

/** The file's inode, and the chunk that is there. ESTALE, EINVAL. */
export function findChunk(
  state: StateReader,
  { inode, index }: LeaseRequest,
): { record: InodeRecord; handle: ChunkHandle | undefined } {
  const record = readInode(state, inode);
  if (record === undefined) throw new CairnError('ESTALE', `inode ${inode} does not exist any more`);
  if (!isRegular(record.mode)) throw new CairnError('EINVAL', `inode ${inode} is no regular file`);
  return { record, handle: lookupChunk(state, inode, record, index) };
}

export class Allocation {
  private readonly holes = new KeyedMutex<string>('master.hole');

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly config: ChunkConfig;
      readonly newChunks: NewChunks;
      readonly locks: ChunkLocks;
      readonly table: LeaseTable;
    },
  ) {}

  /** Gives the hole a chunk, with its first lease; undefined when the map has changed meanwhile. */
  fill(request: LeaseRequest): Promise<Lease | undefined> {
    return this.holes.run(`${request.inode}:${request.index}`, () => this.create(request));
  }

  /** A chunk in place of one that is lost, whose lock is held. */
  replace(request: LeaseRequest, lost: ChunkHandle): Promise<Lease | undefined> {
    return this.create(request, lost);
  }

  /** The replicas are made first; only then the chunk enters the map. */
  private async create(request: LeaseRequest, replaces?: ChunkHandle): Promise<Lease | undefined> {
    const { newChunks } = this.deps;
    if (findChunk(this.deps.state, request).handle !== replaces) return undefined;
    const lostBytes = replaces === undefined ? 0 : this.lostBytes(request, replaces);
    const chunk = (lostBytes === 0 ? newChunks.takeSpare() : undefined) ?? (await newChunks.make(lostBytes));
    return this.deps.locks.run(chunk.handle, () => this.attach(request, chunk, replaces, lostBytes));
  }

  /** Makes the chunk part of the file; undefined when the map has changed meanwhile. */
  private attach(
    request: LeaseRequest,
    chunk: NewChunk,
    replaces: ChunkHandle | undefined,
    lostBytes: number,
  ): Lease | undefined {
    const { inode, index } = request;
    const { state, config, newChunks } = this.deps;
    const { handle, members } = chunk;
    const lease: Lease = {
      handle,
      inode,
      index,
      id: chunk.leaseId,
      version: NEW_CHUNK_VERSION,
      members,
      primary: primaryOf(members),
      state: 'pending',
      expiresMs: 0,
      complaints: 0,
    };
    let added = false;
    try {
      added = state.mutate((m) => {
        const record = readInode(m, inode);
        if (record === undefined || lookupChunk(m, inode, record, index) !== replaces) return false;
        // A cut that came meanwhile is one of the lost chunk: what it took away is not lost.
        if (replaces !== undefined && this.lostBytes(request, replaces) !== lostBytes) return false;
        const { version, id } = lease;
        const { wantedReplicas } = config;
        const about = {
          inode,
          inodeRecord: record,
          index,
          handle,
          version,
          lease: id,
          servers: members,
          wantedReplicas,
        };
        addChunk(m, replaces === undefined ? about : { ...about, replaces });
        saveLease(m, handle, recordOf(lease));
        return true;
      });
    } finally {
      if (!added) newChunks.discard(chunk);
    }
    if (!added) return undefined;
    newChunks.attach(chunk);
    this.deps.table.put(lease);
    // Not flushed, as little as the making of the file need be: if power fails now the chunk was never part of it, and a
    // writer that lives through that finds another chunk in its place (client/chunks/chunk-io.ts, isKept).
    this.deps.table.activate(lease, chunk.expiresMs);
    return lease;
  }

  /** Bytes of the file that were in a lost chunk. What replaces it must not show zeros in place of synced ones (P3). */
  private lostBytes(request: LeaseRequest, lost: ChunkHandle): number {
    const record = getChunk(this.deps.state, lost);
    if (record !== undefined && isLostHole(record)) return 0;
    const validBytes = record?.validBytes ?? CHUNK_SIZE_BYTES;
    const inFile = Number(findChunk(this.deps.state, request).record.size) - request.index * CHUNK_SIZE_BYTES;
    return Math.max(0, Math.min(inFile, validBytes, CHUNK_SIZE_BYTES));
  }
}
