/** How much of the changes to one file a finished sync covers: counts alone, no disk. */
export interface Progress {
  readonly mutations: number;
  readonly bytes: number;
}

export class SyncProgress {
  private bytes = 0;
  private syncedMutations = 0;
  private syncedBytes = 0;

  /** `mutations` of before: as many as one when the file may have been written before it was opened. */
  constructor(private mutations: number) {}

  /** Everything is covered. */
  get complete(): boolean {
    return this.syncedMutations >= this.mutations;
  }

  /** Bytes written that no sync covers yet. */
  get unsyncedBytes(): number {
    return this.bytes - this.syncedBytes;
  }

  mutated(): void {
    this.mutations++;
  }

  wrote(bytes: number): void {
    this.bytes += bytes;
  }

  /** What a sync that begins now covers. */
  now(): Progress {
    return { mutations: this.mutations, bytes: this.bytes };
  }

  /** A sync that began at `then` has succeeded. */
  synced(then: Progress): void {
    this.syncedMutations = Math.max(this.syncedMutations, then.mutations);
    this.syncedBytes = Math.max(this.syncedBytes, then.bytes);
  }
}
