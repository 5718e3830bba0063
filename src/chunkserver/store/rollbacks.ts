/** Data directories that somebody put back to an older state: their replicas are suspect until each was compared with others. */
import { asCairnError } from '../../core/errors.js';
import type { Logger } from '../../core/logging/logger.js';
import { unawaited } from '../../core/sync.js';
import type { DiskGeneration } from '../../protocol/generated/messages.js';
import type { DataDirectories } from '../disks/data-directories.js';
import type { DataDirectory } from '../disks/data-directory.js';
import type { ReplicaIndex } from './replica-index.js';

export class Rollbacks {
  /** With the generation that the master knows. */
  private readonly known = new Map<DataDirectory, number>();

  constructor(
    private readonly directories: DataDirectories,
    private readonly index: ReplicaIndex,
    private readonly logger: Logger,
  ) {}

  /**
   * The master knows newer states of these directories: somebody put back what they held before. All that is in them may
   * miss mutations, also after further starts, until recovery has looked at each.
   */
  async begin(disks: readonly DiskGeneration[]): Promise<void> {
    for (const { id, generation } of disks) {
      const directory = this.directories.byDisk(id);
      if (directory === undefined) continue;
      const { path, session } = directory;
      this.logger.error(
        { directory: path, generation: session.foundGeneration, newer: generation },
        'data directory was put back to an older state: its replicas are compared with others before they are used',
      );
      this.known.set(directory, generation);
      this.suspectAll(directory);
      await session.beginRollback();
    }
    for (const directory of this.directories.usable()) directory.session.noteJoined();
    // From an earlier start, and the master knows nothing of it any more.
    for (const directory of this.directories.usable()) {
      const { rolledBack, generation } = directory.session;
      if (rolledBack && !this.known.has(directory)) this.known.set(directory, generation);
    }
  }

  suspectAll(directory: DataDirectory): void {
    for (const entry of this.index.entriesIn(directory.number))
      if (!entry.suspect) this.index.set({ ...entry, suspect: true });
  }

  /** The end of it, when nothing in the directory is suspect any more. */
  endIfCompared(directory: DataDirectory): void {
    const generation = this.known.get(directory);
    if (generation === undefined || this.index.suspectCount(directory.number) > 0) return;
    this.known.delete(directory);
    const { logger } = this;
    unawaited(
      directory.session.endRollback(generation).then(
        () => logger.info({ directory: directory.path }, 'data directory is up to date again'),
        (error: unknown) => {
          this.known.set(directory, generation);
          logger.warn({ reason: asCairnError(error).message }, 'data directory stays suspect');
        },
      ),
      logger,
      'the end of a rollback',
    );
  }
}
