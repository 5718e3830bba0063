/** Requests about attributes: GETATTR, SETATTR, ACCESS, STATFS, and extended attributes. */
import { CairnError, hasCode } from '../../core/errors.js';
import { PERMISSION_BITS, S_ISGID } from '../../core/mode.js';
import { ROOT_CREDENTIALS } from '../../filesystem/filesystem.js';
import type { AttributeChanges, Credentials } from '../../filesystem/filesystem.js';
import { XATTR_CREATE, XATTR_REPLACE } from '../linux.js';
import type { Cursor } from './wire/decode.js';
import { decodeTimes } from './wire/decode.js';
import { attributesOut, countOut, statfsOut } from './wire/encode.js';
import {
  GETATTR_HANDLE,
  SET_ATIME,
  SET_ATIME_NOW,
  SET_GID,
  SET_HANDLE,
  SET_KILL_SUIDGID,
  SET_MODE,
  SET_MTIME,
  SET_MTIME_NOW,
  SET_SIZE,
  SET_UID,
} from './wire/protocol.js';
import type { Opcode } from './wire/protocol.js';
import { answer, DONE } from './wire/request.js';
import type { Answer, Handler, Request } from './wire/request.js';
import { askedBy, attributesAnswer, inodeOf } from './session.js';
import type { Session } from './session.js';

const CAPABILITIES = Buffer.from('security.capability');
const ACCESS_ACL = Buffer.from('system.posix_acl_access');

export class AttributeRequests {
  readonly handlers: Partial<Record<Opcode, Handler>> = {
    GETATTR: (request) => this.getAttributes(request),
    SETATTR: (request) => this.setAttributes(request),
    ACCESS: (request) => this.access(request),
    STATFS: () => this.statFs(),
    GETXATTR: (request) => this.getXattr(request),
    SETXATTR: (request) => this.setXattr(request),
    LISTXATTR: (request) => this.listXattrs(request),
    REMOVEXATTR: (request) => this.removeXattr(request),
  };

  constructor(private readonly session: Session) {}

  private async getAttributes(request: Request): Promise<Answer> {
    const { session } = this;
    const flags = request.body.u32();
    request.body.skip(4);
    if ((flags & GETATTR_HANDLE) !== 0) {
      const attributes = await session.files.get(request.body.u64()).file.attributes();
      // Others may be told now what it was before, and the kernel takes what comes first: a read(2) would end where the file ended.
      if (session.trust !== undefined && session.nodes.mayMissSize(attributes, askedBy(request))) {
        request.waitsForOthers();
        await session.refreshSize(attributes, request.caller.pid);
      }
      return attributesAnswer(session, request, attributes);
    }
    const inode = inodeOf(session, request);
    const { trust } = session;
    if (trust?.gates.isClosed(inode) === true) {
      request.waitsForOthers();
      await trust.doorkeeper.pass(request.caller.pid, inode, request.nodeid);
    }
    try {
      return attributesAnswer(session, request, await session.fileSystem.getAttributes(inode));
    } catch (error) {
      // A directory or FIFO that was removed is still there for who is in it, or has it open.
      const last = hasCode(error, 'ESTALE') ? session.nodes.lastOf(inode) : undefined;
      if (last === undefined) throw error;
      return answer(attributesOut({ ...last, nlink: 0 }, 0));
    }
  }

  private async setAttributes(request: Request): Promise<Answer> {
    const { session } = this;
    const { valid, handle, changes } = decodeSetattr(request.body);
    const inode = inodeOf(session, request);
    const { size, ...others } = changes;
    // An open file may be cut by whom it was opened for, whatever its permissions say by now.
    if (size !== undefined && (valid & SET_HANDLE) !== 0) {
      const { file } = session.files.get(handle);
      await file.truncate(size, session.callers.withGroups(request.caller));
      if (Object.keys(others).every((name) => name === 'killPrivileges')) {
        return attributesAnswer(session, request, await file.attributes(), true);
      }
      return this.change(request, inode, others);
    }
    return this.change(request, inode, changes);
  }

  private async change(
    request: Request,
    inode: ReturnType<typeof inodeOf>,
    changes: AttributeChanges,
  ): Promise<Answer> {
    const { session } = this;
    const { caller } = request;
    const change = (credentials: Credentials) => session.fileSystem.setAttributes(credentials, inode, changes);
    // chmod(2), chown(2) and truncate(2) drop set-group-id, without an error, when the caller is not in the file's group.
    const { mode = 0, uid, gid, size } = changes;
    const dependsOnGroups = (mode & S_ISGID) !== 0 || [uid, gid, size].some((value) => value !== undefined);
    const changed = dependsOnGroups ? change(session.callers.withGroups(caller)) : session.callers.run(caller, change);
    const attributes = await changed.catch((error: unknown) => {
      // Before Linux 5.12 the kernel itself takes set-user-id away after a write, by a chmod in the name of who wrote.
      const isPlain = changes.mode === undefined || session.negotiated().has('HANDLE_KILLPRIV_V2');
      if (isPlain || !hasCode(error, 'EPERM')) throw error;
      return session.callers.run(caller, (credentials) =>
        session.fileSystem.setAttributes(credentials, inode, { killPrivileges: true }),
      );
    });
    return attributesAnswer(session, request, attributes, true);
  }

  /** Only sent when permissions are not left to the kernel. */
  private async access(request: Request): Promise<Answer> {
    const { session } = this;
    const [inode, mask] = [inodeOf(session, request), request.body.u32()];
    await session.callers.run(request.caller, (credentials) => session.fileSystem.access(credentials, inode, mask));
    return DONE;
  }

  private async statFs(): Promise<Answer> {
    return answer(statfsOut(await this.session.fileSystem.statFs()));
  }

  private async getXattr(request: Request): Promise<Answer> {
    const { session } = this;
    const size = request.body.u32();
    request.body.skip(4);
    const [inode, name] = [inodeOf(session, request), request.body.text()];
    const get = (credentials: Credentials) => session.fileSystem.getXattr(credentials, inode, name);
    const value = await session.callers.run(request.caller, get).catch((error: unknown) => {
      // The kernel asks for the ACL before it opens a directory that was removed.
      const isGone = hasCode(error, 'ESTALE') && session.nodes.lastOf(inode) !== undefined;
      throw isGone ? new CairnError('ENODATA', `inode ${inode} was removed, with its xattrs`) : error;
    });
    return sized(value, size);
  }

  private async listXattrs(request: Request): Promise<Answer> {
    const { session } = this;
    const [inode, size] = [inodeOf(session, request), request.body.u32()];
    const names = await session.callers.run(request.caller, (credentials) =>
      session.fileSystem.listXattrs(credentials, inode),
    );
    const nul = Buffer.alloc(1);
    return sized(Buffer.concat(names.flatMap((name) => [name, nul])), size);
  }

  private async setXattr(request: Request): Promise<Answer> {
    const { session } = this;
    const { body } = request;
    const [size, flags] = [body.u32(), body.u32()];
    if (session.negotiated().has('SETXATTR_EXT')) body.skip(8);
    const [inode, name] = [inodeOf(session, request), body.text()];
    const value = Buffer.from(body.view(size));
    const wanted = { create: (flags & XATTR_CREATE) !== 0, replace: (flags & XATTR_REPLACE) !== 0 };
    const set = (credentials: Credentials) => session.fileSystem.setXattr(credentials, inode, name, value, wanted);
    // As chmod(2): set-group-id goes, without an error, when the caller is not in the file's group.
    if (name.equals(ACCESS_ACL)) await set(session.callers.withGroups(request.caller));
    else await session.callers.run(request.caller, set);
    return DONE;
  }

  private async removeXattr(request: Request): Promise<Answer> {
    const { session } = this;
    const [inode, name] = [inodeOf(session, request), request.body.text()];
    const remove = (credentials: Credentials) => session.fileSystem.removeXattr(credentials, inode, name);
    // The kernel lets nobody remove them without the capability for it. It does itself, for whoever writes or changes the owner.
    if (name.equals(CAPABILITIES)) await remove(ROOT_CREDENTIALS);
    else await session.callers.run(request.caller, remove);
    return DONE;
  }
}

/** The value, or how long it is when the caller has no room and only asks. */
function sized(value: Buffer, room: number): Answer {
  if (room === 0) return answer(countOut(value.length));
  if (value.length > room) throw new CairnError('ERANGE', `${value.length} bytes do not fit into ${room}`);
  return answer(value);
}

interface Setattr {
  readonly valid: number;
  readonly handle: number;
  readonly changes: AttributeChanges;
}

/** fuse_setattr_in. A ctime is the server's to set, and only sent with the writeback cache. */
export function decodeSetattr(body: Cursor): Setattr {
  const valid = body.u32();
  body.skip(4);
  const sent = (bit: number): boolean => (valid & bit) !== 0;
  const handle = takeU64(body, sent(SET_HANDLE));
  const size = body.bytes();
  body.skip(8);
  const { atime, mtime } = decodeTimes(body);
  const mode = body.u32();
  body.skip(4);
  const [uid, gid] = [body.u32(), body.u32()];
  const changes: AttributeChanges = {
    ...(sent(SET_MODE) && { mode: mode & PERMISSION_BITS }),
    ...(sent(SET_UID) && { uid }),
    ...(sent(SET_GID) && { gid }),
    ...(sent(SET_SIZE) && { size }),
    ...(sent(SET_ATIME) && { atime: sent(SET_ATIME_NOW) ? ('now' as const) : atime }),
    ...(sent(SET_MTIME) && { mtime: sent(SET_MTIME_NOW) ? ('now' as const) : mtime }),
    ...(sent(SET_KILL_SUIDGID) && { killPrivileges: true }),
  };
  return { valid, handle, changes };
}

/** Fields that are not meant may hold anything. */
function takeU64(body: Cursor, isMeant: boolean): number {
  if (isMeant) return body.u64();
  body.skip(8);
  return 0;
}
