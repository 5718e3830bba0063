/**
 * The chunk files that are open: at most MAX_OPEN_CHUNK_FILES besides those in use, least recently used closed first.
 * Who uses one pins it; it is closed when it was retired and nobody has it pinned. It is opened anew after that: an opening settles
 * the table, which a mutation under way would make wrong.
 */
import type { Disk } from '../../core/disk/disk.js';
import { asCairnError } from '../../core/errors.js';
import type { ChunkHandle } from '../../core/ids.js';
import { MAX_OPEN_CHUNK_FILES } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { watched, unawaited } from '../../core/sync.js';
import { ChunkFile } from '../chunk/chunk-file.js';
import type { DataDirectories } from '../disks/data-directories.js';
import type { DataDirectory } from '../disks/data-directory.js';
import type { IndexEntry } from './replica-index.js';

export interface OpenChunk {
  readonly handle: ChunkHandle;
  readonly directory: DataDirectory;
  path: string;
  file: Promise<ChunkFile>;
  /** `file`, once it is there. */
  opened: ChunkFile | undefined;
  pins: number;
  /** The entry in the directory is known to survive power loss. */
  entrySynced: boolean;
  /** Called when the last user has gone and the chunk is to be closed. */
  retired: (() => void) | undefined;
}

export interface OpenChunksOptions {
  readonly disk: Disk;
  readonly logger: Logger;
  readonly directories: DataDirectories;
  /** Default MAX_OPEN_CHUNK_FILES. */
  readonly maxOpen?: number | undefined;
  /** A file was opened that is at another version than its name says. Nobody uses it before this is done. */
  readonly onOtherVersion: (chunk: OpenChunk, file: ChunkFile) => Promise<void>;
}

export class OpenChunks {
  /** Least recently used first. */
  private readonly open = new Map<ChunkHandle, OpenChunk>();
  private readonly closing = new Set<Promise<void>>();
  /** Retired, and not closed yet: those of each chunk that were retired last. */
  private readonly retiring = new Map<
    ChunkHandle,
    { readonly directory: DataDirectory; readonly end: Promise<void> }
  >();

  constructor(private readonly options: OpenChunksOptions) {}

  get(handle: ChunkHandle): OpenChunk | undefined {
    return this.open.get(handle);
  }

  /** Takes in a file, open or being opened, that nobody has pinned yet. */
  hold(chunk: Pick<OpenChunk, 'handle' | 'directory' | 'path' | 'file' | 'opened'>): OpenChunk {
    const held: OpenChunk = { ...chunk, pins: 0, entrySynced: false, retired: undefined };
    this.open.set(chunk.handle, held);
    if (this.open.size > (this.options.maxOpen ?? MAX_OPEN_CHUNK_FILES)) {
      for (const candidate of this.open.values()) {
        if (candidate.pins > 0 || candidate === held) continue;
        unawaited(this.retire(candidate), this.options.logger, 'closing a chunk');
        break;
      }
    }
    return held;
  }

  /** The open chunk of a replica, opened if it is not. Pinned: the caller unpins it. */
  pin(entry: IndexEntry): OpenChunk {
    let chunk = this.open.get(entry.handle);
    if (chunk === undefined) {
      const directory = this.options.directories.of(entry);
      const path = directory.chunkPath(entry.handle, entry.version);
      const opening = watched(this.openFile(entry, directory, path));
      const held = this.hold({ handle: entry.handle, directory, path, file: opening, opened: undefined });
      held.file = watched(
        opening.then(async (file) => {
          held.opened = file;
          if (file.version !== entry.version) await this.options.onOtherVersion(held, file);
          return file;
        }),
      );
      // Everyone who pins it awaits `file` and sees the failure; the next one tries again.
      held.file.catch(() => {
        if (this.open.get(held.handle) === held) this.open.delete(held.handle);
      });
      chunk = held;
    } else {
      this.open.delete(entry.handle);
      this.open.set(entry.handle, chunk);
    }
    chunk.pins++;
    return chunk;
  }

  private async openFile(entry: IndexEntry, directory: DataDirectory, path: string): Promise<ChunkFile> {
    const { handle, version } = entry;
    const before = this.retiring.get(handle);
    // What is on another disk, which may hang, is not waited for.
    if (before?.directory === directory) await before.end;
    const { session, boot, unmarked } = directory;
    const name = { handle, version };
    const known = { trusted: session.leftClean, bootId: boot.id, syncFailed: unmarked.has(handle), name };
    const file = await ChunkFile.open(this.options.disk, path, known);
    unmarked.delete(handle);
    return file;
  }

  unpin(chunk: OpenChunk): void {
    chunk.pins--;
    if (chunk.pins === 0) chunk.retired?.();
  }

  /** Takes a chunk out of the open ones, and closes it once nobody uses it. Resolves when it is closed; never rejects. */
  retire(chunk: OpenChunk): Promise<void> {
    const { handle, directory } = chunk;
    if (this.open.get(handle) === chunk) this.open.delete(handle);
    const end = watched(
      this.closeUnused(chunk).finally(() => {
        if (this.retiring.get(handle)?.end === end) this.retiring.delete(handle);
      }),
    );
    this.retiring.set(handle, { directory, end });
    return end;
  }

  private closeUnused(chunk: OpenChunk): Promise<void> {
    if (chunk.pins === 0) return this.close(chunk);
    return new Promise((resolve) => {
      const before = chunk.retired;
      chunk.retired = () => {
        before?.();
        resolve(before === undefined ? this.close(chunk) : undefined);
      };
    });
  }

  /** Retires those in `directory`. */
  retireIn(directory: DataDirectory): void {
    for (const chunk of [...this.open.values()])
      if (chunk.directory === directory) unawaited(this.retire(chunk), this.options.logger, 'closing a chunk');
  }

  /** Retires all, and waits until what was closed is. */
  async stop(): Promise<void> {
    for (const chunk of [...this.open.values()]) unawaited(this.retire(chunk), this.options.logger, 'closing a chunk');
    await Promise.all(this.closing);
  }

  private close(chunk: OpenChunk): Promise<void> {
    if (chunk.opened === undefined) return Promise.resolve();
    if (chunk.opened.isUnmarked) chunk.directory.noteUnmarked(chunk.handle);
    const closed = chunk.opened
      .close()
      .catch((error: unknown) => {
        this.options.logger.warn({ path: chunk.path, reason: asCairnError(error).message }, 'closing failed');
      })
      .finally(() => this.closing.delete(closed));
    this.closing.add(closed);
    return closed;
  }
}
