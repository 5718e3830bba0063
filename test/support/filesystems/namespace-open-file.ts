/** An open file of a NamespaceFileSystem. */
import type * as fs from '../../../src/filesystem/filesystem.js';
import type { Attributes, Credentials, OpenFile, OpenFlags } from '../../../src/filesystem/filesystem.js';
import { CairnError } from '../../../src/core/errors.js';
import type { InodeId } from '../../../src/core/ids.js';
import { MAX_FILE_BYTES } from '../../../src/core/limits.js';
import * as namespace from '../../../src/master/namespace/namespace.js';
import * as messages from '../../../src/protocol/generated/messages.js';
import type { MessageCodec } from '../../../src/protocol/generated/messages.js';
import { owned, type Loan } from '../../../src/filesystem/loan.js';
import type { NamespaceFileSystem } from './namespace-filesystem.js';

export function message<T, I>(codec: MessageCodec<T, I>, init: I): T {
  return codec.decode(codec.encode(init).finish());
}

export class NamespaceFile implements OpenFile {
  private isOpen = true;

  constructor(
    private readonly system: NamespaceFileSystem,
    readonly inode: InodeId,
    private readonly caller: Credentials,
    private readonly flags: OpenFlags,
    private readonly onClose: () => void,
  ) {}

  private publish(end: number, killPrivileges: boolean, caller = this.caller): void {
    const { inode } = this;
    // By whom decides about setgid, which the publication does not say: the client asks for it by itself.
    if (killPrivileges && caller.uid !== 0) {
      this.system.setAttributesRequest({ caller, inode, killPrivileges, openedForWriting: true });
    }
    this.system.mutate((m, context) => {
      const request = message(messages.PublishRequest, { inode, end, mtime: context.now, killPrivileges });
      return namespace.publish(m, context, request);
    });
  }

  private check(isAllowed: boolean): void {
    if (!this.isOpen || !isAllowed) throw new CairnError('EBADF', 'closed, or not opened for this');
  }

  async lend(offset: number, length: number): Promise<Loan> {
    return owned(await this.read(offset, length));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    this.check(this.flags.read);
    const { size } = await this.attributes();
    const count = Math.max(0, Math.min(length, size - offset));
    if (count > 0) this.system.noteRead(this.inode);
    return this.system.content(this.inode).read(offset, count);
  }

  async write(offset: number, bytes: Uint8Array, options: { readonly killPrivileges?: boolean } = {}): Promise<number> {
    return this.writeBy(this.caller, offset, bytes, options.killPrivileges ?? this.caller.uid !== 0);
  }

  private async writeBy(by: Credentials, offset: number, bytes: Uint8Array, kills: boolean): Promise<number> {
    this.check(this.flags.write);
    const at = this.flags.append === true ? (await this.attributes()).size : offset;
    if (at + bytes.length > MAX_FILE_BYTES) throw new CairnError('EFBIG', 'too large');
    if (bytes.length === 0) return 0;
    this.system.content(this.inode).write(at, bytes);
    this.publish(at + bytes.length, kills, by);
    return bytes.length;
  }

  async flush(): Promise<void> {
    this.check(true);
  }

  async sync(): Promise<void> {
    this.check(true);
    await this.system.syncMetadata();
  }

  async truncate(size: number, caller = this.caller): Promise<void> {
    this.check(this.flags.write);
    if (size < 0 || !Number.isSafeInteger(size)) throw new CairnError('EINVAL', 'size');
    this.system.setAttributesRequest({ caller, inode: this.inode, size, openedForWriting: true });
  }

  async seek(offset: number, whence: 'data' | 'hole'): Promise<number> {
    this.check(true);
    const { size } = await this.attributes();
    if (!(offset >= 0 && offset < size)) throw new CairnError('ENXIO', 'not in the file');
    const found = this.system.content(this.inode).next(offset, whence) ?? (whence === 'hole' ? offset : undefined);
    if (found === undefined) throw new CairnError('ENXIO', 'no more data');
    return Math.max(offset, found);
  }

  async allocate(offset: number, length: number, mode: fs.AllocateMode = {}, by = this.caller): Promise<void> {
    this.check(this.flags.write);
    const { keepSize = false, punchHole = false, zeroRange = false } = mode;
    if (!(offset >= 0 && length > 0) || (punchHole && (!keepSize || zeroRange)))
      throw new CairnError('EINVAL', 'range');
    if (offset + length > MAX_FILE_BYTES) throw new CairnError('EFBIG', 'too large');
    const content = this.system.content(this.inode);
    if (punchHole || zeroRange) content.zero(offset, offset + length);
    const end = keepSize ? 0 : offset + length;
    if (end > content.size) content.truncate(end);
    this.publish(end, by.uid !== 0, by);
  }

  async copyFrom(
    source: OpenFile,
    sourceOffset: number,
    offset: number,
    length: number,
    by = this.caller,
  ): Promise<number> {
    this.check(this.flags.write && this.flags.append !== true);
    const count = Math.min(length, Math.max(0, (await source.attributes()).size - sourceOffset));
    const overlaps = sourceOffset < offset + count && offset < sourceOffset + count;
    if (source.inode === this.inode && overlaps) throw new CairnError('EINVAL', 'the ranges overlap');
    return this.writeBy(by, offset, await source.read(sourceOffset, Math.min(length, 2 ** 24)), by.uid !== 0);
  }

  attributes(): Promise<Attributes> {
    this.check(true);
    return this.system.getAttributes(this.inode);
  }

  async close(): Promise<void> {
    this.check(true);
    this.isOpen = false;
    this.onClose();
  }
}
