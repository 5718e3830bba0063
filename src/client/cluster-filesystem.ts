/**
 * `FileSystem` on a cluster: the master for names and attributes, the chunkservers for bytes, with this client's
 * caches between. What each of them does is in its own file; here they are put together.
 */
import type { Clock } from '../core/clock.js';
import { chunkHandle, chunkVersion, type InodeId } from '../core/ids.js';
import {
  CHUNKSERVER_CONNECT_MS,
  CHUNK_SIZE_BYTES,
  MAX_CHUNKS_PER_PAGE,
  MAX_NAME_BYTES,
  REQUEST_TIMEOUT_MS,
} from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import type { Random } from '../core/random.js';
import type {
  AttributeChanges,
  Attributes,
  ChunkPlacement,
  Credentials,
  DirectoryPage,
  EntryName,
  FileSystem,
  FileSystemStats,
  LockHolder,
  LockKind,
  LockOptions,
  LockRequest,
  LostListener,
  NewFile,
  NewNode,
  OpenFlags,
  ReadNotes,
  RenameFlags,
} from '../filesystem/filesystem.js';
import { permits } from '../filesystem/permits.js';
import { connectPeer, type EndpointOptions } from '../protocol/endpoint.js';
import type * as wire from '../protocol/generated/messages.js';
import { MASTER_METHODS } from '../protocol/methods.js';
import type { Network } from '../protocol/transport.js';
import { ChunkServers } from './chunks/chunk-servers.js';
import { FileTable, type FileTunables } from './files/file-table.js';
import { changesLost } from './files/open-file.js';
import { Opens, type Created, type Opened } from './files/opens.js';
import { AttributeCache } from './inodes/attribute-cache.js';
import { Names } from './inodes/names.js';
import { Xattrs, type XattrFlags } from './inodes/xattrs.js';
import { MasterConnection } from './session/master-connection.js';
import { toWireCaller } from './session/wire-attributes.js';

export interface ClusterFileSystemDependencies {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly logger: Logger;
}

export interface ClusterFileSystemConfig extends FileTunables {
  /** host:port. */
  readonly master: string;
  /** 32 bytes. */
  readonly secret: Buffer;
  /** Host and process, for the operator. */
  readonly clientName: string;
  /** Time to wait for the master at first. Default REQUEST_TIMEOUT_MS. */
  readonly connectTimeoutMs?: number;
  /** Time that attributes and names are believed; 0 asks always. Default CLIENT_CACHE_TTL_MS. */
  readonly cacheTtlMs?: number;
}

export class ClusterFileSystem implements FileSystem {
  private closed: Promise<void> | undefined;
  private toldLosses = 0;
  private readonly names: Names;
  private readonly xattrs: Xattrs;
  private readonly opens: Opens;

  private constructor(
    private readonly master: MasterConnection,
    private readonly servers: ChunkServers,
    private readonly cache: AttributeCache,
    private readonly files: FileTable,
    noteReads: ReadNotes,
  ) {
    this.names = new Names(master, cache, files, noteReads);
    this.xattrs = new Xattrs(master, cache, (inode) => files.publish(inode));
    this.opens = new Opens(master, cache, files, this.names);
  }

  /** Opens a session. UNAUTHENTICATED when the secret is another; UNAVAILABLE when no master answers in time. */
  static async connect(
    deps: ClusterFileSystemDependencies,
    config: ClusterFileSystemConfig,
  ): Promise<ClusterFileSystem> {
    const { clock, random, network, logger } = deps;
    const endpoint: EndpointOptions = { network, clock, random, logger, secret: config.secret, role: 'client' };
    let clusterId: string | undefined;
    const connect = async (): Promise<Awaited<ReturnType<typeof connectPeer>>> => {
      const options = clusterId === undefined ? endpoint : { ...endpoint, clusterId };
      const peer = await connectPeer(options, config.master, { role: 'master' });
      clusterId = peer.clusterId;
      return peer;
    };
    const cache = new AttributeCache({ clock, ...(config.cacheTtlMs !== undefined && { ttlMs: config.cacheTtlMs }) });
    // The table comes after the connection that it uses; until then nothing is open.
    const table: { current?: FileTable } = {};
    const timeout = config.operationTimeoutMs;
    const master = await MasterConnection.connect(
      {
        ...{ connect, clock, random, logger, clientName: config.clientName },
        opens: () => table.current?.openStates() ?? [],
        locks: () => table.current?.locks.states() ?? [],
        onOperationsLost: () => table.current?.operationsLost(),
        appends: () => table.current?.appends.inodes() ?? [],
        onReclaimed: (lost) => table.current?.appends.reclaimed(lost),
        lockLosses: () => table.current?.lockLosses ?? 0,
        onSessionLost: () => table.current?.sessionLost(),
        // Whoever is told ESTALE looks the name up once more: the second answer must not be the same from memory.
        onStale: () => cache.dropAll(),
        ...(timeout !== undefined && { operationTimeoutMs: timeout }),
      },
      config.connectTimeoutMs ?? REQUEST_TIMEOUT_MS,
    );
    const servers = new ChunkServers({
      clock,
      connect: (address) =>
        connectPeer({ ...endpoint, clusterId: master.clusterId }, address, {
          ...{ role: 'chunkserver', timeoutMs: CHUNKSERVER_CONNECT_MS },
        }),
    });
    table.current = new FileTable({ ...{ clock, random, logger, master, servers, cache }, tunables: config });
    return new ClusterFileSystem(master, servers, cache, table.current, config.noteReads ?? 'all');
  }

  get clusterId(): string {
    return this.master.clusterId;
  }

  /** What the master says of the cluster's health. */
  status(): Promise<wire.StatusReply> {
    return this.master.call(MASTER_METHODS.status, {});
  }

  /** A step of taking a chunkserver that is gone out of the cluster; see RemoveServerRequest. */
  removeServer(serverId: number, force: boolean): Promise<wire.RemoveServerReply> {
    return this.master.call(MASTER_METHODS.removeServer, { serverId, force });
  }

  // ---- Names ------------------------------------------------------------------------------------

  lookup(credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    return this.names.lookup(credentials, parent, name);
  }

  readDirectory(
    credentials: Credentials,
    inode: InodeId,
    cookie: number,
    options: { readonly maxEntries?: number; readonly withAttributes?: boolean } = {},
  ): Promise<DirectoryPage> {
    return this.names.readDirectory(credentials, inode, cookie, options);
  }

  makeNode(credentials: Credentials, parent: InodeId, name: Buffer, node: NewNode): Promise<Attributes> {
    return this.names.makeNode(credentials, parent, name, node);
  }

  symlink(credentials: Credentials, parent: InodeId, name: Buffer, target: Buffer): Promise<Attributes> {
    return this.names.symlink(credentials, parent, name, target);
  }

  readLink(credentials: Credentials, inode: InodeId): Promise<Buffer> {
    return this.names.readLink(credentials, inode);
  }

  link(credentials: Credentials, inode: InodeId, newParent: InodeId, newName: Buffer): Promise<Attributes> {
    return this.names.link(credentials, inode, newParent, newName);
  }

  unlink(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    return this.names.unlink(credentials, parent, name);
  }

  removeDirectory(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    return this.names.removeDirectory(credentials, parent, name);
  }

  rename(
    credentials: Credentials,
    from: { readonly parent: InodeId; readonly name: Buffer },
    to: { readonly parent: InodeId; readonly name: Buffer },
    flags: RenameFlags = {},
  ): Promise<void> {
    return this.names.rename(credentials, from, to, flags);
  }

  // ---- Attributes -------------------------------------------------------------------------------

  async getAttributes(inode: InodeId): Promise<Attributes> {
    return this.files.overlay(await this.files.freshAttributes(inode));
  }

  async setAttributes(credentials: Credentials, inode: InodeId, changes: AttributeChanges): Promise<Attributes> {
    return this.files.overlay(await this.files.changeAttributes(credentials, inode, changes, false));
  }

  async access(credentials: Credentials, inode: InodeId, mask: number): Promise<void> {
    const known = this.cache.getAttributes(inode);
    if (known !== undefined && permits(known, credentials, mask)) return;
    // A refusal is the master's to say: what is believed here may be old.
    await this.master.call(MASTER_METHODS.access, { caller: toWireCaller(credentials), inode, mask });
  }

  getXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<Buffer> {
    return this.xattrs.get(credentials, inode, name);
  }

  setXattr(
    credentials: Credentials,
    inode: InodeId,
    name: Buffer,
    value: Uint8Array,
    flags: XattrFlags = {},
  ): Promise<void> {
    return this.xattrs.set(credentials, inode, name, value, flags);
  }

  listXattrs(credentials: Credentials, inode: InodeId): Promise<Buffer[]> {
    return this.xattrs.list(credentials, inode);
  }

  removeXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<void> {
    return this.xattrs.remove(credentials, inode, name);
  }

  // ---- Files ------------------------------------------------------------------------------------

  create(credentials: Credentials, parent: InodeId, name: Buffer, options: NewFile): Promise<Created> {
    return this.opens.create(credentials, parent, name, options);
  }

  createTemporary(credentials: Credentials, parent: InodeId, options: NewFile): Promise<Opened> {
    return this.opens.createTemporary(credentials, parent, options);
  }

  open(credentials: Credentials, inode: InodeId, flags: OpenFlags, names: readonly EntryName[] = []): Promise<Opened> {
    return this.opens.open(credentials, inode, flags, names);
  }

  openAt(credentials: Credentials, parent: InodeId, name: Buffer, flags: OpenFlags): Promise<Opened> {
    return this.opens.openAt(credentials, parent, name, flags);
  }

  getLock(inode: InodeId, request: LockRequest): Promise<LockHolder | undefined> {
    return this.files.locks.find(inode, request);
  }

  setLock(inode: InodeId, request: LockRequest, options: LockOptions): Promise<void> {
    return this.files.locks.set(inode, request, options);
  }

  releaseLocks(inode: InodeId, kind: LockKind, owner: string): Promise<void> {
    return this.files.locks.release(inode, kind, owner);
  }

  watchLost(listener: LostListener): void {
    this.files.lostListener = listener;
  }

  /** Of the losses of power at the master, who asks first is told. */
  async syncMetadata(): Promise<void> {
    await this.master.sync();
    if (this.toldLosses === this.master.losses) return;
    this.toldLosses = this.master.losses;
    throw changesLost();
  }

  async statFs(): Promise<FileSystemStats> {
    const { totalBytes, freeBytes, inodes } = await this.master.call(MASTER_METHODS.statFs, {});
    return { totalBytes, freeBytes, inodes, maxNameBytes: MAX_NAME_BYTES };
  }

  async placement(inode: InodeId, firstIndex: number): Promise<readonly ChunkPlacement[]> {
    const { size } = await this.files.freshAttributes(inode);
    const count = Math.min(MAX_CHUNKS_PER_PAGE, Math.ceil(size / CHUNK_SIZE_BYTES) - firstIndex);
    if (count <= 0) return [];
    const reply = await this.master.call(MASTER_METHODS.getChunks, { inode, firstIndex, count });
    return reply.chunks.map(({ index, handle, version, replicas }) => ({
      ...{ index, handle: chunkHandle(handle), version: chunkVersion(version) },
      replicas: replicas.map(({ serverId, address }) => ({ serverId, address })),
    }));
  }

  close(): Promise<void> {
    this.closed ??= this.finish();
    return this.closed;
  }

  private async finish(): Promise<void> {
    try {
      await this.files.close();
    } finally {
      this.files.appends.stop();
      await this.master.close();
      this.servers.close();
    }
  }
}
