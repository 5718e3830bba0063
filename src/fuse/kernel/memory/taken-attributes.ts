/**
 * What the kernel has taken of the attributes of one inode that it was told.
 *
 * It ignores the attributes in an answer when it has learned something else of the inode since it asked. So of two answers at
 * once it takes the one whose caller wakes up first, which may be the older one, and goes on by that. What it has for
 * certain is known when its caller asks for something else, and nothing else was told to others meanwhile.
 */

/** The caller of a request has taken the answer by then. */
const TAKEN_MS = 1_000;

/** A request of the kernel: who called, 0 when that cannot be told, and when it came. */
export interface Asked {
  readonly thread: number;
  readonly arrivedMs: number;
}

/** An answer that the kernel may not have taken yet. */
interface Told {
  readonly size: number;
  /** Attributes to be believed for a time came with it. */
  readonly isBelieved: boolean;
  readonly thread: number;
  readonly atMs: number;
  /** It takes it, if it learns nothing else before. */
  readonly isAlone: boolean;
}

export class TakenAttributes {
  /** The kernel takes the file for at least that long. */
  private size: number | undefined;
  /** State (Attributes.change) of the inode in the attributes that the kernel was last given to believe for a time. */
  private change: number | undefined;
  /** It may believe those of an answer before, of another state. */
  private isMixed = false;
  private told: Told | undefined;
  /** Who was last told something, when, and when anybody else was. */
  private lastThread = 0;
  private lastMs = -Infinity;
  private othersMs = -Infinity;
  /** The same of answers alone, which may be on their way; what the kernel is told unasked it knows at once. */
  private answeredThread = 0;
  private answeredMs = -Infinity;
  private answeredOthersMs = -Infinity;

  /** The kernel is about to be told attributes in the answer to what it `asked`. `change`: to believe them for a time. */
  tell(size: number, change: number | undefined, { thread, arrivedMs }: Asked, nowMs: number): void {
    const isOwn = thread !== 0 && thread === this.lastThread && this.lastMs < arrivedMs;
    const isAlone = (isOwn ? this.othersMs : this.lastMs) < arrivedMs - TAKEN_MS;
    this.learns(thread, nowMs);
    this.answered(thread, nowMs);
    this.told = { size, isBelieved: change !== undefined, thread, atMs: nowMs, isAlone };
    this.size = Math.min(this.size ?? size, size);
    if (change === undefined) return;
    this.isMixed = this.change !== undefined && (this.isMixed || this.change !== change);
    this.change = change;
  }

  private answered(thread: number, nowMs: number): void {
    if (thread === 0 || thread !== this.answeredThread) {
      this.answeredOthersMs = this.answeredMs;
      this.answeredThread = thread;
    }
    this.answeredMs = nowMs;
  }

  /** Whether the kernel may ignore that the file is so long, in the answer to what it `asked`, and take it for shorter. */
  mayMiss(size: number, { thread, arrivedMs }: Asked, nowMs: number): boolean {
    if (!this.mayKnowLess(size, thread, nowMs)) return false;
    const isOwn = thread !== 0 && thread === this.answeredThread && this.answeredMs < arrivedMs;
    return (isOwn ? this.answeredOthersMs : this.answeredMs) >= arrivedMs - TAKEN_MS;
  }

  /** The kernel is about to learn something else of the inode, in an answer to this thread or beside one. */
  learns(thread: number, nowMs: number): void {
    this.settle(thread, nowMs);
    this.told = undefined;
    if (thread !== this.lastThread) {
      this.othersMs = this.lastMs;
      this.lastThread = thread;
    }
    this.lastMs = nowMs;
  }

  /** It takes the file for at least that long from now on, whatever else it is told. */
  hasAtLeast(size: number, thread: number, nowMs: number): void {
    this.learns(thread, nowMs);
    this.size = Math.max(this.size ?? 0, size);
  }

  /** It may take that for the end of the file. */
  sawEnd(end: number, thread: number, nowMs: number): void {
    this.learns(thread, nowMs);
    this.size = Math.min(this.size ?? end, end);
  }

  /** Whether it may take the file for shorter, when this thread goes on. */
  mayKnowLess(size: number, thread: number, nowMs: number): boolean {
    this.settle(thread, nowMs);
    return (this.size ?? 0) < size;
  }

  /** Whether it may believe attributes, and others than of this state; of any state without one. */
  mayBelieveOther(change: number | undefined, thread: number, nowMs: number): boolean {
    this.settle(thread, nowMs);
    return this.change !== undefined && (this.isMixed || this.change !== change);
  }

  /** It is made to ask for attributes. */
  dropped(thread: number, nowMs: number): void {
    this.learns(thread, nowMs);
    this.change = undefined;
    this.isMixed = false;
  }

  /** A thread that asks for something has taken what it was told before. */
  private settle(thread: number, nowMs: number): void {
    const { told } = this;
    if (told === undefined) return;
    const isTaken = (thread !== 0 && thread === told.thread) || nowMs - told.atMs > TAKEN_MS;
    if (!isTaken) return;
    this.told = undefined;
    if (!told.isAlone) return;
    this.size = told.size;
    if (told.isBelieved) this.isMixed = false;
  }
}
