/**
 * Reads the headers of the replicas in directories that were not left clean, after a start: of the dirty ones, those of
 * this boot are to be cleaned, those of another boot are suspect. It may go on beside everything else.
 */
import type { Disk } from '../../core/disk/disk.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import type { ChunkHandle } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { peekHeader } from '../chunk/chunk-header.js';
import type { DataDirectories } from '../disks/data-directories.js';
import type { DirtyReplicas } from './dirty-replicas.js';
import type { IndexEntry, ReplicaIndex } from './replica-index.js';
import { MAX_SCANNED_AT_ONCE } from '../../core/limits.js';

export interface HeaderScanOptions {
  readonly disk: Disk;
  readonly logger: Logger;
  readonly directories: DataDirectories;
  readonly index: ReplicaIndex;
  readonly dirty: DirtyReplicas;
  /** Opens a replica whose header is not at the version of its name, so that the name follows; is it dirty? */
  readonly openRenamed: (handle: ChunkHandle) => Promise<boolean>;
  /** At its end: some replicas are suspect, gone or at another version, and the master may have been told otherwise. */
  readonly onDoubted: () => void;
}

export class HeaderScan {
  private running: Promise<void> = Promise.resolve();
  private stopping = false;
  private done = false;
  private doubted = false;

  constructor(private readonly options: HeaderScanOptions) {}

  /** Every dirty replica is known. */
  get complete(): boolean {
    return this.done;
  }

  start(): Promise<void> {
    this.running = this.run().finally(() => {
      if (this.doubted) this.options.onDoubted();
    });
    return this.running;
  }

  /** Ends it before its end. Never rejects. */
  async stop(): Promise<void> {
    this.stopping = true;
    await this.running.catch(() => undefined);
  }

  private async run(): Promise<void> {
    for (let after = -1; !this.stopping;) {
      const page = this.options.index.page(after, MAX_SCANNED_AT_ONCE);
      const last = page.at(-1);
      if (last === undefined) {
        this.done = true;
        return;
      }
      after = last.handle;
      await Promise.all(page.map((entry) => this.scan(entry)));
    }
  }

  private async scan(entry: IndexEntry): Promise<void> {
    const { disk, logger, directories, index, dirty } = this.options;
    const directory = directories.of(entry);
    if (directory.failure !== undefined || directory.session.leftClean) return;
    const path = directory.chunkPath(entry.handle, entry.version);
    const header = await peekHeader(disk, path, entry).catch((error: unknown) => {
      // It may have been renamed or removed meanwhile; opening it for use will tell.
      if (hasCode(error, 'ENOENT')) return null;
      logger.warn({ path, reason: asCairnError(error).message }, 'unreadable replica');
      return 'unreadable' as const;
    });
    const now = index.get(entry.handle);
    if (header === null || now?.version !== entry.version) return;
    if (header === 'unreadable') this.doubt(now);
    else if (header === undefined) {
      index.delete(entry.handle);
      this.doubted = true;
      await directory.removeReplica(entry);
    } else if (header.version !== entry.version) {
      this.doubted = true;
      if (await this.options.openRenamed(entry.handle)) dirty.found(entry.handle);
    } else if (header.syncFailed) this.doubt(now);
    else if (header.dirty) {
      if (header.bootId !== directory.boot.id) this.doubt(now);
      else dirty.found(entry.handle);
    }
  }

  private doubt(entry: IndexEntry): void {
    this.options.index.set({ ...entry, suspect: true });
    this.doubted = true;
  }
}
