/** Paths to inodes, as path_resolution(7): from the root of the cluster, component by component, symlinks followed. */
import { CairnError, hasCode } from '../core/errors.js';
import { ROOT_INODE, type InodeId } from '../core/ids.js';
import { MAX_PATH_BYTES, MAX_SYMLINKS_FOLLOWED } from '../core/limits.js';
import { kindOfMode } from './file-kind.js';
import type { Attributes, Credentials, FileSystem } from './filesystem.js';

/** A path in a cluster. One that does not begin with '/' begins at the root too. Buffers hold names that are not UTF-8. */
export type PathLike = string | Buffer;

/** Where a path leads: an entry of a directory, which need not exist. */
export interface Place {
  readonly parent: InodeId;
  /** Empty when the path ends in '/', '.' or '..' of the root: it has no entry to speak of. */
  readonly name: Buffer;
}

export interface Resolved extends Place {
  readonly attributes: Attributes;
  /** Without symlinks, '.' and '..'. */
  readonly realPath: Buffer;
}

export class PathResolver {
  constructor(
    readonly fs: FileSystem,
    /** On whose behalf. */
    readonly credentials: Credentials,
  ) {}

  /** What is at `path`. With `follow`, a symlink at its end is followed. ENOENT when there is nothing. */
  async resolve(path: PathLike, follow: boolean): Promise<Resolved> {
    const walk = await this.walk(path, follow);
    if (walk.attributes === undefined) throw missing(path);
    return { ...walk, attributes: walk.attributes };
  }

  /** As `resolve`, and the last component may be missing; then its `attributes` are. */
  async walk(
    path: PathLike,
    follow: boolean,
  ): Promise<Place & { readonly attributes: Attributes | undefined; readonly realPath: Buffer }> {
    const left = components(path).reverse();
    const mustBeDirectory = endsInDirectory(path);
    // Directories from the root on, and what was found last.
    const above: { readonly inode: InodeId; readonly name: Buffer }[] = [{ inode: ROOT_INODE, name: Buffer.alloc(0) }];
    let links = 0;
    for (let name = left.pop(); name !== undefined; name = left.pop()) {
      const directory = above.at(-1) ?? { inode: ROOT_INODE };
      if (name.equals(DOT_DOT)) {
        if (above.length > 1) above.pop();
        continue;
      }
      const last = left.length === 0;
      const attributes = await this.find(directory.inode, name, last);
      const realPath = (): Buffer => joined([...above.slice(1).map((each) => each.name), name]);
      if (attributes === undefined) {
        return { parent: directory.inode, name, attributes, realPath: realPath() };
      }
      const kind = kindOfMode(attributes.mode);
      if (kind === 'symlink' && (!last || follow || mustBeDirectory)) {
        if (++links > MAX_SYMLINKS_FOLLOWED) throw new CairnError('ELOOP', 'too many symlinks in the path');
        const target = await this.fs.readLink(this.credentials, attributes.inode);
        if (target[0] === SLASH) above.length = 1;
        left.push(...components(target).reverse());
        continue;
      }
      if (kind !== 'directory') {
        if (!last || mustBeDirectory) throw new CairnError('ENOTDIR', `'${name.toString()}' is no directory`);
        return { parent: directory.inode, name, attributes, realPath: realPath() };
      }
      if (last) return { parent: directory.inode, name, attributes, realPath: realPath() };
      above.push({ inode: attributes.inode, name });
    }
    // The path ended in '..', or is the root.
    const end = above.at(-1) ?? { inode: ROOT_INODE };
    const attributes = await this.fs.getAttributes(end.inode);
    return {
      parent: above.at(-2)?.inode ?? ROOT_INODE,
      name: Buffer.alloc(0),
      attributes,
      realPath: joined(above.slice(1).map((each) => each.name)),
    };
  }

  /** The entry that `path` names, without looking whether it exists. EBUSY and EINVAL when it names none. */
  async place(path: PathLike): Promise<Place> {
    const parts = components(path);
    const name = parts.pop();
    if (name === undefined) throw new CairnError('EBUSY', 'the root has no name');
    if (name.equals(DOT_DOT)) throw new CairnError('EINVAL', "the path ends in '..'");
    if (parts.length === 0) return { parent: ROOT_INODE, name };
    const directory = await this.resolve(joined(parts), true);
    if (kindOfMode(directory.attributes.mode) !== 'directory') throw new CairnError('ENOTDIR', 'no directory');
    return { parent: directory.attributes.inode, name };
  }

  /** As `place`; undefined when the path can only be a directory, or names no entry. */
  async entry(path: PathLike): Promise<Place | undefined> {
    const name = components(path).at(-1);
    return name === undefined || name.equals(DOT_DOT) || endsInDirectory(path) ? undefined : this.place(path);
  }

  private async find(parent: InodeId, name: Buffer, last: boolean): Promise<Attributes | undefined> {
    try {
      return await this.fs.lookup(this.credentials, parent, name);
    } catch (error) {
      if (last && hasCode(error, 'ENOENT')) return undefined;
      throw error;
    }
  }
}

const SLASH = 0x2f;
const DOT_DOT = Buffer.from('..');

/** The names of a path, in order, without '.' and empty ones. */
function components(path: PathLike): Buffer[] {
  const bytes = typeof path === 'string' ? Buffer.from(path) : path;
  if (bytes.length === 0) throw new CairnError('ENOENT', 'the path is empty');
  if (bytes.length > MAX_PATH_BYTES) throw new CairnError('ENAMETOOLONG', `the path has ${bytes.length} bytes`);
  if (bytes.includes(0)) throw new CairnError('EINVAL', 'the path has a NUL in it');
  const found: Buffer[] = [];
  for (let start = 0; start <= bytes.length;) {
    const slash = bytes.indexOf(SLASH, start);
    const end = slash === -1 ? bytes.length : slash;
    const name = bytes.subarray(start, end);
    if (name.length > 0 && !(name.length === 1 && name[0] === 0x2e)) found.push(Buffer.from(name));
    start = end + 1;
  }
  return found;
}

/** 'a/' and 'a/.' mean a directory, also when 'a' is a symlink. */
function endsInDirectory(path: PathLike): boolean {
  const text = typeof path === 'string' ? path : path.toString('latin1');
  return text.endsWith('/') || text.endsWith('/.') || text === '.';
}

const joined = (names: readonly Buffer[]): Buffer =>
  names.length === 0 ? Buffer.from('/') : Buffer.concat(names.flatMap((name) => [Buffer.from('/'), name]));

const missing = (path: PathLike): CairnError => new CairnError('ENOENT', `there is no '${path.toString()}'`);
