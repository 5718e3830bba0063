/**
 * Which replicas this server has, in memory and in the order of their handles: sorted pages of typed arrays, 18 bytes
 * a replica and at most twice that with room to grow. A million replicas (up to 64 TB) cost some 30 MB; the names of
 * the files alone fill it at start, and a report walks it page by page.
 */
import type { ChunkHandle, ChunkVersion } from '../../core/ids.js';

export interface IndexEntry {
  readonly handle: ChunkHandle;
  readonly version: ChunkVersion;
  /** Index of the data directory. */
  readonly directory: number;
  readonly suspect: boolean;
}

const PAGE_ENTRIES = 512;

interface Page {
  readonly handles: Float64Array;
  readonly versions: Float64Array;
  readonly directories: Uint8Array;
  readonly suspects: Uint8Array;
  count: number;
}

function newPage(): Page {
  return {
    handles: new Float64Array(PAGE_ENTRIES),
    versions: new Float64Array(PAGE_ENTRIES),
    directories: new Uint8Array(PAGE_ENTRIES),
    suspects: new Uint8Array(PAGE_ENTRIES),
    count: 0,
  };
}

const columns = (page: Page): (Float64Array | Uint8Array)[] => [
  page.handles,
  page.versions,
  page.directories,
  page.suspects,
];

export class ReplicaIndex {
  private readonly pages: Page[] = [];
  private total = 0;
  /** By directory: how many are suspect. */
  private readonly suspects = new Map<number, number>();
  /** The highest handle there ever was. */
  highest = 0;

  get size(): number {
    return this.total;
  }

  /** How many are suspect, in all or in one directory. */
  suspectCount(directory?: number): number {
    if (directory !== undefined) return this.suspects.get(directory) ?? 0;
    return [...this.suspects.values()].reduce((sum, count) => sum + count, 0);
  }

  /** Those in a directory. They may be changed and removed meanwhile. */
  *entriesIn(directory: number): Generator<IndexEntry> {
    for (let after = -1; ;) {
      const page = this.page(after, 8 * PAGE_ENTRIES);
      const last = page.at(-1);
      if (last === undefined) return;
      after = last.handle;
      for (const entry of page) if (entry.directory === directory) yield entry;
    }
  }

  get(handle: ChunkHandle): IndexEntry | undefined {
    const page = this.pages[this.pageOf(handle)];
    if (page === undefined) return undefined;
    const slot = lowerBound(page, handle);
    return slot < page.count && page.handles[slot] === handle ? entryAt(page, slot) : undefined;
  }

  set(entry: IndexEntry): void {
    if (entry.handle > this.highest) this.highest = entry.handle;
    let pageIndex = this.pageOf(entry.handle);
    let page = this.pages[pageIndex];
    if (page === undefined) {
      page = newPage();
      this.pages.push(page);
    }
    let slot = lowerBound(page, entry.handle);
    if (!(slot < page.count && page.handles[slot] === entry.handle)) {
      if (page.count === PAGE_ENTRIES) {
        // Handles grow: a full last page stays full when the entry goes behind it.
        const cut = pageIndex === this.pages.length - 1 && slot === page.count ? page.count : PAGE_ENTRIES / 2;
        this.split(pageIndex, cut);
        if (slot >= cut && (slot > cut || cut === PAGE_ENTRIES)) {
          slot -= cut;
          pageIndex++;
          page = this.pages[pageIndex] ?? page;
        }
      }
      for (const column of columns(page)) column.copyWithin(slot + 1, slot, page.count);
      page.count++;
      this.total++;
    } else this.countSuspect(entryAt(page, slot), -1);
    this.countSuspect(entry, 1);
    page.handles[slot] = entry.handle;
    page.versions[slot] = entry.version;
    page.directories[slot] = entry.directory;
    page.suspects[slot] = entry.suspect ? 1 : 0;
  }

  delete(handle: ChunkHandle): boolean {
    const pageIndex = this.pageOf(handle);
    const page = this.pages[pageIndex];
    if (page === undefined) return false;
    const slot = lowerBound(page, handle);
    if (!(slot < page.count && page.handles[slot] === handle)) return false;
    this.countSuspect(entryAt(page, slot), -1);
    for (const column of columns(page)) column.copyWithin(slot, slot + 1, page.count);
    page.count--;
    this.total--;
    if (page.count === 0) this.pages.splice(pageIndex, 1);
    return true;
  }

  /** Up to `limit` entries with handles above `after`, in order. */
  page(after: number, limit: number): IndexEntry[] {
    const entries: IndexEntry[] = [];
    let pageIndex = this.pageOf(after);
    let page = this.pages[pageIndex];
    let slot = page === undefined ? 0 : lowerBound(page, after + 1);
    while (page !== undefined && entries.length < limit) {
      if (slot < page.count) entries.push(entryAt(page, slot++));
      else {
        page = this.pages[++pageIndex];
        slot = 0;
      }
    }
    return entries;
  }

  /** The page where `handle` is or belongs: the last that begins at or before it. */
  private pageOf(handle: number): number {
    let low = 0;
    let high = this.pages.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.pages[middle]?.handles[0] ?? 0) <= handle) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  private countSuspect({ directory, suspect }: IndexEntry, by: number): void {
    if (suspect) this.suspects.set(directory, (this.suspects.get(directory) ?? 0) + by);
  }

  private split(pageIndex: number, cut: number): void {
    const left = this.pages[pageIndex];
    if (left === undefined) return;
    const right = newPage();
    const target = columns(right);
    columns(left).forEach((column, i) => target[i]?.set(column.subarray(cut, left.count)));
    right.count = left.count - cut;
    left.count = cut;
    this.pages.splice(pageIndex + 1, 0, right);
  }
}

/** First slot whose handle is at least `handle`. */
function lowerBound(page: Page, handle: number): number {
  let low = 0;
  let high = page.count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((page.handles[middle] ?? 0) < handle) low = middle + 1;
    else high = middle;
  }
  return low;
}

function entryAt(page: Page, slot: number): IndexEntry {
  return {
    handle: (page.handles[slot] ?? 0) as ChunkHandle,
    version: (page.versions[slot] ?? 0) as ChunkVersion,
    directory: page.directories[slot] ?? 0,
    suspect: page.suspects[slot] === 1,
  };
}
