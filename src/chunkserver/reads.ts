/** Reading replicas: for clients, for other servers, and for copies and recoveries, which take what is sound of a damaged one. */
import { CairnError, hasCode } from '../core/errors.js';
import { chunkHandle, type ChunkHandle } from '../core/ids.js';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, MAX_PAYLOAD_BYTES } from '../core/limits.js';
import type { ReadChunkReplyInit, ReadChunkRequest } from '../protocol/generated/messages.js';
import type { HandlerResult } from '../protocol/rpc.js';
import type { BlocksRead } from './chunk/block-reads.js';
import { CorruptBlockError } from './chunk/stored-blocks.js';
import type { MasterLink } from './master-link.js';
import type { Replicas } from './replication/replicas.js';
import type { ChunkStore } from './store/chunk-store.js';

export class Reads {
  constructor(
    private readonly store: ChunkStore,
    private readonly replicas: Replicas,
    private readonly link: MasterLink,
  ) {}

  async read(request: ReadChunkRequest, isServed: boolean): Promise<HandlerResult<ReadChunkReplyInit>> {
    const { bytes, checksums, end } = await this.readBlocks(request, isServed);
    return { reply: { checksums, length: end }, payload: bytes, payloadIsReusable: true };
  }

  /** For a copy: what is sound, and which blocks are not. */
  async readSound({
    handle,
    version,
    offset,
    length,
    torn: isTornWanted,
  }: ReadChunkRequest): Promise<HandlerResult<ReadChunkReplyInit>> {
    const known = chunkHandle(handle);
    if (length > MAX_PAYLOAD_BYTES || offset + length > CHUNK_SIZE_BYTES || offset % BLOCK_SIZE_BYTES !== 0) {
      throw new CairnError('EINVAL', `read of ${length} bytes at ${offset} of chunk ${handle}`);
    }
    this.link.fence.refuseUnjoined();
    this.replicas.checkVersion(known, version);
    return this.store.use(known, async (file) => {
      const { bytes, checksums, damaged } = await file.readSound(offset, length);
      const torn = isTornWanted ? undefined : damaged.find((block) => file.isTorn(block));
      if (torn !== undefined) this.refuseTorn(known, version, torn);
      return { reply: { checksums, length: file.length, damagedBlocks: damaged }, payload: bytes };
    });
  }

  async readBlocks(
    request: Pick<ReadChunkRequest, 'handle' | 'version' | 'offset' | 'length'> & { readonly orOlder?: boolean },
    isServed: boolean,
  ): Promise<BlocksRead & { readonly end: number }> {
    const { version, offset, length } = request;
    const handle = chunkHandle(request.handle);
    if (length > MAX_PAYLOAD_BYTES || offset + length > CHUNK_SIZE_BYTES) {
      throw new CairnError('EINVAL', `read of ${length} bytes at ${offset} of chunk ${handle}`);
    }
    // Recovery may take blocks from a suspect replica: each is verified by its checksum.
    if (isServed) this.replicas.checkServed(handle, version);
    else {
      const found = this.store.entry(handle).version;
      const fits = request.orOlder === true ? found <= version : found === version;
      if (!fits) throw new CairnError('STALE_VERSION', `chunk ${handle} is at version ${found} here, not ${version}`);
    }
    try {
      return await this.store.use(handle, async (file) => ({
        ...(await file.read(offset, length)),
        end: file.length,
      }));
    } catch (error) {
      if (isServed && error instanceof CorruptBlockError && error.isTorn) this.refuseTorn(handle, version, error.block);
      if (hasCode(error, 'CORRUPT')) this.link.reportReplica(handle, version, error);
      throw error;
    }
  }

  /** A block that a killed process was writing: recovery takes it from another replica, or as it stands. Until then nobody reads it. */
  private refuseTorn(handle: ChunkHandle, version: number, block: number): never {
    const reason = `block ${block} of chunk ${handle} was being written when this server was killed`;
    this.link.reportReplica(handle, version, new CairnError('CORRUPT', reason));
    throw new CairnError('UNAVAILABLE', `${reason}: it is being recovered`);
  }
}
