/**
 * A model of a file system for one mount, while another mount changes the same files: what the model tells the mount may be believed until
 * it was recalled, and a change by the other one waits for that. Answers take as long as the test wants.
 */
import { isDeepStrictEqual } from 'node:util';
import { hasCode, CairnError } from '../../../src/core/errors.js';
import type { InodeId } from '../../../src/core/ids.js';
import type * as fs from '../../../src/filesystem/filesystem.js';
import type { Loan } from '../../../src/filesystem/loan.js';
import { ModelFileSystem } from './model-filesystem.js';
import { nameKey } from './model-state.js';

const BELIEVED_MS = 8_000;

/** Resolves when an operation may begin, or its answer may go. */
export type Delay = (operation: string) => Promise<void> | undefined;

export interface PlannedChange {
  readonly recalled: readonly fs.Recalled[];
  readonly change: (other: ModelFileSystem) => Promise<unknown>;
}

export class BelievedFileSystem extends ModelFileSystem {
  /** What the mount asked for since the start. */
  readonly counts = new Map<string, number>();
  delay: Delay = () => undefined;
  /** Between the end of a recall and the change. */
  changeDelay: () => Promise<void> | undefined = () => undefined;
  /** Directories of which nothing is believed, and nothing recalled. */
  readonly unheld = new Set<InodeId>();
  private readonly other = new ModelFileSystem(this.state);
  private readonly pending = new Map<InodeId, number>();
  private listener: fs.RecallListener = () => undefined;

  readonly beliefs: fs.Beliefs = {
    nameMs: (parent, name, inode) => {
      if (this.isPending(parent) || !this.state.has(parent)) return 0;
      const found = this.state.inode(parent).entries.get(nameKey(name))?.inode.id;
      return found === inode ? BELIEVED_MS : 0;
    },
    attributesMs: (inode, change) => {
      if (!this.state.has(inode)) return 0;
      const node = this.state.inode(inode);
      if (this.isPending(inode) || (node.kind !== 'directory' && this.isPending(node.parent.id))) return 0;
      return node.change === change ? BELIEVED_MS : 0;
    },
    watchRecalls: (listener) => {
      this.listener = listener;
    },
  };

  /** The other mount changes something, which it does in the tick that it is given: `plan` says what, as things are. */
  async changeElsewhere(plan: () => PlannedChange): Promise<void> {
    for (let planned = plan(); ;) {
      const { recalled } = planned;
      const families = recalled.flatMap(({ inode, attributes }) => [inode, ...attributes]);
      for (const inode of families) this.pending.set(inode, (this.pending.get(inode) ?? 0) + 1);
      try {
        await this.listener(recalled.filter(({ inode }) => !this.unheld.has(inode)));
        await this.changeDelay();
        // What was done here meanwhile may make it another change.
        planned = plan();
        if (isDeepStrictEqual(planned.recalled, recalled)) {
          const changed = planned.change(this.other);
          for (const inode of families.splice(0)) this.end(inode);
          await changed;
          return;
        }
      } finally {
        for (const inode of families) this.end(inode);
      }
    }
  }

  private end(inode: InodeId): void {
    const left = (this.pending.get(inode) ?? 1) - 1;
    if (left > 0) this.pending.set(inode, left);
    else this.pending.delete(inode);
  }

  private isPending(inode: InodeId): boolean {
    return this.pending.has(inode) || this.unheld.has(inode);
  }

  /** As the cluster does: an inode that is gone is ESTALE. */
  private async run<T>(operation: string, work: () => Promise<T>, isByInode = false): Promise<T> {
    this.counts.set(operation, (this.counts.get(operation) ?? 0) + 1);
    await this.delay(operation);
    try {
      return await work();
    } catch (error) {
      if (isByInode && hasCode(error, 'ENOENT')) throw new CairnError('ESTALE', 'the inode is gone');
      throw error;
    } finally {
      await this.delay(operation);
    }
  }

  private demandThere(inode: InodeId): void {
    if (!this.state.has(inode)) throw new CairnError('ESTALE', `inode ${inode} is gone`);
  }

  override lookup(credentials: fs.Credentials, parent: InodeId, name: Buffer): Promise<fs.Attributes> {
    return this.run('lookup', async () => {
      this.demandThere(parent);
      return super.lookup(credentials, parent, name);
    });
  }

  override getAttributes(inode: InodeId): Promise<fs.Attributes> {
    return this.run('getAttributes', () => super.getAttributes(inode), true);
  }

  override setAttributes(...request: Parameters<ModelFileSystem['setAttributes']>): Promise<fs.Attributes> {
    return this.run('setAttributes', () => super.setAttributes(...request), true);
  }

  override async makeNode(...request: Parameters<ModelFileSystem['makeNode']>): Promise<fs.Attributes> {
    return this.run('makeNode', async () => {
      this.demandThere(request[1]);
      return super.makeNode(...request);
    });
  }

  override rename(...request: Parameters<ModelFileSystem['rename']>): Promise<void> {
    return this.run('rename', () => super.rename(...request));
  }

  override unlink(...request: Parameters<ModelFileSystem['unlink']>): Promise<void> {
    return this.run('unlink', () => super.unlink(...request));
  }

  override removeDirectory(...request: Parameters<ModelFileSystem['removeDirectory']>): Promise<void> {
    return this.run('removeDirectory', () => super.removeDirectory(...request));
  }

  override link(...request: Parameters<ModelFileSystem['link']>): Promise<fs.Attributes> {
    return this.run('link', () => super.link(...request));
  }

  override readDirectory(...request: Parameters<ModelFileSystem['readDirectory']>): Promise<fs.DirectoryPage> {
    return this.run('readDirectory', () => super.readDirectory(...request), true);
  }

  override create(...request: Parameters<ModelFileSystem['create']>): ReturnType<ModelFileSystem['create']> {
    return this.run('create', async () => {
      this.demandThere(request[1]);
      const opened = await super.create(...request);
      return { ...opened, file: this.slow(opened.file) };
    });
  }

  override open(
    credentials: fs.Credentials,
    inode: InodeId,
    flags: fs.OpenFlags,
    names: readonly fs.EntryName[] = [],
  ): ReturnType<ModelFileSystem['open']> {
    return this.run('open', async () => {
      this.demandThere(inode);
      const leads = ({ parent, name }: fs.EntryName): boolean =>
        this.state.has(parent) && this.state.inode(parent).entries.get(nameKey(name))?.inode.id === inode;
      if (!names.every(leads)) throw new CairnError('ESTALE', 'a name leads elsewhere');
      const opened = await super.open(credentials, inode, flags);
      return { ...opened, file: this.slow(opened.file) };
    });
  }

  override openAt(...request: Parameters<ModelFileSystem['openAt']>): ReturnType<ModelFileSystem['openAt']> {
    return this.run('openAt', () => super.openAt(...request));
  }

  private slow(file: fs.OpenFile): fs.OpenFile {
    const lend = (offset: number, length: number): Promise<Loan> => this.run('read', () => file.lend(offset, length));
    const attributes = (): Promise<fs.Attributes> => this.run('attributes', () => file.attributes());
    return new Proxy(file, {
      get: (target, key) => {
        if (key === 'lend') return lend;
        if (key === 'attributes') return attributes;
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
  }
}
