/**
 * Recovery of a chunk after a primary or a secondary failed (docs/architecture.md): one member makes the others
 * byte-identical to itself, and all adopt the next version. Every acknowledged mutation is on every member, so any of
 * them will do; blocks that are damaged in its own copy come from another.
 */
import { segmentChecksums, segmentsMatch } from '../../core/checksum.js';
import { CairnError, asCairnError } from '../../core/errors.js';
import { chunkHandle, chunkVersion, type ChunkHandle } from '../../core/ids.js';
import { BLOCK_SIZE_BYTES, COPY_WINDOW, MAX_PAYLOAD_BYTES } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { Mutex, Semaphore } from '../../core/sync.js';
import type {
  AdoptVersionRequest,
  InspectReplicaReplyInit,
  InspectReplicaRequest,
  RecoverChunkReplyInit,
  RecoverChunkRequest,
  RepairBlocksRequest,
  Replica as ReplicaAddress,
} from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import { blockCount, blockLength, checksumZeros } from '../chunk/chunk-format.js';
import type { ChunkStore } from '../store/chunk-store.js';
import { BlockHealing, type Member } from './block-healing.js';
import type { PeerPool } from './peer-pool.js';
import type { Replica, Replicas } from './replicas.js';
import { CorruptBlockError } from '../chunk/stored-blocks.js';

export interface RecoveryDependencies {
  readonly store: ChunkStore;
  readonly replicas: Replicas;
  readonly pool: PeerPool;
  readonly serverId: () => number;
  readonly logger: Logger;
}

const BLOCKS_PER_MESSAGE = MAX_PAYLOAD_BYTES / BLOCK_SIZE_BYTES;

export class ReplicaRecovery {
  private readonly healing: BlockHealing;

  constructor(private readonly deps: RecoveryDependencies) {
    this.healing = new BlockHealing(deps);
  }

  // ---- A member's part ------------------------------------------------------------------------------

  /** Fences older leases and says what this replica holds. */
  inspect(request: InspectReplicaRequest): Promise<InspectReplicaReplyInit> {
    const handle = chunkHandle(request.handle);
    const replica = this.fence(handle, request.version, request.belowVersion || Infinity, request.leaseId);
    return replica.order.run(async () => {
      const state = await this.state(handle);
      // Comparing would find what the kernel has in memory alike, and not what is on the disk.
      if (state.syncFailed) throw new CairnError('EIO', `a sync of chunk ${handle} failed here: copy it anew`);
      return state;
    });
  }

  /** Overwrites blocks. */
  repair(request: RepairBlocksRequest, payload: Uint8Array): Promise<void> {
    const { offset, checksums, leaseId } = request;
    const handle = chunkHandle(request.handle);
    if (offset % BLOCK_SIZE_BYTES !== 0 || !segmentsMatch(payload, offset, checksums)) {
      throw new CairnError('CORRUPT', `repair of chunk ${handle} at ${offset} was damaged on the way`);
    }
    const replica = this.fenced(handle, leaseId);
    return replica.order.run(async () => {
      this.fenced(handle, leaseId);
      await this.deps.store.mutate(handle, async (file) => {
        await file.write(offset, payload, checksums);
        // Or it would be a member for which every recovery does the same again.
        await file.demandMended(offset, payload.length);
      });
    });
  }

  /** Takes the final length and the new version, durably. */
  adopt(request: AdoptVersionRequest): Promise<void> {
    const { fromVersion, toVersion, leaseId, length } = request;
    const handle = chunkHandle(request.handle);
    const replica = this.fenced(handle, leaseId);
    const { timesLeftOut } = replica;
    return replica.order.run(async () => {
      this.fenced(handle, leaseId);
      const { version } = this.deps.store.entry(handle);
      if (version < fromVersion || version > toVersion) {
        throw new CairnError('STALE_VERSION', `chunk ${handle} at version ${version} cannot adopt ${toVersion}`);
      }
      await this.deps.store.adopt(handle, chunkVersion(toVersion), (file) => file.truncate(length));
      takenIn(replica, leaseId, timesLeftOut);
    });
  }

  // ---- The part of the member that recovers ---------------------------------------------------------

  /**
   * Returns the servers that are at the new version, alike, and whether that state may miss unsynced mutations. Fails
   * when this server's own replica cannot be the source, with CORRUPT when a member that is to be left out has whole what is
   * damaged here.
   */
  recover(request: RecoverChunkRequest): Promise<RecoverChunkReplyInit> {
    const { fromVersion, toVersion, leaseId } = request;
    const handle = chunkHandle(request.handle);
    const { suspect } = this.deps.store.entry(handle);
    if (suspect && !request.trustSuspect) {
      // This server is just back, and its report on the way: another member may have what this one lost.
      throw new CairnError('STALE_VERSION', `chunk ${handle} was under mutation here when power failed`);
    }
    const replica = this.fence(handle, fromVersion, toVersion, leaseId);
    const { timesLeftOut } = replica;
    const self = this.deps.serverId();
    return replica.order.run(async () => {
      const others = request.members.filter((member) => member.serverId !== self);
      const [members, leftOut] = await Promise.all([
        this.inspectMembers(others, request),
        this.inspectMembers(request.leftOut, request),
      ]);
      this.fenced(handle, leaseId);
      const { length, unmended } = await this.prepareOwn(handle, request, members);
      await this.refuseLoss(handle, leftOut, members, length, unmended);
      const mending = new Mutex('chunkserver.mending');
      const succeeded = await Promise.all(
        members.map(async (member) => {
          try {
            await this.push(request, member, members, length, mending);
            const adopted = { handle, fromVersion, toVersion, leaseId, length };
            await member.peer.call(CHUNKSERVER_METHODS.adoptVersion, adopted);
            return member.serverId;
          } catch (error) {
            this.memberFailed(handle, member.serverId, error);
            return undefined;
          }
        }),
      );
      this.fenced(handle, leaseId);
      await this.deps.store.adopt(handle, chunkVersion(toVersion), (file) => file.truncate(length));
      takenIn(replica, leaseId, timesLeftOut);
      const servers = [self, ...succeeded.filter((server) => server !== undefined)];
      this.deps.logger.info({ handle, version: toVersion, servers, length }, 'chunk recovered');
      return { succeeded: servers, suspect, unmendedBlocks: unmended.length };
    });
  }

  /** Those that can be asked. */
  private async inspectMembers(members: readonly ReplicaAddress[], request: RecoverChunkRequest): Promise<Member[]> {
    const inspected = await Promise.all(members.map((member) => this.inspectMember(member, request)));
    return inspected.filter((member) => member !== undefined);
  }

  private async inspectMember(member: ReplicaAddress, request: RecoverChunkRequest): Promise<Member | undefined> {
    const { handle, fromVersion, toVersion, leaseId } = request;
    try {
      const peer = await this.deps.pool.get(member.address);
      const { reply } = await peer.call(CHUNKSERVER_METHODS.inspectReplica, {
        handle,
        version: fromVersion,
        leaseId,
        belowVersion: toVersion,
      });
      const { version, length, checksums, older } = reply;
      const corrupt = new Set(reply.corruptBlocks);
      const torn = new Set(reply.tornBlocks);
      return { serverId: member.serverId, peer, older, version, length, checksums, corrupt, torn };
    } catch (error) {
      this.memberFailed(handle, member.serverId, error);
      return undefined;
    }
  }

  /**
   * Replaces the damaged blocks of the own replica, and cuts it after that: what is cut off a damaged block cannot be mended or
   * accepted any more. Returns the length that all shall have, and the blocks that are still damaged.
   */
  private async prepareOwn(
    handle: ChunkHandle,
    { validBytes, stale }: Pick<RecoverChunkRequest, 'validBytes' | 'stale'>,
    members: readonly Member[],
  ): Promise<{ readonly length: number; readonly unmended: readonly number[] }> {
    const { store } = this.deps;
    const own = await this.state(handle);
    const length = Math.min(own.length, validBytes);
    const left: number[] = [];
    const torn: number[] = [];
    for (const block of own.corruptBlocks) {
      if (block >= blockCount(length)) continue;
      const healed = await this.healing.heal(handle, block, own.length, members);
      if (healed === 'yes') continue;
      if (await this.healing.healFromStale(handle, block, { length: own.length, stale, members })) continue;
      // Every replica was in the middle of a write when it was killed or lost power, or lost a checksum of bytes that it kept. One that
      // may have it whole is not overwritten by that.
      if (healed === 'nowhere' && (await this.healing.takeAsItStands(handle, block, own.length, members)))
        torn.push(block);
      else left.push(block);
    }
    if (length < own.length) await store.mutate(handle, (file) => file.truncate(length));
    if (torn.length > 0) {
      this.deps.logger.warn(
        { handle, first: torn[0], count: torn.length },
        'blocks that were being written are taken as they stand',
      );
    }
    if (left.length > 0) {
      this.deps.logger.error(
        { handle, first: left[0], count: left.length },
        'damaged blocks: no replica has them whole',
      );
    }
    return { length, unmended: left };
  }

  /**
   * Throws CORRUPT when one of `leftOut`, who have every acknowledged mutation, has a block whole that is damaged here: the chunk
   * would go on without it. Only blocks that differ are read for that. A checksum that they have too lets
   * their block be taken later on.
   */
  private async refuseLoss(
    handle: ChunkHandle,
    leftOut: readonly Member[],
    members: readonly Member[],
    length: number,
    unmended: readonly number[],
  ): Promise<void> {
    if (leftOut.length === 0) return;
    const sums = await this.deps.store.use(handle, (file) => Promise.resolve(file.checksums()));
    for (const member of leftOut) {
      if (member.older) continue;
      for (let block = 0; block < blockCount(Math.min(length, member.length)); block++) {
        if (member.corrupt.has(block)) continue;
        if (!unmended.includes(block)) {
          if (!differs(member, block, blockLength(block, length), sums[block] ?? 0)) continue;
          if (await this.soundAfterHealing(handle, block, length, members)) continue;
        }
        const where = `at ${member.serverId}, which is to be left out`;
        throw new CairnError('CORRUPT', `block ${block} of chunk ${handle} is damaged here, and whole ${where}`);
      }
    }
  }

  /** Sends a member the blocks in which it differs. */
  private async push(
    request: RecoverChunkRequest,
    member: Member,
    members: readonly Member[],
    length: number,
    mending: Mutex,
  ): Promise<void> {
    const { store } = this.deps;
    const handle = chunkHandle(request.handle);
    const sums = await store.use(handle, (file) => Promise.resolve(file.checksums()));
    const different: number[] = [];
    for (let block = 0; block < blockCount(length); block++) {
      if (differs(member, block, blockLength(block, length), sums[block] ?? 0)) different.push(block);
    }
    const window = new Semaphore(COPY_WINDOW);
    const sends: Promise<void>[] = [];
    let failed = false;
    for (const [first, count] of runs(different)) {
      const release = await window.acquire();
      if (failed) {
        release();
        break;
      }
      const send = this.pushRun(request, member, members, { first, count, length }, mending).finally(release);
      // It may fail while the next one waits for the window, long before all are awaited.
      send.catch(() => (failed = true));
      sends.push(send);
    }
    await Promise.all(sends);
  }

  private async pushRun(
    request: RecoverChunkRequest,
    member: Member,
    members: readonly Member[],
    run: { first: number; count: number; length: number },
    mending: Mutex,
  ): Promise<void> {
    const { handle, fromVersion, leaseId } = request;
    const { first, count, length } = run;
    const offset = first * BLOCK_SIZE_BYTES;
    let bytes: Uint8Array;
    try {
      bytes = await this.deps.store.use(chunkHandle(handle), async (file) => {
        return (await file.read(offset, count * BLOCK_SIZE_BYTES)).bytes;
      });
    } catch (error) {
      if (!(error instanceof CorruptBlockError)) throw error;
      // Block by block, to replace the damaged ones; one that is whole nowhere stays as it is everywhere.
      if (count > 1) {
        for (let block = first; block < first + count; block++) {
          await this.pushRun(request, member, members, { first: block, count: 1, length }, mending);
        }
        return;
      }
      const sound = await mending.run(() => this.soundAfterHealing(chunkHandle(handle), first, length, members));
      if (sound) await this.pushRun(request, member, members, run, mending);
      else if (
        member.older &&
        !member.corrupt.has(first) &&
        (await this.healing.sumToKeep(chunkHandle(handle), first)) !== undefined
      ) {
        // What it has there is older, and would be taken for what is lost. A new copy says that it is.
        throw new CairnError('CORRUPT', `chunk ${handle}: block ${first} is damaged here, and another one there`);
      }
      return;
    }
    // The member may have more bytes in its last block, even damaged ones: whole blocks need no look at those.
    const behind = member.length > offset + bytes.length && bytes.length % BLOCK_SIZE_BYTES !== 0;
    const payload = behind ? padToBlock(bytes) : bytes;
    const checksums = segmentChecksums(payload, offset);
    const repair = { handle, version: fromVersion, leaseId, offset, checksums };
    await member.peer.call(CHUNKSERVER_METHODS.repairBlocks, repair, { payload });
  }

  private async soundAfterHealing(
    handle: ChunkHandle,
    block: number,
    length: number,
    members: readonly Member[],
  ): Promise<boolean> {
    if (await this.deps.store.use(handle, (file) => file.isSound(block))) return true;
    const healed = await this.healing.heal(handle, block, length, members);
    return healed === 'yes' || (healed === 'nowhere' && this.healing.takeAsItStands(handle, block, length, members));
  }

  private state(handle: ChunkHandle): Promise<{
    length: number;
    checksums: number[];
    corruptBlocks: number[];
    tornBlocks: number[];
    version: number;
    older: boolean;
    syncFailed: boolean;
  }> {
    return this.deps.store.use(handle, async (file) => {
      const corruptBlocks = await file.damagedBlocks();
      const { length, version, syncFailed } = file;
      const older = this.deps.store.isOlder(handle);
      const tornBlocks = corruptBlocks.filter((block) => file.isTorn(block));
      return { length, checksums: file.checksums(), corruptBlocks, tornBlocks, version, older, syncFailed };
    });
  }

  private fence(handle: ChunkHandle, from: number, below: number, leaseId: number): Replica {
    const { version } = this.deps.store.entry(handle);
    if (version < from || version >= below) {
      throw new CairnError('STALE_VERSION', `chunk ${handle} is at version ${version}, not in [${from}, ${below})`);
    }
    const replica = this.deps.replicas.get(handle);
    replica.raiseFence(leaseId);
    return replica;
  }

  /** The replica, while the recovery under `leaseId` is the newest that it knows of, and no lease was granted since. */
  private fenced(handle: ChunkHandle, leaseId: number): Replica {
    this.deps.store.entry(handle);
    const replica = this.deps.replicas.get(handle);
    if (replica.fence !== leaseId || replica.lease !== undefined) {
      throw new CairnError('STALE_VERSION', `chunk ${handle}: recovery under lease ${leaseId} is over`);
    }
    return replica;
  }

  private memberFailed(handle: number, serverId: number, error: unknown): void {
    const { code, message } = asCairnError(error);
    this.deps.logger.warn({ handle, member: serverId, code, reason: message }, 'recovery goes on without a member');
  }
}

/** The recovery under `leaseId` has brought the replica up to date, unless the master left it out since `timesLeftOut`. */
function takenIn(replica: Replica, leaseId: number, timesLeftOut: number): void {
  if (replica.fence === leaseId && replica.timesLeftOut === timesLeftOut) replica.leftOut = false;
}

/** Whether a member's block will not be as this server's, once the member is cut or extended to the common length. */
function differs(member: Member, block: number, length: number, sum: number): boolean {
  const theirs = blockLength(block, member.length);
  if (theirs > length || member.corrupt.has(block)) return true;
  const before = theirs === 0 ? 0 : (member.checksums[block] ?? 0);
  return checksumZeros(length - theirs, before) !== sum;
}

/** Ascending blocks as runs of neighbours that fit into a message: [first, count]. */
function* runs(blocks: readonly number[]): Generator<[first: number, count: number]> {
  let at = 0;
  while (at < blocks.length) {
    const first = blocks[at] ?? 0;
    let count = 1;
    while (count < BLOCKS_PER_MESSAGE && blocks[at + count] === first + count) count++;
    yield [first, count];
    at += count;
  }
}

function padToBlock(bytes: Uint8Array): Uint8Array {
  const padded = Buffer.alloc(Math.ceil(bytes.length / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES);
  padded.set(bytes);
  return padded;
}
