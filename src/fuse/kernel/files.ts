/** Requests about open files: OPEN, CREATE, TMPFILE, READ, WRITE, and all that goes by a handle. */
import { CairnError, hasCode } from '../../core/errors.js';
import { deferred } from '../../core/sync.js';
import type { InodeId } from '../../core/ids.js';
import { PERMISSION_BITS, X_OK } from '../../core/mode.js';
import { ROOT_CREDENTIALS } from '../../filesystem/filesystem.js';
import type {
  Attributes,
  Credentials,
  EntryName,
  FileSystem,
  OpenFile,
  OpenFlags,
} from '../../filesystem/filesystem.js';
import { O_APPEND, O_DIRECT, O_DSYNC, openFlagsOf } from '../linux.js';
import { countOut, offsetOut, openOut } from './wire/encode.js';
import { closedBy, closedForGood, ownerName } from './locks.js';
import { umaskOf } from './names.js';
import {
  FOPEN_DIRECT_IO,
  FOPEN_KEEP_CACHE,
  READ_LOCKOWNER,
  RELEASE_FLOCK_UNLOCK,
  WRITE_CACHE,
  WRITE_KILL_SUIDGID,
  WRITE_LOCKOWNER,
} from './wire/protocol.js';
import type { Opcode } from './wire/protocol.js';
import { answer, DONE } from './wire/request.js';
import type { Answer, Handler, Request } from './wire/request.js';
import { entryAnswer, inodeOf, isUsed, usedHandle } from './session.js';
import type { OpenHandle, Session } from './session.js';

const O_EXCL = 0o200;
/** The kernel's own: the file is opened to be executed, which needs permission to execute it, not to read. */
const FMODE_EXEC = 0x20;
/** A close that takes longer may be that of a process which was killed, and is let go then. */
const FLUSH_PATIENCE_MS = 500;
/** fallocate(2) */
const FALLOC_KEEP_SIZE = 1;
const FALLOC_PUNCH_HOLE = 2;
const FALLOC_ZERO_RANGE = 16;
/** lseek(2) */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

export class FileRequests {
  readonly handlers: Partial<Record<Opcode, Handler>> = {
    OPEN: (request) => this.open(request),
    CREATE: (request) => this.create(request),
    TMPFILE: (request) => this.createTemporary(request),
    READ: (request) => this.read(request),
    WRITE: (request) => this.write(request),
    FLUSH: (request) => this.flush(request),
    FSYNC: (request) => this.sync(request),
    RELEASE: (request) => this.release(request),
    LSEEK: (request) => this.seek(request),
    FALLOCATE: (request) => this.allocate(request),
    COPY_FILE_RANGE: (request) => this.copyRange(request, countOut),
    COPY_FILE_RANGE_64: (request) => this.copyRange(request, offsetOut),
  };

  constructor(private readonly session: Session) {}

  private async open(request: Request): Promise<Answer> {
    const { session } = this;
    const inode = inodeOf(session, request);
    const flags = request.body.u32();
    const wanted = openFlagsOf(flags);
    const { callers, secondLook } = session;
    const { pid } = request.caller;
    const open = async (names: readonly EntryName[]): ReturnType<FileSystem['open']> => {
      const as = async (credentials: Credentials): ReturnType<FileSystem['open']> => {
        if ((flags & FMODE_EXEC) === 0) return session.fileSystem.open(credentials, inode, wanted, names);
        await session.fileSystem.access(credentials, inode, X_OK);
        return session.fileSystem.open(ROOT_CREDENTIALS, inode, wanted, names);
      };
      // Whether what is written takes set-group-id away depends on the groups of who opened the file.
      return wanted.write ? as(callers.withGroups(request.caller)) : callers.run(request.caller, as);
    };
    const names = secondLook.isSecondOpen(pid, inode) ? [] : session.toldNames.namesOf(inode);
    const opening =
      names === undefined ? Promise.reject(unknownName(inode)) : secondLook.opening(inode, () => open(names));
    const { file, attributes } = await opening.catch((error: unknown) => {
      if (!hasCode(error, 'ESTALE')) {
        secondLook.done(pid);
        throw error;
      }
      // It does not try once more, and holds what it found by a file handle.
      if (names?.length !== 0 && session.isKernelThread(pid)) return open([]);
      // Whoever asks for the attributes next learns it too, which makes the kernel look the name up again.
      session.dropAttributes(inode, pid);
      secondLook.refused(pid, inode);
      throw error;
    });
    secondLook.done(pid);
    const { handle, openFlags } = this.opened(request, file, attributes, wanted, flags);
    if (wanted.truncate === true) session.nodes.sawEnd(inode, 0, pid);
    // Or sendfile(2) and its like would end where the file ended before (P2).
    if (session.nodes.mayKnowLess(inode, attributes.size, pid)) {
      request.waitsForOthers();
      await session.refreshSize(attributes, pid);
    }
    return { parts: [openOut(handle, openFlags)], undo: () => this.closeUnasked(handle) };
  }

  private async create(request: Request): Promise<Answer> {
    const { session } = this;
    const { flags, mode, umask } = newFile(request);
    const [parent, name] = [inodeOf(session, request), request.body.name()];
    const options = { mode, ...umaskOf(session, umask), flags: openFlagsOf(flags), exclusive: (flags & O_EXCL) !== 0 };
    const { file, attributes, created } = await session.fileSystem.create(
      session.callers.withGroups(request.caller),
      parent,
      name,
      options,
    );
    session.secondLook.done(request.caller.pid);
    return this.openedEntry(request, name, { file, attributes, created }, options.flags, flags);
  }

  private async createTemporary(request: Request): Promise<Answer> {
    const { session } = this;
    const { flags, mode, umask } = newFile(request);
    const parent = inodeOf(session, request);
    const options = { mode, ...umaskOf(session, umask), flags: openFlagsOf(flags), exclusive: (flags & O_EXCL) !== 0 };
    const { file, attributes } = await session.fileSystem.createTemporary(
      session.callers.withGroups(request.caller),
      parent,
      options,
    );
    return this.openedEntry(request, undefined, { file, attributes, created: true }, options.flags, flags);
  }

  private openedEntry(
    request: Request,
    name: Buffer | undefined,
    { file, attributes, created }: { file: OpenFile; attributes: Attributes; created: boolean },
    flags: OpenFlags,
    kernelFlags: number,
  ): Answer {
    const { handle, openFlags } = this.opened(request, file, attributes, flags, kernelFlags);
    const origin = created ? 'made' : 'named';
    const entry = entryAnswer(this.session, request, name, attributes, origin, openOut(handle, openFlags));
    const undo = (): void => {
      entry.undo?.();
      this.closeUnasked(handle);
    };
    return { ...entry, undo };
  }

  private opened(
    { caller }: Request,
    file: OpenFile,
    attributes: Attributes,
    flags: OpenFlags,
    kernelFlags: number,
  ): { readonly handle: number; readonly openFlags: number } {
    const { session } = this;
    const append = flags.append === true;
    // The kernel would put appended bytes into its pages where it thinks that the end is; another mount may know better.
    const direct = append && session.negotiated().has('DIRECT_IO_ALLOW_MMAP');
    const open: OpenHandle = {
      file,
      append,
      write: flags.write,
      sync: flags.sync === true,
      lockOwners: new Set(),
      drops: undefined,
    };
    let handle: number;
    try {
      handle = session.files.add(open);
    } catch (error) {
      this.closeInBackground(file);
      throw error;
    }
    const aroundPages = (kernelFlags & O_DIRECT) !== 0;
    const { drop, attributesAreOld } = session.nodes.opened(attributes, flags.write, aroundPages, caller.pid);
    open.drops = drop;
    // Or the kernel would end reads where the file ended before another mount appended (P2).
    if (attributesAreOld) session.dropAttributes(attributes.inode, caller.pid);
    return { handle, openFlags: (drop === undefined ? FOPEN_KEEP_CACHE : 0) | (direct ? FOPEN_DIRECT_IO : 0) };
  }

  private async read({ body, caller }: Request): Promise<Answer> {
    const { nodes, trust } = this.session;
    const { file } = usedHandle(this.session, body.u64());
    const [offset, size] = [body.bytes(), body.u32()];
    // Not by flags of the handle: a mapping of one with O_DIRECT has pages, too.
    if ((body.u32() & READ_LOCKOWNER) === 0) nodes.fillsPages(file.inode, offset + size);
    if (trust !== undefined) await trust.mayRead(file.inode);
    const { parts, release } = await file.lend(offset, size);
    const count = parts.reduce((sum, part) => sum + part.length, 0);
    if (count < size) nodes.sawEnd(file.inode, offset + count, caller.pid);
    return { parts, sent: release };
  }

  private async write(request: Request): Promise<Answer> {
    const { body, caller } = request;
    const { session } = this;
    const handle = session.files.get(body.u64());
    const [offset, size, flags] = [body.bytes(), body.u32(), body.u32()];
    body.skip(8);
    const fileFlags = body.u32();
    body.skip(4);
    const bytes = body.view(size);
    // As they are now: fcntl(2) changes O_APPEND, and pwritev2(2) adds O_DSYNC.
    const appends = handle.append && (fileFlags & O_APPEND) !== 0;
    // Without the flag the caller may keep set-user-id by its capabilities, whatever its uid is.
    const options = { killPrivileges: (flags & WRITE_KILL_SUIDGID) !== 0 };
    if ((flags & WRITE_CACHE) !== 0) session.lostPages.requireKept(handle.file.inode);
    if ((flags & WRITE_CACHE) !== 0 && handle.append) {
      return answer(countOut(await this.writeMapped(handle, offset, bytes, options)));
    }
    // What a mapping changed the kernel writes by any handle, also by one whose open has yet to return.
    if ((flags & WRITE_CACHE) === 0) isUsed(session, handle);
    // Not by flags of the handle, which programs change while a page of this very write is locked.
    const pastPages = (flags & WRITE_CACHE) === 0 && (flags & WRITE_LOCKOWNER) !== 0;
    if (!pastPages) session.nodes.fillsPages(handle.file.inode, offset + size);
    const count = await handle.file.write(offset, bytes, { ...options, append: appends });
    session.nodes.knowsAtLeast(handle.file.inode, offset + count, caller.pid);
    // By FOPEN_DIRECT_IO the kernel sends no FSYNC for it.
    if (handle.append && !handle.sync && (fileFlags & O_DSYNC) !== 0) await handle.file.sync();
    // The kernel drops pages before it sends this, but not those that a reader fills with what was there until now.
    if (pastPages) {
      request.waitsForOthers();
      await session.writtenPastPages(handle.file.inode, offset, appends ? undefined : size);
    }
    return answer(countOut(count));
  }

  /** A page of a mapping is written where it stands, also when the kernel sends it by a handle that appends. */
  private async writeMapped(
    handle: OpenHandle,
    offset: number,
    bytes: Buffer,
    options: { readonly killPrivileges: boolean },
  ): Promise<number> {
    const { session } = this;
    for (const other of session.files.values()) {
      if (other.file.inode === handle.file.inode && other.write && !other.append)
        return other.file.write(offset, bytes, options);
    }
    const flags = { read: false, write: true };
    const { file } = await session.fileSystem.open(ROOT_CREDENTIALS, handle.file.inode, flags);
    try {
      return await file.write(offset, bytes, options);
    } finally {
      await file.close();
    }
  }

  private async flush({ body, caller }: Request): Promise<Answer> {
    const handle = usedHandle(this.session, body.u64());
    body.skip(8);
    const owner = ownerName(body.big());
    const flushed = (async () => {
      try {
        await handle.file.flush();
      } finally {
        await closedBy(this.session, handle, owner);
      }
    })();
    while ((await this.within(FLUSH_PATIENCE_MS, flushed)) === 'late') {
      // Linux closes the files of who was killed, and waits, although nobody is there to hear how it ended.
      if (!this.session.wasKilled(caller.pid)) continue;
      this.session.inBackground('flushing a file of a killed process', () => flushed);
      break;
    }
    return DONE;
  }

  private async within(ms: number, work: Promise<void>): Promise<'done' | 'late'> {
    const late = deferred<'late'>();
    const timer = this.session.clock.setTimer(ms, () => late.resolve('late'));
    try {
      return await Promise.race([work.then(() => 'done' as const), late.promise]);
    } finally {
      timer.cancel();
    }
  }

  /** fsync(2) and fdatasync(2): the size must survive in both, and other metadata comes along. */
  private async sync({ body }: Request): Promise<Answer> {
    await this.session.files.get(body.u64()).file.sync();
    return DONE;
  }

  /** Nobody waits for it: what failed was told by FLUSH, or is logged. */
  private async release({ body }: Request): Promise<Answer> {
    const handle = this.session.files.remove(body.u64());
    body.skip(4);
    const [flags, owner] = [body.u32(), ownerName(body.big())];
    this.session.nodes.closed(handle.file.inode, handle.write);
    try {
      await closedForGood(this.session, handle, (flags & RELEASE_FLOCK_UNLOCK) !== 0 ? owner : undefined);
    } finally {
      await handle.file.close();
    }
    return DONE;
  }

  /** The kernel never learned of the handle. */
  private closeUnasked(handle: number): void {
    const { file, write } = this.session.files.remove(handle);
    this.session.nodes.closed(file.inode, write);
    this.closeInBackground(file);
  }

  private closeInBackground(file: OpenFile): void {
    this.session.inBackground('closing a file that nobody took', () => file.close());
  }

  private async seek(request: Request): Promise<Answer> {
    const { session } = this;
    const { body } = request;
    const { file } = session.files.get(body.u64());
    const [offset, whence] = [body.bytes(), body.u32()];
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw new CairnError('EINVAL', `lseek: whence ${whence}`);
    request.waitsForOthers();
    await session.collectPages(file.inode);
    try {
      return answer(offsetOut(await file.seek(offset, whence === SEEK_DATA ? 'data' : 'hole')));
    } catch (error) {
      if (hasCode(error, 'EOPNOTSUPP')) throw new CairnError('ENOSYS', 'lseek is left to the kernel');
      throw error;
    }
  }

  private async allocate({ body, caller }: Request): Promise<Answer> {
    const { file } = this.session.files.get(body.u64());
    const [offset, length, mode] = [body.bytes(), body.bytes(), body.u32()];
    if ((mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE)) !== 0) {
      throw new CairnError('EOPNOTSUPP', `fallocate: mode 0x${mode.toString(16)}`);
    }
    const wanted = {
      keepSize: (mode & FALLOC_KEEP_SIZE) !== 0,
      punchHole: (mode & FALLOC_PUNCH_HOLE) !== 0,
      zeroRange: (mode & FALLOC_ZERO_RANGE) !== 0,
    };
    await file.allocate(offset, length, wanted, this.session.callers.withGroups(caller));
    if ((mode & FALLOC_KEEP_SIZE) === 0) this.session.nodes.knowsAtLeast(file.inode, offset + length, caller.pid);
    return DONE;
  }

  private async copyRange({ body, caller }: Request, encode: (count: number) => Buffer): Promise<Answer> {
    const source = this.session.files.get(body.u64()).file;
    const sourceOffset = body.bytes();
    body.skip(8);
    const target = this.session.files.get(body.u64()).file;
    const [offset, length] = [body.bytes(), body.bytes()];
    const count = await target.copyFrom(source, sourceOffset, offset, length, this.session.callers.withGroups(caller));
    this.session.nodes.knowsAtLeast(target.inode, offset + count, caller.pid);
    return answer(encode(count));
  }
}

const unknownName = (inode: InodeId): CairnError =>
  new CairnError('ESTALE', `the name that led to inode ${inode} is forgotten here: it is to be looked up again`);

/** fuse_create_in */
function newFile({ body }: Request): { readonly flags: number; readonly mode: number; readonly umask: number } {
  const [flags, mode, umask] = [body.u32(), body.u32() & PERMISSION_BITS, body.u32()];
  body.skip(4);
  return { flags, mode, umask };
}
