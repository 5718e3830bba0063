/** The content of one file as the model keeps it: pages that were written, everything else zeros. */
import { KIB } from '../../src/core/limits.js';

const PAGE_BYTES = 16 * KIB;

export class SparseBytes {
  private readonly pages = new Map<number, Buffer>();
  private sizeBytes = 0;

  get size(): number {
    return this.sizeBytes;
  }

  /** Bytes of the pages that were ever written and not cut. */
  get allocatedBytes(): number {
    return this.pages.size * PAGE_BYTES;
  }

  clone(): SparseBytes {
    const copy = new SparseBytes();
    for (const [index, page] of this.pages) copy.pages.set(index, Buffer.from(page));
    copy.sizeBytes = this.sizeBytes;
    return copy;
  }

  read(offset: number, length: number): Buffer {
    const end = Math.min(offset + length, this.sizeBytes);
    const out = Buffer.alloc(Math.max(0, end - offset));
    for (let at = offset; at < end;) {
      const index = Math.floor(at / PAGE_BYTES);
      const inPage = at - index * PAGE_BYTES;
      const count = Math.min(PAGE_BYTES - inPage, end - at);
      this.pages.get(index)?.copy(out, at - offset, inPage, inPage + count);
      at += count;
    }
    return out;
  }

  /** The first byte at or past `offset` in a page that was written, or in none; undefined when there is none. */
  next(offset: number, whence: 'data' | 'hole'): number | undefined {
    for (let at = offset; at < this.sizeBytes; at = (Math.floor(at / PAGE_BYTES) + 1) * PAGE_BYTES) {
      if (this.pages.has(Math.floor(at / PAGE_BYTES)) === (whence === 'data')) return at;
    }
    return whence === 'hole' ? this.sizeBytes : undefined;
  }

  /** Zeros from `offset` to `end`, at most to the end of the file. */
  zero(offset: number, end: number): void {
    const size = this.sizeBytes;
    const to = Math.min(end, size);
    for (let at = offset; at < to; at = (Math.floor(at / PAGE_BYTES) + 1) * PAGE_BYTES) {
      const page = this.pages.get(Math.floor(at / PAGE_BYTES));
      const start = at % PAGE_BYTES;
      if (start === 0 && to - at >= PAGE_BYTES) this.pages.delete(Math.floor(at / PAGE_BYTES));
      else page?.fill(0, start, Math.min(PAGE_BYTES, start + to - at));
    }
  }

  write(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) {
      const at = offset + done;
      const index = Math.floor(at / PAGE_BYTES);
      const inPage = at - index * PAGE_BYTES;
      const count = Math.min(PAGE_BYTES - inPage, bytes.length - done);
      let page = this.pages.get(index);
      if (page === undefined) {
        page = Buffer.alloc(PAGE_BYTES);
        this.pages.set(index, page);
      }
      page.set(bytes.subarray(done, done + count), inPage);
      done += count;
    }
    if (bytes.length > 0) this.sizeBytes = Math.max(this.sizeBytes, offset + bytes.length);
  }

  truncate(size: number): void {
    if (size < this.sizeBytes) {
      const lastPage = Math.floor(size / PAGE_BYTES);
      for (const index of [...this.pages.keys()]) {
        if (index > lastPage) this.pages.delete(index);
      }
      this.pages.get(lastPage)?.fill(0, size - lastPage * PAGE_BYTES);
    }
    this.sizeBytes = size;
  }
}
