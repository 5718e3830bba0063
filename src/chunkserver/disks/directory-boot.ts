/**
 * The boot of a data directory: its name changes whenever what was written there and not synced may be gone. That is when the machine
 * boots, and also when the file system fails and is unmounted and mounted again, which no process can see. So whoever meets a disk
 * that fails leaves a note on another file system, and the next start of the same boot that finds one goes on under a new name:
 * everything that counts after a power loss counts then, for this directory.
 *
 *   fails or hangs ──leave──► note ──a probe succeeds: clear──► nothing was lost
 *                             note ──the next start: begin──► a new name, durable in `session`: clear──► the note is removed
 */
import { createHash } from 'node:crypto';
import type { BootNotes } from '../../core/disk/boot-notes.js';
import { asCairnError } from '../../core/errors.js';
import type { Logger } from '../../core/logging/logger.js';

export interface DirectoryBootOptions {
  readonly bootNotes: BootNotes;
  /** Of the machine. */
  readonly bootId: string;
  /** Of the data directory. */
  readonly path: string;
  /** The address of its server: in containers, those of several may have the same path, and one place for their notes. */
  readonly address?: string | undefined;
  readonly logger: Logger;
}

export class DirectoryBoot {
  private remounts = 0;
  /** Under these names there may be a note, of whichever boot. */
  private readonly there = new Set<string>();
  /** Under these there is one that this process left. */
  private readonly left = new Set<string>();
  private leftCount = 0;
  private isRefused = false;

  constructor(private readonly options: DirectoryBootOptions) {}

  get id(): string {
    return this.remounts === 0 ? this.options.bootId : `${this.options.bootId}/${this.remounts}`;
  }

  /** Notes left by this process. */
  get count(): number {
    return this.leftCount;
  }

  /**
   * At a start. `last`: the name under which the directory was used last; `disk`: its id, and `place`, where it was then. Returns true
   * when all that was written then is there, synced or not.
   */
  begin(last: unknown, disk: string | undefined, place = this.options.path): boolean {
    // A note is not about a directory that nobody has used, as an empty mount point: the disk that failed may come back there.
    if (last === undefined && disk === undefined) return false;
    const { bootId, path, logger } = this.options;
    const before = remountsOf(last, bootId);
    const names = new Set([...this.namesOf(path, disk), ...this.namesOf(place, undefined)]);
    const hasFailed = [...names].filter((name) => this.isNoted(name)).length > 0;
    this.remounts = (before ?? 0) + (hasFailed ? 1 : 0);
    if (hasFailed)
      logger.warn({ directory: path }, 'data directory has failed since the boot: as after a loss of power');
    return before !== undefined && !hasFailed;
  }

  /** What was not synced may be gone at the next start. */
  leave(disk: string | undefined): void {
    const [name = ''] = this.namesOf(this.options.path, disk);
    this.leftCount++;
    if (this.left.has(name)) return;
    const { bootNotes, bootId, path, logger } = this.options;
    try {
      bootNotes.write(name, `${JSON.stringify({ bootId, directory: path })}\n`);
      this.left.add(name);
      this.there.add(name);
      this.isRefused = false;
    } catch (error) {
      // Tried again at each failure, and told once.
      if (this.isRefused) return;
      this.isRefused = true;
      logger.error(
        { directory: path, error: asCairnError(error).message },
        'cannot leave a note of the failure for the next start: if the file system is unmounted and mounted again, reboot the ' +
          'machine before the chunkserver starts, or replicas may be taken for whole that are not',
      );
    }
  }

  /**
   * When `count` was this the disk began to take bytes and give them back, or to make the name of `begin` durable, and it has done so:
   * what was noted by then has no more to say.
   */
  clear(count: number): void {
    if (count !== this.leftCount) return;
    for (const name of this.there) this.remove(name);
  }

  /** By its id, and by its place: a disk that fails at a start may not have told its id. */
  private namesOf(path: string, disk: string | undefined): string[] {
    const { address } = this.options;
    const where = address === undefined ? path : `${address} ${path}`;
    const place = `directory-${createHash('sha256').update(where).digest('hex').slice(0, 16)}.failed`;
    return disk === undefined ? [place] : [`disk-${disk}.failed`, place];
  }

  private isNoted(name: string): boolean {
    const { bootNotes, bootId, path, logger } = this.options;
    try {
      const notes = bootNotes.read(name);
      if (notes.length > 0) this.there.add(name);
      return notes.some((text) => (bootOf(text) ?? bootId) === bootId);
    } catch (error) {
      this.there.add(name);
      logger.warn({ directory: path, error: asCairnError(error).message }, 'a note of an earlier start cannot be read');
      return true;
    }
  }

  private remove(name: string): void {
    const { bootNotes, path, logger } = this.options;
    // Whether or not it goes everywhere: a later failure is noted anew.
    this.left.delete(name);
    try {
      bootNotes.remove(name);
      this.there.delete(name);
    } catch (error) {
      logger.error({ directory: path, error: asCairnError(error).message }, `cannot remove the note ${name}`);
    }
  }
}

/** How often the directory was mounted again after a failure by then; undefined when `id` is of another boot of the machine. */
function remountsOf(id: unknown, bootId: string): number | undefined {
  if (id === bootId) return 0;
  if (typeof id !== 'string' || !id.startsWith(`${bootId}/`)) return undefined;
  const count = Number(id.slice(bootId.length + 1));
  return Number.isSafeInteger(count) && count > 0 ? count : undefined;
}

/** undefined: it is none of ours, or only a part of one. */
function bootOf(text: string): string | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const bootId: unknown = typeof value === 'object' && value !== null && 'bootId' in value ? value.bootId : undefined;
    return typeof bootId === 'string' ? bootId : undefined;
  } catch {
    return undefined;
  }
}
