/** Open directories, as node:fs has them. */
import type { InodeId } from '../core/ids.js';
import type { Credentials, DirectoryEntry, FileSystem } from '../filesystem/filesystem.js';
import { listEntries } from '../filesystem/listing.js';
import { asCall } from './node-error.js';
import { Dirent } from './stats.js';

/** An open directory in the shape of `fs.Dir`. */
export class Dir {
  private readonly entries: AsyncGenerator<DirectoryEntry, undefined>;

  constructor(
    fs: FileSystem,
    credentials: Credentials,
    inode: InodeId,
    readonly path: string,
  ) {
    this.entries = listEntries(fs, credentials, inode);
  }

  /** The next entry; null after the last. */
  async read(): Promise<Dirent | null> {
    const entry = await asCall({ syscall: 'readdir', path: this.path }, () => this.entries.next());
    return entry.value === undefined ? null : new Dirent(entry.value.name.toString(), this.path, entry.value.kind);
  }

  async close(): Promise<void> {
    await this.entries.return(undefined);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Dirent> {
    for (let entry = await this.read(); entry !== null; entry = await this.read()) yield entry;
  }
}
