/**
 * What this server knows about the leases of its replicas: fencing, the primary's role, the order of mutations.
 *
 * A mutation needs exactly the lease that the master granted last to this process. A server that was restarted
 * knows no lease and refuses mutations until the master grants one or a recovery brings it up to date.
 */
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { chunkHandle, chunkVersion, type ChunkHandle } from '../../core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  FORGET_REPLICA_AFTER_MS,
  REQUEST_TIMEOUT_MS,
  MAX_WAITING_SERIALS,
} from '../../core/limits.js';
import { Mutex, deferred, type Deferred } from '../../core/sync.js';
import type { GrantLeaseRequest, Replica as ReplicaAddress } from '../../protocol/generated/messages.js';
import type { ChunkFile } from '../chunk/chunk-file.js';
import type { ChunkStore } from '../store/chunk-store.js';

/** A lease as one replica sees it, with the serial order of the mutations under it. */
export class Lease {
  /** Last serial that the primary gave out. */
  assigned = 0;
  /** Last serial whose mutation was let into the order. */
  private started = 0;
  /** By serial; with each how many serials it takes. */
  private readonly waiting = new Map<number, { readonly turn: Deferred<void>; readonly serials: number }>();
  /** Why no mutation is taken any more: one failed, so this replica may differ from the others. */
  broken: CairnError | undefined;
  /** The report of the first failure, shared by all mutations that failed with it. */
  failureReport: Promise<'recovers' | 'full'> | undefined;
  /** At the primary: the master ends the lease, nothing new is taken. */
  ending = false;
  /** At the primary: mutations and syncs that not every member has answered yet, and who waits for their end. */
  private open = 0;
  private quiet: Deferred<void> | undefined;

  constructor(
    readonly id: number,
    readonly version: number,
    readonly isPrimary: boolean,
    /** Members after this server, in the order of the chain. For the primary. */
    readonly chain: readonly ReplicaAddress[],
    public expiresAtMs: number,
  ) {}

  /** Runs a mutation or sync of the whole chain, so that `quiesced` waits for it. */
  async whole<T>(work: () => Promise<T>): Promise<T> {
    this.open++;
    try {
      return await work();
    } finally {
      this.open--;
      if (this.open === 0) this.quiet?.resolve();
    }
  }

  /** Resolves when nothing is open; to be called when nothing new is taken. */
  async quiesced(): Promise<void> {
    if (this.open === 0) return;
    this.quiet ??= deferred();
    await this.quiet.promise;
  }

  /** Waits until the mutation `serial`, which takes so many `serials`, is the next. Returns at once (undefined) when it is. */
  turn(serial: number, serials: number, clock: Clock): Promise<void> | undefined {
    if (this.broken !== undefined) throw this.broken;
    if (serial === this.started + 1) {
      this.admit(serial + serials - 1);
      return undefined;
    }
    return this.wait(serial, serials, clock);
  }

  private async wait(serial: number, serials: number, clock: Clock): Promise<void> {
    if (serial <= this.started) throw new CairnError('STALE_VERSION', `mutation ${serial} came twice`);
    if (this.waiting.size >= MAX_WAITING_SERIALS || this.waiting.has(serial)) {
      throw new CairnError('STALE_VERSION', `mutation ${serial} cannot wait for ${this.started + 1}`);
    }
    const turn = deferred<void>();
    this.waiting.set(serial, { turn, serials });
    const timer = clock.setTimer(REQUEST_TIMEOUT_MS, () => {
      turn.reject(new CairnError('STALE_VERSION', `the mutation before ${serial} did not come`));
    });
    try {
      await turn.promise;
    } finally {
      timer.cancel();
      this.waiting.delete(serial);
    }
  }

  /** Those up to `serial` are in the order, and whoever waited for that. */
  private admit(serial: number): void {
    this.started = serial;
    const next = this.waiting.get(serial + 1);
    if (next === undefined) return;
    this.waiting.delete(serial + 1);
    this.admit(serial + next.serials);
    next.turn.resolve();
  }

  /** Mutations up to `serial` are in the order. */
  hasStarted(serial: number): boolean {
    return serial <= this.started;
  }

  break(error: CairnError): void {
    this.broken ??= error;
    for (const { turn } of this.waiting.values()) turn.reject(this.broken);
  }
}

export class Replica {
  /** Highest lease id seen: lower ones are refused. */
  fence = 0;
  lease: Lease | undefined;
  /**
   * The master goes on without this replica: readers that still know it as current are refused (P9), until a recovery
   * takes it in, a lease is granted on it, or a new copy takes its place.
   */
  leftOut = false;
  /** How often that was said. A recovery or a grant that began before takes it in no more. */
  timesLeftOut = 0;
  /** Mutations, grants, recovery and cleaning, one at a time. */
  readonly order = new Mutex('chunkserver.replica');
  lastUsedMs = 0;

  constructor(
    readonly handle: ChunkHandle,
    private readonly onLease: (leaseId: number) => void,
  ) {}

  leaveOut(): void {
    this.leftOut = true;
    this.timesLeftOut++;
  }

  /** Refuses mutations of leases below `leaseId`, and of the one that was active, from now on. */
  raiseFence(leaseId: number): void {
    this.onLease(leaseId);
    if (leaseId < this.fence) {
      throw new CairnError('STALE_VERSION', `chunk ${this.handle}: lease ${leaseId} is older than ${this.fence}`);
    }
    this.fence = leaseId;
    this.lease?.break(new CairnError('STALE_VERSION', `chunk ${this.handle}: lease ${this.lease.id} has ended`));
    this.lease = undefined;
  }
}

export class Replicas {
  private readonly replicas = new Map<ChunkHandle, Replica>();
  /** Of all leases that this process heard of. */
  highestLease = 0;

  constructor(
    private readonly store: ChunkStore,
    private readonly clock: Clock,
    private readonly serverId: () => number,
  ) {}

  get(handle: ChunkHandle): Replica {
    let replica = this.replicas.get(handle);
    if (replica === undefined) {
      replica = new Replica(handle, (leaseId) => {
        if (leaseId > this.highestLease) this.highestLease = leaseId;
      });
      this.replicas.set(handle, replica);
    }
    replica.lastUsedMs = this.clock.monotonicMs();
    return replica;
  }

  /** Something is under way in the order of its mutations. */
  isBusy(handle: ChunkHandle): boolean {
    return this.replicas.get(handle)?.order.idle === false;
  }

  async grant(request: GrantLeaseRequest): Promise<void> {
    const handle = chunkHandle(request.handle);
    if (request.create) {
      // A chunk of another past, say (timeline.ts of the master): the new one must not begin with its bytes.
      if (this.store.index.get(handle) !== undefined && this.replicas.get(handle)?.lease?.id !== request.leaseId) {
        throw new CairnError(
          'EEXIST',
          `chunk ${handle} is here already, and was not made under lease ${request.leaseId}`,
        );
      }
      await this.store.arrivals.create(handle, chunkVersion(request.version));
      if (request.lostBytes > 0) await this.lose(handle, request.lostBytes);
    }
    this.checkVersion(handle, request.version);
    const replica = this.get(handle);
    const expiresAtMs = this.clock.monotonicMs() + request.leaseTtlMs;
    const active = replica.lease;
    if (active?.id === request.leaseId) {
      if (active.broken !== undefined || active.ending) {
        throw new CairnError('STALE_VERSION', `lease ${active.id} is broken or has ended`);
      }
      active.expiresAtMs = expiresAtMs;
      return;
    }
    replica.raiseFence(request.leaseId);
    const { timesLeftOut } = replica;
    await replica.order.run(async () => {
      if (replica.fence !== request.leaseId) throw new CairnError('STALE_VERSION', 'a newer lease was granted');
      this.checkVersion(handle, request.version);
      if (request.validBytes < CHUNK_SIZE_BYTES) await this.cut(handle, request.validBytes);
      // The cut may have taken so long that the chunk went on without this replica.
      if (replica.fence !== request.leaseId || replica.timesLeftOut !== timesLeftOut) {
        throw new CairnError('STALE_VERSION', 'a newer lease was granted, or the chunk went on without this replica');
      }
      const self = this.serverId();
      const chain = request.replicas.filter((member) => member.serverId !== self);
      const isPrimary = request.primary === self;
      replica.lease = new Lease(request.leaseId, request.version, isPrimary, chain, expiresAtMs);
      replica.leftOut = false;
    });
  }

  /**
   * The clean end of a lease, at its primary: when it returns, every mutation under it is on all members and none will
   * come. STALE_VERSION when that is in doubt (P4): one failed, a member has not answered, or the lease is not known
   * here any more.
   */
  async revoke(handle: ChunkHandle, leaseId: number): Promise<void> {
    const replica = this.replicas.get(handle);
    const lease = replica?.lease;
    if (replica === undefined || lease?.id !== leaseId || !lease.isPrimary) {
      throw new CairnError('STALE_VERSION', `chunk ${handle}: how lease ${leaseId} ended is not known here`);
    }
    lease.ending = true;
    if (lease.broken === undefined) await lease.quiesced();
    if (lease.broken !== undefined) throw lease.broken;
    replica.raiseFence(leaseId);
    await replica.order.run(() => undefined);
  }

  /** The chunk goes on without this replica. Touches no disk. */
  leaveOut(handle: ChunkHandle, leaseId: number): void {
    const replica = this.get(handle);
    replica.raiseFence(leaseId);
    replica.leaveOut();
  }

  isLeftOut(handle: ChunkHandle): boolean {
    return this.replicas.get(handle)?.leftOut === true;
  }

  /** As `leaveOut`, of what a report found to be no member: unless it was raised since to a version above that. */
  refuseReaders(handle: ChunkHandle, version: number): void {
    const entry = this.store.index.get(handle);
    if (entry !== undefined && entry.version <= version) this.get(handle).leaveOut();
  }

  /** A whole new replica took the place of what was here. */
  replaced(handle: ChunkHandle): void {
    const replica = this.replicas.get(handle);
    if (replica !== undefined) replica.leftOut = false;
  }

  /** The lease under which this server may take a client's mutations. */
  primaryLease(handle: ChunkHandle, version: number, leaseId: number): { replica: Replica; lease: Lease } {
    const found = this.memberLease(handle, version, leaseId);
    const { isPrimary, ending, expiresAtMs } = found.lease;
    if (!isPrimary || ending || expiresAtMs <= this.clock.monotonicMs()) {
      throw new CairnError('NOT_PRIMARY', `chunk ${handle}: lease ${leaseId} has lapsed or is another server's`);
    }
    return found;
  }

  /** The lease under which this server takes forwarded mutations. Its end is the primary's to watch. */
  memberLease(handle: ChunkHandle, version: number, leaseId: number): { replica: Replica; lease: Lease } {
    this.checkVersion(handle, version);
    const replica = this.get(handle);
    const lease = replica.lease;
    if (lease?.id !== leaseId) {
      throw new CairnError('NOT_PRIMARY', `chunk ${handle}: this server knows no lease ${leaseId}, ask the master`);
    }
    if (lease.broken !== undefined) throw lease.broken;
    return { replica, lease };
  }

  /** Applies a mutation in its turn. A failure ends the lease here: this replica may now differ from the others. */
  async apply(
    { replica, lease }: { replica: Replica; lease: Lease },
    serial: number,
    mutation: (file: ChunkFile) => Promise<void>,
    serials = 1,
  ): Promise<void> {
    try {
      const turn = lease.turn(serial, serials, this.clock);
      if (turn !== undefined) await turn;
      await replica.order.run(async () => {
        if (lease.broken !== undefined) throw lease.broken;
        await this.store.mutate(replica.handle, mutation);
      });
    } catch (error) {
      lease.break(new CairnError('STALE_VERSION', `chunk ${replica.handle}: mutation ${serial} failed here`));
      throw error;
    }
  }

  /** What was applied up to `serial` survives power loss. */
  async sync({ replica, lease }: { replica: Replica; lease: Lease }, serial: number): Promise<void> {
    if (!lease.hasStarted(serial)) throw new CairnError('STALE_VERSION', `mutation ${serial} has not come here`);
    await replica.order.run(() => undefined);
    if (lease.broken !== undefined) throw lease.broken;
    await this.store.sync(replica.handle);
  }

  /** Keeps mutations away while `section` runs. */
  exclusive(handle: ChunkHandle, section: () => Promise<void>): Promise<void> {
    return this.get(handle).order.run(section);
  }

  /** STALE_VERSION unless the replica is at `version` and not suspect. */
  checkVersion(handle: ChunkHandle, version: number): void {
    const entry = this.store.entry(handle);
    if (entry.version !== version) {
      throw new CairnError('STALE_VERSION', `chunk ${handle} is at version ${entry.version} here, not ${version}`);
    }
    if (entry.suspect) {
      throw new CairnError('STALE_VERSION', `chunk ${handle} was under mutation when power failed: it needs recovery`);
    }
  }

  /** As `checkVersion`, and STALE_VERSION when readers are not to be served from this replica. */
  checkServed(handle: ChunkHandle, version: number): void {
    this.checkVersion(handle, version);
    if (this.isLeftOut(handle)) {
      throw new CairnError('STALE_VERSION', `chunk ${handle} goes on without the replica here: ask the master again`);
    }
  }

  /** Forgets replicas that nobody uses: they refuse mutations until the next grant, as after a restart. */
  forgetIdle(): void {
    const now = this.clock.monotonicMs();
    for (const [handle, replica] of this.replicas) {
      const leased = replica.lease !== undefined && replica.lease.expiresAtMs > now;
      if (leased || !replica.order.idle || replica.lastUsedMs + FORGET_REPLICA_AFTER_MS > now) continue;
      if (replica.leftOut && this.store.index.get(handle) !== undefined) continue;
      this.replicas.delete(handle);
    }
  }

  /** The leases end, and mutations under way finish: for a clean stop. */
  async drain(): Promise<void> {
    for (const replica of this.replicas.values()) {
      replica.raiseFence(replica.fence);
      await replica.order.run(() => undefined);
    }
  }

  /** In a new replica: bytes that were lost with an earlier chunk are not to be read as zeros, also after power loss. */
  private async lose(handle: ChunkHandle, length: number): Promise<void> {
    await this.store.mutate(handle, async (file) => {
      if (file.length === 0) await file.extendDamaged(length);
    });
    await this.store.sync(handle);
  }

  private async cut(handle: ChunkHandle, validBytes: number): Promise<void> {
    const length = await this.store.use(handle, (file) => Promise.resolve(file.length));
    if (length <= validBytes) return;
    await this.store.mutate(handle, (file) => file.truncate(validBytes));
    // The master forgets about the cut once it is made, so power loss must not bring the old bytes back (P5).
    await this.store.sync(handle);
  }
}
