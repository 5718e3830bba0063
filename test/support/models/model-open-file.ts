/** An open file of the model. */
import { MAX_FILE_BYTES } from '../../../src/core/limits.js';
import type { InodeId } from '../../../src/core/ids.js';
import type * as fs from '../../../src/filesystem/filesystem.js';
import type { Attributes, Credentials, OpenFile, OpenFlags } from '../../../src/filesystem/filesystem.js';
import { dropPrivileges, fail } from './model-state.js';
import type { ModelInode, ModelState } from './model-state.js';
import { owned, type Loan } from '../../../src/filesystem/loan.js';

export class ModelOpenFile implements OpenFile {
  private isOpen = true;

  constructor(
    private readonly state: ModelState,
    private readonly node: ModelInode,
    private readonly credentials: Credentials,
    private readonly flags: OpenFlags,
    private readonly onClose: () => void,
  ) {
    node.opens++;
  }

  get inode(): InodeId {
    return this.node.id;
  }

  async lend(offset: number, length: number): Promise<Loan> {
    return owned(await this.read(offset, length));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    this.check(this.flags.read);
    const bytes = this.node.content.read(offset, length);
    if (bytes.length > 0) this.state.touchRead(this.node);
    return bytes;
  }

  async write(offset: number, bytes: Uint8Array, options: fs.WriteOptions = {}): Promise<number> {
    return this.writeBy(this.credentials, offset, bytes, options);
  }

  private writeBy(by: fs.Credentials, offset: number, bytes: Uint8Array, options: fs.WriteOptions = {}): number {
    this.check(this.flags.write);
    const appends = options.append ?? this.flags.append === true;
    const at = appends ? this.node.content.size : offset;
    if (at + bytes.length > MAX_FILE_BYTES) fail('EFBIG', 'the file would be too large');
    if (bytes.length === 0) return 0;
    this.changes(options.killPrivileges ?? by.uid !== 0, by);
    this.node.content.write(at, bytes);
    this.state.touchContent(this.node);
    return bytes.length;
  }

  async flush(): Promise<void> {
    this.check(true);
  }

  async sync(): Promise<void> {
    this.check(true);
  }

  async truncate(size: number, by = this.credentials): Promise<void> {
    this.check(this.flags.write);
    checkSize(size);
    this.changes(by.uid !== 0, by);
    this.node.content.truncate(size);
    this.state.touchContent(this.node);
  }

  async seek(offset: number, whence: 'data' | 'hole'): Promise<number> {
    this.check(true);
    const { content } = this.node;
    if (!(offset >= 0 && offset < content.size)) fail('ENXIO', 'not in the file');
    return content.next(offset, whence) ?? fail('ENXIO', 'no more data');
  }

  async allocate(offset: number, length: number, mode: fs.AllocateMode = {}, by = this.credentials): Promise<void> {
    this.check(this.flags.write);
    const { keepSize = false, punchHole = false, zeroRange = false } = mode;
    if (!(offset >= 0 && length > 0) || (punchHole && (!keepSize || zeroRange))) fail('EINVAL', 'fallocate');
    if (offset + length > MAX_FILE_BYTES) fail('EFBIG', 'the file would be too large');
    const { content } = this.node;
    if (punchHole || zeroRange) content.zero(offset, offset + length);
    if (!keepSize && offset + length > content.size) content.truncate(offset + length);
    this.changes(by.uid !== 0, by);
    this.state.touchContent(this.node);
  }

  async copyFrom(
    source: OpenFile,
    sourceOffset: number,
    offset: number,
    length: number,
    by = this.credentials,
  ): Promise<number> {
    this.check(this.flags.write && this.flags.append !== true);
    if (!(sourceOffset >= 0 && offset >= 0 && length >= 0)) fail('EINVAL', 'no such range');
    const count = Math.min(length, Math.max(0, (await source.attributes()).size - sourceOffset));
    const overlaps = sourceOffset < offset + count && offset < sourceOffset + count;
    if (source.inode === this.inode && overlaps) fail('EINVAL', 'the ranges overlap');
    return this.writeBy(by, offset, await source.read(sourceOffset, Math.min(length, 2 ** 24)));
  }

  async attributes(): Promise<Attributes> {
    this.check(true);
    return this.node.attributes();
  }

  async close(): Promise<void> {
    this.check(true);
    this.isOpen = false;
    this.node.opens--;
    this.onClose();
    this.state.reap(this.node);
  }

  /** What a change of the content does to the privileges of a program. */
  private changes(kills: boolean, by: fs.Credentials): void {
    if (kills) dropPrivileges(by, this.node);
    else this.node.xattrs.delete('security.capability');
  }

  private check(isAllowed: boolean): void {
    if (!this.isOpen || !isAllowed) fail('EBADF', 'closed, or not opened for this');
  }
}

export function checkSize(size: number): void {
  if (!Number.isSafeInteger(size) || size < 0) fail('EINVAL', 'not a size');
  if (size > MAX_FILE_BYTES) fail('EFBIG', 'the size is too large');
}
