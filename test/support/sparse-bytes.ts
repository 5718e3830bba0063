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
