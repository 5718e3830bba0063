/** What the handlers of one mount share. */
import type { Attributes, Beliefs, FileSystem, OpenFile } from '../../filesystem/filesystem.js';
import type { InodeId } from '../../core/ids.js';
import type { Clock } from '../../core/clock.js';
import type { Logger } from '../../core/logging/logger.js';
import type { HandleTable } from '../handle-table.js';
import { isDirectory, isRegular } from '../../core/mode.js';
import type { Callers } from './callers.js';
import { attributesOut, entryOut, missingOut } from './wire/encode.js';
import type { Validity } from './wire/encode.js';
import type { Negotiated } from './wire/init.js';
import type { Doorkeeper } from './gate/doorkeeper.js';
import type { Gates } from './gate/gates.js';
import type { LateAnswers } from './gate/late-answers.js';
import type { Recalls } from './gate/recalls.js';
import type { LostPages } from './memory/lost-pages.js';
import type { NodeTable, PageDrop } from './memory/node-table.js';
import type { Answer, Request } from './wire/request.js';
import type { Asked } from './memory/taken-attributes.js';
import type { SecondLook } from './memory/second-look.js';
import type { ToldNames } from './memory/told-names.js';

/** What a handle of the kernel stands for. */
export interface OpenHandle {
  readonly file: OpenFile;
  /** Every write goes to the end of file. */
  readonly append: boolean;
  readonly write: boolean;
  /** Every write is synced by the file system. */
  readonly sync: boolean;
  /** Of fcntl locks that were made through this handle, and not given up by closing it. */
  readonly lockOwners: Set<string>;
  /**
   * The kernel drops these pages before it lets anybody use the handle: so they are gone when a request comes by it that
   * only its user makes.
   */
  drops: PageDrop | undefined;
}

export interface OpenDirectory {
  /** Where its listing ended, as the kernel will ask for more of it. */
  end: number | undefined;
  /** What was made since its listing began has this cookie or a later one, and is left out. */
  before: number | undefined;
}

/** What the kernel believes because others are kept from changing it, and what makes it not to. */
export interface Trust {
  readonly beliefs: Beliefs;
  readonly gates: Gates;
  readonly doorkeeper: Doorkeeper;
  readonly lateAnswers: LateAnswers;
  readonly recalls: Recalls;
  /** The kernel comes to the gates. */
  readonly hasGates: () => boolean;
  /** Before a READ. */
  readonly mayRead: (inode: InodeId) => Promise<void>;
}

export interface Session {
  readonly fileSystem: FileSystem;
  /** None: the mount's time-outs say how long the kernel believes what it is told. */
  readonly trust: Trust | undefined;
  readonly nodes: NodeTable;
  readonly files: HandleTable<OpenHandle>;
  readonly directories: HandleTable<OpenDirectory>;
  readonly callers: Callers;
  readonly secondLook: SecondLook;
  readonly toldNames: ToldNames;
  readonly lostPages: LostPages;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Makes the kernel ask for a file's attributes again, before a thread is answered; 0 for none. */
  dropAttributes(inode: InodeId, thread: number): void;
  /** Makes the kernel drop its pages and attributes of a file unless they are as new as what the client knows, likewise. */
  refreshPages(inode: InodeId, thread: number): Promise<void>;
  /** Makes the kernel know that a file is at least as long as these attributes say, likewise. */
  refreshSize(attributes: Attributes, thread: number): Promise<void>;
  /** Something was written past the kernel's pages: makes it drop those that it may have of that. No length: to the end. */
  writtenPastPages(inode: InodeId, offset: number, length: number | undefined): Promise<void>;
  /** Makes the kernel write what programs changed of a file by mappings, which it does in its own time else. */
  collectPages(inode: InodeId): Promise<void>;
  /** Whether a thread is ending because of a signal. */
  wasKilled(pid: number): boolean;
  /** Whether a thread is one of the kernel's own, as those that export by NFS. */
  isKernelThread(pid: number): boolean;
  /** Runs what nobody waits for; a failure is logged. */
  inBackground(what: string, work: () => Promise<void>): void;
  readonly attributeTimeoutMs: number;
  readonly entryTimeoutMs: number;
  /** Of the INIT request, which comes before all others. */
  readonly negotiated: () => Negotiated;
}

/**
 * How long an answer holds. What a directory is (its owner and permissions, which the kernel checks at each step of a
 * path) is believed for as long as the names in it; a file's size and times for as long as the mount was told to, and not
 * at all while the file is open for writing here. What another mount changes meanwhile is found by the next `open` here, see
 * NodeTable. Nothing that the kernel knows by an alias is believed: what is done by the true nodeid does not change it.
 */
function attributesMsOf(session: Session, attributes: Attributes): number {
  const { inode, mode } = attributes;
  const { entryTimeoutMs, attributeTimeoutMs, nodes, trust } = session;
  if (trust !== undefined) return trustedMsOf(session, trust, attributes);
  if (isDirectory(mode)) return Math.max(attributeTimeoutMs, entryTimeoutMs);
  return nodes.isBeingWritten(inode) ? 0 : attributeTimeoutMs;
}

function trustedMsOf({ nodes, attributeTimeoutMs }: Session, trust: Trust, attributes: Attributes): number {
  const { inode, mode, change } = attributes;
  if (attributeTimeoutMs === 0 || nodes.isBeingWritten(inode)) return 0;
  if (isDirectory(mode) && trust.gates.isClosed(inode)) return 0;
  return trust.beliefs.attributesMs(inode, change);
}

/** `inode` undefined: the name leads to nothing. */
function entryMsOf(session: Session, parent: number, name: Buffer | undefined, inode: InodeId | undefined): number {
  const { nodes, entryTimeoutMs, trust } = session;
  if (nodes.isAlias(parent)) return 0;
  if (trust === undefined) return inode === undefined ? 0 : entryTimeoutMs;
  if (name === undefined || entryTimeoutMs === 0 || !trust.hasGates()) return 0;
  const directory = nodes.inodeOf(parent);
  return trust.gates.isClosed(directory) ? 0 : trust.beliefs.nameMs(directory, name, inode);
}

/** In a listing a file's attributes hold for as long as its name, so that `ls -l` and `find` need not ask for each again. */
export function listedValidityOf(session: Session, parent: number, name: Buffer, attributes: Attributes): Validity {
  const { entryTimeoutMs, attributeTimeoutMs, nodes, trust } = session;
  const { inode } = attributes;
  const entryMs = entryMsOf(session, parent, name, inode);
  if (trust !== undefined) return { entryMs, attributesMs: trustedMsOf(session, trust, attributes) };
  return { entryMs, attributesMs: nodes.isBeingWritten(inode) ? 0 : Math.max(attributeTimeoutMs, entryTimeoutMs) };
}

/** `isChange`: the kernel takes them even when it was told meanwhile that those of the inode are old. */
export function attributesAnswer(session: Session, request: Request, attributes: Attributes, isChange = false): Answer {
  return {
    parts: () => {
      const holds = !session.nodes.isAlias(request.nodeid) && !(isChange && session.trust !== undefined);
      const attributesMs = holds ? attributesMsOf(session, attributes) : 0;
      session.nodes.believed(attributes, attributesMs, askedBy(request));
      return [attributesOut(attributes, attributesMs)];
    },
  };
}

/**
 * How the kernel comes by an inode: it looked the name up, or made it with the inode, or made a name of an inode that was there. In the
 * last case it takes the attributes even when it was told meanwhile that those of the inode are old.
 */
export type EntryOrigin = 'found' | 'made' | 'named';

/**
 * Tells the kernel of an inode by a name in the directory that it asks about, which it will forget again; by no name where it
 * came otherwise. `rest` follows the entry.
 */
export function entryAnswer(
  session: Session,
  request: Request,
  name: Buffer | undefined,
  attributes: Attributes,
  origin: EntryOrigin,
  ...rest: Buffer[]
): Answer {
  const { nodes, trust } = session;
  const parent = request.nodeid;
  const { pid } = request.caller;
  const { inode, mode } = attributes;
  const parts = (): readonly Uint8Array[] => {
    if (nodes.mayKnowOldAcl(attributes)) session.dropAttributes(inode, pid);
    const entryMs = entryMsOf(session, parent, name, inode);
    const attributesMs = trust !== undefined && origin === 'named' ? 0 : attributesMsOf(session, attributes);
    if (name !== undefined) {
      noteTold(session, parent, name, attributes, entryMs);
      if (origin === 'found') {
        trust?.doorkeeper.found(pid, nodes.nodeidOf(inode), mode);
        if (entryMs > 0) trust?.lateAnswers.told(pid, nodes.inodeOf(parent), name);
      }
    }
    const nodeid = nodes.lookedUp(attributes, attributesMs, askedBy(request));
    return [entryOut(nodeid, attributes, { entryMs, attributesMs }), ...rest];
  };
  return { parts, undo: () => nodes.forget(nodes.nodeidOf(inode), 1) };
}

/** Tells the kernel that a name leads to nothing, and for how long; undefined when that is not known to stay. */
export function missingAnswer(session: Session, parent: number, name: Buffer): Answer | undefined {
  if (!(entryMsOf(session, parent, name, undefined) > 0)) return undefined;
  return {
    parts: () => {
      const entryMs = entryMsOf(session, parent, name, undefined);
      if (entryMs > 0) session.toldNames.tell(session.nodes.inodeOf(parent), name, undefined, entryMs);
      return [missingOut(entryMs)];
    },
  };
}

/**
 * The kernel is about to be told of an inode by a name. Only files are opened by what it remembers; of others it counts what it may
 * believe when somebody changes the name.
 */
export function noteTold(
  { nodes, toldNames, trust }: Session,
  parent: number,
  name: Buffer,
  { inode, mode }: Attributes,
  entryMs: number,
): void {
  if (!isRegular(mode) && (trust === undefined || !(entryMs > 0))) return;
  toldNames.tell(nodes.inodeOf(parent), name, inode, entryMs, isDirectory(mode));
}

/** Tells the kernel of a directory by an alias, which holds for the call that asks and no longer. */
export function aliasAnswer({ nodes }: Session, attributes: Attributes, parent: number, name: Buffer): Answer {
  const alias = nodes.aliasOf(attributes.inode);
  nodes.places.standsAt(alias, parent, name);
  return {
    parts: [entryOut(alias, attributes, { entryMs: 0, attributesMs: 0 })],
    undo: () => nodes.forget(alias, 1),
  };
}

/**
 * Requests were answered that may have changed what these nodeids stand for. Of an alias the kernel knows that itself; by the
 * true nodeid, which a program may have open, it would go on to believe the attributes of before.
 */
export function changedThrough({ nodes, dropAttributes }: Session, ...nodeids: readonly number[]): void {
  for (const nodeid of nodeids) if (nodes.isAlias(nodeid)) dropAttributes(nodes.inodeOf(nodeid), 0);
}

export const askedBy = ({ caller, arrivedMs }: Request): Asked => ({ thread: caller.pid, arrivedMs });

export const inodeOf = (session: Session, request: { readonly nodeid: number }): InodeId =>
  session.nodes.inodeOf(request.nodeid);

/** A request that only a program makes came by the handle: its open returned, and the pages it was to drop are gone. */
export function isUsed({ nodes }: Session, open: OpenHandle): void {
  if (open.drops === undefined) return;
  nodes.dropped(open.file.inode, open.drops);
  open.drops = undefined;
}

/** What a program uses by its handle. */
export function usedHandle(session: Session, handle: number): OpenHandle {
  const open = session.files.get(handle);
  isUsed(session, open);
  return open;
}
