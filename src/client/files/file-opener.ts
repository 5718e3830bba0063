/**
 * Opens and makes files: each asks the master, so that it sees what any client closed before (P2), and an open that
 * truncates cuts no file on which locks were lost.
 */
import { CairnError, hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import type { Attributes, Credentials, EntryName, NewFile, OpenFile, OpenFlags } from '../../filesystem/filesystem.js';
import { typeBits } from '../../filesystem/file-kind.js';
import type * as wire from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { AttributeCache } from '../inodes/attribute-cache.js';
import { locksLost, type KnownInodes } from '../inodes/known-inodes.js';
import type { Names } from '../inodes/names.js';
import type { WholeDirectories } from '../inodes/whole-directories.js';
import type { Holdings } from '../session/holdings.js';
import type { MasterConnection } from '../session/master-connection.js';
import { fromWireAttributes, present, toWireCaller } from '../session/wire-attributes.js';
import type { FileTable } from './file-table.js';

/** OpenFlags of cairn.proto. */
const OPEN_READ = 1;
const OPEN_WRITE = 2;
const OPEN_TRUNCATE = 4;
const OPEN_APPEND = 8;

/**
 * `known`: the inode that an open is taken to be about; `isCertain`: that was looked at, also if there is none; `since`: how often
 * locks had been lost then.
 */
interface Target {
  readonly known: InodeId | undefined;
  readonly isCertain: boolean;
  readonly since: number;
}

export interface Opened {
  readonly file: OpenFile;
  readonly attributes: Attributes;
}

export interface Created extends Opened {
  readonly created: boolean;
}

export class FileOpener {
  constructor(
    private readonly master: MasterConnection,
    private readonly cache: AttributeCache,
    private readonly inodes: KnownInodes,
    private readonly files: FileTable,
    private readonly names: Names,
    private readonly holdings: Holdings,
    private readonly whole: WholeDirectories,
  ) {}

  async create(credentials: Credentials, parent: InodeId, name: Buffer, options: NewFile): Promise<Created> {
    const asked = this.cache.now();
    let reply: wire.CreateReply | undefined;
    const target = await this.targetOf(credentials, parent, name, options.flags);
    const { file, attributes } = await this.files.openWith(target.known, credentials, options.flags, async () => {
      reply = await this.whole.adding(parent, name, () =>
        this.master.mutate(MASTER_METHODS.create, (operation) => {
          this.requireMayCut(target, options.flags);
          return {
            operation,
            caller: toWireCaller(credentials),
            parent,
            name,
            hold: this.holdings.areWanted,
            ...newFile(options),
          };
        }),
      );
      return fromWireAttributes(present(reply.attributes));
    });
    const created = reply?.created === true;
    if (created) {
      this.inodes.noteChange(parent);
      this.names.learnDirectory(parent, reply?.parent, asked);
    }
    const { inode } = attributes;
    if (created) this.cache.madeName(parent, name, inode, asked, reply?.nameGrant ?? 0, false);
    else this.cache.putName(parent, name, inode, asked, reply?.nameGrant);
    return { file, attributes: this.inodes.overlay(attributes), created };
  }

  open(credentials: Credentials, inode: InodeId, flags: OpenFlags, names: readonly EntryName[] = []): Promise<Opened> {
    const request = { inode, parent: 0, name: Buffer.alloc(0), names };
    return this.openEntry(credentials, request, flags, {
      known: inode,
      isCertain: true,
      since: this.inodes.lockLosses,
    });
  }

  async openAt(credentials: Credentials, parent: InodeId, name: Buffer, flags: OpenFlags): Promise<Opened> {
    const asked = this.cache.now();
    const target = await this.targetOf(credentials, parent, name, flags);
    const { nameGrant, ...result } = await this.openEntry(
      credentials,
      { inode: 0, parent, name, names: [] },
      flags,
      target,
    );
    this.cache.putName(parent, name, result.attributes.inode, asked, nameGrant);
    return result;
  }

  async createTemporary(credentials: Credentials, parent: InodeId, options: NewFile): Promise<Opened> {
    const reply = await this.master.mutate(MASTER_METHODS.create, (operation) => ({
      operation,
      caller: toWireCaller(credentials),
      parent,
      ...newFile(options),
      temporary: true,
    }));
    const attributes = fromWireAttributes(present(reply.attributes));
    return { file: this.files.opened(credentials, attributes, options.flags, { isNew: true }), attributes };
  }

  private async openEntry(
    credentials: Credentials,
    asked: Pick<wire.OpenRequest, 'inode' | 'parent' | 'name'> & { readonly names: readonly EntryName[] },
    flags: OpenFlags,
    target: Target,
  ): Promise<Opened & { readonly nameGrant: number }> {
    const withChunk = this.files.needsChunk(target.known, flags);
    const request = {
      caller: toWireCaller(credentials),
      ...asked,
      names: [...asked.names],
      flags: openBits(flags),
      withChunk,
      hold: this.holdings.areWanted,
    };
    const { appends } = this.files;
    const moment = appends.moment;
    let reply: wire.OpenReply | undefined;
    const { file, attributes } = await this.files.openWith(target.known, credentials, flags, async () => {
      reply =
        flags.truncate === true
          ? await this.master.mutate(MASTER_METHODS.open, (operation) => {
              this.requireMayCut(target, flags);
              return { ...request, operation };
            })
          : await this.master.call(MASTER_METHODS.open, request);
      return fromWireAttributes(present(reply.attributes));
    });
    this.files.learnChunk(attributes, reply?.chunk ?? null);
    if (reply?.appendGranted === true) appends.granted(attributes.inode, moment);
    return { file, attributes: this.inodes.overlay(attributes), nameGrant: reply?.nameGrant ?? 0 };
  }

  /** What will be opened by a name. It is asked for where a file may be cut on which locks were lost. */
  private async targetOf(credentials: Credentials, parent: InodeId, name: Buffer, flags: OpenFlags): Promise<Target> {
    const since = this.inodes.lockLosses;
    const known = this.cache.getName(parent, name);
    const mustAsk = known === undefined && flags.truncate === true && this.inodes.hasLostLocks;
    if (!mustAsk) return { known, isCertain: known !== undefined, since };
    try {
      const { inode } = await this.names.lookup(credentials, parent, name);
      return { known: inode, isCertain: true, since };
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return { known: undefined, isCertain: true, since };
      throw error;
    }
  }

  /** Before each attempt: locks may have been lost since the one before. */
  private requireMayCut({ known, isCertain, since }: Target, { truncate }: OpenFlags): void {
    if (truncate !== true) return;
    if (known !== undefined) this.inodes.requireWritable(known, since);
    else if (since !== this.inodes.lockLosses || (!isCertain && this.inodes.hasLostLocks)) throw locksLost();
  }
}

function newFile({ mode, umask, flags, exclusive }: NewFile): wire.CreateRequestInit {
  return {
    mode: typeBits('file') | (mode & 0o7777),
    umask: umask ?? null,
    exclusive: exclusive === true,
    openFlags: openBits(flags),
  };
}

function openBits(flags: OpenFlags): number {
  const bits = (flags.read ? OPEN_READ : 0) | (flags.write ? OPEN_WRITE : 0);
  if (bits === 0) throw new CairnError('EINVAL', 'a file is opened for reading, for writing, or both');
  return bits | (flags.truncate === true ? OPEN_TRUNCATE : 0) | (flags.append === true ? OPEN_APPEND : 0);
}
