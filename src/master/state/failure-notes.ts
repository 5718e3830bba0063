/**
 * What a master leaves for its next start when its disk fails, on another file system: up to which record the log was written.
 *
 * A process that ends loses nothing that it wrote, as the kernel has it. But a file system that has failed may be unmounted and
 * mounted again, and then what was not synced is gone without a boot. So a start of the same boot that finds a note does not take
 * the log for intact, and one that finds fewer records than were written takes it for a loss of power (epochs.ts). The note goes when
 * the epoch of that start is durable.
 */
import type { BootNotes } from '../../core/disk/boot-notes.js';
import { asCairnError, hasCode } from '../../core/errors.js';
import type { Logger } from '../../core/logging/logger.js';
import { keys } from './keys.js';
import type { StateReader } from './state.js';

export interface FailureNotesOptions {
  readonly bootNotes: BootNotes;
  readonly bootId: string;
  /** Of the log, for who reads the note. */
  readonly directory: string;
  readonly logger: Logger;
}

/** The number of the last record cannot be told: something may be missing, however many there are. */
const UNKNOWN = Infinity;

export class FailureNotes {
  private clusterId: string | undefined;
  private upTo: number | undefined;

  constructor(private readonly options: FailureNotesOptions) {}

  /** What a start found: the last record that was written before the disk failed, or Infinity; undefined when there is no note. */
  get writtenUpTo(): number | undefined {
    return this.upTo;
  }

  /** Looks for a note of this boot as soon as `reader` knows which cluster it is. */
  find(reader: Pick<StateReader, 'get'>): void {
    if (this.clusterId !== undefined) return;
    this.clusterId = readClusterId(reader);
    if (this.clusterId === undefined) return;
    const { bootNotes, logger } = this.options;
    const found: number[] = [];
    try {
      for (const text of bootNotes.read(this.name)) {
        const note = parse(text);
        if (note === undefined || note.bootId === this.options.bootId) found.push(note?.sequence ?? UNKNOWN);
      }
    } catch (error) {
      logger.warn({ error: asCairnError(error).message }, 'a note of an earlier start cannot be read');
      found.push(UNKNOWN);
    }
    if (found.length > 0) this.upTo = Math.max(...found);
  }

  /** Whether records that were written are not in the log, whose last one is `sequence`; says what a note comes to. */
  areRecordsMissing(sequence: number): boolean {
    const { upTo } = this;
    if (upTo === undefined) return false;
    const isMissing = sequence < upTo;
    const known = Number.isFinite(upTo) ? { writtenUpTo: upTo } : {};
    this.options.logger.warn(
      { ...known, endsWith: sequence },
      isMissing
        ? 'the disk of the master failed before this start, and records of the operation log that were never flushed may be lost: ' +
            'clients are told, as after a loss of power'
        : 'the disk of the master failed before this start; no record of the operation log is lost',
    );
    return isMissing;
  }

  /** The disk has failed. `sequence`: of the last record that may have been answered; undefined when that is not known. */
  leave(reader: Pick<StateReader, 'get'>, epoch: number, sequence: number | undefined): void {
    // The one that stands tells more than this start, which has answered nothing.
    if (this.upTo !== undefined) return;
    const { bootNotes, bootId, directory, logger } = this.options;
    try {
      this.clusterId ??= readClusterId(reader);
      if (this.clusterId === undefined) return;
      bootNotes.write(this.name, `${JSON.stringify({ bootId, directory, epoch, sequence: sequence ?? null })}\n`);
    } catch (error) {
      logger.error(
        { error: asCairnError(error).message },
        'cannot leave a note of the failure for the next start: if the file system is unmounted and mounted again, reboot the ' +
          'machine before the master starts, or an fsync may return 0 for what is lost',
      );
    }
  }

  /** The epoch of this start is durable. */
  remove(): void {
    this.upTo = undefined;
    if (this.clusterId === undefined) return;
    const { bootNotes, logger } = this.options;
    try {
      bootNotes.remove(this.name);
    } catch (error) {
      logger.error({ error: asCairnError(error).message }, 'cannot remove the note of a failure: remove it by hand');
    }
  }

  private get name(): string {
    return `master-${this.clusterId}.failed`;
  }
}

/** What a file system says that has failed, and not one that is full or a log that is damaged. */
export const isDiskFailure = (error: unknown): boolean => hasCode(error, 'EIO', 'EROFS', 'ENXIO', 'ENODEV');

function readClusterId(reader: Pick<StateReader, 'get'>): string | undefined {
  const id = reader.get(keys.meta('cluster-id'));
  return id === undefined ? undefined : Buffer.from(id).toString('utf8');
}

/** undefined: it is none of ours, or only a part of one. */
function parse(text: string): { readonly bootId: string; readonly sequence: number } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { bootId, sequence } = value as Record<string, unknown>;
  if (typeof bootId !== 'string') return undefined;
  return { bootId, sequence: Number.isSafeInteger(sequence) ? Number(sequence) : UNKNOWN };
}
