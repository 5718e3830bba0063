/**
 * The operations of libfuse 2.9's high-level interface (struct fuse_operations), by path and by handle, on a
 * `FileSystem`. Each fails with a CairnError; fuse-native-driver.ts passes arguments and answers through. Nothing here
 * depends on fuse-native, so tests call it directly.
 */
import { CairnError, hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_MOUNT_OPEN_FILES, MAX_PAGE_CACHE_GUARDS } from '../../core/limits.js';
import { PERMISSION_BITS, S_ISGID, S_ISUID } from '../../core/mode.js';
import type { Timespec } from '../../core/clock.js';
import type {
  Attributes,
  AttributeChanges,
  Credentials,
  FileKind,
  FileSystem,
  FileSystemStats,
  OpenFile,
} from '../../filesystem/filesystem.js';
import { listPages } from '../../filesystem/listing.js';
import { HandleTable } from '../handle-table.js';
import { kindOfMode, openFlagsOf, XATTR_CREATE, XATTR_REPLACE } from '../linux.js';
import { PageCacheGuard } from './page-cache-guard.js';
import { isHiddenName, PathWalker } from './path-walker.js';
import type { Place } from './path-walker.js';
import { takeCopy } from '../../filesystem/loan.js';
import { audited } from '../../core/invariant.js';

/** chown(2): this uid or gid stays as it is. */
const UNCHANGED_ID = 0xffffffff;

interface Open {
  readonly file: OpenFile;
  readonly path: string;
  /** Mtime for the next `fgetattr`, with which libfuse decides whether to keep cached pages; undefined for the true one. */
  tellMs: number | undefined;
  /** The state of the file, when the kernel drops its pages from before that with the open; until that is known to be done. */
  drops: number | undefined;
}

export interface ListedEntry {
  readonly name: Buffer;
  readonly inode: InodeId;
  readonly kind: FileKind;
}

export class PathOperations {
  private readonly opens = new HandleTable<Open>(MAX_MOUNT_OPEN_FILES);
  /** How often each inode is open. */
  private readonly openCounts = new Map<InodeId, number>();
  private readonly guard = new PageCacheGuard(MAX_PAGE_CACHE_GUARDS);
  private readonly walker: PathWalker;
  /** Directories whose removal was put off once; see `rmdir`. */
  private readonly removalPutOff = new Set<InodeId>();

  constructor(
    private readonly fileSystem: FileSystem,
    private readonly credentials: Credentials,
    private readonly options: {
      /** The directory that is the root of the mount. */
      readonly root: InodeId;
      /** New files have the mount's owner, whoever made them: then they must not be set-user-id of that owner. */
      readonly callersUnknown: boolean;
      readonly toMs: (time: Timespec) => number;
    },
  ) {
    this.walker = new PathWalker(fileSystem, credentials, options.root);
  }

  get openFiles(): number {
    return this.opens.size;
  }

  getattr(path: string): Promise<Attributes> {
    return this.walker.attributes(path);
  }

  /** Of the open file, whatever became of its name. `mtimeMs`: what to tell, which libfuse compares to keep pages or not. */
  async fgetattr(handle: number): Promise<{ readonly attributes: Attributes; readonly mtimeMs: number }> {
    const open = this.opens.get(handle);
    const attributes = await open.file.attributes();
    const mtimeMs = this.options.toMs(attributes.mtime);
    const { tellMs } = open;
    open.tellMs = undefined;
    return { attributes, mtimeMs: tellMs ?? mtimeMs };
  }

  async access(path: string, mask: number): Promise<void> {
    await this.fileSystem.access(this.credentials, await this.walker.inode(path), mask);
  }

  async readlink(path: string): Promise<Buffer> {
    return this.fileSystem.readLink(this.credentials, await this.walker.inode(path));
  }

  async mknod(path: string, mode: number, rdev: number): Promise<void> {
    const kind = kindOfMode(mode);
    if (kind === 'symlink') throw new CairnError('EINVAL', `mknod of ${path}: a symlink is made by symlink(2)`);
    await this.makeNode(path, kind, this.newFileMode(mode), rdev);
  }

  async mkdir(path: string, mode: number): Promise<void> {
    await this.makeNode(path, 'directory', mode & PERMISSION_BITS, 0);
  }

  async symlink(target: Buffer, path: string): Promise<void> {
    const { parent, name } = await this.placeForNew(path);
    await this.fileSystem.symlink(this.credentials, parent, name, target);
  }

  async link(existing: string, path: string): Promise<void> {
    const inode = await this.walker.inode(existing);
    const { parent, name } = await this.placeForNew(path);
    await this.fileSystem.link(this.credentials, inode, parent, name);
  }

  async unlink(path: string): Promise<void> {
    const place = await this.walker.place(path);
    // What libfuse hid was unlinked when it was hidden.
    if (this.walker.forget(place)) return;
    await this.fileSystem.unlink(this.credentials, place.parent, place.name);
  }

  /**
   * A directory in which libfuse holds hidden paths must stay for it: without the directory it passes no path at all
   * for those open files, which fuse-native does not survive. Often their close is only on its way and waits for us:
   * ESTALE makes the kernel ask once more, behind it. If they are open still, it is ENOTEMPTY, as on NFS.
   */
  async rmdir(path: string): Promise<void> {
    const place = await this.walker.place(path);
    const { inode } = await this.walker.attributesAt(place);
    this.refuseWhileHiding(inode, path);
    await this.fileSystem.removeDirectory(this.credentials, place.parent, place.name);
  }

  async rename(from: string, to: string): Promise<void> {
    const [source, target] = [await this.walker.place(from), await this.placeForNew(to)];
    if (source.parent === target.parent && isHiddenName(target.name)) {
      const { inode } = await this.walker.attributesAt(source);
      if (this.openCounts.has(inode)) {
        await this.removeOpenFile(source, target, inode);
        this.guard.renamed(from, to);
        return;
      }
    }
    const replaced = await this.existing(target);
    if (replaced !== undefined) this.refuseWhileHiding(replaced.inode, to);
    await this.fileSystem.rename(this.credentials, source, target);
    this.guard.renamed(from, to);
  }

  async chmod(path: string, mode: number): Promise<void> {
    await this.change(path, { mode: mode & PERMISSION_BITS });
  }

  async chown(path: string, uid: number, gid: number): Promise<void> {
    await this.change(path, {
      ...(uid === UNCHANGED_ID ? {} : { uid }),
      ...(gid === UNCHANGED_ID ? {} : { gid }),
    });
  }

  async truncate(path: string, size: number): Promise<void> {
    await this.change(path, { size });
  }

  async ftruncate(handle: number, size: number): Promise<void> {
    await this.opens.get(handle).file.truncate(size);
  }

  async utimens(path: string, atime: Timespec, mtime: Timespec): Promise<void> {
    await this.change(path, { atime, mtime });
  }

  async open(path: string, flags: number): Promise<number> {
    const place = await this.walker.place(path);
    const hidden = this.walker.hiddenInode(place);
    const { file, attributes } =
      hidden === undefined
        ? await this.fileSystem.openAt(this.credentials, place.parent, place.name, openFlagsOf(flags))
        : await this.fileSystem.open(this.credentials, hidden, openFlagsOf(flags));
    const { drops, tellMs } = this.guard.opened(path, attributes, this.options.toMs(attributes.mtime));
    return this.remember({ file, path, tellMs, drops: drops ? attributes.change : undefined });
  }

  /**
   * The kernel saw that the name is missing and creates. fuse-native does not pass the flags, so O_EXCL is not known:
   * always create exclusively, and when another mount was first, ESTALE makes the kernel look again and then
   * open the file, or fail with EEXIST, as its caller asked.
   */
  async create(path: string, mode: number): Promise<number> {
    const { parent, name } = await this.placeForNew(path);
    try {
      const { file } = await this.fileSystem.create(this.credentials, parent, name, {
        mode: this.newFileMode(mode),
        flags: { read: true, write: true },
        exclusive: true,
      });
      return await this.remember({ file, path, tellMs: undefined, drops: undefined });
    } catch (error) {
      if (hasCode(error, 'EEXIST')) throw new CairnError('ESTALE', `${path} was just made by another client`);
      throw error;
    }
  }

  /** Copies up to `into.length` bytes into `into`, which is not touched after the promise has settled. */
  async read(handle: number, into: Buffer, offset: number): Promise<number> {
    return takeCopy(await this.used(handle).file.lend(offset, into.length), into);
  }

  /** `bytes` is not touched after the promise has settled: `OpenFile.write` copies. */
  write(handle: number, bytes: Buffer, offset: number): Promise<number> {
    return this.opens.get(handle).file.write(offset, bytes);
  }

  async flush(handle: number): Promise<void> {
    await this.used(handle).file.flush();
  }

  /** fsync(2) and fdatasync(2): the size must survive in both, and other metadata comes along. */
  async fsync(handle: number): Promise<void> {
    await this.opens.get(handle).file.sync();
  }

  async fsyncdir(path: string): Promise<void> {
    const inode = await this.walker.inode(path).catch((error: unknown) => {
      // It was removed since it was opened.
      if (hasCode(error, 'ENOENT', 'ESTALE')) return undefined;
      throw error;
    });
    await this.fileSystem.syncMetadata(inode);
  }

  async release(handle: number): Promise<void> {
    const { file } = this.opens.remove(handle);
    const count = (this.openCounts.get(file.inode) ?? 1) - 1;
    if (count > 0) this.openCounts.set(file.inode, count);
    else this.openCounts.delete(file.inode);
    this.auditCounts();
    try {
      await file.close();
    } finally {
      if (count === 0) this.walker.forgetInode(file.inode);
    }
  }

  /** The whole listing: libfuse's high-level interface takes no less. Begins with '.' and '..'. */
  async readdir(path: string): Promise<ListedEntry[]> {
    const inode = await this.walker.inode(path);
    const listing: ListedEntry[] = [{ name: Buffer.from('.'), inode, kind: 'directory' }];
    for await (const { entries, parent } of listPages(this.fileSystem, this.credentials, inode)) {
      if (listing.length === 1) listing.push({ name: Buffer.from('..'), inode: parent, kind: 'directory' });
      for (const { name, inode: entryInode, kind } of entries) listing.push({ name, inode: entryInode, kind });
    }
    return listing;
  }

  statfs(): Promise<FileSystemStats> {
    return this.fileSystem.statFs();
  }

  /**
   * The kernel asks for `security.capability` before each write, so "none" is answered here. File capabilities and ACLs
   * are not enforced (nor could they: see `callersUnknown`), so they are refused rather than stored for show.
   */
  async getxattr(path: string, name: string): Promise<Buffer> {
    if (name.startsWith('security.')) throw new CairnError('ENODATA', `${name} is not kept`);
    if (name.startsWith('system.')) throw new CairnError('EOPNOTSUPP', `${name} is not supported`);
    return this.fileSystem.getXattr(this.credentials, await this.walker.inode(path), Buffer.from(name));
  }

  async setxattr(path: string, name: string, value: Uint8Array, flags: number): Promise<void> {
    if (name.startsWith('security.') || name.startsWith('system.')) {
      throw new CairnError('EOPNOTSUPP', `${name} is not supported`);
    }
    await this.fileSystem.setXattr(this.credentials, await this.walker.inode(path), Buffer.from(name), value, {
      create: (flags & XATTR_CREATE) !== 0,
      replace: (flags & XATTR_REPLACE) !== 0,
    });
  }

  async listxattr(path: string): Promise<Buffer[]> {
    return this.fileSystem.listXattrs(this.credentials, await this.walker.inode(path));
  }

  async removexattr(path: string, name: string): Promise<void> {
    await this.fileSystem.removeXattr(this.credentials, await this.walker.inode(path), Buffer.from(name));
  }

  private async change(path: string, changes: AttributeChanges): Promise<void> {
    await this.fileSystem.setAttributes(this.credentials, await this.walker.inode(path), changes);
  }

  private async makeNode(path: string, kind: Exclude<FileKind, 'symlink'>, mode: number, rdev: number): Promise<void> {
    const { parent, name } = await this.placeForNew(path);
    await this.fileSystem.makeNode(this.credentials, parent, name, { kind, mode, rdev });
  }

  /** fuse-native turns bytes that are not UTF-8 into U+FFFD: rather no file than one with another name. */
  private placeForNew(path: string): Promise<Place> {
    if (path.includes('\uFFFD')) {
      throw new CairnError('EINVAL', `${path}: the fuse-native driver can only make names that are UTF-8`);
    }
    return this.walker.place(path);
  }

  private newFileMode(mode: number): number {
    const bits = mode & PERMISSION_BITS;
    return this.options.callersUnknown ? bits & ~(S_ISUID | S_ISGID) : bits;
  }

  private async removeOpenFile(source: Place, hiddenAs: Place, inode: InodeId): Promise<void> {
    await this.fileSystem.unlink(this.credentials, source.parent, source.name);
    this.walker.hide(hiddenAs, inode);
  }

  private async existing(place: Place): Promise<Attributes | undefined> {
    if (!this.walker.hidesAnything) return undefined;
    try {
      return await this.walker.attributesAt(place);
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined;
      throw error;
    }
  }

  private refuseWhileHiding(directory: InodeId, path: string): void {
    if (!this.walker.hidesIn(directory)) {
      this.removalPutOff.delete(directory);
      return;
    }
    if (this.removalPutOff.delete(directory)) {
      throw new CairnError('ENOTEMPTY', `${path}: a removed file of this directory is still open`);
    }
    this.removalPutOff.add(directory);
    throw new CairnError('ESTALE', `${path}: a removed file of this directory is being closed`);
  }

  /** Of requests that only programs make, not of writes, by which the kernel brings pages of mappings, too. */
  private used(handle: number): Open {
    const open = this.opens.get(handle);
    open.tellMs = undefined;
    if (open.drops !== undefined) this.guard.dropped(open.path, open.file.inode, open.drops);
    open.drops = undefined;
    return open;
  }

  private async remember(open: Open): Promise<number> {
    const { file } = open;
    let handle: number;
    try {
      handle = this.opens.add(open);
    } catch (error) {
      await file.close();
      throw error;
    }
    this.openCounts.set(file.inode, (this.openCounts.get(file.inode) ?? 0) + 1);
    this.auditCounts();
    return handle;
  }

  private auditCounts(): void {
    const sum = (): number => [...this.openCounts.values()].reduce((total, count) => total + count, 0);
    audited(() => sum() === this.opens.size, 'every open file is counted at its inode');
  }
}
