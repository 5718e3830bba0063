/** Requests about names: LOOKUP and FORGET, and all that make, move and remove directory entries. */
import { CairnError, hasCode } from '../../core/errors.js';
import { isDirectory, PERMISSION_BITS, S_ISGID } from '../../core/mode.js';
import type { InodeId } from '../../core/ids.js';
import { ROOT_CREDENTIALS } from '../../filesystem/filesystem.js';
import type { Attributes, Credentials, EntryName, FileKind } from '../../filesystem/filesystem.js';
import { kindOfMode } from '../linux.js';
import type { Opcode } from './wire/protocol.js';
import { answer, DONE } from './wire/request.js';
import type { Answer, Caller, Handler, Request } from './wire/request.js';
import { aliasAnswer, changedThrough, entryAnswer, inodeOf, missingAnswer } from './session.js';
import type { Session } from './session.js';

const DOT = Buffer.from('.');
const DOT_DOT = Buffer.from('..');
/** renameat2(2) */
const RENAME_NOREPLACE = 1;
const RENAME_EXCHANGE = 2;
const RENAME_WHITEOUT = 4;

export class NameRequests {
  readonly handlers: Partial<Record<Opcode, Handler>> = {
    LOOKUP: (request) => this.lookup(request),
    FORGET: (request) => this.forget(request),
    BATCH_FORGET: (request) => this.batchForget(request),
    MKNOD: (request) => this.makeNode(request),
    MKDIR: (request) => this.makeDirectory(request),
    SYMLINK: (request) => this.symlink(request),
    READLINK: (request) => this.readLink(request),
    LINK: (request) => this.link(request),
    UNLINK: (request) => this.unlink(request),
    RMDIR: (request) => this.removeDirectory(request),
    RENAME: (request) => this.rename(request, false),
    RENAME2: (request) => this.rename(request, true),
  };

  constructor(private readonly session: Session) {}

  private async lookup(request: Request): Promise<Answer> {
    const { session } = this;
    const [parent, name] = [inodeOf(session, request), request.body.name()];
    if (name.equals(DOT) || name.equals(DOT_DOT)) return this.lookupByHandle(request, parent, name.equals(DOT_DOT));
    let attributes: Attributes;
    try {
      attributes = await session.callers.run(request.caller, (credentials) =>
        session.secondLook.lookup(request.caller.pid, credentials, parent, name),
      );
    } catch (error) {
      const missing = hasCode(error, 'ENOENT') ? missingAnswer(session, request.nodeid, name) : undefined;
      if (missing === undefined) throw error;
      return missing;
    }
    if (!isDirectory(attributes.mode)) return entryAnswer(session, request, name, attributes, 'found');
    const nodeid = session.nodes.nodeidOf(attributes.inode);
    const needsAlias = session.nodes.places.found(request.caller.pid, nodeid, request.nodeid, name);
    return needsAlias
      ? aliasAnswer(session, attributes, request.nodeid, name)
      : entryAnswer(session, request, name, attributes, 'found');
  }

  /** Names that the kernel resolves itself, but for a file handle: its holder may open what it names, wherever that is. */
  private async lookupByHandle(request: Request, inode: InodeId, asksParent: boolean): Promise<Answer> {
    const { session } = this;
    const { fileSystem } = session;
    const one = { maxEntries: 1 };
    const wanted = asksParent ? (await fileSystem.readDirectory(ROOT_CREDENTIALS, inode, 0, one)).parent : inode;
    return entryAnswer(session, request, undefined, await fileSystem.getAttributes(wanted), 'found');
  }

  private forget(request: Request): undefined {
    this.session.nodes.forget(request.nodeid, request.body.u64());
  }

  private batchForget({ body }: Request): undefined {
    const count = body.u32();
    body.skip(4);
    for (let i = 0; i < count && body.left >= 16; i++) this.session.nodes.forget(body.u64(), body.u64());
  }

  private async makeNode(request: Request): Promise<Answer> {
    const { body } = request;
    const [mode, rdev, umask] = [body.u32(), body.u32(), body.u32()];
    body.skip(4);
    const kind = kindOfMode(mode);
    if (kind === 'symlink' || kind === 'directory') throw new CairnError('EINVAL', `mknod cannot make a ${kind}`);
    return this.make(request, { kind, mode, umask, rdev });
  }

  private async makeDirectory(request: Request): Promise<Answer> {
    const [mode, umask] = [request.body.u32(), request.body.u32()];
    return this.make(request, { kind: 'directory', mode, umask, rdev: 0 });
  }

  private async make(
    request: Request,
    node: { kind: Exclude<FileKind, 'symlink'>; mode: number; umask: number; rdev: number },
  ): Promise<Answer> {
    const { session } = this;
    const [parent, name] = [inodeOf(session, request), request.body.name()];
    const mode = node.mode & PERMISSION_BITS;
    const attributes = await runNew(session, request.caller, mode, (credentials) =>
      session.fileSystem.makeNode(credentials, parent, name, { ...node, mode, ...umaskOf(session, node.umask) }),
    );
    if (node.kind === 'directory') session.nodes.places.standsAt(attributes.inode, request.nodeid, name);
    return entryAnswer(session, request, name, attributes, 'made');
  }

  private async symlink(request: Request): Promise<Answer> {
    const { session } = this;
    const [parent, name, target] = [inodeOf(session, request), request.body.name(), request.body.text()];
    const attributes = await session.callers.run(request.caller, (credentials) =>
      session.fileSystem.symlink(credentials, parent, name, target),
    );
    return entryAnswer(session, request, name, attributes, 'made');
  }

  private async readLink(request: Request): Promise<Answer> {
    const { session } = this;
    const inode = inodeOf(session, request);
    return answer(
      await session.callers.run(request.caller, (credentials) => session.fileSystem.readLink(credentials, inode)),
    );
  }

  private async link(request: Request): Promise<Answer> {
    const { session } = this;
    const inode = session.nodes.inodeOf(request.body.u64());
    const [parent, name] = [inodeOf(session, request), request.body.name()];
    const attributes = await session.callers.run(request.caller, (credentials) =>
      session.fileSystem.link(credentials, inode, parent, name),
    );
    return entryAnswer(session, request, name, attributes, 'named');
  }

  private async unlink(request: Request): Promise<Answer> {
    const { session } = this;
    const [parent, name] = [inodeOf(session, request), request.body.name()];
    await session.callers.run(request.caller, (credentials) => session.fileSystem.unlink(credentials, parent, name));
    session.toldNames.removed(parent, name);
    return DONE;
  }

  private async removeDirectory(request: Request): Promise<Answer> {
    const { session } = this;
    const [parent, name] = [inodeOf(session, request), request.body.name()];
    await session.callers.run(request.caller, (credentials) =>
      session.fileSystem.removeDirectory(credentials, parent, name),
    );
    session.toldNames.removed(parent, name);
    return DONE;
  }

  private async rename(request: Request, withFlags: boolean): Promise<Answer> {
    const { session } = this;
    const { body } = request;
    const newDirectory = body.u64();
    const newParent = session.nodes.inodeOf(newDirectory);
    const flags = withFlags ? body.u32() : 0;
    if (withFlags) body.skip(4);
    if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)) !== 0) {
      throw new CairnError('EINVAL', `rename flags 0x${flags.toString(16)} are not supported`);
    }
    const from = { parent: inodeOf(session, request), name: body.name() };
    const to = { parent: newParent, name: body.name() };
    const wanted = {
      noReplace: (flags & RENAME_NOREPLACE) !== 0,
      exchange: (flags & RENAME_EXCHANGE) !== 0,
      whiteout: (flags & RENAME_WHITEOUT) !== 0,
    };
    await session.callers.run(request.caller, (credentials) =>
      session.fileSystem.rename(credentials, from, to, wanted),
    );
    this.renamed(from, to, wanted.exchange);
    const places = [
      { parent: request.nodeid, name: from.name },
      { parent: newDirectory, name: to.name },
    ] as const;
    const stood = session.nodes.places.renamed(...places, wanted.exchange);
    changedThrough(session, newDirectory, ...stood);
    return DONE;
  }

  /** The kernel moves what it remembers, and believes it by the new name for as long as by the old one: that may be longer than it stays. */
  private renamed(from: EntryName, to: EntryName, exchange: boolean): void {
    const { toldNames, trust } = this.session;
    toldNames.renamed(from, to, exchange);
    if (trust === undefined) return;
    for (const { parent, name } of exchange ? [to, from] : [to]) {
      const told = toldNames.believed(parent, name);
      if (told === undefined) continue;
      const stays = told !== 'unknown' && trust.beliefs.nameMs(parent, name, told.inode) > 0;
      if (!stays) trust.recalls.endNames(parent, [name]);
    }
  }
}

/** Runs `make`, which makes an inode with `mode`: whether set-group-id may stay depends on the caller's groups. */
function runNew<T>(
  { callers }: Session,
  caller: Caller,
  mode: number,
  make: (credentials: Credentials) => Promise<T>,
): Promise<T> {
  return (mode & S_ISGID) !== 0 ? make(callers.withGroups(caller)) : callers.run(caller, make);
}

/** The umask when it is left to us: a directory's default ACL takes its place. */
export function umaskOf(session: Session, umask: number): { readonly umask?: number } {
  return session.negotiated().has('DONT_MASK') ? { umask: umask & 0o777 } : {};
}
