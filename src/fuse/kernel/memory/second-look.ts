/**
 * A program names a file, and the kernel makes two steps of it: a look-up, which it may answer from memory, and, say, an
 * open. When another mount replaces the file before the second, that step is ESTALE, and the kernel tries both once more;
 * refused twice, the program is told. That would happen now and then where files are saved by rename again and again and
 * read elsewhere. So for a moment after an ESTALE every file that is looked up is opened with the look-up, in one step at
 * the master, and held: a thread in its second try may open what had the name at some time since it was refused. Also
 * what another thread looked up, since threads that look up one name at once share one answer.
 *
 * Only in its second try: else the names that led to a file are asked about (told-names.ts). And a thread that opens again
 * what it was just refused did not come by a name that could be looked up (a file handle, /proc/self/fd): it gets what the
 * kernel holds.
 */
import { sleep } from '../../../core/clock.js';
import type { Clock } from '../../../core/clock.js';
import { CairnError, hasCode } from '../../../core/errors.js';
import type { InodeId } from '../../../core/ids.js';
import { MAX_SECOND_LOOKS } from '../../../core/limits.js';
import { ROOT_CREDENTIALS } from '../../../filesystem/filesystem.js';
import type { Attributes, Credentials, FileSystem, OpenFile } from '../../../filesystem/filesystem.js';
import { kindOfMode } from '../../linux.js';

/** After an ESTALE a thread's steps are taken for those of its second try so long. They come at once, as a rule. */
const SECOND_TRY_MS = 1_000;
/**
 * And the same for what was no open, from step to step: who was only to look at something may open something else next. A
 * busy machine needs some time from one step to the next.
 */
const SECOND_TRY_OF_LOOK_MS = 100;
/** After an ESTALE files are opened with their look-ups so long, and held. */
const OPENING_LOOKS_MS = 250;
const HOLD_MS = 1_000;

export interface SecondLookOptions {
  readonly fileSystem: FileSystem;
  readonly clock: Clock;
  readonly inBackground: (what: string, work: () => Promise<void>) => void;
}

interface SecondTry {
  sinceMs: number;
  /** When it was answered last: refused, or told what it looked up. */
  stepMs: number;
  /** What was to be opened, when that was refused. */
  refusedOpen: InodeId | undefined;
  /** Its look-up found no name any more. */
  readonly isOnceMore: boolean;
  /** It is known to open what it finds. */
  readonly isOpening: boolean;
}

interface Held {
  readonly file: OpenFile;
  /** It had its name then or later. */
  readonly sinceMs: number;
  /** Opens of it that are under way. */
  opens: number;
  /** It is closed after those. */
  isOver: boolean;
}

export class SecondLook {
  /** By thread, bounded by MAX_SECOND_LOOKS. */
  private readonly tries = new Map<number, SecondTry>();
  /** Bounded by MAX_SECOND_LOOKS. */
  private readonly held = new Map<InodeId, Held>();
  private looksOpenUntilMs = -Infinity;

  constructor(private readonly options: SecondLookOptions) {}

  /** A request of the thread is answered with ESTALE; `opens`: it was to open that. */
  refused(thread: number, opens?: InodeId): void {
    const sinceMs = this.options.clock.monotonicMs();
    this.looksOpenUntilMs = sinceMs + OPENING_LOOKS_MS;
    const known = this.tryOf(thread);
    // One that goes on after ENOENT may be over: then this is the first refusal of another call.
    if (known !== undefined && opens !== undefined && known.refusedOpen === undefined && !known.isOnceMore) {
      known.refusedOpen = opens;
      return;
    }
    this.tries.delete(thread);
    // Refused twice: the kernel tells the program.
    if (known?.refusedOpen !== undefined) return;
    this.add(thread, { sinceMs, stepMs: sinceMs, refusedOpen: opens, isOnceMore: false, isOpening: false });
  }

  private add(thread: number, second: SecondTry): void {
    this.tries.delete(thread);
    for (const oldest of this.tries.keys()) {
      if (this.tries.size < MAX_SECOND_LOOKS) break;
      this.tries.delete(oldest);
    }
    this.tries.set(thread, second);
  }

  /** The thread is made to walk once more, and will be refused no more: only what it looks up itself is held for it. */
  walksAgain(thread: number): void {
    const sinceMs = this.options.clock.monotonicMs();
    this.add(thread, { sinceMs, stepMs: sinceMs, refusedOpen: undefined, isOnceMore: false, isOpening: true });
  }

  /** As `lookup` of the file system, by a thread. */
  async lookup(thread: number, credentials: Credentials, parent: InodeId, name: Buffer): Promise<Attributes> {
    const { clock } = this.options;
    const second = this.tries.get(thread);
    const isSecond = second !== undefined && clock.monotonicMs() - second.sinceMs < SECOND_TRY_MS;
    // The call of before may have ended with that: what had the name before this look-up does not count for another.
    if (isSecond && second.isOnceMore) second.sinceMs = clock.monotonicMs();
    try {
      return await this.lookupNow(isSecond, credentials, parent, name);
    } catch (error) {
      // A second try ends here, unless the kernel asked about a name that it remembered: then it looks that up once more.
      this.done(thread);
      if (isSecond && !second.isOnceMore && hasCode(error, 'ENOENT')) {
        const sinceMs = clock.monotonicMs();
        const { isOpening } = second;
        this.tries.set(thread, { sinceMs, stepMs: sinceMs, refusedOpen: undefined, isOnceMore: true, isOpening });
      }
      throw error;
    } finally {
      if (isSecond) second.stepMs = clock.monotonicMs();
    }
  }

  private async lookupNow(
    isSecond: boolean,
    credentials: Credentials,
    parent: InodeId,
    name: Buffer,
  ): Promise<Attributes> {
    const { fileSystem, clock } = this.options;
    const attributes = await fileSystem.lookup(credentials, parent, name);
    const sinceMs = clock.monotonicMs();
    if (sinceMs >= this.looksOpenUntilMs && !isSecond) return attributes;
    if (kindOfMode(attributes.mode) !== 'file') return attributes;
    try {
      // The caller may look the name up; whether he may open the file is asked when he does.
      const opened = await fileSystem.openAt(ROOT_CREDENTIALS, parent, name, { read: true, write: false });
      this.hold(opened.file, sinceMs);
      return opened.attributes;
    } catch (error) {
      // It was removed meanwhile: to open what it was would be refused for the second time, which the program would be told.
      if (!(error instanceof CairnError) || hasCode(error, 'ENOENT')) throw error;
      // Something else by now: the first answer is as good as any.
      return attributes;
    }
  }

  /** Whether the thread may open the file, whatever its names lead to by now. */
  isSecondOpen(thread: number, inode: InodeId): boolean {
    const second = this.tryOf(thread);
    if (second === undefined) return false;
    return second.refusedOpen === inode || (this.held.get(inode)?.sinceMs ?? -Infinity) >= second.sinceMs;
  }

  /** Opens a file: what is held of it stays until that is done, as an open that cuts the file may wait for its writers. */
  async opening<T>(inode: InodeId, open: () => Promise<T>): Promise<T> {
    const held = this.held.get(inode);
    if (held === undefined) return open();
    held.opens++;
    try {
      return await open();
    } finally {
      held.opens--;
      if (held.isOver) this.close(held);
    }
  }

  /** The second step was made. */
  done(thread: number): void {
    this.tries.delete(thread);
  }

  private tryOf(thread: number): SecondTry | undefined {
    const second = this.tries.get(thread);
    if (second === undefined) return undefined;
    const { refusedOpen, isOpening, sinceMs, stepMs } = second;
    const isLook = refusedOpen === undefined && !isOpening;
    const untilMs = isLook ? stepMs + SECOND_TRY_OF_LOOK_MS : sinceMs + SECOND_TRY_MS;
    return this.options.clock.monotonicMs() < untilMs ? second : undefined;
  }

  private hold(file: OpenFile, sinceMs: number): void {
    const { clock, inBackground } = this.options;
    const { inode } = file;
    this.release(inode);
    for (const oldest of this.held.keys()) {
      if (this.held.size < MAX_SECOND_LOOKS) break;
      this.release(oldest);
    }
    const held: Held = { file, sinceMs, opens: 0, isOver: false };
    this.held.set(inode, held);
    inBackground('ending a second look', async () => {
      await sleep(clock, HOLD_MS);
      if (this.held.get(inode) === held) this.release(inode);
    });
  }

  private release(inode: InodeId): void {
    const held = this.held.get(inode);
    if (held === undefined) return;
    this.held.delete(inode);
    held.isOver = true;
    this.close(held);
  }

  private close({ file, opens }: Held): void {
    if (opens > 0) return;
    this.options.inBackground('closing what was held for a second look', () => file.close());
  }
}
