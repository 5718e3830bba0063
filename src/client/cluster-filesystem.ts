/**
 * `FileSystem` on a cluster: the master for names and attributes, the chunkservers for bytes, with this client's
 * caches between. What each of them does is in its own file; here they are put together, and every operation says
 * what it makes the caches forget.
 */
import type { Clock } from '../core/clock.js';
import { CairnError, hasCode } from '../core/errors.js';
import { chunkHandle, chunkVersion, inodeId, type InodeId } from '../core/ids.js';
import {
  CHUNKSERVER_CONNECT_MS,
  CHUNK_SIZE_BYTES,
  MAX_CHUNKS_PER_PAGE,
  MAX_NAME_BYTES,
  MAX_READDIR_ENTRIES,
  REQUEST_TIMEOUT_MS,
} from '../core/limits.js';
import type { Logger } from '../core/logging/logger.js';
import { isDirectory } from '../core/mode.js';
import type { Random } from '../core/random.js';
import { connectPeer, type EndpointOptions } from '../protocol/endpoint.js';
import type * as wire from '../protocol/generated/messages.js';
import { MASTER_METHODS } from '../protocol/methods.js';
import type { Network } from '../protocol/transport.js';
import { AttributeCache, type Moment } from './inodes/attribute-cache.js';
import { fromWireAttributes, toWireCaller, type InodeAttributes } from './session/wire-attributes.js';
import { kindOfMode, typeBits } from '../filesystem/file-kind.js';
import { permits } from '../filesystem/permits.js';
import { ChunkServers } from './chunks/chunk-servers.js';
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
  OpenFile,
  OpenFlags,
  ReadNotes,
  RenameFlags,
} from '../filesystem/filesystem.js';
import { FileTable, type FileTunables } from './files/file-table.js';
import { changesLost, locksLost } from './files/open-file.js';
import { MasterConnection } from './session/master-connection.js';

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

/** OpenFlags of cairn.proto. */
const OPEN_READ = 1;
const OPEN_WRITE = 2;
const OPEN_TRUNCATE = 4;
const OPEN_APPEND = 8;
const RENAME_NOREPLACE = 1;
const RENAME_EXCHANGE = 2;
const RENAME_WHITEOUT = 4;
const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
const TAKEN_BY_WRITES = new Set(['security.capability', 'system.posix_acl_access']);
/** Of which no permission is needed to be told that they are not there. */
const OFTEN_ASKED_XATTRS = new Set(['security.capability', 'system.posix_acl_access', 'system.posix_acl_default']);

export class ClusterFileSystem implements FileSystem {
  private closed: Promise<void> | undefined;
  private toldLosses = 0;

  private constructor(
    private readonly master: MasterConnection,
    private readonly servers: ChunkServers,
    private readonly cache: AttributeCache,
    private readonly files: FileTable,
    private readonly noteReads: ReadNotes,
  ) {}

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

  async lookup(credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    const known = this.cache.getName(parent, name);
    if (known !== undefined) {
      const directory = this.cache.getAttributes(parent);
      const attributes = this.cache.getAttributes(known);
      const isThere = attributes !== undefined && attributes.nlink > 0;
      if (directory !== undefined && isThere && permits(directory, credentials, 1)) {
        return this.files.overlay(attributes);
      }
    }
    const asked = this.cache.now();
    try {
      const entry = await this.master.call(MASTER_METHODS.lookup, {
        ...{ caller: toWireCaller(credentials), parent, name },
      });
      return this.files.overlay(this.learnEntry(parent, name, fromWireAttributes(present(entry.attributes)), asked));
    } catch (error) {
      if (hasCode(error, 'ENOENT')) this.cache.putAbsent(parent, name, asked);
      throw error;
    }
  }

  async readDirectory(
    credentials: Credentials,
    inode: InodeId,
    cookie: number,
    options: { readonly maxEntries?: number; readonly withAttributes?: boolean } = {},
  ): Promise<DirectoryPage> {
    const noAtime = this.noteReads !== 'all';
    if (!noAtime) this.files.noteRead(inode);
    const asked = this.cache.now();
    const reply = await this.master.call(MASTER_METHODS.readDirectory, {
      ...{ caller: toWireCaller(credentials), inode, cookie },
      maxEntries: Math.max(1, Math.min(MAX_READDIR_ENTRIES, options.maxEntries ?? MAX_READDIR_ENTRIES)),
      withAttributes: options.withAttributes === true,
      noAtime,
    });
    const entries = reply.entries.map((entry) => {
      // Copied out of the message, which would else live as long as any of its names.
      const name = Buffer.from(entry.name);
      const common = { name, inode: inodeId(entry.inode), kind: kindOfMode(entry.mode), cookie: entry.cookie };
      if (entry.attributes === null) return common;
      const attributes = this.learnEntry(inode, name, fromWireAttributes(entry.attributes), asked);
      return { ...common, attributes: this.files.overlay(attributes) };
    });
    // A master of an older release does not tell.
    const nextCookie = reply.nextCookie === 0 ? Infinity : reply.nextCookie;
    return { entries, end: reply.end, parent: inodeId(reply.parent), nextCookie };
  }

  async makeNode(credentials: Credentials, parent: InodeId, name: Buffer, node: NewNode): Promise<Attributes> {
    return this.createEntry(credentials, parent, name, {
      ...{ mode: typeBits(node.kind) | (node.mode & 0o7777), rdev: node.rdev ?? 0, exclusive: true },
      ...(node.umask !== undefined && { umask: node.umask }),
    });
  }

  async symlink(credentials: Credentials, parent: InodeId, name: Buffer, target: Buffer): Promise<Attributes> {
    return this.createEntry(credentials, parent, name, {
      ...{ mode: typeBits('symlink') | 0o777, symlinkTarget: target, exclusive: true },
    });
  }

  async readLink(credentials: Credentials, inode: InodeId): Promise<Buffer> {
    const noAtime = this.noteReads === 'none';
    if (!noAtime) this.files.noteRead(inode);
    const caller = toWireCaller(credentials);
    const reply = await this.master.call(MASTER_METHODS.readLink, { caller, inode, noAtime });
    return Buffer.from(reply.target);
  }

  async link(credentials: Credentials, inode: InodeId, newParent: InodeId, newName: Buffer): Promise<Attributes> {
    const reply = await this.master.mutate(MASTER_METHODS.link, (operation) => ({
      ...{ operation, caller: toWireCaller(credentials), inode, parent: newParent, name: newName },
    }));
    this.cache.dropAttributes(newParent);
    this.cache.dropAttributes(inode);
    return this.files.overlay(this.learnEntry(newParent, newName, fromWireAttributes(reply), this.cache.now()));
  }

  unlink(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    return this.remove(credentials, parent, name, false);
  }

  removeDirectory(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    return this.remove(credentials, parent, name, true);
  }

  async rename(
    credentials: Credentials,
    from: { readonly parent: InodeId; readonly name: Buffer },
    to: { readonly parent: InodeId; readonly name: Buffer },
    flags: RenameFlags = {},
  ): Promise<void> {
    const asked = this.cache.now();
    let reply: wire.RenameReply | undefined;
    try {
      reply = await this.master.mutate(MASTER_METHODS.rename, (operation) => ({
        ...{ operation, caller: toWireCaller(credentials) },
        ...{ parent: from.parent, name: from.name, newParent: to.parent, newName: to.name },
        flags:
          (flags.noReplace === true ? RENAME_NOREPLACE : 0) |
          (flags.exchange === true ? RENAME_EXCHANGE : 0) |
          (flags.whiteout === true ? RENAME_WHITEOUT : 0),
      }));
    } finally {
      // Also after a failure: what it found differs from what was believed, or is in doubt.
      this.cache.dropName(from.parent, from.name);
      this.cache.dropName(to.parent, to.name);
      this.learnDirectory(from.parent, reply?.parent, asked);
      if (to.parent !== from.parent) this.learnDirectory(to.parent, reply?.newParent, asked);
    }
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

  async getXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<Buffer> {
    // The kernel and `ls -l` ask for these of every file, and hardly one has them.
    if (OFTEN_ASKED_XATTRS.has(name.toString('latin1')) && this.cache.getAttributes(inode)?.hasXattrs === false) {
      throw new CairnError('ENODATA', `inode ${inode} has no xattrs`);
    }
    const reply = await this.master.call(MASTER_METHODS.getXattr, { caller: toWireCaller(credentials), inode, name });
    return Buffer.from(reply.value);
  }

  async setXattr(
    credentials: Credentials,
    inode: InodeId,
    name: Buffer,
    value: Uint8Array,
    flags: { readonly create?: boolean; readonly replace?: boolean } = {},
  ): Promise<void> {
    const bits = (flags.create === true ? XATTR_CREATE : 0) | (flags.replace === true ? XATTR_REPLACE : 0);
    // A write takes capabilities away, and set-group-id by the permissions of the group: one before this must not after it.
    if (TAKEN_BY_WRITES.has(name.toString('latin1'))) await this.files.publish(inode);
    await this.master.mutate(
      MASTER_METHODS.setXattr,
      (operation) => ({ operation, caller: toWireCaller(credentials), inode, name, value, flags: bits }),
      { idempotent: bits === 0 },
    );
    this.cache.dropAttributes(inode);
  }

  async listXattrs(credentials: Credentials, inode: InodeId): Promise<Buffer[]> {
    if (this.cache.getAttributes(inode)?.hasXattrs === false) return [];
    const reply = await this.master.call(MASTER_METHODS.listXattrs, { caller: toWireCaller(credentials), inode });
    return reply.names.map((name) => Buffer.from(name));
  }

  async removeXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<void> {
    await this.master.mutate(MASTER_METHODS.removeXattr, (operation) => ({
      ...{ operation, caller: toWireCaller(credentials), inode, name },
    }));
    this.cache.dropAttributes(inode);
  }

  // ---- Files ------------------------------------------------------------------------------------

  async create(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    options: NewFile,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes; readonly created: boolean }> {
    const asked = this.cache.now();
    let reply: wire.CreateReply | undefined;
    const target = await this.targetOf(credentials, parent, name, options.flags);
    const attributes = await this.files.openWith(target.known, credentials, options.flags, async () => {
      reply = await this.master.mutate(MASTER_METHODS.create, (operation) => {
        this.requireMayCut(target, options.flags);
        return { operation, caller: toWireCaller(credentials), parent, name, ...newFile(options) };
      });
      return fromWireAttributes(present(reply.attributes));
    });
    const created = reply?.created === true;
    if (created) this.learnDirectory(parent, reply?.parent, asked);
    this.cache.putName(parent, name, attributes.inode, created ? this.cache.now() : asked);
    const file = this.files.opened(credentials, attributes, options.flags);
    return { file, attributes: this.files.overlay(attributes), created };
  }

  open(
    credentials: Credentials,
    inode: InodeId,
    flags: OpenFlags,
    names: readonly EntryName[] = [],
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }> {
    const request = { inode, parent: 0, name: Buffer.alloc(0), names };
    return this.openEntry(credentials, request, flags, { known: inode, isCertain: true, since: this.files.lockLosses });
  }

  async openAt(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    flags: OpenFlags,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }> {
    const asked = this.cache.now();
    const target = await this.targetOf(credentials, parent, name, flags);
    const result = await this.openEntry(credentials, { inode: 0, parent, name, names: [] }, flags, target);
    this.cache.putName(parent, name, result.attributes.inode, asked);
    return result;
  }

  private async openEntry(
    credentials: Credentials,
    asked: Pick<wire.OpenRequest, 'inode' | 'parent' | 'name'> & { readonly names: readonly EntryName[] },
    flags: OpenFlags,
    target: Target,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }> {
    const withChunk = this.files.needsChunk(target.known, flags);
    const request = {
      caller: toWireCaller(credentials),
      ...asked,
      names: [...asked.names],
      flags: openBits(flags),
      withChunk,
    };
    const { appends } = this.files;
    const moment = appends.moment;
    let reply: wire.OpenReply | undefined;
    const attributes = await this.files.openWith(target.known, credentials, flags, async () => {
      reply =
        flags.truncate === true
          ? await this.master.mutate(MASTER_METHODS.open, (operation) => {
              this.requireMayCut(target, flags);
              return { ...request, operation };
            })
          : await this.master.call(MASTER_METHODS.open, request);
      return fromWireAttributes(present(reply.attributes));
    });
    const file = this.files.opened(credentials, attributes, flags);
    this.files.learnChunk(attributes, reply?.chunk ?? null);
    if (reply?.appendGranted === true) appends.granted(attributes.inode, moment);
    return { file, attributes: this.files.overlay(attributes) };
  }

  async createTemporary(
    credentials: Credentials,
    parent: InodeId,
    options: NewFile,
  ): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }> {
    const reply = await this.master.mutate(MASTER_METHODS.create, (operation) => ({
      ...{ operation, caller: toWireCaller(credentials), parent, ...newFile(options), temporary: true },
    }));
    const attributes = fromWireAttributes(present(reply.attributes));
    return { file: this.files.opened(credentials, attributes, options.flags, { isNew: true }), attributes };
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

  // ---- Inside -----------------------------------------------------------------------------------

  private learnEntry(parent: InodeId, name: Buffer, attributes: InodeAttributes, asked: Moment): InodeAttributes {
    if (isDirectory(attributes.mode)) this.cache.putDirectoryName(parent, name, attributes.inode, asked);
    else this.cache.putName(parent, name, attributes.inode, asked);
    return this.files.learn(attributes, asked);
  }

  /** What will be opened by a name. It is asked for where a file may be cut on which locks were lost. */
  private async targetOf(credentials: Credentials, parent: InodeId, name: Buffer, flags: OpenFlags): Promise<Target> {
    const since = this.files.lockLosses;
    const known = this.cache.getName(parent, name);
    const mustAsk = known === undefined && flags.truncate === true && this.files.hasLostLocks;
    if (!mustAsk) return { known, isCertain: known !== undefined, since };
    try {
      const { inode } = await this.lookup(credentials, parent, name);
      return { known: inode, isCertain: true, since };
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return { known: undefined, isCertain: true, since };
      throw error;
    }
  }

  /** Before each attempt: locks may have been lost since the one before. */
  private requireMayCut({ known, isCertain, since }: Target, { truncate }: OpenFlags): void {
    if (truncate !== true) return;
    if (known !== undefined) this.files.requireWritable(known, since);
    else if (since !== this.files.lockLosses || (!isCertain && this.files.hasLostLocks)) throw locksLost();
  }

  private async createEntry(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    node: wire.CreateRequestInit,
  ): Promise<Attributes> {
    const asked = this.cache.now();
    const reply = await this.master.mutate(MASTER_METHODS.create, (operation) => ({
      ...{ operation, caller: toWireCaller(credentials), parent, name, ...node },
    }));
    this.learnDirectory(parent, reply.parent, asked);
    return this.learnEntry(parent, name, fromWireAttributes(present(reply.attributes)), this.cache.now());
  }

  private async remove(credentials: Credentials, parent: InodeId, name: Buffer, directory: boolean): Promise<void> {
    const asked = this.cache.now();
    let reply: wire.UnlinkReply | undefined;
    try {
      reply = await this.master.mutate(MASTER_METHODS.unlink, (operation) => ({
        ...{ operation, caller: toWireCaller(credentials), parent, name, directory },
      }));
    } finally {
      this.cache.dropName(parent, name);
      this.learnDirectory(parent, reply?.parent, asked);
    }
  }

  /** After an own change in the directory, which the kernel asks about at its next step through it. */
  private learnDirectory(directory: InodeId, told: wire.Attributes | null | undefined, asked: Moment): void {
    this.cache.putChanged(directory, told ? fromWireAttributes(told) : undefined, asked);
  }
}

/**
 * `known`: the inode that an open is taken to be about; `isCertain`: that was looked at, also if there is none; `since`: how often
 * locks had been lost then.
 */
interface Target {
  readonly known: InodeId | undefined;
  readonly isCertain: boolean;
  readonly since: number;
}

function newFile({ mode, umask, flags, exclusive }: NewFile): wire.CreateRequestInit {
  return {
    ...{ mode: typeBits('file') | (mode & 0o7777), exclusive: exclusive === true, openFlags: openBits(flags) },
    ...(umask !== undefined && { umask }),
  };
}

function openBits(flags: OpenFlags): number {
  const bits = (flags.read ? OPEN_READ : 0) | (flags.write ? OPEN_WRITE : 0);
  if (bits === 0) throw new CairnError('EINVAL', 'a file is opened for reading, for writing, or both');
  return bits | (flags.truncate === true ? OPEN_TRUNCATE : 0) | (flags.append === true ? OPEN_APPEND : 0);
}

function present<T>(value: T | null): T {
  if (value === null) throw new CairnError('PROTOCOL', 'the master left attributes out of its answer');
  return value;
}
