/** The methods that a chunkserver serves: who may ask for what, when it is refused, and which part answers. */
import { CairnError } from '../core/errors.js';
import { chunkHandle } from '../core/ids.js';
import type { MasterTime } from '../core/master-time.js';
import { type ChunkserverMethods } from '../protocol/methods.js';
import type { Handlers } from '../protocol/rpc.js';
import { mapBlocks } from './chunk/block-map.js';
import type { MasterLink } from './master-link.js';
import type { Reads } from './reads.js';
import { failuresToReply } from './replication/chain.js';
import type { Mutations } from './replication/mutations.js';
import type { RangeCopies } from './replication/range-copy.js';
import type { ReplicaRecovery } from './replication/replica-recovery.js';
import type { ReplicaCopies } from './replication/replica-copies.js';
import type { Replicas } from './replication/replicas.js';
import type { Verifier } from './replication/verifier.js';
import type { ChunkStore } from './store/chunk-store.js';

const DONE = { reply: {} } as const;

export interface RequestParts {
  readonly store: ChunkStore;
  readonly replicas: Replicas;
  readonly mutations: Mutations;
  readonly recovery: ReplicaRecovery;
  readonly copies: ReplicaCopies;
  readonly rangeCopies: RangeCopies;
  readonly verifier: Verifier;
  readonly reads: Reads;
  readonly link: MasterLink;
}

export class Requests {
  private active = 0;
  private stopping = false;
  private idle: (() => void) | undefined;

  constructor(private readonly parts: RequestParts) {}

  get activeCount(): number {
    return this.active;
  }

  /** From now on all are refused. */
  stop(): void {
    this.stopping = true;
  }

  /** Resolves when none is under way, after `stop`. */
  async ended(): Promise<void> {
    if (this.active > 0) await new Promise<void>((resolve) => (this.idle = resolve));
  }

  /** Work that a stop waits for. UNAVAILABLE when it has begun. */
  async counted<T>(work: () => Promise<T>): Promise<T> {
    if (this.stopping) throw new CairnError('UNAVAILABLE', 'the chunkserver stops');
    this.active++;
    try {
      return await work();
    } finally {
      this.active--;
      if (this.active === 0) this.idle?.();
    }
  }

  /**
   * A client's request: refused while the master may have given this server up. What other chunkservers ask for needs
   * no such check: leases, versions and the master's order behind it protect it.
   */
  private served<T>(work: () => Promise<T>, known?: MasterTime | null): Promise<T> {
    return this.counted(() => {
      this.parts.link.fence.refuse(known);
      return work();
    });
  }

  /** A request about a replica: not while its disk does not answer. */
  private onReplica<T>(handle: number, work: () => Promise<T>): Promise<T> {
    return this.counted(() => this.parts.store.answering(chunkHandle(handle), work));
  }

  /** As `served`, about a replica. */
  private servedReplica<T>(handle: number, work: () => Promise<T>, known?: MasterTime | null): Promise<T> {
    return this.served(() => this.parts.store.answering(chunkHandle(handle), work), known);
  }

  readonly handlers: Handlers<ChunkserverMethods> = {
    grantLease: (request) =>
      this.onReplica(request.handle, async () => {
        this.parts.link.fence.refuseUnjoined();
        await this.parts.replicas.grant(request);
        return DONE;
      }),
    revokeLease: (request) =>
      this.onReplica(request.handle, async () => {
        await this.parts.replicas.revoke(chunkHandle(request.handle), request.leaseId);
        return DONE;
      }),
    recoverChunk: (request) =>
      this.onReplica(request.handle, async () => {
        this.parts.link.fence.refuseUnjoined();
        return { reply: await this.parts.recovery.recover(request) };
      }),
    truncateChunk: (request) =>
      this.onReplica(request.handle, () => this.parts.mutations.truncate(request).then(() => DONE)),
    copyChunk: (request, { signal }) =>
      this.counted(async () => ({ reply: await this.parts.copies.pull(request, signal) })),
    leaveOut: ({ handle, leaseId }) => {
      this.parts.replicas.leaveOut(chunkHandle(handle), leaseId);
      return DONE;
    },
    deleteChunks: (request) =>
      this.counted(async () => {
        for (const { handle } of request.chunks) this.parts.copies.cancel(chunkHandle(handle));
        const begun = this.parts.store.making.watch();
        await this.parts.link.removals.remove(request.chunks, begun).finally(() => begun.end());
        return DONE;
      }),
    verifyReplica: (request) => this.counted(async () => ({ reply: await this.parts.verifier.verify(request) })),
    checkReplica: ({ handle, version }) =>
      this.onReplica(handle, async () => {
        if (version !== 0) this.parts.replicas.checkServed(chunkHandle(handle), version);
        await this.parts.store.check(chunkHandle(handle));
        return DONE;
      }),

    readChunk: (request, { peer }) =>
      peer.role === 'client' || request.served
        ? this.servedReplica(request.handle, () => this.parts.reads.read(request, true), request.knownTime)
        : this.onReplica(request.handle, () =>
            request.withDamage ? this.parts.reads.readSound(request) : this.parts.reads.read(request, false),
          ),
    writeChunk: (request, context) =>
      this.servedReplica(request.handle, async () => {
        const serial = await this.parts.mutations.write(request, context.payload);
        context.releasePayload();
        return { reply: { serial } };
      }),
    writeBatch: (request, context) =>
      this.servedReplica(request.handle, async () => {
        const serial = await this.parts.mutations.writeBatch(request, context.payload);
        context.releasePayload();
        return { reply: { serial } };
      }),
    syncChunk: (request) =>
      this.servedReplica(request.handle, async () => ({ reply: { serial: await this.parts.mutations.sync(request) } })),
    mapChunk: (request) =>
      this.servedReplica(
        request.handle,
        async () => {
          const handle = chunkHandle(request.handle);
          this.parts.replicas.checkServed(handle, request.version);
          return { reply: await this.parts.store.use(handle, mapBlocks) };
        },
        request.knownTime,
      ),
    copyRange: (request, { signal }) =>
      this.served(async () => ({ reply: await this.parts.rangeCopies.copy(request, signal) }), request.knownTime),

    forward: (request, context) =>
      this.onReplica(request.handle, async () => {
        const failures = await this.parts.mutations.forwarded(request, context.payload);
        // After a failure the bytes may still be on their way to the next member.
        if (failures.length === 0) context.releasePayload();
        return { reply: failuresToReply(failures) };
      }),
    forwardBatch: (request, context) =>
      this.onReplica(request.handle, async () => {
        const failures = await this.parts.mutations.forwardedBatch(request, context.payload);
        if (failures.length === 0) context.releasePayload();
        return { reply: failuresToReply(failures) };
      }),
    inspectReplica: (request) =>
      this.onReplica(request.handle, async () => ({ reply: await this.parts.recovery.inspect(request) })),
    repairBlocks: (request, context) =>
      this.onReplica(request.handle, async () => {
        await this.parts.recovery.repair(request, context.payload);
        return DONE;
      }),
    adoptVersion: (request) =>
      this.onReplica(request.handle, async () => {
        await this.parts.recovery.adopt(request);
        return DONE;
      }),
  };
}
