/** An inode of the model and what it is on each mount: its number there, and what the mounts promise about it now. */
import type { Timespec } from '../../src/core/clock.js';
import type { InodeId } from '../../src/core/ids.js';
import type { Credentials, FileKind, OpenFile } from '../../src/filesystem/filesystem.js';

export type Times = { readonly mtime: Timespec; readonly ctime: Timespec };

/** An open file of one mount, and of the model's client that stands for that mount. */
export interface Handle {
  readonly number: number;
  readonly node: Tracked;
  readonly mount: number;
  readonly as: Credentials;
  readonly real: OpenFile;
  readonly model: OpenFile;
  readonly canRead: boolean;
  readonly canWrite: boolean;
  readonly append: boolean;
  /** Where it was read to, by those who read on. */
  readTo: number;
}

export class Tracked {
  /** By mount; undefined where it was not looked up yet. */
  readonly ids: (InodeId | undefined)[];
  /** Mounts that must look the directory up before it is a place to work in, since another moved it. */
  readonly movedFor = new Set<number>();
  /** Where the bytes of this file are: at its start, and in few files around the ends of chunks too. */
  readonly isLong: boolean;
  /** Through which something was written that the handle did not flush: others need not see it (P2). */
  readonly dirty = new Set<Handle>();
  /** Who may hold locks, by mount, kind and owner. */
  readonly locks = new Set<string>();
  /** Counts changes of the content; `seen` has it for each mount as of its last open or own change (P2). */
  private version = 0;
  private readonly seen: number[];
  /** As both sides told them last, by a mount that had to know. */
  times: { readonly real: Times; readonly model: Times } | undefined;
  /** Something else than a write moved the ctime while bytes were not flushed: the flush may move it once more. */
  hasUnsettledCtime = false;
  /** What was done since the last look is a change of its content by a handle. */
  wasWritten = false;

  constructor(
    /** The model's. */
    readonly id: InodeId,
    readonly kind: FileKind,
    mounts: number,
  ) {
    this.ids = Array.from({ length: mounts }, () => undefined);
    this.seen = Array.from({ length: mounts }, () => 0);
    this.isLong = id % 6 === 0;
  }

  /** Whether a mount other than `mount` may know more of the file than is promised to this one. */
  isDirtyElsewhere(mount: number): boolean {
    return [...this.dirty].some((handle) => handle.mount !== mount);
  }

  isCurrentOn(mount: number): boolean {
    return this.seen[mount] === this.version;
  }

  changedOn(mount: number): void {
    this.version++;
    this.openedOn(mount);
  }

  /** Its attributes were changed: others must open it to know, and the mount itself sees of the content what it saw before. */
  attributesChangedOn(mount: number): void {
    const wasCurrent = this.isCurrentOn(mount);
    this.version++;
    if (wasCurrent) this.openedOn(mount);
  }

  openedOn(mount: number): void {
    this.seen[mount] = this.version;
  }
}
