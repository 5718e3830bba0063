/**
 * Paths to inodes, for a driver whose kernel interface speaks in paths. Each component is one `FileSystem.lookup`,
 * which the client answers from its cache of names.
 *
 * It also knows names that are gone. libfuse's high-level interface never lets go of an open file's name: when the file
 * is removed it renames it to `.fuse_hidden…` beside itself, and goes on using that path until the last close.
 * CairnFS keeps unlinked open files by itself, so the driver really unlinks the file and only remembers here which
 * inode libfuse means by the hidden path: no directory ever shows such a name.
 */
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_NAME_BYTES } from '../../core/limits.js';
import type { Attributes, Credentials, FileSystem } from '../../filesystem/filesystem.js';

export interface Place {
  readonly parent: InodeId;
  readonly name: Buffer;
}

/** As libfuse 2.9 makes them: node number and a counter, eight hexadecimal digits each. */
const HIDDEN_NAME = /^\.fuse_hidden[0-9a-f]{16}$/;

export const isHiddenName = (name: Buffer): boolean => name.length === 28 && HIDDEN_NAME.test(name.toString('latin1'));

export class PathWalker {
  /** Inodes behind hidden paths. At most one an open file, so the handle table's bound is its bound. */
  private readonly hidden = new Map<string, { readonly parent: InodeId; readonly inode: InodeId }>();

  constructor(
    private readonly fileSystem: FileSystem,
    private readonly credentials: Credentials,
    /** What '/' is. */
    private readonly root: InodeId,
  ) {}

  /** The directory that a path's last component is in, and that component. EBUSY for '/', which has none. */
  async place(path: string): Promise<Place> {
    const components = split(path);
    const name = components.pop();
    if (name === undefined) throw new CairnError('EBUSY', 'the root of the mount cannot be made, renamed or removed');
    return { parent: await this.directory(components), name };
  }

  async attributes(path: string): Promise<Attributes> {
    if (path === '/') return this.fileSystem.getAttributes(this.root);
    return this.attributesAt(await this.place(path));
  }

  attributesAt(place: Place): Promise<Attributes> {
    const hidden = this.hiddenInode(place);
    if (hidden !== undefined) return this.fileSystem.getAttributes(hidden);
    return this.fileSystem.lookup(this.credentials, place.parent, place.name);
  }

  async inode(path: string): Promise<InodeId> {
    return path === '/' ? this.root : (await this.attributes(path)).inode;
  }

  hide(place: Place, inode: InodeId): void {
    this.hidden.set(keyOf(place), { parent: place.parent, inode });
  }

  hiddenInode(place: Place): InodeId | undefined {
    return this.hidden.size === 0 ? undefined : this.hidden.get(keyOf(place))?.inode;
  }

  /** True when `place` was hidden and is now forgotten. */
  forget(place: Place): boolean {
    return this.hidden.delete(keyOf(place));
  }

  /** Call when the inode is not open any more: libfuse asks nothing by its hidden path then. */
  forgetInode(inode: InodeId): void {
    for (const [key, entry] of this.hidden) if (entry.inode === inode) this.hidden.delete(key);
  }

  get hidesAnything(): boolean {
    return this.hidden.size > 0;
  }

  /** Whether removed files that are still open have their hidden path in the directory. */
  hidesIn(directory: InodeId): boolean {
    for (const { parent } of this.hidden.values()) if (parent === directory) return true;
    return false;
  }

  private async directory(components: readonly Buffer[]): Promise<InodeId> {
    let inode = this.root;
    for (const name of components) inode = (await this.fileSystem.lookup(this.credentials, inode, name)).inode;
    return inode;
  }
}

const keyOf = (place: Place): string => `${place.parent}/${place.name.toString('latin1')}`;

function split(path: string): Buffer[] {
  const components: Buffer[] = [];
  for (const part of path.split('/')) {
    if (part === '') continue;
    const name = Buffer.from(part, 'utf8');
    if (name.length > MAX_NAME_BYTES) {
      throw new CairnError('ENAMETOOLONG', `a name has ${name.length} bytes, more than ${MAX_NAME_BYTES}`);
    }
    components.push(name);
  }
  return components;
}
