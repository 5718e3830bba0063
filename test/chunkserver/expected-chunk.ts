/** What readers of a chunk on several chunkservers may see, by what was written, acknowledged and synced, and what was lost. */
import { BLOCK_SIZE_BYTES } from '../../src/core/limits.js';

export const BLOCKS = 4;
export const MAX_BYTES = BLOCKS * BLOCK_SIZE_BYTES;
/** Only what rotted has this bit. */
export const ROTTEN = 0x80;

interface Change {
  readonly offset: number;
  readonly bytes: Buffer;
  acknowledged: boolean;
}

export class Expected {
  /** Since it was the same everywhere, and durable. */
  private changes: Change[] = [];
  private base = Buffer.alloc(MAX_BYTES);
  /** Power failed everywhere: of each byte anything since `base`. */
  private anything = false;
  /** Blocks that were lost: until they are written whole, they hold what nobody knows. */
  readonly lost = new Set<number>();
  /** Of those: rot may be among it, as a replica that lost power is taken as it stands when there is no other. */
  readonly unknown = new Set<number>();
  /** Of `base`: blocks that were lost, and not synced since. */
  private readonly baseUnknown = new Set<number>();

  begin(offset: number, bytes: Buffer): Change {
    const change = { offset, bytes, acknowledged: false };
    this.changes.push(change);
    return change;
  }

  powerLoss(): void {
    this.anything = true;
    for (const block of this.baseUnknown) this.lose(block);
  }

  /** Rot may be among what is there. */
  lose(block: number): void {
    this.lost.add(block);
    this.unknown.add(block);
  }

  /** All that was acknowledged is durable. Changes of which nobody knows go on. */
  synced(): void {
    if (this.anything || this.changes.some(({ acknowledged }) => !acknowledged)) return;
    for (const { offset, bytes } of this.changes) bytes.copy(this.base, offset);
    this.changes = [];
    for (const block of this.baseUnknown) if (!this.lost.has(block)) this.baseUnknown.delete(block);
  }

  /** Why these bytes of `block` cannot be. */
  fault(block: number, bytes: Buffer): string | undefined {
    if (this.unknown.has(block)) return undefined;
    if (bytes.some((byte) => (byte & ROTTEN) !== 0)) return `block ${block} rotted, and can be read`;
    if (this.lost.has(block)) return undefined;
    for (let i = 0; i < BLOCK_SIZE_BYTES; i++) {
      const at = block * BLOCK_SIZE_BYTES + i;
      const allowed = new Set([this.base[at] ?? 0]);
      for (const { offset, bytes: written, acknowledged } of this.changes) {
        if (at < offset || at >= offset + written.length) continue;
        if (acknowledged && !this.anything) allowed.clear();
        allowed.add(written[at - offset] ?? 0);
      }
      if (!allowed.has(bytes[i] ?? 0)) return `byte ${at} is ${bytes[i] ?? 0}, not ${[...allowed].join()}`;
    }
    return undefined;
  }

  /** All replicas are so, durably; undefined: lost. */
  settled(found: readonly (Buffer | undefined)[]): void {
    this.changes = [];
    this.anything = false;
    this.base.fill(0);
    found.forEach((bytes, block) => {
      if (bytes === undefined) this.lost.add(block);
      else {
        if (!this.unknown.has(block)) this.lost.delete(block);
        bytes.copy(this.base, block * BLOCK_SIZE_BYTES);
      }
      if (this.lost.has(block)) this.baseUnknown.add(block);
      else this.baseUnknown.delete(block);
    });
  }
}
