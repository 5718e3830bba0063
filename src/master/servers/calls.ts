/**
 * What the master asks of chunkservers: each call once, with its time limit. All fail with UNAVAILABLE when the server is not connected,
 * and as any call does: the server's error, TIMEOUT, DISCONNECTED. After the last two it is not known whether the server did it.
 *
 * What destroys bytes is sent when the decision is durable: a removal or a truncate that is lost with the master's power leaves the
 * file as it was, and not only its name (P1, P10).
 */
import { CairnError } from '../../core/errors.js';
import {
  CHECK_REPLICA_TIMEOUT_MS,
  LEAVE_OUT_TIMEOUT_MS,
  REQUEST_TIMEOUT_MS,
  STALE_DELETION_TIMEOUT_MS,
  VERIFY_REPLICA_TIMEOUT_MS,
} from '../../core/limits.js';
import type {
  CopyChunkRequestInit,
  GrantLeaseRequestInit,
  RecoverChunkReply,
  RecoverChunkRequestInit,
  ReplicaVersionInit,
  TruncateChunkRequestInit,
} from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import type { Peer } from '../../protocol/rpc.js';

export class ChunkserverCalls {
  /** `durable` resolves when all that was decided before survives power loss. */
  constructor(
    private readonly peerOf: (server: number) => Peer | undefined,
    private readonly durable: () => Promise<void>,
  ) {}

  /** A new lease, or the same one again, which renews it; with `create` the replica is made. */
  async grantLease(server: number, request: GrantLeaseRequestInit): Promise<void> {
    await this.to(server).call(CHUNKSERVER_METHODS.grantLease, request, { timeoutMs: REQUEST_TIMEOUT_MS });
  }

  /** To the primary: it ends the lease, and succeeds when nothing is left in flight. */
  async revokeLease(server: number, handle: number, leaseId: number): Promise<void> {
    await this.to(server).call(CHUNKSERVER_METHODS.revokeLease, { handle, leaseId });
  }

  /** To the primary: it cuts the chunk everywhere, as a mutation under its lease. */
  async truncate(server: number, request: TruncateChunkRequestInit): Promise<void> {
    await this.durable();
    await this.to(server).call(CHUNKSERVER_METHODS.truncateChunk, request);
  }

  /** Replicas at these versions or below; those that are not there are fine. */
  async deleteChunks(server: number, chunks: ReplicaVersionInit[]): Promise<void> {
    await this.durable();
    await this.to(server).call(CHUNKSERVER_METHODS.deleteChunks, { chunks });
  }

  /** As `deleteChunks`, for what nobody needs: a slow disk is not waited for, as others wait for the chunk. */
  async deleteStale(server: number, chunk: ReplicaVersionInit): Promise<void> {
    const options = { timeoutMs: STALE_DELETION_TIMEOUT_MS };
    await this.durable();
    await this.to(server).call(CHUNKSERVER_METHODS.deleteChunks, { chunks: [chunk] }, options);
  }

  /** To the one that leads a recovery. */
  async recover(server: number, request: RecoverChunkRequestInit, timeoutMs: number): Promise<RecoverChunkReply> {
    return (await this.to(server).call(CHUNKSERVER_METHODS.recoverChunk, request, { timeoutMs })).reply;
  }

  /** Fails unless the replica is there at `version` (0: at any), and can be opened. */
  async checkReplica(server: number, handle: number, version: number): Promise<void> {
    const options = { timeoutMs: CHECK_REPLICA_TIMEOUT_MS };
    await this.to(server).call(CHUNKSERVER_METHODS.checkReplica, { handle, version }, options);
  }

  /** Reads all of the replica. Returns how many of its blocks are damaged. */
  async verifyReplica(server: number, handle: number, version: number): Promise<number> {
    const options = { timeoutMs: VERIFY_REPLICA_TIMEOUT_MS };
    return (await this.to(server).call(CHUNKSERVER_METHODS.verifyReplica, { handle, version }, options)).reply
      .damagedBlocks;
  }

  /** To the target. Returns how many blocks the source has damaged: they are marked as lost in the copy. */
  async copyChunk(server: number, request: CopyChunkRequestInit, timeoutMs: number): Promise<number> {
    return (await this.to(server).call(CHUNKSERVER_METHODS.copyChunk, request, { timeoutMs })).reply.damagedBlocks;
  }

  /** The server refuses reads of its replica from now on, until a lease above `leaseId`, or a recovery, has it again. */
  async leaveOut(server: number, handle: number, leaseId: number): Promise<void> {
    const options = { timeoutMs: LEAVE_OUT_TIMEOUT_MS };
    await this.to(server).call(CHUNKSERVER_METHODS.leaveOut, { handle, leaseId }, options);
  }

  private to(server: number): Peer {
    const peer = this.peerOf(server);
    if (peer === undefined) throw new CairnError('UNAVAILABLE', `chunkserver ${server} is not connected`);
    return peer;
  }
}
