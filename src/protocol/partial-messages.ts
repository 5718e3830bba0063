/**
 * Memory of messages that have come in part, over all connections of the process. A peer that begins large messages on
 * many connections and ends none of them takes no more than this: the connection that waits longest is cut.
 */
export interface PartialMessage {
  readonly cut: () => void;
  bytes: number;
}

export class PartialMessages {
  /** Longest under way first. */
  private readonly all = new Set<PartialMessage>();
  private bytes = 0;

  constructor(private readonly maxBytes: number) {}

  get heldBytes(): number {
    return this.bytes;
  }

  /** So much more of the message is held. */
  grow(message: PartialMessage, bytes: number): void {
    message.bytes += bytes;
    this.bytes += bytes;
    this.all.add(message);
    for (const oldest of this.all) {
      if (this.bytes <= this.maxBytes || oldest === message) return;
      this.end(oldest);
      oldest.cut();
    }
  }

  /** It is whole, or its connection has ended. */
  end(message: PartialMessage): void {
    if (!this.all.delete(message)) return;
    this.bytes -= message.bytes;
    message.bytes = 0;
  }
}
