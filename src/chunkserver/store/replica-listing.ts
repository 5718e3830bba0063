/** At start: the replicas in each directory, by the names of their files; and which of two files of one chunk counts. */
import type { Disk } from '../../core/disk/disk.js';
import type { ChunkVersion } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { isMadeUp } from '../chunk/chunk-format.js';
import { peekHeader } from '../chunk/chunk-header.js';
import type { DataDirectories } from '../disks/data-directories.js';
import { DataDirectory, type FoundReplica } from '../disks/data-directory.js';
import type { IndexEntry, ReplicaIndex } from './replica-index.js';

/** A file of a chunk of which there is another one. */
interface RankedFile {
  readonly entry: IndexEntry;
  readonly state: 'whole' | 'unreadable' | 'no header';
  readonly version: ChunkVersion | 0;
  readonly isClean: boolean;
}

const inDirectory = (found: FoundReplica, directory: DataDirectory): IndexEntry => ({
  ...found,
  directory: directory.number,
  suspect: false,
});

/** Positive when `a` is newer. */
function compareAge(a: RankedFile, b: RankedFile): number {
  const age = ({ state, version }: RankedFile): number => (state === 'no header' ? 0 : version);
  return age(a) - age(b);
}

export class ReplicaListing {
  constructor(
    private readonly disk: Disk,
    private readonly directories: DataDirectories,
    private readonly index: ReplicaIndex,
    private readonly logger: Logger,
  ) {}

  /** Takes the replicas in a directory into the index. */
  async take(directory: DataDirectory): Promise<void> {
    const twice: FoundReplica[] = [];
    for await (const found of directory.replicas()) {
      if (directory.failure !== undefined) return;
      if (this.index.get(found.handle) === undefined) this.index.set(inDirectory(found, directory));
      else twice.push(found);
    }
    for (const found of twice) await this.chooseOne(inDirectory(found, directory));
  }

  /**
   * There is a file of that chunk already: the one with a header and the higher version counts. What a creation or a
   * copy left behind when it was cut short has no header, whatever its name says. The other one is deleted only when this
   * one was read and is newer.
   */
  private async chooseOne(second: IndexEntry): Promise<void> {
    const first = this.index.get(second.handle);
    if (first === undefined) return;
    const files = [await this.rank(first), await this.rank(second)];
    // Of two at one version rather the one that is written to.
    files.sort((a, b) => compareAge(b, a) || Number(a.isClean) - Number(b.isClean));
    const [better, other] = files;
    if (better === undefined || other === undefined) return;
    // Of two at one version which of them missed something is not known.
    const isDoubtful = better.state === 'unreadable' || compareAge(better, other) === 0;
    this.index.set({ ...better.entry, suspect: isDoubtful });
    const path = this.directories.pathOf(better.entry);
    const instead = this.directories.pathOf(other.entry);
    this.logger.warn({ path, instead, isDoubtful }, 'two files of one chunk: the first one counts');
    if (better.state === 'whole' && !isDoubtful && other.state !== 'unreadable') {
      await this.directories.of(other.entry).removeReplica(other.entry);
    }
  }

  private async rank(entry: IndexEntry): Promise<RankedFile> {
    try {
      const header = await peekHeader(this.disk, this.directories.pathOf(entry), entry);
      if (header === undefined) return { entry, state: 'no header', version: 0, isClean: false };
      if (isMadeUp(header)) return { entry, state: 'unreadable', version: entry.version, isClean: false };
      return { entry, state: 'whole', version: header.version, isClean: !header.dirty };
    } catch (error) {
      if (!DataDirectory.isFailure(error)) throw error;
      return { entry, state: 'unreadable', version: entry.version, isClean: false };
    }
  }
}
