/** One file whose pages say which version they are, as its writer knows it, and the judge of what a reader got. */
import { KIB } from '../../../src/core/limits.js';

export const PAGE_BYTES = 4 * KIB;
/** What a disk writes wholly or not at all. */
export const CELL_BYTES = 512;
const WORD_BYTES = 16;

interface Page {
  /** The last version that a close returned for: everybody sees it, or a newer one. */
  committed: number;
  /** The last version that an fsync returned for: it survives power loss everywhere. */
  durable: number;
  /** The last version that anybody tried to write. */
  attempted: number;
}

/** What a reader must see at least, unless something was lost since. */
export interface Least {
  readonly versions: readonly number[];
  readonly losses: number;
}

/** One file, as its writer knows it. */
export class VersionedFile {
  readonly pages: Page[] = [];
  private version = 0;
  /** What each loss left for sure, by its number. */
  private readonly kept: { readonly loss: number; readonly versions: readonly number[] }[] = [];
  /** Nobody works on it any more: the file itself went with what its master forgot. */
  isForgotten = false;
  /** Its bytes are anybody's guess, but its own, and calls for it may fail, until it is written anew. */
  isDoubtful = false;

  constructor(
    readonly number: number,
    /** Where its first page is: some files lie across the boundary of two chunks. */
    readonly start: number,
    /** It only grows, by appending. */
    readonly isLog: boolean,
    /** It is written once in a while only, so that its chunks are at rest. */
    readonly isCold: boolean,
  ) {}

  get name(): Buffer {
    return Buffer.from(`f${this.number}`);
  }

  /** The bytes of these pages under a new version; they count as tried from now on. */
  attempt(first: number, count: number): { readonly version: number; readonly bytes: Buffer } {
    const version = ++this.version;
    const bytes = Buffer.alloc(count * PAGE_BYTES);
    for (let index = 0; index < count; index++) {
      const at = first + index;
      this.pageAt(at).attempted = version;
      this.fill(bytes.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES), at, version);
    }
    return { version, bytes };
  }

  commit(first: number, count: number, version: number, kind: 'synced' | 'closed'): void {
    for (let at = first; at < first + count; at++) {
      const page = this.pageAt(at);
      page.committed = version;
      if (kind === 'synced') page.durable = version;
    }
  }

  /** Loss number `loss`, power failed everywhere: what was only closed may be gone. */
  losePower(loss: number): void {
    for (const page of this.pages) page.committed = page.durable;
    this.kept.push({ loss, versions: this.pages.map((page) => page.durable) });
  }

  /**
   * What a reader must see who opened the file when `versions` were there, before any loss after `losses`: what these left, and not
   * what was written since, as he may have read ahead in between.
   */
  keptOf({ versions, losses }: Least): number[] {
    const since = this.kept.filter(({ loss }) => loss > losses);
    return versions.map((version, at) => Math.min(version, ...since.map((kept) => kept.versions[at] ?? 0)));
  }

  /** How often anybody tried to write it. */
  get attempts(): number {
    return this.version;
  }

  /** A write is under way. */
  isBusy = false;

  doubt(loss: number): void {
    this.isDoubtful = true;
    for (const page of this.pages) page.durable = 0;
    this.losePower(loss);
  }

  /** What must be there at least, page by page, to the end of what was ever committed. */
  committed(): number[] {
    const versions = this.pages.map((page) => page.committed);
    return versions.slice(0, versions.findLastIndex((version) => version > 0) + 1);
  }

  /** A page that nobody writes now. */
  leave(at: number): void {
    this.pageAt(at);
  }

  private pageAt(at: number): Page {
    let page = this.pages[at];
    if (page === undefined) {
      page = { committed: 0, durable: 0, attempted: 0 };
      this.pages[at] = page;
    }
    return page;
  }

  /** Every 16 bytes say file, page and version, so that bytes of another file or place are seen. */
  private fill(into: Buffer, page: number, version: number): void {
    const word = Buffer.alloc(WORD_BYTES, 0xa5);
    word.writeUInt32LE(version, 0);
    word.writeUInt32LE(page, 4);
    word.writeUInt16LE(this.number, 8);
    into.fill(word);
  }

  /** What is wrong with `bytes`, read from page `first` on, when each page must be at least as new as `least` says. */
  judge(bytes: Buffer, first: number, least: readonly number[]): string | undefined {
    for (let offset = 0; offset < bytes.length; offset += PAGE_BYTES) {
      const at = first + offset / PAGE_BYTES;
      const wrong = this.judgePage(bytes.subarray(offset, offset + PAGE_BYTES), at, least[at] ?? 0);
      if (wrong !== undefined) return `page ${at} of f${this.number}: ${wrong}`;
    }
    return undefined;
  }

  private judgePage(page: Buffer, at: number, least: number): string | undefined {
    const version = page.length >= 4 ? page.readUInt32LE(0) : 0;
    const { attempted } = this.pages[at] ?? { attempted: 0 };
    const expected = Buffer.alloc(PAGE_BYTES);
    this.fill(expected, at, version);
    const isWhole = page.equals(expected);
    if (isWhole && version >= least && version <= attempted) return undefined;
    // A write that was under way, or in doubt, may be there in part, to the byte when a process was killed in it.
    for (let from = 0; from < page.length; from += WORD_BYTES) {
      const word = page.subarray(from, from + WORD_BYTES);
      if (least === 0 && word.every((byte) => byte === 0)) continue;
      const of = word.readUInt32LE(0);
      if (!word.subarray(4).equals(expected.subarray(4, word.length))) {
        return `bytes that nobody wrote there, at ${from}: ${word.toString('hex')}`;
      }
      if (of >= least && of <= attempted) continue;
      if (of < least && (least === attempted || of >> 8 === least >> 8)) {
        return `version ${of}, and ${least} was closed before`;
      }
      if (least === attempted || of >> 8 > attempted >> 8) return `version ${of} comes from the future`;
    }
    return undefined;
  }
}
