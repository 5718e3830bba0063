/**
 * The `Store` on LMDB: the only importer of lmdb. One root database; keys are written as their bytes, one a character,
 * and compared as bytes. Reads go to the memory map, so opening costs nothing and memory belongs to the page cache.
 *
 * `overlappingSync` is off: a transaction is on disk when its promise resolves, which is what `commit` promises. (The
 * overlapping mode resolves before the fsync and keeps a second notion of "flushed"; commits here are few and large.)
 */
import { open } from 'lmdb';
import type { RootDatabase } from 'lmdb';
import type { Disk } from '../../core/disk/disk.js';
import { asCairnError, CairnError, errorCodeOf } from '../../core/errors.js';
import { MIB } from '../../core/limits.js';
import type { Key, KeyRange, Store, StoreChange } from './store.js';

const latin1Keys = {
  writeKey: (key: Key, target: Buffer, start: number): number => start + target.write(key, start, 'latin1'),
  readKey: (source: Buffer, start: number, end: number): Key => source.toString('latin1', start, end),
};

/** With less than this free, an error of a write is put down to that. */
const FULL_DISK_BYTES = 4 * MIB;

/** Of what lmdb tells about itself, what is used here. */
interface TreeStats {
  readonly pageSize: number;
  readonly treeBranchPageCount: number;
  readonly treeLeafPageCount: number;
  readonly overflowPages: number;
  readonly lastPageNumber: number;
}

export class LmdbStore implements Store {
  private closed = false;

  private constructor(
    private readonly database: RootDatabase<Buffer, Key>,
    private readonly path: string,
    private readonly disk: Pick<Disk, 'space'> | undefined,
  ) {}

  /**
   * Opens the database in directory `path`, made when missing. Costs the same whatever its size. `disk` is the one that
   * it is on, asked when a write fails.
   */
  static open(path: string, disk?: Pick<Disk, 'space'>): LmdbStore {
    try {
      return new LmdbStore(
        open<Buffer, Key>({
          path,
          noSubdir: false,
          encoding: 'binary',
          keyEncoder: latin1Keys,
          overlappingSync: false,
          // Only `commit` writes, in batches; batches of lmdb's own would reject where nobody can listen.
          eventTurnBatching: false,
          // One process reads and writes: readers are this one and perhaps a backup.
          maxReaders: 16,
        }),
        path,
        disk,
      );
    } catch (cause) {
      throw new CairnError(
        asCairnError(cause).code,
        `cannot open the metadata database in ${path}: ${String(cause)}; check that the directory is on a local disk, writable, and not in use by another master`,
        { cause },
      );
    }
  }

  get(key: Key): Uint8Array | undefined {
    return this.database.get(key);
  }

  *range(range: KeyRange): Iterable<readonly [Key, Uint8Array]> {
    for (const { key, value } of this.database.getRange({ start: range.start, end: range.end })) yield [key, value];
  }

  async commit(changes: Iterable<StoreChange>): Promise<void> {
    let watched: Promise<boolean> | undefined;
    // Writes share promises; each that is new tells the same as the batch's, and would be an unhandled rejection.
    const watch = (write: Promise<boolean>): void => {
      if (write === watched) return;
      watched = write;
      write.catch(() => undefined);
    };
    try {
      // A batch is one transaction; its instructions are carried out on lmdb's own thread.
      await this.database.batch(() => {
        for (const { key, value } of changes) {
          watch(value === null ? this.database.remove(key) : this.database.put(key, value as Buffer));
        }
      });
    } catch (error) {
      const failure = await commitFailure(error);
      throw failure.code === 'EIO' && (await this.diskIsFull()) ? new CairnError('ENOSPC', failure.message) : failure;
    }
    // The thread's read transaction may be older than the commit.
    (this.database as unknown as { resetReadTxn(): void }).resetReadTxn();
  }

  /** LMDB reports a write that ran out of space in its middle as EIO. */
  private async diskIsFull(): Promise<boolean> {
    const space = await this.disk?.space('store.space', this.path);
    return space !== undefined && space.freeBytes < FULL_DISK_BYTES;
  }

  /** Pages of earlier versions of the tree. */
  reusableBytes(): number {
    const stats = this.database.getStats() as TreeStats;
    const used = stats.treeBranchPageCount + stats.treeLeafPageCount + stats.overflowPages;
    return Math.max(0, stats.lastPageNumber - used) * stats.pageSize;
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.database.close();
  }
}

/** lmdb rejects with "Commit failed" and a promise that rejects with the cause, whose code is an errno as a number. */
async function commitFailure(error: unknown): Promise<CairnError> {
  try {
    await (error as { commitError?: Promise<unknown> | null }).commitError;
  } catch (cause) {
    const number = (cause as { code?: unknown }).code;
    const code = typeof number === 'number' ? errorCodeOf(number) : 'EIO';
    return new CairnError(code, `a transaction of the metadata database failed: ${String(cause)}`, { cause });
  }
  return asCairnError(error);
}
