/**
 * copy_file_range(2) between open files. The chunkservers copy among themselves, piece by piece, each piece within one
 * chunk of the source and one of the target. What they cannot do, and what is too small to be worth it, is read and
 * written by the client: a source that they cannot read, so that all the failover of reads is behind it; servers
 * that do not know the request.
 */
import { CairnError, hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  MAX_COPY_CALL_BYTES,
  MAX_COPY_RANGE_BYTES,
  MAX_FILE_BYTES,
  MAX_PAYLOAD_BYTES,
  MIN_DIRECT_COPY_BYTES,
} from '../../core/limits.js';
import { checkRange } from './allocate.js';
import type { CopySource } from '../../protocol/generated/messages.js';
import type { ChunkCopies, WriteMark } from '../chunks/chunk-io.js';
import type { ChunkMapCache } from '../chunks/chunk-map-cache.js';
import type { FileExtents } from '../chunks/file-extents.js';
import type { OpenFile } from '../../filesystem/filesystem.js';
import type { Alteration, Writer } from '../data/writer.js';

export interface RangeCopy {
  readonly source: OpenFile;
  readonly sourceOffset: number;
  readonly target: OpenFile;
  readonly offset: number;
  readonly length: number;
  /** Throws when nothing must be written any more. */
  readonly mayGoOn: () => void;
  /** To the target. */
  readonly write: (offset: number, bytes: Uint8Array) => Promise<number>;
}

/** The ends of a copy that this client's chunkservers can make. */
export interface DirectEnds {
  readonly source: { readonly inode: InodeId; readonly writer: Writer | undefined };
  readonly target: {
    readonly inode: InodeId;
    readonly writer: Writer;
    /** Who copies may not leave setuid and setgid. */
    readonly kills: boolean;
    /** Of the writer, when the copy began. */
    readonly lockLosses: number;
    /** Makes a hole of a whole chunk. */
    punch(index: number): Promise<void>;
  };
}

/**
 * EINVAL when the ranges overlap in one file; 0 at the end of the source. `begin` gives the ends of a direct copy, when
 * there can be one, and does what comes before a write to the target.
 */
export async function copyRange(
  { source, sourceOffset, target, offset, length, mayGoOn, write }: RangeCopy,
  direct: DirectCopies,
  begin: () => Promise<DirectEnds | undefined>,
): Promise<number> {
  checkRange(sourceOffset, 0);
  checkRange(offset, 0);
  if (!Number.isSafeInteger(length) || length < 0) throw new CairnError('EINVAL', `cannot copy ${length} bytes`);
  const { size } = await source.attributes();
  const available = Math.min(length, Math.max(0, size - sourceOffset));
  const overlaps = sourceOffset < offset + available && offset < sourceOffset + available;
  if (source.inode === target.inode && overlaps) {
    throw new CairnError('EINVAL', 'the ranges of a copy within one file overlap');
  }
  const wanted = Math.min(available, MAX_COPY_CALL_BYTES);
  let copied = 0;
  try {
    const isLarge = wanted >= direct.minBytes && offset + wanted <= MAX_FILE_BYTES;
    const ends = isLarge ? await begin() : undefined;
    while (copied < wanted) {
      const [from, to, left] = [sourceOffset + copied, offset + copied, wanted - copied];
      let count = ends === undefined ? 0 : await direct.copy(ends, from, to, left);
      if (count === 0) {
        count = await copyPiece(source, from, to, Math.min(MAX_PAYLOAD_BYTES, left), mayGoOn, write);
        if (count === 0) break;
      }
      copied += count;
    }
  } catch (error) {
    // What was copied counts; the next call gets the error.
    if (copied === 0) throw error;
  }
  return copied;
}

export class DirectCopies {
  /** Bytes of a call below which the client does it by itself. */
  readonly minBytes: number;

  constructor(
    private readonly options: {
      readonly chunkMap: Pick<ChunkMapCache, 'locate'>;
      readonly io: ChunkCopies;
      readonly extents: Pick<FileExtents, 'dataWithin'>;
      readonly minBytes?: number | undefined;
    },
  ) {
    this.minBytes = options.minBytes ?? MIN_DIRECT_COPY_BYTES;
  }

  /**
   * Copies up to `length` bytes, from the start. 0 when it cannot. The failure of a write is thrown: nothing of it is
   * left under way.
   */
  async copy({ source, target }: DirectEnds, sourceOffset: number, offset: number, length: number): Promise<number> {
    const from = placeOf(sourceOffset);
    const to = placeOf(offset);
    const count = Math.min(length, CHUNK_SIZE_BYTES - from.offset, CHUNK_SIZE_BYTES - to.offset, MAX_COPY_RANGE_BYTES);
    await source.writer?.drainRange(sourceOffset, count);
    const location = await this.options.chunkMap.locate(source.inode, from.index);
    const { handle, version, replicas, validBytes } = location;
    const valid = handle === 0 ? 0 : Math.max(0, Math.min(count, validBytes - from.offset));
    if (valid === 0) {
      // A whole chunk at a time, so that the target's chunk can go.
      return this.zero(target, offset, Math.min(length, CHUNK_SIZE_BYTES - from.offset, CHUNK_SIZE_BYTES - to.offset));
    }
    if (location.lost === true || replicas.length === 0) return 0;
    const readable = { handle, version, replicas: [...replicas], offset: from.offset, length: valid };
    const change: Alteration = (note) => this.request(target, { offset, length: count, source: readable }, note);
    return target.writer.alter(offset, count, change, target.kills, target.lockLosses);
  }

  /** Makes holes where that is cheap, and writes zeros where the target has other bytes. All is in one chunk of it. */
  private async zero(target: DirectEnds['target'], offset: number, length: number): Promise<number> {
    const { extents } = this.options;
    const { inode, writer, kills, lockLosses, punch } = target;
    if (length === CHUNK_SIZE_BYTES) {
      await writer.drainRange(offset, length);
      for await (const data of extents.dataWithin(inode, offset, offset + length)) {
        writer.demandLocks(lockLosses);
        await punch(placeOf(data.start).index);
      }
    }
    const change: Alteration = (note) =>
      writer.keep(placeOf(offset).index, () => this.overwrite(target, offset, length, note));
    return writer.alter(offset, length, change, kills, lockLosses);
  }

  /** With zeros, where there are others. Returns how many bytes are zeros from the start. */
  private async overwrite(
    target: DirectEnds['target'],
    offset: number,
    length: number,
    note: (mark: WriteMark) => void,
  ): Promise<number> {
    for await (const { start, end } of this.options.extents.dataWithin(target.inode, offset, offset + length)) {
      for (let at = start; at < end;) {
        const piece = { offset: at, length: Math.min(end - at, MAX_COPY_RANGE_BYTES), source: null };
        const changed = await this.request(target, piece, note);
        if (changed === 0) return at - offset;
        at += changed;
      }
    }
    return length;
  }

  /** Returns how many bytes were changed from the start. */
  private async request(
    { inode, writer, lockLosses }: DirectEnds['target'],
    { offset, ...piece }: { readonly offset: number; readonly length: number; readonly source: CopySource | null },
    note: (mark: WriteMark) => void,
  ): Promise<number> {
    const to = placeOf(offset);
    try {
      const { copied, mark } = await this.options.io.copyRange(inode, to.index, { ...piece, offset: to.offset }, () =>
        writer.demandLocks(lockLosses),
      );
      note(mark);
      return copied;
    } catch (error) {
      if (hasCode(error, 'EOPNOTSUPP')) return 0;
      throw error;
    }
  }
}

function placeOf(offset: number): { readonly index: number; readonly offset: number } {
  const index = Math.floor(offset / CHUNK_SIZE_BYTES);
  return { index, offset: offset - index * CHUNK_SIZE_BYTES };
}

/** Through this client. Returns the bytes copied; 0 at the end of the source. */
async function copyPiece(
  source: OpenFile,
  from: number,
  to: number,
  length: number,
  mayGoOn: () => void,
  write: RangeCopy['write'],
): Promise<number> {
  const { parts, release } = await source.lend(from, length);
  let copied = 0;
  try {
    for (const part of parts) {
      if (part.length === 0) continue;
      mayGoOn();
      copied += await write(to + copied, part);
    }
  } finally {
    release();
  }
  return copied;
}
