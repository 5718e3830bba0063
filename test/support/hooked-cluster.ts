/**
 * A cluster for the client's tests: a real master and two real chunkservers over a network in memory. Hooks around
 * their handlers plant faults and count what clients ask for.
 */
import { segmentChecksums } from '../../src/core/checksum.js';
import { CairnError } from '../../src/core/errors.js';
import type { SessionId } from '../../src/core/ids.js';
import type { OpenCounts, Opens } from '../../src/master/sessions/opens.js';
import type { Session } from '../../src/master/sessions/sessions.js';
import type * as wire from '../../src/protocol/generated/messages.js';
import type { HandlerResult, Interceptor, RequestContext } from '../../src/protocol/rpc.js';
import type { ClusterFileSystem } from '../../src/client/cluster-filesystem.js';
import { MemoryNetwork } from './fakes/memory-network.js';
import { RealCluster, type Tunables } from './real-cluster.js';

/** Called when a client's request comes, before it is served; what a hook throws is the answer. */
export interface Hooks {
  read?: (request: wire.ReadChunkRequest, server: string) => Promise<void> | void;
  write?: (request: wire.WriteChunkRequest, server: string, payload: Uint8Array) => Promise<void> | void;
  /** Called after the write took effect, before it is answered. */
  written?: (request: wire.WriteChunkRequest, server: string) => Promise<void> | void;
  sync?: (request: wire.SyncChunkRequest, server: string) => Promise<void> | void;
  /** What it returns is the answer: how much is copied, and why not more. */
  copy?: (
    request: wire.CopyRangeRequest,
    server: string,
  ) => Promise<wire.CopyRangeReply | void> | wire.CopyRangeReply | void;
  /** Called before any of the master's methods but the session's. */
  master?: (method: string, request: unknown) => Promise<void> | void;
  /** Called after a mutation of the namespace took effect, before it is answered. */
  mutated?: (method: string) => Promise<void> | void;
  /** The chunkserver is of an older CairnFS, which knows no batches of writes. */
  isOld?: (server: string) => boolean;
  /** Changes bytes on their way to a reader. */
  damage?: (payload: Buffer, server: string) => void;
}

/** They work also while the master refuses what a test plants. */
const OF_THE_SESSION = new Set(['openSession', 'keepSession', 'closeSession', 'reclaim', 'close']);

const BATCHES = new Set(['writeBatch', 'forwardBatch']);

export class HookedCluster {
  readonly hooks: Hooks = {};
  readonly network = new MemoryNetwork();
  readonly reports: wire.ReportReplicaRequest[] = [];
  /** Requests of clients, by method. */
  private readonly calls = new Map<string, number>();
  private readonly real = new RealCluster(this.network, {
    ...{ chunkservers: 2, replicas: 2, host: 'memory' },
    intercept: { master: this.aroundMaster(), chunkserver: (index) => this.aroundChunkserver(index) },
  });

  start(): Promise<void> {
    return this.real.start();
  }

  stop(): Promise<void> {
    return this.real.stop();
  }

  startMaster(): Promise<void> {
    return this.real.startMaster();
  }

  stopMaster(): Promise<void> {
    return this.real.stopMaster();
  }

  connect(tunables?: Tunables): Promise<ClusterFileSystem> {
    return this.real.connect(tunables);
  }

  get masterAddress(): string {
    return this.real.masterAddress;
  }

  get serverAddresses(): readonly string[] {
    return this.real.chunkserverAddresses;
  }

  /** How often clients asked for `method`. */
  count(method: string): number {
    return this.calls.get(method) ?? 0;
  }

  /** What the master takes for open, of all sessions. */
  opens(): OpenCounts[] {
    const total = Reflect.get(this.real.parts.sessions, 'total') as Opens;
    return [...total.entries()].map(([, counts]) => counts);
  }

  /** Ends every session, as if its time had passed. */
  expireSessions(): void {
    const { sessions } = this.real.parts;
    const all = Reflect.get(sessions, 'sessions') as ReadonlyMap<SessionId, Session>;
    for (const session of [...all.values()]) sessions.end(session, 'expired');
  }

  private aroundMaster(): Interceptor {
    return async (method, request, { peer }, serve) => {
      if (peer.role !== 'client') return serve(request);
      this.note(method);
      if (method === 'reportReplica') this.reports.push(request as wire.ReportReplicaRequest);
      if (!OF_THE_SESSION.has(method)) await this.hooks.master?.(method, request);
      const result = await serve(request);
      const { operation } = request as { readonly operation?: wire.OperationId | null };
      if (operation) await this.hooks.mutated?.(method);
      return result;
    };
  }

  private aroundChunkserver(index: number): Interceptor {
    return async (method, request, context, serve) => {
      const server = this.serverAddresses[index] ?? '';
      if (BATCHES.has(method) && this.hooks.isOld?.(server) === true) {
        this.note(`${method} refused`);
        throw new CairnError('EOPNOTSUPP', `method ${method} is not served here`);
      }
      if (context.peer.role !== 'client') return serve(request);
      this.note(method);
      if (method === 'readChunk') return this.read(request as wire.ReadChunkRequest, server, serve);
      if (method === 'writeChunk') return this.write(request as wire.WriteChunkRequest, server, context, serve);
      if (method === 'writeBatch') return this.writeBatch(request as wire.WriteBatchRequest, server, context, serve);
      if (method === 'syncChunk') await this.hooks.sync?.(request as wire.SyncChunkRequest, server);
      if (method === 'copyRange') return this.copy(request as wire.CopyRangeRequest, server, serve);
      return serve(request);
    };
  }

  private async read(request: wire.ReadChunkRequest, server: string, serve: Serve): Promise<HandlerResult<unknown>> {
    await this.hooks.read?.(request, server);
    const result = await serve(request);
    if (this.hooks.damage === undefined) return result;
    const payload = Buffer.from(result.payload ?? []);
    this.hooks.damage(payload, server);
    return { reply: result.reply, payload };
  }

  private async write(
    request: wire.WriteChunkRequest,
    server: string,
    { payload }: RequestContext,
    serve: Serve,
  ): Promise<HandlerResult<unknown>> {
    await this.hooks.write?.(request, server, payload);
    const result = await serve(request);
    await this.hooks.written?.(request, server);
    return result;
  }

  /** As for each of its writes alone. */
  private async writeBatch(
    request: wire.WriteBatchRequest,
    server: string,
    { payload }: RequestContext,
    serve: Serve,
  ): Promise<HandlerResult<unknown>> {
    let start = 0;
    const writes = request.offsets.map((offset, i) => {
      const bytes = payload.subarray(start, (start += request.lengths[i] ?? 0));
      return { bytes, request: { ...request, offset, checksums: segmentChecksums(bytes, offset) } };
    });
    for (const write of writes) await this.hooks.write?.(write.request, server, write.bytes);
    const result = await serve(request);
    for (const write of writes) await this.hooks.written?.(write.request, server);
    return result;
  }

  private async copy(request: wire.CopyRangeRequest, server: string, serve: Serve): Promise<HandlerResult<unknown>> {
    const answer = await this.hooks.copy?.(request, server);
    if (answer === undefined) return serve(request);
    request.length = answer.copied;
    if (answer.copied > 0) await serve(request);
    return { reply: answer };
  }

  private note(method: string): void {
    this.calls.set(method, this.count(method) + 1);
  }
}

type Serve = Parameters<Interceptor>[3];

/** A hooked cluster that runs. */
export async function hookedCluster(): Promise<HookedCluster> {
  const cluster = new HookedCluster();
  await cluster.start();
  return cluster;
}
