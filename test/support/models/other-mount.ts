/** What another mount does to the files of a BelievedFileSystem, and what is there then. */
import { inodeId } from '../../../src/core/ids.js';
import type { InodeId } from '../../../src/core/ids.js';
import { ROOT_CREDENTIALS as root } from '../../../src/filesystem/filesystem.js';
import type { Recalled } from '../../../src/filesystem/filesystem.js';
import type { BelievedFileSystem, PlannedChange } from './believed-filesystem.js';
import type { ModelFileSystem } from './model-filesystem.js';
import type { ModelInode, ModelState } from './model-state.js';

/** A change by the other mount. */
export interface Change {
  readonly what:
    | 'create'
    | 'replace'
    | 'unlink'
    | 'mkdir'
    | 'rmdir'
    | 'rename'
    | 'write'
    | 'truncate'
    | 'chmod'
    | 'whole'
    | 'nothing';
  readonly path: string;
  /** Of a rename. */
  readonly to?: string;
  /** Content of a file that is made or written. */
  readonly text?: string;
  /** Of chmod and truncate. */
  readonly value?: number;
}

/** What is at a path; undefined when nothing is. */
export interface There {
  readonly inode: number;
  readonly mode: number;
  readonly size: number;
  readonly text: string;
  readonly names: readonly string[];
}

interface Place {
  readonly directory: ModelInode;
  readonly name: Buffer;
  readonly child: ModelInode | undefined;
}

const item = (
  inode: InodeId,
  names: readonly Buffer[],
  attributes: readonly (ModelInode | undefined)[],
  contents: readonly ModelInode[] = [],
  whole = false,
): Recalled => ({
  inode,
  whole,
  names,
  attributes: attributes.filter((each) => each !== undefined).map(({ id }) => id),
  contents: contents.map(({ id }) => id),
});

export class OtherMount {
  private hidden: InodeId | undefined;
  private files = 0;

  constructor(private readonly model: BelievedFileSystem) {}

  private get state(): ModelState {
    return this.model.state;
  }

  /** Resolves when it is made. Throws what the other mount is told. */
  change(change: Change): Promise<void> {
    return this.model.changeElsewhere(() => this.planOf(change));
  }

  /** What is at a path, or of an inode. */
  there(path: string, inode?: number): There | undefined {
    const found = inode === undefined ? this.find(path) : this.state.inode(inodeId(inode));
    if (found === undefined) return undefined;
    const { mode, size } = found.attributes();
    const text = found.kind === 'file' ? found.content.read(0, size).toString() : '';
    return { inode: found.id, mode, size, text, names: [...found.entries.keys()].sort() };
  }

  private find(path: string): ModelInode | undefined {
    let at: ModelInode | undefined = this.state.root;
    for (const name of path.split('/').filter((each) => each !== '')) at = at?.entries.get(name)?.inode;
    return at;
  }

  private placeOf(path: string): Place {
    const [parent, name] = [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)];
    const directory = this.find(parent);
    if (directory?.kind !== 'directory') throw new Error('ENOENT');
    return { directory, name: Buffer.from(name), child: directory.entries.get(name)?.inode };
  }

  /** In one tick, but for what nobody can see: the model does each call at once. */
  private fileElsewhere(other: ModelFileSystem, directory: InodeId, name: Buffer, text: string): Promise<unknown> {
    const flags = { read: true, write: true };
    const made = other.create(root, directory, name, { mode: 0o644, flags, exclusive: true });
    const inode = this.state.inode(directory).entries.get(name.toString('latin1'))?.inode;
    inode?.content.write(0, Buffer.from(text));
    return made.then(({ file }) => file.close());
  }

  private planOf(order: Change): PlannedChange {
    const { what, path, text = '' } = order;
    const { directory, name, child } = this.placeOf(path);
    const names = item(directory.id, [name], [directory, child]);
    const self = child === undefined ? [] : [item(child.id, [], [child])];
    switch (what) {
      case 'create':
        if (child !== undefined) throw new Error('EEXIST');
        return { recalled: [names], change: (other) => this.fileElsewhere(other, directory.id, name, text) };
      case 'replace': {
        if (child?.kind === 'directory') throw new Error('EISDIR');
        const parent = (this.hidden ??= this.state.make('directory', { permissions: 0o700, uid: 0, gid: 0 }).id);
        const beside = Buffer.from(`t${this.files++}`);
        return {
          recalled: [names],
          change: (other) => {
            const made = this.fileElsewhere(other, parent, beside, text);
            const renamed = other.rename(root, { parent, name: beside }, { parent: directory.id, name });
            return Promise.all([made, renamed]);
          },
        };
      }
      case 'nothing':
        // It was to be changed, and is not.
        return { recalled: [names], change: () => Promise.resolve() };
      case 'unlink':
        return { recalled: [names], change: (other) => other.unlink(root, directory.id, name) };
      case 'mkdir': {
        if (child !== undefined) throw new Error('EEXIST');
        const node = { kind: 'directory', mode: 0o755 } as const;
        return { recalled: [names], change: (other) => other.makeNode(root, directory.id, name, node) };
      }
      case 'rmdir':
        if (child?.kind !== 'directory' || child.entries.size > 0) throw new Error('ENOTEMPTY');
        return {
          recalled: [names, ...self],
          change: (other) => other.removeDirectory(root, directory.id, name),
        };
      case 'rename': {
        const to = this.placeOf(order.to ?? path);
        if (child === undefined) throw new Error('ENOENT');
        const target = item(to.directory.id, [to.name], [to.directory, to.child]);
        const from = { parent: directory.id, name };
        return {
          recalled: [names, ...self, target],
          change: (other) => other.rename(root, from, { parent: to.directory.id, name: to.name }),
        };
      }
      case 'write':
      case 'truncate': {
        if (child?.kind !== 'file') throw new Error('EISDIR');
        return {
          recalled: [item(directory.id, [], [child], [child])],
          change: async (other) => {
            if (what === 'truncate') return other.setAttributes(root, child.id, { size: order.value ?? 0 });
            child.content.truncate(0);
            child.content.write(0, Buffer.from(text));
            this.state.touchContent(child);
            return undefined;
          },
        };
      }
      case 'chmod': {
        if (child === undefined) throw new Error('ENOENT');
        const family = child.kind === 'directory' ? child.id : directory.id;
        return {
          recalled: [item(family, [], [child])],
          change: (other) => other.setAttributes(root, child.id, { mode: order.value ?? 0o644 }),
        };
      }
      case 'whole': {
        // All files of a directory at once.
        if (child?.kind !== 'directory') throw new Error('ENOTDIR');
        return {
          recalled: [item(child.id, [], [], [], true)],
          change: (other) =>
            Promise.all(
              [...child.entries].map(async ([key, { inode }]) => {
                if (inode.kind !== 'file') return undefined;
                const removed = other.unlink(root, child.id, Buffer.from(key));
                return Promise.all([removed, this.fileElsewhere(other, child.id, Buffer.from(key), text)]);
              }),
            ),
        };
      }
      default:
        throw new Error(`not a change: ${what}`);
    }
  }
}
