/**
 * Page-aligned memory for O_DIRECT, which takes no other. JavaScript cannot ask where a buffer lies, but a WebAssembly
 * memory begins at a page.
 */

/** What offsets, lengths and addresses of O_DIRECT are multiples of: the sector of all disks, the page of all machines. */
export const DIRECT_ALIGNMENT_BYTES = 4096;
const WASM_PAGE_BYTES = 65_536;

/** The part of the WebAssembly API that is used; the types of the DOM, which have it, do not belong here. */
declare const WebAssembly: {
  Memory: new (size: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
};

export class DirectBuffers {
  private free: Uint8Array[] | undefined;

  /** `count` buffers of `bytes`, a multiple of 64 KiB; memory is taken when the first is. */
  constructor(
    private readonly count: number,
    readonly bytes: number,
  ) {}

  /** A buffer, to be given back; undefined when all are in use. */
  take(): Uint8Array | undefined {
    this.free ??= this.allocate();
    return this.free.pop();
  }

  giveBack(buffer: Uint8Array): void {
    this.free?.push(buffer);
  }

  private allocate(): Uint8Array[] {
    const pages = (this.count * this.bytes) / WASM_PAGE_BYTES;
    const { buffer } = new WebAssembly.Memory({ initial: pages, maximum: pages });
    return Array.from({ length: this.count }, (_, i) => new Uint8Array(buffer, i * this.bytes, this.bytes));
  }
}
