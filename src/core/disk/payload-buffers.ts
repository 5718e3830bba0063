/**
 * Memory for payloads, used again and again: the first touch of fresh memory costs more than a checksum over it.
 *
 * Whoever takes a buffer may give it back when nobody reads or writes it any more. Whoever cannot be sure of that just
 * drops it, and the garbage collector does the rest; so nothing leaks when a request fails half way.
 *
 * The buffers begin at a page, which O_DIRECT demands: JavaScript cannot ask where memory lies, but a WebAssembly memory
 * begins at a page.
 */
import { BLOCK_SIZE_BYTES, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BUFFERS } from '../limits.js';

/** What offsets, lengths and addresses of O_DIRECT are multiples of: the sector of all disks, the page of all machines. */
export const DIRECT_ALIGNMENT_BYTES = 4096;
const WASM_PAGE_BYTES = 65_536;
/** A payload that begins and ends within blocks, with the rest of these. */
const BUFFER_PAGES = (MAX_PAYLOAD_BYTES + BLOCK_SIZE_BYTES) / WASM_PAGE_BYTES;
/** Below this the allocator's memory is warm anyway. */
const MIN_BYTES = BLOCK_SIZE_BYTES;

/** The part of the WebAssembly API that is used; the types of the DOM, which have it, do not belong here. */
declare const WebAssembly: {
  Memory: new (size: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
};

function wasmMemory(pages: number): ArrayBuffer {
  return new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer;
}

export class PayloadBuffers {
  private readonly free: ArrayBuffer[] = [];
  /** Of this pool, taken and not given back. */
  private readonly taken = new WeakSet<ArrayBufferLike>();
  private live = 0;
  private readonly dropped = new FinalizationRegistry<undefined>(() => {
    this.live--;
  });

  constructor(
    private readonly maxBuffers = MAX_PAYLOAD_BUFFERS,
    private readonly allocate = wasmMemory,
  ) {}

  /** `length` bytes with any content. */
  take(length: number): Buffer<ArrayBuffer> {
    if (length >= MIN_BYTES && length <= BUFFER_PAGES * WASM_PAGE_BYTES) {
      const memory = this.free.pop() ?? this.make();
      if (memory !== undefined) {
        this.taken.add(memory);
        return Buffer.from(memory, 0, length);
      }
    }
    return Buffer.allocUnsafeSlow(length);
  }

  /** The memory behind `bytes`, if it is of this pool, may be used again: no view of it is read or written any more. */
  giveBack(bytes: Uint8Array): void {
    // A view of memory that was given back already says nothing about who has it now.
    if (bytes.buffer instanceof ArrayBuffer && this.taken.delete(bytes.buffer)) this.free.push(bytes.buffer);
  }

  /** Whether `bytes` begin at a page, for sure. */
  beginsAtPage(bytes: Uint8Array): boolean {
    return bytes.byteOffset % DIRECT_ALIGNMENT_BYTES === 0 && this.taken.has(bytes.buffer);
  }

  private make(): ArrayBuffer | undefined {
    if (this.live >= this.maxBuffers) return undefined;
    let buffer: ArrayBuffer;
    try {
      buffer = this.allocate(BUFFER_PAGES);
    } catch {
      // Each reserves 10 GB of addresses, which a process may not be allowed (RLIMIT_AS): ordinary memory does as well.
      return undefined;
    }
    this.live++;
    this.dropped.register(buffer, undefined);
    return buffer;
  }
}

/** Of this process. */
export const payloadBuffers = new PayloadBuffers();
