/**
 * A program names a file, and the kernel makes two steps of it: a look-up and, say, an open. When another mount replaces
 * the file between them, the second step is ESTALE, and the kernel tries both once more; refused twice, the program is told.
 * That would happen now and then where files are saved by rename again and again and read elsewhere. So a file that is
 * looked up in a second try is opened with the look-up, in one step at the master, and held until the second step
 * has come: it gets the file that had the name while the program waited.
 *
 * Not for longer, since a name that the kernel still remembers must not lead to what was replaced (P2).
 */
import { sleep } from '../../core/clock.js';
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_SECOND_LOOKS } from '../../core/limits.js';
import { ROOT_CREDENTIALS } from '../../client/filesystem.js';
import type { Attributes, Credentials, FileSystem, OpenFile } from '../../client/filesystem.js';
import { kindOfMode } from '../linux.js';

/** After an ESTALE, look-ups are taken for second tries so long. The kernel's comes at once. */
const SECOND_TRY_MS = 250;
/** A file is held so long when nobody opens it: it was only looked at. */
const HOLD_MS = 100;

export interface SecondLookOptions {
  readonly fileSystem: FileSystem;
  readonly clock: Clock;
  readonly inBackground: (what: string, work: () => Promise<void>) => void;
}

export class SecondLook {
  private endsMs = -Infinity;
  /** Bounded by MAX_SECOND_LOOKS. */
  private readonly held = new Map<InodeId, OpenFile>();

  constructor(private readonly options: SecondLookOptions) {}

  /** A request was answered with ESTALE. */
  refused(): void {
    this.endsMs = this.options.clock.monotonicMs() + SECOND_TRY_MS;
  }

  /** As `lookup` of the file system. */
  async lookup(credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    const { fileSystem, clock, inBackground } = this.options;
    const attributes = await fileSystem.lookup(credentials, parent, name);
    const isSecond = clock.monotonicMs() < this.endsMs && this.held.size < MAX_SECOND_LOOKS;
    if (!isSecond || kindOfMode(attributes.mode) !== 'file') return attributes;
    try {
      // The caller may look the name up; whether he may open the file is asked when he does.
      const opened = await fileSystem.openAt(ROOT_CREDENTIALS, parent, name, { read: true, write: false });
      const { inode } = opened.file;
      this.release(inode);
      this.held.set(inode, opened.file);
      inBackground('ending a second look', async () => {
        await sleep(clock, HOLD_MS);
        if (this.held.get(inode) === opened.file) this.release(inode);
      });
      return opened.attributes;
    } catch (error) {
      // Removed meanwhile, or something else by now: the first answer is as good as any.
      if (error instanceof CairnError) return attributes;
      throw error;
    }
  }

  /** The second step was made. */
  release(inode: InodeId): void {
    const file = this.held.get(inode);
    if (file === undefined) return;
    this.held.delete(inode);
    this.options.inBackground('closing what was held for a second look', () => file.close());
  }
}
