/**
 * What this client knows of inodes: the attributes that the master told lately (attribute-cache.ts), and of those that are
 * open, what was written and read here (open-inode.ts). All that the master tells of an inode is taken in here.
 */
import type { Clock, Timespec } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_FILE_BYTES } from '../../core/limits.js';
import { isReadToNote } from '../../core/relatime.js';
import type { OpenStateInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { Holdings } from '../session/holdings.js';
import type { MasterConnection } from '../session/master-connection.js';
import { fromWireAttributes, type InodeAttributes } from '../session/wire-attributes.js';
import type { AttributeCache, Moment } from './attribute-cache.js';
import { OpenInode } from './open-inode.js';

export interface KnownInodesOptions {
  readonly clock: Clock;
  readonly master: Pick<MasterConnection, 'call'>;
  readonly cache: AttributeCache;
  readonly holdings: Holdings;
  /** The master told something newer of an open file: what else is known of it is to be compared. */
  readonly onNewer: (attributes: InodeAttributes) => void;
  /** A change of the inode was answered that nobody makes again when the master has lost it. */
  readonly onChanged: (inode: InodeId) => void;
  /** A directory was read from memory, which the master is to note. */
  readonly onKeptRead: (inode: InodeId, atime: Timespec) => void;
  /** Chunks of a file were dropped or cut, by what was asked for at `asked`: what else is known of them is void. */
  readonly onCut: (attributes: InodeAttributes, asked: Moment) => void;
}

export class KnownInodes {
  private readonly inodes = new Map<InodeId, OpenInode>();
  private lossesOfLocks = 0;
  /** Of those that are open: locks on them were lost. */
  private readonly withLostLocks = new Set<InodeId>();

  constructor(private readonly options: KnownInodesOptions) {}

  // ---- Those that are open ----------------------------------------------------------------------

  get(inode: InodeId): OpenInode | undefined {
    return this.inodes.get(inode);
  }

  get open(): Iterable<OpenInode> {
    return this.inodes.values();
  }

  /** A handle was opened: the same for all handles of the inode. */
  opened(attributes: InodeAttributes): OpenInode {
    const { inode } = attributes;
    const known = this.inodes.get(inode);
    known?.learn(attributes);
    if (known !== undefined) return known;
    const open = new OpenInode(inode, attributes);
    this.inodes.set(inode, open);
    return open;
  }

  /** The last handle was closed. */
  closed(inode: InodeId): void {
    this.inodes.delete(inode);
    this.withLostLocks.delete(inode);
  }

  /** What the session holds open, for the master after a reconnect. */
  *openStates(): Generator<OpenStateInit> {
    for (const { inode, readers, writers, owedWriters } of this.inodes.values()) {
      yield { inode, readers, writers: writers + owedWriters };
    }
  }

  /** Files with bytes that are on their way, or that the master was not told of. */
  unclean(): Set<InodeId> {
    const found = new Set<InodeId>();
    for (const { inode, writer } of this.inodes.values()) if (writer?.isClean === false) found.add(inode);
    return found;
  }

  /** What was written here is published. */
  async publish(inode: InodeId): Promise<void> {
    const writer = this.inodes.get(inode)?.writer;
    if (writer?.isClean === false) await writer.flush();
  }

  // ---- Locks that were lost ---------------------------------------------------------------------

  /** Times that locks were lost with a session. */
  get lockLosses(): number {
    return this.lossesOfLocks;
  }

  /** Whether locks were lost on any that is open. */
  get hasLostLocks(): boolean {
    return this.withLostLocks.size > 0;
  }

  /** Locks on these were lost with the session. Returns those that are open. */
  locksLost(inodes: ReadonlySet<InodeId>): InodeId[] {
    if (inodes.size > 0) this.lossesOfLocks++;
    const found: InodeId[] = [];
    for (const inode of inodes) {
      const open = this.inodes.get(inode);
      if (open === undefined) continue;
      open.locksLost = true;
      this.withLostLocks.add(inode);
      found.push(inode);
    }
    return found;
  }

  /**
   * Refuses what would change a file on which locks were lost: others may hold them by now; and what began before some were
   * lost on any file (`since`).
   */
  requireWritable(inode: InodeId, since = this.lockLosses): void {
    if (this.inodes.get(inode)?.locksLost === true || since !== this.lockLosses) throw locksLost();
  }

  // ---- Attributes -------------------------------------------------------------------------------

  /** `attributes` with what was written here and not published. */
  overlay(attributes: InodeAttributes): InodeAttributes {
    return this.inodes.get(attributes.inode)?.overlay(attributes) ?? attributes;
  }

  /** Takes in what the master told, in answer to a request sent at `asked`. */
  learn(attributes: InodeAttributes, asked: Moment): InodeAttributes {
    this.options.cache.putAttributes(attributes, asked);
    return this.learnOpen(attributes, asked);
  }

  private learnOpen(attributes: InodeAttributes, asked: Moment): InodeAttributes {
    const open = this.inodes.get(attributes.inode);
    if (open !== undefined && attributes.change > open.attributes.change) {
      const isCut = attributes.layoutVersion !== open.attributes.layoutVersion;
      open.learn(attributes);
      this.options.onNewer(attributes);
      open.invalidateReads(0, MAX_FILE_BYTES);
      if (isCut) this.layoutChanged(attributes, asked);
    }
    return attributes;
  }

  /**
   * Takes in the answer to an own change, which was sent at `asked`: nothing else asked before is believed any more, nor this, if others'
   * change was recalled meanwhile.
   */
  changed(attributes: InodeAttributes, asked: Moment): InodeAttributes {
    this.options.cache.putChanged(attributes.inode, attributes, asked);
    return this.learnOpen(attributes, this.moment);
  }

  /** As `changed`, with `noteChange`. */
  changedOnce(attributes: InodeAttributes, asked: Moment): InodeAttributes {
    this.noteChange(attributes.inode);
    return this.changed(attributes, asked);
  }

  /** A change of the inode, or of the entries of the directory, was answered: nobody makes it again when the master has lost it. */
  noteChange(inode: InodeId): void {
    this.options.onChanged(inode);
  }

  /** To be noted before something is asked. */
  get moment(): Moment {
    return this.options.cache.now();
  }

  /** Nothing that was asked of the inode before is believed any more. Returns the moment from which on it is. */
  believeNothing(inode: InodeId): Moment {
    this.options.cache.dropAttributes(inode);
    return this.moment;
  }

  /** Chunks were dropped or cut, as was asked for at `asked`: what is known of them is void. */
  layoutChanged(attributes: InodeAttributes, asked: Moment): void {
    this.options.onCut(attributes, asked);
    this.inodes.get(attributes.inode)?.invalidateReads(0, MAX_FILE_BYTES);
  }

  /** The attributes, if they stay what they are until others' change of them is recalled; without what is unpublished. */
  heldAttributes(inode: InodeId): InodeAttributes | undefined {
    return this.options.holdings.areWanted ? this.options.cache.getAttributes(inode) : undefined;
  }

  /** Whether attributes are believed for as long as they are held, and no longer. */
  get areHeld(): boolean {
    return this.options.holdings.areWanted;
  }

  /** As they are now if holdings are wanted, else at most the cache time-out old; without what is unpublished. */
  async freshAttributes(inode: InodeId): Promise<InodeAttributes> {
    const { cache, master, holdings } = this.options;
    const known = cache.getAttributes(inode);
    if (known !== undefined) return this.requireReachable(known);
    const asked = cache.now();
    const hold = holdings.areWanted;
    const attributes = this.learn(
      fromWireAttributes(await master.call(MASTER_METHODS.getAttributes, { inode, hold })),
      asked,
    );
    return this.requireReachable(attributes);
  }

  /** The master notes the read of a directory or symlink by itself; this client is to see that. */
  noteRead(inode: InodeId): void {
    const { cache, clock } = this.options;
    const known = cache.getAttributes(inode);
    if (known !== undefined && isReadToNote(known, clock.now())) cache.dropAttributes(inode);
  }

  /** Likewise of a listing that the master was not asked for. */
  noteKeptRead(inode: InodeId): void {
    const { cache, clock, onKeptRead } = this.options;
    const known = cache.getAttributes(inode);
    const atime = clock.now();
    if (known === undefined || !isReadToNote(known, atime)) return;
    cache.putAttributes({ ...known, atime }, cache.now());
    onKeptRead(inode, atime);
  }

  /** An inode without a name is there for those who have it open; the master collects it when it comes to it. */
  private requireReachable(attributes: InodeAttributes): InodeAttributes {
    if (attributes.nlink > 0 || this.inodes.has(attributes.inode)) return attributes;
    throw withoutName(attributes.inode);
  }
}

export const locksLost = (): CairnError =>
  new CairnError('EIO', 'locks on the file were lost with the session: close the file and start over');

export const withoutName = (inode: InodeId): CairnError =>
  new CairnError('ESTALE', `inode ${inode} has no name any more, and is not open here`);
