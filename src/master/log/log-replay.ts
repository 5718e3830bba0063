/**
 * Reading the operation log at start: applies the records behind the checkpoint, in order, and judges what cannot be
 * read. Two things may have happened, and they look alike at first:
 *
 * - The process or the machine died while records were being written. What was never flushed may be missing, in part
 *   or whole; after power loss even a hole with younger records behind it. Nobody was promised it: it is cut off.
 * - The disk damaged records that were durable. Going on would lose operations that were promised: the start is refused.
 *
 * They are told apart by the records behind the damage: each says up to which record the log was durable when it was
 * written. If the machine has not booted since, and the disk has not failed, nothing unflushed is lost either, and only a frame that
 * the file's end cuts short can be explained.
 */
import type { Disk, DiskFile } from '../../core/disk/disk.js';
import { CairnError } from '../../core/errors.js';
import type { Logger } from '../../core/logging/logger.js';
import { decodeRecord, findFrames, readFrame, sequenceOf } from './log-record.js';
import type { DecodedRecord } from './log-record.js';
import { readHeader, readSegment, SEGMENT_HEADER_BYTES, segmentPath } from './log-segment.js';

export interface ReplayedSegment {
  readonly number: number;
  readonly file: DiskFile;
  /** The highest sequence in it; 0 when it has no record. */
  readonly lastSequence: number;
}

export interface ReplayOptions {
  readonly disk: Disk;
  readonly directory: string;
  readonly logger: Logger;
  /** The last sequence that the store has. */
  readonly checkpoint: number;
  /** The disk failed in this boot: what was not flushed may be missing as after a loss of power. */
  readonly hasFailed?: boolean;
  /** Called for each record behind the checkpoint, in order. */
  readonly apply: (record: DecodedRecord) => Promise<void> | void;
}

interface Damage {
  readonly segment: number;
  readonly file: DiskFile;
  readonly offset: number;
  /** The last record before it in its segment; 0: there is none. */
  readonly lastSequence: number;
  /** The first record that cannot be had. */
  readonly sequence: number;
  /** Neither the end of a process nor a loss of power leaves such a thing. */
  readonly unexplained: boolean;
  /** That a younger record is there means that this one was, and was lost since. */
  readonly precedesAll: boolean;
}

/** Replays `segments` (ascending numbers); returns those that remain after a torn tail was cut off, open. */
export async function replaySegments(options: ReplayOptions, segments: readonly number[]): Promise<ReplayedSegment[]> {
  const { disk, directory, checkpoint } = options;
  const kept: ReplayedSegment[] = [];
  let next = checkpoint + 1;
  let damage: Damage | undefined;
  for (const number of segments) {
    const path = segmentPath(directory, number);
    const file = await disk.open('oplog.replay', path, 'existing');
    const bytes = await readSegment(file, path);
    const header = readHeader(bytes, path, disk.bootId());
    if (damage !== undefined) {
      if (header === undefined || !continues(bytes, next)) {
        refuseIfDurable(options, damage, bytes);
        await file.close();
        continue;
      }
      // What is damaged was in the store already.
      kept.push({ number: damage.segment, file: damage.file, lastSequence: next - 1 });
      damage = undefined;
    }
    const isIntact = header?.sameBoot === true && options.hasFailed !== true;
    let at = header === undefined ? 0 : SEGMENT_HEADER_BYTES;
    if (header !== undefined && kept.every((segment) => segment.lastSequence === 0)) refuseGap(bytes, path, next);
    let lastSequence = 0;
    while (damage === undefined) {
      const frame = header === undefined ? ({ kind: 'bad' } as const) : readFrame(bytes, at);
      if (frame.kind === 'end') break;
      if (frame.kind === 'record') {
        const sequence = sequenceOf(frame.payload);
        if (sequence <= next) {
          if (sequence === next) {
            await options.apply(decodeRecord(frame.payload));
            next++;
          }
          lastSequence = sequence;
          at = frame.end;
          continue;
        }
      } else if (lastSequence < checkpoint) {
        // What is damaged is in the store already, if it is not the last before it: go on behind it.
        const resumed = findBehind(bytes, at + 1, next);
        if (resumed !== undefined) {
          at = resumed;
          continue;
        }
      }
      // A header is synced before its segment is used: without one a start was cut short, and there is no record, here or later.
      const judged =
        header === undefined
          ? { unexplained: bytes.length > SEGMENT_HEADER_BYTES, precedesAll: true }
          : { unexplained: isIntact && frame.kind === 'bad', precedesAll: isIntact };
      damage = { segment: number, file, offset: at, lastSequence, sequence: next, ...judged };
      refuseIfDurable(options, damage, bytes.subarray(at));
    }
    if (damage === undefined) kept.push({ number, file, lastSequence });
  }
  if (damage === undefined) return kept;
  if (damage.unexplained) throw refusal(options, damage);
  if (damage.lastSequence === 0) await damage.file.close();
  else kept.push({ number: damage.segment, file: damage.file, lastSequence: damage.lastSequence });
  await cutOff(options, damage, segments, kept);
  return kept;
}

/** Whether a segment begins with record `next` or an older one: nothing is missing before it. */
function continues(bytes: Buffer, next: number): boolean {
  const frame = readFrame(bytes, SEGMENT_HEADER_BYTES);
  return frame.kind === 'record' && sequenceOf(frame.payload) <= next;
}

/**
 * A segment is deleted only when the store has all its records, durably: that the oldest one begins later than the store ends is
 * no crash. The two are not of the same moment.
 */
function refuseGap(bytes: Buffer, path: string, next: number): void {
  const frame = readFrame(bytes, SEGMENT_HEADER_BYTES);
  const first = frame.kind === 'record' ? sequenceOf(frame.payload) : next;
  if (first <= next) return;
  throw new CairnError(
    'CORRUPT',
    `the metadata store ends with record ${next - 1} of the operation log, and the oldest segment, ${path}, begins with ` +
      `record ${first}: the two are not of the same moment, as in a copy that was taken while the master ran. Use a copy that ` +
      'was taken while it was stopped',
  );
}

/** The first whole frame at or behind `from` that continues at `next` or is older. */
function findBehind(bytes: Buffer, from: number, next: number): number | undefined {
  for (const { at, record } of findFrames(bytes, from)) {
    return record.sequence <= next ? at : undefined;
  }
  return undefined;
}

/** `bytes` lie behind the damage. */
function refuseIfDurable(options: ReplayOptions, damage: Damage, bytes: Buffer): void {
  for (const { record } of findFrames(bytes, 0)) {
    if (record.sequence < damage.sequence) continue;
    if (damage.precedesAll || record.flushed >= damage.sequence) throw refusal(options, damage);
  }
}

function refusal(options: ReplayOptions, damage: Damage): CairnError {
  const path = segmentPath(options.directory, damage.segment);
  return new CairnError(
    'CORRUPT',
    `the operation log is damaged: record ${damage.sequence} at byte ${damage.offset} of ${path} was written and cannot ` +
      "be read. Copy the master's directory elsewhere and see whether its disk can still give that file. Otherwise what came " +
      'after that record is lost: either put the newest backup of the directory in its place, or move this segment and all ' +
      'later ones away and start again, which loses less. Chunkservers notice either, and keep for 7 days the chunks that ' +
      'the master does not know any more',
  );
}

/** Removes what lies behind the damage, youngest first, so that a crash in between leaves no gap. */
async function cutOff(
  options: ReplayOptions,
  damage: Damage,
  segments: readonly number[],
  kept: readonly ReplayedSegment[],
): Promise<void> {
  const { disk, directory, logger } = options;
  const last = kept.at(-1);
  logger.warn(
    { segment: damage.segment, offset: damage.offset, fromSequence: damage.sequence },
    'the operation log ends in records that were never flushed: they are cut off',
  );
  for (const number of [...segments].reverse()) {
    if (last !== undefined && number <= last.number) break;
    await disk.unlink('oplog.cut', segmentPath(directory, number));
  }
  if (last?.number === damage.segment) {
    await last.file.truncate('oplog.cut', damage.offset);
    await last.file.datasync('oplog.cut');
  }
  await disk.syncDirectory('oplog.cut', directory);
}
