/**
 * The master's namespace as a `FileSystem`, with file content in memory and no network: so the conformance suite and
 * the model check every metadata operation on the real state engine. Messages go through their encoding.
 */
import { setImmediate as turn } from 'node:timers/promises';
import type * as fs from '../../../src/filesystem/filesystem.js';
import type { Attributes, Credentials, FileSystem, OpenFile, OpenFlags } from '../../../src/filesystem/filesystem.js';
import type { Timespec } from '../../../src/core/clock.js';
import { CairnError } from '../../../src/core/errors.js';
import { inodeId, sessionId } from '../../../src/core/ids.js';
import type { InodeId, SessionId } from '../../../src/core/ids.js';
import { MAX_NAME_BYTES } from '../../../src/core/limits.js';
import * as namespace from '../../../src/master/namespace/namespace.js';
import type { LogState } from '../../../src/master/state/log-state.js';
import { LockTable } from '../../../src/master/sessions/locks.js';
import { keys } from '../../../src/master/state/keys.js';
import type { Mutation } from '../../../src/master/state/state.js';
import * as messages from '../../../src/protocol/generated/messages.js';
import type { AttributesInit } from '../../../src/protocol/generated/messages.js';
import { TYPE_BITS } from '../models/model-state.js';
import { ManualClock } from '../fakes/manual-clock.js';
import { renameBits } from '../system-calls/system-calls.js';
import { SparseBytes } from '../sparse-bytes.js';
import { message, NamespaceFile } from './namespace-open-file.js';

function kindOf(mode: number): fs.FileKind {
  for (const [kind, bits] of Object.entries(TYPE_BITS)) if ((mode & 0o170000) === bits) return kind as fs.FileKind;
  throw new Error(`mode ${mode.toString(8)}`);
}

function timeOf(time: messages.Timespec | null): Timespec {
  return { seconds: time?.seconds ?? 0, nanoseconds: time?.nanoseconds ?? 0 };
}

function attributesOf(init: AttributesInit | null | undefined): Attributes {
  const a = message(messages.Attributes, init ?? {});
  const { mode, nlink, uid, gid, size, allocatedBytes, rdev, change } = a;
  const times = { atime: timeOf(a.atime), mtime: timeOf(a.mtime), ctime: timeOf(a.ctime) };
  return { inode: inodeId(a.inode), mode, nlink, uid, gid, size, allocatedBytes, rdev, change, ...times };
}

const flagBits = (flags: OpenFlags): number =>
  (flags.read ? 1 : 0) | (flags.write ? 2 : 0) | (flags.truncate === true ? 4 : 0);

/** What the clients of one namespace share beside its state. */
export class SharedFiles {
  readonly contents = new Map<InodeId, SparseBytes>();
  readonly opens = new Map<InodeId, number>();
  readonly locks = new LockTable(new ManualClock(), () => undefined);
  sessions = 0;
}

export class NamespaceFileSystem implements FileSystem {
  private readonly open_ = new Set<NamespaceFile>();
  private readonly session: SessionId;
  private nextWait = 1;

  constructor(
    readonly state: LogState,
    readonly files: SharedFiles,
    private readonly now: () => Timespec,
  ) {
    this.session = sessionId(++files.sessions);
  }

  mutate<T>(decide: (m: Mutation, context: namespace.OperationContext) => T): T {
    return this.state.mutate((m) => decide(m, { now: this.now() }));
  }

  content(inode: InodeId): SparseBytes {
    let content = this.files.contents.get(inode);
    if (content === undefined) this.files.contents.set(inode, (content = new SparseBytes()));
    return content;
  }

  noteRead(inode: InodeId): void {
    this.mutate((m, { now }) => namespace.noteRead(m, inode, now));
  }

  /** What the reaper does: an orphan that nobody has open is forgotten. */
  reap(): void {
    for (const [key] of this.state.range({ start: 'U', end: 'V' })) {
      const inode = inodeId(Number.parseInt(Buffer.from(key.slice(1), 'latin1').toString('hex'), 16));
      if ((this.files.opens.get(inode) ?? 0) > 0) continue;
      this.files.contents.delete(inode);
      this.mutate((m) => namespace.removeInode(m, inode));
    }
  }

  async lookup(caller: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    return attributesOf(
      namespace.lookup(this.state, message(messages.LookupRequest, { caller, parent, name })).attributes,
    );
  }

  async getAttributes(inode: InodeId): Promise<Attributes> {
    return attributesOf(namespace.getAttributes(this.state, message(messages.GetAttributesRequest, { inode })));
  }

  async setAttributes(caller: Credentials, inode: InodeId, changes: fs.AttributeChanges): Promise<Attributes> {
    const { atime, mtime, mode, uid, gid, size, killPrivileges } = changes;
    if (size !== undefined && (size < 0 || !Number.isSafeInteger(size))) throw new CairnError('EINVAL', 'size');
    return this.setAttributesRequest({
      caller,
      inode,
      mode,
      uid,
      gid,
      size,
      killPrivileges,
      atimeNow: atime === 'now',
      mtimeNow: mtime === 'now',
      atime: atime === 'now' ? undefined : atime,
      mtime: mtime === 'now' ? undefined : mtime,
    });
  }

  setAttributesRequest(init: messages.SetAttributesRequestInit): Attributes {
    const request = message(messages.SetAttributesRequest, init);
    const reply = this.mutate((m, context) => namespace.setAttributes(m, context, request));
    if (request.size !== null) this.content(inodeId(request.inode)).truncate(request.size);
    return attributesOf(reply);
  }

  async access(caller: Credentials, inode: InodeId, mask: number): Promise<void> {
    namespace.access(this.state, message(messages.AccessRequest, { caller, inode, mask }));
  }

  private make(init: messages.CreateRequestInit): messages.CreateReplyInit {
    const request = message(messages.CreateRequest, init);
    return this.mutate((m, context) => namespace.create(m, context, request));
  }

  async makeNode(caller: Credentials, parent: InodeId, name: Buffer, node: fs.NewNode): Promise<Attributes> {
    const mode = TYPE_BITS[node.kind] | node.mode;
    return attributesOf(
      this.make({ caller, parent, name, mode, rdev: node.rdev, umask: node.umask, exclusive: true }).attributes,
    );
  }

  async symlink(caller: Credentials, parent: InodeId, name: Buffer, target: Buffer): Promise<Attributes> {
    const mode = TYPE_BITS.symlink | 0o777;
    return attributesOf(this.make({ caller, parent, name, mode, symlinkTarget: target }).attributes);
  }

  async readLink(caller: Credentials, inode: InodeId): Promise<Buffer> {
    const request = message(messages.ReadLinkRequest, { caller, inode });
    const { target } = namespace.readLink(this.state, request);
    this.noteRead(inode);
    return Buffer.from(target ?? []);
  }

  async link(caller: Credentials, inode: InodeId, parent: InodeId, name: Buffer): Promise<Attributes> {
    const request = message(messages.LinkRequest, { caller, inode, parent, name });
    return attributesOf(this.mutate((m, context) => namespace.link(m, context, request)));
  }

  async unlink(caller: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    const request = message(messages.UnlinkRequest, { caller, parent, name });
    this.mutate((m, context) => namespace.unlink(m, context, request));
    this.reap();
  }

  async removeDirectory(caller: Credentials, parent: InodeId, name: Buffer): Promise<void> {
    const request = message(messages.UnlinkRequest, { caller, parent, name, directory: true });
    this.mutate((m, context) => namespace.unlink(m, context, request));
    this.reap();
  }

  async rename(
    caller: Credentials,
    from: { readonly parent: InodeId; readonly name: Buffer },
    to: { readonly parent: InodeId; readonly name: Buffer },
    flags: fs.RenameFlags = {},
  ): Promise<void> {
    const request = message(messages.RenameRequest, {
      caller,
      parent: from.parent,
      name: from.name,
      newParent: to.parent,
      newName: to.name,
      flags: renameBits(flags),
    });
    this.mutate((m, context) => namespace.rename(m, context, request));
    this.reap();
  }

  async create(
    caller: Credentials,
    parent: InodeId,
    name: Buffer,
    options: fs.NewFile,
  ): Promise<{ file: OpenFile; attributes: Attributes; created: boolean }> {
    const mode = TYPE_BITS.file | options.mode;
    const openFlags = flagBits(options.flags);
    const { umask, exclusive } = options;
    const reply = this.make({ caller, parent, name, mode, umask, exclusive, openFlags });
    return { ...this.opened(caller, attributesOf(reply.attributes), options.flags), created: reply.created === true };
  }

  open(caller: Credentials, inode: InodeId, flags: OpenFlags): Promise<{ file: OpenFile; attributes: Attributes }> {
    return this.openRequest(caller, { inode, flags: flagBits(flags) }, flags);
  }

  openAt(
    caller: Credentials,
    parent: InodeId,
    name: Buffer,
    flags: OpenFlags,
  ): Promise<{ file: OpenFile; attributes: Attributes }> {
    return this.openRequest(caller, { parent, name, flags: flagBits(flags) }, flags);
  }

  private async openRequest(
    caller: Credentials,
    init: messages.OpenRequestInit,
    flags: OpenFlags,
  ): Promise<{ file: OpenFile; attributes: Attributes }> {
    const request = message(messages.OpenRequest, { caller, ...init });
    const reply =
      flags.truncate === true
        ? this.mutate((m, context) => namespace.openTruncating(m, context, request))
        : namespace.open(this.state, request);
    return this.opened(caller, attributesOf(reply), flags);
  }

  private opened(
    caller: Credentials,
    attributes: Attributes,
    flags: OpenFlags,
  ): { file: OpenFile; attributes: Attributes } {
    const { inode } = attributes;
    if (flags.truncate === true) this.content(inode).truncate(0);
    this.files.opens.set(inode, (this.files.opens.get(inode) ?? 0) + 1);
    const file = new NamespaceFile(this, inode, caller, flags, () => {
      this.open_.delete(file);
      this.files.opens.set(inode, (this.files.opens.get(inode) ?? 1) - 1);
      this.reap();
    });
    this.open_.add(file);
    return { file, attributes };
  }

  async readDirectory(
    caller: Credentials,
    inode: InodeId,
    cookie: number,
    options: { readonly maxEntries?: number; readonly withAttributes?: boolean } = {},
  ): Promise<fs.DirectoryPage> {
    const request = message(messages.ReadDirectoryRequest, { caller, inode, cookie, ...options });
    const page = message(messages.ReadDirectoryReply, namespace.readDirectory(this.state, request));
    this.noteRead(inode);
    const entries = page.entries.map((entry) => ({
      name: Buffer.from(entry.name),
      inode: inodeId(entry.inode),
      kind: kindOf(entry.mode),
      cookie: entry.cookie,
      ...(entry.attributes === null ? {} : { attributes: attributesOf(entry.attributes) }),
    }));
    return { entries, end: page.end, parent: inodeId(page.parent), nextCookie: page.nextCookie };
  }

  async getXattr(caller: Credentials, inode: InodeId, name: Buffer): Promise<Buffer> {
    const request = message(messages.GetXattrRequest, { caller, inode, name });
    return Buffer.from(namespace.getXattr(this.state, request).value ?? []);
  }

  async setXattr(
    caller: Credentials,
    inode: InodeId,
    name: Buffer,
    value: Uint8Array,
    options: { readonly create?: boolean; readonly replace?: boolean } = {},
  ): Promise<void> {
    const flags = (options.create === true ? 1 : 0) | (options.replace === true ? 2 : 0);
    const request = message(messages.SetXattrRequest, { caller, inode, name, value, flags });
    this.mutate((m, context) => namespace.setXattr(m, context, request));
  }

  async listXattrs(caller: Credentials, inode: InodeId): Promise<Buffer[]> {
    const request = message(messages.ListXattrsRequest, { caller, inode });
    return (namespace.listXattrs(this.state, request).names ?? []).map((name) => Buffer.from(name));
  }

  async removeXattr(caller: Credentials, inode: InodeId, name: Buffer): Promise<void> {
    const request = message(messages.RemoveXattrRequest, { caller, inode, name });
    this.mutate((m, context) => namespace.removeXattr(m, context, request));
  }

  async createTemporary(
    caller: Credentials,
    parent: InodeId,
    { mode, umask, flags, exclusive }: fs.NewFile,
  ): Promise<{ file: OpenFile; attributes: Attributes }> {
    const openFlags = flagBits(flags);
    const what = { mode: TYPE_BITS.file | mode, umask, exclusive, openFlags, temporary: true };
    const reply = this.make({ caller, parent, ...what });
    return this.opened(caller, attributesOf(reply.attributes), flags);
  }

  private lockOf(inode: InodeId, { kind, type, start, end, owner, pid }: fs.LockRequest) {
    const place = { session: this.session, inode, kind, owner };
    return { place, range: { start, end, pid, type: type === 'unlock' ? ('read' as const) : type } };
  }

  async getLock(inode: InodeId, request: fs.LockRequest): Promise<fs.LockHolder | undefined> {
    const { place, range } = this.lockOf(inode, request);
    const found = this.files.locks.conflict(place, range);
    if (found === undefined) return undefined;
    const { type, start, end, pid } = found.range;
    return { type, start, end, pid: found.session === this.session ? pid : 0 };
  }

  async setLock(
    inode: InodeId,
    request: fs.LockRequest,
    options: { readonly wait: boolean; readonly signal?: AbortSignal },
  ): Promise<void> {
    const { locks } = this.files;
    const { place, range } = this.lockOf(inode, request);
    if (request.start > request.end) throw new CairnError('EINVAL', 'no such range');
    if (request.type === 'unlock') return locks.unset(place, range);
    const waitId = options.wait ? this.nextWait++ : 0;
    if (locks.set(place, range, waitId)) return;
    while (!locks.poll(this.session, [waitId], []).granted.includes(waitId)) {
      if (options.signal?.aborted === true && !locks.cancel(this.session, waitId)) {
        throw new CairnError('EINTR', 'interrupted');
      }
      await turn();
    }
    locks.poll(this.session, [], [waitId]);
  }

  async releaseLocks(inode: InodeId, kind: fs.LockKind, owner: string): Promise<void> {
    this.files.locks.release({ session: this.session, inode, kind, owner });
  }

  async syncMetadata(): Promise<void> {
    await this.state.durable();
  }

  async statFs(): Promise<fs.FileSystemStats> {
    const inodes = namespace.countInodes(this.state);
    return { totalBytes: 2 ** 40, freeBytes: 2 ** 39, inodes, maxNameBytes: MAX_NAME_BYTES };
  }

  async placement(inode: InodeId): Promise<readonly fs.ChunkPlacement[]> {
    if (this.state.get(keys.inode(inode)) === undefined) throw new CairnError('ESTALE', `inode ${inode}`);
    return [];
  }

  async close(): Promise<void> {
    for (const file of [...this.open_]) await file.close();
  }
}
