/**
 * The names of directories, and what is done with them: the master decides each, and every change says what it makes the
 * cache of names and attributes forget.
 */
import { CairnError, hasCode } from '../../core/errors.js';
import { inodeId, type InodeId } from '../../core/ids.js';
import { MAX_READDIR_ENTRIES } from '../../core/limits.js';
import { isDirectory } from '../../core/mode.js';
import type {
  Attributes,
  Credentials,
  DirectoryEntry,
  DirectoryPage,
  EntryName,
  NewNode,
  ReadNotes,
  RenameFlags,
} from '../../filesystem/filesystem.js';
import { kindOfMode, typeBits } from '../../filesystem/file-kind.js';
import { permits } from '../../filesystem/permits.js';
import type * as wire from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { MasterConnection } from '../session/master-connection.js';
import { fromWireAttributes, present, toWireCaller, type InodeAttributes } from '../session/wire-attributes.js';
import type { Holdings } from '../session/holdings.js';
import type { AttributeCache, Moment } from './attribute-cache.js';
import type { KnownInodes } from './known-inodes.js';
import type { WholeDirectories } from './whole-directories.js';
import type { ListedPage, Listings, PageQuery } from './listings.js';

const RENAME_NOREPLACE = 1;
const RENAME_EXCHANGE = 2;
const RENAME_WHITEOUT = 4;

export class Names {
  constructor(
    private readonly master: MasterConnection,
    private readonly cache: AttributeCache,
    private readonly inodes: KnownInodes,
    private readonly holdings: Holdings,
    private readonly listings: Listings,
    private readonly whole: WholeDirectories,
    private readonly noteReads: ReadNotes,
  ) {}

  async lookup(credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    const known = this.cache.getName(parent, name);
    if (known !== undefined) {
      const directory = this.cache.getAttributes(parent);
      const attributes = this.cache.getAttributes(known);
      const isThere = attributes !== undefined && attributes.nlink > 0;
      if (directory !== undefined && isThere && permits(directory, credentials, 1)) {
        return this.inodes.overlay(attributes);
      }
    } else if (this.cache.knowsAbsent(parent, name)) {
      const directory = this.cache.getAttributes(parent);
      if (directory !== undefined && permits(directory, credentials, 1)) throw noEntry(parent);
    }
    const holding = known === undefined ? this.whole.lacks(parent, name) : undefined;
    if (holding !== undefined) {
      const directory = this.cache.getAttributes(parent);
      if (directory !== undefined && permits(directory, credentials, 1)) {
        this.cache.putAbsent(parent, name, this.cache.now(), holding.grant);
        throw noEntry(parent);
      }
    }
    const asked = this.cache.now();
    const hold = this.holdings.areWanted;
    let entry: wire.Entry;
    try {
      entry = await this.master.call(MASTER_METHODS.lookup, { caller: toWireCaller(credentials), parent, name, hold });
    } catch (error) {
      if (hasCode(error, 'ENOENT')) this.cache.putAbsent(parent, name, asked);
      throw error;
    }
    if (entry.missing) {
      this.cache.putAbsent(parent, name, asked, entry.nameGrant);
      throw noEntry(parent);
    }
    const attributes = fromWireAttributes(present(entry.attributes));
    return this.inodes.overlay(this.learnEntry(parent, name, attributes, asked, entry.nameGrant));
  }

  async readDirectory(
    credentials: Credentials,
    inode: InodeId,
    cookie: number,
    options: { readonly maxEntries?: number; readonly withAttributes?: boolean } = {},
  ): Promise<DirectoryPage> {
    const noAtime = this.noteReads !== 'all';
    const query: PageQuery = {
      inode,
      cookie,
      maxEntries: Math.max(1, Math.min(MAX_READDIR_ENTRIES, options.maxEntries ?? MAX_READDIR_ENTRIES)),
      withAttributes: options.withAttributes === true,
    };
    const kept = this.keptPage(credentials, query);
    if (kept !== undefined) {
      if (!noAtime) this.inodes.noteKeptRead(inode);
      return kept;
    }
    if (!noAtime) this.inodes.noteRead(inode);
    const ahead = this.nextAfter(query);
    const [{ page }] = await this.listings.asking(
      [inode, ...ahead],
      () => this.askPages(credentials, query, ahead, noAtime),
      (listed) => this.learnWhole(listed),
    );
    return page;
  }

  /** A page that nobody has changed since: it may have all names of its directory. */
  private learnWhole({ query, page, holding }: ListedPage): void {
    if (query.cookie !== 0 || !page.end || holding === undefined) return;
    this.whole.put(
      query.inode,
      page.entries.map(({ name }) => name),
      holding,
    );
  }

  /** Directories that are likely to be listed next, so that they need not be asked for one by one. */
  private nextAfter({ inode, cookie }: PageQuery): InodeId[] {
    const parent = cookie === 0 && this.holdings.areWanted ? this.cache.parentOf(inode) : undefined;
    return parent === undefined ? [] : this.listings.next(parent, inode);
  }

  private async askPages(
    credentials: Credentials,
    query: PageQuery,
    ahead: readonly InodeId[],
    noAtime: boolean,
  ): Promise<[ListedPage, ...ListedPage[]]> {
    const asked = this.cache.now();
    const first = { caller: toWireCaller(credentials), ...query, noAtime, hold: this.holdings.areWanted };
    if (ahead.length === 0) {
      return [this.learnPage(query, await this.master.call(MASTER_METHODS.readDirectory, first), asked)];
    }
    const reply = await this.master.call(MASTER_METHODS.readDirectories, { first, ahead });
    return [
      this.learnPage(query, present(reply.first), asked),
      ...reply.ahead.map((listed) =>
        this.learnPage({ ...query, inode: inodeId(listed.inode) }, present(listed.reply), asked),
      ),
    ];
  }

  private learnPage(query: PageQuery, reply: wire.ReadDirectoryReply, asked: Moment): ListedPage {
    const { inode } = query;
    const entries = reply.entries.map((entry) => {
      // Copied out of the message: a name that is kept must not keep the whole of it in memory.
      const name = Buffer.from(entry.name);
      const common = { name, inode: inodeId(entry.inode), kind: kindOfMode(entry.mode), cookie: entry.cookie };
      if (entry.attributes === null) return common;
      const attributes = this.learnEntry(inode, name, fromWireAttributes(entry.attributes), asked, reply.grant);
      return { ...common, attributes: this.inodes.overlay(attributes) };
    });
    // A master of an older release does not tell.
    const nextCookie = reply.nextCookie === 0 ? Infinity : reply.nextCookie;
    const page = { entries, end: reply.end, parent: inodeId(reply.parent), nextCookie };
    return { query, page, holding: this.holdings.take(inode, reply.grant, asked) };
  }

  /** A page from memory, if its entries stay what they are, and may be told to the caller. */
  private keptPage(credentials: Credentials, query: PageQuery): DirectoryPage | undefined {
    const page = this.listings.get(query);
    if (page === undefined) return undefined;
    const directory = this.cache.getAttributes(query.inode);
    if (directory === undefined || !permits(directory, credentials, query.withAttributes ? 5 : 4)) return undefined;
    if (!query.withAttributes) return page;
    const entries: DirectoryEntry[] = [];
    for (const entry of page.entries) {
      const attributes = this.cache.getAttributes(entry.inode);
      if (attributes === undefined) return undefined;
      entries.push({ ...entry, attributes: this.inodes.overlay(attributes) });
    }
    return { ...page, entries };
  }

  async makeNode(credentials: Credentials, parent: InodeId, name: Buffer, node: NewNode): Promise<Attributes> {
    return this.createEntry(credentials, parent, name, {
      mode: typeBits(node.kind) | (node.mode & 0o7777),
      rdev: node.rdev ?? 0,
      exclusive: true,
      ...(node.umask !== undefined && { umask: node.umask }),
    });
  }

  async symlink(credentials: Credentials, parent: InodeId, name: Buffer, target: Buffer): Promise<Attributes> {
    return this.createEntry(credentials, parent, name, {
      mode: typeBits('symlink') | 0o777,
      symlinkTarget: target,
      exclusive: true,
    });
  }

  async readLink(credentials: Credentials, inode: InodeId): Promise<Buffer> {
    const noAtime = this.noteReads === 'none';
    if (!noAtime) this.inodes.noteRead(inode);
    const caller = toWireCaller(credentials);
    const reply = await this.master.call(MASTER_METHODS.readLink, { caller, inode, noAtime });
    return Buffer.from(reply.target);
  }

  async link(credentials: Credentials, inode: InodeId, newParent: InodeId, newName: Buffer): Promise<Attributes> {
    const asked = this.cache.now();
    const reply = await this.whole.adding(newParent, newName, () =>
      this.master.mutate(MASTER_METHODS.link, (operation) => ({
        operation,
        caller: toWireCaller(credentials),
        inode,
        parent: newParent,
        name: newName,
      })),
    );
    this.listings.drop(newParent);
    this.cache.recallName(newParent, newName);
    this.cache.putName(newParent, newName, inode, this.cache.now());
    this.inodes.noteChange(newParent);
    this.cache.dropAttributes(newParent);
    return this.inodes.overlay(this.inodes.changedOnce(fromWireAttributes(reply), asked));
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
    const moved = this.movedBy(from, to, flags);
    let reply: wire.RenameReply | undefined;
    try {
      reply = await this.whole.adding(to.parent, to.name, () =>
        this.master.mutate(MASTER_METHODS.rename, (operation) => ({
          operation,
          caller: toWireCaller(credentials),
          parent: from.parent,
          name: from.name,
          newParent: to.parent,
          newName: to.name,
          flags:
            (flags.noReplace === true ? RENAME_NOREPLACE : 0) |
            (flags.exchange === true ? RENAME_EXCHANGE : 0) |
            (flags.whiteout === true ? RENAME_WHITEOUT : 0),
        })),
      );
      this.inodes.noteChange(from.parent);
      this.inodes.noteChange(to.parent);
    } finally {
      // Also after a failure: what it found differs from what was believed, or is in doubt.
      if (reply === undefined || moved === undefined) {
        this.cache.dropName(from.parent, from.name);
        this.cache.dropName(to.parent, to.name);
      } else {
        const grant = reply.parent?.grant ?? 0;
        const newGrant = to.parent === from.parent ? grant : (reply.newParent?.grant ?? 0);
        this.cache.changedName(from.parent, from.name, 'nothing', asked, grant);
        this.cache.changedName(to.parent, to.name, moved, asked, newGrant);
      }
      this.learnDirectory(from.parent, reply?.parent, asked);
      if (to.parent !== from.parent) this.learnDirectory(to.parent, reply?.newParent, asked);
    }
  }

  /** What a rename moves, if that is known to stay, and that it leaves nothing behind: two names of one inode are left as they are. */
  private movedBy(from: EntryName, to: EntryName, flags: RenameFlags): InodeId | undefined {
    if (!this.holdings.areWanted || flags.exchange === true || flags.whiteout === true) return undefined;
    const moved = this.cache.getName(from.parent, from.name);
    const replaced = this.cache.getName(to.parent, to.name);
    const isKnown = replaced !== undefined || this.cache.knowsAbsent(to.parent, to.name);
    return isKnown && replaced !== moved ? moved : undefined;
  }

  /** After an own change in the directory, which the kernel asks about at its next step through it. */
  learnDirectory(directory: InodeId, told: wire.Attributes | null | undefined, asked: Moment): void {
    this.listings.drop(directory);
    this.cache.putChanged(directory, told ? fromWireAttributes(told) : undefined, asked);
  }

  private learnEntry(
    parent: InodeId,
    name: Buffer,
    attributes: InodeAttributes,
    asked: Moment,
    grant: number,
  ): InodeAttributes {
    if (isDirectory(attributes.mode)) this.cache.putDirectoryName(parent, name, attributes.inode, asked, grant);
    else this.cache.putName(parent, name, attributes.inode, asked, grant);
    return this.inodes.learn(attributes, asked);
  }

  private async createEntry(
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
    node: wire.CreateRequestInit,
  ): Promise<Attributes> {
    const asked = this.cache.now();
    const reply = await this.whole.adding(parent, name, () =>
      this.master.mutate(MASTER_METHODS.create, (operation) => ({
        operation,
        caller: toWireCaller(credentials),
        parent,
        name,
        ...node,
        hold: this.holdings.areWanted,
      })),
    );
    const attributes = fromWireAttributes(present(reply.attributes));
    this.inodes.noteChange(parent);
    this.inodes.noteChange(attributes.inode);
    this.learnDirectory(parent, reply.parent, asked);
    this.cache.madeName(parent, name, attributes.inode, asked, reply.nameGrant, isDirectory(attributes.mode));
    this.inodes.learn(attributes, asked);
    // It is not remembered when others are about to make something in it already, and their recall has overtaken this answer.
    if (isDirectory(attributes.mode) && this.cache.getAttributes(attributes.inode) !== undefined) {
      const holding = this.holdings.take(attributes.inode, attributes.grant, asked);
      if (holding !== undefined) this.whole.put(attributes.inode, [], holding);
    }
    return attributes;
  }

  private async remove(credentials: Credentials, parent: InodeId, name: Buffer, directory: boolean): Promise<void> {
    const asked = this.cache.now();
    let reply: wire.UnlinkReply | undefined;
    try {
      reply = await this.master.mutate(MASTER_METHODS.unlink, (operation) => ({
        operation,
        caller: toWireCaller(credentials),
        parent,
        name,
        directory,
      }));
      this.inodes.noteChange(parent);
    } finally {
      if (reply === undefined) this.cache.dropName(parent, name);
      else this.cache.changedName(parent, name, 'nothing', asked, reply.parent?.grant ?? 0);
      this.learnDirectory(parent, reply?.parent, asked);
    }
  }
}

const noEntry = (parent: InodeId): CairnError => new CairnError('ENOENT', `directory ${parent} has no such entry`);
