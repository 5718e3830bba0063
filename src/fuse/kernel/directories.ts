/**
 * Requests about listings: OPENDIR, READDIR, READDIRPLUS. A listing keeps next to no state: what the kernel sends to go on is the
 * `cookie` of the last entry, which stays valid while entries come and go, so a directory of any size is read in
 * constant memory (P8), and each answer is as new as its request; but what was made since the listing began is left out, or
 * a program that renames each file it reads of would find them again, without end.
 */
import { hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { isDirectory } from '../../core/mode.js';
import type { DirectoryPage } from '../../filesystem/filesystem.js';
import { DirectoryBuffer, entriesWithin } from './wire/encode.js';
import type { Opcode } from './wire/protocol.js';
import { DONE } from './wire/request.js';
import { openOut } from './wire/encode.js';
import type { Answer, Handler, Request } from './wire/request.js';
import { askedBy, inodeOf, listedValidityOf, noteTold } from './session.js';
import type { OpenDirectory, Session } from './session.js';
import { MAX_LISTING_BYTES } from '../../core/limits.js';

/** What the kernel asks for. */
interface Listing {
  readonly inode: InodeId;
  readonly offset: number;
  readonly size: number;
  /** With attributes. */
  readonly plus: boolean;
  readonly told: number[];
}

/** The kernel's offsets: 0 is before '.', 1 before '..', and an entry's cookie follows from 2 on. */
const OFFSET_OF_COOKIES = 2;
/** Names are rarely shorter on average: so a page that is asked for does not overflow the buffer by much. */
const EXPECTED_NAME_BYTES = 8;

export class DirectoryRequests {
  readonly handlers: Partial<Record<Opcode, Handler>> = {
    OPENDIR: (request) => this.open(request),
    RELEASEDIR: ({ body }) => this.release(body.u64()),
    FSYNCDIR: (request) => this.sync(inodeOf(this.session, request)),
    SYNCFS: () => this.sync(),
    READDIR: (request) => this.list(request, false),
    READDIRPLUS: (request) => this.list(request, true),
  };

  constructor(private readonly session: Session) {}

  /** ESTALE when it was removed, which makes the kernel look its name up again; and then what is left, which is nothing. */
  private async open(request: Request): Promise<Answer> {
    const { session } = this;
    const inode = inodeOf(session, request);
    try {
      await session.fileSystem.getAttributes(inode);
    } catch (error) {
      if (!hasCode(error, 'ESTALE') || !session.nodes.mayOpenRemoved(inode)) throw error;
    }
    const handle = session.directories.add({ end: undefined, before: undefined });
    return { parts: [openOut(handle, 0)], undo: () => session.directories.remove(handle) };
  }

  private release(handle: number): Answer {
    this.session.directories.remove(handle);
    return DONE;
  }

  private async sync(directory?: InodeId): Promise<Answer> {
    await this.session.fileSystem.syncMetadata(directory);
    return DONE;
  }

  private async list(request: Request, plus: boolean): Promise<Answer> {
    const { session } = this;
    const { body } = request;
    const directory = session.directories.get(body.u64());
    const [offset, size] = [body.bytes(), Math.min(body.u32(), MAX_LISTING_BYTES)];
    // After the last entry programs ask once more: what was made meanwhile need not be listed.
    if (offset !== 0 && offset === directory.end) return DONE;
    const inode = inodeOf(session, request);
    const cookie = Math.max(0, offset - OFFSET_OF_COOKIES);
    const options = { maxEntries: entriesWithin(size, plus, EXPECTED_NAME_BYTES), withAttributes: plus };
    const page = await session.callers
      .run(request.caller, (credentials) => session.fileSystem.readDirectory(credentials, inode, cookie, options))
      .catch((error: unknown) => {
        // It was removed since it was opened.
        if (hasCode(error, 'ESTALE')) return undefined;
        throw error;
      });
    if (page === undefined) return DONE;
    const told: number[] = [];
    return {
      parts: () => [this.listed(request, directory, page, { inode, offset, size, plus, told })],
      undo: () => told.forEach((nodeid) => session.nodes.forget(nodeid, 1)),
    };
  }

  /** The entries that there is room for. Notes in `told` of which nodes the kernel is told. */
  private listed(
    request: Request,
    directory: OpenDirectory,
    page: DirectoryPage,
    { inode, offset, size, plus, told }: Listing,
  ): Buffer {
    const { session } = this;
    if (offset === 0) directory.before = undefined;
    directory.before ??= page.nextCookie;
    let isOver = page.end;
    const buffer = new DirectoryBuffer(size);
    let [last, hasRoom] = [offset, true];
    for (const [at, name, of] of dots(inode, page.parent)) {
      if (!hasRoom || offset > at) continue;
      const entry = { name, inode: of, kind: 'directory' as const };
      hasRoom = plus ? buffer.addPlus(entry, at + 1) : buffer.add(entry, at + 1);
      if (hasRoom) last = at + 1;
    }
    for (const entry of page.entries) {
      if (!hasRoom) break;
      if (entry.cookie >= directory.before) {
        isOver = true;
        break;
      }
      const next = entry.cookie + OFFSET_OF_COOKIES;
      const { attributes } = entry;
      if (!plus) hasRoom = buffer.add(entry, next);
      else if (attributes === undefined) hasRoom = buffer.addPlus(entry, next);
      else {
        const nodeid = session.nodes.nodeidOf(attributes.inode);
        const validity = listedValidityOf(session, request.nodeid, entry.name, attributes);
        hasRoom = buffer.addPlus(entry, next, { nodeid, attributes, validity });
        if (!hasRoom) break;
        if (session.nodes.mayKnowOldAcl(attributes)) session.dropAttributes(attributes.inode, request.caller.pid);
        noteTold(session, request.nodeid, entry.name, attributes, validity.entryMs);
        told.push(session.nodes.lookedUp(attributes, validity.attributesMs, askedBy(request)));
        if (isDirectory(attributes.mode)) session.nodes.places.listed(nodeid, request.nodeid, entry.name);
      }
      if (hasRoom) last = next;
    }
    directory.end = isOver && hasRoom ? last : undefined;
    return buffer.content;
  }
}

function dots(inode: InodeId, parent: InodeId): [offset: number, name: Buffer, inode: InodeId][] {
  return [
    [0, Buffer.from('.'), inode],
    [1, Buffer.from('..'), parent],
  ];
}
