/**
 * What of one open chunk file survives: its syncs, the marks in its header that say what a power loss may have taken, and the
 * version, which is taken when all below it is durable. And the end of that: when the content on disk is not known any more,
 * nothing is served.
 */
import type { DiskFile } from '../../core/disk/disk.js';
import { CairnError } from '../../core/errors.js';
import type { ChunkVersion } from '../../core/ids.js';
import { BLOCK_SIZE_BYTES } from '../../core/limits.js';
import { SharedRun } from '../../core/shared-run.js';
import type { ChecksumTable } from './checksum-table.js';
import { DATA_OFFSET } from './chunk-format.js';
import type { StoredHeader } from './chunk-header.js';
import { CorruptBlockError, type StoredBlocks } from './stored-blocks.js';
import { SyncProgress } from './sync-progress.js';

export class Durability {
  private readonly progress: SyncProgress;
  private readonly synced = new SharedRun(() => this.datasync());
  /** A mutation is between its rows of the table and its end. */
  private changing = false;
  /** While dirty: power loss shows it. A process may have been killed between the mark and its sync. */
  private markIsDurable: boolean;
  /** Set when the content on disk is not known any more: nothing is served. */
  private broken: CairnError | undefined;
  /** A sync failed, and the file does not say so. */
  isUnmarked = false;

  constructor(
    private readonly file: DiskFile,
    private readonly header: StoredHeader,
    private readonly table: ChecksumTable,
    private readonly blocks: StoredBlocks,
    /** The file was made just now. */
    isNew: boolean,
  ) {
    // A dirty file may have been written before it was opened now: the next sync must not be skipped.
    this.progress = new SyncProgress(header.dirty ? 1 : 0);
    // If power fails, a new file is gone, unreadable or suspect.
    this.markIsDurable = isNew;
  }

  get isBroken(): boolean {
    return this.broken !== undefined;
  }

  /** Bytes written that no sync covers yet. */
  get unsyncedBytes(): number {
    return this.progress.unsyncedBytes;
  }

  refuseBroken(): void {
    if (this.broken !== undefined) throw this.broken;
  }

  /** Nothing more is read from or written to it. */
  abandon(reason: CairnError): void {
    this.broken ??= reason;
  }

  /** The content on disk is not known any more, for this reason, whatever was before. */
  giveUp(reason: CairnError): void {
    this.broken = reason;
  }

  /** A mutation is about to write its rows of the table. */
  beginChange(): void {
    this.changing = true;
  }

  wrote(bytes: number): void {
    this.progress.wrote(bytes);
  }

  /** It has come to its end, or failed. */
  endChange(): void {
    this.changing = false;
    // Not before: a sync that has begun meanwhile may not cover all of it.
    this.progress.mutated();
  }

  /** What is applied survives power loss. Callers at the same time share one fdatasync. */
  async sync(): Promise<void> {
    this.refuseBroken();
    // Another one may succeed, and would not cover what the failed one did not.
    const { syncFailed, handle } = this.header;
    if (syncFailed) throw new CairnError('EIO', `a sync of chunk ${handle} failed: its content is not known`);
    await this.syncAll();
  }

  private async syncAll(): Promise<void> {
    this.refuseBroken();
    if (this.progress.complete) return;
    // Not while a mutation is between its rows and its end: they must stay as it wrote them.
    if (!this.changing) this.table.flush();
    const covered = this.progress.now();
    await this.synced.run();
    this.progress.synced(covered);
  }

  private async datasync(): Promise<void> {
    const { generation } = this.header;
    try {
      await this.file.datasync('chunk.sync');
      this.header.noteDurable(generation);
    } catch (error) {
      // After a failed fsync the kernel may have dropped the pages: what is on disk is not known.
      const reason = `syncing chunk ${this.header.handle} failed: its content is not known`;
      this.giveUp(new CairnError('EIO', reason, { cause: error }));
      this.noteSyncFailed();
      throw error;
    }
  }

  /** So that a later opening knows it too, as reading the file shows the pages that are not on the disk. */
  private noteSyncFailed(): void {
    try {
      this.header.markSyncFailed();
    } catch {
      this.isUnmarked = true;
    }
  }

  /** Marks the file as under mutation, durably, before the first write of a boot. */
  async markDirty(): Promise<void> {
    if (this.header.suspect || (this.header.dirtySinceBoot && this.markIsDurable)) return;
    this.markIsDurable = false;
    if (!this.header.dirtySinceBoot) this.header.markDirty();
    this.progress.mutated();
    await this.sync();
    this.markIsDurable = true;
  }

  /** Syncs, and marks the file as not under mutation. UNAVAILABLE while a block is torn: the mark says that it may be. */
  async markClean(): Promise<void> {
    if (!this.header.dirty || this.header.suspect || this.broken !== undefined) return;
    if (this.table.someTorn) throw new CairnError('UNAVAILABLE', `chunk ${this.header.handle} has torn blocks`);
    this.table.flush();
    this.progress.mutated();
    await this.sync();
    // Not synced: if the mark is lost, the replica is only suspected without need.
    this.header.markClean();
  }

  /** Syncs the content, then takes `version`, durably. A suspect replica is one no longer; it stays dirty while a block is torn. */
  async adopt(version: ChunkVersion): Promise<void> {
    if (this.header.syncFailed) await this.rewrite();
    this.table.flush();
    this.progress.mutated();
    await this.syncAll();
    this.header.adopt(version, this.table.someTorn);
    this.progress.mutated();
    await this.sync();
  }

  /** Writes what can be read once more: the kernel takes it for written, and the disk may not have it. */
  private async rewrite(): Promise<void> {
    for (let block = 0; block < this.table.blockCount; block++) {
      try {
        const bytes = await this.blocks.readSound(block);
        await this.file.write('chunk.rewrite', bytes, DATA_OFFSET + block * BLOCK_SIZE_BYTES);
      } catch (error) {
        // A damaged one stays as it is.
        if (!(error instanceof CorruptBlockError)) throw error;
      }
    }
    this.table.announce(0, this.table.all());
  }
}
