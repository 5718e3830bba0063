/**
 * Where the chunks of files are, as the master last told. A location that is wrong is refused by the chunkserver, by
 * its version; what no server would notice (a hole that was filled, a cut that was lifted) is bounded by the layout
 * version, by the change number at open, and by time.
 */
import type { Clock } from '../../core/clock.js';
import type { InodeId } from '../../core/ids.js';
import {
  CHUNK_MAP_FETCH,
  CHUNK_MAP_TTL_MS,
  CHUNK_SIZE_BYTES,
  CLIENT_CACHE_TTL_MS,
  MAX_CACHED_CHUNKS,
  MAX_CACHED_CHUNKS_PER_FILE,
} from '../../core/limits.js';
import type { ChunkLocation, GetChunksReply } from '../../protocol/generated/messages.js';
import { LruMap } from '../../core/lru.js';

/** Fields of a ChunkLocation that readers need. A handle of 0 is a hole. */
export type Location = Pick<ChunkLocation, 'handle' | 'version' | 'replicas' | 'validBytes'> & {
  readonly lost?: boolean;
};

interface CachedChunk {
  readonly location: Location;
  readonly expiresMs: number;
}

interface CachedFile {
  /** Of the attributes under which the chunks were learnt; another one voids them. */
  layoutVersion: number;
  change: number;
  readonly chunks: Map<number, CachedChunk>;
  /** Requests under way, by the page they ask for. */
  readonly pending: Map<number, Promise<GetChunksReply>>;
}

const MAX_FILES = MAX_CACHED_CHUNKS / CHUNK_MAP_FETCH;

export class ChunkMapCache {
  private readonly files = new LruMap<InodeId, CachedFile>(MAX_FILES, (file) => {
    this.chunkCount -= file.chunks.size;
  });
  private chunkCount = 0;

  constructor(
    private readonly clock: Clock,
    private readonly fetch: (inode: InodeId, firstIndex: number, count: number) => Promise<GetChunksReply>,
  ) {}

  async locate(inode: InodeId, index: number): Promise<Location> {
    const file = this.fileOf(inode);
    const known = file.chunks.get(index);
    if (known !== undefined && known.expiresMs > this.clock.monotonicMs()) return known.location;
    const firstIndex = index - (index % CHUNK_MAP_FETCH);
    let pending = file.pending.get(firstIndex);
    if (pending === undefined) {
      pending = this.fetch(inode, firstIndex, CHUNK_MAP_FETCH);
      file.pending.set(firstIndex, pending);
      const settle = (): void => {
        if (file.pending.get(firstIndex) === pending) file.pending.delete(firstIndex);
      };
      pending.then((reply) => {
        const current = file.pending.get(firstIndex) === pending; // not invalidated meanwhile
        settle();
        if (current && this.files.peek(inode) === file) this.store(file, reply);
      }, settle);
    }
    const { chunks } = await pending;
    const chunk = chunks.find((candidate) => candidate.index === index);
    return chunk ?? { handle: 0, version: 0, replicas: [], validBytes: 0 };
  }

  /** Notes what a lease told of a chunk. */
  put(inode: InodeId, index: number, location: Location): void {
    const file = this.fileOf(inode);
    file.pending.delete(index - (index % CHUNK_MAP_FETCH)); // an answer under way may be older
    this.setChunk(file, index, location);
  }

  /** Whether where a chunk is need not be asked. */
  knows(inode: InodeId, index: number): boolean {
    const known = this.files.peek(inode)?.chunks.get(index);
    return known !== undefined && known.expiresMs > this.clock.monotonicMs();
  }

  /** Notes the attributes of an open file, and voids what may be old when they say that it changed. */
  validate(inode: InodeId, layoutVersion: number, change: number): void {
    const file = this.fileOf(inode);
    if (file.layoutVersion !== layoutVersion) this.clear(file);
    else if (file.change !== change) {
      file.pending.clear();
      for (const [index, { location }] of file.chunks) if (isPassing(location)) this.dropChunk(inode, index);
    }
    file.layoutVersion = layoutVersion;
    file.change = change;
  }

  dropChunk(inode: InodeId, index: number): void {
    const file = this.files.peek(inode);
    if (file === undefined) return;
    file.pending.delete(index - (index % CHUNK_MAP_FETCH));
    if (file.chunks.delete(index)) this.chunkCount--;
  }

  drop(inode: InodeId): void {
    const file = this.files.peek(inode);
    if (file !== undefined) this.clear(file);
  }

  dropAll(): void {
    this.files.clear();
    this.chunkCount = 0;
  }

  private fileOf(inode: InodeId): CachedFile {
    let file = this.files.get(inode);
    if (file === undefined) {
      file = { layoutVersion: -1, change: -1, chunks: new Map(), pending: new Map() };
      this.files.set(inode, file);
    }
    return file;
  }

  private clear(file: CachedFile): void {
    this.chunkCount -= file.chunks.size;
    file.chunks.clear();
    file.pending.clear();
  }

  private store(file: CachedFile, reply: GetChunksReply): void {
    for (const chunk of reply.chunks) this.setChunk(file, chunk.index, chunk);
  }

  private setChunk(file: CachedFile, index: number, location: Location): void {
    const ttlMs = isPassing(location) ? CLIENT_CACHE_TTL_MS : CHUNK_MAP_TTL_MS;
    if (file.chunks.delete(index)) this.chunkCount--;
    if (file.chunks.size >= MAX_CACHED_CHUNKS_PER_FILE || this.chunkCount >= MAX_CACHED_CHUNKS) {
      for (const oldest of file.chunks.keys()) {
        file.chunks.delete(oldest);
        this.chunkCount--;
        break;
      }
    }
    file.chunks.set(index, { location, expiresMs: this.clock.monotonicMs() + ttlMs });
    this.chunkCount++;
  }
}

/** A hole may be filled, and a cut lifted, by anybody's lease, and no server would say so. */
const isPassing = ({ handle, validBytes, lost }: Location): boolean =>
  handle === 0 || validBytes < CHUNK_SIZE_BYTES || lost === true;
