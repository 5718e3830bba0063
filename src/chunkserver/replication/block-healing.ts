/**
 * Blocks of a replica that are damaged, or torn by a write that was cut short, are mended while its chunk is recovered: from a member
 * that has them whole, from a replica of before, or, when none has, as they stand.
 */
import { segmentChecksums, segmentsMatch } from '../../core/checksum.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle } from '../../core/ids.js';
import { BLOCK_SIZE_BYTES } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { StaleReplica } from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import type { Peer } from '../../protocol/rpc.js';
import { blockLength } from '../chunk/chunk-format.js';
import { mendedBlock } from '../chunk/lost-block.js';
import type { ChunkStore } from '../store/chunk-store.js';
import type { PeerPool } from './peer-pool.js';

/** Another replica of the chunk, as it was when the recovery looked at it. */
export interface Member {
  /** Its disk was put back: what it has may be older than what was synced. */
  readonly older: boolean;
  readonly serverId: number;
  readonly peer: Peer;
  readonly version: number;
  readonly length: number;
  readonly checksums: readonly number[];
  readonly corrupt: ReadonlySet<number>;
  /** Of those: a write was cut short there. */
  readonly torn: ReadonlySet<number>;
}

export interface BlockHealingDeps {
  readonly store: ChunkStore;
  readonly pool: PeerPool;
  readonly logger: Logger;
}

export class BlockHealing {
  constructor(private readonly deps: BlockHealingDeps) {}

  /**
   * Takes a block from a member where it is sound. 'nowhere': there is none. 'not now': one has it, or may have it, and could not
   * give it, or the own disk did not take it. In both cases the block stays unreadable.
   */
  async heal(
    handle: ChunkHandle,
    block: number,
    length: number,
    members: readonly Member[],
  ): Promise<'yes' | 'nowhere' | 'not now'> {
    const { store, logger } = this.deps;
    const offset = block * BLOCK_SIZE_BYTES;
    const wanted = blockLength(block, length);
    let isSomewhere = false;
    for (const member of members) {
      if (member.corrupt.has(block)) continue;
      try {
        const sum = member.older ? await this.sumToKeep(handle, block) : undefined;
        const { reply, payload } = await member.peer.call(CHUNKSERVER_METHODS.readChunk, {
          handle,
          version: member.version,
          offset,
          length: wanted,
        });
        if (!segmentsMatch(payload, offset, reply.checksums)) {
          isSomewhere = true;
          continue;
        }
        if (sum !== undefined && !(payload.length === wanted && segmentsMatch(payload, offset, [sum]))) continue;
        const bytes = Buffer.alloc(wanted);
        bytes.set(payload);
        await store.mutate(handle, (file) => file.write(offset, bytes, segmentChecksums(bytes, offset)));
        // Another member's bytes would not be given back either.
        if (!(await store.use(handle, (file) => file.isSound(block)))) return 'not now';
        logger.warn({ handle, block, from: member.serverId }, 'damaged block replaced');
        return 'yes';
      } catch (error) {
        if (!hasCode(error, 'CORRUPT', 'NO_REPLICA')) isSomewhere = true;
        logger.warn(
          { handle, block, from: member.serverId, reason: asCairnError(error).message },
          'no help with block',
        );
      }
    }
    return isSomewhere ? 'not now' : 'nowhere';
  }

  /** Takes a block that is whole nowhere as a write that was cut short left it, here or at a member. */
  async takeAsItStands(
    handle: ChunkHandle,
    block: number,
    length: number,
    members: readonly Member[],
  ): Promise<boolean> {
    const { store, logger } = this.deps;
    if (await store.mutate(handle, (file) => file.acceptTorn(block))) return true;
    const offset = block * BLOCK_SIZE_BYTES;
    const bytes = Buffer.alloc(blockLength(block, length));
    for (const { torn, older, peer, version, serverId } of members) {
      if (!torn.has(block) || older) continue;
      try {
        const request = { handle, version, offset, length: bytes.length, withDamage: true, torn: true };
        bytes.set((await peer.call(CHUNKSERVER_METHODS.readChunk, request)).payload);
        await store.mutate(handle, (file) => file.write(offset, bytes, segmentChecksums(bytes, offset)));
        return await store.use(handle, (file) => file.isSound(block));
      } catch (error) {
        const reason = asCairnError(error).message;
        logger.warn({ handle, block, from: serverId, reason }, 'no help with a torn block');
      }
    }
    return false;
  }

  /** The checksum that `block` has to have; undefined when power loss may have hurt that, too. */
  sumToKeep(handle: ChunkHandle, block: number): Promise<number | undefined> {
    return this.deps.store.use(handle, (file) => Promise.resolve(file.suspect ? undefined : file.checksums()[block]));
  }

  /**
   * Takes a block from a replica that is none any more: it may be of an older version, so the checksum decides. What was appended
   * to the block since comes from those that have it damaged.
   */
  async healFromStale(
    handle: ChunkHandle,
    block: number,
    about: { readonly length: number; readonly stale: readonly StaleReplica[]; readonly members: readonly Member[] },
  ): Promise<boolean> {
    if (about.stale.length === 0) return false;
    const { store, pool, logger } = this.deps;
    const offset = block * BLOCK_SIZE_BYTES;
    const wanted = blockLength(block, about.length);
    const damaged = await this.damagedBytes(handle, block, about.members);
    for (const { server, version } of about.stale) {
      try {
        const sum = await store.use(handle, (file) => Promise.resolve(file.checksums()[block]));
        const peer = await pool.get(server?.address ?? '');
        const request = { handle, version, offset, length: wanted, orOlder: true };
        const { payload } = await peer.call(CHUNKSERVER_METHODS.readChunk, request);
        const tried = [Buffer.alloc(wanted), ...damaged.filter((bytes) => bytes.length === wanted)];
        const mended = tried.map((bytes) => mendedBlock(payload, bytes, sum ?? 0)).find((bytes) => bytes !== undefined);
        if (mended === undefined || sum === undefined) continue;
        await store.mutate(handle, (file) => file.write(offset, mended, [sum]));
        if (!(await store.use(handle, (file) => file.isSound(block)))) return false;
        logger.warn(
          { handle, block, from: server?.serverId, version },
          'damaged block replaced from a replica of before',
        );
        return true;
      } catch (error) {
        const reason = asCairnError(error).message;
        logger.info({ handle, block, from: server?.serverId, reason }, 'no help with block from a replica of before');
      }
    }
    return false;
  }

  /** What stands in a damaged block here, and at each member where it is damaged too. */
  private async damagedBytes(handle: ChunkHandle, block: number, members: readonly Member[]): Promise<Uint8Array[]> {
    const own = await this.deps.store.use(handle, (file) => file.rawBlock(block));
    const found: Uint8Array[] = own === undefined ? [] : [own];
    for (const { peer, version, corrupt } of members) {
      if (!corrupt.has(block)) continue;
      try {
        const request = { handle, version, offset: block * BLOCK_SIZE_BYTES, length: BLOCK_SIZE_BYTES };
        const { payload } = await peer.call(CHUNKSERVER_METHODS.readChunk, { ...request, withDamage: true });
        found.push(payload);
      } catch {
        // It has no more to give than that it is damaged.
      }
    }
    return found;
  }
}
