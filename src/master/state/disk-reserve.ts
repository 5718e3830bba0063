/**
 * Space on the master's disk that is kept for when the disk is full: a file of zeros, of which a part is given back at a
 * time. It is there for what must go on then: removals, which is how people free space, and the transactions that write
 * down what was accepted. When there is space again, it is taken back.
 */
import type { Disk, DiskFile, DiskSpace } from '../../core/disk/disk.js';
import { isNoSpace } from '../../core/errors.js';
import { KIB, MIB } from '../../core/limits.js';

const NAME = 'reserve';
const STEP_BYTES = 1 * MIB;
const MIN_STEP_BYTES = 64 * KIB;
/** Of a disk, at most. */
const DISK_FRACTION = 1 / 32;
/** Free space that stays beside it, in sizes of the reserve. */
const MARGIN = 2;

export class DiskReserve {
  /** What it shall hold on the disk that it is on; 0 until that was looked at. */
  private wantedBytes = 0;

  private constructor(
    private readonly file: DiskFile,
    private readonly maxBytes: number,
    private heldBytes: number,
  ) {}

  /** Takes nothing yet, so that it can be opened on a full disk; what an earlier process took is held. */
  static async open(disk: Disk, directory: string, maxBytes: number): Promise<DiskReserve> {
    const file = await disk.open('reserve.open', `${directory}/${NAME}`, 'create');
    return new DiskReserve(file, maxBytes, await file.size('reserve.open'));
  }

  /** Gives a part back to the disk, at once. False when there is none left. */
  giveUp(): boolean {
    if (this.heldBytes === 0) return false;
    const step = Math.max(MIN_STEP_BYTES, Math.min(STEP_BYTES, this.wantedBytes / 16));
    const left = Math.max(0, Math.floor(this.heldBytes - step));
    this.shrinkTo(left);
    return true;
  }

  /** Takes back what is missing, as far as other space stays free. Returns what is free then. */
  async takeBack(space: DiskSpace): Promise<number> {
    this.wantedBytes = Math.floor(Math.min(this.maxBytes, space.totalBytes * DISK_FRACTION));
    // The directory may have come from a larger disk.
    if (this.heldBytes > this.wantedBytes) this.shrinkTo(this.wantedBytes);
    let { freeBytes } = space;
    while (this.heldBytes < this.wantedBytes) {
      const step = Math.min(STEP_BYTES, this.wantedBytes - this.heldBytes);
      if (freeBytes - step < this.marginBytes) break;
      const at = this.heldBytes;
      try {
        await this.file.write('reserve.take', Buffer.alloc(step), at);
      } catch (error) {
        if (!isNoSpace(error)) throw error;
        // Another program was faster; what came of it is given back.
        this.shrinkTo(Math.min(at, this.heldBytes));
        return 0;
      }
      if (this.heldBytes === at) this.heldBytes += step;
      else this.shrinkTo(this.heldBytes); // some was given up meanwhile
      freeBytes -= step;
    }
    return freeBytes;
  }

  /** Whether so much free space is enough for a namespace that grows. */
  isEnough(freeBytes: number, reusableBytes: number): boolean {
    const there = freeBytes + this.heldBytes;
    return there >= this.wantedBytes && there + reusableBytes >= this.wantedBytes + this.marginBytes;
  }

  private shrinkTo(bytes: number): void {
    this.file.truncateSync('reserve.give', bytes);
    this.heldBytes = bytes;
  }

  private get marginBytes(): number {
    return MARGIN * this.wantedBytes;
  }

  close(): Promise<void> {
    return this.file.close();
  }
}
