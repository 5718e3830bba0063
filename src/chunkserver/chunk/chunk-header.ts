/**
 * The header of one open chunk file: which chunk and version it is, and the mark that it is under mutation, which is
 * on disk before the first write of a boot. A mark from another boot makes the replica suspect: its machine went down
 * while it was under mutation. When what is written here is durable, the caller decides (`ChunkFile`).
 */
import type { Disk, DiskFile } from '../../core/disk/disk.js';
import type { ChunkHandle, ChunkVersion } from '../../core/ids.js';
import {
  decodeHeaders,
  encodeHeader,
  headersByName,
  headerSlotOffset,
  isMadeUp,
  TABLE_OFFSET,
  type ChunkHeader,
  type ChunkName,
} from './chunk-format.js';

/** The header of the chunk file at `path`, or what its name says where it has rotted; undefined when it has none. */
export async function peekHeader(disk: Disk, path: string, name: ChunkName): Promise<ChunkHeader | undefined> {
  const file = await disk.open('chunk.peek', path, 'existing');
  try {
    const page = Buffer.alloc(TABLE_OFFSET);
    await file.read('chunk.peek', page, 0);
    return headersByName(page, name)[0];
  } finally {
    await file.close();
  }
}

export class StoredHeader {
  /** What was written since may be torn by a power loss. */
  private durableGeneration: number;

  private constructor(
    /** The boot of its directory, as all here. */
    private readonly bootId: string,
    private readonly file: DiskFile,
    private header: ChunkHeader,
    private doubted: boolean,
    /** In the other slot. */
    private before: ChunkHeader | undefined,
  ) {
    this.durableGeneration = header.generation;
  }

  /** Writes the first header of a new file. */
  static create(bootId: string, file: DiskFile, handle: ChunkHandle, version: ChunkVersion): StoredHeader {
    // Dirty from the start: if power fails, the file is gone, unreadable or suspect; no sync is needed to say so.
    const header = { handle, version, generation: 0, dirty: true, syncFailed: false, bootId };
    file.writeSync('chunk.header', encodeHeader(header), headerSlotOffset(0));
    return new StoredHeader(bootId, file, header, false, undefined);
  }

  /**
   * The header in the first page of `file`, or one by its name where that has rotted; undefined when it has none. `trusted`: it is not
   * suspect, whatever it says.
   */
  static decode(
    bootId: string,
    file: DiskFile,
    page: Buffer,
    { trusted, name }: { readonly trusted: boolean; readonly name: ChunkName | undefined },
  ): StoredHeader | undefined {
    const [header, before] = name === undefined ? decodeHeaders(page) : headersByName(page, name);
    if (header === undefined) return undefined;
    const isDoubted = isMadeUp(header) || (header.dirty && header.bootId !== bootId && !trusted);
    return new StoredHeader(bootId, file, header, isDoubted, before);
  }

  get handle(): ChunkHandle {
    return this.header.handle;
  }
  get version(): ChunkVersion {
    return this.header.version;
  }
  get dirty(): boolean {
    return this.header.dirty;
  }
  /** Dirty from another boot, or a sync of it failed. */
  get suspect(): boolean {
    return this.doubted || this.header.syncFailed;
  }
  get syncFailed(): boolean {
    return this.header.syncFailed;
  }
  /** It has rotted, and was not written since: no more than its name is known. */
  get isMadeUp(): boolean {
    return isMadeUp(this.header);
  }
  /** Dirty from this boot: if its process was killed, the page cache is as it left it. */
  get dirtySinceBoot(): boolean {
    return this.header.dirty && this.header.bootId === this.bootId;
  }

  get generation(): number {
    return this.header.generation;
  }

  /** A sync that began when the header had this generation has succeeded. */
  noteDurable(generation: number): void {
    this.durableGeneration = Math.max(this.durableGeneration, generation);
  }

  markDirty(): void {
    // The mark of a clean file is not synced, and the header before it is: that one is left.
    const isUnsure = !this.header.dirty && this.before?.version === this.header.version;
    this.write({ dirty: true }, isUnsure ? 2 : 1);
  }

  markClean(): void {
    this.write({ dirty: false });
  }

  /** In place of one that the failed sync was to make durable, as the one before that is left then. */
  markSyncFailed(isUnsure = this.header.generation > this.durableGeneration): void {
    this.write({ syncFailed: true }, isUnsure ? 2 : 1);
  }

  /** Takes `version`, clean unless `dirty`. A suspect replica is one no longer. */
  adopt(version: ChunkVersion, dirty: boolean): void {
    this.write({ version, dirty, syncFailed: false });
    this.doubted = false;
  }

  /** To the other slot, so that a torn write leaves the last header; to the same one when `step` is 2. */
  private write(change: Partial<Pick<ChunkHeader, 'version' | 'dirty' | 'syncFailed'>>, step: 1 | 2 = 1): void {
    const generation = this.header.generation + step;
    const header = Object.assign({ ...this.header, generation, bootId: this.bootId }, change);
    this.file.writeSync('chunk.header', encodeHeader(header), headerSlotOffset(generation));
    if (step === 1) this.before = this.header;
    this.header = header;
  }
}
