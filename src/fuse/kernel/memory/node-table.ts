/**
 * The inodes that the kernel knows. It names them by a nodeid, which here is the inode's number: those are never used
 * again, so a nodeid says the same as long as the mount lives, and its generation is always 0.
 *
 * A directory may have aliases for a moment, see directory-places.ts.
 *
 * The kernel counts how often it was told a node (LOOKUP and all that answers with an entry) and says in FORGET how many of
 * these it gives up. The table is as large as the kernel's inode cache, which it shrinks under memory pressure.
 */
import type { Clock } from '../../../core/clock.js';
import { CairnError } from '../../../core/errors.js';
import { inodeId } from '../../../core/ids.js';
import { isRegular } from '../../../core/mode.js';
import type { InodeId } from '../../../core/ids.js';
import type { Attributes } from '../../../filesystem/filesystem.js';
import { DirectoryPlaces } from './directory-places.js';
import { TakenAttributes, type Asked } from './taken-attributes.js';

const ROOT_NODEID = 1;
const PAGE_BYTES = 4096;
/** Inodes' numbers count up from 1, and never get there. */
const FIRST_ALIAS = 2 ** 52;

interface Node {
  lookups: number;
  /** Handles that are open, and those of them that may write. */
  opens: number;
  writers: number;
  /**
   * Every page of the file that the kernel keeps is at least as new as this state (Attributes.change) of the file;
   * undefined when that cannot be said of any. It is noted when older pages are gone, not when they are to go, or
   * who comes between would keep them.
   */
  pagesChange: number | undefined;
  /** The kernel keeps no page of the file from this byte on. */
  pagesEnd: number;
  /** How often the kernel was about to fill pages. */
  fills: number;
  /** The size and the attributes that it goes by. */
  readonly taken: TakenAttributes;
  /** State of the file when the kernel was last told of it in an entry, and whether it had an ACL then. */
  toldChange: number | undefined;
  toldAcl: boolean;
  /**
   * Of all but regular files, which the master keeps while they are open: what the kernel was last told of it, for when it
   * is removed while somebody has it open or is in it.
   */
  last: Attributes | undefined;
  /** It was to be opened after it was removed. */
  refused: boolean;
}

/** Pages of a file that the kernel is about to drop. */
export interface PageDrop {
  /** State of the file: what is filled from now on is as new. */
  readonly change: number;
  /** How often pages had been filled before. */
  readonly fills: number;
}

export class NodeTable {
  readonly places: DirectoryPlaces;
  private readonly nodes = new Map<number, Node>();
  private readonly aliases = new Map<number, InodeId>();
  private nextAlias = FIRST_ALIAS;

  /** `root`: the inode that is the root of this mount. */
  constructor(
    private readonly root: InodeId,
    private readonly clock: Clock,
  ) {
    this.places = new DirectoryPlaces(clock);
  }

  get size(): number {
    return this.nodes.size;
  }

  inodeOf(nodeid: number): InodeId {
    if (nodeid === ROOT_NODEID) return this.root;
    if (nodeid === 0) throw new CairnError('EINVAL', 'a request of the kernel is about no inode');
    if (nodeid < FIRST_ALIAS) return inodeId(nodeid);
    const inode = this.aliases.get(nodeid);
    if (inode === undefined) throw new CairnError('ESTALE', `nodeid ${nodeid} is no alias any more`);
    return inode;
  }

  isAlias(nodeid: number): boolean {
    return this.aliases.has(nodeid);
  }

  nodeidOf(inode: InodeId): number {
    return inode === this.root ? ROOT_NODEID : inode;
  }

  /** The kernel is about to be told of the inode in an entry, to believe it for `attributesMs`. Returns its nodeid. */
  lookedUp(attributes: Attributes, attributesMs: number, asked: Asked): number {
    const nodeid = this.nodeidOf(attributes.inode);
    if (nodeid !== ROOT_NODEID) {
      const node = this.node(nodeid);
      node.lookups++;
      node.toldChange = attributes.change;
      node.toldAcl = attributes.hasAcl === true;
    }
    this.believed(attributes, attributesMs, asked);
    return nodeid;
  }

  /** The kernel is about to be told of a directory by a nodeid that it does not know. Returns that. */
  aliasOf(inode: InodeId): number {
    const nodeid = this.nextAlias++;
    this.aliases.set(nodeid, inode);
    this.node(nodeid).lookups++;
    return nodeid;
  }

  /**
   * The kernel may remember another ACL of the inode than it has now. It forgets ACLs with attributes that it asks for, but
   * not with those that come by a name that is new to it.
   */
  mayKnowOldAcl({ inode, change, hasAcl }: Attributes): boolean {
    const node = this.nodes.get(this.nodeidOf(inode));
    if (node === undefined || node.lookups === 0 || node.toldChange === change) return false;
    return node.toldAcl || hasAcl === true;
  }

  /** The kernel is about to be told attributes that it `asked` for, to believe them for `attributesMs`. */
  believed(attributes: Attributes, attributesMs: number, asked: Asked): void {
    const node = this.nodes.get(this.nodeidOf(attributes.inode));
    if (node === undefined) return;
    if (!isRegular(attributes.mode)) node.last = attributes;
    node.taken.tell(attributes.size, attributesMs > 0 ? attributes.change : undefined, asked, this.clock.monotonicMs());
  }

  /** Undefined when the inode is a regular file, or not known to the kernel. */
  lastOf(inode: InodeId): Attributes | undefined {
    return this.nodes.get(this.nodeidOf(inode))?.last;
  }

  /**
   * Whether a directory that was removed may be opened. Not at first: its name may lead elsewhere by now, which the kernel
   * finds out when it is refused. Who asks again is in it.
   */
  mayOpenRemoved(inode: InodeId): boolean {
    const node = this.nodes.get(this.nodeidOf(inode));
    if (node?.last === undefined) return false;
    const isSecond = node.refused;
    node.refused = true;
    return isSecond;
  }

  forget(nodeid: number, count: number): void {
    const node = this.nodes.get(nodeid);
    if (node === undefined) return;
    node.lookups = Math.max(0, node.lookups - count);
    if (count === 1) this.places.unwanted(nodeid);
    this.dropUnused(nodeid, node);
  }

  /**
   * A handle on the file was opened by a thread when it was in the state of `attributes`. What the kernel knows may be older: its
   * pages, which it drops before the open returns if `drop` is told, and its attributes, if it still believes any. Those
   * get old at once when the handle is for writing. `aroundPages`: a handle with O_DIRECT, which needs none.
   */
  opened(
    { inode, change }: Attributes,
    forWriting: boolean,
    aroundPages: boolean,
    thread: number,
  ): { readonly drop: PageDrop | undefined; readonly attributesAreOld: boolean } {
    const node = this.node(this.nodeidOf(inode));
    const isCurrent = node.pagesChange === change && !(aroundPages && node.opens === 0);
    node.opens++;
    if (forWriting) node.writers++;
    const attributesAreOld = node.taken.mayBelieveOther(
      forWriting ? undefined : change,
      thread,
      this.clock.monotonicMs(),
    );
    return { drop: isCurrent ? undefined : { change, fills: node.fills }, attributesAreOld };
  }

  /** Others are about to change the file: pages that are filled by then are as new as no state of it that is to come. */
  pagesAreOld(inode: InodeId): void {
    const node = this.nodes.get(this.nodeidOf(inode));
    if (node !== undefined) node.pagesChange = undefined;
  }

  /** How often the kernel was about to fill pages of the file; undefined when it has none of them. */
  fillsOf(inode: InodeId): number | undefined {
    const node = this.nodes.get(this.nodeidOf(inode));
    return node === undefined || (node.opens === 0 && node.pagesEnd === 0) ? undefined : node.fills;
  }

  isOpen(inode: InodeId): boolean {
    return (this.nodes.get(this.nodeidOf(inode))?.opens ?? 0) > 0;
  }

  /** The kernel was told of the inode in answers that it has not forgotten: if it does not know the inode, it will. */
  isTold(inode: InodeId): boolean {
    return (this.nodes.get(this.nodeidOf(inode))?.lookups ?? 0) > 0;
  }

  /** Whether all pages that the kernel keeps of the file are as new as `attributes`. */
  pagesAreCurrent({ inode, change }: Attributes): boolean {
    return this.nodes.get(this.nodeidOf(inode))?.pagesChange === change;
  }

  /** To be called when the kernel is told to drop all pages of the file, which is in the state of `attributes`. */
  dropping({ inode, change }: Attributes): PageDrop {
    return { change, fills: this.nodes.get(this.nodeidOf(inode))?.fills ?? 0 };
  }

  /** The kernel has dropped the pages: reads that were on their way then, too, as it waits for them. */
  dropped(inode: InodeId, { change, fills }: PageDrop): void {
    const node = this.nodes.get(this.nodeidOf(inode));
    if (node === undefined) return;
    // Another drop may have ended before, of pages that were older still.
    node.pagesChange = Math.max(change, node.pagesChange ?? 0);
    if (node.fills === fills) node.pagesEnd = 0;
  }

  /** The kernel fills pages below `end`. */
  fillsPages(inode: InodeId, end: number): void {
    const node = this.nodes.get(this.nodeidOf(inode));
    if (node === undefined) return;
    node.fills++;
    if (end > node.pagesEnd) node.pagesEnd = end;
  }

  /** Whether the kernel may take the file for shorter, when this thread goes on. */
  mayKnowLess(inode: InodeId, size: number, thread: number): boolean {
    return this.takenOf(inode)?.mayKnowLess(size, thread, this.clock.monotonicMs()) === true;
  }

  /** Whether the kernel may ignore an answer to what it `asked`, and go on to take the file for shorter than that says. */
  mayMissSize({ inode, size }: Attributes, asked: Asked): boolean {
    return this.takenOf(inode)?.mayMiss(size, asked, this.clock.monotonicMs()) === true;
  }

  /** The kernel was told of bytes up to `end` for this thread, or wrote them. */
  knowsAtLeast(inode: InodeId, end: number, thread: number): void {
    this.takenOf(inode)?.hasAtLeast(end, thread, this.clock.monotonicMs());
  }

  /** A read by this thread ended at `end`, or it cut the file there: the kernel takes that for the end of the file. */
  sawEnd(inode: InodeId, end: number, thread: number): void {
    this.takenOf(inode)?.sawEnd(end, thread, this.clock.monotonicMs());
  }

  /** The kernel is made to ask for the attributes of the inode, on behalf of this thread. */
  attributesDropped(inode: InodeId, thread: number): void {
    this.takenOf(inode)?.dropped(thread, this.clock.monotonicMs());
  }

  /** Whether the kernel may keep pages of what was written to `offset` and behind it. */
  mayHavePages(nodeid: number, offset: number): boolean {
    return (this.nodes.get(nodeid)?.pagesEnd ?? 0) > offset - (offset % PAGE_BYTES);
  }

  /** To be called when the kernel is told to drop all pages from `offset` on; the result when it has. */
  droppingFrom(nodeid: number, offset: number): () => void {
    const node = this.nodes.get(nodeid);
    const fills = node?.fills;
    return () => {
      if (node !== undefined && node.fills === fills)
        node.pagesEnd = Math.min(node.pagesEnd, offset - (offset % PAGE_BYTES));
    };
  }

  /** Attributes move with each write: the kernel learns of some (size), and not of others (mode, ctime at the close). */
  isBeingWritten(inode: InodeId): boolean {
    return (this.nodes.get(this.nodeidOf(inode))?.writers ?? 0) > 0;
  }

  closed(inode: InodeId, forWriting: boolean): void {
    const nodeid = this.nodeidOf(inode);
    const node = this.nodes.get(nodeid);
    if (node === undefined) return;
    node.opens--;
    if (forWriting) node.writers--;
    this.dropUnused(nodeid, node);
  }

  private takenOf(inode: InodeId): TakenAttributes | undefined {
    return this.nodes.get(this.nodeidOf(inode))?.taken;
  }

  private node(nodeid: number): Node {
    let node = this.nodes.get(nodeid);
    if (node === undefined) {
      node = {
        lookups: 0,
        opens: 0,
        writers: 0,
        pagesChange: undefined,
        taken: new TakenAttributes(),
        pagesEnd: 0,
        fills: 0,
        toldChange: undefined,
        toldAcl: false,
        last: undefined,
        refused: false,
      };
      this.nodes.set(nodeid, node);
    }
    return node;
  }

  private dropUnused(nodeid: number, node: Node): void {
    if (node.lookups > 0 || node.opens > 0) return;
    this.nodes.delete(nodeid);
    this.aliases.delete(nodeid);
    this.places.forget(nodeid);
  }
}
