/** Directories read page by page. */
import type { InodeId } from '../core/ids.js';
import type { Credentials, DirectoryEntry, DirectoryPage, FileSystem } from './filesystem.js';

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
