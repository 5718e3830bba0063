/**
 * How far this server has followed the masters of its cluster, kept in its data directories: a master that was put back to an
 * older state is told so by it, before anything else (`MasterMark` in cairn.proto). It is written now and then, so that the last
 * seconds before a crash may be missing; the replicas themselves tell most of that.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError } from '../../core/errors.js';
import { MARK_INTERVAL_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { MasterMark } from '../../protocol/generated/messages.js';

export type StoredMark = MasterMark;

export const NO_MARK: StoredMark = { epoch: 0, incarnation: 0, sequence: 0, handle: 0, leaseId: 0 };

/** What is further of two, as far as either knows. */
export function furtherMark(a: StoredMark, b: StoredMark): StoredMark {
  const isAhead = b.epoch > a.epoch || (b.epoch === a.epoch && b.sequence > a.sequence);
  const { epoch, incarnation, sequence } = isAhead ? b : a;
  const handle = Math.max(a.handle, b.handle);
  return { epoch, incarnation, sequence, handle, leaseId: Math.max(a.leaseId, b.leaseId) };
}

export function parseMark(value: Record<string, unknown> | undefined): StoredMark {
  const number = (name: keyof StoredMark): number => {
    const stored = value?.[name];
    return typeof stored === 'number' && Number.isSafeInteger(stored) && stored >= 0 ? stored : 0;
  };
  return {
    epoch: number('epoch'),
    incarnation: number('incarnation'),
    sequence: number('sequence'),
    handle: number('handle'),
    leaseId: number('leaseId'),
  };
}

export class KeptMark {
  private saved: StoredMark | undefined;
  private savedMs = -Infinity;
  private heardOf: StoredMark = NO_MARK;
  /** Writes under way: they wait for a disk that hangs. */
  private saving = 0;

  constructor(
    private readonly options: {
      readonly clock: Clock;
      readonly logger: Logger;
      readonly load: () => StoredMark;
      readonly store: (mark: StoredMark) => Promise<void>;
      /** The highest handle and lease id that this process was given. */
      readonly highest: () => { readonly handle: number; readonly leaseId: number };
    },
  ) {}

  /** To be shown to a master. */
  get current(): StoredMark {
    this.saved ??= this.options.load();
    return furtherMark(furtherMark(this.saved, this.heardOf), { ...NO_MARK, ...this.options.highest() });
  }

  /** The master, which has all of this server's report, is there by now. */
  heard(mark: StoredMark | null): void {
    if (mark !== null) this.heardOf = furtherMark(this.heardOf, mark);
  }

  /** Writes it down when it is due. Never rejects: what is not written now is with the next. */
  async save(when: 'if due' | 'now'): Promise<void> {
    const { clock, logger, store } = this.options;
    const nowMs = clock.monotonicMs();
    if (when === 'if due' && nowMs - this.savedMs < MARK_INTERVAL_MS) return;
    const mark = this.current;
    if (mark.epoch === 0 || isSame(mark, this.saved) || (when === 'if due' && this.saving > 0)) return;
    this.savedMs = nowMs;
    this.saving++;
    try {
      await store(mark);
      this.saved = mark;
    } catch (error) {
      logger.warn({ reason: asCairnError(error).message }, 'the mark of the master could not be written down');
    } finally {
      this.saving--;
    }
  }
}

function isSame(a: StoredMark, b: StoredMark | undefined): boolean {
  return (
    a.epoch === b?.epoch &&
    a.sequence === b.sequence &&
    a.handle === b.handle &&
    a.leaseId === b.leaseId &&
    a.incarnation === b.incarnation
  );
}
