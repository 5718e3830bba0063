/**
 * Mutations: at the primary, which orders them and sends them down the chain, and at the secondaries, which apply
 * them in that order.
 *
 * A mutation is acknowledged when every member has applied it. When one has not, the lease is broken here, the master
 * is told who failed, and the writer asks the master again: recovery makes the members alike before the next lease.
 */
import { CairnError, asCairnError, type ErrorCode } from '../../core/errors.js';
import { chunkHandle } from '../../core/ids.js';
import { MAX_REPLICAS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { watched } from '../../core/sync.js';
import {
  ForwardRequestKind,
  type ForwardBatchRequest,
  type ForwardRequest,
  type SyncChunkRequest,
  type TruncateChunkRequest,
  type WriteBatchRequest,
  type WriteChunkRequest,
} from '../../protocol/generated/messages.js';
import type { Chain, Failure, ForwardedChunk } from './chain.js';
import type { ChunkFile } from '../chunk/chunk-file.js';
import type { Lease, Replica, Replicas } from './replicas.js';
import { checkWrite, writesOf } from './write-batch.js';

export interface ForwardFailureReport {
  readonly handle: number;
  readonly version: number;
  readonly leaseId: number;
  readonly failedServers: number[];
  /** Those that had no space left. */
  readonly fullServers: number[];
}

export interface MutationDependencies {
  readonly replicas: Replicas;
  readonly chain: Chain;
  readonly logger: Logger;
  readonly serverId: () => number;
  /**
   * Tells the master; resolves when it knows or cannot be reached. 'full': it does not do without the members that
   * have no space left.
   */
  readonly reportFailure: (report: ForwardFailureReport) => Promise<'recovers' | 'full'>;
  /** A block of this server's own replica is damaged. */
  readonly reportDamage: (handle: number, version: number, error: unknown) => void;
}

/** Failures that say nothing against the server: it knows another lease, or is overrun. Recovery will do. */
const BLAMELESS: ReadonlySet<ErrorCode> = new Set(['STALE_VERSION', 'NOT_PRIMARY', 'BUSY', 'CANCELLED']);
const NO_SPACE: ReadonlySet<ErrorCode> = new Set(['ENOSPC', 'EDQUOT']);

/** A mutation as the primary makes it: here, and at the members behind it, under the serials from the given one on. */
interface Mutation {
  readonly make: (file: ChunkFile) => Promise<void>;
  readonly forward: (chunk: ForwardedChunk, rest: Lease['chain']) => Promise<Failure[]>;
  /** Serials that it takes. Default 1. */
  readonly serials?: number;
}

interface Held {
  readonly replica: Replica;
  readonly lease: Lease;
}

type VerifiedWrite = Pick<WriteChunkRequest, 'handle' | 'version' | 'leaseId' | 'offset' | 'checksums'>;

export class Mutations {
  constructor(private readonly deps: MutationDependencies) {}

  /** At the primary: a client's write. Returns its serial. */
  async write(request: WriteChunkRequest, payload: Uint8Array): Promise<number> {
    const { handle, version, leaseId, offset, checksums } = request;
    const held = this.deps.replicas.primaryLease(chunkHandle(handle), version, leaseId);
    checkWrite(handle, { offset, bytes: payload, checksums });
    return this.writeUnder(held, request, payload);
  }

  /** At the primary: a client's writes, one after another. Returns the serial of the last. */
  async writeBatch(request: WriteBatchRequest, payload: Uint8Array): Promise<number> {
    const held = this.deps.replicas.primaryLease(chunkHandle(request.handle), request.version, request.leaseId);
    const writes = writesOf(request, payload);
    return held.lease.whole(() =>
      this.mutate(held, {
        make: (file) => file.writeAll(writes),
        forward: (chunk, rest) => this.deps.chain.forwardBatch(rest, chunk, writes, payload),
        serials: writes.length,
      }),
    );
  }

  /** At the primary: as `write`, of bytes within the chunk whose checksums were verified in this process. */
  async writeVerified(request: VerifiedWrite, payload: Uint8Array): Promise<void> {
    const held = this.deps.replicas.primaryLease(chunkHandle(request.handle), request.version, request.leaseId);
    await this.writeUnder(held, request, payload);
  }

  /** At the primary: the master's cut, durable when it returns, so that old bytes stay away (P5). */
  async truncate(request: TruncateChunkRequest): Promise<void> {
    const { handle, version, leaseId, length } = request;
    const held = this.deps.replicas.primaryLease(chunkHandle(handle), version, leaseId);
    const forward: Mutation['forward'] = (chunk, rest) =>
      this.deps.chain.forward(rest, { ...chunk, kind: ForwardRequestKind.TRUNCATE, offset: length });
    await held.lease.whole(async () => {
      await this.mutate(held, { make: (file) => cut(file, length), forward });
      await this.syncMembers(held);
    });
  }

  /** At the primary: all mutations up to the serial that it returns survive power loss on every member (P1). */
  async sync(request: SyncChunkRequest): Promise<number> {
    const { handle, version, leaseId } = request;
    const held = this.deps.replicas.primaryLease(chunkHandle(handle), version, leaseId);
    return held.lease.whole(() => this.syncMembers(held));
  }

  /** At a secondary: forwards first, then applies. Returns who failed, this server included. */
  async forwarded(request: ForwardRequest, payload: Uint8Array): Promise<Failure[]> {
    const { replicas, chain } = this.deps;
    const { handle, version, leaseId, serial, kind, offset, checksums, rest } = request;
    if (rest.length > MAX_REPLICAS) throw new CairnError('EINVAL', `a chain has at most ${MAX_REPLICAS} servers`);
    const held = replicas.memberLease(chunkHandle(handle), version, leaseId);
    let local: () => Promise<void>;
    switch (kind) {
      case ForwardRequestKind.WRITE:
        checkWrite(handle, { offset, bytes: payload, checksums });
        local = () => replicas.apply(held, serial, (file) => file.write(offset, payload, checksums));
        break;
      case ForwardRequestKind.TRUNCATE:
        local = () => replicas.apply(held, serial, (file) => cut(file, offset));
        break;
      case ForwardRequestKind.SYNC:
        local = () => replicas.sync(held, serial);
        break;
      default:
        throw new CairnError('EINVAL', `forward of unknown kind ${kind}`);
    }
    const passed = { handle, version, leaseId, serial, kind, offset, checksums };
    const behind = watched(chain.forward(rest, passed, kind === ForwardRequestKind.WRITE ? payload : undefined));
    const own = this.attempt(held.lease, handle, local);
    return [...(await own), ...(await behind)];
  }

  /** At a secondary: as `forwarded`, of a batch. */
  async forwardedBatch(request: ForwardBatchRequest, payload: Uint8Array): Promise<Failure[]> {
    const { replicas, chain } = this.deps;
    const { handle, version, leaseId, serial, rest } = request;
    if (rest.length > MAX_REPLICAS) throw new CairnError('EINVAL', `a chain has at most ${MAX_REPLICAS} servers`);
    const held = replicas.memberLease(chunkHandle(handle), version, leaseId);
    const writes = writesOf(request, payload);
    const behind = watched(chain.forwardBatch(rest, { handle, version, leaseId, serial }, writes, payload));
    const make = (file: ChunkFile): Promise<void> => file.writeAll(writes);
    const own = this.attempt(held.lease, handle, () => replicas.apply(held, serial, make, writes.length));
    return [...(await own), ...(await behind)];
  }

  private writeUnder(held: Held, { offset, checksums }: VerifiedWrite, payload: Uint8Array): Promise<number> {
    const write = { kind: ForwardRequestKind.WRITE, offset, checksums };
    return held.lease.whole(() =>
      this.mutate(held, {
        make: (file) => file.write(offset, payload, checksums),
        forward: (chunk, rest) => this.deps.chain.forward(rest, { ...chunk, ...write }, payload),
      }),
    );
  }

  /** Returns the last of its serials. */
  private async mutate(held: Held, { make, forward, serials = 1 }: Mutation): Promise<number> {
    const { lease, replica } = held;
    // No await between the check of the lease and here: serials are given in the order that forwards are sent.
    const serial = lease.assigned + 1;
    lease.assigned += serials;
    const { handle } = replica;
    const behind = watched(forward({ handle, version: lease.version, leaseId: lease.id, serial }, lease.chain));
    const own = this.attempt(lease, handle, () => this.deps.replicas.apply(held, serial, make, serials));
    const failures = [...(await own), ...(await behind)];
    if (failures.length > 0) await this.fail(held, failures);
    return serial + serials - 1;
  }

  private async syncMembers(held: Held): Promise<number> {
    const { replicas, chain } = this.deps;
    const { lease, replica } = held;
    const serial = lease.assigned;
    const identity = { handle: replica.handle, version: lease.version, leaseId: lease.id, serial };
    const behind = watched(chain.forward(lease.chain, { ...identity, kind: ForwardRequestKind.SYNC }));
    const own = this.attempt(lease, replica.handle, () => replicas.sync(held, serial));
    const failures = [...(await own), ...(await behind)];
    if (failures.length > 0) await this.fail(held, failures);
    return serial;
  }

  /** This server's own part, its failure as one of the chain. */
  private async attempt(lease: Lease, handle: number, action: () => Promise<void>): Promise<Failure[]> {
    try {
      await action();
      return [];
    } catch (error) {
      const { code, message } = asCairnError(error);
      if (code === 'CORRUPT') this.deps.reportDamage(handle, lease.version, error);
      if (!BLAMELESS.has(code)) this.deps.logger.error({ handle, code, reason: message }, 'mutation failed here');
      return [{ serverId: this.deps.serverId(), code }];
    }
  }

  /** Breaks the lease, tells the master once, and fails the caller's request. */
  private async fail({ replica, lease }: Held, failures: readonly Failure[]): Promise<never> {
    const { handle } = replica;
    const members = lease.chain.length + 1;
    lease.break(new CairnError('STALE_VERSION', `chunk ${handle}: a mutation failed under lease ${lease.id}`));
    // When everyone failed, nobody is the better member: the master is asked for recovery, not to drop them all.
    const blamed = failures.filter((failure) => !BLAMELESS.has(failure.code)).map((failure) => failure.serverId);
    const failedServers = blamed.length === members ? [] : blamed;
    const full = failures.filter((failure) => NO_SPACE.has(failure.code)).map((failure) => failure.serverId);
    lease.failureReport ??= watched(
      this.deps.reportFailure({
        handle,
        version: lease.version,
        leaseId: lease.id,
        failedServers,
        fullServers: full,
      }),
    );
    const outcome = await lease.failureReport;
    if (full.length === members || (full.length > 0 && outcome === 'full')) {
      throw new CairnError('ENOSPC', `chunkservers ${full.join(', ')} have no space left for chunk ${handle}`);
    }
    const unreadable = failures.length === members && failures.every((failure) => failure.code === 'CORRUPT');
    if (unreadable)
      throw new CairnError('CORRUPT', `chunk ${handle}: a block to be changed in part is damaged everywhere`);
    const who = failures.map((failure) => `server ${failure.serverId}: ${failure.code}`).join(', ');
    throw new CairnError('STALE_VERSION', `chunk ${handle}: not on every replica (${who}): ask the master again`);
  }
}

function cut(file: ChunkFile, length: number): Promise<void> {
  return file.length > length ? file.truncate(length) : Promise.resolve();
}
