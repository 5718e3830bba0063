/**
 * Listings of directories, page by page as they were asked for, while the directory is held. What is kept of an entry is what stays
 * the same as long as its name does; its attributes come from the attribute cache, and without them the page is asked for again.
 */
import type { InodeId } from '../../core/ids.js';
import { MAX_LISTED_AHEAD, MAX_LISTED_ENTRIES } from '../../core/limits.js';
import type { DirectoryEntry, DirectoryPage } from '../../filesystem/filesystem.js';
import type { Holding, Holdings, Moment, Moments } from '../session/holdings.js';

/** What was asked for. */
export interface PageQuery {
  readonly inode: InodeId;
  readonly cookie: number;
  readonly maxEntries: number;
  readonly withAttributes: boolean;
}

/** An answer to a query. */
export interface ListedPage {
  readonly query: PageQuery;
  readonly page: DirectoryPage;
  /** Under which it was told. */
  readonly holding: Holding | undefined;
}

interface Listing {
  readonly holding: Holding;
  readonly pages: Map<string, DirectoryPage>;
  entries: number;
  /** Those in it, in its order, and where each stands. */
  readonly directories: InodeId[];
  readonly places: Map<InodeId, number>;
  /** A program has asked for it; else it was told ahead. */
  isUsed: boolean;
}

export class Listings {
  /** In the order of their last use. */
  private readonly listings = new Map<InodeId, Listing>();
  /** When the listing of a directory changed last, of those that are asked for now. */
  private readonly changes = new Map<InodeId, { moment: Moment; asking: number }>();
  private entries = 0;

  constructor(
    private readonly holdings: Holdings,
    private readonly moments: Moments,
    private readonly maxEntries = MAX_LISTED_ENTRIES,
  ) {}

  /**
   * Directories that are likely to be listed after `inode`, which stands in the listing of `parent`: those behind it, if the one before
   * it was listed, too.
   */
  next(parent: InodeId, inode: InodeId): InodeId[] {
    const listing = this.listings.get(parent);
    const place = listing?.places.get(inode);
    if (listing === undefined || place === undefined || !this.holdings.isGood(listing.holding)) return [];
    const before = listing.directories[place - 1];
    if (before === undefined || this.listings.get(before)?.isUsed !== true) return [];
    return listing.directories
      .slice(place + 1, place + 1 + MAX_LISTED_AHEAD)
      .filter((next) => !this.listings.has(next));
  }

  /** Without attributes. */
  get(query: PageQuery): DirectoryPage | undefined {
    const listing = this.listings.get(query.inode);
    if (listing === undefined || !this.holdings.isGood(listing.holding)) return undefined;
    const page = listing.pages.get(keyOf(query));
    if (page === undefined) return undefined;
    listing.isUsed = true;
    this.listings.delete(query.inode);
    this.listings.set(query.inode, listing);
    return page;
  }

  /**
   * Runs `ask`, which lists these directories and gives what it was told, and keeps of that what nobody has changed since, with a word to
   * `onKept`.
   */
  async asking<T extends readonly ListedPage[]>(
    inodes: readonly InodeId[],
    ask: () => Promise<T>,
    onKept?: (page: ListedPage) => void,
  ): Promise<T> {
    const asked = this.moments.now();
    for (const inode of inodes) {
      const change = this.changes.get(inode) ?? { moment: 0, asking: 0 };
      change.asking++;
      this.changes.set(inode, change);
    }
    try {
      const answers = await ask();
      for (const [at, listed] of answers.entries()) {
        const { query, page, holding } = listed;
        if (holding === undefined || (this.changes.get(query.inode)?.moment ?? Infinity) > asked) continue;
        this.put(query, page, holding, at === 0);
        onKept?.(listed);
      }
      return answers;
    } finally {
      for (const inode of inodes) this.asked(inode);
    }
  }

  private asked(inode: InodeId): void {
    const change = this.changes.get(inode);
    if (change === undefined) return;
    change.asking--;
    if (change.asking === 0) this.changes.delete(inode);
  }

  private put(query: PageQuery, page: DirectoryPage, holding: Holding, isUsed: boolean): void {
    const { inode } = query;
    let listing = this.listings.get(inode);
    if (listing?.holding !== holding) {
      this.forget(inode);
      listing = {
        holding,
        pages: new Map<string, DirectoryPage>(),
        entries: 0,
        directories: [],
        places: new Map<InodeId, number>(),
        isUsed,
      };
      this.listings.set(inode, listing);
    }
    listing.isUsed ||= isUsed;
    const key = keyOf(query);
    const size = (count: number): number => count + 1;
    const before = listing.pages.get(key);
    const entries = page.entries.map(withoutAttributes);
    listing.pages.set(key, { ...page, entries });
    const grown = size(entries.length) - (before === undefined ? 0 : size(before.entries.length));
    for (const entry of entries) {
      if (entry.kind !== 'directory' || listing.places.has(entry.inode)) continue;
      listing.places.set(entry.inode, listing.directories.length);
      listing.directories.push(entry.inode);
    }
    listing.entries += grown;
    this.entries += grown;
    for (const oldest of this.listings.keys()) {
      if (this.entries <= this.maxEntries) break;
      this.forget(oldest);
    }
  }

  /** An entry of the directory came, went or leads elsewhere. */
  drop(inode: InodeId): void {
    const change = this.changes.get(inode);
    if (change !== undefined) change.moment = this.moments.next();
    this.forget(inode);
  }

  private forget(inode: InodeId): void {
    this.entries -= this.listings.get(inode)?.entries ?? 0;
    this.listings.delete(inode);
  }
}

const keyOf = ({ cookie, maxEntries, withAttributes }: PageQuery): string =>
  `${cookie}/${maxEntries}/${withAttributes ? 1 : 0}`;

const withoutAttributes = ({ name, inode, kind, cookie }: DirectoryEntry): DirectoryEntry => ({
  name,
  inode,
  kind,
  cookie,
});
