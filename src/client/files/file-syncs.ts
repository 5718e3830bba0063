/**
 * What an fsync covers beyond the handles that are open: chunks that this client wrote through handles which are closed, and
 * failures that only a close has told (P1, P7).
 */
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES, MAX_CHUNKS_PER_PAGE, MAX_FAILED_FILES, MAX_UNSYNCED_FILES } from '../../core/limits.js';
import { LruMap } from '../../core/lru.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import { isKept } from '../chunks/chunk-io.js';
import type { ChunkWrites, SyncedChunk, WriteMark } from '../chunks/chunk-io.js';
import { ChangedInodes } from './changed-inodes.js';
import { UnsyncedFiles } from '../data/unsynced-files.js';
import type { UnsyncedChunks } from '../data/unsynced-files.js';
import type { Writer } from '../data/writer.js';
import { lostBeforeSync } from '../data/written-chunks.js';
import type { Moment } from '../inodes/attribute-cache.js';
import type { KnownInodes } from '../inodes/known-inodes.js';
import type { MasterConnection } from '../session/master-connection.js';
import type { InodeAttributes } from '../session/wire-attributes.js';

/** All was published, in this change or before; or it was not, and only what is asked for from this moment on is later. */
type LastClose = { readonly change: number } | { readonly moment: Moment };

export interface FileSyncsOptions {
  readonly master: Pick<MasterConnection, 'call' | 'sync'>;
  readonly inodes: KnownInodes;
  readonly io: ChunkWrites;
}

export class FileSyncs {
  /** And changes of files and directories at the master. */
  readonly changed = new ChangedInodes();
  private readonly unsynced = new UnsyncedFiles();
  /** Failed write-backs that only a close has told, if anything. */
  private readonly failed = new LruMap<InodeId, CairnError>(MAX_FAILED_FILES);
  /** Files that were closed: what a cut of them must be behind, to have cut what was written before. */
  private readonly closes = new LruMap<InodeId, LastClose>(MAX_UNSYNCED_FILES);

  constructor(private readonly options: FileSyncsOptions) {}

  /** The last handle of the inode is being closed, with what its writer has not synced and not told. */
  closed({ inode, change }: InodeAttributes, writer: Writer): void {
    this.unsynced.put(inode, writer.unsyncedChunks);
    const { count, told } = writer.failures;
    const failure = count > told ? writer.failures.last : writer.isClean ? undefined : notPublished(inode);
    if (failure === undefined) this.closes.set(inode, { change });
    else {
      this.failed.set(inode, failure);
      this.closes.set(inode, { moment: this.options.inodes.believeNothing(inode) });
    }
  }

  /** Chunks were dropped or cut, by what was asked for at `asked`. */
  cut({ inode, size, change }: InodeAttributes, asked: Moment): void {
    // The answer to a cut may come late: what was closed meanwhile was written behind it.
    const close = this.closes.peek(inode);
    if (close === undefined || ('change' in close ? change <= close.change : asked < close.moment)) return;
    this.unsynced.cut(inode, Math.ceil(size / CHUNK_SIZE_BYTES));
    if (size === 0) this.failed.delete(inode);
  }

  /** See FileTable. */
  operationsLost(kept: number): void {
    this.unsynced.operationsLost();
    this.changed.operationsLost(kept);
  }

  /** What this client wrote to the file survives power loss, also what it wrote through handles that are closed. */
  async syncFile(inode: InodeId, writer: Writer | undefined): Promise<void> {
    const { master, io } = this.options;
    const failure = this.failed.peek(inode);
    if (failure !== undefined) {
      this.failed.delete(inode);
      throw failure;
    }
    let loss: CairnError | undefined;
    for (;;) {
      const { generation } = io;
      let chunks = this.unsynced.get(inode) ?? (await this.chunksOf(inode));
      const { synced, lost } = await this.syncClosed(inode, chunks);
      if (lost.size > 0) {
        loss = lostBeforeSync(inode);
        chunks = this.unsynced.lossTold(inode, chunks, lost);
      }
      try {
        // Also behind a loss: what was written through handles that are open may have gone with it, and is told with it.
        if (writer === undefined) await master.sync(synced.map(({ handle }) => handle));
        else await writer.sync(synced);
      } catch (error) {
        throw loss ?? error;
      }
      // The master lost power meanwhile: it may know nothing of a chunk that was synced, or of its having been.
      if (io.generation !== generation) continue;
      io.noteSynced(synced);
      this.unsynced.done(inode, chunks);
      if (loss !== undefined) throw loss;
      return;
    }
  }

  /** Returns the chunks that the master takes for unsynced, and those of which something was lost before. */
  private async syncClosed(
    inode: InodeId,
    chunks: UnsyncedChunks,
  ): Promise<{ readonly synced: readonly SyncedChunk[]; readonly lost: ReadonlySet<number> }> {
    const synced: SyncedChunk[] = [];
    const lost = new Set<number>();
    const sync = async ([index, written]: [number, WriteMark | undefined]): Promise<void> => {
      const now = await this.options.io.syncChunk(inode, index);
      if (now.unsynced) synced.push({ inode, index, handle: now.handle });
      if (written !== undefined && !isKept(written, now)) lost.add(index);
    };
    await Promise.all([...chunks].map(sync));
    return { synced, lost };
  }

  /** Indexes of the chunks of a file, without its holes. */
  private async chunksOf(inode: InodeId): Promise<UnsyncedChunks> {
    const found = new Map<number, WriteMark | undefined>();
    const { size } = await this.options.inodes.freshAttributes(inode);
    const end = Math.ceil(size / CHUNK_SIZE_BYTES);
    for (let firstIndex = 0; firstIndex < end; firstIndex += MAX_CHUNKS_PER_PAGE) {
      const count = Math.min(MAX_CHUNKS_PER_PAGE, end - firstIndex);
      const { chunks } = await this.options.master.call(MASTER_METHODS.getChunks, { inode, firstIndex, count });
      for (const { index, handle } of chunks) if (handle !== 0) found.set(index, undefined);
    }
    return found;
  }
}

const notPublished = (inode: InodeId): CairnError =>
  new CairnError('EIO', `inode ${inode}: the size of what was written last could not be told to the master`);
