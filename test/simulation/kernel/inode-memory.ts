/**
 * What a kernel keeps of one inode of a FUSE mount, after fs/fuse/inode.c, dir.c and file.c of Linux 6.18: attributes with the time until
 * which they are believed, pages, and the entries of a directory, missing ones too.
 *
 * Each change of what is known takes a new number of the mount (`attr_version`). An answer is ignored, and what is known stops to be
 * believed, when the inode has taken one since the request was made: so of two answers that cross, the later request's may count for
 * nothing.
 */
import { Semaphore } from '../../../src/core/sync.js';

export const PAGE_BYTES = 4096;

/** Of an inode in an answer. */
export interface ToldAttributes {
  readonly ino: number;
  readonly size: number;
  readonly mode: number;
  readonly nlink: number;
}

/** What the kernel remembers that a name leads to; nodeid 0: to nothing. */
export interface Dentry {
  readonly nodeid: number;
  untilMs: number;
}

/** Numbers of changes, of one mount. */
export class Versions {
  private last = 1;

  get current(): number {
    return this.last;
  }

  next(): number {
    return ++this.last;
  }
}

export class InodeMemory {
  attributes: ToldAttributes;
  size: number;
  private believedUntilMs = 0;
  private version = 0;
  private readonly kept = new Map<number, Buffer>();
  /** Times that pages were dropped: one that was being filled is not kept. */
  private drops = 0;
  readonly entries = new Map<string, Dentry>();
  /** Of a directory: one change of its names at a time. */
  readonly names = new Semaphore(1);
  /** READs on their way that fill pages. */
  private readonly filling = new Set<{ readonly index: number; isDoomed: boolean }>();
  private filled: (() => void)[] = [];

  constructor(
    readonly nodeid: number,
    private readonly versions: Versions,
    attributes: ToldAttributes,
  ) {
    this.attributes = attributes;
    this.size = attributes.size;
  }

  isBelieved(nowMs: number): boolean {
    return nowMs < this.believedUntilMs;
  }

  /** Of an answer to a request that was made when `asked` was the number of the last change. */
  learn(told: ToldAttributes, untilMs: number, asked: number): void {
    if (this.version > asked) {
      this.believedUntilMs = 0;
      return;
    }
    this.version = this.versions.next();
    this.attributes = told;
    this.believedUntilMs = untilMs;
    const hasOtherSize = told.size !== this.size;
    this.size = told.size;
    // Without EXPLICIT_INVAL_DATA all pages go, not those behind the end alone.
    if (hasOtherSize) this.dropPagesNow(0, 0);
  }

  /** As for what the mount has told to be old, and after changes of this mount's own. */
  doubt(): void {
    this.version = this.versions.next();
    this.believedUntilMs = 0;
  }

  /** Names in it were changed: an answer that was asked for before may yet be taken. */
  doubtUntilTold(): void {
    this.believedUntilMs = 0;
  }

  /** A write of this mount reached `end`. */
  written(end: number): void {
    this.doubt();
    if (end > this.size) this.size = end;
  }

  /** A read ended there, which was asked for when `asked` was the number of the last change. */
  endedAt(end: number, asked: number): void {
    if (this.version > asked || end >= this.size) return;
    this.version = this.versions.next();
    this.size = end;
  }

  page(index: number): Buffer | undefined {
    return this.kept.get(index);
  }

  /** Runs the READ of a page: who is told to drop it waits for that. */
  async fill(index: number, read: () => Promise<Buffer>): Promise<Buffer> {
    const { drops } = this;
    const filling = { index, isDoomed: false };
    this.filling.add(filling);
    try {
      const page = await read();
      if (drops === this.drops && !filling.isDoomed) this.kept.set(index, page);
      return page;
    } finally {
      this.filling.delete(filling);
      for (const go of this.filled.splice(0)) go();
    }
  }

  /** `length` 0: to the end. What is filled from now on stays, but for pages that are there now, or are filled now. */
  async dropPages(offset: number, length: number): Promise<void> {
    const end = length === 0 ? Infinity : offset + length;
    const isIn = (index: number): boolean => (index + 1) * PAGE_BYTES > offset && index * PAGE_BYTES < end;
    const fills = [...this.filling].filter(({ index }) => isIn(index));
    const there = [...this.kept.keys()].filter(isIn);
    for (const filling of fills) filling.isDoomed = true;
    for (const index of there) this.kept.delete(index);
    while (fills.some((filling) => this.filling.has(filling))) {
      await new Promise<void>((resolve) => this.filled.push(resolve));
    }
  }

  dropPagesNow(offset: number, length: number): void {
    const end = length === 0 ? Infinity : offset + length;
    this.drops++;
    for (const index of this.kept.keys()) {
      if ((index + 1) * PAGE_BYTES > offset && index * PAGE_BYTES < end) this.kept.delete(index);
    }
  }

  store(offset: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) {
      const position = offset + at;
      const index = Math.floor(position / PAGE_BYTES);
      const within = position - index * PAGE_BYTES;
      const count = Math.min(bytes.length - at, PAGE_BYTES - within);
      const page = this.kept.get(index);
      // A part of a page that is not there is not kept: the rest would have to be read.
      if (page !== undefined) bytes.copy(page, within, at, at + count);
      else if (within === 0 && (count === PAGE_BYTES || position + count >= this.size)) {
        const whole = Buffer.alloc(PAGE_BYTES);
        bytes.copy(whole, 0, at, at + count);
        this.kept.set(index, whole);
      }
      at += count;
    }
    this.written(offset + bytes.length);
  }
}
