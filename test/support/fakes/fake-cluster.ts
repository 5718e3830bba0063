/**
 * A cluster for the client's tests: the master's real namespace and chunk map over a plain map, chunkservers that share
 * one memory, real RPC peers over a network in memory. Faults are planted by the hooks.
 */
import type { Clock } from '../../../src/core/clock.js';
import { appendHandlers } from '../../../src/master/service/append-methods.js';
import { AppendLeases } from '../../../src/master/sessions/append-leases.js';
import { segmentChecksums, segmentsMatch } from '../../../src/core/checksum.js';
import { CairnError, asCairnError } from '../../../src/core/errors.js';
import { chunkHandle, chunkIndex, inodeId, serverId, sessionId } from '../../../src/core/ids.js';
import type { InodeId, SessionId } from '../../../src/core/ids.js';
import { BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, LEASE_TTL_MS } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { NEVER } from '../../../src/core/master-time.js';
import type { Random } from '../../../src/core/random.js';
import * as chunkMap from '../../../src/master/tables/chunk-map.js';
import * as chunkRecords from '../../../src/master/tables/chunk-records.js';
import { lockHandlers } from '../../../src/master/service/lock-methods.js';
import { LockPolls } from '../../../src/master/sessions/lock-polls.js';
import { lockOf } from '../../../src/master/sessions/lock-state.js';
import { LockTable } from '../../../src/master/sessions/locks.js';
import * as namespace from '../../../src/master/namespace/namespace.js';
import { unpackNumber } from '../../../src/master/state/keys.js';
import { SortedMap } from '../../../src/master/store/sorted-map.js';
import type { Mutation, State } from '../../../src/master/state/state.js';
import type { Key, KeyRange } from '../../../src/master/store/store.js';
import { servePeers, type PeerServer } from '../../../src/protocol/endpoint.js';
import type * as wire from '../../../src/protocol/generated/messages.js';
import { CHUNKSERVER_METHODS, MASTER_METHODS } from '../../../src/protocol/methods.js';
import type { Handlers, Peer } from '../../../src/protocol/rpc.js';
import type { Network } from '../../../src/protocol/transport.js';

/** Mutations in place, undone when they throw. */
class PlainState implements State {
  private readonly map = new SortedMap<Uint8Array>();

  get(key: Key): Uint8Array | undefined {
    return this.map.get(key);
  }
  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]> {
    return this.map.range(range);
  }
  mutate<T>(decide: (mutation: Mutation) => T): T {
    const undo: (() => void)[] = [];
    const change = (key: Key, value: Uint8Array | null): void => {
      const before = this.map.get(key);
      undo.push(() => (before === undefined ? this.map.delete(key) : this.map.set(key, before)));
      if (value === null) this.map.delete(key);
      else this.map.set(key, Buffer.from(value));
    };
    try {
      return decide({
        get: (key) => this.get(key),
        range: (range) => this.range(range),
        put: change,
        delete: (key) => change(key, null),
      });
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
  }
  mutateIfRoom(decide: (mutation: Mutation) => void): boolean {
    this.mutate(decide);
    return true;
  }
  durable(): Promise<void> {
    return Promise.resolve();
  }
  ready(): undefined {
    return undefined;
  }
}

class FakeChunk {
  bytes = Buffer.alloc(0);
  lease = 0;

  write(offset: number, payload: Uint8Array): void {
    if (offset + payload.length > this.bytes.length) {
      const grown = Buffer.alloc(offset + payload.length);
      this.bytes.copy(grown);
      this.bytes = grown;
    }
    this.bytes.set(payload, offset);
  }
}

/** Called before a request is served; what it throws is the answer. */
export interface FakeHooks {
  read?: (request: wire.ReadChunkRequest, server: string) => Promise<void> | void;
  write?: (request: wire.WriteChunkRequest, server: string, payload: Uint8Array) => Promise<void> | void;
  /** Called after the write took effect, before it is answered. */
  written?: (request: wire.WriteChunkRequest) => Promise<void> | void;
  sync?: (request: wire.SyncChunkRequest) => Promise<void> | void;
  /** What it returns is the answer: how much is copied, and why not more. */
  copy?: (
    request: wire.CopyRangeRequest,
    server: string,
  ) => Promise<wire.CopyRangeReply | void> | wire.CopyRangeReply | void;
  /** Called before any of the master's methods but the session's. */
  master?: (method: string, request: unknown) => Promise<void> | void;
  /** Called after a mutation took effect, before it is answered. */
  mutated?: (method: string) => Promise<void> | void;
  /** Changes bytes on their way to a reader. */
  damage?: (payload: Buffer, server: string) => void;
}

interface Operation {
  readonly operation?: wire.OperationId | null;
}

export class FakeCluster {
  readonly hooks: FakeHooks = {};
  /** Calls of each method, for counting round trips. */
  readonly calls = new Map<string, number>();
  readonly opens = new Map<string, { readers: number; writers: number }>();
  readonly reports: wire.ReportReplicaRequest[] = [];
  readonly secret = Buffer.alloc(32, 7);
  readonly masterAddress = 'master:1';
  readonly serverAddresses = ['server-1:1', 'server-2:1'];
  private readonly state = new PlainState();
  private readonly chunks = new Map<number, FakeChunk>();
  private readonly sessions = new Map<number, Map<number, wire.StoredReplyInit & { reply?: object }>>();
  private readonly sessionOf = new Map<Peer, number>();
  private readonly polls = new LockPolls();
  readonly locks: LockTable;
  private readonly appends: AppendLeases;
  private toldLocks: ReturnType<typeof lockOf>[] = [];
  private nextHandle = 1;
  private nextLease = 1;
  private nextSession = 1;
  private servers: PeerServer[] = [];

  constructor(private readonly deps: { readonly network: Network; readonly clock: Clock; readonly random: Random }) {
    this.locks = new LockTable(deps.clock, (session) => this.polls.wake(session));
    this.appends = new AppendLeases({
      ...{ clock: deps.clock, logger: silentLogger, silentMs: () => 0, isSettled: () => true },
      disconnect: () => undefined,
      fence: () => Promise.resolve(),
      onLost: () => undefined,
    });
    this.state.mutate((m) => namespace.ensureRoot(m, { now: deps.clock.now() }, { mode: 0o755, uid: 0, gid: 0 }));
  }

  async start(): Promise<void> {
    const common = { ...this.deps, logger: silentLogger, secret: this.secret };
    const clusterId = (): string => 'fake';
    this.servers.push(
      await servePeers({ ...common, role: 'master' }, this.masterAddress, {
        ...{ table: MASTER_METHODS, handlers: this.masterHandlers(), accept: ['client'], clusterId },
      }),
    );
    for (const address of this.serverAddresses) {
      this.servers.push(
        await servePeers({ ...common, role: 'chunkserver' }, address, {
          ...{ table: CHUNKSERVER_METHODS, handlers: this.chunkHandlers(address), accept: ['client'], clusterId },
        }),
      );
    }
  }

  async stop(): Promise<void> {
    for (const server of this.servers) await server.close();
    this.servers = [];
  }

  /** Forgets every session, as if their time had passed. */
  expireSessions(): void {
    for (const session of this.sessions.keys()) {
      this.locks.endSession(sessionId(session));
      this.appends.endSession(sessionId(session), true);
    }
    this.sessions.clear();
    this.opens.clear();
  }

  count(method: string): number {
    return this.calls.get(method) ?? 0;
  }

  private masterHandlers(): Handlers<typeof MASTER_METHODS> {
    const { state } = this;
    const context = (): namespace.OperationContext => ({ now: this.deps.clock.now() });
    const read =
      <Q, R extends object>(name: string, run: (request: Q) => R) =>
      async (request: Q): Promise<{ reply: R }> => {
        this.note(name);
        await this.hooks.master?.(name, request);
        return { reply: run(request) };
      };
    const mutation =
      <Q extends Operation, R extends object>(
        name: string,
        run: (m: Mutation, context: namespace.OperationContext, request: Q, session: number) => R,
      ) =>
      async (request: Q, { peer }: { peer: Peer }): Promise<{ reply: R }> => {
        this.note(name);
        await this.hooks.master?.(name, request);
        const session = this.sessionOf.get(peer) ?? 0;
        const replies = this.sessions.get(session);
        if (replies === undefined) throw new CairnError('SESSION_EXPIRED', 'no such session');
        const sequence = request.operation?.sequence ?? 0;
        if (sequence === 0) throw new CairnError('PROTOCOL', `${name} without an operation id`);
        let stored = replies.get(sequence);
        if (stored === undefined) {
          try {
            stored = { reply: state.mutate((m) => run(m, context(), request, session)) };
          } catch (error) {
            stored = { errorCode: 1, errorMessage: asCairnError(error).code };
          }
          replies.set(sequence, stored);
          this.cutLeased();
          this.reap();
          await this.hooks.mutated?.(name);
        }
        if (stored.errorMessage) throw new CairnError(stored.errorMessage as 'EIO', `${name} failed`);
        return { reply: stored.reply as R };
      };
    const handlers: Partial<Handlers<typeof MASTER_METHODS>> = {
      openSession: ({ sessionId }, { peer }) => {
        const resumed = this.sessions.has(sessionId);
        const id = resumed ? sessionId : this.nextSession++;
        if (!resumed) this.sessions.set(id, new Map());
        this.sessionOf.set(peer, id);
        return { reply: { sessionId: id, clusterId: 'fake', resumed, epoch: 1 } };
      },
      keepSession: (_request, { peer }) => {
        if (!this.sessions.has(this.sessionOf.get(peer) ?? 0)) throw new CairnError('SESSION_EXPIRED', 'gone');
        return { reply: {} };
      },
      closeSession: () => ({ reply: {} }),
      reclaim: ({ opens, locks, appends, done }, { peer }) => {
        const told = locks.map((lock) => lockOf(sessionId(this.sessionOf.get(peer) ?? 0), lock));
        this.toldLocks.push(...told);
        if (done) this.takeLocks(this.sessionOf.get(peer) ?? 0);
        for (const { inode, readers, writers } of opens) {
          this.opens.set(`${this.sessionOf.get(peer) ?? 0}/${inode}`, { readers, writers });
        }
        if (appends.length === 0) return { reply: {} };
        const session = sessionId(this.sessionOf.get(peer) ?? 0);
        return { reply: { lostAppends: this.appends.replace(session, appends.map(inodeId)) } };
      },
      lookup: read('lookup', (request) => namespace.lookup(state, request)),
      getAttributes: read('getAttributes', (request) => namespace.getAttributes(state, request)),
      access: read('access', (request) => namespace.access(state, request)),
      setAttributes: mutation('setAttributes', namespace.setAttributes),
      create: mutation('create', (m, at, request: wire.CreateRequest, session) => {
        const reply = namespace.create(m, at, request);
        const inode = reply.attributes?.inode ?? 0;
        if (request.openFlags !== 0) this.noteOpen(session, inode, request.openFlags, 1);
        return reply;
      }),
      link: mutation('link', namespace.link),
      unlink: mutation('unlink', namespace.unlink),
      rename: mutation('rename', namespace.rename),
      readLink: read('readLink', (request) => {
        state.mutate((m) => namespace.noteRead(m, inodeId(request.inode), this.deps.clock.now()));
        return namespace.readLink(state, request);
      }),
      readDirectory: read('readDirectory', (request) => {
        state.mutate((m) => namespace.noteRead(m, inodeId(request.inode), this.deps.clock.now()));
        return namespace.readDirectory(state, request);
      }),
      setXattr: mutation('setXattr', namespace.setXattr),
      removeXattr: mutation('removeXattr', namespace.removeXattr),
      getXattr: read('getXattr', (request) => namespace.getXattr(state, request)),
      listXattrs: read('listXattrs', (request) => namespace.listXattrs(state, request)),
      statFs: read('statFs', () => ({ totalBytes: 2 ** 40, freeBytes: 2 ** 39, inodes: 1 })),
      open: async (request, requestContext) => {
        const session = this.sessionOf.get(requestContext.peer) ?? 0;
        const truncate = mutation('open', namespace.openTruncating);
        const plain = read('open', (q: wire.OpenRequest) => namespace.open(state, q));
        const result = (request.flags & 4) !== 0 ? await truncate(request, requestContext) : await plain(request);
        const attributes = result.reply;
        const [inode, size] = [attributes.inode ?? 0, attributes.size ?? 0];
        this.noteOpen(session, inode, request.flags, 1);
        if (!request.withChunk || size === 0) return { reply: { attributes } };
        const { chunks } = this.getChunks({ inode, firstIndex: 0, count: 1, mappedOnly: false });
        return { reply: { attributes, chunk: chunks?.[0] ?? null } };
      },
      close: ({ inode, readers, writers, atime }, { peer }) => {
        this.note('close');
        if (atime !== null) state.mutate((m) => namespace.noteRead(m, inodeId(inode), atime));
        const open = this.opens.get(`${this.sessionOf.get(peer) ?? 0}/${inode}`);
        if (open !== undefined) {
          open.readers -= readers;
          open.writers -= writers;
          if (open.readers + open.writers === 0) {
            this.appends.closeInode(sessionId(this.sessionOf.get(peer) ?? 0), inodeId(inode));
          }
        }
        this.reap();
        return { reply: {} };
      },
      ...lockHandlers({
        ...{ state, clock: this.deps.clock, locks: this.locks, polls: this.polls },
        sessions: { require: (peer) => this.lockSession(peer), settled: true },
        masterTime: () => NEVER,
      }),
      ...appendHandlers({
        ...{ state, clock: this.deps.clock, appends: this.appends },
        sessions: { require: (peer) => this.lockSession(peer) },
      }),
      publish: mutation('publish', namespace.publish),
      sync: read('sync', () => ({})),
      status: read('status', () => ({ clusterId: 'fake' })),
      punchChunks: mutation('punchChunks', namespace.punchChunks),
      getChunks: read('getChunks', (request) => this.getChunks(request)),
      leaseChunk: read('leaseChunk', (request) => this.leaseChunk(request)),
      reportReplica: (request) => {
        this.reports.push(request);
        return { reply: {} };
      },
    };
    return handlers as Handlers<typeof MASTER_METHODS>;
  }

  private chunkHandlers(address: string): Handlers<typeof CHUNKSERVER_METHODS> {
    const handlers: Partial<Handlers<typeof CHUNKSERVER_METHODS>> = {
      readChunk: async (request) => {
        this.note('readChunk');
        await this.hooks.read?.(request, address);
        const chunk = this.chunks.get(request.handle);
        if (chunk === undefined) throw new CairnError('NO_REPLICA', 'no such chunk');
        const payload = Buffer.from(chunk.bytes.subarray(request.offset, request.offset + request.length));
        const checksums = segmentChecksums(payload, request.offset);
        this.hooks.damage?.(payload, address);
        return { reply: { checksums, length: chunk.bytes.length }, payload };
      },
      writeChunk: async (request, { payload }) => {
        this.note('writeChunk');
        await this.hooks.write?.(request, address, payload);
        const chunk = this.chunks.get(request.handle);
        if (chunk === undefined) throw new CairnError('NO_REPLICA', 'no such chunk');
        if (chunk.lease !== request.leaseId) throw new CairnError('NOT_PRIMARY', 'another lease');
        if (!segmentsMatch(payload, request.offset, request.checksums)) throw new CairnError('CORRUPT', 'damaged');
        chunk.write(request.offset, payload);
        await this.hooks.written?.(request);
        return { reply: {} };
      },
      mapChunk: (request) => {
        const chunk = this.chunks.get(request.handle);
        if (chunk === undefined) throw new CairnError('NO_REPLICA', 'no such chunk');
        const blocks = Math.ceil(chunk.bytes.length / BLOCK_SIZE_BYTES);
        const dataBlocks = Buffer.alloc(Math.ceil(blocks / 8));
        for (let block = 0; block < blocks; block++) {
          const bytes = chunk.bytes.subarray(block * BLOCK_SIZE_BYTES, (block + 1) * BLOCK_SIZE_BYTES);
          if (bytes.some((byte) => byte !== 0))
            dataBlocks[block >> 3] = (dataBlocks[block >> 3] ?? 0) | (1 << (block & 7));
        }
        return { reply: { length: chunk.bytes.length, dataBlocks } };
      },
      copyRange: async (request) => {
        this.note('copyRange');
        const reply = (await this.hooks.copy?.(request, address)) ?? { copied: request.length, sourceError: 0 };
        const { source, offset } = request;
        const chunk = this.chunks.get(request.handle);
        const from = source === null ? undefined : this.chunks.get(source.handle);
        if (chunk?.lease !== request.leaseId) throw new CairnError('NOT_PRIMARY', 'another lease');
        const bytes = Buffer.alloc(reply.copied);
        const start = source?.offset ?? 0;
        const read = from?.bytes.subarray(start, start + Math.min(reply.copied, source?.length ?? 0));
        bytes.set(read ?? []);
        // Zeros past the end are not written.
        const end = Math.max(read?.length ?? 0, Math.min(bytes.length, chunk.bytes.length - offset));
        if (end > 0) chunk.write(offset, bytes.subarray(0, end));
        return { reply };
      },
      syncChunk: async (request) => {
        this.note('syncChunk');
        await this.hooks.sync?.(request);
        if (this.chunks.get(request.handle)?.lease !== request.leaseId) throw new CairnError('NOT_PRIMARY', 'other');
        return { reply: {} };
      },
    };
    return handlers as Handlers<typeof CHUNKSERVER_METHODS>;
  }

  private replicas(): wire.ReplicaInit[] {
    return this.serverAddresses.map((address, i) => ({ serverId: i + 1, address }));
  }

  private getChunks(request: wire.GetChunksRequest): wire.GetChunksReplyInit {
    const inode = inodeId(request.inode);
    const record = namespace.requireInode(this.state, inode);
    const chunks: wire.ChunkLocationInit[] = [];
    const { firstIndex: first, count } = request;
    const indexes = request.mappedOnly
      ? chunkMap.nextChunks(this.state, inode, record, { first, count }).map(({ index }) => index)
      : Array.from({ length: count }, (_, i) => first + i);
    for (const index of indexes) {
      const handle = chunkMap.lookupChunk(this.state, inode, record, chunkIndex(index));
      const chunk = handle === undefined ? undefined : chunkRecords.getChunk(this.state, handle);
      chunks.push({
        ...{ index, handle: handle ?? 0, version: chunk?.version ?? 0, validBytes: chunk?.validBytes ?? 0 },
        replicas: this.replicas(),
      });
    }
    return { layoutVersion: record.layoutVersion, chunks };
  }

  private leaseChunk(request: wire.LeaseChunkRequest): wire.LeaseChunkReplyInit {
    return this.state.mutate((m) => this.leaseIn(m, request));
  }

  private leaseIn(
    m: Mutation,
    request: Pick<wire.LeaseChunkRequest, 'inode' | 'index' | 'failedLease'>,
  ): wire.LeaseChunkReplyInit {
    const inode = inodeId(request.inode);
    const record = namespace.requireInode(m, inode);
    let handle = chunkMap.lookupChunk(m, inode, record, chunkIndex(request.index));
    if (handle === undefined) {
      handle = chunkHandle(this.nextHandle++);
      chunkMap.addChunk(m, {
        ...{ inode, inodeRecord: record, index: chunkIndex(request.index), handle, version: 1, lease: 0 },
        ...{ servers: [serverId(1), serverId(2)], wantedReplicas: 2 },
      });
      this.chunks.set(handle, new FakeChunk());
    }
    const chunk = this.chunks.get(handle);
    const known = chunkRecords.getChunk(m, handle);
    if (chunk === undefined || known === undefined) throw new CairnError('INTERNAL', 'chunk lost');
    if (chunk.lease === 0 || (request.failedLease !== 0 && request.failedLease === chunk.lease)) {
      if (chunk.lease !== 0) known.version = ++known.lastVersion;
      chunk.lease = this.nextLease++;
    }
    if (known.validBytes < CHUNK_SIZE_BYTES) {
      chunk.bytes = Buffer.from(chunk.bytes.subarray(0, known.validBytes));
      known.validBytes = CHUNK_SIZE_BYTES;
    }
    chunkRecords.saveChunk(m, handle, known, 2);
    const replicas = this.replicas();
    return {
      ...{ handle, version: known.version, leaseId: chunk.lease, leaseTtlMs: LEASE_TTL_MS },
      ...{ primary: replicas[0], replicas, layoutVersion: record.layoutVersion, unsynced: known.unsynced },
    };
  }

  private isMapped(handle: number, { inode, index }: wire.ChunkRecord): boolean {
    const record = namespace.readInode(this.state, inodeId(inode));
    if (record === undefined) return false;
    return chunkMap.lookupChunk(this.state, inodeId(inode), record, chunkIndex(index)) === handle;
  }

  /** A truncate is answered when the chunks under a lease have been cut. */
  private cutLeased(): void {
    for (const [handle, chunk] of this.chunks) {
      const known = chunkRecords.getChunk(this.state, chunkHandle(handle));
      if (known !== undefined && chunk.lease !== 0 && !this.isMapped(handle, known)) chunk.lease = this.nextLease++;
      if (known === undefined || known.validBytes >= CHUNK_SIZE_BYTES || chunk.lease === 0) continue;
      chunk.bytes = Buffer.from(chunk.bytes.subarray(0, known.validBytes));
      this.state.mutate((m) =>
        chunkRecords.saveChunk(m, chunkHandle(handle), { ...known, validBytes: CHUNK_SIZE_BYTES }, 2),
      );
    }
  }

  /** Removes inodes that have no name and are not open. */
  private reap(): void {
    const open = new Set<string>();
    for (const [key, { readers, writers }] of this.opens) if (readers + writers > 0) open.add(key.split('/')[1] ?? '');
    for (const [key] of [...this.state.range({ start: 'U', end: 'V' })]) {
      const inode = inodeId(unpackNumber(key, 1));
      if (open.has(String(inode))) continue;
      this.state.mutate((m) => {
        const record = namespace.requireInode(m, inode);
        chunkMap.removeChunks(m, inode, record, 1000);
        namespace.removeInode(m, inode);
      });
    }
  }

  private lockSession(peer: Peer): { readonly id: SessionId; readonly opens: { has(inode: InodeId): boolean } } {
    const id = this.sessionOf.get(peer) ?? 0;
    if (!this.sessions.has(id)) throw new CairnError('SESSION_EXPIRED', 'no such session');
    const isOpen = ({ readers, writers }: { readers: number; writers: number }): boolean => readers + writers > 0;
    const has = (inode: InodeId): boolean => isOpen(this.opens.get(`${id}/${inode}`) ?? { readers: 0, writers: 0 });
    return { id: sessionId(id), opens: { has } };
  }

  private takeLocks(session: number): void {
    const isOwn = ({ place }: ReturnType<typeof lockOf>): boolean => place.session === session;
    const told = this.toldLocks.filter(isOwn).map(({ place, type, ...range }) => {
      if (type === 'unlock') throw new CairnError('PROTOCOL', 'no lock');
      return { place, lock: { type, ...range } };
    });
    this.toldLocks = this.toldLocks.filter((lock) => !isOwn(lock));
    if (!this.locks.replace(sessionId(session), told)) throw new CairnError('SESSION_EXPIRED', 'locks lost');
  }

  /** Ends every lease, as recovery does. */
  revokeLeases(): void {
    for (const chunk of this.chunks.values()) if (chunk.lease !== 0) chunk.lease = this.nextLease++;
  }

  private note(method: string): void {
    this.calls.set(method, this.count(method) + 1);
  }

  private noteOpen(session: number, inode: number, flags: number, by: number): void {
    const key = `${session}/${inode}`;
    const open = this.opens.get(key) ?? { readers: 0, writers: 0 };
    if ((flags & 1) !== 0) open.readers += by;
    if ((flags & 2) !== 0) open.writers += by;
    this.opens.set(key, open);
  }
}
