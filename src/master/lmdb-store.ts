/**
 * The `Store` on LMDB: the only importer of lmdb. One root database; keys are written as their bytes, one a character,
 * and compared as bytes. Reads go to the memory map, so opening costs nothing and memory belongs to the page cache.
 *
 * `overlappingSync` is off: a transaction is on disk when its promise resolves, which is what `commit` promises. (The
 * overlapping mode resolves before the fsync and keeps a second notion of "flushed"; commits here are few and large.)
 */
import { open } from 'lmdb';
import type { RootDatabase } from 'lmdb';
import { asCairnError, CairnError } from '../core/errors.js';
import type { Key, KeyRange, Store, StoreChange } from './store.js';

const latin1Keys = {
  writeKey: (key: Key, target: Buffer, start: number): number => start + target.write(key, start, 'latin1'),
  readKey: (source: Buffer, start: number, end: number): Key => source.toString('latin1', start, end),
};

export class LmdbStore implements Store {
  private closed = false;

  private constructor(private readonly database: RootDatabase<Buffer, Key>) {}

  /** Opens the database in directory `path`, made when missing. Costs the same whatever its size. */
  static open(path: string): LmdbStore {
    try {
      return new LmdbStore(
        open<Buffer, Key>({
          path,
          noSubdir: false,
          encoding: 'binary',
          keyEncoder: latin1Keys,
          overlappingSync: false,
          // One process reads and writes: readers are this one and perhaps a backup.
          maxReaders: 16,
        }),
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
    // A batch is one transaction; its instructions are carried out on lmdb's own thread.
    await this.database.batch(() => {
      for (const { key, value } of changes) {
        // The batch's promise tells the outcome of each of its writes.
        if (value === null) void this.database.remove(key);
        else void this.database.put(key, value as Buffer);
      }
    });
    // The thread's read transaction may be older than the commit.
    (this.database as unknown as { resetReadTxn(): void }).resetReadTxn();
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.database.close();
  }
}
