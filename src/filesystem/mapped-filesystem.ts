/**
 * A `FileSystem` whose users and groups have other numbers than those of the one below, by an IdMapping: callers on their
 * way out, owners on their way back, and both ways what chown(2) and ACLs say. Mounts put it between driver and cluster
 * when they were asked to.
 *
 * ROOT_CREDENTIALS, that very object, is the mount itself, which acts after it has checked its caller: never mapped.
 */
import type { InodeId } from '../core/ids.js';
import { ROOT_CREDENTIALS } from './filesystem.js';
import type {
  AllocateMode,
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
  OpenFile,
  OpenFlags,
  RenameFlags,
  WriteOptions,
} from './filesystem.js';
import type { IdMapping, IdTable } from './id-mapping.js';
import type { Loan } from './loan.js';

interface Opened {
  readonly file: OpenFile;
  readonly attributes: Attributes;
}

export class MappedFileSystem implements FileSystem {
  constructor(
    private readonly below: FileSystem,
    private readonly ids: IdMapping,
  ) {}

  get beliefs(): Beliefs | undefined {
    return this.below.beliefs;
  }

  async lookup(credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    return this.shown(await this.below.lookup(this.caller(credentials), parent, name));
  }

  async getAttributes(inode: InodeId): Promise<Attributes> {
    return this.shown(await this.below.getAttributes(inode));
  }

  async setAttributes(credentials: Credentials, inode: InodeId, changes: AttributeChanges): Promise<Attributes> {
    const { uid, gid } = changes;
    const mapped = {
      ...changes,
      ...(uid !== undefined && { uid: this.ids.uids.keep(uid) }),
      ...(gid !== undefined && { gid: this.ids.gids.keep(gid) }),
    };
    return this.shown(await this.below.setAttributes(this.caller(credentials), inode, mapped));
  }

  access(credentials: Credentials, inode: InodeId, mask: number): Promise<void> {
    return this.below.access(this.caller(credentials), inode, mask);
  }

  async makeNode(credentials: Credentials, parent: InodeId, name: Buffer, node: NewNode): Promise<Attributes> {
    return this.shown(await this.below.makeNode(this.caller(credentials), parent, name, node));
  }

  async symlink(credentials: Credentials, parent: InodeId, name: Buffer, target: Buffer): Promise<Attributes> {
    return this.shown(await this.below.symlink(this.caller(credentials), parent, name, target));
  }

  readLink(credentials: Credentials, inode: InodeId): Promise<Buffer> {
    return this.below.readLink(this.caller(credentials), inode);
  }

  async link(credentials: Credentials, inode: InodeId, newParent: InodeId, newName: Buffer): Promise<Attributes> {
    return this.shown(await this.below.link(this.caller(credentials), inode, newParent, newName));
  }

  unlink(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    return this.below.unlink(this.caller(credentials), parent, name);
  }

  removeDirectory(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    return this.below.removeDirectory(this.caller(credentials), parent, name);
  }

  rename(
    credentials: Credentials,
    from: { readonly parent: InodeId; readonly name: Buffer },
    to: { readonly parent: InodeId; readonly name: Buffer },
    flags?: RenameFlags,
  ): Promise<void> {
    return this.below.rename(this.caller(credentials), from, to, flags);
  }

  async create(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    options: NewFile,
  ): Promise<Opened & { readonly created: boolean }> {
    const { created, ...opened } = await this.below.create(this.caller(credentials), parent, name, options);
    return { ...this.opened(opened), created };
  }

  async createTemporary(credentials: Credentials, parent: InodeId, options: NewFile): Promise<Opened> {
    return this.opened(await this.below.createTemporary(this.caller(credentials), parent, options));
  }

  watchLost(listener: LostListener): void {
    this.below.watchLost?.(listener);
  }

  async open(
    credentials: Credentials,
    inode: InodeId,
    flags: OpenFlags,
    names?: readonly EntryName[],
  ): Promise<Opened> {
    return this.opened(await this.below.open(this.caller(credentials), inode, flags, names));
  }

  async openAt(credentials: Credentials, parent: InodeId, name: Buffer, flags: OpenFlags): Promise<Opened> {
    return this.opened(await this.below.openAt(this.caller(credentials), parent, name, flags));
  }

  async readDirectory(
    credentials: Credentials,
    inode: InodeId,
    cookie: number,
    options?: { readonly maxEntries?: number; readonly withAttributes?: boolean },
  ): Promise<DirectoryPage> {
    const page = await this.below.readDirectory(this.caller(credentials), inode, cookie, options);
    const entries = page.entries.map((entry) =>
      entry.attributes === undefined ? entry : { ...entry, attributes: this.shown(entry.attributes) },
    );
    return { ...page, entries };
  }

  async getXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<Buffer> {
    const value = await this.below.getXattr(this.caller(credentials), inode, name);
    return isAcl(name) ? mapAcl(value, this.ids, (table, id) => table.toLocal(id)) : value;
  }

  async setXattr(
    credentials: Credentials,
    inode: InodeId,
    name: Buffer,
    value: Uint8Array,
    flags?: { readonly create?: boolean; readonly replace?: boolean },
  ): Promise<void> {
    const mapped = isAcl(name) ? mapAcl(value, this.ids, (table, id) => table.keep(id)) : value;
    await this.below.setXattr(this.caller(credentials), inode, name, mapped, flags);
  }

  listXattrs(credentials: Credentials, inode: InodeId): Promise<Buffer[]> {
    return this.below.listXattrs(this.caller(credentials), inode);
  }

  removeXattr(credentials: Credentials, inode: InodeId, name: Buffer): Promise<void> {
    return this.below.removeXattr(this.caller(credentials), inode, name);
  }

  getLock(inode: InodeId, request: LockRequest): Promise<LockHolder | undefined> {
    return this.below.getLock(inode, request);
  }

  setLock(inode: InodeId, request: LockRequest, options: LockOptions): Promise<void> {
    return this.below.setLock(inode, request, options);
  }

  releaseLocks(inode: InodeId, kind: LockKind, owner: string): Promise<void> {
    return this.below.releaseLocks(inode, kind, owner);
  }

  syncMetadata(directory?: InodeId): Promise<void> {
    return this.below.syncMetadata(directory);
  }

  statFs(): Promise<FileSystemStats> {
    return this.below.statFs();
  }

  placement(inode: InodeId, firstIndex: number): Promise<readonly ChunkPlacement[]> {
    return this.below.placement(inode, firstIndex);
  }

  close(): Promise<void> {
    return this.below.close();
  }

  private caller(credentials: Credentials): Credentials {
    return credentials === ROOT_CREDENTIALS ? credentials : this.ids.callerOf(credentials);
  }

  private shown(attributes: Attributes): Attributes {
    const { uids, gids } = this.ids;
    return { ...attributes, uid: uids.toLocal(attributes.uid), gid: gids.toLocal(attributes.gid) };
  }

  private file(below: OpenFile): MappedFile {
    return new MappedFile(
      below,
      (each) => this.shown(each),
      (by) => this.caller(by),
    );
  }

  private opened({ file, attributes }: Opened): Opened {
    return { file: this.file(file), attributes: this.shown(attributes) };
  }
}

class MappedFile implements OpenFile {
  constructor(
    private readonly below: OpenFile,
    private readonly shown: (attributes: Attributes) => Attributes,
    private readonly callerOf: (credentials: Credentials) => Credentials,
  ) {}

  private caller(by: Credentials | undefined): Credentials | undefined {
    return by === undefined ? undefined : this.callerOf(by);
  }

  get inode(): InodeId {
    return this.below.inode;
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.below.read(offset, length);
  }

  lend(offset: number, length: number): Promise<Loan> {
    return this.below.lend(offset, length);
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): Promise<number> {
    return this.below.write(offset, bytes, options);
  }

  flush(): Promise<void> {
    return this.below.flush();
  }

  sync(): Promise<void> {
    return this.below.sync();
  }

  truncate(size: number, by?: Credentials): Promise<void> {
    return this.below.truncate(size, this.caller(by));
  }

  seek(offset: number, whence: 'data' | 'hole'): Promise<number> {
    return this.below.seek(offset, whence);
  }

  allocate(offset: number, length: number, mode?: AllocateMode, by?: Credentials): Promise<void> {
    return this.below.allocate(offset, length, mode, this.caller(by));
  }

  copyFrom(source: OpenFile, sourceOffset: number, offset: number, length: number, by?: Credentials): Promise<number> {
    const from = source instanceof MappedFile ? source.below : source;
    return this.below.copyFrom(from, sourceOffset, offset, length, this.caller(by));
  }

  async attributes(): Promise<Attributes> {
    return this.shown(await this.below.attributes());
  }

  close(): Promise<void> {
    return this.below.close();
  }
}

const isAcl = (name: Buffer): boolean => name.toString('latin1').startsWith('system.posix_acl_');

/** acl(5) as its xattrs have it: a version of 4 bytes, then entries of a tag, permissions and an id. */
const ACL_HEADER_BYTES = 4;
const ACL_ENTRY_BYTES = 8;
const ACL_USER = 0x02;
const ACL_GROUP = 0x08;

/** A list in which named users and groups have other numbers. What is no list stays, for the master to refuse. */
function mapAcl(value: Uint8Array, ids: IdMapping, map: (table: IdTable, id: number) => number): Buffer {
  const list = Buffer.from(value);
  for (let at = ACL_HEADER_BYTES; at + ACL_ENTRY_BYTES <= list.length; at += ACL_ENTRY_BYTES) {
    const tag = list.readUInt16LE(at);
    if (tag !== ACL_USER && tag !== ACL_GROUP) continue;
    const table = tag === ACL_USER ? ids.uids : ids.gids;
    list.writeUInt32LE(map(table, list.readUInt32LE(at + 4)), at + 4);
  }
  return list;
}
