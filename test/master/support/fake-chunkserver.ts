/**
 * A chunkserver of a few lines for the tests of the master: replicas are lists of words, a write appends one to every
 * member. It keeps the rules that the master relies on (versions, leases in memory, fencing by lease id, recovery), and its calls can be
 * failed, lost or delayed.
 */
import { CairnError } from '../../../src/core/errors.js';
import type { ErrorCode } from '../../../src/core/errors.js';
import { connectPeer } from '../../../src/protocol/endpoint.js';
import type { ConnectedPeer, EndpointOptions } from '../../../src/protocol/endpoint.js';
import { CHUNKSERVER_METHODS, MASTER_METHODS } from '../../../src/protocol/methods.js';
import type { ChunkserverMethods } from '../../../src/protocol/methods.js';
import type { Handlers } from '../../../src/protocol/rpc.js';
import type { DiskStateInit, GrantLeaseRequest, LeaseChunkReply } from '../../../src/protocol/generated/messages.js';

/** A lease as a member knows it, in memory. */
interface FakeLease {
  readonly id: number;
  readonly primary: number;
  readonly members: readonly number[];
  /** A mutation under it did not get to all members: it takes no more, and does not end cleanly. */
  broken: boolean;
}

export interface FakeReplica {
  version: number;
  /** Lower lease ids are refused. */
  fence: number;
  lease?: FakeLease | undefined;
  words: string[];
  suspect: boolean;
  /** In memory: readers are refused. */
  leftOut?: boolean;
}

type Method =
  'grantLease' | 'revokeLease' | 'recoverChunk' | 'truncateChunk' | 'copyChunk' | 'deleteChunks' | 'leaveOut';

export class FakeChunkserver {
  id = 0;
  readonly replicas = new Map<number, FakeReplica>();
  readonly calls: string[] = [];
  /** Other chunkservers and clients reach it. */
  reachable = true;
  peer: ConnectedPeer | undefined;
  readonly aside = new Map<number, FakeReplica>();
  freeBytes = 2 ** 40;
  disks: DiskStateInit[] = [];
  private readonly faults: { method: Method; when: 'before' | 'after'; code: ErrorCode }[] = [];
  /** Called when a method has begun, before it does anything. */
  onCall: ((method: Method) => Promise<void> | void) | undefined;
  /** Called with every lease that arrives. */
  onGrant: ((request: GrantLeaseRequest) => void) | undefined;

  constructor(
    private readonly options: EndpointOptions,
    readonly address: string,
    private readonly others: readonly FakeChunkserver[],
  ) {}

  /** The next call of `method` fails: before it did anything, or after (its answer is lost). */
  failNext(method: Method, code: ErrorCode, when: 'before' | 'after' = 'before'): void {
    this.faults.push({ method, when, code });
  }

  async join(master: string): Promise<void> {
    const service = { table: CHUNKSERVER_METHODS, handlers: this.handlers() };
    this.peer = await connectPeer(this.options, master, { role: 'master', service });
    const { reply } = await this.peer.call(MASTER_METHODS.register, {
      serverId: this.id,
      address: this.address,
      load: this.load(),
      disks: this.disks,
    });
    this.id = reply.serverId;
    this.reachable = true;
    await this.report();
  }

  async report(): Promise<void> {
    for (let afterHandle = 0, done = false; !done;) {
      const replicas = [...this.replicas]
        .filter(([handle]) => handle > afterHandle)
        .sort(([a], [b]) => a - b)
        .map(([handle, { version, suspect }]) => ({ handle, version, suspect, length: 1 }));
      const result = await this.peer?.call(MASTER_METHODS.report, { afterHandle, upToHandle: 0, replicas });
      for (const { handle, version } of result?.reply.delete ?? []) this.remove(handle, version);
      for (const { handle, version } of result?.reply.leaveOut ?? []) {
        const replica = this.replicas.get(handle);
        if (replica !== undefined && replica.version <= version) replica.leftOut = true;
      }
      for (const { handle, version } of result?.reply.aside ?? []) {
        // What holds nothing is not kept.
        const replica = this.replicas.get(handle);
        if (replica !== undefined && replica.words.length > 0) this.aside.set(handle, replica);
        this.remove(handle, version);
      }
      afterHandle = result?.reply.upToHandle ?? 0;
      done = afterHandle === 0;
    }
    await this.heartbeat(true);
  }

  async heartbeat(reported = false): Promise<void> {
    await this.peer?.call(MASTER_METHODS.heartbeat, { load: this.load(), disks: this.disks, reported });
  }

  private load(): { totalBytes: number; freeBytes: number; chunks: number; activeRequests: number } {
    return { totalBytes: 2 ** 40, freeBytes: this.freeBytes, chunks: this.replicas.size, activeRequests: 0 };
  }

  /** kill -9: connections end, what was in memory (leases, fences) is gone, replicas stay. */
  kill(): void {
    this.reachable = false;
    this.peer?.close('killed');
    this.peer = undefined;
    for (const replica of this.replicas.values()) {
      replica.fence = 0;
      replica.lease = undefined;
      replica.leftOut = false;
    }
  }

  private remove(handle: number, version: number): void {
    const replica = this.replicas.get(handle);
    if (replica !== undefined && replica.version <= version) this.replicas.delete(handle);
  }

  private find(id: number): FakeChunkserver | undefined {
    return this.others.find((other) => other.id === id && other.reachable);
  }

  private at(handle: number, version: number): FakeReplica {
    const replica = this.replicas.get(handle);
    if (replica === undefined) throw new CairnError('NO_REPLICA', `no replica of ${handle}`);
    if (replica.version !== version || replica.suspect) throw new CairnError('STALE_VERSION', 'another version');
    return replica;
  }

  private grant(request: GrantLeaseRequest): void {
    const { handle, version, leaseId: id, create, validBytes, primary } = request;
    if (create) this.replicas.set(handle, { version, fence: 0, words: [], suspect: false });
    const replica = this.at(handle, version);
    if (replica.lease?.id === id) {
      if (replica.lease.broken) throw new CairnError('STALE_VERSION', `lease ${id} is broken`);
      return;
    }
    if (id < replica.fence) throw new CairnError('STALE_VERSION', `fenced by ${replica.fence}`);
    replica.fence = id;
    replica.words.length = Math.min(replica.words.length, validBytes);
    replica.lease = { id, primary, members: request.replicas.map(({ serverId }) => serverId), broken: false };
  }

  /** The replica, if mutations under the lease are taken here: it was granted in this life and has not ended. */
  private leased(handle: number, version: number, leaseId: number): FakeReplica & { lease: FakeLease } {
    const replica = this.at(handle, version);
    if (!isLeased(replica, leaseId)) throw new CairnError('NOT_PRIMARY', `no lease ${leaseId}`);
    if (replica.lease.broken) throw new CairnError('STALE_VERSION', `lease ${leaseId} is broken`);
    return replica;
  }

  /** As primary: a mutation goes to the members that `receives` names. It is acknowledged (true) if all have it. */
  private mutate(
    { handle, version, leaseId }: { readonly handle: number; readonly version: number; readonly leaseId: number },
    mutation: (words: string[]) => void,
    receives: (server: number) => boolean = () => true,
  ): boolean {
    const { lease } = this.leased(handle, version, leaseId);
    if (lease.primary !== this.id) throw new CairnError('NOT_PRIMARY', `lease ${leaseId} is another server's`);
    for (const id of lease.members) {
      try {
        const server = id === this.id ? this : this.find(id);
        if (server === undefined || !receives(id)) throw new CairnError('DISCONNECTED', 'not reachable');
        mutation(server.leased(handle, version, leaseId).words);
      } catch {
        lease.broken = true;
      }
    }
    return !lease.broken;
  }

  private handlers(): Handlers<ChunkserverMethods> {
    const unused = (): never => {
      throw new CairnError('INTERNAL', 'not faked');
    };
    const run = async <R>(method: Method, work: () => R): Promise<{ reply: R }> => {
      this.calls.push(method);
      await this.onCall?.(method);
      const index = this.faults.findIndex((fault) => fault.method === method);
      const [fault] = index < 0 ? [] : this.faults.splice(index, 1);
      if (fault?.when === 'before') throw new CairnError(fault.code, 'scripted');
      const reply = work();
      if (fault !== undefined) throw new CairnError(fault.code, 'scripted');
      return { reply };
    };
    return {
      grantLease: (request) => {
        this.onGrant?.(request);
        return run('grantLease', () => {
          this.grant(request);
          return {};
        });
      },
      revokeLease: ({ handle, leaseId }) =>
        run('revokeLease', () => {
          const replica = this.replicas.get(handle);
          const lease = replica?.lease;
          if (replica === undefined || lease?.id !== leaseId || lease.primary !== this.id || lease.broken) {
            throw new CairnError('STALE_VERSION', `how lease ${leaseId} ended is not known here`);
          }
          replica.lease = undefined;
          return {};
        }),
      recoverChunk: (request) =>
        run('recoverChunk', () => {
          const { handle, fromVersion, toVersion, leaseId, members, validBytes } = request;
          const usable = (server: FakeChunkserver): FakeReplica | undefined => {
            const replica = server.replicas.get(handle);
            const fits = replica !== undefined && replica.version >= fromVersion && replica.version < toVersion;
            return fits && replica.fence <= leaseId ? replica : undefined;
          };
          const own = usable(this);
          if (own === undefined) throw new CairnError('STALE_VERSION', 'own replica is of no use');
          const words = own.words.slice(0, validBytes);
          const succeeded: number[] = [];
          for (const { serverId } of members) {
            const server = serverId === this.id ? this : this.find(serverId);
            const replica = server === undefined ? undefined : usable(server);
            if (server === undefined || replica === undefined) continue;
            server.replicas.set(handle, { version: toVersion, fence: leaseId, words: [...words], suspect: false });
            succeeded.push(serverId);
          }
          return { succeeded };
        }),
      truncateChunk: ({ handle, version, leaseId, length }) =>
        run('truncateChunk', () => {
          const cut = (words: string[]): void => void (words.length = Math.min(words.length, length));
          const all = this.mutate({ handle, version, leaseId }, cut);
          if (!all) throw new CairnError('STALE_VERSION', 'a member was not cut');
          return {};
        }),
      copyChunk: ({ handle, version, source }) =>
        run('copyChunk', () => {
          const from = this.find(source?.serverId ?? 0)?.replicas.get(handle);
          if (from?.version !== version) throw new CairnError('STALE_VERSION', 'source has another version');
          this.replicas.set(handle, { version, fence: 0, words: [...from.words], suspect: false });
          return { damagedBlocks: 0 };
        }),
      deleteChunks: ({ chunks }) =>
        run('deleteChunks', () => {
          for (const { handle, version } of chunks) this.remove(handle, version);
          return {};
        }),
      verifyReplica: ({ handle, version }) => {
        this.at(handle, version);
        return { reply: { damagedBlocks: 0 } };
      },
      checkReplica: ({ handle, version }) => {
        if (version !== 0 || !this.replicas.has(handle)) this.at(handle, version);
        return { reply: {} };
      },
      leaveOut: ({ handle, leaseId }) =>
        run('leaveOut', () => {
          const replica = this.replicas.get(handle);
          if (replica === undefined) return {};
          if (leaseId < replica.fence) throw new CairnError('STALE_VERSION', `fenced by ${replica.fence}`);
          replica.fence = leaseId;
          replica.leftOut = true;
          return {};
        }),
      readChunk: unused,
      writeChunk: unused,
      writeBatch: unused,
      syncChunk: unused,
      forward: unused,
      forwardBatch: unused,
      inspectReplica: unused,
      repairBlocks: unused,
      adoptVersion: unused,
      copyRange: unused,
      mapChunk: unused,
    };
  }

  /**
   * A client's write under `lease`, at its primary: applied here and at the members; acknowledged if by all. When it is
   * torn, it gets to the server `onlyTo` alone before whoever passes it on goes down.
   */
  static write(servers: readonly FakeChunkserver[], lease: LeaseChunkReply, word: string, onlyTo?: number): boolean {
    const primary = servers.find((server) => server.id === lease.primary?.serverId);
    if (primary?.reachable !== true) return false;
    const receives = (id: number): boolean => onlyTo === undefined || id === onlyTo;
    try {
      return primary.mutate(lease, (words) => words.push(word), receives);
    } catch {
      return false;
    }
  }
}

function isLeased(replica: FakeReplica | undefined, leaseId: number): replica is FakeReplica & { lease: FakeLease } {
  return replica?.lease?.id === leaseId;
}
