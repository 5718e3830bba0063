/**
 * The oracle: a file system in memory that does what POSIX says, kept so simple that it is obviously right. The
 * conformance suite runs on it first, and the simulator compares a cluster with it.
 *
 * Each ModelFileSystem is one client; those made with the same ModelState share the files. There is nothing between
 * a client and the state, so every effect is visible to all at once.
 */
import {
  MAX_LINKS,
  MAX_NAME_BYTES,
  MAX_PATH_BYTES,
  MAX_READDIR_ENTRIES,
  MAX_XATTR_VALUE_BYTES,
} from '../../../src/core/limits.js';
import type { InodeId } from '../../../src/core/ids.js';
import type * as fs from '../../../src/filesystem/filesystem.js';
import type {
  Attributes,
  Credentials,
  FileKind,
  FileSystem,
  OpenFile,
  OpenFlags,
} from '../../../src/filesystem/filesystem.js';
import {
  checkName,
  demand,
  demandDeletion,
  dropPrivileges,
  EXECUTE,
  fail,
  inGroup,
  isOwner,
  keyName,
  may,
  ModelState,
  READ,
  SET_GID,
  WRITE,
} from './model-state.js';
import { bitsOf, changed, readAcl, saysMore, writeAcl } from './model-acl.js';
import type { ModelInode } from './model-state.js';
import { ModelOpenFile, checkSize } from './model-open-file.js';
import { ACL_NAMES, aclName, setAcl, checkXattr } from './model-xattrs.js';

type Opened = { readonly file: OpenFile; readonly attributes: Attributes };
type Place = { readonly parent: InodeId; readonly name: Buffer };

export class ModelFileSystem implements FileSystem {
  private readonly openFiles = new Set<ModelOpenFile>();

  constructor(readonly state: ModelState = new ModelState()) {}

  async lookup(credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    return this.state.child(credentials, this.state.directory(parent), checkName(name)).attributes();
  }

  async getAttributes(inode: InodeId): Promise<Attributes> {
    return this.state.inode(inode).attributes();
  }

  async setAttributes(credentials: Credentials, id: InodeId, changes: fs.AttributeChanges): Promise<Attributes> {
    const inode = this.state.inode(id);
    checkChanges(credentials, inode, changes);
    if (changes.uid !== undefined || changes.gid !== undefined) {
      if (inode.kind !== 'directory') dropPrivileges(credentials, inode);
      inode.uid = changes.uid ?? inode.uid;
      inode.gid = changes.gid ?? inode.gid;
    }
    if (changes.killPrivileges === true && inode.kind === 'file') dropPrivileges(credentials, inode);
    if (changes.mode !== undefined) {
      inode.permissions = changes.mode & 0o7777;
      if (credentials.uid !== 0 && !inGroup(credentials, inode.gid)) inode.permissions &= ~SET_GID;
      if (inode.acl !== undefined) inode.acl = changed(inode.acl, changes.mode);
    }
    if (changes.size !== undefined) this.resize(credentials, inode, changes.size);
    const now = this.state.now();
    if (changes.atime !== undefined) inode.atime = changes.atime === 'now' ? now : changes.atime;
    if (changes.mtime !== undefined) inode.mtime = changes.mtime === 'now' ? now : changes.mtime;
    this.state.touchMetadata(inode);
    return inode.attributes();
  }

  async access(credentials: Credentials, inode: InodeId, mask: number): Promise<void> {
    demand(credentials, this.state.inode(inode), mask);
  }

  async makeNode(credentials: Credentials, parent: InodeId, name: Buffer, node: fs.NewNode): Promise<Attributes> {
    const isDevice = node.kind === 'characterDevice' || node.kind === 'blockDevice';
    const inode = this.add(credentials, parent, name, node.kind, node, () => {
      const isWhiteout = node.kind === 'characterDevice' && (node.rdev ?? 0) === 0;
      if (isDevice && !isWhiteout && credentials.uid !== 0) fail('EPERM', 'only root makes devices');
    });
    if (isDevice) inode.rdev = node.rdev ?? 0;
    return inode.attributes();
  }

  async symlink(credentials: Credentials, parent: InodeId, name: Buffer, target: Buffer): Promise<Attributes> {
    if (target.length === 0) fail('ENOENT', 'an empty target');
    if (target.length > MAX_PATH_BYTES) fail('ENAMETOOLONG', 'the target is too long');
    if (target.includes(0)) fail('EINVAL', 'the target contains NUL');
    const inode = this.add(credentials, parent, name, 'symlink', { mode: 0o777 });
    inode.target = Buffer.from(target);
    return inode.attributes();
  }

  async readLink(_credentials: Credentials, id: InodeId): Promise<Buffer> {
    const inode = this.state.inode(id);
    if (inode.kind !== 'symlink') fail('EINVAL', 'not a symlink');
    this.state.touchRead(inode);
    return Buffer.from(inode.target);
  }

  async link(credentials: Credentials, id: InodeId, newParent: InodeId, newName: Buffer): Promise<Attributes> {
    const key = checkName(newName);
    const directory = this.state.directory(newParent);
    const inode = this.state.inode(id);
    this.state.demandNewEntry(credentials, directory, key);
    if (inode.kind === 'directory') fail('EPERM', 'a directory has one name');
    if (inode.nlink === 0 && !inode.linkable) fail('ENOENT', 'the last name is gone');
    if (inode.nlink >= MAX_LINKS) fail('EMLINK', 'too many links');
    this.state.addEntry(directory, key, inode);
    inode.nlink++;
    inode.linkable = false;
    this.state.touchMetadata(inode);
    return inode.attributes();
  }

  async unlink(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    const key = checkName(name);
    const directory = this.state.directory(parent);
    const inode = this.state.child(credentials, directory, key);
    demandDeletion(credentials, directory, inode);
    if (inode.kind === 'directory') fail('EISDIR', key);
    this.state.removeEntry(directory, key);
    this.state.dropLink(inode);
  }

  async removeDirectory(credentials: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    const key = checkName(name);
    const directory = this.state.directory(parent);
    const inode = this.state.child(credentials, directory, key);
    demandDeletion(credentials, directory, inode);
    if (inode.kind !== 'directory') fail('ENOTDIR', key);
    if (inode.entries.size > 0) fail('ENOTEMPTY', key);
    this.state.removeEntry(directory, key);
    this.state.dropLink(inode);
  }

  async rename(credentials: Credentials, from: Place, to: Place, flags: fs.RenameFlags = {}): Promise<void> {
    if (flags.exchange === true && (flags.noReplace === true || flags.whiteout === true))
      fail('EINVAL', 'EXCHANGE and another');
    const [fromKey, toKey] = [checkName(from.name), checkName(to.name)];
    const [source, target] = [this.state.directory(from.parent), this.state.directory(to.parent)];
    demand(credentials, source, EXECUTE);
    demand(credentials, target, EXECUTE);
    const moved = this.state.child(credentials, source, fromKey);
    const replaced = target.entries.get(toKey)?.inode;
    if (replaced !== undefined && flags.noReplace === true) fail('EEXIST', toKey);
    if (replaced === undefined && flags.exchange === true) fail('ENOENT', toKey);
    if (isAncestor(moved, target)) fail('EINVAL', 'a directory cannot move into itself');
    if (replaced !== undefined && isAncestor(replaced, source)) {
      fail(flags.exchange === true ? 'EINVAL' : 'ENOTEMPTY', 'the target holds the source');
    }
    if (replaced === moved) return;
    demandDeletion(credentials, source, moved);
    if (replaced !== undefined) demandDeletion(credentials, target, replaced);
    if (target.nlink === 0) fail('ENOENT', 'the target directory was removed');
    demand(credentials, target, WRITE | EXECUTE);
    if (flags.exchange !== true && replaced !== undefined) {
      if (moved.kind === 'directory' && replaced.kind !== 'directory') fail('ENOTDIR', toKey);
      if (moved.kind !== 'directory' && replaced.kind === 'directory') fail('EISDIR', toKey);
    }
    if (source !== target) {
      // A directory that changes its parent has its '..' written.
      if (moved.kind === 'directory') demand(credentials, moved, WRITE);
      if (flags.exchange === true && replaced?.kind === 'directory') demand(credentials, replaced, WRITE);
    }
    if (flags.exchange !== true && replaced !== undefined && replaced.entries.size > 0) fail('ENOTEMPTY', toKey);
    this.state.removeEntry(source, fromKey);
    if (flags.whiteout === true) this.add(credentials, source.id, from.name, 'characterDevice', { mode: 0 });
    if (replaced !== undefined) this.state.removeEntry(target, toKey);
    this.state.addEntry(target, toKey, moved);
    this.state.touchMetadata(moved);
    if (replaced === undefined) return;
    if (flags.exchange === true) {
      this.state.addEntry(source, fromKey, replaced);
      this.state.touchMetadata(replaced);
    } else {
      this.state.dropLink(replaced);
    }
  }

  async create(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    options: fs.NewFile,
  ): Promise<Opened & { readonly created: boolean }> {
    const key = checkName(name);
    const directory = this.state.directory(parent);
    demand(credentials, directory, EXECUTE);
    const existing = directory.entries.get(key)?.inode;
    if (existing === undefined) {
      const inode = this.add(credentials, parent, name, 'file', options);
      return { ...this.opened(credentials, inode, options.flags), created: true };
    }
    if (options.exclusive === true) fail('EEXIST', key);
    return { ...this.openInode(credentials, existing, options.flags), created: false };
  }

  async open(credentials: Credentials, inode: InodeId, flags: OpenFlags): Promise<Opened> {
    return this.openInode(credentials, this.state.inode(inode), flags);
  }

  async openAt(credentials: Credentials, parent: InodeId, name: Buffer, flags: OpenFlags): Promise<Opened> {
    const inode = this.state.child(credentials, this.state.directory(parent), checkName(name));
    return this.openInode(credentials, inode, flags);
  }

  async readDirectory(
    credentials: Credentials,
    id: InodeId,
    cookie: number,
    options: { readonly maxEntries?: number; readonly withAttributes?: boolean } = {},
  ): Promise<fs.DirectoryPage> {
    const directory = this.state.directory(id);
    demand(credentials, directory, READ);
    this.state.touchRead(directory);
    const maxEntries = Math.min(options.maxEntries ?? MAX_READDIR_ENTRIES, MAX_READDIR_ENTRIES);
    const rest = [...directory.entries].filter(([, entry]) => entry.cookie > cookie);
    const entries = rest.slice(0, maxEntries).map(([key, entry]) => ({
      name: keyName(key),
      inode: entry.inode.id,
      kind: entry.inode.kind,
      cookie: entry.cookie,
      ...(options.withAttributes === true ? { attributes: entry.inode.attributes() } : {}),
    }));
    return { entries, end: rest.length <= maxEntries, parent: directory.parent.id, nextCookie: directory.nextCookie };
  }

  async getXattr(credentials: Credentials, id: InodeId, name: Buffer): Promise<Buffer> {
    const inode = this.state.inode(id);
    const acl = aclName(inode, name);
    if (acl !== undefined) return writeAcl(inode[acl] ?? fail('ENODATA', acl));
    const key = checkXattr(credentials, inode, name, READ);
    return Buffer.from(inode.xattrs.get(key) ?? fail('ENODATA', key));
  }

  async setXattr(
    credentials: Credentials,
    id: InodeId,
    name: Buffer,
    value: Uint8Array,
    flags: { readonly create?: boolean; readonly replace?: boolean } = {},
  ): Promise<void> {
    const inode = this.state.inode(id);
    const acl = aclName(inode, name);
    if (acl !== undefined) {
      setAcl(credentials, inode, acl, value.length === 0 ? undefined : readAcl(value));
      return this.state.touchMetadata(inode);
    }
    const key = checkXattr(credentials, inode, name, WRITE);
    if (value.length > MAX_XATTR_VALUE_BYTES) fail('E2BIG', 'the value is too long');
    if (flags.create === true && inode.xattrs.has(key)) fail('EEXIST', key);
    if (flags.replace === true && !inode.xattrs.has(key)) fail('ENODATA', key);
    inode.xattrs.set(key, Buffer.from(value));
    this.state.touchMetadata(inode);
  }

  async listXattrs(credentials: Credentials, id: InodeId): Promise<Buffer[]> {
    const inode = this.state.inode(id);
    const lists = (['acl', 'defaultAcl'] as const).filter((list) => inode[list] !== undefined);
    const names = [...inode.xattrs.keys(), ...lists.map((list) => ACL_NAMES[list])].sort();
    return names.filter((key) => credentials.uid === 0 || !key.startsWith('trusted.')).map(keyName);
  }

  async removeXattr(credentials: Credentials, id: InodeId, name: Buffer): Promise<void> {
    const inode = this.state.inode(id);
    const acl = aclName(inode, name);
    if (acl !== undefined) {
      setAcl(credentials, inode, acl, undefined);
      return this.state.touchMetadata(inode);
    }
    const key = checkXattr(credentials, inode, name, WRITE);
    if (!inode.xattrs.delete(key)) fail('ENODATA', key);
    this.state.touchMetadata(inode);
  }

  async createTemporary(credentials: Credentials, parent: InodeId, options: fs.NewFile): Promise<Opened> {
    const directory = this.state.directory(parent);
    if (!options.flags.write) fail('EINVAL', 'a temporary file is for writing');
    if (directory.nlink === 0) fail('ENOENT', `directory ${parent} was removed`);
    demand(credentials, directory, WRITE | EXECUTE);
    const inode = this.make(credentials, directory, 'file', options);
    inode.nlink = 0;
    inode.linkable = options.exclusive !== true;
    return this.opened(credentials, inode, options.flags);
  }

  async getLock(inode: InodeId, request: fs.LockRequest): Promise<fs.LockHolder | undefined> {
    this.state.inode(inode);
    return this.state.locks.get(this, inode, request);
  }

  async setLock(inode: InodeId, request: fs.LockRequest, options: fs.LockOptions): Promise<void> {
    this.state.inode(inode);
    await this.state.locks.set(this, inode, request, options);
    if (request.type !== 'unlock') await options.onGranted?.();
  }

  async releaseLocks(inode: InodeId, kind: fs.LockKind, owner: string): Promise<void> {
    this.state.locks.release(this, inode, kind, owner);
  }

  async syncMetadata(): Promise<void> {
    // Nothing is ever lost here.
  }

  async statFs(): Promise<fs.FileSystemStats> {
    return {
      totalBytes: 2 ** 40,
      freeBytes: 2 ** 39,
      inodes: this.state.inodeCount,
      maxNameBytes: MAX_NAME_BYTES,
    };
  }

  async placement(inode: InodeId, _firstIndex: number): Promise<readonly fs.ChunkPlacement[]> {
    this.state.inode(inode);
    return [];
  }

  async close(): Promise<void> {
    for (const file of [...this.openFiles]) await file.close();
  }

  private add(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    kind: FileKind,
    node: { readonly mode: number; readonly umask?: number },
    check: () => void = () => undefined,
  ): ModelInode {
    const key = checkName(name);
    const directory = this.state.directory(parent);
    this.state.demandNewEntry(credentials, directory, key);
    check();
    const inode = this.make(credentials, directory, kind, node);
    this.state.addEntry(directory, key, inode);
    return inode;
  }

  private make(
    credentials: Credentials,
    directory: ModelInode,
    kind: FileKind,
    node: { readonly mode: number; readonly umask?: number },
  ): ModelInode {
    const inherited = kind === 'symlink' ? undefined : directory.defaultAcl;
    let permissions = node.mode & 0o7777;
    const acl = inherited === undefined ? undefined : changed(inherited, bitsOf(inherited) & permissions);
    if (acl !== undefined) permissions = (permissions & ~0o777) | bitsOf(acl);
    else if (kind !== 'symlink') permissions &= ~((node.umask ?? 0) & 0o777);
    let gid = credentials.gid;
    if ((directory.permissions & SET_GID) !== 0) {
      gid = directory.gid;
      if (kind === 'directory') permissions |= SET_GID;
      else if ((node.mode & 0o010) !== 0 && credentials.uid !== 0 && !inGroup(credentials, gid))
        permissions &= ~SET_GID;
    }
    const inode = this.state.make(kind, { permissions, uid: credentials.uid, gid, parent: directory });
    if (acl !== undefined && saysMore(acl)) inode.acl = acl;
    if (kind === 'directory') inode.defaultAcl = directory.defaultAcl;
    return inode;
  }

  private openInode(credentials: Credentials, inode: ModelInode, flags: OpenFlags): Opened {
    if (inode.kind === 'symlink') fail('ELOOP', 'symlinks are not followed');
    if (inode.kind === 'directory') fail('EISDIR', `inode ${inode.id}`);
    if (inode.kind !== 'file') fail('ENXIO', `inode ${inode.id} is a ${inode.kind}`);
    demand(credentials, inode, (flags.read ? READ : 0) | (flags.write || flags.truncate === true ? WRITE : 0));
    if (flags.truncate === true) {
      this.resize(credentials, inode, 0);
      this.state.touchMetadata(inode);
    }
    return this.opened(credentials, inode, flags);
  }

  private opened(credentials: Credentials, inode: ModelInode, flags: OpenFlags): Opened {
    const file = new ModelOpenFile(this.state, inode, credentials, flags, () => this.openFiles.delete(file));
    this.openFiles.add(file);
    return { file, attributes: inode.attributes() };
  }

  private resize(credentials: Credentials, inode: ModelInode, size: number): void {
    inode.content.truncate(size);
    if (credentials.uid !== 0) dropPrivileges(credentials, inode);
    else inode.xattrs.delete('security.capability');
    this.state.touchContent(inode);
  }
}

function isAncestor(ancestor: ModelInode, inode: ModelInode): boolean {
  for (let at = inode; ; at = at.parent) {
    if (at === ancestor) return true;
    if (at === at.parent) return false;
  }
}

/** chmod(2), chown(2), truncate(2), utimensat(2): who may make `changes`. */
function checkChanges(credentials: Credentials, inode: ModelInode, changes: fs.AttributeChanges): void {
  const isOwn = isOwner(credentials, inode);
  if (changes.mode !== undefined && !isOwn) fail('EPERM', 'chmod by another than the owner');
  if (changes.uid !== undefined && credentials.uid !== 0 && (!isOwn || changes.uid !== inode.uid)) {
    fail('EPERM', 'only root gives files away');
  }
  if (changes.gid !== undefined && credentials.uid !== 0) {
    const isAllowed = isOwn && (changes.gid === inode.gid || inGroup(credentials, changes.gid));
    if (!isAllowed) fail('EPERM', 'chgrp to a group that the caller is not in');
  }
  if (changes.size !== undefined) {
    if (inode.kind === 'directory') fail('EISDIR', 'truncate of a directory');
    if (inode.kind !== 'file') fail('EINVAL', `truncate of a ${inode.kind}`);
    checkSize(changes.size);
    demand(credentials, inode, WRITE);
  }
  if (changes.killPrivileges === true && !isOwn) demand(credentials, inode, WRITE);
  const times = [changes.atime, changes.mtime];
  if (times.some((time) => typeof time === 'object') && !isOwn) fail('EPERM', 'only the owner sets times');
  const isOneAlone = (changes.atime === 'now') !== (changes.mtime === 'now') && changes.size === undefined;
  if (isOneAlone && !isOwn) fail('EPERM', 'only the owner sets one time');
  if (times.includes('now') && !isOwn && !may(credentials, inode, WRITE)) fail('EACCES', 'touch without w');
}
