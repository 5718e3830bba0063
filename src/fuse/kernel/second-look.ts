/**
 * A program names a file, and the kernel makes two steps of it: a look-up, which it may answer from memory, and, say, an
 * open. When another mount replaces the file before the second, that step is ESTALE, and the kernel tries both once more;
 * refused twice, the program is told. That would happen now and then where files are saved by rename again and again and
 * read elsewhere. So a file that a thread looks up in a second try is opened with the look-up, in one step at the master,
 * and held until the thread's second step has come: it gets the file that had the name while the program waited.
 *
 * For that thread alone: whoever else opens the file by a name is asked whether the name still leads there
 * (told-names.ts). And a thread that opens again what it was just refused, without a look-up that leads elsewhere, did not
 * come by a name that could be looked up (a file handle, /proc/self/fd): it gets what the kernel holds.
 */
import { sleep } from '../../core/clock.js';
import type { Clock } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_SECOND_LOOKS } from '../../core/limits.js';
import { ROOT_CREDENTIALS } from '../../client/filesystem.js';
import type { Attributes, Credentials, FileSystem, OpenFile } from '../../client/filesystem.js';
import { kindOfMode } from '../linux.js';

/** After an ESTALE a thread's steps are taken for those of its second try so long. They come at once, as a rule. */
const SECOND_TRY_MS = 1_000;
/** A file is held so long for an open that was refused, which comes again, and for what may have been a look and no more. */
const HOLD_MS = 1_000;
const HOLD_LOOKED_AT_MS = 25;

export interface SecondLookOptions {
  readonly fileSystem: FileSystem;
  readonly clock: Clock;
  readonly inBackground: (what: string, work: () => Promise<void>) => void;
}

interface SecondTry {
  endsMs: number;
  /** What was to be opened, when that was refused. */
  refusedOpen: InodeId | undefined;
  held: OpenFile | undefined;
}

export class SecondLook {
  /** By thread, bounded by MAX_SECOND_LOOKS. */
  private readonly tries = new Map<number, SecondTry>();

  constructor(private readonly options: SecondLookOptions) {}

  /** A request of the thread is answered with ESTALE; `opens`: it was to open that. */
  refused(thread: number, opens?: InodeId): void {
    const endsMs = this.options.clock.monotonicMs() + SECOND_TRY_MS;
    const known = this.tryOf(thread);
    if (known !== undefined && (opens === undefined || known.refusedOpen === undefined)) {
      known.endsMs = endsMs;
      known.refusedOpen ??= opens;
      return;
    }
    this.done(thread);
    // Refused twice: the kernel tells the program.
    if (known !== undefined) return;
    for (const oldest of this.tries.keys()) {
      if (this.tries.size < MAX_SECOND_LOOKS) break;
      this.done(oldest);
    }
    this.tries.set(thread, { endsMs, refusedOpen: opens, held: undefined });
  }

  /** As `lookup` of the file system, by a thread. */
  async lookup(thread: number, credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    const { fileSystem, clock, inBackground } = this.options;
    const attributes = await fileSystem.lookup(credentials, parent, name).catch((error: unknown) => {
      // The second try ends here.
      this.done(thread);
      throw error;
    });
    const second = this.tryOf(thread);
    if (second === undefined || kindOfMode(attributes.mode) !== 'file') return attributes;
    try {
      // The caller may look the name up; whether he may open the file is asked when he does.
      const opened = await fileSystem.openAt(ROOT_CREDENTIALS, parent, name, { read: true, write: false });
      this.release(second);
      second.held = opened.file;
      inBackground('ending a second look', async () => {
        await sleep(clock, second.refusedOpen === undefined ? HOLD_LOOKED_AT_MS : HOLD_MS);
        if (second.held !== opened.file) return;
        this.release(second);
        if (this.tries.get(thread) === second) this.tries.delete(thread);
      });
      return opened.attributes;
    } catch (error) {
      // Removed meanwhile, or something else by now: the first answer is as good as any.
      if (error instanceof CairnError) return attributes;
      throw error;
    }
  }

  /** Whether the thread may open the file, whatever its names lead to by now. */
  isSecondOpen(thread: number, inode: InodeId): boolean {
    const second = this.tryOf(thread);
    return second !== undefined && (second.held?.inode === inode || second.refusedOpen === inode);
  }

  /** The second step was made. */
  done(thread: number): void {
    const second = this.tries.get(thread);
    if (second === undefined) return;
    this.tries.delete(thread);
    this.release(second);
  }

  private tryOf(thread: number): SecondTry | undefined {
    const second = this.tries.get(thread);
    return second !== undefined && this.options.clock.monotonicMs() < second.endsMs ? second : undefined;
  }

  private release(second: SecondTry): void {
    const { held } = second;
    if (held === undefined) return;
    second.held = undefined;
    this.options.inBackground('closing what was held for a second look', () => held.close());
  }
}
