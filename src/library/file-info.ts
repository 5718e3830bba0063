/** Where a file is kept, for operators. */
import { CHUNK_SIZE_BYTES } from '../core/limits.js';
import type { Attributes, ChunkPlacement, FileSystem } from '../filesystem/filesystem.js';
import { Stats } from './stats.js';

export interface FileInfo {
  readonly path: string;
  readonly stats: Stats;
  readonly chunkSizeBytes: number;
  /** The chunks in order, holes included, asked for as they are read. */
  chunks(): AsyncIterable<ChunkPlacement>;
}

export function fileInfo(fs: Pick<FileSystem, 'placement'>, attributes: Attributes, path: string): FileInfo {
  return {
    path,
    stats: new Stats(attributes),
    chunkSizeBytes: CHUNK_SIZE_BYTES,
    async *chunks() {
      for (let next = 0; ;) {
        const page = await fs.placement(attributes.inode, next);
        if (page.length === 0) return;
        yield* page;
        next += page.length;
      }
    },
  };
}
