/** An open file of a DirectoryFileSystem: a descriptor of the agent, used as the one who opened it. */
import { CairnError } from '../../../src/core/errors.js';
import type { InodeId } from '../../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { AllocateMode, Attributes, Credentials, OpenFile } from '../../../src/filesystem/filesystem.js';
import { FALLOC, SEEK } from '../system-calls/system-calls.js';
import type { SystemCalls } from '../system-calls/system-calls.js';
import { owned, type Loan } from '../../../src/filesystem/loan.js';

const NOBODY: Credentials = { uid: 65_534, gid: 65_534, groups: [] };

export class DirectoryOpenFile implements OpenFile {
  private isOpen = true;

  constructor(
    private readonly system: SystemCalls,
    private readonly number: number,
    readonly inode: InodeId,
    private readonly credentials: Credentials,
    private readonly attributesOf: () => Promise<Attributes>,
  ) {}

  /** The agent's. */
  get descriptor(): number {
    // The number may belong to another file by now.
    if (!this.isOpen) throw new CairnError('EBADF', 'the file was closed');
    return this.number;
  }

  async lend(offset: number, length: number): Promise<Loan> {
    return owned(await this.read(offset, length));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    return this.system.pread(this.descriptor, offset, length, { as: this.credentials });
  }

  async write(offset: number, bytes: Uint8Array, options: { readonly killPrivileges?: boolean } = {}): Promise<number> {
    const chosen = options.killPrivileges === true ? NOBODY : ROOT_CREDENTIALS;
    const as = options.killPrivileges === undefined ? this.credentials : chosen;
    return this.system.pwrite(this.descriptor, offset, bytes, { as });
  }

  /** Closes another descriptor of the open file, which is what close(2) does to it short of giving it up. */
  async flush(): Promise<void> {
    await this.system.close(await this.system.dup(this.descriptor));
  }

  async sync(): Promise<void> {
    await this.system.fsync(this.descriptor);
  }

  async truncate(size: number, by = this.credentials): Promise<void> {
    await this.system.ftruncate(this.descriptor, size, { as: by });
  }

  async seek(offset: number, whence: 'data' | 'hole'): Promise<number> {
    return this.system.lseek(this.descriptor, offset, whence === 'data' ? SEEK.DATA : SEEK.HOLE);
  }

  async allocate(offset: number, length: number, mode: AllocateMode = {}, by = this.credentials): Promise<void> {
    const { keepSize, punchHole, zeroRange } = mode;
    const bits =
      (keepSize === true ? FALLOC.KEEP_SIZE : 0) |
      (punchHole === true ? FALLOC.PUNCH_HOLE : 0) |
      (zeroRange === true ? FALLOC.ZERO_RANGE : 0);
    await this.system.fallocate(this.descriptor, bits, offset, length, { as: by });
  }

  async copyFrom(
    source: OpenFile,
    sourceOffset: number,
    offset: number,
    length: number,
    by = this.credentials,
  ): Promise<number> {
    if (!(source instanceof DirectoryOpenFile)) throw new CairnError('EXDEV', 'a file of another file system');
    const from = { fd: source.descriptor, offset: sourceOffset };
    return this.system.copyFileRange(from, { fd: this.descriptor, offset }, length, { as: by });
  }

  async attributes(): Promise<Attributes> {
    void this.descriptor;
    return this.attributesOf();
  }

  async close(): Promise<void> {
    const fd = this.descriptor;
    this.isOpen = false;
    await this.system.close(fd, { as: this.credentials });
  }
}
