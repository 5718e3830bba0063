/**
 * Memory of one kind that connections make this process hold, over all of them: of messages that have come in part, or of
 * what their peers do not read. However many connections do so, they get no more than this: the one that has held some
 * for longest is cut.
 */
export interface Holder {
  readonly cut: () => void;
  bytes: number;
}

export class HeldMemory {
  /** Who holds for longest first. */
  private readonly all = new Set<Holder>();
  private bytes = 0;

  constructor(private readonly maxBytes: number) {}

  get heldBytes(): number {
    return this.bytes;
  }

  /** It holds so much more. */
  grow(holder: Holder, bytes: number): void {
    holder.bytes += bytes;
    this.bytes += bytes;
    this.all.add(holder);
    for (const oldest of this.all) {
      if (this.bytes <= this.maxBytes || oldest === holder) return;
      this.end(oldest);
      oldest.cut();
    }
  }

  /** It holds so much less, but goes on holding. */
  shrink(holder: Holder, bytes: number): void {
    if (!this.all.has(holder)) return;
    holder.bytes -= bytes;
    this.bytes -= bytes;
  }

  /** It holds nothing any more. */
  end(holder: Holder): void {
    if (!this.all.delete(holder)) return;
    this.bytes -= holder.bytes;
    holder.bytes = 0;
  }
}
