/**
 * `FileSystem` on a cluster: the master for names and attributes, the chunkservers for bytes, with this client's
 * caches between. What each of them does is in its own file, and connect.ts puts them together.
 */
import { chunkHandle, chunkVersion, type InodeId } from '../core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_CHUNKS_PER_PAGE, MAX_NAME_BYTES } from '../core/limits.js';
import type {
  AttributeChanges,
  Attributes,
  Beliefs,
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
import type * as wire from '../protocol/generated/messages.js';
import { MASTER_METHODS } from '../protocol/methods.js';
import type { ChunkServers } from './chunks/chunk-servers.js';
import { connectClient } from './connect.js';
import type { ClientParts, ClusterFileSystemConfig, ClusterFileSystemDependencies } from './connect.js';
import type { FileTable } from './files/file-table.js';
import type { InodeChanges } from './files/inode-changes.js';
import { changesLost } from './files/open-file.js';
import { FileOpener, type Created, type Opened } from './files/file-opener.js';
import type { AttributeCache } from './inodes/attribute-cache.js';
import type { KnownInodes } from './inodes/known-inodes.js';
import { Names } from './inodes/names.js';
import { Xattrs, type XattrFlags } from './inodes/xattrs.js';
import type { MasterConnection } from './session/master-connection.js';
import { toWireCaller } from './session/wire-attributes.js';

export class ClusterFileSystem implements FileSystem {
  readonly beliefs: Beliefs | undefined;
  private closed: Promise<void> | undefined;
  private toldLosses = 0;
  private readonly master: MasterConnection;
  private readonly servers: ChunkServers;
  private readonly cache: AttributeCache;
  private readonly inodes: KnownInodes;
  private readonly changes: InodeChanges;
  private readonly files: FileTable;
  private readonly names: Names;
  private readonly xattrs: Xattrs;
  private readonly opens: FileOpener;

  private constructor(parts: ClientParts, noteReads: ReadNotes) {
    const { master, servers, cache, holdings, listings, whole, inodes, changes, files } = parts;
    this.beliefs = parts.beliefs;
    this.master = master;
    this.servers = servers;
    this.cache = cache;
    this.inodes = inodes;
    this.changes = changes;
    this.files = files;
    this.names = new Names(master, cache, inodes, holdings, listings, whole, noteReads);
    this.xattrs = new Xattrs(master, cache, inodes);
    this.opens = new FileOpener(master, cache, inodes, files, this.names, holdings, whole);
  }

  /** Opens a session. UNAUTHENTICATED when the secret is another; UNAVAILABLE when no master answers in time. */
  static async connect(
    deps: ClusterFileSystemDependencies,
    config: ClusterFileSystemConfig,
  ): Promise<ClusterFileSystem> {
    return new ClusterFileSystem(await connectClient(deps, config), config.noteReads ?? 'all');
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
    return this.inodes.overlay(await this.inodes.freshAttributes(inode));
  }

  async setAttributes(credentials: Credentials, inode: InodeId, changes: AttributeChanges): Promise<Attributes> {
    return this.inodes.overlay(await this.changes.changeAttributes(credentials, inode, changes, false));
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
    this.files.watchLost(listener);
  }

  async syncMetadata(directory?: InodeId): Promise<void> {
    await this.master.sync();
    const isLost = directory !== undefined && this.files.syncs.changed.tell(directory);
    if (this.toldLosses === this.master.losses && !isLost) return;
    this.toldLosses = this.master.losses;
    throw changesLost();
  }

  async statFs(): Promise<FileSystemStats> {
    const { totalBytes, freeBytes, inodes } = await this.master.call(MASTER_METHODS.statFs, {});
    return { totalBytes, freeBytes, inodes, maxNameBytes: MAX_NAME_BYTES };
  }

  async placement(inode: InodeId, firstIndex: number): Promise<readonly ChunkPlacement[]> {
    const { size } = await this.inodes.freshAttributes(inode);
    const count = Math.min(MAX_CHUNKS_PER_PAGE, Math.ceil(size / CHUNK_SIZE_BYTES) - firstIndex);
    if (count <= 0) return [];
    const reply = await this.master.call(MASTER_METHODS.getChunks, { inode, firstIndex, count });
    return reply.chunks.map(({ index, handle, version, replicas }) => ({
      index,
      handle: chunkHandle(handle),
      version: chunkVersion(version),
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
