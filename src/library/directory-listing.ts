/** Directories read page by page. */
import type { InodeId } from '../core/ids.js';
import type { Credentials, DirectoryEntry, DirectoryPage, FileSystem } from '../filesystem/filesystem.js';
import { asCall } from './node-error.js';
import { Dirent } from './stats.js';

type ListingOptions = { readonly withAttributes?: boolean };

/** A directory page by page, without what is made after the listing has begun: see `DirectoryPage.nextCookie`. */
export async function* listPages(
  fs: FileSystem,
  credentials: Credentials,
  inode: InodeId,
  options: ListingOptions = {},
): AsyncGenerator<DirectoryPage, undefined> {
  let before: number | undefined;
  for (let cookie = 0; ;) {
    const page = await fs.readDirectory(credentials, inode, cookie, options);
    const bound = (before ??= page.nextCookie);
    const last = page.entries.at(-1);
    if (last !== undefined && last.cookie >= bound) {
      yield { ...page, entries: page.entries.filter((entry) => entry.cookie < bound), end: true };
      return;
    }
    yield page;
    if (page.end || last === undefined) return;
    cookie = last.cookie;
  }
}

/** As `listPages`, entry by entry. */
export async function* listEntries(
  fs: FileSystem,
  credentials: Credentials,
  inode: InodeId,
  options: ListingOptions = {},
): AsyncGenerator<DirectoryEntry, undefined> {
  for await (const { entries } of listPages(fs, credentials, inode, options)) yield* entries;
}

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
