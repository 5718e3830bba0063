/** Paths of a cluster, without a mount: '/a/b', with symlinks followed as the kernel would. */
import { CairnError, hasCode } from '../../core/errors.js';
import { ROOT_INODE } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_PAYLOAD_BYTES, MAX_SYMLINKS_FOLLOWED } from '../../core/limits.js';
import { isSymlink, PERMISSION_BITS } from '../../core/mode.js';
import { listEntries } from '../../filesystem/listing.js';
import type { Attributes, Credentials, DirectoryEntry, FileSystem } from '../../filesystem/filesystem.js';
import { kindOfMode } from '../../fuse/linux.js';
import { components } from './tree.js';
import type { Tree, TreeStat } from './tree.js';

const SLASH = Buffer.from('/');

interface Found {
  readonly attributes: Attributes;
  readonly parent: InodeId;
  readonly name: Buffer;
}

export class RemoteTree implements Tree {
  constructor(
    private readonly fileSystem: FileSystem,
    private readonly credentials: Credentials,
  ) {}

  show(path: Buffer): string {
    return `cairn:${path.toString()}`;
  }

  /** ENOENT when there is nothing. */
  async attributes(path: Buffer): Promise<Attributes> {
    const found = await this.find(path, true);
    if (found === undefined) throw new CairnError('ENOENT', `${this.show(path)} does not exist`);
    return found.attributes;
  }

  async stat(path: Buffer): Promise<TreeStat | undefined> {
    return statOf(await this.find(path, true));
  }

  async lstat(path: Buffer): Promise<TreeStat | undefined> {
    return statOf(await this.find(path, false));
  }

  async *entries(path: Buffer, withAttributes = false): AsyncIterable<DirectoryEntry> {
    const { inode } = await this.attributes(path);
    yield* listEntries(this.fileSystem, this.credentials, inode, { withAttributes });
  }

  async *list(path: Buffer): AsyncIterable<Buffer> {
    for await (const entry of this.entries(path)) yield entry.name;
  }

  async *read(path: Buffer): AsyncIterable<Buffer> {
    const { inode } = await this.attributes(path);
    const { file } = await this.fileSystem.open(this.credentials, inode, { read: true, write: false });
    try {
      for (let offset = 0; ;) {
        const bytes = await file.read(offset, MAX_PAYLOAD_BYTES);
        if (bytes.length === 0) return;
        offset += bytes.length;
        yield bytes;
      }
    } finally {
      await file.close();
    }
  }

  async write(path: Buffer, mode: number, content: AsyncIterable<Buffer>): Promise<void> {
    const { parent, name } = await this.place(path, true);
    const flags = { read: false, write: true, truncate: true };
    const { file } = await this.fileSystem.create(this.credentials, parent, name, { mode, flags });
    try {
      let offset = 0;
      for await (const bytes of content) offset += await file.write(offset, bytes);
    } catch (error) {
      await file.close();
      throw error;
    }
    await file.close();
  }

  async makeDirectory(path: Buffer, mode: number): Promise<void> {
    const { parent, name } = await this.place(path, false);
    await this.fileSystem.makeNode(this.credentials, parent, name, { kind: 'directory', mode });
  }

  async readLink(path: Buffer): Promise<Buffer> {
    const found = await this.find(path, false);
    if (found === undefined) throw new CairnError('ENOENT', `${this.show(path)} does not exist`);
    return this.fileSystem.readLink(this.credentials, found.attributes.inode);
  }

  async makeSymlink(path: Buffer, target: Buffer): Promise<void> {
    const { parent, name } = await this.place(path, false);
    await this.fileSystem.symlink(this.credentials, parent, name, target);
  }

  /** The directory and name that the path's end stands for; that name need not exist. */
  private async place(path: Buffer, followLast: boolean): Promise<{ parent: InodeId; name: Buffer }> {
    const walked = await this.walk(path, followLast);
    if (walked.name === undefined) throw new CairnError('EISDIR', `${this.show(path)} is a directory`);
    return { parent: walked.parent, name: walked.name };
  }

  private async find(path: Buffer, followLast: boolean): Promise<Found | undefined> {
    try {
      const { parent, name, attributes } = await this.walk(path, followLast);
      if (name === undefined) {
        return { attributes: await this.fileSystem.getAttributes(parent), parent, name: Buffer.from('.') };
      }
      return attributes === undefined ? undefined : { attributes, parent, name };
    } catch (error) {
      if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw error;
    }
  }

  /** Ends at an entry of `parent`, with its attributes when it exists; without a name at `parent` itself. */
  private async walk(
    path: Buffer,
    followLast: boolean,
  ): Promise<{ parent: InodeId; name?: Buffer; attributes?: Attributes }> {
    const rest = components(path);
    const walked: Buffer[] = [];
    const above: InodeId[] = [];
    let here = ROOT_INODE;
    let followed = 0;
    for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
      if (name.toString('latin1') === '..') {
        here = above.pop() ?? ROOT_INODE;
        continue;
      }
      const last = rest.length === 0;
      walked.push(name);
      const attributes = await this.lookup(here, name);
      if (attributes === undefined) {
        if (last) return { parent: here, name };
        const missing = `/${Buffer.concat(walked.flatMap((part) => [part, SLASH])).toString()}`;
        throw new CairnError('ENOENT', `the directory ${this.show(Buffer.from(missing))} does not exist`);
      }
      if (isSymlink(attributes.mode) && (followLast || !last)) {
        if (++followed > MAX_SYMLINKS_FOLLOWED) throw new CairnError('ELOOP', `${this.show(path)}: too many symlinks`);
        const target = await this.fileSystem.readLink(this.credentials, attributes.inode);
        rest.unshift(...components(target));
        if (target.toString('latin1').startsWith('/')) {
          here = ROOT_INODE;
          above.length = 0;
        }
        continue;
      }
      if (last) return { parent: here, name, attributes };
      above.push(here);
      here = attributes.inode;
    }
    return { parent: here };
  }

  private async lookup(parent: InodeId, name: Buffer): Promise<Attributes | undefined> {
    try {
      return await this.fileSystem.lookup(this.credentials, parent, name);
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined;
      throw error;
    }
  }
}

function statOf(found: Found | undefined): TreeStat | undefined {
  if (found === undefined) return undefined;
  const { mode, size } = found.attributes;
  return { kind: kindOfMode(mode), mode: mode & PERMISSION_BITS, size };
}
